// A photograph under its evidence, bars of the classes, lines over the blocks.

const ROWS = 10; // bars
const LINES = 5; // classes followed through depth, and the chosen one
// Okabe and Ito's colours, told apart by colour-blind readers, on light and dark alike.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];
const LARGEST = 8e6; // bytes of a file: a longer message would break the connection to Python

const signed = (x, digits) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const plain = (x, digits) => (x < 0 ? "−" : "") + Math.abs(x).toFixed(digits);
const percent = (p) => `${(100 * p).toFixed(1)} %`;
const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);

// What Python sent of one photograph, ready to read; each entry is opened once.
const openEntries = new WeakMap();
function opened(entry) {
  if (!openEntries.has(entry)) {
    const arrays = ["evidence", "logits", "probabilities", "depth", "pixels", "order"];
    const ready = { ...entry };
    for (const name of arrays) if (name in entry) ready[name] = unpack(entry[name]).values;
    openEntries.set(entry, ready);
  }
  return openEntries.get(entry);
}

// What is to be seen now: the photograph as it was, and as it is with patches covered or moved.
function seen(model) {
  const base = opened(model.get("_photographs")[model.get("image")]);
  const covered = model.get("covered"), shuffle = model.get("shuffle");
  const changed = covered.length > 0 || shuffle !== null;
  const chosen = model.get("class_index") ?? base.top;
  const sent = model.get("_now");
  const answer = sent && sent.image === model.get("image") ? opened(sent) : null;
  // Until Python has answered, the page shows what it last said of this photograph.
  const now = answer && (changed || !base.classes.includes(chosen)) ? answer : base;
  const order = changed && answer && answer.shuffle === shuffle ? answer.order : null;
  const waiting = changed && !(answer && answer.shuffle === shuffle && same(answer.covered, covered));
  return { base, now, changed, chosen, covered, order, waiting };
}

// The evidence of a class, (gh gw) numbers, or null where Python has not sent it.
function evidenceOf(entry, chosen, tokens) {
  const k = entry.classes.indexOf(chosen);
  return k < 0 ? null : entry.evidence.subarray(k * tokens, (k + 1) * tokens);
}

const largest = (values) => (values ?? []).reduce((top, x) => Math.max(top, Math.abs(x)), 0);

// Classes with bars: the most probable of the photograph as it was, so that rows stand still;
// what leads now, and what is chosen, replace the last ones.
function rowsOf({ base, now, chosen }) {
  const rank = (p, n) => Array.from(p.keys()).sort((a, b) => p[b] - p[a]).slice(0, n);
  const rows = rank(base.probabilities, ROWS);
  const wanted = [...rank(now.probabilities, 2), chosen].filter((k) => !rows.includes(k));
  const extra = [...new Set(wanted)];
  return extra.length ? [...rows.slice(0, rows.length - extra.length), ...extra] : rows;
}

// Lines through depth, and their colours: the first bars, and the chosen class.
function linesOf(state) {
  const rows = rowsOf(state), lines = rows.slice(0, LINES);
  if (!lines.includes(state.chosen)) lines.push(state.chosen);
  return lines;
}

function render({ model, el }) {
  const stop = new AbortController(), { signal } = stop;
  const live = !(model instanceof PageModel);
  const classes = model.get("_classes"), { grid, patch, blocks, mean } = model.get("_sizes");
  const [gh, gw] = grid, tokens = gh * gw;
  const colours = typed(model.get("_signed")), bias = unpack(model.get("_bias")).values;
  let cursor = null; // the patch pointed at, by its place
  let at = blocks; // the depth read out
  const root = h("div", { className: live ? "mixer-lite live" : "mixer-lite" });

  // --- which photograph ---
  const thumbnails = h("div", { className: "thumbnails", role: "group", "aria-label": "Photograph" });
  function drawThumbnails() {
    const photographs = model.get("_photographs");
    for (let i = thumbnails.children.length; i < photographs.length; i++) {
      const { pixels, label } = opened(photographs[i]);
      const small = sheet(gw * patch, gh * patch, { "aria-hidden": "true" });
      paint(small, pixels, null, [], null, 0, 1);
      const pick = () => {
        // All at once, so that Python answers once.
        model.set("image", i);
        model.set("covered", []);
        change(model, "shuffle", null);
      };
      thumbnails.append(h("button", { type: "button", title: label, onclick: pick }, small.canvas, h("span", {}, label)));
    }
    [...thumbnails.children].forEach((b, i) => b.setAttribute("aria-pressed", String(i === model.get("image"))));
  }

  const file = h("input", { type: "file", accept: "image/*", className: "unseen", disabled: !live });
  const open = h("label", { className: live ? "file" : "file off" }, "Open a photograph of yours…", file);
  const problem = h("p", { className: "alert", role: "alert" });
  file.addEventListener("change", () => send(file.files[0]), { signal });
  async function send(chosen) {
    if (!chosen) return;
    file.value = ""; // so that the same file can be chosen again
    problem.textContent = "";
    try {
      const small = chosen.size > LARGEST ? await shrunk(chosen) : chosen;
      const bytes = await small.arrayBuffer();
      if (!signal.aborted) change(model, "_upload", { name: chosen.name, data: new DataView(bytes) });
    } catch {
      problem.textContent = `Cannot read ${chosen.name}: it is too large and the browser cannot shrink it; make it smaller first.`;
    }
  }

  // --- the photograph under its evidence ---
  const photo = sheet(gw * patch, gh * patch, {
    tabIndex: 0, role: live ? "application" : "img", className: "seen",
  });
  const marks = h("canvas", { className: "marks", width: gw * 24, height: gh * 24, "aria-hidden": "true" });
  const stage = h("div", { className: "stage" }, photo.canvas, marks);
  const spoken = h("p", { className: "unseen", role: "status" });
  const told = h("p", { className: "note patch" });

  // Photograph, covered and shuffled, blended with the colours of its evidence.
  function paint(target, pixels, order, covered, evidence, alpha, scale) {
    const out = new Uint8ClampedArray(target.pixels.buffer), width = gw * patch;
    const hidden = new Set(covered);
    for (let place = 0; place < tokens; place++) {
      const from = order ? order[place] : place;
      const step = evidence ? 127 + Math.max(-127, Math.min(127, Math.round((127 * evidence[place]) / scale))) : 0;
      const a = evidence ? alpha : 0;
      for (let y = 0; y < patch; y++) {
        let to = ((Math.floor(place / gw) * patch + y) * width + (place % gw) * patch) * 4;
        let source = ((Math.floor(from / gw) * patch + y) * width + (from % gw) * patch) * 3;
        for (let x = 0; x < patch; x++, to += 4, source += 3) {
          for (let c = 0; c < 3; c++) {
            const light = hidden.has(from) ? mean[c] : pixels[source + c];
            out[to + c] = Math.round((1 - a) * light + a * colours[4 * step + c]);
          }
          out[to + 3] = 255;
        }
      }
    }
    target.show();
  }

  // Crosses on covered patches, a frame round the one pointed at.
  function drawMarks({ covered, order }) {
    const pen = marks.getContext("2d"), hidden = new Set(covered);
    pen.clearRect(0, 0, marks.width, marks.height);
    for (let place = 0; place < tokens; place++) {
      const x = (place % gw) * 24, y = Math.floor(place / gw) * 24;
      if (hidden.has(order ? order[place] : place)) {
        for (const [width, ink] of [[3, "#fff"], [1.2, "#000"]]) {
          pen.lineWidth = width;
          pen.strokeStyle = ink;
          pen.beginPath();
          pen.moveTo(x + 7, y + 7);
          pen.lineTo(x + 17, y + 17);
          pen.moveTo(x + 17, y + 7);
          pen.lineTo(x + 7, y + 17);
          pen.stroke();
        }
      }
      if (place === cursor) {
        for (const [width, ink] of [[5, "#fff"], [2, "#000"]]) {
          pen.lineWidth = width;
          pen.strokeStyle = ink;
          pen.strokeRect(x + 2, y + 2, 20, 20);
        }
      }
    }
  }

  // --- pointing and covering ---
  const placeOf = (event) => {
    const box = photo.canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * gw);
    const y = Math.floor(((event.clientY - box.top) / box.height) * gh);
    return x < 0 || y < 0 || x >= gw || y >= gh ? null : y * gw + x;
  };
  // Cover (true) or uncover the patch at a place.
  function cover(place, on) {
    const { covered, order } = seen(model), patchThere = order ? order[place] : place;
    if (covered.includes(patchThere) === on) return;
    const next = on ? [...covered, patchThere].sort((a, b) => a - b) : covered.filter((k) => k !== patchThere);
    change(model, "covered", next);
  }
  const isCovered = (place) => {
    const { covered, order } = seen(model);
    return covered.includes(order ? order[place] : place);
  };
  let brush = null; // while a button is down: cover or uncover
  function point(place) {
    if (place === cursor) return;
    cursor = place;
    drawMarks(seen(model));
    tell();
  }
  function onPointer(type, action) {
    photo.canvas.addEventListener(type, action, { signal });
  }
  onPointer("pointerdown", (event) => {
    const place = placeOf(event);
    point(place);
    if (!live || place === null || event.button !== 0) return;
    photo.canvas.setPointerCapture(event.pointerId);
    brush = !isCovered(place);
    cover(place, brush);
  });
  onPointer("pointermove", (event) => {
    const place = placeOf(event);
    point(place);
    if (brush !== null && place !== null) cover(place, brush);
  });
  for (const end of ["pointerup", "pointercancel"]) onPointer(end, () => (brush = null));
  onPointer("pointerleave", () => brush === null && point(null));
  onPointer("blur", () => point(null));
  onPointer("focus", () => cursor === null && photo.canvas.matches(":focus-visible") && point(0));
  onPointer("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in steps) {
      const [dx, dy] = steps[event.key], from = cursor ?? 0;
      const x = Math.max(0, Math.min(gw - 1, (from % gw) + dx));
      const y = Math.max(0, Math.min(gh - 1, Math.floor(from / gw) + dy));
      point(cursor === null ? 0 : y * gw + x);
    } else if ((event.key === " " || event.key === "Enter") && cursor !== null) {
      if (live) cover(cursor, !isCovered(cursor));
    } else return;
    event.preventDefault();
    event.stopPropagation(); // the arrows are not for the notebook
  });

  // --- the sum ---
  const legendNumbers = [h("span"), h("span")];
  const legend = sheet(255, 1, { role: "img", "aria-label": "Colours: blue speaks against the class, red for it, white says nothing" });
  legend.pixels.set(pixelsOf(model.get("_signed")));
  legend.show();
  const sum = h("p", { className: "sum" });
  const scaleOf = ({ base, now, chosen }) =>
    Math.max(largest(evidenceOf(base, chosen, tokens)), largest(evidenceOf(now, chosen, tokens))) || 1;

  function drawPhoto(state) {
    const { base, now, chosen, covered, order } = state;
    const evidence = evidenceOf(now, chosen, tokens), scale = scaleOf(state), name = classes[chosen];
    paint(photo, base.pixels, order, covered, evidence, model.get("overlay") / 100, scale);
    drawMarks(state);
    photo.canvas.setAttribute("aria-label",
      `${base.label}, ${gh} by ${gw} patches, coloured by what each says for ${name}. Arrow keys move from patch to patch` +
      (live ? ", the space bar covers or uncovers." : "."));
    legendNumbers[0].textContent = `against −${scale.toFixed(1)}`;
    legendNumbers[1].textContent = `+${scale.toFixed(1)} for it`;
    if (!evidence) {
      sum.textContent = live ? `Python is asked for the evidence for ${name}.` : `The evidence for ${name} needs Python.`;
      return;
    }
    const average = evidence.reduce((a, b) => a + b, 0) / tokens, b = bias[chosen];
    sum.replaceChildren(
      `Mean of the map ${plain(average, 3)} ${b < 0 ? "−" : "+"} bias ${Math.abs(b).toFixed(3)} = `,
      h("b", {}, `logit ${plain(now.logits[chosen], 3)}`), ` for ${name}`);
  }

  // One sentence about the patch pointed at.
  function tell() {
    const { now, chosen, covered, order } = seen(model);
    const evidence = evidenceOf(now, chosen, tokens);
    if (cursor === null || !evidence) {
      told.textContent = live
        ? "Point at a patch to read it. Click or drag to cover patches, again to uncover them."
        : "Point at a patch to read it.";
      return;
    }
    const from = order ? order[cursor] : cursor, e = evidence[cursor];
    const where = `Row ${Math.floor(cursor / gw)}, column ${cursor % gw}`;
    const hidden = covered.includes(from) ? ", covered," : "";
    told.textContent = spoken.textContent =
      `${where}${hidden} says ${signed(e, 2)} for ${classes[chosen]}: ${signed(e / tokens, 3)} of the logit (a ${tokens}th).`;
  }

  // --- bars ---
  const head = h("div", { className: "head", "aria-hidden": "true" }, h("span"), h("span", {}, "probability"), h("span", {}, "logit"));
  const bars = h("div", { className: "bars", role: "group", "aria-label": "Class whose evidence is shown" }, head);
  const count = Math.min(ROWS, classes.length);
  const barRows = Array.from({ length: count }, () => {
    const part = (className) => h("span", { className });
    const row = { name: part("name"), fill: part("fill"), before: part("before"), p: part("number"), logit: part("number") };
    row.node = h("button", { type: "button", onclick: () => change(model, "class_index", row.index) },
      row.name, h("span", { className: "bar" }, row.fill, row.before), row.p, row.logit);
    bars.append(row.node);
    return row;
  });

  function drawBars(state) {
    const { base, now, changed, chosen } = state, lines = linesOf(state);
    rowsOf(state).forEach((k, i) => {
      const row = barRows[i], p = now.probabilities[k], was = base.probabilities[k];
      row.index = k;
      row.name.textContent = classes[k];
      row.name.title = classes[k];
      row.fill.style.width = `${100 * p}%`;
      row.before.style.width = `${100 * was}%`;
      row.before.hidden = !changed;
      const old = (text) => (changed ? [h("span", { className: "old" }, `was ${text}`)] : []);
      row.p.replaceChildren(percent(p), ...old(percent(was)));
      row.logit.replaceChildren(plain(now.logits[k], 2), ...old(plain(base.logits[k], 2)));
      row.node.style.setProperty("--class", lines.includes(k) ? COLOURS[lines.indexOf(k)] : "#888");
      row.node.setAttribute("aria-pressed", String(k === chosen));
      row.node.setAttribute("aria-label", `${classes[k]}: probability ${percent(p)}, logit ${plain(now.logits[k], 2)}` +
        (changed ? `; before ${percent(was)}, ${plain(base.logits[k], 2)}` : ""));
    });
  }

  // --- depth ---
  const W = 340, H = 150, L = 44, R = 10, T = 8, B = 30;
  const X = (n) => L + ((W - L - R) * n) / blocks, Y = (p) => T + (H - T - B) * (1 - p);
  const chart = svg("svg", { viewBox: `0 0 ${W} ${H}`, tabindex: 0, role: "slider", "aria-label": "Blocks passed", "data-lm-suppress-shortcuts": "true", "aria-valuemin": 0, "aria-valuemax": blocks });
  const paths = svg("g", { fill: "none", "stroke-linejoin": "round" });
  const needle = svg("line", { y1: Y(1), y2: Y(0), stroke: "currentColor", "stroke-dasharray": "2 2" });
  const readout = h("p", { className: "readout" });
  for (const p of [0, 0.5, 1])
    chart.append(svg("line", { x1: L, x2: W - R, y1: Y(p), y2: Y(p), stroke: "currentColor", opacity: 0.2 }),
      svg("text", { x: L - 5, y: Y(p) + 4, "text-anchor": "end" }, `${100 * p} %`));
  for (let n = 0; n <= blocks; n += blocks > 12 ? 4 : 1)
    chart.append(svg("text", { x: X(n), y: H - B + 14, "text-anchor": "middle" }, String(n)));
  chart.append(svg("text", { x: (L + W - R) / 2, y: H - 3, "text-anchor": "middle" }, "blocks passed"), paths, needle);

  const depthOf = (entry, k, n) => entry.depth[n * entry.classes.length + entry.classes.indexOf(k)];
  function drawDepth(state) {
    const { base, now, changed, chosen } = state, lines = linesOf(state);
    const curve = (entry, k, look) => {
      const points = Array.from({ length: blocks + 1 }, (_, n) => `${X(n).toFixed(1)},${Y(depthOf(entry, k, n)).toFixed(1)}`);
      return svg("polyline", { points: points.join(" "), ...look });
    };
    const drawn = [];
    lines.forEach((k, i) => {
      if (changed && base.classes.includes(k)) drawn.push(curve(base, k, { stroke: COLOURS[i], "stroke-width": 1.2, "stroke-dasharray": "3 3", opacity: 0.7 }));
      if (now.classes.includes(k)) drawn.push(curve(now, k, { stroke: COLOURS[i], "stroke-width": k === chosen ? 3.2 : 1.7 }));
    });
    paths.replaceChildren(...drawn);
    readDepth(state);
  }
  function readDepth(state) {
    const { now } = state, lines = linesOf(state).filter((k) => now.classes.includes(k));
    const where = at === 0 ? "Before the first block" : at === blocks ? `After all ${blocks} blocks, the answer` : `After block ${at} of ${blocks}`;
    needle.setAttribute("x1", X(at));
    needle.setAttribute("x2", X(at));
    const best = [...lines].sort((a, b) => depthOf(now, b, at) - depthOf(now, a, at));
    readout.replaceChildren(`${where}: `, ...best.map((k) => {
      const swatch = h("i");
      swatch.style.setProperty("--class", COLOURS[linesOf(state).indexOf(k)]);
      return h("span", {}, swatch, `${classes[k]} ${percent(depthOf(now, k, at))}`);
    }));
    chart.setAttribute("aria-valuenow", at);
    chart.setAttribute("aria-valuetext", readout.textContent);
  }
  function readAt(n) {
    at = Math.max(0, Math.min(blocks, n));
    readDepth(seen(model));
  }
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    readAt(Math.round((((event.clientX - box.left) / box.width) * W - L) / ((W - L - R) / blocks)));
  }, { signal });
  chart.addEventListener("pointerleave", () => readAt(blocks), { signal });
  chart.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: blocks }[event.key];
    if (to === undefined) return;
    readAt(to);
    event.preventDefault();
    event.stopPropagation();
  }, { signal });

  // --- controls ---
  const whichClass = choice(model, "class_index", {
    label: "Evidence for", signal,
    options: [[null, "the most probable class"], ...classes.map((name, k) => [k, name])],
  });
  const strength = slider(model, "overlay", { label: "Overlay", min: 0, max: 100, signal, say: (x) => `${x} %` });
  let seed = -1; // each press another order
  const shuffle = h("button", { type: "button", disabled: !live, onclick: () => change(model, "shuffle", ++seed) }, "Shuffle patches");
  const unshuffle = h("button", { type: "button", onclick: () => change(model, "shuffle", null) }, "Put them back");
  const reset = h("button", { type: "button", onclick: () => {
    model.set("covered", []);
    model.set("shuffle", null);
    model.set("class_index", null);
    change(model, "overlay", 50);
  } }, "Reset");
  const title = h("p", { className: "answer", role: "status" });

  function draw() {
    const state = seen(model), { base, now, changed, covered } = state;
    const top = now.probabilities.indexOf(Math.max(...now.probabilities));
    const was = changed ? `; as it was: ${classes[base.top]}, ${percent(base.probabilities[base.top])}` : "";
    const shuffled = model.get("shuffle") === null ? "" : `patches shuffled (seed ${model.get("shuffle")})`;
    const hidden = covered.length ? `${covered.length} of ${tokens} patches covered` : "";
    title.replaceChildren(`Photograph “${[base.label + "”", hidden, shuffled].filter(Boolean).join(", ")}: the model says `,
      h("b", {}, `${classes[top]}, ${percent(now.probabilities[top])}`), was);
    drawThumbnails();
    drawPhoto(state);
    drawBars(state);
    drawDepth(state);
    tell();
    unshuffle.disabled = model.get("shuffle") === null;
    root.setAttribute("aria-busy", String(state.waiting));
    root.dataset.covered = String(covered.length);
    if (!live) // evidence that is not in the page
      [...whichClass.querySelectorAll("option")].forEach((o, k) => (o.disabled = k > 0 && !base.classes.includes(k - 1)));
    problem.textContent = model.get("message");
  }

  root.append(
    h("h3", {}, `Why this prediction? ${model.get("_name")}`),
    h("div", { className: "row" }, thumbnails), h("div", { className: "row" }, open), problem, title,
    h("div", { className: "panes" },
      h("div", { className: "photo" },
        h("div", { className: "row" }, whichClass, strength), stage,
        h("div", { className: "scale" }, legendNumbers[0], legend.canvas, legendNumbers[1]), sum, told, spoken,
        h("div", { className: "row" }, shuffle, unshuffle, reset)),
      h("div", {},
        h("h3", {}, "What it says"), bars,
        h("p", { className: "note" }, "Choose a class to see its evidence."),
        h("div", { className: "depth" }, h("h3", {}, "Had it ended earlier"), chart, readout,
          h("p", { className: "note" }, "Final norm, mean and head after each block; they were trained for the last one only.")))),
    withoutPython(model, "Covering, shuffling or opening another photograph"));
  listen(model, "image class_index covered shuffle overlay message _photographs _now", signal, schedule);
  let frame = 0; // several traits change at once: one drawing
  function schedule() {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(draw);
  }
  draw();
  el.append(root);
  return () => {
    stop.abort();
    cancelAnimationFrame(frame);
    root.remove();
  };
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

export default { render };
