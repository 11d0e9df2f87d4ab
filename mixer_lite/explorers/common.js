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
// many values of a drag Python needs the last, and its answer to each would slow the page. An engine
// in the page is asked at once.
const RESTED = 60, LATEST = 500; // milliseconds
const dragged = new WeakMap(); // model -> what Python has not heard yet

function drag(model, values) {
  if (model.here) {
    setAll(model, values);
    model.save_changes();
    return;
  }
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

// Whether someone answers what is asked of the network: Python, or the engine in a saved page.
const answers = (model) => model.asks !== false;

// What `predict` divides the logits by, where it does.
const calibration = ({ temperature = 1 }) => (temperature === 1 ? ""
  : `Probabilities are those of predict: the softmax of the logits divided by the model's temperature, ${temperature}.`);

// Where nobody does: say once what stands still, and why.
function standsStill(model, what) {
  if (answers(model)) return "";
  const why = model.get("_still") || "";
  return h("p", { className: "note" }, `${what} needs Python: open it in JupyterLab for that.`, why ? ` ${why}` : "");
}

// A way to open a photograph of the reader's: a button, or the file dropped on `root` or pasted there.
// It goes to the `_upload` trait; what is wrong with it comes back in `message`.
const LARGEST = 8e6; // bytes of a file: a longer message would break the connection to Python
function photographOpener(model, root, signal) {
  const live = answers(model);
  const input = h("input", { type: "file", accept: "image/*", className: "unseen", disabled: !live });
  const label = h("label", { className: live ? "file" : "file off" }, "Open a photograph of yours…", input);
  const problem = h("p", { className: "alert", role: "alert" });
  async function send(file) {
    if (!file || !live) return;
    input.value = ""; // so that the same file can be chosen again
    problem.textContent = "";
    try {
      const bytes = await (file.size > LARGEST ? await shrunk(file) : file).arrayBuffer();
      if (!signal.aborted) change(model, "_upload", { name: file.name, data: new DataView(bytes) });
    } catch {
      problem.textContent = `Cannot read ${file.name}: it is too large and the browser cannot shrink it; make it smaller first.`;
    }
  }
  const hover = (on) => (event) => {
    if (!live || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    root.classList.toggle("dropping", on);
  };
  input.addEventListener("change", () => send(input.files[0]), { signal });
  for (const kind of ["dragenter", "dragover"]) root.addEventListener(kind, hover(true), { signal });
  root.addEventListener("dragleave", hover(false), { signal });
  root.addEventListener("drop", (event) => {
    hover(false)(event);
    send(event.dataTransfer?.files[0]);
  }, { signal });
  root.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    event.stopPropagation();
    send(file);
  }, { signal });
  const tell = () => (problem.textContent = model.get("message"));
  listen(model, "message", signal, tell);
  tell();
  return { label, problem };
}

// A photograph too large to send, its longer side at most 2048 pixels.
async function shrunk(file) {
  const image = await createImageBitmap(file);
  const scale = Math.min(1, 2048 / Math.max(image.width, image.height));
  const canvas = h("canvas", { width: Math.round(image.width * scale), height: Math.round(image.height * scale) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  image.close();
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject()), "image/jpeg", 0.95));
}
