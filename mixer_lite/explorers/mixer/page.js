// A photograph's way through a whole Mixer: the strip, the open station, the photograph, the classes.

const VIEW = ["image", "covered", "station", "block", "token", "channel", "unit", "channel_unit", "class_index", "picture", "step"];
const BARS = 6;

// What is known of the view, its arrays opened once. Until an answer comes, the last one is shown.
function reader(model) {
  let sent = null, read = null;
  return () => {
    if (model.get("_way") !== sent) {
      sent = model.get("_way");
      const { choice, chosen, classes, tables, sum } = sent;
      const open = (entry) => unpack(entry).values;
      const depth = open(sent.depth), chances = depth.slice(-classes.length);
      read = {
        choice, chosen, classes, depth, chances, logits: open(sent.logits), before: open(sent.before),
        evidence: open(sent.evidence), evidenceBefore: open(sent.evidence_before), maps: open(sent.maps),
        tables: tables ? unpack(tables) : null,
        sum: Object.fromEntries(Object.entries(sum).map(([name, value]) => [name, value.data ? open(value) : value])),
        photograph: { pixels: open(model.get("_photographs")[choice.image].pixels) },
      };
    }
    return read;
  };
}

function render({ model, el }) {
  const stop = new AbortController(), { signal } = stop, live = answers(model);
  const get = (name) => model.get(name), names = get("_classes"), sizes = get("_sizes");
  const { grid: [gh, gw], patch, blocks, channels, name } = sizes, tokens = gh * gw;
  const state = reader(model);
  const root = h("div", { className: "mixer-lite mixer", tabIndex: -1 });
  const { label: opener, problem } = photographOpener(model, root, signal);
  const say = spoken();

  // --- choosing a photograph ---------------------------------------------------------------
  const thumbnails = h("div", { className: "thumbnails", role: "group", "aria-label": "Photograph" });
  function drawThumbnails() {
    const photographs = get("_photographs");
    for (let i = thumbnails.children.length; i < photographs.length; i++) {
      const { pixels, label } = photographs[i], small = sheet(gw * patch, gh * patch, { "aria-hidden": "true" });
      paintPhotograph(small, unpack(pixels).values, sizes, []);
      const pick = () => {
        setAll(model, { image: i, covered: [] });
        model.save_changes();
      };
      thumbnails.append(h("button", { type: "button", title: label, disabled: !live && i !== get("image"), onclick: pick }, small.canvas, h("span", {}, label)));
    }
    [...thumbnails.children].forEach((b, i) => b.setAttribute("aria-pressed", String(i === get("image"))));
  }

  // --- the photograph: cover patches, choose one ---------------------------------------------
  const seen = pane(sheet(gw * patch, gh * patch, { tabIndex: 0, role: "application", className: "seen" }), "");
  const lines = h("div", { className: "grid", style: `inset:0;background-size:calc(100%/${gw}) calc(100%/${gh})` });
  let choosing = false, brush = null, pointedAt = null;
  const modes = h("div", { className: "modes", role: "group", "aria-label": "What a click does" });
  for (const [text, value] of [["Cover patches", false], ["Choose a patch", true]])
    modes.append(h("button", { type: "button", disabled: !live, onclick: () => { choosing = value; drawPhotograph(); } }, text));
  const uncover = h("button", { type: "button", disabled: !live, onclick: () => change(model, "covered", []) }, "Uncover all");
  const square = (t, kind) => mark((t % gw) / gw, Math.floor(t / gw) / gh, 1 / gw, 1 / gh, kind);

  function drawPhotograph() {
    const { photograph, evidence, chosen } = state(), covered = get("covered");
    paintPhotograph(seen, photograph.pixels, sizes, covered);
    const dot = pointedAt && pointedAt.token !== undefined
      ? mark((pointedAt.token % gw + (pointedAt.x + 0.5) / patch) / gw, (Math.floor(pointedAt.token / gw) + (pointedAt.y + 0.5) / patch) / gh, 0, 0, "dot")
      : pointedAt !== null ? square(pointedAt, "shown") : "";
    seen.layer.replaceChildren(lines, ...covered.map((t) => square(t, "covered")), square(get("token"), "kept"), dot);
    const at = get("token");
    seen.caption.textContent = `${covered.length ? `${covered.length} of ${tokens} patches covered. ` : ""}Blue frame: the chosen token, ` +
      `row ${Math.floor(at / gw)}, column ${at % gw}; it says ${written(evidence[at])} for ${names[chosen]}.`;
    seen.canvas.setAttribute("aria-label", `The photograph, ${gh} by ${gw} patches, ${covered.length} covered. Arrow keys choose a patch, the space bar covers or uncovers it.`);
    [...modes.children].forEach((b, i) => b.setAttribute("aria-pressed", String(choosing === Boolean(i))));
    uncover.hidden = !covered.length;
  }
  const placeOf = (event) => {
    const at = pointed(event, seen.canvas);
    return at && Math.floor(at.y * gh) * gw + Math.floor(at.x * gw);
  };
  function cover(t, on) {
    const covered = get("covered");
    if (covered.includes(t) === on) return;
    change(model, "covered", on ? [...covered, t].sort((a, b) => a - b) : covered.filter((k) => k !== t));
  }
  const pick = (t) => drag(model, { token: t });
  seen.canvas.addEventListener("pointerdown", (event) => {
    const t = placeOf(event);
    if (!live || t === null || event.button !== 0) return;
    brush = choosing ? "pick" : !get("covered").includes(t);
    if (event.pointerType === "mouse") seen.canvas.setPointerCapture(event.pointerId);
    brush === "pick" ? pick(t) : cover(t, brush);
  }, { signal });
  seen.canvas.addEventListener("pointermove", (event) => {
    const t = placeOf(event);
    if (t === null) return;
    if (brush === null) sums.showPatch(t);
    else brush === "pick" ? t !== get("token") && pick(t) : cover(t, brush);
  }, { signal });
  for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, () => (brush = null), { signal });
  seen.canvas.addEventListener("pointerleave", () => sums.showPatch(null), { signal });
  seen.canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key], at = get("token");
    if (step && live) {
      const row = Math.floor(at / gw) + step[0], column = (at % gw) + step[1];
      if (row >= 0 && row < gh && column >= 0 && column < gw) pick(row * gw + column);
    } else if ((event.key === " " || event.key === "Enter") && live) cover(at, !get("covered").includes(at));
    else return;
    event.preventDefault();
    event.stopPropagation();
  }, { signal });

  // --- the classes -------------------------------------------------------------------------
  const evidence = pane(sheet(gw, gh, { role: "img" }), "");
  // Made once and changed in place, so that a button keeps the focus.
  const rows = Array.from({ length: Math.min(BARS, names.length) }, () => {
    const part = (className) => h("span", { className });
    const row = { name: part("name"), grown: part("grown"), was: part("was"), number: part("number") };
    row.node = h("button", { type: "button", disabled: !live, onclick: () => change(model, "class_index", row.index) },
      row.name, h("span", { className: "track" }, row.grown, row.was), row.number);
    return row;
  });
  const bars = h("div", { className: "bars", role: "group", "aria-label": "Class that is followed" }, ...rows.map((row) => row.node));
  function drawClasses() {
    const { classes, chances, before, logits, chosen, evidence: says, choice } = state();
    const order = descendingOf(before).slice(0, rows.length), changed = choice.covered.length > 0;
    for (const i of [descendingOf(chances)[0], classes.indexOf(chosen)]) if (!order.includes(i)) order.splice(-1, 1, i);
    rows.forEach((row, n) => {
      const i = order[n];
      row.index = classes[i];
      row.name.textContent = row.name.title = names[row.index];
      row.grown.style.width = `${100 * chances[i]}%`;
      row.was.style.left = `${100 * before[i]}%`;
      row.was.hidden = !changed;
      row.number.textContent = percent(chances[i]);
      row.node.setAttribute("aria-pressed", String(row.index === chosen));
      row.node.setAttribute("aria-label", `${names[row.index]}: probability ${percent(chances[i])}, logit ${written(logits[i])}` +
        (changed ? `; before ${percent(before[i])}` : ""));
    });
    const mean = says.reduce((a, b) => a + b, 0) / tokens, logit = logits[classes.indexOf(chosen)];
    const most = paintSigned(evidence, says.map((v) => v - mean), pixelsOf(get("_signed")));
    evidence.caption.textContent = `Where patches say more (red) or less (blue) for ${names[chosen]} than their mean, to ±${most.toPrecision(2)}. ` +
      `The mean ${written(mean)} and the bias ${written(logit - mean)} make the logit, ${written(logit)}.`;
    evidence.canvas.setAttribute("aria-label", evidence.caption.textContent);
  }

  // --- the whole ---------------------------------------------------------------------------
  const openStation = (station, block) => {
    setAll(model, block === null ? { station } : { station, block });
    model.save_changes();
  };
  const strip = makeStrip({ model, state, signal, open: openStation });
  const sums = makeSums({ model, state, signal, point: (at) => { pointedAt = at; drawPhotograph(); } });
  const tour = makeTour({ model, state, signal });
  const answer = h("p", { className: "answer", role: "status" });
  const copied = h("span", { className: "note", role: "status" });
  const copy = h("button", { type: "button", onclick: async () => {
    const text = live && !model.alone ? pythonOf() : location.href;
    try {
      await navigator.clipboard.writeText(text);
      copied.textContent = "copied";
    } catch {
      copied.textContent = text;
    }
  } }, live && !model.alone ? "Copy the Python for this view" : "Copy a link to this view");
  // Only what differs from a fresh explorer; its channel and unit follow the photograph.
  const fresh = { image: 0, covered: [], station: "tokens", block: 0, token: Math.floor(gh / 2) * gw + Math.floor(gw / 2), channel_unit: 0, class_index: null, picture: "channel", step: 0 };
  function pythonOf() {
    const said = (v) => (v === null ? "None" : JSON.stringify(v));
    const view = VIEW.filter((n) => said(get(n)) !== said(fresh[n])).map((n) => `, ${n}=${said(get(n))}`);
    return `ml.explore_mixer(model${view.join("")})`;
  }

  function drawAnswer() {
    const { classes, chances, before, choice } = state(), top = descendingOf(chances)[0], was = descendingOf(before)[0];
    const label = get("_photographs")[choice.image].label;
    answer.replaceChildren(`Photograph “${label}”${choice.covered.length ? `, ${choice.covered.length} patches covered` : ""}: the Mixer says `,
      h("b", {}, `${names[classes[top]]}, ${percent(chances[top])}`), choice.covered.length ? `; as it was: ${names[classes[was]]}, ${percent(before[was])}.` : ".");
  }
  // The chosen channel after every station, the evidence, and classes by depth, one number a row.
  function numbers() {
    const { maps, classes, depth, logits, evidence: says, chosen, choice } = state(), rows = [["quantity", "of", "row", "column", "value"]];
    const station = (n) => (n === 0 ? "stem" : `${n % 2 ? "token" : "channel"} mixing of block ${(n - 1) >> 1}`);
    for (let i = 0; i < maps.length; i++) {
      const t = i % tokens;
      rows.push([`channel ${choice.channel} after`, station(Math.floor(i / tokens)), Math.floor(t / gw), t % gw, maps[i]]);
    }
    says.forEach((e, t) => rows.push(["evidence", names[chosen], Math.floor(t / gw), t % gw, e]));
    classes.forEach((k, i) => {
      rows.push(["logit", names[k], "", "", logits[i]]);
      for (let n = 0; n <= blocks; n++) rows.push([`probability after ${n} blocks`, names[k], "", "", depth[n * classes.length + i]]);
    });
    return rows;
  }
  let lastImage = null, lastOpen = "";
  function draw() {
    drawThumbnails();
    drawAnswer();
    strip.draw();
    drawPhotograph();
    drawClasses();
    sums.draw();
    tour.draw();
    controls.classList.toggle("table", get("picture") === "table");
    const { choice } = state(), waiting = VIEW.some((n) => n in choice && JSON.stringify(choice[n]) !== JSON.stringify(get(n)));
    root.setAttribute("aria-busy", String(waiting));
    root.dataset.drawn = String(Number(root.dataset.drawn ?? 0) + 1);
    if (choice.image !== lastImage) strip.flow();
    lastImage = choice.image;
    const open = get("station") + get("block");
    if (open !== lastOpen) strip.follow();
    lastOpen = open;
  }

  const controls = h("div", { className: "row controls" },
    slider(model, "channel", { label: "channel", min: 0, max: channels - 1, signal }),
    slider(model, "block", { label: "block", min: 0, max: blocks - 1, signal }),
    choice(model, "picture", { label: "pictures", options: [["channel", "the channel, as a map"], ["table", "the whole table"]], signal }),
    copy, copied);
  if (!live) for (const input of controls.querySelectorAll("input, select")) input.disabled = true;
  root.append(
    h("h2", {}, `A photograph's way through ${name}`), answer,
    h("div", { className: "row choose" }, thumbnails, opener, live ? h("span", { className: "note" }, "or drop or paste one") : "", problem),
    tour.node, strip.node, controls,
    h("div", { className: "bench" },
      h("section", { className: "photo" }, h("h3", {}, "The photograph"), h("div", { className: "row" }, modes, uncover), seen.node),
      sums.node,
      h("section", { className: "said" }, h("h3", {}, "What it says"), bars, h("p", { className: "note" }, calibration(sizes)), evidence.node)),
    h("p", { className: "note" }, "Red is positive, blue negative, white zero; each picture has its own scale."),
    saver(root, "mixer", signal, numbers),
    standsStill(model, "Choosing another station, number or photograph"), say);
  el.append(root);

  let frame = 0; // several traits change at once: one drawing
  const schedule = () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(draw);
  };
  listen(model, `${VIEW.join(" ")} _way _photographs`, signal, schedule);
  draw();
  return () => {
    stop.abort();
    cancelAnimationFrame(frame);
    root.remove();
  };
}

export default { render };
