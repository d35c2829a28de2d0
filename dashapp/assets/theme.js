// The button of colours: as the system has it, light, dark, and round again. What was chosen is kept
// in this browser, not in the URL; dashapp/shell.py reads it before the first paint.
(function () {
  const KEY = "headatlas-theme", CHOICES = ["auto", "light", "dark"];
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");

  function show(chosen) {
    const dark = chosen === "auto" ? system.matches : chosen === "dark";
    Object.assign(root.dataset, { theme: chosen, bsTheme: dark ? "dark" : "light" });
  }

  function keep(chosen) {
    try { localStorage.setItem(KEY, chosen); } catch (refused) { /* for this visit only */ }
  }

  system.addEventListener("change", () => show(root.dataset.theme));
  window.addEventListener("storage", (event) => {
    if (event.key === KEY) show(event.newValue || "auto");
  });
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#theme")) return;
    const next = CHOICES[(CHOICES.indexOf(root.dataset.theme) + 1) % CHOICES.length];
    keep(next);
    show(next);
  });
})();
