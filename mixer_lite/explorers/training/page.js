// A run's curves over its steps, the filters of one block at one of them, what pictures are taken for.

const GAP = 1; // pixels between maps
const PLAY = 240; // milliseconds a snapshot
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"]; // of Okabe and Ito
const RIGHT = "#009e73", WRONG = "#999999";
const W = 340, L = 40, R = 8, T = 6; // of a chart, in its own units

const percent = (p) => `${(100 * p).toFixed(0)} %`;
const whole = (n) => n.toLocaleString("en-US");
const signed = (v) => (v < 0 ? "−" : "") + Math.abs(v).toFixed(2);

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// Some round numbers between two ends.
function ticks(low, high, most) {
  const rough = (high - low) / most || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((n) => n * power >= rough * 0.999);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * step; v += step) found.push(v);
  return found;
}

// The last of rising steps that is not behind this one, or -1.
function before(steps, step) {
  let k = -1;
  while (k + 1 < steps.length && steps[k + 1] <= step) k++;
  return k;
}

// Lines over steps with a needle at one of them; below, their values there.
function chart(tall, title) {
  const bottom = tall - 22;
  const back = svg("g"), lines = svg("g", { fill: "none", "stroke-linejoin": "round", "stroke-width": 1.8 });
  const needle = svg("line", { y1: T, y2: bottom, stroke: "currentColor", "stroke-dasharray": "2 2" });
  const picture = svg("svg", { viewBox: `0 0 ${W} ${tall}`, role: "img" }, back, lines, needle);
  const heading = h("strong", {}, title), readout = h("figcaption", { className: "readout" });
  const node = h("figure", {}, heading, picture, readout);

  // x: step -> 0 ... 1; series: { name, colour, steps, values, say, dash }.
  function draw({ x, total, log, at, low, high, label, series }) {
    const X = (step) => L + (W - L - R) * x(step);
    const Y = (v) => bottom - ((bottom - T) * (v - low)) / (high - low);
    const across = total < 2 ? [] : log ? [0, 10, 100, 1000, 1e4, 1e5, 1e6].filter((s) => s <= total) : ticks(0, total, 4);
    back.replaceChildren(
      ...ticks(low, high, 3).flatMap((v) => [
        svg("line", { x1: L, x2: W - R, y1: Y(v), y2: Y(v), stroke: "currentColor", opacity: 0.18 }),
        svg("text", { x: L - 5, y: Y(v) + 4, "text-anchor": "end" }, label(v))]),
      svg("text", { x: 0, y: tall - 4 }, "step"),
      ...across.map((s) => svg("text", { x: X(s), y: tall - 4, "text-anchor": s && X(s) > W - 24 ? "end" : "middle" }, whole(s))));
    lines.replaceChildren(...series.map(({ colour, steps, values, dash }) => {
      const points = Array.from(steps, (step, k) => `${X(step).toFixed(1)},${Y(values[k]).toFixed(1)}`);
      if (points.length === 1) points.push(points[0]); // a line of one point is not seen
      return svg("polyline", { points: points.join(" "), stroke: colour, "stroke-linecap": "round", ...(dash ? { "stroke-dasharray": dash } : {}) });
    }));
    needle.setAttribute("x1", X(at));
    needle.setAttribute("x2", X(at));
    const told = series.map(({ name, colour, steps, values, say }) => {
      const swatch = h("i"), k = before(steps, at);
      swatch.style.setProperty("--line-colour", colour);
      return [h("span", {}, swatch, `${name} ${k < 0 ? "not yet" : say(values[k])}`)];
    }).flat();
    readout.replaceChildren(...told);
    picture.setAttribute("aria-label", `${title}, at step ${whole(at)}: ${readout.textContent}`);
  }
  return { node, picture, heading, readout, draw };
}

function render({ model, el }) {
  const controller = new AbortController(), { signal } = controller;
  const get = (name) => model.get(name);
  const alive = answers(model);
  const { blocks, units, gh, gw, columns, live } = get("_sizes");
  const size = gh * gw, lut = pixelsOf(get("_signed")), names = get("_measures");

  // --- what Python sent, ready to read -------------------------------------------------------

  const opened = new WeakMap(); // entries are replaced, never changed
  function open(entry) {
    if (!opened.has(entry)) opened.set(entry, unpack(entry));
    return opened.get(entry);
  }
  const frames = () => get("_frames");
  const numbers = (name) => (get("_live")[name] ? open(get("_live")[name]).values : []);
  const chosen = () => (get("frame") === null ? frames().length - 1 : Math.min(get("frame"), frames().length - 1));
  const newest = () => get("frame") === null;
  const frameStep = (k) => frames()[k]?.step ?? 0;
  // The step that everything is shown at.
  const at = () => (newest() ? Math.max(get("_live").step ?? 0, frameStep(chosen())) : frameStep(chosen()));
  const total = () => Math.max(get("_live").total ?? 0, frameStep(frames().length - 1), 1);

  // --- filters ---------------------------------------------------------------------------------

  const rows = Math.ceil(units / columns), plain = Int32Array.from({ length: units }, (_, i) => i);
  const grid = sheet(columns * (gw + GAP), rows * (gh + GAP), { className: "units", role: "img" });
  const mapsTitle = h("strong");
  const legend = sheet(255, 1, { "aria-hidden": "true", style: "width:8em;height:0.8em" });
  legend.pixels.set(lut);
  legend.show();
  const legendNote = h("span", { className: "note" });
  const orderNote = h("span", { className: "note", hidden: true }, "Pairs are found when the run stops or is done; until then units stand by index.");

  // Maps and scales of the block, and the step that they are of.
  function shownMaps() {
    const { block, maps, step } = get("_live");
    if (newest() && maps && block === get("block") && step > frameStep(chosen()))
      return { step, maps: open(maps).values, scales: open(maps.scale).values, from: 0 };
    const frame = frames()[chosen()];
    if (!frame) return null;
    return { step: frame.step, maps: open(frame.maps).values, scales: open(frame.maps.scale).values, from: get("block") * units };
  }

  // The largest weight of the block at any snapshot.
  function largest() {
    let most = 0;
    for (const { maps } of frames()) {
      const scales = open(maps.scale).values;
      for (let u = 0; u < units; u++) most = Math.max(most, scales[get("block") * units + u]);
    }
    return most || 1;
  }

  function drawMaps() {
    const shown = shownMaps(), block = get("block"), paired = get("order") === "pairs";
    orderNote.hidden = !paired || Boolean(get("_pairs").data);
    if (!shown) return;
    const order = paired && get("_pairs").data
      ? open(get("_pairs")).values.subarray(block * units, (block + 1) * units) : plain;
    const shared = get("scale") === "block", most = shared ? largest() : 1;
    for (let k = 0; k < units; k++) {
      const unit = shown.from + order[k], gain = shared ? shown.scales[unit] / most : 1;
      let read = unit * size;
      const left = (k % columns) * (gw + GAP), top = Math.floor(k / columns) * (gh + GAP);
      for (let y = 0; y < gh; y++) {
        let write = (top + y) * grid.width + left;
        for (let x = 0; x < gw; x++) {
          const step = Math.max(-127, Math.min(127, Math.round(shown.maps[read++] * gain)));
          grid.pixels[write++] = lut[127 + step];
        }
      }
    }
    grid.show();
    mapsTitle.textContent = `What the ${units} units of block ${block} read, step ${whole(shown.step)}`;
    grid.canvas.setAttribute("aria-label", `${mapsTitle.textContent}: each a small map of ${gh} by ${gw} patches. ${measured.readout.textContent}`);
    legendNote.textContent = shared ? `negative to positive weights, to ±${(127 * most).toPrecision(2)} at all steps`
      : "negative to positive weights, each map to its own largest";
  }

  // Whole screen pixels a weight where at least two fit, so that no weight looks wider than another.
  function fit() {
    const ratio = window.devicePixelRatio || 1, room = (maps.clientWidth * ratio) / grid.width;
    grid.canvas.style.width = `${((room >= 2 ? Math.floor(Math.min(room, 6)) : room) * grid.width) / ratio}px`;
  }

  // --- curves ----------------------------------------------------------------------------------

  const loss = chart(116, "Loss of the batches it learns from");
  const share = chart(104, "");
  const measured = chart(134, "");
  const frameSteps = () => frames().map(({ step }) => step);

  function drawCurves() {
    const all = total(), log = get("axis") === "log", steps = numbers("steps");
    const x = log ? (s) => Math.log1p(s) / Math.log1p(all) : (s) => s / all;
    const common = { x, total: all, log, at: at() };
    const losses = numbers("loss");
    const [least, most] = losses.length ? [Math.min(...losses), Math.max(...losses)] : [0, 3];
    const room = Math.max(0.05, (most - least) * 0.06);
    loss.draw({ ...common, low: Math.max(0, least - room), high: most + room, label: (v) => String(Math.round(100 * v) / 100),
      series: [{ name: "loss", colour: COLOURS[0], steps, values: losses, say: (v) => v.toFixed(3) }] });
    const { count = 0, known = 0 } = get("_examples"), right = numbers("measured");
    const held = numbers("held_at");
    share.heading.textContent = right.length || held.length ? "Accuracy and learning rate" : "Learning rate";
    const series = [{ name: "learning rate", colour: "#888888", dash: "4 3", steps, values: numbers("lr"), say: (v) => `${percent(v)} of its peak` }];
    if (right.length || count)
      series.unshift({ name: "accuracy", colour: COLOURS[1], steps: right, values: numbers("accuracy"), say: percent });
    if (held.length)
      series.unshift({ name: "accuracy, held out", colour: COLOURS[2], dash: "2 2", steps: held, values: numbers("held_out"), say: percent });
    share.draw({ ...common, low: 0, high: 1, label: percent, series });
    examplesNote.textContent = !count ? "" : `Accuracy is measured on ${count} images, ` +
      (known ? `${known === count ? "all" : known} of them among those it learns from: it may know them by heart.` : "none of them among those it learns from.");
    measured.heading.textContent = `Filters of block ${get("block")}`;
    const from = get("block") * names.length;
    const lines = names.map((_, m) => frames().map((frame) => open(frame.measures).values[from + m]));
    measured.draw({ ...common, low: Math.min(-0.1, ...lines.flat()), high: 1, label: (v) => signed(v).replace(/0$/, ""),
      series: names.map((name, m) => ({ name, colour: COLOURS[m], steps: frameSteps(), values: lines[m], say: signed })) });
  }

  // A click or a drag in a chart goes to the nearest snapshot.
  function touched(event) {
    if ((event.type === "pointermove" && !event.buttons) || !frames().length) return;
    const place = pointed(event, event.currentTarget);
    if (!place) return;
    const part = Math.max(0, Math.min(1, (place.x * W - L) / (W - L - R))), all = total();
    const step = get("axis") === "log" ? Math.expm1(part * Math.log1p(all)) : part * all;
    const away = frameSteps().map((s) => get("axis") === "log" ? Math.abs(Math.log1p(s) - Math.log1p(step)) : Math.abs(s - step));
    pause();
    go(away.indexOf(Math.min(...away)));
  }
  for (const { picture } of [loss, share, measured])
    for (const kind of ["pointerdown", "pointermove"]) picture.addEventListener(kind, touched, { signal });

  // --- pictures --------------------------------------------------------------------------------

  const pictures = h("div", { className: "pictures" });
  const picturesTitle = h("strong");
  let drawn = null, asked = [];

  function drawPictures() {
    const { pictures: shown = [], classes } = get("_examples");
    if (drawn !== get("_examples")) {
      drawn = get("_examples");
      asked = shown.map(({ name, pixels }) => {
        const { shape: [height, width], values } = unpack(pixels), small = sheet(width, height, { role: "img", "aria-label": name });
        for (let i = 0; i < width * height; i++) small.pixels[i] = rgb(...values.subarray(3 * i, 3 * i + 3));
        small.show();
        const bar = h("div"), said = h("div"), share = h("span");
        const node = h("figure", {}, small.canvas, h("figcaption", {}, name, said,
          h("div", { className: "share" }, h("div", { className: "bar", "aria-hidden": "true" }, bar), share)));
        return { name, node, bar, said, share };
      });
      pictures.replaceChildren(...asked.map(({ node }) => node));
    }
    // What was asked last before the step that is shown.
    let k = chosen();
    while (k >= 0 && !frames()[k].chances) k--;
    picturesBox.hidden = !shown.length;
    if (k < 0) picturesTitle.textContent = "What it takes pictures for: not asked yet at this step";
    else picturesTitle.textContent = `What it takes pictures for, step ${whole(frameStep(k))}`;
    const chances = k < 0 ? null : open(frames()[k].chances).values;
    asked.forEach(({ name, bar, said, share }, i) => {
      if (!chances) {
        said.textContent = "…";
        share.textContent = "";
        bar.style.width = "0";
        return;
      }
      const row = chances.subarray(i * classes.length, (i + 1) * classes.length), top = row.indexOf(Math.max(...row));
      const right = classes[top] === name;
      said.textContent = `${right ? "✓" : "✗"} ${classes[top]}`;
      share.textContent = percent(row[top]);
      bar.style.width = `${100 * row[top]}%`;
      bar.style.setProperty("--answer", right ? RIGHT : WRONG);
    });
  }

  // --- the run ---------------------------------------------------------------------------------

  const title = h("p", { className: "title" }, `How ${get("_name")} learns`);
  const told = h("span", { className: "told" }), problem = h("p", { className: "alert", role: "alert" });
  const bar = h("progress", { "aria-label": "Steps made", max: 1, value: 0 });
  const button = h("button", { type: "button" });
  button.addEventListener("click", () => {
    button.disabled = true; // until Python tells what became of it
    model.send({ do: get("state") === "running" ? "stop" : "go_on" });
  }, { signal });

  function drawState() {
    const { step = 0, total: all = 0, epoch = 0, left } = get("_live"), state = get("state");
    const where = `step ${whole(step)} of ${whole(all)}`;
    if (!live) told.textContent = `A run of ${whole(total())} steps that has ended; ${frames().length} snapshots of it are here.`;
    else if (state === "running") told.textContent = step
      ? `Training: ${where}, epoch ${epoch}${left === undefined ? "" : `, about ${duration(left)} left`}.`
      : "Training begins: the first step is being made.";
    else if (state === "stopped") told.textContent = `Stopped at ${where}. A checkpoint is kept: the run can go on as if it had not stopped.`;
    else if (state === "done") told.textContent = `Done: ${whole(step || total())} steps.`;
    else told.textContent = step ? `Failed after ${where}.` : "Failed.";
    problem.textContent = get("message");
    bar.hidden = !live || state === "done";
    bar.max = all || 1;
    bar.value = step;
    button.hidden = !live || !alive || state === "done";
    button.textContent = state === "running" ? "Stop" : "Go on";
  }

  // --- through the snapshots -------------------------------------------------------------------

  const slide = h("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": "snapshot" });
  const where = h("output");
  slide.addEventListener("input", () => (pause(), go(Number(slide.value))), { signal });
  const go = (k) => drag(model, { frame: k >= frames().length - 1 ? null : k });

  let timer = 0;
  const play = h("button", { type: "button" }, "▶ Play");
  function pause() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶ Play";
  }
  play.addEventListener("click", () => {
    if (timer) return pause();
    play.textContent = "❚❚ Pause";
    go(chosen() >= frames().length - 1 ? 0 : chosen());
    timer = setInterval(() => {
      if (chosen() < frames().length - 1) go(chosen() + 1);
      if (chosen() >= frames().length - 1) pause();
    }, PLAY);
  }, { signal });

  function drawScrub() {
    const count = frames().length;
    slide.max = Math.max(0, count - 1);
    slide.value = Math.max(0, chosen());
    slide.disabled = play.disabled = count < 2;
    where.textContent = !count ? "none yet" : `step ${whole(at())}${newest() && get("state") === "running" ? ", newest" : ""}`;
    slide.setAttribute("aria-valuetext", where.textContent);
  }

  // --- the page --------------------------------------------------------------------------------

  const examplesNote = h("p", { className: "note", style: "margin:0" });
  const picturesBox = h("div", {}, picturesTitle, pictures);
  const speech = spoken();
  const maps = h("div", { className: "maps" },
    h("div", { className: "row" }, slider(model, "block", { label: "block", min: 0, max: blocks - 1, signal })),
    h("div", { className: "row" },
      choice(model, "order", { label: "order", options: [["index", "index"], ["pairs", "pairs of opposites"]], signal }),
      choice(model, "scale", { label: "colours", options: [["unit", "each its own scale"], ["block", "one for all steps"]], signal })),
    orderNote, mapsTitle, h("div", {}, grid.canvas),
    h("div", { className: "row" }, h("span", {}, "−"), legend.canvas, h("span", {}, "+")), legendNote);
  const root = h("div", { className: "mixer-lite training" },
    title,
    h("div", { className: "row" }, told, button), bar, problem,
    h("div", { className: "row" },
      h("label", { className: "scrub" }, "snapshot", slide, where), play,
      choice(model, "axis", { label: "steps", options: [["even", "evenly"], ["log", "by powers of ten"]], signal })),
    h("div", { className: "panes" }, h("div", {}, loss.node, share.node, examplesNote, measured.node), maps),
    picturesBox,
    h("p", { className: "note", style: "margin:0" }, "A step learns from one batch of images. Smoothness: neighbouring weights are alike. Locality: a filter looks at one place. " +
      "Pairedness: some other filter is its inverse. Variety: how many different patterns a block's filters hold. Each is the mean of the block; 1 is the most."),
    live ? standsStill(model, "Going on with the training") : "",
    speech);
  // Curves and measures, one number a row.
  const table = () => [["quantity", "block", "step", "value"],
    ...[["loss", "steps", "loss"], ["learning rate", "steps", "lr"], ["accuracy", "measured", "accuracy"], ["accuracy, held out", "held_at", "held_out"]]
      .flatMap(([what, at, own]) => Array.from(numbers(own), (v, k) => [what, "", numbers(at)[k], v])),
    ...frames().flatMap((frame) => Array.from(open(frame.measures).values, (v, i) => [names[i % names.length], Math.floor(i / names.length), frame.step, v]))];
  speech.before(saver(root, "training", signal, table));
  el.append(root);

  let pending = 0, spokenState = null;
  function draw() {
    pending = 0;
    drawState();
    drawScrub();
    drawCurves();
    drawMaps();
    drawPictures();
    root.dataset.state = get("state");
    root.dataset.step = String(at());
    // Told once when the run's state changes, and where the reader looks: not at every step.
    if (spokenState !== get("state")) speech.textContent = told.textContent;
    else if (!newest() && !timer) speech.textContent = `Step ${whole(at())}: ${[loss, share, measured].map(({ readout }) => readout.textContent).join(" ")}`;
    spokenState = get("state");
  }
  const schedule = () => (pending ||= requestAnimationFrame(draw));
  listen(model, "state message", signal, () => (button.disabled = false));
  listen(model, "block frame order scale axis state message _frames _live _pairs _examples", signal, schedule);
  const watcher = new ResizeObserver(fit);
  watcher.observe(maps);
  draw();
  return () => {
    controller.abort();
    watcher.disconnect();
    cancelAnimationFrame(pending);
    clearInterval(timer);
    root.remove();
  };
}

export default { render };
