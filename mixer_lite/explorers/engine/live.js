// The page's side of the engine: a model that answers its explorer as Python would.

// The network in its own worker. `code`: the worker's; `network`: what engine.packed() made.
class Engine {
  constructor(code, network) {
    this.sizes = network.sizes;
    this.config = network.config;
    this.asked = new Map(); // id -> what to do with an answer
    this.count = 0;
    this.worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
    this.worker.onmessage = ({ data }) => this.take(data);
    this.ready = this.ask("load", network);
  }
  close() {
    this.worker.terminate();
  }

  // An answer, or null where a newer question of this kind came. part: sees what is known before.
  ask(kind, question, part = () => {}) {
    const id = this.count++;
    return new Promise((resolve, reject) => {
      this.asked.set(id, { resolve, reject, part });
      this.worker.postMessage({ ...question, kind, id });
    });
  }

  take({ id, answer, part, error, replaced, milliseconds }) {
    const asked = this.asked.get(id);
    if (part) return asked.part(part);
    this.asked.delete(id);
    this.milliseconds = milliseconds;
    if (error) asked.reject(new Error(error));
    else asked.resolve(replaced ? null : answer);
  }
}

// A typed array as Python's packed() sends it.
function pack(values, shape) {
  const dtype = values.constructor.name.replace("Array", "").toLowerCase();
  return { dtype, shape, scale: 1, data: new DataView(values.buffer, values.byteOffset, values.byteLength) };
}

// As Python's quantized(): whole numbers from -127 to 127, and a scale for each first index.
function quantized(values, shape) {
  const size = values.length / shape[0], whole = new Int8Array(values.length), scale = [];
  for (let i = 0; i < shape[0]; i++) {
    const slice = values.subarray(i * size, (i + 1) * size);
    scale.push(slice.reduce((top, v) => Math.max(top, Math.abs(v)), 0) / 127);
    slice.forEach((v, j) => (whole[i * size + j] = Math.round(v / (scale[i] || 1))));
  }
  return { ...pack(whole, shape), scale };
}

function softmax(logits, temperature) {
  const top = Math.max(...logits), powers = Float64Array.from(logits, (v) => Math.exp((v - top) / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return Float32Array.from(powers, (v) => v / sum);
}

// Indices, the largest value first; equal ones stay in their order.
const descending = (values) => Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b);

// What an explorer needs of anywidget's model, with the engine behind save_changes(). A subclass
// says in answer() what follows from what was changed, and in `static answers` which names.
class LiveModel extends PageModel {
  constructor(state, engine) {
    super(state);
    this.engine = engine;
    this.asks = this.here = this.alone = true; // asked at once, and no Python beside
    this.told = { ...state }; // at the last answer
    this.turn = this.shown = 0;
  }

  // The names that have changed since the last call.
  news(...names) {
    const changed = names.filter((name) => this.get(name) !== this.told[name]);
    for (const name of names) this.told[name] = this.get(name);
    return changed;
  }

  // What follows from what was changed. An answer may be late, but none comes after that to a
  // later question.
  async follow() {
    let turn = ++this.turn;
    const isNew = () => turn > this.shown && (this.shown = turn);
    await this.engine.ready;
    if (this.news("_upload").length && this.get("_upload").data) {
      await this.open(this.get("_upload"));
      turn = ++this.turn; // what was chosen meanwhile was answered for the photograph before
    }
    await this.answer(isNew);
  }
  save_changes() {
    this.follow().catch(console.error);
  }
  // As Python's probabilities() has them.
  chances(logits) {
    return softmax(logits, this.engine.config.temperature);
  }
  all(...names) {
    return Object.fromEntries(names.map((name) => [name, this.get(name)]));
  }

  // A file of the reader's -> this.photograph(pixels, label), or one sentence in `message`.
  async open({ name, data }) {
    let pixels;
    try {
      pixels = await this.pixelsOf(data);
    } catch (error) {
      this.set("message", `Cannot read ${name}: ${error.message}`);
      return;
    }
    if (data !== this.get("_upload").data) return; // a newer file has come
    this.set("message", "");
    await this.photograph(pixels, name.replace(/\.[^.]*$/, "").slice(0, 40) || "your photograph");
  }

  // A JPEG, PNG ... -> (h, w, 3) bytes as the network sees it: upright as its EXIF says, colour
  // profiles left alone, transparent parts on white, resized as Pillow does.
  async pixelsOf(data) {
    const look = { imageOrientation: "from-image", colorSpaceConversion: "none" };
    let image;
    try {
      image = await createImageBitmap(new Blob([data]), look);
    } catch {
      throw new Error("it is not an image that this browser knows; give a JPEG, PNG or WebP file.");
    }
    const { width, height } = image;
    if (Math.max(width, height) > 100 * Math.min(width, height))
      throw new Error("it is too long and thin; cut out the part that matters.");
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.drawImage(image, 0, 0);
    image.close();
    const { data: rgba } = pen.getImageData(0, 0, width, height);
    return (await this.engine.ask("square", { rgba, width, height })).pixels;
  }
}
