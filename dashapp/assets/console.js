// The SQL console's editor: keys, names and examples written in, runs, files. The text travels into
// the page's state ("sql") when it is run or left, and comes back from there with a link.
(function () {
  const LONGEST_LINK = 8000;
  let known = null;      // the text that the state holds
  let leaving = false;   // Escape was pressed: Tab leaves the editor
  const none = () => window.dash_clientside.no_update;
  const editor = () => document.getElementById("console-sql");
  const say = (words) => window.dash_clientside.set_props("console-note", { children: words });
  const ticket = () => [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0")).join("");

  function keep(text) {
    if (text === (known || "")) return;
    if (text.length > LONGEST_LINK) {
      say(`This query is longer than ${LONGEST_LINK.toLocaleString("en")} characters: a link to ` +
          "this page does not hold it.");
      return;
    }
    say("");
    known = text;
    window.headatlasSend({ kind: "sql", sql: text });
  }

  // As if typed, so that undo and the page know of it.
  function write(text, all) {
    const area = editor();
    area.focus();
    if (all) area.select();
    document.execCommand("insertText", false, text);
  }

  function post(form) {
    const sent = document.createElement("form");
    Object.assign(sent, { method: "post", action: `console/answer.${form}`, target: "console-file" });
    for (const [name, value] of [["sql", editor().value], ["ticket", ticket()]]) {
      const field = document.createElement("input");
      Object.assign(field, { type: "hidden", name, value });
      sent.append(field);
    }
    document.body.append(sent);
    say("The file is being made; the browser saves it when it is done.");
    sent.submit();
    sent.remove();
    keep(editor().value);
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.console = {
    show(state) {
      const text = new URLSearchParams((state || "").replace(/^\?/, "")).get("sql") || "";
      if (text === (known || "") && known !== null) return none();
      known = text;
      return text;
    },
    ask(clicks, sql) {
      if (!clicks) return none();
      keep(sql || "");
      return { sql: sql || "", ticket: ticket() };
    },
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-example], [data-insert], [data-download], .to-console");
    if (!button) return;
    if (button.dataset.example) { write(button.dataset.example, true); keep(editor().value); }
    else if (button.dataset.insert) write(button.dataset.insert, false);
    else if (button.dataset.download) post(button.dataset.download);
    else window.dash_clientside.set_props("sql", { is_open: false });
  });

  document.addEventListener("keydown", (event) => {
    if (event.target.id !== "console-sql") return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      const run = document.getElementById("console-run");
      if (!run.disabled) run.click();
    } else if (event.key === "Tab" && !event.shiftKey && !leaving) {
      event.preventDefault();
      write("  ", false);
    }
    leaving = event.key === "Escape";
  });

  document.addEventListener("focusout", (event) => {
    if (event.target.id === "console-sql") { leaving = false; keep(event.target.value); }
  });

  // A refusal comes into the hidden frame as text; a file does not load there at all.
  document.addEventListener("load", (event) => {
    if (event.target.name !== "console-file") return;
    const said = event.target.contentDocument;
    const words = said && said.body ? said.body.textContent.trim() : "";
    if (words) say(words.split("\n")[0]);
  }, true);
})();
