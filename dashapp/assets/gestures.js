// What a hand does on a chart or chip becomes one small object in the store "gesture".
// Only the corners of a lasso or the keys of heads travel, never all selected points.
(function () {
  let count = 0;
  const last = {};     // per plot: the last brush sent, to stop echoes
  const zoomed = {};   // per plot: axes that a person has zoomed
  const none = () => window.dash_clientside.no_update;
  const gd = (id) => {
    const graph = document.getElementById(id);
    return graph && graph.querySelector(".js-plotly-plot");
  };
  const send = (what) =>
    window.dash_clientside.set_props("gesture", { data: { ...what, n: ++count } });

  function region(event) {
    const drawn = event.lassoPoints || event.range;
    if (!drawn) return null;
    const x = Object.keys(drawn).find((k) => k[0] === "x");
    const y = Object.keys(drawn).find((k) => k[0] === "y");
    const model = (trace) => (trace.meta || {}).model;
    const own = event.plot.data.find((t) => (t.xaxis || "x") === x && model(t) !== undefined);
    if (!own) return null;
    let points;
    if (event.lassoPoints) {
      points = drawn[x].map((v, i) => [v, drawn[y][i]]);
    } else {
      const [a, b] = drawn[x], [c, d] = drawn[y];
      points = [[a, c], [b, c], [b, d], [a, d]];
    }
    return { kind: "region", model: model(own), points };
  }

  function heads(event) {
    const keys = event.points.map((p) => p.customdata).filter(Array.isArray);
    return { kind: "heads", op: "replace", heads: keys };
  }

  function clicked(point, brush) {
    const meta = point.data.meta || {};
    if (brush === "images" && Number.isInteger(point.customdata)) {
      return { kind: "focus", image: point.customdata };
    }
    if (meta.grid) return { kind: "heads", op: "toggle", heads: [[meta.model, point.y, point.x]] };
    if (Array.isArray(point.customdata)) {
      return { kind: "heads", op: "toggle", heads: [point.customdata] };
    }
    return null;
  }

  // Plotly's own events: Dash's `selectedData` is overwritten with null by an echo after a lasso,
  // and its `clickData` does not tell a second click on the same point from the first.
  function listen(id, brush) {
    const plot = gd(id);
    if (!brush || (plot && plot.listens)) return;
    if (!plot || !plot.on) { setTimeout(() => listen(id, brush), 200); return; }
    plot.listens = true;
    plot.on("plotly_selected", (event) => {
      if (!event || !(event.lassoPoints || event.range)) return;
      const what = brush === "images" ? region({ ...event, plot }) : heads(event);
      const text = JSON.stringify(what);
      if (!what || text === last[id]) return;
      last[id] = text;
      send(what);
    });
    plot.on("plotly_deselect", () => {
      delete last[id];
      send(brush === "images" ? { kind: "region", model: null } : { kind: "drop", source: "heads" });
    });
    plot.on("plotly_click", (event) => {
      const what = event && event.points.length ? clicked(event.points[0], brush) : null;
      if (what) send(what);
    });
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.headatlas = {
    draw(figure, id, brush) {
      if (!figure) return none();
      listen(id, brush);
      delete last[id];
      const plot = gd(id);
      if (plot && plot._fullLayout && sameAxes(plot, figure)) keepZoom(plot, figure, id);
      else zoomed[id] = {};
      return figure;
    },
  };

  function sameAxes(plot, figure) {
    const before = (plot.layout || {}).meta, now = figure.layout.meta;
    return before && now && before.axes === now.axes;
  }

  // A new figure keeps the ranges that a person has zoomed to (uirevision does not do it here).
  function keepZoom(plot, figure, id) {
    const marks = (zoomed[id] = zoomed[id] || {});
    for (const name of Object.keys(plot._fullLayout)) {
      if (!/^[xy]axis\d*$/.test(name)) continue;
      const axis = plot._fullLayout[name];
      if (axis.fixedrange || axis.autorange) { delete marks[name]; continue; }
      const start = (figure.layout[name] || {}).range;
      if (!start || axis.range.some((v, i) => Math.abs(v - start[i]) > 1e-9)) marks[name] = true;
      if (marks[name]) {
        figure.layout[name] = { ...figure.layout[name], range: axis.range.slice(), autorange: false };
      }
    }
  }

  async function copy(button) {
    const text = window.location.href;
    try {
      await navigator.clipboard.writeText(text);
    } catch (refused) {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1200);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-drop], [data-focus], [data-copy], [data-csv]");
    for (const open of document.querySelectorAll("details[open]")) {
      if (!open.contains(event.target)) open.removeAttribute("open");
    }
    if (!button) return;
    if (button.dataset.drop) send({ kind: "drop", source: button.dataset.drop });
    else if (button.dataset.focus) send({ kind: "focus", image: Number(button.dataset.focus) });
    else if (button.dataset.copy) copy(button);
    else window.location.assign(button.dataset.csv + window.location.search);
  });
})();
