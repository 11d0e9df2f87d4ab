// A photograph under its evidence, bars of the classes, lines over the blocks.

const ROWS = 10; // bars
const LINES = 5; // classes followed through depth, and the chosen one
// Okabe and Ito's colours, told apart by colour-blind readers, on light and dark alike.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

const signed = (x, digits) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const plain = (x, digits) => (x < 0 ? "−" : "") + Math.abs(x).toFixed(digits);
const percent = (p) => `${(100 * p).toFixed(1)} %`;

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
  const live = answers(model);
  const classes = model.get("_classes"), { grid, patch, blocks, mean: meanColour, temperature = 1 } = model.get("_sizes");
  const [gh, gw] = grid, tokens = gh * gw;
  const colours = typed(model.get("_signed")), bias = unpack(model.get("_bias")).values;
  let cursor = null; // the patch pointed at, by its place
  let at = blocks; // the depth read out
  const root = h("div", { className: live ? "mixer-lite live" : "mixer-lite" });

  // --- which photograph ---
  const mean = h("button", { type: "button", title: "The numbers of all photographs, averaged" });
  mean.addEventListener("click", () => change(model, "averaged", !model.get("averaged")), { signal });
  const thumbnails = h("div", { className: "thumbnails", role: "group", "aria-label": "Photograph" });
  function drawThumbnails() {
    const photographs = model.get("_photographs");
    for (let i = thumbnails.children.length; i < photographs.length; i++) {
      const { pixels, label } = opened(photographs[i]);
      const small = sheet(gw * patch, gh * patch, { "aria-hidden": "true" });
      paint(small, pixels, null, [], null, 0, 1);
      const pick = () => {
        // All at once, so that Python answers once.
        model.set("averaged", false);
        model.set("image", i);
        model.set("covered", []);
        change(model, "shuffle", null);
      };
      thumbnails.append(h("button", { type: "button", title: label, onclick: pick }, small.canvas, h("span", {}, label)));
    }
    [...thumbnails.children].forEach((b, i) => b.setAttribute("aria-pressed", String(!model.get("averaged") && i === model.get("image"))));
    mean.textContent = `Mean of the ${photographs.length}`;
    mean.hidden = photographs.length < 2;
    mean.setAttribute("aria-pressed", String(model.get("averaged")));
  }

  const { label: opener, problem } = photographOpener(model, root, signal);

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
            const light = hidden.has(from) ? meanColour[c] : pixels[source + c];
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
    if (covered.includes(patchThere) === on || model.get("averaged")) return;
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
  const legend = sheet(255, 1, { role: "img", "aria-label": "Colours: from blue, the lowest, over white, 0, to red, the highest" });
  legend.pixels.set(pixelsOf(model.get("_signed")));
  legend.show();
  const sum = h("p", { className: "sum" }), scaleNote = h("p", { className: "note ends" });
  // The end of the colours: of all classes' maps of this photograph, or of this map alone; as it
  // was and as it is, so that covering does not change it silently.
  function scaleOf(state) {
    const { base, now, chosen } = state, all = model.get("one_scale") ? now.classes : [chosen];
    return Math.max(...all.flatMap((k) => [base, now].map((entry) => largest(mapOf(entry, { ...state, chosen: k }, tokens))))) || 1;
  }
  const logitOf = (b) => `${b < 0 ? "−" : "+"} bias ${Math.abs(b).toFixed(3)} = `;

  // A scale that changes says so.
  let lastScale = null;
  function tellScale(scale, name) {
    const now = scale.toPrecision(2), shared = model.get("one_scale");
    const before = lastScale && lastScale.now !== now ? `; before ±${lastScale.now}${lastScale.name === name ? "" : ` (${lastScale.name})`}` : "";
    scaleNote.textContent = `The colours end at ±${now}${shared ? ", for all classes of this photograph" : ` for ${name}`}${before}.`;
    if (lastScale?.now !== now || lastScale.name !== name) lastScale = { now, name };
  }

  function drawPhoto(state) {
    const { base, now, chosen, other, shows, covered, order } = state;
    const map = mapOf(now, state, tokens), scale = scaleOf(state), name = classes[chosen];
    const subject = { evidence: `what each says for ${name}`, deviation: `how much more or less than their mean each says for ${name}`, difference: `what each says for ${name} rather than ${classes[other]}` }[shows];
    paint(photo, base.pixels, order, covered, map, model.get("overlay") / 100, scale);
    drawMarks(state);
    photo.canvas.setAttribute("aria-label",
      `${base.label}, ${gh} by ${gw} patches, coloured by ${subject}. Arrow keys move from patch to patch` +
      (live ? ", the space bar covers or uncovers." : "."));
    const [low, high] = { evidence: ["against", "for it"], deviation: ["less", "more"], difference: [`for ${classes[other]}`, `for ${name}`] }[shows];
    legendNumbers[0].textContent = `${low} −${scale.toPrecision(2)}`;
    legendNumbers[1].textContent = `+${scale.toPrecision(2)} ${high}`;
    against.hidden = shows !== "difference";
    tellScale(scale, name);
    if (!map) {
      sum.textContent = model.get("averaged") ? `Not all photographs have numbers for ${name} here.` : live ? `The evidence for ${name} is being asked for.` : `The evidence for ${name} needs Python.`;
      return;
    }
    const own = evidenceOf(now, chosen, tokens), end = h("b", {}, `logit ${plain(now.logits[chosen], 3)}`);
    if (shows === "evidence") sum.replaceChildren(`Mean of the map ${plain(meanOf(own), 3)} ${logitOf(bias[chosen])}`, end, ` for ${name}`);
    else if (shows === "deviation") sum.replaceChildren(`The patches' mean ${plain(meanOf(own), 3)}, white here, ${logitOf(bias[chosen])}`, end, ` for ${name}`);
    else {
      const gap = now.logits[chosen] - now.logits[other];
      sum.replaceChildren(`Mean of the map ${plain(meanOf(map), 3)} ${logitOf(bias[chosen] - bias[other])}`,
        h("b", {}, `${plain(gap, 3)} between the logits`), (temperature === 1 ? ": " : `, ${plain(gap / temperature, 3)} divided by the temperature: `) + `${name} is e to that = ${Math.exp(gap / temperature).toPrecision(3)} times as probable as ${classes[other]}`);
    }
  }

  // One sentence about the patch pointed at.
  function tell() {
    const state = seen(model), { now, chosen, shows, covered, order } = state;
    const map = mapOf(now, state, tokens);
    if (cursor === null || !map) {
      told.textContent = live
        ? "Point at a patch to read it. Click or drag to cover patches, again to uncover them."
        : "Point at a patch to read it.";
      return;
    }
    const from = order ? order[cursor] : cursor, own = evidenceOf(now, chosen, tokens)[cursor];
    const where = `Row ${Math.floor(cursor / gw)}, column ${cursor % gw}`;
    const hidden = covered.includes(from) ? ", covered," : "";
    const said = {
      evidence: () => `${signed(own, 2)} for ${classes[chosen]}: ${signed(own / tokens, 3)} of the logit (a ${tokens}th)`,
      deviation: () => `${signed(own, 2)} for ${classes[chosen]}, ${signed(map[cursor], 2)} beside the mean`,
      difference: () => `${signed(map[cursor], 2)} for ${classes[chosen]} rather than ${classes[state.other]}`,
    }[shows]();
    told.textContent = spoken.textContent = `${where}${hidden} says ${said}.`;
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

  // What the page knows of the photograph now, one number a row.
  function numbers() {
    const { now } = seen(model), rows = [["quantity", "class", "row", "column", "value"]];
    now.classes.forEach((k) => {
      rows.push(["logit", classes[k], "", "", now.logits[k]], ["probability", classes[k], "", "", now.probabilities[k]]);
      evidenceOf(now, k, tokens).forEach((e, t) => rows.push(["evidence", classes[k], Math.floor(t / gw), t % gw, e]));
      for (let n = 0; n <= blocks; n++) rows.push([`probability after ${n} blocks`, classes[k], "", "", depthOf(now, k, n)]);
    });
    return rows;
  }

  // --- controls ---
  const whichClass = choice(model, "class_index", {
    label: "Evidence for", signal,
    options: [[null, "the most probable class"], ...classes.map((name, k) => [k, name])],
  });
  const whichMap = choice(model, "shows", {
    label: "Map", signal,
    options: [["deviation", "where patches say more, where less"], ["difference", "one class rather than another"], ["evidence", "evidence as it is"]],
  });
  const against = choice(model, "rather_than", {
    label: "rather than", signal,
    options: [[null, "the most probable other"], ...classes.map((name, k) => [k, name])],
  });
  const colouring = choice(model, "one_scale", {
    label: "Colours", signal,
    options: [[false, "each map on its own scale"], [true, "one scale for all classes"]],
  });
  const strength = slider(model, "overlay", { label: "Overlay", min: 0, max: 100, signal, say: (x) => `${x} %` });
  let seed = -1; // each press another order
  const shuffle = h("button", { type: "button", disabled: !live, onclick: () => change(model, "shuffle", ++seed) }, "Shuffle patches");
  const unshuffle = h("button", { type: "button", onclick: () => change(model, "shuffle", null) }, "Put them back");
  const reset = h("button", { type: "button", onclick: () => {
    model.set("covered", []);
    model.set("shuffle", null);
    setAll(model, { averaged: false, class_index: null, rather_than: null, shows: "deviation", one_scale: false });
    change(model, "overlay", 50);
  } }, "Reset");
  const title = h("p", { className: "answer", role: "status" });

  function draw() {
    const state = seen(model), { base, now, changed, covered } = state;
    const top = now.probabilities.indexOf(Math.max(...now.probabilities));
    const was = changed ? `; as it was: ${classes[base.top]}, ${percent(base.probabilities[base.top])}` : "";
    const shuffled = model.get("shuffle") === null ? "" : `patches shuffled (seed ${model.get("shuffle")})`;
    const hidden = covered.length ? `${covered.length} of ${tokens} patches covered` : "";
    title.replaceChildren(model.get("averaged") ? `On average over ${model.get("_photographs").length} photographs the model says `
      : `Photograph “${[base.label + "”", hidden, shuffled].filter(Boolean).join(", ")}: the model says `,
      h("b", {}, `${classes[top]}, ${percent(now.probabilities[top])}`), was);
    drawThumbnails();
    drawPhoto(state);
    drawBars(state);
    drawDepth(state);
    tell();
    shuffle.disabled = !live || model.get("averaged");
    unshuffle.disabled = model.get("shuffle") === null;
    root.setAttribute("aria-busy", String(state.waiting));
    root.dataset.covered = String(covered.length);
    if (!live) // evidence that is not in the page
      for (const select of [whichClass, against])
        [...select.querySelectorAll("option")].forEach((o, k) => (o.disabled = k > 0 && !base.classes.includes(k - 1)));
  }

  root.append(
    h("h3", {}, `Why this prediction? ${model.get("_name")}`),
    h("div", { className: "row" }, thumbnails, mean, opener, live ? h("span", { className: "note" }, "or drop or paste one") : ""), problem, title,
    h("div", { className: "panes" },
      h("div", { className: "photo" },
        h("div", { className: "row" }, whichClass, whichMap, against, colouring, strength), stage,
        h("div", { className: "scale" }, legendNumbers[0], legend.canvas, legendNumbers[1]), scaleNote, sum, told, spoken,
        h("div", { className: "row" }, shuffle, unshuffle, reset)),
      h("div", {},
        h("h3", {}, "What it says"), bars,
        h("p", { className: "note" }, `Choose a class to see its evidence. ${calibration(model.get("_sizes"))}`),
        h("div", { className: "depth" }, h("h3", {}, "Had it ended earlier"), chart, readout,
          h("p", { className: "note" }, "Final norm, mean and head after each block; they were trained for the last one only.")))),
    saver(root, "prediction", signal, numbers),
    standsStill(model, "Covering, shuffling or opening another photograph"));
  listen(model, "image averaged class_index shows rather_than one_scale covered shuffle overlay _photographs _now", signal, schedule);
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

export default { render };
