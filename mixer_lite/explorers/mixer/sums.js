// An open station: one number of it taken apart, with this photograph's own numbers.

// How the numbers of a vector lie in a picture: rows, columns, and the place of number i.
function foldOf(station, count, { grid: [gh, gw], patch }) {
  if (station === "tokens") return { rows: gh, columns: gw, place: (i) => i };
  if (station === "stem") { // red, green and blue values of the patch, side by side
    const columns = count / patch, area = patch * patch;
    return { rows: patch, columns, place: (i) => Math.floor((i % area) / patch) * columns + Math.floor(i / area) * patch + (i % patch) };
  }
  let rows = Math.floor(Math.sqrt(count / 2)) || 1; // twice as wide as high, where that goes
  while (count % rows) rows--;
  return { rows, columns: count / rows, place: (i) => i };
}

function makeSums({ model, state, signal, point }) {
  const sizes = model.get("_sizes"), { grid: [gh, gw], patch } = sizes;
  const lut = pixelsOf(model.get("_signed"));
  const title = h("h3"), lead = h("p", { className: "lead" }), total = h("p", { className: "total" });
  const told = h("p", { className: "note told", "aria-live": "polite" });
  let fold = null, cursor = null, now = null; // cursor: a number of the vector under the pointer

  // --- pictures of vectors ---------------------------------------------------------------

  const maps = {};
  function map(name) {
    const made = pane(sheet(1, 1, { role: "img" }), name);
    maps[name] = made;
    made.canvas.addEventListener("pointermove", (event) => pointAt(pointed(event, made.canvas)), { signal });
    made.canvas.addEventListener("pointerleave", () => pointAt(null), { signal });
    return made.node;
  }
  const places = () => Array.from({ length: now.values.length }, (_, i) => fold.place(i));
  function pointAt(at) {
    const place = at && Math.floor(at.y * fold.rows) * fold.columns + Math.floor(at.x * fold.columns);
    move(place === null ? null : places().indexOf(place));
  }
  function move(to) {
    if (to === cursor) return;
    cursor = to;
    drawCursor();
    point(now.station === "tokens" ? to : now.station === "stem" ? pixelOf(to) : null);
  }
  const pixelOf = (i) => (i === null ? null : { token: model.get("token"), y: Math.floor((i % patch ** 2) / patch), x: i % patch });

  function drawMap(name, values, caption) {
    const made = maps[name];
    made.node.hidden = !values;
    if (!values) return;
    if (made.width !== fold.columns || made.height !== fold.rows) made.resize(fold.columns, fold.rows);
    const laid = new Float32Array(fold.rows * fold.columns);
    values.forEach((v, i) => (laid[fold.place(i)] = v));
    const most = paintSigned(made, laid, lut);
    made.caption.replaceChildren(h("b", {}, caption), ` ±${most.toPrecision(2)}`);
    made.canvas.setAttribute("aria-label", `${caption}: ${values.length} numbers, the largest in size ${most.toPrecision(3)}`);
  }

  function drawCursor() {
    const place = cursor === null ? null : fold.place(cursor);
    for (const made of Object.values(maps))
      made.layer.replaceChildren(...(place === null ? [] : [mark((place % fold.columns) / fold.columns,
        Math.floor(place / fold.columns) / fold.rows, 1 / fold.columns, 1 / fold.rows, "kept")]));
    told.textContent = cursor === null ? HINTS[now.station] : sentence(cursor);
  }

  const HINTS = {
    stem: "Point at a number to find its pixel in the photograph.",
    tokens: "Point at a number to find its patch in the photograph.",
    channels: "Point at a number to follow one channel.",
    classes: "Point at a number to follow one channel.",
  };
  function sentence(i) {
    const { station, values, weights, products, written: paints, activations, before, after } = now;
    const where = {
      stem: () => `${["Red", "Green", "Blue"][Math.floor(i / patch ** 2)] ?? "Value"} of the pixel in line ${pixelOf(i).y}, place ${pixelOf(i).x}`,
      tokens: () => `Patch in row ${Math.floor(i / gw)}, column ${i % gw}`,
    }[station]?.() ?? `Channel ${i}`;
    const rank = products.filter((p) => Math.abs(p) > Math.abs(products[i])).length + 1;
    let text = `${where}: ${written(values[i], 3)} × ${written(weights[i], 3)} = ${written(products[i], 3)}, number ${rank} of ${products.length} by size.`;
    if (paints) text += ` The unit adds ${written(activations[unitOf()] * paints[i], 3)} here; all together turn ${written(before[i], 3)} into ${written(after[i], 3)}.`;
    return text;
  }

  // --- all hidden units ------------------------------------------------------------------

  const unitName = () => (model.get("station") === "tokens" ? "unit" : "channel_unit");
  const unitOf = () => model.get(unitName());
  const unitsBox = pane(sheet(1, 1, { tabIndex: 0, role: "slider", "aria-label": "Unit" }), "Unit");
  let lines = 1;
  function drawUnits() {
    const { activations } = now;
    unitsBox.node.hidden = !activations;
    if (!activations) return;
    const count = activations.length, columns = count > 128 ? Math.ceil(count / Math.ceil(count / 128)) : count;
    lines = Math.ceil(count / columns);
    if (unitsBox.width !== columns || unitsBox.height !== lines) unitsBox.resize(columns, lines);
    const most = largestOf(activations) || 1, u = unitOf();
    for (let i = 0; i < columns * lines; i++)
      unitsBox.pixels[i] = i < count ? lut[127 + Math.round((127 * activations[i]) / most)] : 0;
    unitsBox.show();
    unitsBox.layer.replaceChildren(mark((u % columns) / columns, Math.floor(u / columns) / lines, 1 / columns, 1 / lines, "chosen"));
    const rank = activations.filter((a) => Math.abs(a) > Math.abs(activations[u])).length + 1;
    unitsBox.caption.replaceChildren(h("b", {}, `All ${count} units after GELU`), ` ±${most.toPrecision(2)}. Unit ${u} is number ${rank} by size; click another.`);
    for (const [name, value] of Object.entries({ valuemin: 0, valuemax: count - 1, valuenow: u, valuetext: `unit ${u}, activation ${written(activations[u], 3)}` }))
      unitsBox.canvas.setAttribute(`aria-${name}`, value);
  }
  const choose = (u) => u >= 0 && u < now.activations.length && drag(model, { [unitName()]: u });
  function touchUnits(event) {
    if (event.type === "pointermove" && !event.buttons) return;
    const at = pointed(event, unitsBox.canvas);
    if (at) choose(Math.floor(at.y * lines) * unitsBox.width + Math.floor(at.x * unitsBox.width));
  }
  for (const kind of ["pointerdown", "pointermove"]) unitsBox.canvas.addEventListener(kind, touchUnits, { signal });
  unitsBox.canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -unitsBox.width, ArrowDown: unitsBox.width }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    choose(unitOf() + step);
  }, { signal });
  // The unit that writes most: the size of its activation times that of what it paints is known for
  // the open one alone, so the largest activation stands for it.
  const loudest = h("button", { type: "button", onclick: () => choose(descendingOf(now.activations.map(Math.abs))[0]) }, "The loudest unit");

  // --- GELU ------------------------------------------------------------------------------

  const SPAN = 4;
  const curveX = (v) => 50 + (46 * v) / SPAN, curveY = (v) => 62 - (52 * v) / SPAN;
  const gelu = (x) => 0.5 * x * (1 + Math.tanh(0.7978845608 * (x + 0.044715 * x ** 3))); // as fine as a line is thick
  const dot = svg("circle", { r: 4, fill: "var(--accent)", stroke: "var(--paper)" });
  const curve = svg("svg", { viewBox: "0 0 100 76", class: "gelu", "aria-hidden": "true" },
    svg("line", { x1: 4, x2: 96, y1: curveY(0), y2: curveY(0), stroke: "var(--line)" }),
    svg("line", { x1: 50, x2: 50, y1: 6, y2: 72, stroke: "var(--line)" }),
    svg("polyline", { fill: "none", stroke: "currentColor", "stroke-width": 1.6,
      points: Array.from({ length: 81 }, (_, i) => (i - 40) / 10).map((x) => `${curveX(x)},${curveY(gelu(x))}`).join(" ") }), dot);
  const curveBox = h("figure", { className: "curve" }, curve, h("figcaption", {}, h("b", {}, "GELU")));

  // --- the panel -------------------------------------------------------------------------

  const sign = (text) => h("span", { className: "sign", "aria-hidden": "true" }, text);
  const times = sign("×"), equals = sign("="), arrow = sign("→"), paintSign = sign("×"), plus = sign("+"), becomes = sign("=");
  const read = h("div", { className: "flow-row" }, map("values"), times, map("weights"), equals, map("products"), arrow, curveBox, paintSign, map("painted"));
  const skip = h("div", { className: "flow-row" }, map("before"), plus, map("change"), becomes, map("after"));
  const skipTitle = h("p", { className: "lead" });
  const node = h("section", { className: "station" }, title, lead, read, total,
    h("div", { className: "units" }, unitsBox.node, loudest), skipTitle, skip, told);

  const CAPTIONS = {
    stem: ["the patch's numbers", "what the channel looks for", "products"],
    tokens: ["the channel, normalised", "what the unit reads", "products", "what it writes", "the channel before", "what all units write", "after"],
    channels: ["the token, normalised", "what the unit reads", "products", "what it writes", "the token before", "what all units write", "after"],
    classes: ["the mean token", "what the class looks for", "products"],
  };
  function words() {
    const { station, choice } = now, { block, token, channel } = choice, u = unitOf();
    const where = `row ${Math.floor(token / gw)}, column ${token % gw}`, name = model.get("_classes")[now.chosen];
    const all = {
      stem: ["From patch to token", `Channel ${channel} of the token in ${where} is one weighted sum over its patch's ${now.values.length} numbers: red, green, blue.`, ""],
      tokens: [`Block ${block}, token mixing`, `Patches talk to each other, one channel at a time. Channel ${channel} is a map over the ${gh} × ${gw} patches; unit ${u} lays its template over it.`,
        "The skip connection carries the map itself; the units only add to it:"],
      channels: [`Block ${block}, channel mixing`, `Each token is on its own now. The token in ${where} is a row of ${now.values.length} numbers; unit ${u} weighs them all.`,
        "The skip connection carries the row itself; the units only add to it:"],
      classes: ["Mean and head", `All tokens are averaged to one, and ${name} weighs its ${now.values.length} numbers. Nothing else decides.`, ""],
    }[station];
    [title.textContent, lead.textContent, skipTitle.textContent] = all;
    const sum = [`products add up to ${written(now.sum - now.bias, 3)}`, `bias ${written(now.bias, 3)}`];
    const result = station === "classes" ? `logit of ${name}` : station === "stem" ? `channel ${channel}` : "before GELU";
    total.replaceChildren(`The ${sum[0]}, ${sum[1]}: `, h("b", {}, `${result} ${written(now.sum, 3)}`),
      now.activations ? `, after GELU ${written(now.activations[u], 3)}.` : ".");
  }

  function draw() {
    const { sum, choice, chosen } = state(), station = choice.station;
    const products = sum.values.map((v, i) => v * sum.weights[i]);
    now = { ...sum, station, choice, chosen, products };
    fold = foldOf(station, sum.values.length, sizes);
    if (cursor !== null && cursor >= sum.values.length) cursor = null;
    node.dataset.station = station;
    const mlp = Boolean(sum.activations), captions = CAPTIONS[station];
    drawMap("values", sum.values, captions[0]);
    drawMap("weights", sum.weights, captions[1]);
    drawMap("products", products, captions[2]);
    drawMap("painted", mlp ? sum.written : null, captions[3]);
    drawMap("before", mlp ? sum.before : null, captions[4]);
    drawMap("change", mlp ? sum.after.map((v, i) => v - sum.before[i]) : null, captions[5]);
    drawMap("after", mlp ? sum.after : null, captions[6]);
    for (const part of [arrow, curveBox, paintSign, skip, skipTitle, loudest]) part.hidden = !mlp;
    const shown = Math.max(-SPAN, Math.min(SPAN, sum.sum));
    dot.setAttribute("cx", curveX(shown));
    dot.setAttribute("cy", curveY(gelu(shown)));
    drawUnits();
    words();
    drawCursor();
  }
  return { node, draw, showPatch: (token) => model.get("station") === "tokens" && move(token) };
}
