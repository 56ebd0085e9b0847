// winograd_transform.h -- the transforms of Winograd's F(4x4, 3x3), each a pair of one-dimensional ones.
//
// winograd_f32.h states the formula. In the C below, d, g and s are registers, each a part of one NCHW16c block.
#ifndef SARDONYX_WINOGRAD_TRANSFORM_H
#define SARDONYX_WINOGRAD_TRANSFORM_H

#include "simd.h"

#define WINOGRAD_P 0.625f  // the points: 0, P, -P, Q, -Q, infinity
#define WINOGRAD_Q 1.5f
#define WINOGRAD_N_P (2 * WINOGRAD_P * WINOGRAD_P * (WINOGRAD_P * WINOGRAD_P - WINOGRAD_Q * WINOGRAD_Q))
#define WINOGRAD_N_Q (2 * WINOGRAD_Q * WINOGRAD_Q * (WINOGRAD_Q * WINOGRAD_Q - WINOGRAD_P * WINOGRAD_P))

// B' d, of one column or row.
SX_INLINE void winograd_forward(const vf *d, vf *to) {
    const float p = WINOGRAD_P, q = WINOGRAD_Q;
    const vf p1 = v_set1(p), q1 = v_set1(q), p2 = v_set1(-p * p), q2 = v_set1(-q * q);
    const vf both = v_set1(p * p * q * q), sum = v_set1(-p * p - q * q);
    const vf even_p = SX_FMA(q2, d[2], d[4]), odd_p = SX_FMA(q2, d[1], d[3]);
    const vf even_q = SX_FMA(p2, d[2], d[4]), odd_q = SX_FMA(p2, d[1], d[3]);
    to[0] = SX_FMA(both, d[0], SX_FMA(sum, d[2], d[4]));
    to[1] = SX_FMA(p1, odd_p, even_p);
    to[2] = SX_FMA(-p1, odd_p, even_p);
    to[3] = SX_FMA(q1, odd_q, even_q);
    to[4] = SX_FMA(-q1, odd_q, even_q);
    to[5] = SX_FMA(both, d[1], SX_FMA(sum, d[3], d[5]));
}

// G g, of one column or row. The constants are rounded once each.
SX_INLINE void winograd_weights(const vf g[3], vf *to) {
    const float p = WINOGRAD_P, q = WINOGRAD_Q;
    const vf zero = v_set1(1 / (p * p * q * q));
    const vf p0 = v_set1(1 / WINOGRAD_N_P), p1 = v_set1(p / WINOGRAD_N_P), p2 = v_set1(p * p / WINOGRAD_N_P);
    const vf q0 = v_set1(1 / WINOGRAD_N_Q), q1 = v_set1(q / WINOGRAD_N_Q), q2 = v_set1(q * q / WINOGRAD_N_Q);
    const vf even_p = SX_FMA(p2, g[2], p0 * g[0]), even_q = SX_FMA(q2, g[2], q0 * g[0]);
    to[0] = zero * g[0];
    to[1] = SX_FMA(p1, g[1], even_p);
    to[2] = SX_FMA(-p1, g[1], even_p);
    to[3] = SX_FMA(q1, g[1], even_q);
    to[4] = SX_FMA(-q1, g[1], even_q);
    to[5] = g[2];
}

// A' s.
SX_INLINE void winograd_backward(const vf *s, vf *to) {
    const float p = WINOGRAD_P, q = WINOGRAD_Q;
    const vf p1 = v_set1(p), q1 = v_set1(q), p2 = v_set1(p * p), q2 = v_set1(q * q);
    const vf p3 = v_set1(p * p * p), q3 = v_set1(q * q * q);
    const vf even_p = s[1] + s[2], odd_p = s[1] - s[2], even_q = s[3] + s[4], odd_q = s[3] - s[4];
    to[0] = s[0] + even_p + even_q;
    to[1] = SX_FMA(q1, odd_q, p1 * odd_p);
    to[2] = SX_FMA(q2, even_q, p2 * even_p);
    to[3] = SX_FMA(q3, odd_q, SX_FMA(p3, odd_p, s[5]));
}

#define WINOGRAD_RUN 8                              // tiles of a row that are transformed together
#define WINOGRAD_STRIP (WINOGRAD_RUN * 4 + 2)       // columns under them

// V of `count` neighbouring tiles: position i of tile t at v[i * step + t * 16]. Row r of the inputs begins at row[r],
// and columns lo <= j < hi lie in the image. Columns are transformed once, for both tiles that read them.
SX_INLINE void winograd_input_run(const float *const *row, int64_t lo, int64_t hi, int64_t count, float *v,
                                  int64_t step) {
    const int64_t width = count * 4 + 2;
    if (hi > width) hi = width;
    float strip[6][WINOGRAD_STRIP][VL] __attribute__((aligned(64)));
    for (int l = 0; l < 16; l += VL) {
        for (int64_t j = 0; j < width; j++)
            if (j < lo || j >= hi)
                for (int i = 0; i < 6; i++) v_store(strip[i][j], (vf){});
        for (int64_t j = lo; j < hi; j++) {
            vf in[6], out[6];
#pragma clang loop unroll(full)
            for (int i = 0; i < 6; i++) in[i] = v_load(row[i] + j * 16 + l);
            winograd_forward(in, out);
#pragma clang loop unroll(full)
            for (int i = 0; i < 6; i++) v_store(strip[i][j], out[i]);
        }
        for (int64_t t = 0; t < count; t++) {
#pragma clang loop unroll(disable)
            for (int i = 0; i < 6; i++) {
                vf in[6], out[6];
#pragma clang loop unroll(full)
                for (int j = 0; j < 6; j++) in[j] = v_load(strip[i][t * 4 + j]);
                winograd_forward(in, out);
#pragma clang loop unroll(full)
                for (int j = 0; j < 6; j++) v_store(v + (i * 6 + j) * step + t * 16 + l, out[j]);
            }
        }
    }
}

// U of one block of 16 channels in x 16 channels out, from w[9][16][16]: position i at u[i * step].
SX_INLINE void winograd_weights_block(const float *w, float *u, int64_t step) {
    for (int at = 0; at < 256; at += VL) {
        vf column[6][3];
#pragma clang loop unroll(full)
        for (int j = 0; j < 3; j++) {
            vf in[3], out[6];
#pragma clang loop unroll(full)
            for (int i = 0; i < 3; i++) in[i] = v_load(w + (i * 3 + j) * 256 + at);
            winograd_weights(in, out);
#pragma clang loop unroll(full)
            for (int i = 0; i < 6; i++) column[i][j] = out[i];
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < 6; i++) {
            vf out[6];
            winograd_weights(column[i], out);
#pragma clang loop unroll(full)
            for (int j = 0; j < 6; j++) v_store(u + (i * 6 + j) * step + at, out[j]);
        }
    }
}

// The outputs of one tile: sum i at s[i * step]; the first `high` rows and `wide` columns of them, rows `row` apart.
// Returns the sum of all: it is not finite where one of them is not.
SX_INLINE vf winograd_output_tile(const float *s, int64_t step, float *y, int64_t row, int64_t high,
                                  int64_t wide) {
    vf check = {};
    for (int l = 0; l < 16; l += VL) {
        vf half[4][6];
#pragma clang loop unroll(disable)
        for (int j = 0; j < 6; j++) {
            vf in[6], out[4];
#pragma clang loop unroll(full)
            for (int i = 0; i < 6; i++) in[i] = v_load(s + (i * 6 + j) * step + l);
            winograd_backward(in, out);
#pragma clang loop unroll(full)
            for (int i = 0; i < 4; i++) half[i][j] = out[i];
        }
#pragma clang loop unroll(disable)
        for (int64_t i = 0; i < high; i++) {
            vf out[4];
            winograd_backward(half[i], out);
            float *to = y + i * row + l;
#pragma clang loop unroll(full)
            for (int j = 0; j < 4; j++) {
                if (j < wide) v_store(to + j * 16, out[j]);
                check += out[j];
            }
        }
    }
    return check;
}

#endif
