// Long texts and lists of figures are sent once and named after that (dashapp/held.py).
(function () {
  const MOST = 60;     // texts that are kept of a plot, the last ones used
  const kept = {};     // per plot: name -> text

  function found(text, texts) {
    const [, what, name] = text.match(/^\x01(keep|held) ([0-9a-f]{16})/) || [];
    if (!what) return text;
    const whole = what === "keep" ? text.slice(`\x01keep ${name} `.length) : texts.get(name);
    texts.delete(name);
    texts.set(name, whole);
    return whole[0] === "\x02" ? JSON.parse(whole.slice(1)) : whole;
  }

  function restored(value, texts) {
    if (typeof value === "string") return value[0] === "\x01" ? found(value, texts) : value;
    if (Array.isArray(value)) return value.map((part) => restored(part, texts));
    if (!value || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, restored(v, texts)]));
  }

  window.headatlasHeld = {
    // The figure with all its texts, and the names of those that are held from now on.
    whole(sent, id) {
      const texts = (kept[id] = kept[id] || new Map());
      const figure = restored(JSON.parse(sent), texts);
      for (const name of [...texts.keys()].slice(0, -MOST)) texts.delete(name);
      return [figure, [...texts.keys()]];
    },
  };
})();
