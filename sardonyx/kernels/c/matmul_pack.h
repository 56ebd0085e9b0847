// matmul_pack.h -- copies blocks of A and B of matmul_f32 to where its tiles read them best.
#ifndef SARDONYX_MATMUL_PACK_H
#define SARDONYX_MATMUL_PACK_H

#include "simd.h"

typedef struct {
    const float *data;
    int64_t row, col; // strides
} matmul_view;

// 16 rows of 4 floats, `stride` apart, become 4 rows of 16: out[i][j] = p[j * stride + i]. One shuffle network for all
// ISAs, since no float crosses its 128-bit quarter.
SX_INLINE void matmul_transpose_16x4(const float *p, int64_t stride, f32x16 out[4]) {
    typedef float f32x4 __attribute__((vector_size(16), aligned(4), may_alias));
    typedef float f32x8 __attribute__((vector_size(32)));
    f32x16 in[4];
    for (int i = 0; i < 4; i++) {
        const f32x4 *q = (const f32x4 *)(p + i * stride);
        const f32x4 q0 = *q, q1 = *(const f32x4 *)(p + (i + 4) * stride);
        const f32x4 q2 = *(const f32x4 *)(p + (i + 8) * stride), q3 = *(const f32x4 *)(p + (i + 12) * stride);
        const f32x8 lo = __builtin_shufflevector(q0, q1, 0, 1, 2, 3, 4, 5, 6, 7);
        const f32x8 hi = __builtin_shufflevector(q2, q3, 0, 1, 2, 3, 4, 5, 6, 7);
        in[i] = __builtin_shufflevector(lo, hi, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    }
#define QUARTERS(x, y, a, b, c, d) __builtin_shufflevector(x, y, a, b, c, d, a + 4, b + 4, c + 4, d + 4, \
                                                           a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12)
    const f32x16 a = QUARTERS(in[0], in[1], 0, 16, 1, 17), b = QUARTERS(in[0], in[1], 2, 18, 3, 19);
    const f32x16 c = QUARTERS(in[2], in[3], 0, 16, 1, 17), d = QUARTERS(in[2], in[3], 2, 18, 3, 19);
    out[0] = QUARTERS(a, c, 0, 1, 16, 17);
    out[1] = QUARTERS(a, c, 2, 3, 18, 19);
    out[2] = QUARTERS(b, d, 0, 1, 16, 17);
    out[3] = QUARTERS(b, d, 2, 3, 18, 19);
#undef QUARTERS
}

// Columns 0 .. n of B's rows 0 .. k into panels [ceil(n/16)][k][16]; columns beyond n become 0.
static void matmul_pack_b(matmul_view b, int64_t k, int64_t n, float *restrict out) {
    const int64_t whole = n / 16, rest = n % 16;
    if (b.col == 1) {
        for (int64_t i = 0; i < k; i++)
            for (int64_t p = 0; p < whole; p++)
                store16(out + (p * k + i) * 16, load16(b.data + i * b.row + p * 16));
    } else {
        for (int64_t p = 0; p < whole; p++) {
            const float *from = b.data + p * 16 * b.col;
            float *to = out + p * k * 16;
            int64_t i = 0;
            for (; b.row == 1 && i + 4 <= k; i += 4) {
                f32x16 rows[4];
                matmul_transpose_16x4(from + i, b.col, rows);
                for (int j = 0; j < 4; j++) store16(to + (i + j) * 16, rows[j]);
            }
            for (; i < k; i++)
                for (int64_t j = 0; j < 16; j++) to[i * 16 + j] = from[i * b.row + j * b.col];
        }
    }
    if (rest == 0) return;
    const float *from = b.data + whole * 16 * b.col;
    float *to = out + whole * k * 16;
    for (int64_t i = 0; i < k; i++) store16(to + i * 16, (f32x16){});
    for (int64_t j = 0; j < rest; j++)
        for (int64_t i = 0; i < k; i++) to[i * 16 + j] = from[i * b.row + j * b.col];
}

// Rows 0 .. m and columns 0 .. k of A, close together, so that they no longer fall on the same few sets of the cache
// and on many pages. Needs matmul_a_copy_floats(m, k) floats; keeps whichever direction was contiguous.
SX_INLINE int64_t matmul_whole_lines(int64_t floats) { return (floats + 15) / 16 * 16; }
SX_INLINE int64_t matmul_a_copy_floats(int64_t m, int64_t k) { return matmul_whole_lines(m) * matmul_whole_lines(k); }
__attribute__((unused)) static matmul_view matmul_copy_a(matmul_view a, int64_t m, int64_t k, float *restrict out) {
    const int by_col = a.row == 1 && a.col != 1;
    const int64_t outer = by_col ? k : m, inner = by_col ? m : k, pitch = matmul_whole_lines(inner);
    const int64_t outer_step = by_col ? a.col : a.row, inner_step = by_col ? a.row : a.col;
    for (int64_t i = 0; i < outer; i++) {
        const float *from = a.data + i * outer_step;
        float *to = out + i * pitch;
        if (inner_step == 1)
            for (int64_t j = 0; j < inner; j++) to[j] = from[j];
        else
            for (int64_t j = 0; j < inner; j++) to[j] = from[j * inner_step];
    }
    return by_col ? (matmul_view){out, 1, pitch} : (matmul_view){out, pitch, 1};
}

#endif
