// What is on screen as a picture (SVG or PNG), and its numbers as a table (CSV), for every explorer.

function saveFile(name, blob) {
  const link = h("a", { download: name }), address = URL.createObjectURL(blob);
  link.setAttribute("href", address);
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// Rows of cells -> CSV; the first row holds the names.
function csvOf(rows) {
  const cell = (value) => {
    const text = String(value ?? "");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",") + "\n").join("");
}

// Any CSS colour -> [its colour without transparency, how opaque it is].
const dot = h("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
function opaque(colour) {
  dot.clearRect(0, 0, 1, 1);
  dot.fillStyle = colour;
  dot.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = dot.getImageData(0, 0, 1, 1).data;
  return [`rgb(${r},${g},${b})`, a / 255];
}

const LEFT_OUT = "input, .file, .file + .note, .saver, .spoken, .unseen, [hidden], script, style";

// An element as one SVG picture: canvases as images, boxes, and words; sliders and buttons for
// files are left out. Nothing in it needs a browser's style sheet.
function pictureOf(root) {
  const { left: x0, top: y0, width, height } = root.getBoundingClientRect();
  const page = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  const rectangle = (into, box, look) =>
    into.append(svg("rect", { x: box.left - x0, y: box.top - y0, width: box.width, height: box.height, ...look }));

  // Words, one element for each line of them.
  function write(into, text, style) {
    const range = document.createRange(), lines = [];
    for (const { index, 0: word } of text.data.matchAll(/\S+/g)) {
      range.setStart(text, index);
      range.setEnd(text, index + word.length);
      const box = range.getClientRects()[0];
      if (!box || !box.width) continue;
      const line = lines.at(-1);
      if (line && Math.abs(line.top - box.top) < 2) line.words.push(word);
      else lines.push({ left: box.left, top: box.top, words: [word] });
    }
    letters(into, lines, style);
  }
  function letters(into, lines, style) {
    dot.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    const { fontBoundingBoxAscent: ascent } = dot.measureText("x"), [fill] = opaque(style.color);
    for (const { left, top, words } of lines)
      into.append(svg("text", { x: left - x0, y: top - y0 + ascent, fill, "font-family": style.fontFamily, "font-size": style.fontSize, "font-weight": style.fontWeight }, words.join(" ")));
  }

  function boxes(into, node, style) {
    const box = node.getBoundingClientRect(), [fill, much] = opaque(style.backgroundColor);
    if (much) rectangle(into, box, { fill, "fill-opacity": much });
    const sides = ["Top", "Right", "Bottom", "Left"].map((side) => [side, style[`border${side}Style`] === "none" ? 0 : parseFloat(style[`border${side}Width`])]);
    for (const [side, wide] of sides) {
      const [ink, seen] = opaque(style[`border${side}Color`]);
      if (!wide || !seen) continue;
      const flat = side === "Top" || side === "Bottom";
      rectangle(into, {
        left: side === "Right" ? box.right - wide : box.left, top: side === "Bottom" ? box.bottom - wide : box.top,
        width: flat ? box.width : wide, height: flat ? wide : box.height,
      }, { fill: ink, "fill-opacity": seen });
    }
    if (style.outlineStyle !== "none" && parseFloat(style.outlineWidth))
      rectangle(into, box, { fill: "none", stroke: opaque(style.outlineColor)[0], "stroke-width": parseFloat(style.outlineWidth), ...(style.outlineStyle === "dashed" ? { "stroke-dasharray": "4 3" } : {}) });
  }

  function drawing(into, node, box) {
    const copy = node.cloneNode(true), ours = node.querySelectorAll("text"), theirs = copy.querySelectorAll("text");
    ours.forEach((text, i) => {
      const { fontSize, fontFamily, color } = getComputedStyle(text);
      for (const [name, value] of Object.entries({ "font-size": fontSize, "font-family": fontFamily, fill: opaque(color)[0] })) theirs[i].setAttribute(name, value);
    });
    for (const [name, value] of Object.entries({ x: box.left - x0, y: box.top - y0, width: box.width, height: box.height, color: opaque(getComputedStyle(node).color)[0] })) copy.setAttribute(name, value);
    into.append(copy);
  }

  function draw(into, node) {
    if (node.nodeType === Node.TEXT_NODE) return write(into, node, getComputedStyle(node.parentElement));
    if (node.nodeType !== Node.ELEMENT_NODE || node.matches(LEFT_OUT)) return;
    const style = getComputedStyle(node), box = node.getBoundingClientRect();
    if (style.display === "none" || style.visibility === "hidden") return;
    if (style.opacity !== "1") into = into.appendChild(svg("g", { opacity: style.opacity }));
    if (node instanceof SVGElement) return drawing(into, node, box);
    boxes(into, node, style);
    if (node instanceof HTMLCanvasElement) {
      if (node.width && node.height && box.width)
        into.append(svg("image", { href: node.toDataURL(), x: box.left - x0, y: box.top - y0, width: box.width, height: box.height, preserveAspectRatio: "none", style: `image-rendering:${style.imageRendering}` }));
    } else if (node instanceof HTMLSelectElement)
      letters(into, [{ left: box.left + 8, top: box.top + 3, words: [node.selectedOptions[0]?.textContent ?? ""] }], style);
    else node.childNodes.forEach((child) => draw(into, child));
  }
  rectangle(page, root.getBoundingClientRect(), { fill: opaque(getComputedStyle(root).backgroundColor)[0] });
  root.childNodes.forEach((child) => draw(page, child));
  return { text: new XMLSerializer().serializeToString(page), width, height };
}

// The same as a PNG, two of its pixels for one of the page.
async function pngOf({ text, width, height }) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = h("canvas", { width: Math.ceil(2 * width), height: Math.ceil(2 * height) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

// Buttons that save a view. numbers(): rows for csvOf.
function saver(root, name, signal, numbers) {
  const made = (text, ending, blob) => {
    const button = h("button", { type: "button" }, text);
    button.addEventListener("click", async () => saveFile(`${name}.${ending}`, await blob()), { signal });
    return button;
  };
  return h("div", { className: "row saver" }, h("span", { className: "note" }, "Save what is on screen:"),
    made("SVG", "svg", () => new Blob([pictureOf(root).text], { type: "image/svg+xml" })),
    made("PNG", "png", () => pngOf(pictureOf(root))),
    made("numbers, CSV", "csv", () => new Blob([csvOf(numbers())], { type: "text/csv" })));
}
