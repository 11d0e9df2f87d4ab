// Units of a block, the chosen one in detail, its answer to an image, and life without it.

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
const plainly = (v, digits) => v.toFixed(digits).replace("-", "−");

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
  const alive = answers(model), compared = model.get("_other").name ? model.get("_other") : null;
  const others = compared ? unpack(compared.weights).values : null;
  const matched = compared ? unpack(compared.match).values : null, likeness = compared ? unpack(compared.similarity).values : null;
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
    if (kind === "match") { // the least alike first
      const alike = likeness.subarray(get("block") * units, (get("block") + 1) * units);
      return plain.slice().sort((a, b) => alike[a] - alike[b] || a - b);
    }
    if (kind === "importance") return importance() ? unpack(importance().order).values : null;
    const from = start();
    return known[kind][from] < 0 ? null : known[kind].subarray(from, from + units);
  }

  // --- the sheets --------------------------------------------------------------------------

  const choose = (unit) => unit !== undefined && unit !== get("unit") && drag(model, { unit });
  const pointedAt = (place) => choose((order() ?? plain)[place]);
  function moved(by) {
    const places = order() ?? plain, to = places.indexOf(get("unit")) + by;
    choose(places[Math.abs(by) === Infinity ? (by < 0 ? 0 : units - 1) : to]);
  }
  const sheetOf = (label) => unitsSheet({ gh, gw, label: `${label} Arrow keys choose a unit.`, signal, pointedAt, moved });
  const grid = sheetOf("Units of the block."), beside = compared ? sheetOf("The other model's matched units.") : null;
  const sheets = [grid, beside].filter(Boolean);
  const holder = h("div", { className: "sheets" }, ...sheets.map((made, i) => h("figure", {},
    h("figcaption", { hidden: !compared }, i ? `second: ${compared.name}, matched; cosines below` : `first: ${get("_sizes").name}`), made.node)));
  const twin = (unit) => matched[get("block") * units + unit]; // the other model's matched unit
  const paired = () => get("order") === "pairs";
  const mateOf = (place) => (place % 2 ? place - 1 : place + 1 < units ? place + 1 : null);

  function drawGrid() {
    const from = start(), places = order() ?? plain, shared = get("scale") === "block";
    const gainOf = (own) => {
      const most = shared ? own.subarray(from, from + units).reduce((a, b) => Math.max(a, b), 0) : 0;
      return (unit) => (most > 0 ? own[unit] / most : 1);
    };
    const gain = gainOf(scales);
    grid.draw(weights, lut, units, (k) => ({ read: (from + places[k]) * size, gain: gain(from + places[k]) }));
    const pairs = paired() && order() ? Array.from({ length: units >> 1 }, (_, i) => 2 * i) : [];
    grid.write(() => pairs.map((k) => [k, 2, signed(cosine([weights, weights], from + places[k], from + places[k + 1], size), 2)]));
    if (!beside) return;
    const its = gainOf(unpack(compared.weights.scale).values);
    beside.draw(others, lut, units, (k) => ({ read: (from + twin(places[k])) * size, gain: its(from + twin(places[k])) }));
    beside.write(() => Array.from(places, (unit, k) => [k, 1, signed(cosine([weights, others], from + unit, from + twin(unit), size), 2)]));
  }

  // Frames around the chosen unit and its closest inverse, crosses on units that are off.
  function drawMarks() {
    const places = order() ?? plain, at = (unit) => places.indexOf(unit);
    const cross = "background:linear-gradient(45deg,#0000 46%,var(--ink) 46% 54%,#0000 54%)," +
      "linear-gradient(-45deg,#0000 46%,var(--ink) 46% 54%,#0000 54%),color-mix(in srgb,var(--paper) 65%,#0000)";
    const off = get("off").filter(([block]) => block === get("block")), here = "outline:3px solid var(--accent);outline-offset:1px";
    grid.marks.replaceChildren(
      ...off.map(([, unit]) => grid.frame(at(unit), cross)),
      grid.frame(at(opposite[start() + get("unit")]), "outline:2px dashed var(--ink);outline-offset:1px"),
      grid.frame(at(get("unit")), here),
    );
    beside?.marks.replaceChildren(beside.frame(at(get("unit")), here));
  }

  // The maps in their order, each a row; weights are rounded to 127 steps of the map's largest.
  function numbers() {
    const layer = get("layer"), from = start(), second = compared ? unpack(compared.weights.scale).values : null;
    const cells = Array.from({ length: size }, (_, i) => `row ${Math.floor(i / gw)} column ${i % gw}`);
    const map = (own, scale, at) => Array.from(own.subarray(at * size, (at + 1) * size), (w) => Number((w * scale[at]).toPrecision(4)));
    return [["model", "block", "layer", "unit", "closest inverse", "cosine", ...cells],
      ...Array.from(order() ?? plain).flatMap((unit) => [
        [get("_sizes").name, get("block"), layer, unit, opposite[from + unit], similarity[from + unit].toFixed(4), ...map(weights, scales, from + unit)],
        ...(compared ? [[compared.name, get("block"), layer, twin(unit), "", "", ...map(others, second, from + twin(unit))]] : [])])];
  }

  let laid = "";
  function fit() {
    const wide = (holder.clientWidth || 640) / sheets.length - (compared ? 8 : 0); // 0 before it is in the page
    const layout = layoutOf({ units, gh, gw, columns, wide, paired: paired(), labelled: paired() || compared !== null });
    const now = JSON.stringify(layout);
    if (now === laid) return;
    laid = now;
    for (const made of sheets) made.lay(layout);
    drawGrid();
    drawMarks();
  }

  // --- one unit --------------------------------------------------------------------------

  const reads = framed(sheet(gw, gh), 112, "reads");
  const writes = framed(sheet(gw, gh), 112, "writes");
  const inverse = framed(sheet(gw, gh), 112, "closest inverse");
  const spectrum = framed(sheet(gw, gh), 112, "spectrum");
  spectrum.canvas.classList.add("spectrum");
  const [itsReads, itsWrites] = ["its reads", "its writes"].map((text) => framed(sheet(gw, gh), 112, text));
  const heading = h("strong");
  const told = h("p", { className: "note", style: "margin:0" }), pairing = h("p", { className: "note", style: "margin:0" });

  function drawMap(into, at, from = weights) {
    for (let i = 0; i < size; i++) into.pixels[i] = lut[127 + from[at * size + i]];
    into.show();
  }

  function say(into, text) {
    into.caption.textContent = text;
    into.canvas.setAttribute("aria-label", text);
  }

  function pairSentence(unit, mate) {
    const c = cosine([weights, weights], start() + unit, start() + mate, size);
    return `In its pair: unit ${mate}, cosine ${signed(c, 2)}` +
      (c >= 0 ? ", so these two are no opposites; they were left over." : c < -0.9 ? ", nearly its exact opposite." : ".");
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
    say(inverse, similarity[at] < 0 ? `closest inverse: unit ${kin}, cosine ${signed(similarity[at], 2)}`
      : `no inverse: the least alike is unit ${kin}, cosine ${signed(similarity[at], 2)}`);
    const place = (order() ?? plain).indexOf(unit), mate = paired() ? mateOf(place) : null;
    pairing.textContent = mate === null ? "" : pairSentence(unit, (order() ?? plain)[mate]);
    if (compared) {
      const other = twin(unit), alike = (layerName) => signed(cosine([weights, others], start(layerName) + unit, start(layerName) + other, size), 2);
      drawMap(itsReads, start("fc1") + other, others);
      say(itsReads, `second model: unit ${other} reads, cosine ${alike("fc1")}`);
      if (layers > 1) {
        drawMap(itsWrites, start("fc2") + other, others);
        say(itsWrites, `second model: unit ${other} writes, cosine ${alike("fc2")}`);
      }
    }
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
    answer.style.opacity = fresh ? 1 : 0.35; // the last one, until the new one is known
    if (!fresh && alive) return;
    if (!fresh) return answer.replaceChildren(standsStill(model, "The answer of another unit than the saved one"));
    answer.style.opacity = 1;
    const values = unpack(response.values).values, top = unpack(response.top).values;
    const channels = unpack(response.channels);
    const most = Math.max(...values), least = Math.min(...values);
    // The axis goes to 1 at least, so that GELU's small negative numbers look small.
    const end = Math.max(1, most), low = Math.min(least, 0), tall = 60, step = 4;
    const plot = sheet(values.length * step, tall), ink = rgb(0xd9, 0x5f, 0x02), axis = rgb(0x88, 0x88, 0x88);
    const level = (v) => Math.round(((end - v) / (end - low)) * (tall - 1));
    for (let x = 0; x < plot.width; x++) plot.pixels[level(0) * plot.width + x] = axis;
    values.forEach((value, c) => {
      const [a, b] = [level(value), level(0)].sort((p, q) => p - q);
      for (let y = a; y <= b; y++) for (let x = 0; x < step - 1; x++) plot.pixels[y * plot.width + c * step + x] = ink;
    });
    plot.show();
    plot.canvas.style.cssText = "width:100%;height:84px";
    plot.canvas.setAttribute("role", "img");
    plot.canvas.setAttribute("aria-label", `Activations, from ${plainly(least, 2)} to ${plainly(most, 2)}`);
    const bars = h("figure", { className: "answer", style: "flex:1 1 16em;min-width:0" },
      h("div", { className: "axis" }, h("span", {}, plainly(end, end < 10 ? 1 : 0)), plot.canvas),
      h("figcaption", {}, `Its activation for each of the ${values.length} channels of the image, from ` +
        `${plainly(least, 2)} to ${plainly(most, 2)}; the grey line is 0. ` + (most < 0.1
        ? "It answers to none of them: GELU leaves a little below 0. The highest four are beside."
        : "It answers most to those whose pattern over the patches is like what the unit reads: the highest four are beside.")));
    const best = [...top].map((channel, i) => {
      const map = framed(sheet(gw, gh), 80, `channel ${channel}: ${plainly(values[channel], 2)}`);
      for (let j = 0; j < size; j++) map.pixels[j] = lut[127 + channels.values[i * size + j]];
      map.show();
      return map.node;
    });
    answer.replaceChildren(bars, ...best);
  }

  // --- the prediction ----------------------------------------------------------------------

  const isOff = () => get("off").some(([b, u]) => b === get("block") && u === get("unit"));
  const otherUnits = () => get("off").filter(([b, u]) => b !== get("block") || u !== get("unit"));
  const toggle = h("button", { type: "button", disabled: !alive });
  toggle.addEventListener("click", () =>
    change(model, "off", isOff() ? otherUnits() : [...get("off"), [get("block"), get("unit")]]), { signal });
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

  const seen = pictured ? framed(sheet(1, 1), 128, "") : null;
  function drawPhotograph() {
    if (!pictured) return;
    const { shape: [height, width], values } = unpack(get("_image"));
    seen.resize(width, height);
    for (let i = 0; i < width * height; i++) seen.pixels[i] = rgb(...values.subarray(3 * i, 3 * i + 3));
    seen.show();
    say(seen, `the image as the model sees it, ${height} × ${width} pixels`);
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
    if (paired()) sentence.textContent += " Two in a pair stand together; below is their cosine: −1 for exact opposites, above 0 for no opposites at all.";
    scaleNote.textContent = get("scale") === "unit"
      ? "negative to positive weights, each map to its own largest" : "negative to positive weights, one scale for the block";
    const missing = order() === null;
    waits.textContent = get("_busy") ||
      (missing && get("order") === "importance" && !alive
        ? "The importance of this block's units was not measured before the page was saved."
        : missing ? "Python is putting these units in order; meanwhile they stand by index." : "");
    live.textContent = `Block ${get("block")}, unit ${get("unit")}, ${isOff() ? "off" : "on"}.`;
  }

  const orders = [["index", "index"], ["frequency", "frequency, low first"], ["pairs", "in pairs, opposites together"]];
  if (compared) orders.push(["match", "least alike first"]);
  if (!get("_unoffered")) orders.push(["importance", "importance"]);
  const without = !looks || compared ? "" : !pictured // a relative's token mixing cannot look at an image
    ? h("p", { className: "note" }, "With an image, explore_filters(model, image), this place shows how the unit answers to it and how the prediction changes without it.")
    : standsStill(model, "Switching units off or opening another photograph");
  const root = h("div", { className: "mixer-lite filters" });
  const found = foundImages({ model, signal, sizes: get("_sizes"), lut });
  const opener = pictured ? photographOpener(model, root, signal) : null;
  root.append(
    title, sentence,
    h("div", { className: "row" },
      slider(model, "block", { label: "block", min: 0, max: blocks - 1, signal }),
      layers < 2 ? "" : choice(model, "layer", { label: "layer", options: [["fc1", "fc1: what units read"], ["fc2", "fc2: what they write"]], signal }),
      choice(model, "order", { label: "order", options: orders, signal }),
      choice(model, "scale", { label: "colours", options: [["unit", "each unit its own scale"], ["block", "one scale for all"]], signal })),
    h("div", { className: "bench" },
      h("section", {}, holder,
        h("div", { className: "row", style: "align-items:center" },
          h("span", {}, "− "), legend.canvas, h("span", {}, " +"), h("span", { className: "note" }, scaleNote)),
        waits),
      h("section", {}, heading,
        h("p", { className: "note", style: "margin:0" }, "Solid frame: the chosen unit; dashed: its closest inverse. Click a map, or use the arrow keys."),
        h("div", { className: "row" }, reads.node, ...(layers > 1 ? [writes.node] : []), spectrum.node, inverse.node),
        compared ? h("div", { className: "row" }, itsReads.node, ...(layers > 1 ? [itsWrites.node] : [])) : "",
        pairing, told, found.node, answer,
        pictured && head
          ? h("div", { className: "row" }, seen.node,
            h("div", { style: "flex:1 1 22em;min-width:0" },
              h("div", { className: "row", style: "align-items:center;margin-bottom:0.5em" }, toggle, allOn, offNow),
              bars, h("p", { className: "note" }, `Grey: all units on. Orange: without the units that are off. ${calibration(get("_sizes"))}`)))
          : "")),
    saver(root, "filters", signal, numbers),
    pictured ? h("div", { className: "row" }, opener.label, alive ? h("span", { className: "note" }, "or drop or paste one") : "", opener.problem) : "",
    without,
    looks && get("_unoffered") ? h("p", { className: "note" }, get("_unoffered")) : "",
    live);
  el.append(root);

  listen(model, "block layer order scale _orders _importance _busy", signal, () => {
    readOrders();
    fit();
    drawGrid();
    drawMarks();
    words();
  });
  listen(model, "block layer unit order _importance _orders", signal, drawUnit);
  listen(model, "unit off", signal, () => (drawMarks(), words()));
  listen(model, "block unit _response", signal, drawAnswer);
  listen(model, "block unit off predictions", signal, drawBars);
  listen(model, "_image", signal, drawPhotograph);
  const watcher = new ResizeObserver(fit);
  watcher.observe(holder);
  signal.addEventListener("abort", () => watcher.disconnect());

  fit();
  for (const draw of [ drawUnit, drawAnswer, drawBars, drawPhotograph, words, found.draw]) draw();
  return () => {
    controller.abort();
    root.remove();
  };
}

export default { render };
