// What a hand does on a chart or chip becomes one small act in the list in the store "gesture".
// Only the corners of a lasso or the keys of heads travel, never all selected points. An act stays in
// the list until an answer has taken it in: Dash drops an answer that the next act overtakes.
(function () {
  let acts = [], count = 0;
  const last = {};     // per plot: the last brush sent, to stop echoes
  const zoomed = {};   // per plot: axes that a person has zoomed
  const none = () => window.dash_clientside.no_update;
  const gd = (id) => {
    const graph = document.getElementById(id);
    return graph && graph.querySelector(".js-plotly-plot");
  };
  const send = (what) => {
    acts = [...acts, { ...what, n: ++count }];
    window.dash_clientside.set_props("gesture", { data: acts });
  };

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

  // [model, layer, head] of a mark: as it was sent, or the trace's model and the first two of the
  // mark's numbers (a typed array); null where a mark is no head.
  function headOf(point) {
    const own = point.customdata, model = (point.data.meta || {}).model;
    if (Array.isArray(own)) return own;
    if (!model || !ArrayBuffer.isView(own) || !Number.isInteger(own[0])) return null;
    return [model, own[0], own[1]];
  }

  function heads(event) {
    const keys = event.points.map(headOf).filter(Boolean);
    return { kind: "heads", op: "replace", heads: keys.flatMap(each) };
  }

  // The heads of a mark that stands for one, or for a pair of them.
  const each = (key) => (Array.isArray(key[0]) ? key : [key]);

  // The token that a cell or mark of a head's attention stands for.
  function token(point) {
    const { tokens, matrix } = point.data.meta || {};
    if (matrix) return place(matrix, point.pointIndex[0]);
    if (!tokens) return null;
    const row = tokens.along ? 0 : Math.round(point.y);
    return tokens.first + row * tokens.columns + Math.round(point.x);
  }

  function place(matrix, cell) {
    return cell < matrix.prefix ? cell : matrix.prefix + (cell - matrix.prefix) * matrix.pool;
  }

  function clicked(point, brush) {
    const meta = point.data.meta || {};
    if (brush === "token") {
      const picked = token(point);
      return picked === null ? null : { kind: "query", token: picked };
    }
    if (brush === "images" && Number.isInteger(point.customdata)) {
      return { kind: "focus", image: point.customdata };
    }
    if (meta.modes) return { kind: "mode", mode: meta.modes[Math.round(point.x)] };
    const head = meta.grid ? [meta.model, point.y, point.x] : headOf(point);
    return head && { kind: "heads", op: "toggle", heads: each(head) };
  }

  function brushed(event, plot, brush) {
    if (brush === "images") return region({ ...event, plot });
    if (brush === "heads") return heads(event);
    if (brush === "weights" && event.range) return { kind: "weights", range: event.range.x };
    return null;
  }

  const CLEARED = {
    images: { kind: "region", model: null }, heads: { kind: "drop", source: "heads" },
    weights: { kind: "weights", range: null },
  };

  // What the hover panel says of a point, and the cell of a sheet of pictures that it shows.
  function described(point) {
    const { picture, matrix, axes } = point.data.meta || {}, key = headOf(point);
    if (picture && key) {
      const [model, layer, head] = key, values = axes ? measured(point, axes) : [];
      const lines = [model, `layer ${layer}, head ${head}`, ...values, point.text || ""];
      return { text: lines.join("\n"), picture, cell: [layer, head] };
    }
    if (!matrix) return null;
    const [row, column] = point.pointIndex, shade = point.z;
    if (!shade) return { text: "do not see each other" };
    const share = (shade - 1 - (shade > matrix.steps ? matrix.steps : 0)) / (matrix.steps - 1);
    const name = (cell) => matrix.names[place(matrix, cell)] + (
      matrix.pool > 1 && cell >= matrix.prefix ? " …" : "");
    const most = matrix.pool > 1 ? "largest weight" : "weight";
    return { text: `query: ${name(row)}\nkey: ${name(column)}\n` +
             `${most} ${(matrix.top * share * share).toPrecision(3)}` };
  }

  // The place of a head in a scatter plot of two measures.
  const measured = (point, axes) =>
    [point.x, point.y].map((v, i) => `${axes[i]} ${v.toPrecision(4)}`);

  function hover(point, mouse) {
    const what = point && described(point);
    let panel = document.getElementById("hover");
    if (!what) { if (panel) panel.hidden = true; return; }
    if (!panel) {
      panel = document.createElement("div");
      panel.id = "hover";
      panel.append(document.createElement("span"), document.createElement("p"));
      document.body.append(panel);
    }
    const [picture, words] = panel.children;
    words.textContent = what.text;
    picture.hidden = !what.picture;
    if (what.picture) {
      const { url, rows, columns, kind } = what.picture, [row, column] = what.cell;
      picture.className = `picture ${kind}`;
      const side = kind === "class" ? 14 * 8 : 13 * 8;
      Object.assign(picture.style, {
        width: `${side}px`, height: `${side}px`, backgroundImage: `url("${url}")`,
        backgroundSize: `${side * columns}px ${side * rows}px`,
        backgroundPosition: `${-side * column}px ${-side * row}px` });
    }
    panel.hidden = false;
    const box = panel.getBoundingClientRect(), gap = 16;
    const left = mouse.clientX + gap + box.width > window.innerWidth
      ? mouse.clientX - gap - box.width : mouse.clientX + gap;
    const top = Math.min(mouse.clientY + gap, window.innerHeight - box.height - 4);
    panel.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`;
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
      const what = brushed(event, plot, brush);
      const text = JSON.stringify(what);
      if (!what || text === last[id]) return;
      last[id] = text;
      send(what);
    });
    plot.on("plotly_deselect", () => {
      delete last[id];
      send(CLEARED[brush]);
    });
    plot.on("plotly_hover", (event) => hover(event.points[0], event.event));
    plot.on("plotly_unhover", () => hover(null));
    plot.on("plotly_click", (event) => {
      const what = event && event.points.length ? clicked(event.points[0], brush) : null;
      if (what) send(what);
    });
  }

  // What travels packed in a trace's meta (dashapp/chart.py) becomes what Plotly reads.
  function unpack(trace) {
    const { packed, said, dots } = trace.meta || {};
    if (said) trace.hovertemplate = texts(said);
    if (!packed) return;
    trace.x = values(packed.x);
    trace.y = values(packed.y);
    if (packed.colour) trace.marker.color = values(packed.colour);
    if (packed.first !== undefined) {
      trace.customdata = Int32Array.from({ length: dots }, (_, i) => packed.first + i);
    }
    if (packed.kept !== undefined) {
      const kept = bytes(packed.kept);
      trace.selectedpoints = [];
      for (let i = 0; i < dots; i++) if (kept[i >> 3] >> (i & 7) & 1) trace.selectedpoints.push(i);
    }
  }

  function texts({ texts, which, rows }) {
    const all = Array.from(bytes(which), (i) => texts[i]), columns = all.length / rows;
    return !rows ? all : Array.from({ length: rows }, (_, row) =>
      all.slice(row * columns, (row + 1) * columns));
  }

  function values({ codes, bits, low, step }) {
    const all = bytes(codes), planes = Math.ceil(bits / 8), count = all.length / planes;
    const gap = 2 ** bits - 1, found = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      const code = planes > 1 ? all[i] + 256 * all[count + i] : all[i];
      found[i] = code === gap ? NaN : low + step * code;
    }
    return found;
  }

  function bytes(text) {
    const raw = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
    return Uint8Array.from(raw, (c) => c.charCodeAt(0));
  }

  window.dash_clientside = window.dash_clientside || {};
  window.headatlasSend = send;
  window.dash_clientside.headatlas = {
    // Acts that an answer has taken in are done with.
    answered(told) {
      acts = acts.filter((act) => act.n > (told || { n: 0 }).n);
    },
    // Hidden charts have no width: once a tab is shown, they take theirs.
    turn(tab) {
      setTimeout(() => window.dispatchEvent(new Event("resize")), 0);
      return `on-${tab || "heads"}`;
    },
    draw(sent, id, brush) {
      if (!sent) return [none(), none()];
      const [figure, held] = window.headatlasHeld.whole(sent, id);
      figure.data.forEach(unpack);
      listen(id, brush);
      delete last[id];
      const plot = gd(id);
      if (plot && plot._fullLayout && sameAxes(plot, figure)) keepZoom(plot, figure, id);
      else zoomed[id] = {};
      return [figure, held];
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
    const button = event.target.closest("[data-drop], [data-focus], [data-copy], [data-csv], " +
                                        "[data-keys], [data-open], [data-gesture]");
    for (const open of document.querySelectorAll("details[open]:not(.stays)")) {
      if (!open.contains(event.target)) open.removeAttribute("open");
    }
    if (!button) return;
    if (button.dataset.drop) send({ kind: "drop", source: button.dataset.drop });
    else if (button.dataset.focus) send({ kind: "focus", image: Number(button.dataset.focus) });
    else if (button.dataset.copy) copy(button);
    else if (button.dataset.gesture) send(JSON.parse(button.dataset.gesture));
    else if (button.dataset.open) send({ kind: "open", keys: [button.dataset.open] });
    else if (button.dataset.keys) {
      send({ kind: "heads", op: button.dataset.op || "replace",
             keys: JSON.parse(button.dataset.keys) });
    }
    else window.location.assign(button.dataset.csv + window.location.search);
  });
})();
