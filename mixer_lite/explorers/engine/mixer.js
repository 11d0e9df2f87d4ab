// MLP-Mixer in JavaScript, to be read beside model.py, whose names it has.
//
// Letters: S tokens, C hidden_dim, D_S tokens_mlp_dim, D_C channels_mlp_dim, P patch_size, K classes.
// One image at a time. A matrix is one row-major array, so (S, C) is S rows of C numbers.

// Half-precision numbers, 16 bits each -> 32: sign, exponent (from -15, not -127), fraction.
function halvesToFloats(halves) {
  const bits = new Uint32Array(halves.length), floats = new Float32Array(bits.buffer);
  for (let i = 0; i < halves.length; i++) {
    const half = halves[i], sign = (half & 0x8000) << 16, size = half & 0x7fff;
    if (size >= 1024) bits[i] = sign | ((size << 13) + (112 << 23)); // there is no infinity among weights
    else floats[i] = (sign ? -size : size) * 2 ** -24; // too small for a leading 1
  }
  return floats;
}

class MixerBlock {
  // weights: name -> array of this block; turned: the same, with rows and columns exchanged.
  constructor(mixer, weights, turned) {
    this.mixer = mixer;
    this.norm1 = { weight: weights("norm1.weight"), bias: weights("norm1.bias") };
    this.mlp_tokens = {
      fc1: { weight: weights("mlp_tokens.fc1.weight"), bias: weights("mlp_tokens.fc1.bias") },
      fc2: { weight: weights("mlp_tokens.fc2.weight"), bias: weights("mlp_tokens.fc2.bias") },
    };
    this.norm2 = { weight: weights("norm2.weight"), bias: weights("norm2.bias") };
    this.mlp_channels = {
      fc1: { turned: turned("mlp_channels.fc1.weight"), bias: weights("mlp_channels.fc1.bias") },
      fc2: { turned: turned("mlp_channels.fc2.weight"), bias: weights("mlp_channels.fc2.bias") },
    };
  }

  // (S, C) -> (S, C), in place. watch(name, values) sees what happens on the way.
  forward(x, off = [], watch = () => {}) {
    this.mixTokens(x, off, watch);
    this.mixChannels(x, watch);
  }

  // One MLP, shared by all channels, along the columns of the table. Python turns the table, to
  // multiply by W1 from the right; from the left it may stay as it is.
  mixTokens(x, off, watch) {
    const { mixer: { S, C, D_S, math, gelu, eps, y, tokensHidden: hidden }, norm1 } = this;
    const { fc1, fc2 } = this.mlp_tokens;
    math.layerNorm(x, norm1.weight, norm1.bias, y, S, C, eps); // (S, C) -> (S, C)
    watch("norm1", y);
    for (let u = 0; u < D_S; u++) hidden.fill(fc1.bias[u], u * C, (u + 1) * C);
    math.gemm(fc1.weight, y, hidden, D_S, S, C); // (D_S, S) (S, C) -> (D_S, C)
    watch("mlp_tokens.fc1", hidden);
    math.gelu(hidden, gelu); // (D_S, C)
    for (const u of off) hidden.fill(0, u * C, (u + 1) * C);
    watch("mlp_tokens.act", hidden);
    for (let s = 0, at = 0; s < S; s++) for (let c = 0; c < C; c++, at++) x[at] += fc2.bias[s];
    math.gemm(fc2.weight, hidden, x, S, D_S, C); // (S, D_S) (D_S, C) -> (S, C), added to x
    watch("tokens mixed", x);
  }

  // One MLP, shared by all tokens, along the rows.
  mixChannels(x, watch) {
    const { mixer: { S, C, D_C, math, gelu, eps, y, channelsHidden: hidden }, norm2 } = this;
    const { fc1, fc2 } = this.mlp_channels;
    math.layerNorm(x, norm2.weight, norm2.bias, y, S, C, eps); // (S, C) -> (S, C)
    watch("norm2", y);
    for (let s = 0; s < S; s++) hidden.set(fc1.bias, s * D_C);
    math.gemm(y, fc1.turned, hidden, S, C, D_C); // (S, C) (C, D_C) -> (S, D_C)
    watch("mlp_channels.fc1", hidden);
    math.gelu(hidden, gelu); // (S, D_C)
    watch("mlp_channels.act", hidden);
    for (let s = 0, at = 0; s < S; s++) for (let c = 0; c < C; c++, at++) x[at] += fc2.bias[c];
    math.gemm(hidden, fc2.turned, x, S, D_C, C); // (S, D_C) (D_C, C) -> (S, C), added to x
    watch("channels mixed", x);
  }
}

class MlpMixer {
  // sizes: of model.py, as engine/__init__.py packs them; halves: all weights, one after another.
  constructor(sizes, halves, kernel) {
    Object.assign(this, sizes);
    const { num_tokens: S, hidden_dim: C, tokens_mlp_dim: D_S, channels_mlp_dim: D_C } = sizes;
    const stemInputs = sizes.in_channels * sizes.patch_size ** 2, K = sizes.num_classes;
    Object.assign(this, { S, C, D_S, D_C, K, L: sizes.num_blocks, stemInputs, eps: sizes.norm_eps });
    // Weights, the same turned, what is between layers, and what influence.js needs.
    const room = 2 * halves.length + 12 * S * C + 2 * (D_S * C + S * D_C) + S * (stemInputs + K) +
      5 * C * C + C * D_C + 64 * sizes.tensors.length + 4096;
    this.math = arithmetic(kernel, room);

    const values = halvesToFloats(halves), shapes = new Map(), stored = new Map();
    let start = 0;
    for (const [name, shape] of sizes.tensors) {
      const count = shape.reduce((a, b) => a * b, 1);
      stored.set(name, values.subarray(start, start + count));
      shapes.set(name, shape);
      start += count;
    }
    this.weight = (name) => { // as PyTorch has it
      const made = this.math.floats(stored.get(name).length);
      made.set(stored.get(name));
      return made;
    };
    this.turnedWeight = (name) => { // (rows, columns) -> (columns, rows)
      const [rows, columns] = shapes.get(name), from = stored.get(name), made = this.math.floats(from.length);
      for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) made[c * rows + r] = from[r * columns + c];
      return made;
    };
    this.stem = { turned: this.turnedWeight("stem.weight"), bias: this.weight("stem.bias") };
    this.blocks = Array.from({ length: this.L }, (_, n) => new MixerBlock(
      this, (name) => this.weight(`blocks.${n}.${name}`), (name) => this.turnedWeight(`blocks.${n}.${name}`)));
    this.norm = { weight: this.weight("norm.weight"), bias: this.weight("norm.bias") };
    if (K) this.head = { turned: this.turnedWeight("head.weight"), bias: this.weight("head.bias") };

    const { floats } = this.math;
    this.patches = floats(S * stemInputs);
    this.x = floats(S * C); // the table of tokens, on its way
    this.y = floats(S * C); // after a LayerNorm
    this.tokensHidden = floats(D_S * C);
    this.channelsHidden = floats(S * D_C);
    this.evidence = floats(S * K);
  }

  // Cut an image into patches: (c, h, w) -> (S, c * P * P).
  patchify(image) {
    const { S, patch_size: P, in_channels, patches } = this, [height, width] = this.image_size;
    const gw = this.grid_size[1];
    let to = 0;
    for (let s = 0; s < S; s++) {
      const top = Math.floor(s / gw) * P, left = (s % gw) * P;
      for (let c = 0; c < in_channels; c++)
        for (let row = top; row < top + P; row++, to += P) {
          const from = (c * height + row) * width + left;
          patches.set(image.subarray(from, from + P), to);
        }
    }
    return patches;
  }

  // (c, h, w) -> the tokens before the first block, in this.x: (S, C).
  embed(image) {
    const { S, C, math, x, stem, stemInputs } = this;
    for (let s = 0; s < S; s++) x.set(stem.bias, s * C);
    math.gemm(this.patchify(image), stem.turned, x, S, stemInputs, C); // (S, c*P*P) (c*P*P, C)
  }

  // Blocks `from` ... `to` - 1 on this.x. off: [block, unit] pairs of token mixing that write nothing.
  run(from, to, off = [], watch = null) {
    for (let n = from; n < to; n++) {
      const units = off.filter(([block]) => block === n).map(([, unit]) => unit);
      this.blocks[n].forward(this.x, units, watch ? (name, values) => watch(n, name, values) : undefined);
    }
  }

  // Final norm, mean over tokens and head on this.x -> logits (K). The head is linear, so the mean
  // may come last: before it, this.evidence (S, K) is what each patch says for each class.
  read() {
    const { S, C, K, math, x, y, norm, head, evidence, eps } = this;
    math.layerNorm(x, norm.weight, norm.bias, y, S, C, eps); // (S, C) -> (S, C)
    evidence.fill(0);
    math.gemm(y, head.turned, evidence, S, C, K); // (S, C) (C, K) -> (S, K)
    const logits = Float32Array.from(head.bias);
    for (let s = 0, at = 0; s < S; s++) for (let k = 0; k < K; k++) logits[k] += evidence[at++] / S;
    return logits;
  }

  // (c, h, w) -> logits (K).
  logits(image, off = []) {
    this.embed(image);
    this.run(0, this.L, off);
    return this.read();
  }

  // patch_evidence and prediction_by_depth of explain.py:
  // (c, h, w) -> logits (K), evidence (K, S), depth (L + 1, K).
  explain(image, off = [], watch = () => {}) {
    const { S, K, L } = this, depth = new Float32Array((L + 1) * K);
    this.embed(image);
    watch(-1, "stem", this.x);
    depth.set(this.read());
    for (let n = 0; n < L; n++) {
      this.run(n, n + 1, off, watch);
      depth.set(this.read(), (n + 1) * K);
    }
    const evidence = new Float32Array(K * S);
    for (let s = 0; s < S; s++) for (let k = 0; k < K; k++) evidence[k * S + s] = this.evidence[s * K + k];
    return { logits: depth.slice(L * K), evidence, depth };
  }

  // unit_responses: channels as the units of a block read them (S, C), and each unit's activation
  // for each channel (D_S, C).
  unitResponses(image, block, off = []) {
    const seen = {};
    this.embed(image);
    this.run(0, block, off);
    this.run(block, block + 1, off, (_, name, values) => {
      if (name === "norm1" || name === "mlp_tokens.fc1") seen[name] = values.slice();
    });
    const answers = seen["mlp_tokens.fc1"]; // units that are off answer, but write nothing
    plainGelu(answers, this.gelu);
    return { read: seen.norm1, answers };
  }

  // occlusion: how much a logit falls when one patch is covered with the mean, (S), patch by patch.
  *occlusion(image, classIndex, atOnce = 8) {
    const { S, C, x, stem, L } = this, falls = new Float32Array(S);
    this.embed(image);
    const tokens = x.slice(); // (S, C); before the first block only the covered patch's differs
    this.run(0, L);
    const whole = this.read()[classIndex];
    for (let s = 0; s < S; s++) {
      x.set(tokens);
      x.set(stem.bias, s * C);
      this.run(0, L);
      falls[s] = whole - this.read()[classIndex];
      if (s % atOnce === atOnce - 1) yield { falls, known: s + 1 };
    }
    return { falls, known: S };
  }
}
