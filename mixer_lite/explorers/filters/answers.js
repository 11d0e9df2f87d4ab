// What Python answers in page.py, by the engine in the page.

const SHOWN_CLASSES = 6, SHOWN_CHANNELS = 4;

class AnsweringModel extends LiveModel {
  static answers = ["predictions", "_response"];

  async photograph(pixels) {
    const { image_size: side } = this.engine.config;
    this.set("_image", pack(pixels, [side, side, 3]));
  }

  // Both questions are asked at once: the last one asked is then the last choice's.
  async answer(isNew) {
    if (!this.get("_sizes").pictured) return;
    const picture = { pixels: unpack(this.get("_image")).values };
    const changed = this.news("off", "_image").length > 0 || !this.heard;
    await Promise.all([changed && this.compare(picture), this.respond(picture, isNew)]);
  }

  async compare(picture) {
    if (!this.get("_sizes").head) return;
    const logits = await this.engine.ask("compare", { picture, off: this.get("off") });
    if (logits) this.set("predictions", this.bars(this.chances(logits.before), this.chances(logits.after)));
  }

  // What a unit says of the photograph. What all of its block say is kept.
  async respond(picture, isNew) {
    const { _image: image, off, block, unit } = this.all("_image", "off", "block", "unit"), { hidden_dim: C } = this.engine.sizes;
    if (this.heard?.image !== image || this.heard.off !== off || this.heard.block !== block) {
      const heard = await this.engine.ask("units", { picture, block, off });
      if (!heard || !isNew()) return;
      this.heard = { image, off, block, ...heard };
    }
    const values = this.heard.answers.slice(unit * C, (unit + 1) * C);
    const top = Int32Array.from(descending(values).slice(0, SHOWN_CHANNELS));
    this.set("_response", {
      block, unit, values: pack(values, [C]), top: pack(top, [top.length]), channels: this.channels(top),
    });
  }

  // The channels as units read them: (top, gh, gw).
  channels(top) {
    const { hidden_dim: C, num_tokens: S, grid_size } = this.engine.sizes, maps = new Float32Array(top.length * S);
    top.forEach((c, i) => {
      for (let s = 0; s < S; s++) maps[i * S + s] = this.heard.read[s * C + c];
    });
    return quantized(maps, [top.length, ...grid_size]);
  }

  // The classes that are highest in either, in the order of before.
  bars(before, after) {
    const most = before.map((p, k) => Math.max(p, after[k]));
    const high = descending(most).slice(0, SHOWN_CLASSES).sort((a, b) => before[b] - before[a]);
    const names = this.engine.config.class_names;
    return {
      labels: high.map((k) => names[k] ?? `class ${k}`),
      before: high.map((k) => before[k]),
      after: high.map((k) => after[k]),
    };
  }
}
