// What Python answers in page.py, by the engine in the page.

const LISTED = 10; // classes, besides the chosen one
const CHOICE = ["image", "covered", "station", "block", "token", "channel", "unit", "channel_unit", "class_index", "picture"];

class AnsweringModel extends LiveModel {
  static answers = ["_way"];

  async photograph(pixels, label) {
    const { image_size: side } = this.engine.config;
    this.set("_photographs", [...this.get("_photographs"), { label, pixels: pack(pixels, [side, side, 3]) }]);
    this.set("covered", []);
    this.set("image", this.get("_photographs").length - 1);
  }

  async answer(isNew) {
    const choice = this.all(...CHOICE);
    const pixels = unpack(this.get("_photographs")[choice.image].pixels).values;
    const base = await this.base(choice.image, pixels);
    if (!base) return;
    const chosen = choice.class_index ?? descending(base.logits)[0];
    const { station, block, token, channel, unit, channel_unit, covered } = choice;
    const found = await this.engine.ask("way", {
      picture: { pixels, covered }, station, choice: { block, token, channel, unit, channel_unit, classIndex: chosen },
    });
    if (!found || !isNew()) return;
    const { num_classes: K, num_tokens: S, hidden_dim: C, num_blocks: L } = this.engine.sizes;
    const listed = new Set([...descending(base.logits).slice(0, LISTED), chosen, descending(found.logits)[0]]);
    const classes = [...listed].sort((a, b) => a - b), ofListed = (row) => Float32Array.from(classes, (k) => row[k]);
    const depth = Array.from({ length: L + 1 }, (_, n) => ofListed(this.chances(found.depth.subarray(n * K, (n + 1) * K))));
    const evidenceOf = ({ evidence }) => pack(evidence.slice(chosen * S, (chosen + 1) * S), [S]);
    const maps = Float32Array.from({ length: (2 * L + 1) * S }, (_, i) => found.way[i * C + channel]);
    this.set("_way", {
      choice, chosen, classes,
      depth: pack(Float32Array.from(depth.flatMap((row) => [...row])), [L + 1, classes.length]),
      logits: pack(ofListed(found.logits), [classes.length]),
      before: pack(ofListed(this.chances(base.logits)), [classes.length]),
      evidence: evidenceOf(found), evidence_before: evidenceOf(base),
      maps: pack(maps, [2 * L + 1, S]),
      tables: choice.picture === "table" ? quantized(found.way, [2 * L + 1, S, C]) : null,
      sum: Object.fromEntries(Object.entries(found.sum).map(([name, value]) => [name, value.length ? pack(value, [value.length]) : value])),
    });
  }

  // Of the photograph with nothing covered; it is kept.
  async base(image, pixels) {
    if (this.kept?.image !== image) {
      const found = await this.engine.ask("explain", { picture: { pixels } });
      if (!found) return null;
      this.kept = { image, ...found };
    }
    return this.kept;
  }
}
