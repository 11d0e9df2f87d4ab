// One patch of the photograph, its row or column of the influence matrix as a map, and by distance.

function render({ model, el }) {
  const controller = new AbortController();
  const { signal } = controller;
  const get = (name) => model.get(name);
  const { grid: [gh, gw], blocks, probes } = get("_sizes");
  const tokens = gh * gw, lut = pixelsOf(get("_magnitude"));
  const alive = answers(model);

  const keys = { tabIndex: 0, role: "application" };
  const image = pane(sheet(1, 1, keys), "The photograph in patches. Arrow keys choose a patch.");
  const map = pane(sheet(gw, gh, { role: "img" }), "The map of influence over the patches.");

  let matrix = null; // (S, S) of the chosen block or of the whole: unknown numbers are NaN
  let most = 0; // its largest entry off the diagonal
  let hovered = null; // a patch of the photograph under the pointer, until it leaves
  let other = null; // a patch of the map under the pointer

  const kept = () => get("row") * gw + get("column");
  const token = () => hovered ?? kept();
  const place = (t) => `row ${Math.floor(t / gw)}, column ${t % gw}`;
  const heard = () => get("direction") === "heard";
  const where = () => (get("whole") ? "the whole network" : `block ${get("block")}`) + (get("_count") > 1 ? `, mean of ${get("_count")} photographs` : "");
  // How strongly the chosen patch listens to patch t, or is heard by it.
  const strength = (t) => matrix[heard() ? t * tokens + token() : token() * tokens + t];
  const written = (v) => (v >= 1000 ? v.toFixed(0) : v.toPrecision(3));

  function keep(t) {
    drag(model, { row: Math.floor(t / gw), column: t % gw });
  }

  // --- drawing -------------------------------------------------------------------------------

  function drawPhotograph() {
    const { values, shape: [height, width] } = unpack(get("_image"));
    image.resize(width, height);
    for (let k = 0; k < width * height; k++) image.pixels[k] = rgb(...values.subarray(3 * k, 3 * k + 3));
    image.show();
    const count = get("_count"), what = count > 1 ? `${count} photographs, averaged, as the model sees them` : "The photograph as the model sees it";
    image.caption.textContent = `${what}: ${height} × ${width} pixels, ${gh} × ${gw} patches`;
  }

  function readMatrix() {
    const entry = get("_maps")[get("whole") ? "whole" : get("block")];
    matrix = entry ? unpack(entry).values : new Float32Array(tokens * tokens).fill(NaN);
    most = 0;
    for (let i = 0; i < tokens; i++)
      for (let j = 0; j < tokens; j++)
        if (i !== j && matrix[i * tokens + j] > most) most = matrix[i * tokens + j];
  }

  const square = (t, name) => mark((t % gw) / gw, Math.floor(t / gw) / gh, 1 / gw, 1 / gh, name);
  const lines = h("div", { className: "grid", style: `inset:0;background-size:calc(100%/${gw}) calc(100%/${gh})` });

  // The others' numbers, loudest first; unknown ones are left out.
  function others() {
    const known = [];
    for (let t = 0; t < tokens; t++)
      if (t !== token() && !Number.isNaN(strength(t))) known.push(t);
    return known.sort((a, b) => strength(b) - strength(a));
  }

  function draw() {
    const chosen = token(), ranked = others();
    const top = get("one_scale") ? most : ranked.length ? strength(ranked[0]) : 0;
    for (let t = 0; t < tokens; t++) {
      const v = strength(t);
      // The own cell is not on the scale, and an unknown one has no colour.
      map.pixels[t] = t === chosen || Number.isNaN(v) ? 0 : lut[Math.round((255 * v) / (top || 1))];
    }
    map.show();
    const extra = other !== null && other !== chosen ? [other] : [];
    const dashed = hovered !== null && hovered !== kept() ? [hovered] : [];
    image.layer.replaceChildren(lines, square(kept(), "kept"), ...[...dashed, ...extra].map((t) => square(t, "shown")));
    map.layer.replaceChildren(square(chosen, "own"), ...extra.map((t) => square(t, "shown")));
    map.caption.textContent = heard()
      ? `Who listens to the patch in ${place(chosen)}, ${where()}`
      : `Whom the patch in ${place(chosen)} listens to, ${where()}`;
    const numbers = top ? [0, top / 2, top].map((v) => (v ? written(v) : "0")) : ["", "", ""];
    marksOfScale.forEach((span, i) => (span.textContent = numbers[i]));
    drawRings(ranked);
    tell(ranked);
  }

  // Shares of the others' sum by distance: rings around the patch.
  function drawRings(ranked) {
    const full = ranked.length === tokens - 1, chosen = token();
    rings.hidden = !full;
    if (!full) return;
    const sums = [], counts = [];
    for (const t of ranked) {
      const down = Math.abs(Math.floor(t / gw) - Math.floor(chosen / gw)), right = Math.abs((t % gw) - (chosen % gw));
      const ring = Math.max(down, right);
      sums[ring] = (sums[ring] ?? 0) + strength(t);
      counts[ring] = (counts[ring] ?? 0) + 1;
    }
    const total = sums.reduce((a, b) => a + b, 0);
    const shares = sums.map((v) => v / (total || 1)), even = counts.map((n) => n / (tokens - 1));
    const longest = Math.max(...shares.slice(1), ...even.slice(1));
    bars.replaceChildren(...shares.map((share, ring) => ring && h("div", { className: "ring" },
      h("span", {}, String(ring)),
      h("div", { className: "bar" },
        h("div", { className: "share", style: `width:${(100 * share) / longest}%` }),
        h("div", { className: "even", style: `left:${(100 * even[ring]) / longest}%` })),
      h("output", {}, `${(100 * share).toFixed(0)} %`))).filter(Boolean));
  }

  function tell(ranked) {
    const chosen = token(), verb = heard() ? "is heard most by" : "listens most to";
    const unknown = tokens - 1 - ranked.length;
    ask.hidden = !(alive && unknown && heard());
    waits.textContent = get("_busy") || (!unknown ? "" : !heard()
      ? alive ? "This patch was not asked yet: click it." : "This patch was not asked before the page was saved."
      : `${unknown} of ${tokens - 1} patches were not asked${alive ? " yet" : " before the page was saved"}: they have no colour.`);
    if (!ranked.length) return void (told.textContent = "");
    const mean = ranked.reduce((sum, t) => sum + strength(t), 0) / ranked.length;
    const best = ranked[0], own = matrix[chosen * tokens + chosen];
    told.textContent = `In ${where()} the patch in ${place(chosen)} ${verb} that in ${place(best)}: ` +
      `${written(strength(best))}, ${(strength(best) / (mean || 1)).toFixed(1)} times the mean of the others, ${written(mean)}. ` +
      `Itself: ${written(own)}, hatched and left out of the scale, for skip connections carry every token to itself.`;
    if (hovered === null && other === null) live.textContent = told.textContent;
    const n = other === null || other === chosen ? -1 : ranked.indexOf(other);
    reading.textContent = n < 0 ? "Point at the map to read its numbers."
      : `${place(other)}: ${written(strength(other))}, number ${n + 1} of ${ranked.length}.`.replace("row", "Row");
  }

  // The map of the chosen patch; what is not known has no value.
  function numbers() {
    const chosen = token(), at = (t) => [Math.floor(t / gw), t % gw], strong = (t) => (Number.isNaN(strength(t)) ? "" : strength(t));
    return [["where", heard() ? "heard row" : "listening row", heard() ? "heard column" : "listening column", "row", "column", "influence"],
      ...Array.from({ length: tokens }, (_, t) => [where(), ...at(chosen), ...at(t), strong(t)])];
  }

  // --- pointing ------------------------------------------------------------------------------

  const patchAt = (event, canvas) => {
    const at = pointed(event, canvas);
    return at && Math.floor(at.y * gh) * gw + Math.floor(at.x * gw);
  };

  function follow(canvas, show) {
    canvas.addEventListener("pointermove", (event) => show(patchAt(event, canvas)), { signal });
    canvas.addEventListener("pointerleave", () => show(null), { signal });
    canvas.addEventListener("click", (event) => {
      const t = patchAt(event, canvas);
      if (t !== null) keep(t);
    }, { signal });
  }
  follow(image.canvas, (t) => {
    if (t === hovered) return;
    hovered = t;
    draw();
  });
  follow(map.canvas, (t) => {
    if (t === other) return;
    other = t;
    draw();
  });
  image.canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    hovered = null;
    const [row, column] = [get("row") + step[0], get("column") + step[1]];
    if (row >= 0 && row < gh && column >= 0 && column < gw) keep(row * gw + column);
  }, { signal });

  // --- the page ------------------------------------------------------------------------------

  const depth = slider(model, "block", { label: "block", min: 0, max: blocks - 1, signal });
  const all = h("button", { type: "button" }, "whole network");
  all.addEventListener("click", () => change(model, "whole", !get("whole")), { signal });
  const ask = h("button", { type: "button" }, `Ask all ${tokens} patches (minutes, for a large model)`);
  ask.addEventListener("click", () => change(model, "_asked", get("_asked") + 1), { signal });

  const legend = sheet(256, 1, { "aria-hidden": "true" });
  legend.pixels.set(lut);
  legend.show();
  const marksOfScale = [h("span"), h("span"), h("span")];
  map.node.append(h("div", { className: "legend" }, legend.canvas, ...marksOfScale));

  const bars = h("div");
  const rings = h("figure", { className: "rings" },
    h("figcaption", {}, h("b", {}, "By distance in patches"), ": shares of the others' sum, 1 for the eight around."), bars,
    h("figcaption", {}, "Lines: the shares if all counted alike."));
  const told = h("p", { className: "say" }), reading = h("p", { className: "say note" });
  const waits = h("p", { className: "say note waits", role: "status" }), live = spoken();
  const estimate = h("p", { className: "say note" }, "For the whole network these numbers are an estimate " +
    `from ${probes} random probes a patch${probes === 8 ? "; on a small trained model they are off by about 12 %" : ""}.`);

  function mode() {
    const whole = get("whole");
    all.setAttribute("aria-pressed", String(whole));
    depth.querySelector("input").disabled = whole;
    depth.style.opacity = whole ? 0.5 : 1;
    estimate.hidden = !whole || probes === null || get("_exact").includes(token());
  }

  const complete = () => Object.keys(get("_maps")).length > blocks;
  const root = h("div", { className: "mixer-lite influence" });
  const opener = photographOpener(model, root, signal);
  root.append(
    h("p", { className: "title" }, "Whom patches listen to"),
    h("div", { className: "row" }, depth, all,
      choice(model, "direction", { label: "map", options: [["listens", "whom it listens to"], ["heard", "who listens to it"]], signal }),
      choice(model, "one_scale", { label: "colours", options: [[false, "each map on its own scale"], [true, "one scale for all patches"]], signal })),
    h("div", { className: "row views" }, image.node, map.node, rings),
    waits, ask, told, reading, estimate,
    h("p", { className: "say note" }, "Point at a patch of the photograph; click, or use the arrow keys, to keep it. " +
      "A number says how strongly a token moves with another: the size, over all channels, of the derivative of one by the other."),
    h("div", { className: "row" }, opener.label, alive ? h("span", { className: "note" }, "or drop or paste one") : "", opener.problem),
    saver(root, "influence", signal, numbers),
    standsStill(model, complete() ? "Opening another photograph" : "Asking other patches or blocks, or opening another photograph"),
    live);
  el.append(root);

  const redraw = () => (readMatrix(), mode(), draw());
  listen(model, "block whole _maps", signal, redraw);
  listen(model, "row column direction one_scale _busy _exact", signal, () => (mode(), draw()));
  listen(model, "_image _count", signal, drawPhotograph);
  drawPhotograph();
  redraw();
  return () => {
    controller.abort();
    root.remove();
  };
}

export default { render };
