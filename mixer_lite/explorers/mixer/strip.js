// The strip: a photograph, its patches, the tokens after every station, and the classes.

// Signed numbers as colours on a sheet, white for 0; the scale's end is returned.
function paintSigned(target, values, lut, most = largestOf(values)) {
  for (let i = 0; i < target.pixels.length; i++)
    target.pixels[i] = lut[127 + Math.max(-127, Math.min(127, Math.round((127 * values[i]) / (most || 1))))];
  target.show();
  return most;
}

const largestOf = (values) => values.reduce((top, v) => Math.max(top, Math.abs(v)), 0);

// The photograph with covered patches in the mean colour; `gap`: a line of `paper` between patches.
function paintPhotograph(target, pixels, { grid: [, gw], patch, mean }, covered, gap = 0) {
  const rows = pixels.length / 3 / gw / patch, hidden = new Set(covered), step = patch + gap;
  for (let y = 0, at = 0; y < rows; y++)
    for (let x = 0; x < gw * patch; x++, at += 3) {
      const row = Math.floor(y / patch), column = Math.floor(x / patch);
      const to = (y + row * gap) * target.width + x + column * gap;
      const [r, g, b] = hidden.has(row * gw + column) ? mean : pixels.subarray(at, at + 3);
      target.pixels[to] = rgb(r, g, b);
    }
  target.show();
  return step;
}

function makeStrip({ model, state, signal, open }) {
  const sizes = model.get("_sizes"), { grid: [gh, gw], patch, blocks, channels } = sizes;
  const lut = pixelsOf(model.get("_signed"));
  const node = h("div", { className: "strip", style: `--stops:${2 * (blocks + 1)}`, role: "group", "aria-label": "The photograph's way: stations from left to right" });

  // One station: a picture on the line, and its name.
  function stop(name, station, block, long) {
    const picture = sheet(gw, gh, { "aria-hidden": "true" });
    const made = { picture, station, block, long };
    made.node = h("button", { type: "button", className: `stop ${station}`, onclick: () => open(station, block) },
      picture.canvas, h("span", { className: "name" }, name));
    return made;
  }
  const cut = stop("patches", "stem", null, "The photograph in patches");
  cut.picture.resize(gw * (patch + 1) - 1, gh * (patch + 1) - 1);
  const first = stop("tokens", "stem", null, `The table of ${gh * gw} tokens of ${channels} numbers, made by the stem`);
  const stops = [first], groups = [];
  for (let n = 0; n < blocks; n++) {
    const pair = [
      stop("tokens", "tokens", n, `Block ${n}, token mixing`),
      stop("channels", "channels", n, `Block ${n}, channel mixing`),
    ];
    const bar = h("span", { className: "grown" }), said = h("span", { className: "said" });
    stops.push(...pair);
    groups.push({ bar, said, node: h("div", { className: "block" },
      h("span", { className: "label", "aria-hidden": "true" }, `block ${n}`),
      h("div", { className: "pair" }, ...pair.map((one) => one.node)),
      h("div", { className: "depth" }, h("span", { className: "track" }, bar), said)) });
  }
  const last = h("button", { type: "button", className: "stop classes", onclick: () => open("classes", null) });
  node.append(
    h("div", { className: "block start" }, h("span", { className: "label" }, "photograph"),
      h("div", { className: "pair" }, cut.node, first.node), h("div", { className: "depth" }, h("span", { className: "said" }, "cut, embedded"))),
    ...groups.map((group) => group.node),
    h("div", { className: "block end" }, h("span", { className: "label" }, "mean, head"), h("div", { className: "pair" }, last)));

  // The chosen channel of a station as a map, or the whole table.
  function drawStop({ picture }, n) {
    const { maps, tables } = state();
    if (model.get("picture") === "table" && tables) {
      const [, rows, columns] = tables.shape;
      if (picture.width !== columns) picture.resize(columns, rows);
      const values = tables.values.subarray(n * rows * columns, (n + 1) * rows * columns);
      picture.pixels.forEach((_, i) => (picture.pixels[i] = lut[127 + values[i]]));
      picture.show();
      return tables.scale[n] * 127;
    }
    if (picture.width !== gw || picture.height !== gh) picture.resize(gw, gh);
    return paintSigned(picture, maps.subarray(n * gh * gw, (n + 1) * gh * gw), lut);
  }

  function draw() {
    const { photograph, choice, chosen, depth, classes, chances } = state(), names = model.get("_classes");
    const isOpen = (one) => one.station === model.get("station") && (one.block === null || one.block === model.get("block"));
    paintPhotograph(cut.picture, photograph.pixels, sizes, choice.covered, 1);
    stops.forEach((one, n) => {
      const most = drawStop(one, n), what = model.get("picture") === "table" ? "the table" : `channel ${choice.channel}`;
      one.node.setAttribute("aria-label", `${one.long}: ${what} from −${most.toPrecision(2)} to ${most.toPrecision(2)}`);
      one.node.setAttribute("aria-pressed", String(isOpen(one)));
    });
    cut.node.setAttribute("aria-label", cut.long);
    cut.node.setAttribute("aria-pressed", String(isOpen(cut)));
    groups.forEach(({ bar, said }, n) => {
      const p = depth[(n + 1) * classes.length + classes.indexOf(chosen)];
      bar.style.width = `${100 * p}%`;
      said.replaceChildren(h("span", { title: names[chosen] }, `${names[chosen]} `), h("span", {}, percent(p)));
    });
    const ranked = descendingOf(chances).slice(0, 3);
    last.replaceChildren(...ranked.map((i) => h("span", { className: "line" },
      h("span", { className: "grown", style: `width:${100 * chances[i]}%` }), h("span", {}, names[classes[i]]))), h("span", { className: "name" }, "classes"));
    last.setAttribute("aria-pressed", String(model.get("station") === "classes"));
    last.setAttribute("aria-label", `Mean over the tokens, and the head: ${ranked.map((i) => `${names[classes[i]]} ${percent(chances[i])}`).join(", ")}`);
  }

  // Once, and again for another photograph: pictures light up from left to right.
  function flow() {
    node.classList.remove("flow");
    void node.offsetWidth; // or the browser would not start again
    [...node.querySelectorAll(".stop")].forEach((one, i) => one.style.setProperty("--turn", i));
    node.classList.add("flow");
  }

  // The open station stays in view where the strip is longer than the page.
  function follow() {
    const pressed = node.querySelector('.stop[aria-pressed="true"]:last-of-type') ?? node.querySelector('.stop[aria-pressed="true"]');
    if (!pressed) return;
    const box = pressed.getBoundingClientRect(), view = node.getBoundingClientRect();
    if (box.left < view.left || box.right > view.right) node.scrollLeft += box.left - view.left - view.width / 2 + box.width / 2;
  }

  node.addEventListener("keydown", (event) => {
    const all = [...node.querySelectorAll("button")], to = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    all[Math.max(0, Math.min(all.length - 1, all.indexOf(event.target) + to))]?.focus();
  }, { signal });
  return { node, draw, flow, follow };
}

const descendingOf = (values) => Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b);
const percent = (p) => `${(100 * p).toFixed(1)} %`;
const written = (v, digits = 2) => (v < 0 ? "−" : "") + Math.abs(v).toFixed(digits);
