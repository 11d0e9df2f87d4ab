// What Python answers in page.py, by the engine in the page. The whole network's numbers come as
// estimates first; those of the chosen patch are then refined to exact ones.

class AnsweringModel extends LiveModel {
  static answers = ["_maps", "_exact", "_busy"];

  async photograph(pixels) {
    const { image_size: side } = this.engine.config;
    this.set("_maps", {});
    this.set("_count", 1);
    this.set("_exact", []);
    this.set("_image", pack(pixels, [side, side, 3]));
  }

  async answer(isNew) {
    const { whole, block, row, column } = this.all("whole", "block", "row", "column"), { num_tokens: S, grid_size: [, gw] } = this.engine.sizes;
    const key = whole ? "whole" : block, chosen = row * gw + column, all = this.news("_asked").length > 0;
    const matrix = () => this.get("_maps")[key] ? unpack(this.get("_maps")[key]).values.slice() : new Float32Array(S * S).fill(NaN);
    const now = matrix(), lacks = (token) => Number.isNaN(now[token * S]);
    const tokens = [chosen, ...Array.from({ length: S }, (_, s) => s).filter((s) => s !== chosen)];
    let asked = tokens.filter(lacks); // of a block all patches; of the whole network only with a click
    if (whole && !all) asked = this.get("_exact").includes(chosen) ? [] : [chosen];
    if (!isNew()) return;
    this.set("_busy", "");
    if (!asked.length || this.get("_count") > 1) return; // means of several are as they were saved

    const image = this.get("_image"), picture = { pixels: unpack(image).values };
    const found = ({ token, row: numbers, exact }) => {
      if (image !== this.get("_image")) return; // of the photograph before
      if (whole && !exact && this.get("_exact").includes(token)) return;
      const known = matrix();
      known.set(numbers, token * S);
      if (whole && exact) this.set("_exact", [...this.get("_exact"), token]);
      this.set("_maps", { ...this.get("_maps"), [key]: pack(known, [S, S]) });
    };
    this.set("_busy", !whole ? "" : all ? "The patches are asked, one after another." : "These are estimates; the exact numbers follow.");
    const done = await this.engine.ask("influence", { picture, block: whole ? null : block, tokens: asked, refine: whole && !all }, found);
    if (done) this.set("_busy", "");
  }

  // In a notebook, what is shown when Python tells its own numbers: of the whole network they are
  // estimates, and the exact ones known here stay. Another photograph begins afresh.
  shownOf(name, told) {
    const exact = this.get("_exact"), own = this.get("_maps").whole;
    if (name === "_exact") return exact;
    if (name === "_image") {
      this.set("_exact", []);
      this.set("_maps", {});
    }
    if (name !== "_maps" || !told.whole || !own) return told;
    const mixed = unpack(told.whole).values.slice(), known = unpack(own).values, { num_tokens: S } = this.engine.sizes;
    for (const token of exact) mixed.set(known.subarray(token * S, (token + 1) * S), token * S);
    return { ...told, whole: pack(mixed, [S, S]) };
  }
}
