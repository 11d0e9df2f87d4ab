// The images that excite the chosen unit most, each beside the channel that did it.

function foundImages({ model, signal, sizes, lut }) {
  const { gh, gw, searched } = sizes, size = gh * gw, alive = answers(model) && !model.alone;
  const get = (name) => model.get(name), row = h("div", { className: "row found" });
  const ask = h("button", { type: "button" }, `Which of ${searched} excite this block's units most?`);
  ask.addEventListener("click", () => change(model, "_wanted", get("_wanted") + 1), { signal });
  const title = h("p", { className: "note", style: "margin:0" });
  const node = h("div", { className: "excited", hidden: !searched }, ask, title, row);

  // One image and, beside it, the channel as the unit read it.
  function pictured(found, k) {
    const [used, height, width] = found.pixels.shape, pixels = unpack(found.pixels).values;
    const image = unpack(found.image).values[k], picture = sheet(width, height), from = image * height * width * 3;
    for (let i = 0; i < width * height; i++) picture.pixels[i] = rgb(...pixels.subarray(from + 3 * i, from + 3 * i + 3));
    picture.show();
    const map = sheet(gw, gh), read = unpack(found.maps).values;
    for (let i = 0; i < size; i++) map.pixels[i] = lut[127 + read[k * size + i]];
    map.show();
    for (const { canvas } of [picture, map]) canvas.style.cssText = "width:56px;height:56px";
    const said = `channel ${unpack(found.channel).values[k]}: ${unpack(found.activation).values[k].toFixed(2)}`;
    const number = unpack(found.number).values[k];
    return h("figure", { role: "img", "aria-label": `Image ${number}, ${said}` },
      h("div", { style: "display:flex;gap:2px" }, picture.canvas, map.canvas), h("figcaption", {}, `image ${number}, ${said}`));
  }

  // What a page without Python lacks, where to find some, and how to find the rest.
  function unknown() {
    const blocks = Object.keys(get("_found")), several = blocks.length > 1;
    const known = blocks.length ? ` in block${several ? "s" : ""} ${blocks.join(", ")} only` : "";
    return `Which of ${searched} excite this block's units most is not in this page: ` +
      (known ? `before it was saved they were looked for${known}. ` : "they were not looked for before it was saved. ") +
      "In Python, explorer.find_images() looks for those of the block that is shown.";
  }

  function draw() {
    const found = get("_found")[get("block")];
    ask.hidden = !alive || Boolean(found);
    title.textContent = found ? `Of ${searched}, those that excite it most, and the channel that does, as the unit reads it:`
      : alive ? "" : unknown();
    const count = found ? found.image.shape[1] : 0, from = get("unit") * count;
    row.replaceChildren(...Array.from({ length: count }, (_, k) => pictured(found, from + k)));
  }
  listen(model, "block unit _found", signal, draw);
  return { node, draw };
}
