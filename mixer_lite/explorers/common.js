// Helpers that every explorer's code begins with.

// An element with attributes and children; on... attributes are listeners. JupyterLab takes arrow
// keys and Enter for itself, and moves from cell to cell, unless the focused element says no.
function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  node.setAttribute("data-lm-suppress-shortcuts", "true");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list") node[name] = value;
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// An SVG element; the namespace is asked of the browser.
const SVG = h("div", { innerHTML: "<svg></svg>" }).firstChild.namespaceURI;
function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Bytes of a trait -> a typed array without a copy where alignment allows.
function typed(view, Kind = Uint8Array) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  if (bytes.byteOffset % Kind.BYTES_PER_ELEMENT === 0)
    return new Kind(bytes.buffer, bytes.byteOffset, bytes.byteLength / Kind.BYTES_PER_ELEMENT);
  return new Kind(bytes.slice().buffer);
}

// What Python's packed() and quantized() send -> { shape, scale, values }.
function unpack(entry) {
  const kinds = { float32: Float32Array, int32: Int32Array, int8: Int8Array, uint8: Uint8Array };
  return { shape: entry.shape, scale: entry.scale, values: typed(entry.data, kinds[entry.dtype]) };
}

// RGBA bytes of a colour map -> one 32-bit pixel a step.
const pixelsOf = (view) => typed(view, Uint32Array);

// A canvas of one pixel a number, scaled by CSS without smoothing; resize() blanks it.
function sheet(width, height, attributes = {}) {
  const canvas = h("canvas", attributes), context = canvas.getContext("2d");
  let image;
  const made = { canvas, show: () => context.putImageData(image, 0, 0), resize };
  function resize(columns, rows) {
    Object.assign(canvas, { width: columns, height: rows });
    image = context.createImageData(columns, rows);
    Object.assign(made, { width: columns, height: rows, pixels: new Uint32Array(image.data.buffer) });
  }
  resize(width, height);
  return made;
}

// One RGB pixel as a sheet holds it.
const rgb = (r, g, b) => (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;

// A sheet in a figure, under a layer for marks, with a caption that may change.
function pane(made, label) {
  const layer = h("div", { className: "layer", "aria-hidden": "true" });
  const caption = h("figcaption");
  made.canvas.setAttribute("aria-label", label);
  const node = h("figure", { className: "pane" }, h("div", {}, made.canvas, layer), caption);
  return Object.assign(made, { layer, caption, node });
}

// A mark over part of a pane; left, top, width and height are shares of its sides.
function mark(left, top, width, height, className) {
  const css = { left, top, width, height };
  return h("div", { className, style: Object.entries(css).map(([k, v]) => `${k}:${100 * v}%`).join(";") });
}

// Where the pointer is on an element, as shares of its sides; null outside.
function pointed(event, node) {
  const box = node.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
  return x >= 0 && x < 1 && y >= 0 && y < 1 ? { x, y } : null;
}

// A sentence for screen readers, told when it changes.
const spoken = () => h("p", { className: "spoken", "aria-live": "polite" });

// A labelled slider for a whole-number trait. It moves with the trait and sets it.
function slider(model, name, { label, min, max, signal, say = String }) {
  const told = h("output", {}, say(model.get(name)));
  const input = h("input", { type: "range", min, max, step: 1, "aria-label": label });
  input.value = model.get(name);
  input.addEventListener("input", () => drag(model, { [name]: Number(input.value) }), { signal });
  listen(model, name, signal, () => {
    input.value = model.get(name);
    told.textContent = say(model.get(name));
  });
  return h("label", {}, label, input, told);
}

// A labelled choice among [value, text] pairs for a trait.
function choice(model, name, { label, options, signal }) {
  const made = options.map(([value, text]) => h("option", { value }, text));
  const select = h("select", { "aria-label": label }, ...made);
  const set = () => (select.value = model.get(name));
  set();
  const chosen = () => options.find(([value]) => String(value) === select.value)[0];
  select.addEventListener("change", () => change(model, name, chosen()), { signal });
  listen(model, name, signal, set);
  return h("label", {}, label, select);
}

// Set a trait here and in Python.
function change(model, name, value) {
  settle(model);
  model.set(name, value);
  model.save_changes();
}

// Set traits here at once, and in Python when the hand rests or half a second has gone by: of the
// many values of a drag Python needs the last, and its answer to each would slow the page.
const RESTED = 60, LATEST = 500; // milliseconds
const dragged = new WeakMap(); // model -> what Python has not heard yet

function drag(model, values) {
  const now = performance.now(), held = dragged.get(model) ?? { since: now, values: {} };
  if (!dragged.has(model)) {
    // Python's echo of an earlier value may come meanwhile: the hand's is the newer one.
    held.keep = () => setAll(model, held.values);
    model.on("change", held.keep);
    dragged.set(model, held);
  }
  setAll(model, Object.assign(held.values, values));
  clearTimeout(held.timer);
  const send = () => (settle(model), model.save_changes());
  held.timer = setTimeout(send, Math.min(RESTED, held.since + LATEST - now));
}

function setAll(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
}

function settle(model) {
  const held = dragged.get(model);
  if (!held) return;
  clearTimeout(held.timer);
  model.off("change", held.keep);
  dragged.delete(model);
}

// Call back when one of the traits (names apart by spaces) changes, until the signal aborts.
function listen(model, names, signal, callback) {
  for (const name of names.split(" ")) {
    model.on(`change:${name}`, callback);
    signal.addEventListener("abort", () => model.off(`change:${name}`, callback));
  }
}

// In a saved page there is no Python: say once what stands still.
function withoutPython(model, what) {
  return model instanceof PageModel ? h("p", { className: "note" }, `${what} needs Python: open it in JupyterLab for that.`) : "";
}

// The part of anywidget's model that explorers use, for pages without a kernel.
class PageModel {
  constructor(state) {
    this.state = state;
    this.listeners = new Map();
  }
  get(name) {
    return this.state[name];
  }
  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    for (const callback of [...(this.listeners.get(`change:${name}`) ?? [])]) callback();
  }
  on(event, callback) {
    if (!this.listeners.has(event)) this.listeners.set(event, new Set());
    this.listeners.get(event).add(callback);
  }
  off(event, callback) {
    this.listeners.get(event)?.delete(callback);
  }
  save_changes() {}
  send() {}
}

