// The stations of a photograph's way, and one number at each taken apart: stations.py of
// explore_mixer. Letters as in mixer.js.

// What MlpMixer.explain tells, and the tokens at every station, `way` (2 L + 1, S, C): after the
// stem, then after token mixing and after channel mixing of each block.
function explainWay(mixer, image) {
  const { S, C, L } = mixer, way = new Float32Array((2 * L + 1) * S * C);
  let next = 0;
  const answer = mixer.explain(image, [], (_, name, tokens) => {
    if (["stem", "tokens mixed", "channels mixed"].includes(name)) way.set(tokens, S * C * next++);
  });
  return { ...answer, way };
}

const column = (table, width, c) => Float32Array.from({ length: table.length / width }, (_, r) => table[r * width + c]);
const row = (table, width, r) => table.slice(r * width, (r + 1) * width);
const weighed = (values, weights, bias) => values.reduce((sum, v, i) => sum + v * weights[i], bias);

// One number at a station: `values` weighed with `weights`, plus `bias`, is `sum`. In an MLP also
// all hidden units' `activations`, what this unit writes (`written`), and the vector `before` and
// `after` with the second layer's `offsets`.
const SUMS = {
  stem(mixer, way, { token, channel }, image) {
    const { C, stem, stemInputs } = mixer;
    const values = row(mixer.patchify(image), stemInputs, token), weights = column(stem.turned, C, channel);
    const bias = stem.bias[channel];
    return { values, weights, bias, sum: weighed(values, weights, bias), after: row(way.subarray(0, mixer.S * C), C, token) };
  },
  tokens(mixer, way, { block, channel, unit }) {
    const { S, C, D_S } = mixer, { fc1, fc2 } = mixer.blocks[block].mlp_tokens, seen = passed(mixer, way, block);
    const values = column(seen.norm1, C, channel), weights = row(fc1.weight, S, unit), bias = fc1.bias[unit];
    return {
      values, weights, bias, sum: weighed(values, weights, bias),
      activations: column(seen["mlp_tokens.act"], C, channel), written: column(fc2.weight, D_S, unit),
      offsets: fc2.bias.slice(), before: column(seen.before, C, channel), after: column(seen["tokens mixed"], C, channel),
    };
  },
  channels(mixer, way, { block, token, channel_unit: h }) {
    const { C, D_C } = mixer, { fc1, fc2 } = mixer.blocks[block].mlp_channels, seen = passed(mixer, way, block);
    const values = row(seen.norm2, C, token), weights = column(fc1.turned, D_C, h), bias = fc1.bias[h];
    return {
      values, weights, bias, sum: weighed(values, weights, bias),
      activations: row(seen["mlp_channels.act"], D_C, token), written: row(fc2.turned, C, h),
      offsets: fc2.bias.slice(), before: row(seen["tokens mixed"], C, token), after: row(seen["channels mixed"], C, token),
    };
  },
  classes(mixer, way, { classIndex }) {
    const { S, C, K, L, x, head } = mixer;
    x.set(way.subarray(2 * L * S * C));
    mixer.read();
    const values = Float32Array.from({ length: C }, (_, c) => column(mixer.y, C, c).reduce((a, b) => a + b, 0) / S);
    const weights = column(head.turned, K, classIndex), bias = head.bias[classIndex];
    return { values, weights, bias, sum: weighed(values, weights, bias) };
  },
};

// What a block makes of the tokens before it, layer by layer.
function passed(mixer, way, block) {
  const { S, C, x } = mixer, from = 2 * block * S * C, seen = { before: way.slice(from, from + S * C) };
  x.set(seen.before);
  mixer.run(block, block + 1, [], (_, name, values) => (seen[name] = values.slice()));
  return seen;
}
