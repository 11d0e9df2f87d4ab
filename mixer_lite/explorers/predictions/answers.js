// What Python answers in page.py, by the engine in the page.

class AnsweringModel extends LiveModel {
  static answers = ["_now"];

  // What the network makes of a photograph, for all classes.
  entry({ logits, evidence, depth }) {
    const { num_classes: K, num_tokens: S, num_blocks: L } = this.engine.sizes;
    const chances = Array.from({ length: L + 1 }, (_, n) => this.chances(depth.subarray(n * K, (n + 1) * K)));
    return {
      top: descending(logits)[0],
      classes: Array.from({ length: K }, (_, k) => k),
      evidence: pack(evidence, [K, S]),
      logits: pack(logits, [K]),
      probabilities: pack(chances[L], [K]),
      depth: pack(Float32Array.from(chances.flatMap((row) => [...row])), [L + 1, K]),
    };
  }

  async photograph(pixels, label) {
    const found = await this.engine.ask("explain", { picture: { pixels } });
    if (!found) return this.photograph(pixels, label); // another question came between
    const { image_size: side } = this.engine.config;
    const entry = { ...this.entry(found), label, pixels: pack(pixels, [side, side, 3]) };
    this.set("_photographs", [...this.get("_photographs"), entry]);
    this.set("covered", []);
    this.set("shuffle", null);
    this.set("image", this.get("_photographs").length - 1);
  }

  async answer(isNew) {
    const { image, covered, shuffle, class_index: chosen, rather_than: other } = this.all("image", "covered", "shuffle", "class_index", "rather_than");
    const base = this.get("_photographs")[image];
    if (!covered.length && shuffle === null && [chosen, other].every((k) => base.classes.includes(k ?? base.top))) {
      if (isNew()) this.set("_now", {});
      return;
    }
    const picture = { pixels: unpack(base.pixels).values, covered, shuffle };
    const found = await this.engine.ask("explain", { picture });
    if (!found || !isNew()) return; // a newer question is on its way, or was answered
    const places = this.engine.sizes.num_tokens;
    const order = shuffle === null ? Int32Array.from({ length: places }, (_, k) => k) : found.order;
    this.set("_now", { image, covered, shuffle, order: pack(order, [places]), ...this.entry(found) });
  }
}
