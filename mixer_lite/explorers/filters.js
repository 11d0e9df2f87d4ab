// All units of a block on one canvas, one canvas pixel a weight; the chosen unit beside it.

const GAP = 1; // pixels between maps
const LAYERS = ["fc1", "fc2"]; // relatives of the Mixer may have the first alone
const UNITS = { fc1: "reads", fc2: "writes" };

// Squared magnitude of the two-dimensional Fourier transform, frequency 0 in the middle.
function powerOf(map, gh, gw) {
  // One axis at a time: rows, then columns, by the definition; maps are small.
  const turn = (k, n, i) => (-2 * Math.PI * (k - Math.floor(n / 2)) * i) / n;
  const power = new Float64Array(gh * gw);
  for (let kx = 0; kx < gw; kx++) {
    const re = new Float64Array(gh), im = new Float64Array(gh);
    for (let y = 0; y < gh; y++)
      for (let x = 0; x < gw; x++) {
        re[y] += map[y * gw + x] * Math.cos(turn(kx, gw, x));
        im[y] += map[y * gw + x] * Math.sin(turn(kx, gw, x));
      }
    for (let ky = 0; ky < gh; ky++) {
      let a = 0, b = 0;
      for (let y = 0; y < gh; y++) {
        const c = Math.cos(turn(ky, gh, y)), s = Math.sin(turn(ky, gh, y));
        a += re[y] * c - im[y] * s;
        b += re[y] * s + im[y] * c;
      }
      power[ky * gw + kx] = a * a + b * b;
    }
  }
  return power;
}

// A small picture with a caption whose text may change.
function framed(sheetOf, css, label) {
  const caption = h("figcaption", {}, label);
  sheetOf.canvas.style.cssText = `width:${css}px;height:auto`;
  sheetOf.canvas.setAttribute("role", "img");
  sheetOf.canvas.setAttribute("aria-label", label);
  const node = h("figure", { style: `width:${css}px` }, sheetOf.canvas, caption);
  return Object.assign(sheetOf, { caption, node });
}

const percent = (p) => `${(100 * p).toFixed(1)} %`;
const signed = (v, digits) => `${v < 0 ? "−" : "+"}${Math.abs(v).toFixed(digits)}`;

function render({ model, el }) {
  const controller = new AbortController();
  const { signal } = controller;
  const { blocks, layers, units, gh, gw, columns, pictured, looks, head } = model.get("_sizes");
  const size = gh * gw;
  const lut = pixelsOf(model.get("_signed")), heat = pixelsOf(model.get("_magnitude"));
  const packedWeights = model.get("_weights");
  const weights = unpack(packedWeights).values, scales = unpack(packedWeights.scale).values;
  const opposite = unpack(model.get("_opposites").unit).values;
  const similarity = unpack(model.get("_opposites").similarity).values;
  const alive = !(model instanceof PageModel);
  const get = (name) => model.get(name);
  // Where the maps, scales and orders of the chosen block and layer begin, in units.
  const start = (layer = get("layer")) => (get("block") * layers + LAYERS.indexOf(layer)) * units;

  // --- order -----------------------------------------------------------------------------

  const plain = Int32Array.from({ length: units }, (_, i) => i);
  let known = {}; // orders as typed arrays
  const readOrders = () => {
    for (const [kind, entry] of Object.entries(get("_orders"))) known[kind] = unpack(entry).values;
  };
  readOrders();
  const importance = () => get("_importance")[get("block")];

  // The units in their order, or null where Python has not told it yet.
  function order() {
    const kind = get("order");
    if (kind === "index") return plain;
    if (kind === "importance") return importance() ? unpack(importance().order).values : null;
    const from = start();
    return known[kind][from] < 0 ? null : known[kind].subarray(from, from + units);
  }

  // --- the grid --------------------------------------------------------------------------

  let across = columns, rows = Math.ceil(units / columns); // fewer across where there is no room
  const grid = sheet(across * (gw + GAP), rows * (gh + GAP), {
    tabIndex: 0, role: "application", className: "units",
    style: "touch-action:manipulation;cursor:pointer",
    "aria-label": "Units of the block. Arrow keys choose a unit.",
  });
  const marks = h("div", { className: "layer", "aria-hidden": "true" });
  const holder = h("div", { style: "position:relative;max-width:100%" }, grid.canvas, marks);

  function drawGrid() {
    const from = start(), places = order() ?? plain, { pixels, width } = grid;
    const shared = get("scale") === "block";
    let most = 0;
    for (let u = 0; u < units; u++) most = Math.max(most, scales[from + u]);
    for (let k = 0; k < units; k++) {
      const unit = from + places[k];
      const gain = shared && most > 0 ? scales[unit] / most : 1;
      let read = unit * size;
      const left = (k % across) * (gw + GAP), top = Math.floor(k / across) * (gh + GAP);
      for (let y = 0; y < gh; y++) {
        let write = (top + y) * width + left;
        for (let x = 0; x < gw; x++) pixels[write++] = lut[127 + Math.round(weights[read++] * gain)];
      }
    }
    grid.show();
  }

  // Frames around the chosen unit and its closest inverse, crosses on units that are off.
  function frame(place, style) {
    const left = (place % across) / across, top = Math.floor(place / across) / rows;
    const node = mark(left, top, gw / (gw + GAP) / across, gh / (gh + GAP) / rows);
    node.style.cssText += style;
    return node;
  }

  function drawMarks() {
    const places = order() ?? plain, at = (unit) => places.indexOf(unit);
    const cross = "background:linear-gradient(45deg,#0000 46%,var(--ink) 46% 54%,#0000 54%)," +
      "linear-gradient(-45deg,#0000 46%,var(--ink) 46% 54%,#0000 54%),color-mix(in srgb,var(--paper) 65%,#0000)";
    const off = get("off").filter(([block]) => block === get("block"));
    marks.replaceChildren(
      ...off.map(([, unit]) => frame(at(unit), cross)),
      frame(at(opposite[start() + get("unit")]), "outline:2px dashed var(--ink);outline-offset:1px"),
      frame(at(get("unit")), "outline:3px solid var(--accent);outline-offset:1px"),
    );
  }

  // Maps a finger can hit, and whole screen pixels a weight where at least two fit, so that no
  // weight looks wider than another.
  function fit() {
    const ratio = window.devicePixelRatio || 1, wide = holder.parentElement.clientWidth;
    let wanted = columns;
    while (wanted > 4 && wide / wanted < 22) wanted = 2 * Math.round(wanted / 4);
    if (wanted !== across) {
      across = wanted;
      rows = Math.ceil(units / across);
      grid.resize(across * (gw + GAP), rows * (gh + GAP));
      drawGrid();
      drawMarks();
    }
    const room = (wide * ratio) / grid.width;
    const scale = room >= 2 ? Math.floor(Math.min(room, 8)) : room;
    holder.style.width = grid.canvas.style.width = `${(scale * grid.width) / ratio}px`;
  }

  const choose = (unit) => unit >= 0 && unit < units && drag(model, { unit });

  function touched(event) {
    if (event.type === "pointermove" && !event.buttons) return;
    const place = pointed(event, grid.canvas);
    if (!place) return;
    const k = Math.floor(place.y * rows) * across + Math.floor(place.x * across);
    const unit = (order() ?? plain)[k];
    if (unit !== undefined && unit !== get("unit")) choose(unit);
  }
  for (const kind of ["pointerdown", "pointermove"])
    grid.canvas.addEventListener(kind, touched, { signal });
  grid.canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
    const places = order() ?? plain, now = places.indexOf(get("unit"));
    const ends = { Home: 0, End: units - 1 };
    const to = event.key in ends ? ends[event.key] : now + steps[event.key];
    if (Number.isNaN(to)) return;
    event.preventDefault();
    if (places[to] !== undefined) choose(places[to]);
  }, { signal });

  // --- one unit --------------------------------------------------------------------------

  const reads = framed(sheet(gw, gh), 112, "reads");
  const writes = framed(sheet(gw, gh), 112, "writes");
  const inverse = framed(sheet(gw, gh), 112, "closest inverse");
  const spectrum = framed(sheet(gw, gh), 112, "spectrum");
  spectrum.canvas.classList.add("spectrum");
  const heading = h("strong");
  const told = h("p", { className: "note", style: "margin:0" });

  function drawMap(into, at) {
    for (let i = 0; i < size; i++) into.pixels[i] = lut[127 + weights[at * size + i]];
    into.show();
  }

  function say(into, text) {
    into.caption.textContent = text;
    into.canvas.setAttribute("aria-label", text);
  }

  function drawUnit() {
    const unit = get("unit"), layer = get("layer"), at = start() + unit;
    const kin = opposite[at];
    heading.textContent = `Unit ${unit} of block ${get("block")}`;
    drawMap(reads, start("fc1") + unit);
    if (layers > 1) drawMap(writes, start("fc2") + unit);
    drawMap(inverse, start() + kin);
    const power = powerOf(weights.subarray(at * size, (at + 1) * size), gh, gw);
    const top = Math.max(...power, 1e-300);
    for (let i = 0; i < size; i++) spectrum.pixels[i] = heat[Math.round((255 * power[i]) / top)];
    spectrum.show();
    say(reads, `what it reads (fc1), to ±${(127 * scales[start("fc1") + unit]).toPrecision(2)}`);
    if (layers > 1) say(writes, `what it writes (fc2), to ±${(127 * scales[start("fc2") + unit]).toPrecision(2)}`);
    say(spectrum, `spectrum of what it ${UNITS[layer]}: frequency 0 in the middle`);
    say(inverse, `closest inverse: unit ${kin}, cosine ${signed(similarity[at], 2)}`);
    const measured = importance();
    if (!measured) return void (told.textContent = "");
    const of = (name) => unpack(measured[name]).values[unit];
    told.textContent = `Without it, on 100 images: loss ${signed(of("loss"), 3)} nats, ` +
      `accuracy ${signed(100 * of("accuracy"), 0)} points, ${percent(of("changed"))} of the answers change.`;
  }

  // --- its answer to the image -------------------------------------------------------------

  const answer = h("div", { className: "row", hidden: !pictured });

  function drawAnswer() {
    if (!pictured) return;
    const response = get("_response");
    const fresh = response.block === get("block") && response.unit === get("unit");
    answer.style.opacity = fresh ? 1 : 0.35; // the last one, until Python has the new one
    if (!fresh && alive) return;
    if (!fresh) return answer.replaceChildren(withoutPython(model, "The answer of another unit than the saved one"));
    answer.style.opacity = 1;
    const values = unpack(response.values).values, top = unpack(response.top).values;
    const channels = unpack(response.channels);
    const all = Math.max(...values, 0.2), least = Math.min(...values, 0);
    const tall = 48, plot = sheet(values.length, tall);
    const ink = rgb(0xd9, 0x5f, 0x02);
    const level = (v) => Math.round(((all - v) / (all - least || 1)) * (tall - 1));
    values.forEach((value, c) => {
      const [a, b] = [level(value), level(0)].sort((p, q) => p - q);
      for (let y = a; y <= b; y++) plot.pixels[y * values.length + c] = ink;
    });
    plot.show();
    plot.canvas.style.cssText = "width:100%;height:72px";
    plot.canvas.setAttribute("role", "img");
    plot.canvas.setAttribute("aria-label", `Activations, from ${least.toFixed(2)} to ${all.toFixed(2)}`);
    const bars = h("figure", { className: "answer", style: "flex:1 1 16em;min-width:0" }, plot.canvas,
      h("figcaption", {}, `Its activation for each of the ${values.length} channels of the image, ` +
        `${least.toFixed(2)} to ${all.toFixed(2)}. It answers most to those whose pattern over the ` +
        "patches is like what the unit reads: the highest four are beside."));
    const best = [...top].map((channel, i) => {
      const map = framed(sheet(gw, gh), 80, `channel ${channel}: ${values[channel].toFixed(1)}`);
      for (let j = 0; j < size; j++) map.pixels[j] = lut[127 + channels.values[i * size + j]];
      map.show();
      return map.node;
    });
    answer.replaceChildren(bars, ...best);
  }

  // --- the prediction ----------------------------------------------------------------------

  const isOff = () => get("off").some(([b, u]) => b === get("block") && u === get("unit"));
  const others = () => get("off").filter(([b, u]) => b !== get("block") || u !== get("unit"));
  const toggle = h("button", { type: "button", disabled: !alive });
  toggle.addEventListener("click", () =>
    change(model, "off", isOff() ? others() : [...get("off"), [get("block"), get("unit")]]), { signal });
  const allOn = h("button", { type: "button" }, "Switch all on again");
  allOn.addEventListener("click", () => change(model, "off", []), { signal });
  const bars = h("div", { className: "bars", style: "flex:1 1 20em;min-width:0" });
  const offNow = h("span");

  function drawBars() {
    const count = get("off").length;
    toggle.textContent = isOff() ? "Switch this unit on" : "Switch this unit off";
    toggle.setAttribute("aria-pressed", String(isOff()));
    allOn.disabled = !alive || count === 0;
    offNow.textContent = count ? `${count} unit${count > 1 ? "s" : ""} off in the whole network` : "all units on";
    const { labels = [], before = [], after = [] } = get("predictions");
    const bar = (p, colour) =>
      h("div", { style: `height:0.55em;background:${colour};width:${100 * p}%;min-width:1px` });
    bars.replaceChildren(...labels.map((label, i) =>
      h("div", { className: "bar", style: "display:flex;gap:0.6em;align-items:center" },
        h("span", { style: "flex:0 0 6.5em;text-align:right;overflow:hidden;text-overflow:ellipsis;white-space:nowrap", title: label }, label),
        h("div", { style: "flex:1 1 6em;border-left:1px solid var(--line)" },
          bar(before[i], "var(--line)"), bar(after[i], "var(--accent)")),
        h("output", { style: "flex:0 0 9em" }, `${percent(before[i])} → ${percent(after[i])}`))));
  }

  function photograph() {
    const { shape: [height, width], values } = unpack(get("_image"));
    const picture = sheet(width, height);
    for (let i = 0; i < width * height; i++)
      picture.pixels[i] = rgb(...values.subarray(3 * i, 3 * i + 3));
    picture.show();
    return framed(picture, 128, `the image as the model sees it, ${height} × ${width} pixels`).node;
  }

  // --- the page ----------------------------------------------------------------------------

  const title = h("p", { className: "title" });
  const sentence = h("p", { className: "note", style: "margin:0" });
  const live = spoken();
  const waits = h("p", { className: "note", role: "status", style: "margin:0;min-height:1.4em" });
  const legend = sheet(255, 1, { "aria-hidden": "true", style: "width:10em;height:0.9em" });
  legend.pixels.set(lut);
  legend.show();
  const scaleNote = h("span");

  function words() {
    const layer = get("layer"), reading = layer === "fc1";
    title.textContent = `What the ${units} token-mixing units of block ${get("block")} ${reading ? "read" : "write"}`;
    sentence.textContent = reading
      ? `Each small map is one unit: the weight with which it listens to each of the ${gh} × ${gw} patches.`
      : `Each small map is one unit: what it adds to each of the ${gh} × ${gw} patches when it is active.`;
    scaleNote.textContent = get("scale") === "unit"
      ? "negative to positive weights, each map to its own largest" : "negative to positive weights, one scale for the block";
    const missing = order() === null;
    waits.textContent = get("_busy") ||
      (missing && get("order") === "importance" && !alive
        ? "The importance of this block's units was not measured before the page was saved."
        : missing ? "Python is putting these units in order; meanwhile they stand by index." : "");
    live.textContent = `Block ${get("block")}, unit ${get("unit")}, ${isOff() ? "off" : "on"}.`;
  }

  const orders = [["index", "index"], ["frequency", "frequency, low first"], ["pairs", "pairs of opposites"]];
  if (!get("_unoffered")) orders.push(["importance", "importance"]);
  const without = !looks ? "" : !pictured // a relative's token mixing cannot look at an image
    ? h("p", { className: "note" }, "With an image, explore_filters(model, image), this place shows how the unit answers to it and how the prediction changes without it.")
    : withoutPython(model, "Switching units off");
  const root = h("div", { className: "mixer-lite filters" },
    title, sentence,
    h("div", { className: "row" },
      slider(model, "block", { label: "block", min: 0, max: blocks - 1, signal }),
      layers < 2 ? "" : choice(model, "layer", { label: "layer", options: [["fc1", "fc1: what units read"], ["fc2", "fc2: what they write"]], signal }),
      choice(model, "order", { label: "order", options: orders, signal }),
      choice(model, "scale", { label: "colours", options: [["unit", "each unit its own scale"], ["block", "one scale for all"]], signal })),
    h("div", {}, holder),
    h("div", { className: "row", style: "align-items:center" },
      h("span", {}, "− "), legend.canvas, h("span", {}, " +"), h("span", { className: "note" }, scaleNote)),
    waits,
    heading,
    h("p", { className: "note", style: "margin:0" }, "Solid frame: the chosen unit; dashed: its closest inverse. Click a map, or use the arrow keys."),
    h("div", { className: "row" }, reads.node, ...(layers > 1 ? [writes.node] : []), spectrum.node, inverse.node), told,
    answer,
    pictured && head
      ? h("div", { className: "row" }, photograph(),
        h("div", { style: "flex:1 1 22em;min-width:0" },
          h("div", { className: "row", style: "align-items:center;margin-bottom:0.5em" }, toggle, allOn, offNow),
          bars, h("p", { className: "note" }, "Grey: all units on. Orange: without the units that are off.")))
      : "",
    without,
    looks && get("_unoffered") ? h("p", { className: "note" }, get("_unoffered")) : "",
    live);
  el.append(root);

  listen(model, "block layer order scale _orders _importance _busy", signal, () => {
    readOrders();
    drawGrid();
    drawMarks();
    words();
  });
  listen(model, "block layer unit _importance", signal, drawUnit);
  listen(model, "unit off", signal, () => (drawMarks(), words()));
  listen(model, "block unit _response", signal, drawAnswer);
  listen(model, "block unit off predictions", signal, drawBars);
  const watcher = new ResizeObserver(fit);
  watcher.observe(holder.parentElement);
  signal.addEventListener("abort", () => watcher.disconnect());

  for (const draw of [drawGrid, drawMarks, drawUnit, drawAnswer, drawBars, words]) draw();
  return () => controller.abort();
}

export default { render };
