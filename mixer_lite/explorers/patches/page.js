// The photograph under its grid, one patch enlarged, the table of tokens; and the way back.

const COLUMNS = 512; // of the table on the page: wider rows are shown as means of neighbours
const CHANNELS = ["red", "green", "blue"];

// Which pixel of the photograph is at each place: image shuffle first, then places and pixels.
function sourcesOf({ size, patch, order, patchOrder, pixelOrder }) {
  const grid = size / patch, sources = new Int32Array(size * size);
  for (let y = 0, k = 0; y < size; y++)
    for (let x = 0; x < size; x++, k++) {
      let place = Math.floor(y / patch) * grid + Math.floor(x / patch);
      let pixel = (y % patch) * patch + (x % patch);
      if (patchOrder) place = patchOrder[place];
      if (pixelOrder) pixel = pixelOrder[pixel];
      const row = Math.floor(place / grid) * patch + Math.floor(pixel / patch);
      const from = row * size + (place % grid) * patch + (pixel % patch);
      sources[k] = order ? order[from] : from;
    }
  return sources;
}

function render({ model, el }) {
  const controller = new AbortController();
  const { signal } = controller;
  const get = (name) => model.get(name);
  const { values: photo, shape: [size] } = unpack(get("_image"));
  const sizes = get("_sizes");

  const keys = { tabIndex: 0, role: "application" };
  const image = pane(sheet(size, size, keys), "The photograph in patches. Arrow keys choose a patch.");
  const table = pane(sheet(1, 1, keys), "The table of tokens, one row each. Arrow keys up and down choose a row.");
  const enlarged = pane(sheet(1, 1, { role: "img" }), "The chosen patch, enlarged.");
  const band = pane(sheet(1, 1, { role: "img" }), "The chosen token's values.");
  const origin = pane(sheet(size, size, { role: "img" }), "Where the chosen token's pixels come from.");

  let patch, grid, last; // P, patches in a row, last row or column
  let sources, shown; // per place: the photograph's pixel, and its red, green, blue
  let hovered = null; // a token under the pointer, until it leaves
  let value = null; // a value of the token under the pointer: its column in the table

  const clamp = (n) => Math.min(Math.max(n, 0), last);
  const kept = () => clamp(get("row")) * grid + clamp(get("column"));
  const token = () => hovered ?? kept();
  const shuffled = () => get("patches_shuffled") || get("pixels_shuffled") || get("image_shuffled");
  const at = (t) => [Math.floor(t / grid), t % grid];
  // Column of the table -> channel, and row and column within the patch.
  const within = (column) => {
    const area = patch * patch, pixel = column % area;
    return [Math.floor(column / area), Math.floor(pixel / patch), pixel % patch];
  };
  const read = (t, column) => {
    const [channel, y, x] = within(column), [row, left] = at(t);
    return shown[3 * ((row * patch + y) * size + left * patch + x) + channel];
  };

  function keep(t) {
    drag(model, { row: Math.floor(t / grid), column: t % grid });
  }

  // --- drawing -------------------------------------------------------------------------------

  function rearrange() {
    patch = get("patch_size");
    grid = size / patch;
    last = grid - 1;
    hovered = value = null;
    sources = sourcesOf({
      size, patch,
      order: get("image_shuffled") ? unpack(get("_order")).values : null,
      patchOrder: get("patches_shuffled") ? unpack(get("_patch_orders")[patch]).values : null,
      pixelOrder: get("pixels_shuffled") ? unpack(get("_pixel_orders")[patch]).values : null,
    });
    shown = new Uint8Array(3 * size * size);
    for (let k = 0; k < sources.length; k++) {
      for (let c = 0; c < 3; c++) shown[3 * k + c] = photo[3 * sources[k] + c];
      image.pixels[k] = rgb(shown[3 * k], shown[3 * k + 1], shown[3 * k + 2]);
    }
    image.show();
    drawTable();
    drawChosen();
  }

  // Grey means of the values `start` to `stop` (not included) of a token.
  function mean(t, start, stop) {
    let sum = 0;
    for (let column = start; column < stop; column++) sum += read(t, column);
    return Math.round(sum / (stop - start));
  }

  function drawTable() {
    const columns = 3 * patch * patch, step = Math.ceil(columns / COLUMNS);
    table.resize(Math.ceil(columns / step), grid * grid);
    table.canvas.style.imageRendering = grid * grid > 256 ? "auto" : ""; // more rows than fit
    for (let t = 0, k = 0; t < grid * grid; t++)
      for (let c = 0; c < table.width; c++) {
        const grey = mean(t, c * step, Math.min((c + 1) * step, columns));
        table.pixels[k++] = rgb(grey, grey, grey);
      }
    table.show();
  }

  // A token's place in the photograph, in shares of its side.
  const square = (t, name) => mark(at(t)[1] / grid, at(t)[0] / grid, 1 / grid, 1 / grid, name);

  function drawChosen() {
    const t = token(), [row, column] = at(t), count = grid * grid, width = 3 * patch * patch;
    const lines = h("div", { className: "grid", style: `inset:0;background-size:calc(100%/${grid}) calc(100%/${grid})` });
    const other = hovered !== null && hovered !== kept();
    image.layer.replaceChildren(lines, square(kept(), "kept"), ...(other ? [square(t, "shown")] : []));
    const line = (n, name) => mark(0, n / count, 1, 1 / count, name);
    table.layer.replaceChildren(line(kept(), "kept"), ...(other ? [line(t, "shown")] : []));

    image.caption.textContent = `${shuffled() ? "Shuffled: " : ""}${grid} × ${grid} patches of ${patch} × ${patch} pixels`;
    table.caption.textContent = `Token ${t} in the table: ${count} tokens × ${width} values, ` +
      `black 0 to white 255${width > COLUMNS ? ", means of neighbours" : ""}`;
    enlarged.caption.textContent = `Patch in row ${row}, column ${column}`;
    band.caption.textContent = `Token ${t}: its ${patch} × ${patch} red values line by line, then the green, then the blue`;
    drawZoom(t);
    drawStrip(t);
    drawOrigin(t);
    drawValue();
    tell(t);
  }

  function drawZoom(t) {
    const [row, column] = at(t);
    enlarged.resize(patch, patch);
    for (let y = 0, k = 0; y < patch; y++)
      for (let x = 0; x < patch; x++)
        enlarged.pixels[k++] = image.pixels[(row * patch + y) * size + column * patch + x];
    enlarged.show();
  }

  function drawStrip(t) {
    const columns = 3 * patch * patch, step = Math.ceil(columns / COLUMNS);
    band.resize(Math.ceil(columns / step), 1);
    for (let c = 0; c < band.width; c++) {
      const grey = mean(t, c * step, Math.min((c + 1) * step, columns));
      band.pixels[c] = rgb(grey, grey, grey);
    }
    band.show();
  }

  function drawOrigin(t) {
    origin.node.hidden = !shuffled();
    if (!shuffled()) return;
    for (let k = 0; k < size * size; k++)
      origin.pixels[k] = rgb(...[0, 1, 2].map((c) => 155 + 0.4 * photo[3 * k + c]));
    const [row, column] = at(t), dots = get("image_shuffled") ? rgb(0, 90, 160) : null;
    for (let y = 0; y < patch; y++)
      for (let x = 0; x < patch; x++) {
        const k = sources[(row * patch + y) * size + column * patch + x];
        origin.pixels[k] = dots ?? rgb(photo[3 * k], photo[3 * k + 1], photo[3 * k + 2]);
      }
    origin.show();
    origin.caption.textContent = `Where token ${t}'s ${patch * patch} pixels come from` +
      (dots === null ? "" : ": the blue dots");
  }

  // One value: its pixel in the patch, and its three places among the token's values.
  function drawValue() {
    const area = patch * patch;
    if (value === null) {
      enlarged.layer.replaceChildren();
      band.layer.replaceChildren();
      reading.textContent = "Point at a pixel of the patch, or at a value below, to find one in the other.";
      return;
    }
    const pixel = value % area, [, y, x] = within(value);
    enlarged.layer.replaceChildren(mark(x / patch, y / patch, 1 / patch, 1 / patch, "kept"));
    const ticks = [0, 1, 2].map((c) => mark((c * area + pixel + 0.5) / (3 * area), -0.25, 0, 1.5, `tick ${CHANNELS[c]}`));
    band.layer.replaceChildren(...ticks);
    const parts = CHANNELS.map((name, c) => `${name} ${read(token(), c * area + pixel)} is value ${c * area + pixel}`);
    reading.textContent = `Pixel in line ${y}, place ${x} of the patch: ${parts.join(", ")}.`;
  }

  function tell(t) {
    const [row, column] = at(t);
    let text = `The patch in row ${row}, column ${column} is token ${row} × ${grid} + ${column} = ${t}`;
    if (get("image_shuffled")) text += "; its pixels come from everywhere in the photograph, so it shows nothing of any one place";
    else if (get("patches_shuffled")) {
      const from = at(unpack(get("_patch_orders")[patch]).values[t]);
      text += `; its pixels come from row ${from[0]}, column ${from[1]} of the photograph`;
    }
    if (get("pixels_shuffled") && !get("image_shuffled")) text += "; they have changed places as in every other patch";
    told.textContent = `${text}.`;
    if (hovered === null) live.textContent = told.textContent;
  }

  // --- pointing ------------------------------------------------------------------------------

  // Hover shows a token, a click keeps it, arrow keys move the kept one.
  function pointAt(canvas, tokenAt, across) {
    const tokenOf = (event) => {
      const place = pointed(event, canvas);
      return place && tokenAt(place);
    };
    const show = (t) => {
      if (t === hovered) return;
      hovered = t;
      value = null;
      drawChosen();
    };
    canvas.addEventListener("pointermove", (event) => show(tokenOf(event)), { signal });
    canvas.addEventListener("pointerleave", () => show(null), { signal });
    canvas.addEventListener("click", (event) => {
      const t = tokenOf(event);
      if (t !== null) keep(t);
    }, { signal });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      hovered = null;
      if (across === 1) return keep(Math.min(Math.max(kept() + step[0] + step[1], 0), grid * grid - 1));
      const [row, column] = at(kept());
      keep(clamp(row + step[0]) * grid + clamp(column + step[1]));
    }, { signal });
  }

  function readAt(canvas, columnAt) {
    canvas.addEventListener("pointermove", (event) => {
      const place = pointed(event, canvas);
      value = place && columnAt(place);
      drawValue();
    }, { signal });
    canvas.addEventListener("pointerleave", () => ((value = null), drawValue()), { signal });
  }

  // --- controls ------------------------------------------------------------------------------

  // The slider's steps are the divisors; the chosen place in the photograph stays.
  const steps = h("input", { type: "range", min: 0, max: sizes.length - 1, step: 1, "aria-label": "patch size" });
  const sized = h("output");
  const showSize = () => {
    steps.value = sizes.indexOf(get("patch_size"));
    sized.textContent = `${get("patch_size")} pixels`;
    steps.setAttribute("aria-valuetext", sized.textContent);
  };
  steps.addEventListener("input", () => {
    const now = sizes[Number(steps.value)], old = get("patch_size");
    const moved = (name) => Math.floor((get(name) * old) / now);
    drag(model, { row: moved("row"), column: moved("column"), patch_size: now });
  }, { signal });

  function toggle(name, text) {
    const button = h("button", { type: "button" }, text);
    button.addEventListener("click", () => change(model, name, !get(name)), { signal });
    const show = () => button.setAttribute("aria-pressed", String(get(name)));
    show();
    listen(model, name, signal, show);
    return button;
  }

  const told = h("p", { className: "say" });
  const reading = h("p", { className: "say note" });
  const live = spoken();
  const root = h("div", { className: "mixer-lite patches" },
    h("p", { className: "title" }, "A photograph as a table of tokens"),
    h("div", { className: "row" },
      h("label", {}, "patch size", steps, sized),
      h("div", { className: "row shuffles", role: "group", "aria-label": "shuffle" }, "shuffle",
        toggle("patches_shuffled", "patches"),
        toggle("pixels_shuffled", "pixels within patches"),
        toggle("image_shuffled", "all pixels"))),
    h("div", { className: "row views" },
      image.node,
      h("div", { className: "middle" }, enlarged.node, origin.node),
      table.node),
    told,
    h("div", { className: "values" }, band.node),
    reading,
    h("p", { className: "say note" }, "Point at the photograph or at the table to find a token in the other; " +
      "click, or use the arrow keys, to keep it. Every shuffle is one fixed permutation."));
  root.append(saver(root, "patches", signal, () => [["token", "value", "channel", "line", "place", "brightness"],
    ...Array.from({ length: 3 * patch * patch }, (_, column) => {
      const [channel, line, place] = within(column);
      return [token(), column, CHANNELS[channel], line, place, read(token(), column)];
    })]), live);
  el.append(root);

  pointAt(table.canvas, ({ y }) => Math.floor(y * grid * grid), 1);
  readAt(enlarged.canvas, ({ x, y }) => Math.floor(y * patch) * patch + Math.floor(x * patch));
  readAt(band.canvas, ({ x }) => Math.floor(x * 3 * patch * patch));
  pointAt(image.canvas, ({ x, y }) => Math.floor(y * grid) * grid + Math.floor(x * grid), 2);
  listen(model, "patch_size", signal, showSize);
  listen(model, "patch_size patches_shuffled pixels_shuffled image_shuffled _order _patch_orders _pixel_orders", signal, rearrange);
  listen(model, "row column", signal, drawChosen);
  showSize();
  rearrange();
  return () => {
    controller.abort();
    root.remove();
  };
}

export default { render };
