/* The arithmetic of mixer.js for WebAssembly SIMD: four float32 numbers at once.

   Built by tools/kernel.py into kernel.wasm. No library and no allocation: mixer.js owns the memory
   and passes places in it. Matrices are row-major, and every place begins at a multiple of 16
   bytes. */
#include <wasm_simd128.h>

#define EXPORT __attribute__((visibility("default")))
typedef v128_t Four;

enum { ROWS = 4, COLUMNS = 8, DEPTH = 512 }; /* of the part of a product that registers hold */
static float strip[DEPTH * COLUMNS];         /* eight columns of b, side by side: 16 kB, in cache */

static inline Four load(const float *at) { return wasm_v128_load(at); }
static inline Four each(float value) { return wasm_f32x4_splat(value); }
static inline Four times(Four a, Four b) { return wasm_f32x4_mul(a, b); }
static inline Four plus(Four a, Four b) { return wasm_f32x4_add(a, b); }

/* ROWS x COLUMNS numbers of y, at depths 0 ... k - 1 of a's rows and of the strip. */
static inline void tile(const float *a, int a_width, float *y, int y_width, int k, int rows) {
  Four sum[ROWS][2];
  for (int r = 0; r < rows; r++) {
    sum[r][0] = load(y + r * y_width);
    sum[r][1] = load(y + r * y_width + 4);
  }
  for (int p = 0; p < k; p++) {
    Four left = load(strip + COLUMNS * p), right = load(strip + COLUMNS * p + 4);
    for (int r = 0; r < rows; r++) {
      Four factor = wasm_v128_load32_splat(a + r * a_width + p);
      sum[r][0] = plus(sum[r][0], times(factor, left));
      sum[r][1] = plus(sum[r][1], times(factor, right));
    }
  }
  for (int r = 0; r < rows; r++) {
    wasm_v128_store(y + r * y_width, sum[r][0]);
    wasm_v128_store(y + r * y_width + 4, sum[r][1]);
  }
}

/* y += a b at no more than DEPTH columns of a: (m, k) (k, n) -> (m, n), k of a's a_width columns. */
static void gemm_part(const float *a, int a_width, const float *b, float *y, int m, int k, int n) {
  int j = 0;
  for (; j + COLUMNS <= n; j += COLUMNS) {
    for (int p = 0; p < k; p++) {
      wasm_v128_store(strip + COLUMNS * p, load(b + p * n + j));
      wasm_v128_store(strip + COLUMNS * p + 4, load(b + p * n + j + 4));
    }
    int i = 0;
    for (; i + ROWS <= m; i += ROWS) tile(a + i * a_width, a_width, y + i * n + j, n, k, ROWS);
    for (; i < m; i++) tile(a + i * a_width, a_width, y + i * n + j, n, k, 1);
  }
  for (; j < n; j++) /* fewer than eight columns left */
    for (int i = 0; i < m; i++) {
      float sum = y[i * n + j];
      for (int p = 0; p < k; p++) sum += a[i * a_width + p] * b[p * n + j];
      y[i * n + j] = sum;
    }
}

/* y += a b: (m, k) (k, n) -> (m, n). */
EXPORT void gemm(const float *a, const float *b, float *y, int m, int k, int n) {
  for (int p = 0; p < k; p += DEPTH)
    gemm_part(a + p, k, b + p * n, y, m, k - p < DEPTH ? k - p : DEPTH, n);
}

/* A polynomial at four places, highest power first. */
static inline Four polynomial(const float *coefficients, int count, Four x) {
  Four sum = each(coefficients[0]);
  for (int i = 1; i < count; i++) sum = plus(times(sum, x), each(coefficients[i]));
  return sum;
}

/* The error function, off by 1.4e-7 at most; mixer.js has the same fits, and says what they are. */
static inline Four erf4(Four x) {
  static const float near[] = {7.647117064520068e-5f,  -7.9423561175924e-4f, 5.179749527302136e-3f,
                               -2.684859130446513e-2f, 0.1128343011839388f,  -0.376126059851818f,
                               1.1283791584105174f};
  static const float far[] = {-1.5709228496601601e-4f, 2.9279302724160776e-3f, -2.0459935094376554e-2f,
                              6.066956653488561e-2f,   -4.053044459609675e-2f, -7.408558874232296e-2f,
                              -0.30257198049862905f,   1.0039770819693214f};
  Four size = wasm_f32x4_min(wasm_f32x4_abs(x), each(4));
  Four middle = times(size, polynomial(near, 7, times(size, size)));
  Four root = polynomial(far, 8, size), square = times(root, root);
  Four tail = wasm_f32x4_sub(each(1), times(square, square));
  Four found = wasm_v128_bitselect(middle, tail, wasm_f32x4_lt(size, each(1)));
  return wasm_v128_bitselect(x, found, wasm_i32x4_splat((int)0x80000000)); /* the sign of x */
}

/* Exact GELU in place. The last places of a row of four may lie past n: memory has room for them. */
EXPORT void gelu(float *x, int n) {
  for (int i = 0; i < n; i += 4) {
    Four v = load(x + i), half = times(v, each(0.5f));
    Four curve = erf4(times(v, each(0.70710678118654752f)));
    wasm_v128_store(x + i, plus(half, times(half, curve)));
  }
}

/* LayerNorm over each row: x (m, c) -> y (m, c), with gain and bias (c,). */
EXPORT void layer_norm(const float *x, const float *gain, const float *bias, float *y, int m, int c,
                       float eps) {
  for (int i = 0; i < m; i++, x += c, y += c) {
    double sum = 0, squares = 0;
    for (int j = 0; j < c; j++) sum += x[j];
    float mean = (float)(sum / c);
    for (int j = 0; j < c; j++) squares += (double)(x[j] - mean) * (x[j] - mean);
    float scale = 1 / __builtin_sqrtf((float)(squares / c) + eps);
    for (int j = 0; j < c; j++) y[j] = (x[j] - mean) * scale * gain[j] + bias[j];
  }
}
