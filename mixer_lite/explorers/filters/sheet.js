// All units of a block on one canvas, one canvas pixel a weight; numbers may stand below the maps.

const GAP = 1, APART = 3; // pixels between maps, and more of them between pairs
const REST = 80; // milliseconds
const TALL = 13; // of a line of numbers, in pixels of the page

// cos of two maps of quantized weights; scales do not count.
function cosine(weights, a, b, size) {
  let ab = 0, aa = 0, bb = 0;
  for (let i = 0; i < size; i++) {
    const x = weights[0][a * size + i], y = weights[1][b * size + i];
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  return ab / (Math.sqrt(aa * bb) || 1);
}

const signed = (v, digits) => `${v < 0 ? "−" : "+"}${Math.abs(v).toFixed(digits)}`;

// Where maps of gh x gw weights lie: `across` in a row, pairs apart or not, `foot` pixels below each.
function layoutOf({ units, gh, gw, columns, wide, paired, labelled }) {
  const ratio = window.devicePixelRatio || 1;
  let across = columns;
  if (wide < 480) across = Math.min(across, 8); // a finger hits these
  else if (wide < 900 && across > 8) across = 2 * Math.round(across / 4);
  while (across > 4 && wide / across < 22) across = 2 * Math.round(across / 4);
  const rows = Math.ceil(units / across), apart = paired ? APART : 0;
  const width = across * (gw + GAP) + Math.ceil(across / 2 - 1) * apart;
  // Whole screen pixels a weight where at least two fit, so that none looks wider than another.
  const room = (wide * ratio) / width, scale = (room >= 2 ? Math.floor(Math.min(room, 8)) : room) / ratio;
  const foot = labelled ? Math.ceil(TALL / scale) : 0, step = gh + GAP + foot;
  const left = (k) => (k % across) * (gw + GAP) + Math.floor((k % across) / 2) * apart;
  const top = (k) => Math.floor(k / across) * step;
  const at = (x, y) => { // canvas pixels -> a place
    const pair = Math.floor(x / (2 * (gw + GAP) + apart)), within = x - pair * (2 * (gw + GAP) + apart);
    return Math.floor(y / step) * across + Math.min(across - 1, 2 * pair + (within >= gw + GAP ? 1 : 0));
  };
  return { across, rows, apart, foot, scale, width, height: rows * step, left, top, at };
}

// A sheet of maps with a layer of marks and one of numbers. pointed(place), moved(by or "start" or "end").
function unitsSheet({ gh, gw, label, signal, pointedAt, moved }) {
  const grid = sheet(1, 1, {
    tabIndex: 0, role: "application", className: "units", style: "touch-action:manipulation;cursor:pointer", "aria-label": label,
  });
  const marks = h("div", { className: "layer", "aria-hidden": "true" });
  const numbers = h("canvas", { className: "numbers", "aria-hidden": "true" });
  const node = h("div", { style: "position:relative;max-width:100%" }, grid.canvas, numbers, marks);
  let layout = null;

  function lay(next) {
    layout = next;
    const { width, height, scale, across, apart, foot } = layout;
    if (grid.width !== width || grid.height !== height) grid.resize(width, height);
    Object.assign(grid.canvas.dataset, { across, apart, foot });
    node.style.width = grid.canvas.style.width = `${scale * width}px`;
  }

  // paint(place) -> where its weights begin, and how much they are weakened.
  function draw(weights, lut, units, paint) {
    const { pixels, width } = grid;
    pixels.fill(0);
    for (let k = 0; k < units; k++) {
      let { read, gain } = paint(k);
      const left = layout.left(k), top = layout.top(k);
      for (let y = 0; y < gh; y++) {
        let write = (top + y) * width + left;
        for (let x = 0; x < gw; x++) pixels[write++] = lut[127 + Math.round(weights[read++] * gain)];
      }
    }
    grid.show();
  }

  // Numbers below maps, as texts() has them: [place, how many maps wide, text]. They are written when
  // the hand rests: on large sheets letters cost more than all maps.
  let later = 0;
  function write(texts) {
    clearTimeout(later);
    numbers.hidden = true;
    if (layout.foot) later = setTimeout(() => writeNow(texts()), REST);
  }
  signal.addEventListener("abort", () => clearTimeout(later));

  function writeNow(texts) {
    const { width, height, scale, foot } = layout, ratio = window.devicePixelRatio || 1;
    numbers.hidden = false;
    Object.assign(numbers, { width: Math.round(width * scale * ratio), height: Math.round(height * scale * ratio) });
    const pen = numbers.getContext("2d");
    pen.scale(ratio, ratio);
    pen.fillStyle = getComputedStyle(node).color;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (const [place, maps, text] of texts) {
      const wide = maps * (gw + GAP) - GAP;
      pen.font = `${Math.min(11, (wide * scale) / 2.6)}px system-ui, sans-serif`;
      pen.fillText(text, (layout.left(place) + wide / 2) * scale, (layout.top(place) + gh + foot / 2) * scale);
    }
  }

  function frame(place, style) {
    const box = mark(layout.left(place) / layout.width, layout.top(place) / layout.height, gw / layout.width, gh / layout.height);
    box.style.cssText += style;
    return box;
  }

  const touched = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const place = pointed(event, grid.canvas);
    if (place) pointedAt(layout.at(place.x * layout.width, place.y * layout.height));
  };
  for (const kind of ["pointerdown", "pointermove"]) grid.canvas.addEventListener(kind, touched, { signal });
  grid.canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -layout.across, ArrowDown: layout.across, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    moved(steps[event.key]);
  }, { signal });
  return { node, canvas: grid.canvas, marks, lay, draw, write, frame };
}
