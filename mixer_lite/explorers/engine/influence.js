// How strongly a token listens to others: influence() of explain.py, with the same closed form for
// one block, and reverse mode written out for the whole network. Letters as in mixer.js.

class Influence {
  constructor(mixer) {
    this.mixer = mixer;
    const { S, C, D_S, D_C, math, blocks, L } = mixer;
    // As PyTorch has them where mixer.js has them turned, and the other way round.
    this.weights = blocks.map((block, n) => ({
      wide: mixer.weight(`blocks.${n}.mlp_channels.fc1.weight`), // (D_C, C)
      narrow: mixer.weight(`blocks.${n}.mlp_channels.fc2.weight`), // (C, D_C)
      tokensIn: mixer.turnedWeight(`blocks.${n}.mlp_tokens.fc1.weight`), // (S, D_S)
      tokensOut: mixer.turnedWeight(`blocks.${n}.mlp_tokens.fc2.weight`), // (D_S, S)
    }));
    const square = () => math.floats(C * C);
    Object.assign(this, { a: square(), turnedA: square(), g: square(), own: square() });
    this.wide = math.floats(C * D_C);
    this.back = math.floats(S * C);
    this.e = math.floats(S * C);
    this.eg = math.floats(S * C);
    this.d = math.floats(S * C);
    const kept = () => ({
      norm1: { z: new Float32Array(S * C), scale: new Float32Array(S) },
      norm2: { z: new Float32Array(S * C), scale: new Float32Array(S) },
      tokensSlope: new Float32Array(D_S * C),
      channelsSlope: new Float32Array(S * D_C),
    });
    this.kept = Array.from({ length: L }, kept);
  }

  // One pass, of which the derivatives of every layer are kept.
  trace(image) {
    const { mixer, kept } = this, { S, C, eps, x } = mixer, slope = GELU_SLOPE[mixer.gelu];
    // Rows of x (S, C) before LayerNorm's gain and bias, and what each row was multiplied with.
    function normalise({ z, scale }) {
      for (let s = 0, at = 0; s < S; s++, at += C) {
        let mean = 0, variance = 0;
        for (let c = 0; c < C; c++) mean += x[at + c] / C;
        for (let c = 0; c < C; c++) variance += (x[at + c] - mean) ** 2 / C;
        scale[s] = 1 / Math.sqrt(variance + eps);
        for (let c = 0; c < C; c++) z[at + c] = (x[at + c] - mean) * scale[s];
      }
    }
    mixer.embed(image);
    mixer.run(0, mixer.L, [], (n, name, values) => {
      const into = kept[n];
      if (name === "norm1" || name === "norm2") normalise(into[name]); // x is as it was before
      const slopes = { "mlp_tokens.fc1": into.tokensSlope, "mlp_channels.fc1": into.channelsSlope }[name];
      if (slopes) for (let i = 0; i < values.length; i++) slopes[i] = slope(values[i]);
    });
  }

  // A gradient (S, C) with respect to the tokens after block n -> before it, in mixer.x.
  pullBack(n) {
    const { S, C, D_S, D_C, math, x, tokensHidden, channelsHidden } = this.mixer, { back } = this;
    const kept = this.kept[n], { wide, narrow, tokensIn, tokensOut } = this.weights[n], block = this.mixer.blocks[n];
    channelsHidden.fill(0);
    math.gemm(x, narrow, channelsHidden, S, C, D_C); // (S, C) (C, D_C) -> (S, D_C)
    for (let i = 0; i < channelsHidden.length; i++) channelsHidden[i] *= kept.channelsSlope[i];
    back.fill(0);
    math.gemm(channelsHidden, wide, back, S, D_C, C); // (S, D_C) (D_C, C) -> (S, C)
    this.throughNorm(back, block.norm2.weight, kept.norm2);
    tokensHidden.fill(0);
    math.gemm(tokensOut, x, tokensHidden, D_S, S, C); // (D_S, S) (S, C) -> (D_S, C)
    for (let i = 0; i < tokensHidden.length; i++) tokensHidden[i] *= kept.tokensSlope[i];
    back.fill(0);
    math.gemm(tokensIn, tokensHidden, back, S, D_S, C); // (S, D_S) (D_S, C) -> (S, C)
    this.throughNorm(back, block.norm1.weight, kept.norm1);
  }

  // A gradient behind a LayerNorm, brought before it and added to that of the skip connection.
  throughNorm(back, gain, { z, scale }) {
    const { S, C, x } = this.mixer;
    for (let s = 0, at = 0; s < S; s++, at += C) {
      let mean = 0, along = 0;
      for (let c = 0; c < C; c++) {
        const value = (back[at + c] *= gain[c]);
        mean += value / C;
        along += (value * z[at + c]) / C;
      }
      for (let c = 0; c < C; c++) x[at + c] += scale[s] * (back[at + c] - mean - along * z[at + c]);
    }
  }

  // Gradients (S, C) of numbers of one token after all blocks, seen from before: their squares.
  squares(token, vector) {
    const { S, C, L, x } = this.mixer, found = new Float64Array(S);
    x.fill(0);
    x.set(vector, token * C);
    for (let n = L - 1; n >= 0; n--) this.pullBack(n);
    for (let s = 0, at = 0; s < S; s++) for (let c = 0; c < C; c++, at++) found[s] += x[at] * x[at];
    return found;
  }

  // Rows of the influence of the whole network, { token, row (S), exact }. First estimates from
  // random vectors of signs w, since the mean of |w J|^2 is the squared norm; then, where they are
  // to be refined, channel by channel.
  *ofWhole(tokens, refine = false, probes = 8) {
    const { S, C } = this.mixer;
    const signs = () => Float32Array.from({ length: C }, () => (Math.random() < 0.5 ? -1 : 1) / Math.sqrt(probes));
    const unit = (c) => Float32Array.from({ length: C }, (_, k) => (k === c ? 1 : 0));
    for (const exact of refine ? [false, true] : [false])
      for (const token of tokens) {
        const sum = new Float64Array(S);
        for (let n = 0; n < (exact ? C : probes); n++) {
          this.squares(token, exact ? unit(n) : signs()).forEach((v, s) => (sum[s] += v));
          if (exact && n % 8 === 7) yield null; // a moment for other questions
        }
        yield { token, row: Float32Array.from(sum, Math.sqrt), exact };
      }
    return {};
  }

  // Rows for one block, { token, row (S), exact }. In the words of explain.py:
  // J = A_i (I [i = j] + diag(d_ij) N_j), and with G = A'A and e = d gain / std
  // |A diag(d) N|^2 = sum_c G_cc e_c^2 - e'Ge / C - (2 - z'z / C) (ez)'G(ez) / C.
  *ofBlock(n, tokens) {
    for (const token of tokens) yield { token, row: this.rowOfBlock(n, token), exact: true };
    return {};
  }

  rowOfBlock(n, i) {
    const { S, C, math } = this.mixer, { a, g, d, e, eg } = this, { norm1, norm2 } = this.mixer.blocks[n];
    const { norm1: { z, scale } } = this.kept[n];
    this.channelSublayer(n, i, norm2.weight); // a: (C, C)
    const { turnedA } = this;
    for (let r = 0; r < C; r++) for (let c = 0; c < C; c++) turnedA[c * C + r] = a[r * C + c];
    g.fill(0);
    math.gemm(turnedA, a, g, C, C, C);
    this.tokenSublayer(n, i); // d: (S, C)

    const squared = new Float64Array(S);
    for (let j = 0, at = 0; j < S; j++)
      for (let c = 0; c < C; c++, at++) {
        e[at] = d[at] * norm1.weight[c] * scale[j];
        squared[j] += g[c * C + c] * e[at] * e[at];
      }
    const quadratic = (j) => { // e'Ge of one token, by eg = e G
      let sum = 0;
      for (let c = 0, at = j * C; c < C; c++, at++) sum += eg[at] * e[at];
      return sum;
    };
    eg.fill(0);
    math.gemm(e, g, eg, S, C, C); // (S, C) (C, C) -> (S, C)
    for (let j = 0; j < S; j++) squared[j] -= quadratic(j) / C;
    for (let at = 0; at < S * C; at++) e[at] *= z[at];
    eg.fill(0);
    math.gemm(e, g, eg, S, C, C);
    for (let j = 0; j < S; j++) {
      let length = 0;
      for (let c = 0, at = j * C; c < C; c++, at++) length += z[at] * z[at];
      squared[j] -= (quadratic(j) * (2 - length / C)) / C;
    }
    squared[i] = this.ownSquare(n, i, norm1.weight);
    return Float32Array.from(squared, (v) => Math.sqrt(Math.max(0, v)));
  }

  // A_i, the channel-mixing sublayer of token i with its skip connection: (C, C), in this.a.
  channelSublayer(n, i, gain) {
    const { C, D_C, math } = this.mixer, { a, wide } = this, kept = this.kept[n], weights = this.weights[n];
    for (let r = 0, at = 0; r < C; r++)
      for (let h = 0; h < D_C; h++, at++) wide[at] = weights.narrow[at] * kept.channelsSlope[i * D_C + h];
    a.fill(0);
    math.gemm(wide, weights.wide, a, C, D_C, C); // (C, D_C) (D_C, C) -> (C, C)
    this.timesNorm(a, gain, kept.norm2, i);
    for (let c = 0; c < C; c++) a[c * C + c] += 1;
  }

  // d_ij: how token i moves with token j through the token-mixing MLP, channel by channel: (S, C).
  tokenSublayer(n, i) {
    const { S, C, D_S, math, blocks, tokensHidden } = this.mixer, { d } = this;
    const { weight } = blocks[n].mlp_tokens.fc2, { tokensSlope } = this.kept[n];
    for (let u = 0, at = 0; u < D_S; u++)
      for (let c = 0; c < C; c++, at++) tokensHidden[at] = weight[i * D_S + u] * tokensSlope[at];
    d.fill(0);
    math.gemm(this.weights[n].tokensIn, tokensHidden, d, S, D_S, C); // (S, D_S) (D_S, C) -> (S, C)
  }

  // A token's own cell, where the skip connection comes in: |A + A diag(d) N|^2.
  ownSquare(n, i, gain) {
    const { C } = this.mixer, { a, own, d } = this;
    for (let r = 0, at = 0; r < C; r++) for (let c = 0; c < C; c++, at++) own[at] = a[at] * d[i * C + c];
    this.timesNorm(own, gain, this.kept[n].norm1, i);
    let sum = 0;
    for (let at = 0; at < C * C; at++) sum += (a[at] + own[at]) ** 2;
    return sum;
  }

  // A matrix (C, C) times the derivative of LayerNorm at token i, in place.
  timesNorm(matrix, gain, { z, scale }, i) {
    const { C } = this.mixer;
    for (let r = 0; r < C; r++) {
      let mean = 0, along = 0;
      for (let c = 0, at = r * C; c < C; c++, at++) {
        const value = (matrix[at] *= gain[c] * scale[i]);
        mean += value / C;
        along += (value * z[i * C + c]) / C;
      }
      for (let c = 0, at = r * C; c < C; c++, at++) matrix[at] -= mean + along * z[i * C + c];
    }
  }
}
