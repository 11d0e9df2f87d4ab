// A photograph on its way to the network, as images.py prepares it, and its shuffles.

// Bicubic and bilinear filters, as Pillow has them: [half width, weight at distance x >= 0].
const FILTERS = {
  bicubic: [2, (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0)],
  bilinear: [1, (x) => (x < 1 ? 1 - x : 0)],
};
const BITS = 22; // of Pillow's fixed-point weights: 32, less 8 for a pixel and 2 for sums

// For each of `to` pixels in a row: the first of `from` pixels that it is made of, and whole-number
// weights for that and the next ones. The filter widens as the picture shrinks.
function resampling(from, to, interpolation) {
  const [half, filter] = FILTERS[interpolation], scale = from / to, stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale, reach = half * stretch;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = Array.from({ length: end - first }, (_, j) => filter(Math.abs((first + j - centre + 0.5) / stretch)));
    const sum = weights.reduce((a, b) => a + b, 0);
    const whole = (w) => Math.trunc((w / sum) * 2 ** BITS + (w < 0 ? -0.5 : 0.5));
    return { first, weights: Int32Array.from(weights, whole) };
  });
}

// One direction of resizing. Numbers of a pixel lie `inner` apart along it; `lines` other places.
// at(line) is where a line begins, in the old picture and in the new one.
function resampleLines(pixels, made, { steps, lines, step, from, to }) {
  for (let line = 0; line < lines; line++)
    for (let i = 0; i < steps.length; i++) {
      const { first, weights } = steps[i];
      for (let c = 0; c < 3; c++) {
        let sum = 2 ** (BITS - 1); // a half, for rounding
        for (let j = 0, at = from(line) + first * step + c; j < weights.length; j++, at += step)
          sum += pixels[at] * weights[j];
        made[to(line) + i * step + c] = Math.max(0, Math.min(255, sum >> BITS));
      }
    }
  return made;
}

// An RGB picture of whole bytes in another size, (h, w, 3): across first, then down, as Pillow does.
function resized(pixels, width, height, toWidth, toHeight, interpolation) {
  if (toWidth !== width)
    pixels = resampleLines(pixels, new Uint8Array(toWidth * height * 3), {
      steps: resampling(width, toWidth, interpolation), lines: height, step: 3,
      from: (y) => 3 * y * width, to: (y) => 3 * y * toWidth,
    });
  if (toHeight !== height)
    pixels = resampleLines(pixels, new Uint8Array(toWidth * toHeight * 3), {
      steps: resampling(height, toHeight, interpolation), lines: toWidth, step: 3 * toWidth,
      from: (x) => 3 * x, to: (x) => 3 * x,
    });
  return pixels;
}

// Python's round(): halves to the even number.
function roundHalfEven(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2) : Math.round(x);
}

// images.prepare up to the numbers 0 ... 255: the shorter side resized, the centre cut out.
// RGBA bytes, opaque -> (image_size, image_size, 3).
function squareOf(rgba, width, height, { image_size: size, crop, interpolation }) {
  const side = Math.floor(size / crop), longer = (a, b) => Math.trunc((side * a) / b);
  const toWidth = width <= height ? side : longer(width, height);
  const toHeight = width <= height ? longer(height, width) : side;
  const rgb = new Uint8Array(3 * width * height);
  for (let i = 0, to = 0; i < rgba.length; i += 4, to += 3)
    for (let c = 0; c < 3; c++) rgb[to + c] = rgba[i + c];
  const whole = resized(rgb, width, height, toWidth, toHeight, interpolation);
  const top = roundHalfEven((toHeight - size) / 2), left = roundHalfEven((toWidth - size) / 2);
  const square = new Uint8Array(3 * size * size);
  for (let y = 0; y < size; y++) {
    const from = 3 * ((top + y) * toWidth + left);
    square.set(whole.subarray(from, from + 3 * size), 3 * y * size);
  }
  return square;
}

// Pixels (h, w, 3) of 0 ... 255 as the network takes them, (3, h, w): normalised, then the covered
// patches made 0, the mean colour, and patches moved: place k gets patch order[k].
function inputOf(pixels, { image_size, patch_size: P, grid_size: [, gw] }, { mean, std }, covered = [], order = null) {
  const [height, width] = image_size, hidden = new Set(covered), input = new Float32Array(3 * height * width);
  for (let y = 0, to = 0; y < height; y++)
    for (let x = 0; x < width; x++, to++) {
      const place = Math.floor(y / P) * gw + Math.floor(x / P), patch = order ? order[place] : place;
      if (hidden.has(patch)) continue;
      const row = Math.floor(patch / gw) * P + (y % P), column = (patch % gw) * P + (x % P);
      for (let c = 0; c < 3; c++)
        input[c * height * width + to] = (pixels[3 * (row * width + column) + c] / 255 - mean[c]) / std[c];
    }
  return input;
}

// torch.randperm(n, generator=torch.Generator().manual_seed(seed)): the generator is Matsumoto and
// Nishimura's MT19937, and each place in turn changes with one of those from it on.
function randperm(n, seed) {
  const state = new Uint32Array(624), order = Int32Array.from({ length: n }, (_, i) => i);
  state[0] = seed;
  for (let i = 1; i < 624; i++) {
    const last = state[i - 1];
    state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
  }
  let used = 624;
  function next() {
    if (used === 624) {
      for (let i = 0; i < 624; i++) {
        const bits = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
      }
      used = 0;
    }
    let bits = state[used++];
    bits ^= bits >>> 11;
    bits ^= (bits << 7) & 0x9d2c5680;
    bits ^= (bits << 15) & 0xefc60000;
    return (bits ^ (bits >>> 18)) >>> 0;
  }
  for (let i = 0; i < n - 1; i++) {
    const other = i + (next() % (n - i));
    [order[i], order[other]] = [order[other], order[i]];
  }
  return order;
}
