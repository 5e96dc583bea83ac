// Vectors of eight floats and matrix products over them, in the compiler's vector extension: no processor is named.
#pragma once

#include <cstdint>

typedef float Lane __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(32), aligned(4), may_alias));

namespace {

constexpr int padded(int n) { return (n + 15) / 16 * 16; }

inline Lane load(const float *p) { return *reinterpret_cast<const Lane *>(p); }
inline void store(float *p, Lane v) { *reinterpret_cast<Lane *>(p) = v; }
inline Lane splat(float x) { return Lane{x, x, x, x, x, x, x, x}; }
inline float sum(Lane v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// The sums of four vectors; each in one fixed order.
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
inline Four sum4(Lane a, Lane b, Lane c, Lane d) {
  const Lane ab = __builtin_shuffle(a, b, Bits{0, 8, 1, 9, 4, 12, 5, 13}) +
                  __builtin_shuffle(a, b, Bits{2, 10, 3, 11, 6, 14, 7, 15});
  const Lane cd = __builtin_shuffle(c, d, Bits{0, 8, 1, 9, 4, 12, 5, 13}) +
                  __builtin_shuffle(c, d, Bits{2, 10, 3, 11, 6, 14, 7, 15});
  const Lane all = __builtin_shuffle(ab, cd, Bits{0, 1, 8, 9, 4, 5, 12, 13}) +
                   __builtin_shuffle(ab, cd, Bits{2, 3, 10, 11, 6, 7, 14, 15});
  const Four *halves = reinterpret_cast<const Four *>(&all);
  return halves[0] + halves[1];
}

template <int N>
inline void sums(const Lane *lanes, float *out) {
  if constexpr (N == 4) {
    *reinterpret_cast<Four *>(out) = sum4(lanes[0], lanes[1], lanes[2], lanes[3]);
  } else {
    for (int i = 0; i < N; ++i) out[i] = sum(lanes[i]);
  }
}

inline Lane largest(Lane a, Lane b) { return a > b ? a : b; }

// e^x to about one unit in the last place; arguments below -87 give about 1e-38.
inline Lane exponential(Lane x) {
  x = largest(x, splat(-87.0f));
  const Lane shifted = x * splat(1.44269504f) + splat(12582912.0f);  // 1.5 * 2^23 rounds to an integer
  const Lane whole = shifted - splat(12582912.0f);
  const Lane r = (x - whole * splat(0.693359375f)) - whole * splat(-2.12194440e-4f);
  Lane p = splat(1.0f / 5040.0f);
  p = p * r + splat(1.0f / 720.0f);
  p = p * r + splat(1.0f / 120.0f);
  p = p * r + splat(1.0f / 24.0f);
  p = p * r + splat(1.0f / 6.0f);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
  const Bits power = (reinterpret_cast<const Bits &>(shifted) - 0x4B400000 + 127) << 23;
  return p * reinterpret_cast<const Lane &>(power);
}

template <int M>
inline void tile(const float *a, int lda, const float *b, float *c, int ldc, int depth, bool add) {
  Lane left[M], right[M];
  for (int m = 0; m < M; ++m) left[m] = right[m] = splat(0.0f);
  for (int k = 0; k < depth; ++k) {
    const Lane b0 = load(b + 16 * k), b1 = load(b + 16 * k + 8);
    for (int m = 0; m < M; ++m) {
      const Lane x = splat(a[m * lda + k]);
      left[m] += x * b0;
      right[m] += x * b1;
    }
  }
  for (int m = 0; m < M; ++m) {
    float *out = c + m * ldc;
    store(out, add ? load(out) + left[m] : left[m]);
    store(out + 8, add ? load(out + 8) + right[m] : right[m]);
  }
}

// c[rows, columns] (+)= a[rows, depth] b, with b packed and columns a multiple of 16.
void matmul(const float *a, int lda, const float *b, float *c, int ldc, int rows, int columns, int depth,
            bool add = false) {
  for (int n = 0; n < columns; n += 16, b += 16 * depth) {
    int m = 0;
    for (; m + 6 <= rows; m += 6) tile<6>(a + m * lda, lda, b, c + m * ldc + n, ldc, depth, add);
    const float *rest = a + m * lda;
    float *out = c + m * ldc + n;
    switch (rows - m) {
      case 5: tile<5>(rest, lda, b, out, ldc, depth, add); break;
      case 4: tile<4>(rest, lda, b, out, ldc, depth, add); break;
      case 3: tile<3>(rest, lda, b, out, ldc, depth, add); break;
      case 2: tile<2>(rest, lda, b, out, ldc, depth, add); break;
      case 1: tile<1>(rest, lda, b, out, ldc, depth, add); break;
    }
  }
}

}  // namespace
