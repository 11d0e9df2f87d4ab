// The arithmetic of mixer.js, on float32 arrays: by kernel.wasm, or in plain JavaScript.
//
// Matrices are row-major, (m, k) means m rows of k numbers. Both kinds offer the same functions:
//   floats(n)                             n zeros that the others can work on
//   gemm(a, b, y, m, k, n)                y += a b: (m, k) (k, n) -> (m, n)
//   gelu(x, kind)                         in place; kind "exact" or "tanh"
//   layerNorm(x, gain, bias, y, m, c, eps)    over each row: (m, c) -> (m, c)

// The error function, off by 2.4e-8 at most. Below 1 it is an odd polynomial; above, 1 - p(x)^4,
// where p was fitted to the fourth root of 1 - erf. Both are least-squares fits of our own,
// reweighted until the largest error was as small as it gets; kernel.c has the same.
function erf(x) {
  const z = Math.min(Math.abs(x), 4);
  if (z < 1) {
    const t = z * z;
    return x * ((((((7.647117064520068e-5 * t - 7.9423561175924e-4) * t + 5.179749527302136e-3) * t -
      2.684859130446513e-2) * t + 0.1128343011839388) * t - 0.376126059851818) * t + 1.1283791584105174);
  }
  const root = ((((((-1.5709228496601601e-4 * z + 2.9279302724160776e-3) * z - 2.0459935094376554e-2) * z +
    6.066956653488561e-2) * z - 4.053044459609675e-2) * z - 7.408558874232296e-2) * z -
    0.30257198049862905) * z + 1.0039770819693214;
  const square = root * root, tail = 1 - square * square;
  return x < 0 ? -tail : tail;
}

const TANH = Math.sqrt(2 / Math.PI);
const GELU = {
  exact: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  tanh: (x) => 0.5 * x * (1 + Math.tanh(TANH * (x + 0.044715 * x ** 3))),
};
// Derivatives.
const GELU_SLOPE = {
  exact: (x) => 0.5 * (1 + erf(x * Math.SQRT1_2)) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI),
  tanh: (x) => {
    const t = Math.tanh(TANH * (x + 0.044715 * x ** 3));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * TANH * (1 + 3 * 0.044715 * x * x);
  },
};

function plainGelu(x, kind) {
  const gelu = GELU[kind];
  for (let i = 0; i < x.length; i++) x[i] = gelu(x[i]);
}

const plain = {
  name: "JavaScript",
  floats: (n) => new Float32Array(n),
  gelu: plainGelu,

  // Three columns of b, packed side by side so that they stay in the cache, and four rows of a at a
  // time: their twelve sums stay in registers.
  gemm(a, b, y, m, k, n) {
    const rows = m - (m % 4), columns = n - (n % 3), strip = new Float32Array(3 * k);
    for (let j = 0; j < columns; j += 3) {
      for (let p = 0, at = j; p < k; p++, at += n) {
        strip[3 * p] = b[at];
        strip[3 * p + 1] = b[at + 1];
        strip[3 * p + 2] = b[at + 2];
      }
      for (let i = 0; i < rows; i += 4) {
        const a0 = i * k, a1 = a0 + k, a2 = a1 + k, a3 = a2 + k;
        let s00 = 0, s01 = 0, s02 = 0, s10 = 0, s11 = 0, s12 = 0;
        let s20 = 0, s21 = 0, s22 = 0, s30 = 0, s31 = 0, s32 = 0;
        for (let p = 0, at = 0; p < k; p++, at += 3) {
          const b0 = strip[at], b1 = strip[at + 1], b2 = strip[at + 2];
          let factor = a[a0 + p];
          s00 += factor * b0; s01 += factor * b1; s02 += factor * b2;
          factor = a[a1 + p];
          s10 += factor * b0; s11 += factor * b1; s12 += factor * b2;
          factor = a[a2 + p];
          s20 += factor * b0; s21 += factor * b1; s22 += factor * b2;
          factor = a[a3 + p];
          s30 += factor * b0; s31 += factor * b1; s32 += factor * b2;
        }
        let to = i * n + j;
        y[to] += s00; y[to + 1] += s01; y[to + 2] += s02; to += n;
        y[to] += s10; y[to + 1] += s11; y[to + 2] += s12; to += n;
        y[to] += s20; y[to + 1] += s21; y[to + 2] += s22; to += n;
        y[to] += s30; y[to + 1] += s31; y[to + 2] += s32;
      }
    }
    // What is left: the last rows, and of the others the last columns.
    for (let i = 0; i < m; i++)
      for (let j = i < rows ? columns : 0; j < n; j++) {
        let sum = 0;
        for (let p = 0; p < k; p++) sum += a[i * k + p] * b[p * n + j];
        y[i * n + j] += sum;
      }
  },

  layerNorm(x, gain, bias, y, m, c, eps) {
    for (let i = 0, at = 0; i < m; i++, at += c) {
      let mean = 0, variance = 0;
      for (let j = 0; j < c; j++) mean += x[at + j] / c;
      for (let j = 0; j < c; j++) variance += (x[at + j] - mean) ** 2 / c;
      const scale = 1 / Math.sqrt(variance + eps);
      for (let j = 0; j < c; j++) y[at + j] = (x[at + j] - mean) * scale * gain[j] + bias[j];
    }
  },
};

// The same by the kernel, in its own memory with room for so many floats.
function kernelArithmetic(module, room) {
  const { memory, __heap_base, gemm, gelu, layer_norm } = new WebAssembly.Instance(module).exports;
  let next = __heap_base.value;
  // Grown once, before there are arrays: growing would cut them off.
  memory.grow(Math.max(0, Math.ceil((next + 4 * room - memory.buffer.byteLength) / 65536)));
  const at = (array) => array.byteOffset;
  return {
    name: "WebAssembly",
    floats(n) {
      next = 16 * Math.ceil(next / 16);
      const made = new Float32Array(memory.buffer, next, n);
      next += 4 * n + 16; // the kernel may write past the end, to fill its last four
      return made;
    },
    gemm: (a, b, y, m, k, n) => gemm(at(a), at(b), at(y), m, k, n),
    gelu: (x, kind) => (kind === "exact" ? gelu(at(x), x.length) : plainGelu(x, kind)),
    layerNorm: (x, gain, bias, y, m, c, eps) => layer_norm(at(x), at(gain), at(bias), at(y), m, c, eps),
  };
}

// The kernel where the browser knows WebAssembly's SIMD, else plain JavaScript.
function arithmetic(kernel, room) {
  try {
    return kernelArithmetic(new WebAssembly.Module(kernel), room);
  } catch {
    return plain;
  }
}
