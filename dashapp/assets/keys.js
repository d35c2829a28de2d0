// What keys do: 1, 2, 3 turn to a tab, ? shows this list, Escape closes what is open, Enter in B1's
// small field chooses a head. Also the jump links, which leave the URL alone.
(function () {
  const $ = (id) => document.getElementById(id);
  const typing = (element) => element.isContentEditable ||
    (element.matches("input, textarea, select") && !element.matches("[type=radio]"));

  function jump(id) {
    const section = $(id);
    if (!section) return;
    section.scrollIntoView({ block: "start" });
    section.focus({ preventScroll: true });
  }

  // The heads of the models on show, as the matrix has them: model -> rows and columns.
  function shown() {
    const plot = document.querySelector("#plot-matrix .js-plotly-plot");
    const grids = ((plot && plot._fullData) || []).filter((t) => (t.meta || {}).grid);
    return new Map(grids.map((t) => [t.meta.model, { layers: t.z.length, heads: t.z[0].length }]));
  }

  // "3.5", of the first model on show, or "3.5@" and a part of a model's name.
  function headFrom(text) {
    const [, layer, head, wanted] = /^\s*(\d+)\.(\d+)\s*(?:@\s*(.+?)\s*)?$/.exec(text) || [];
    if (layer === undefined) return { problem: "LAYER.HEAD, such as 3.5, or 3.5@model" };
    const models = shown(), names = [...models.keys()];
    const model = names.find((n) => n === wanted) ||
      names.find((n) => n.toLowerCase().includes((wanted || "").toLowerCase()));
    if (!model) return { problem: `no model on show is called ${wanted || ""}` };
    const { layers, heads } = models.get(model);
    if (Number(layer) >= layers || Number(head) >= heads) {
      return { problem: `${model}: layers 0 to ${layers - 1}, heads 0 to ${heads - 1}` };
    }
    return { key: `${Number(layer)}.${Number(head)}@${model}` };
  }

  function choose(field) {
    const { key, problem } = headFrom(field.value);
    field.setCustomValidity(problem || "");
    if (problem) { field.reportValidity(); return; }
    window.headatlasSend({ kind: "heads", op: "toggle", keys: [key] });
    field.value = "";
  }

  function close() {
    const open = document.querySelector("details[open]:not(.stays)");
    if (!open) return false;
    open.removeAttribute("open");
    open.querySelector("summary").focus();
    return true;
  }

  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (key === "Enter" && target.id === "choose-head") { choose(target); return; }
    if (key === "Escape" && close()) { event.stopPropagation(); return; }
    if (typing(target) || document.querySelector(".modal.show, dialog[open]")) return;
    if (key === "?") { event.preventDefault(); $("keys").showModal(); return; }
    const tab = document.querySelectorAll("#tab input")[Number(key) - 1];
    if (/^[1-9]$/.test(key) && tab) { tab.click(); tab.focus(); }
  }, true);

  document.addEventListener("input", (event) => {
    if (event.target.id === "choose-head") event.target.setCustomValidity("");
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-jump], #show-keys, .keys-help");
    if (!link) return;
    if (link.id === "show-keys") $("keys").showModal();
    else if (link.dataset.jump) { event.preventDefault(); jump(link.dataset.jump); }
    else if (event.target === link || event.target.closest("button")) link.close();
  });
})();
