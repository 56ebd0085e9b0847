// winograd_few.h -- the products of a Winograd convolution where tiles are few: weights are transformed in registers, and
// go from there into the sums, which lie in L1.
//
//   m[position][t][l] = sum over ib, c of v[ib][position][t][c] * (G g[ib][c] G')[position][l]
//
// The same roundings in the same order as winograd_weights_block and winograd_product: not a bit differs. With many tiles
// those are better, since they write transformed weights once and read them for all tiles; with 4 tiles (planes of 7x7) each
// transformed weight would be written and read again for 4 products.
//
// FEW_CHANNELS input channels at a time: their transformed weights, a row of 6 positions each, are FEW_CHANNELS * 6 registers;
// 6 sums of a tile are loaded, added to and stored. (Sums of 4 tiles in registers and weights a channel at a time: 1.2 times
// as long, the constants of the transform and the sums do not fit.)
#ifndef SARDONYX_WINOGRAD_FEW_H
#define SARDONYX_WINOGRAD_FEW_H

#include "winograd_tile.h"

#define FEW_CHANNELS 4
_Static_assert(!WINOGRAD_FEW || 6 * FEW_CHANNELS + 7 <= VREGS, "sums would spill");

// Sums of FEW_CHANNELS channels and VL lanes. w: [9][16][16] from the first of both; v, m: likewise, tile after tile.
// `next` is read soon: FEW_CHANNELS * 9 lines of it are fetched into L2 meanwhile.
SX_INLINE void winograd_few_channels(const float *w, const float *next, const float *v, int64_t v_step, int64_t tiles,
                                     float *m, int64_t m_step, const int first) {
    float columns[FEW_CHANNELS][6][3][VL] __attribute__((aligned(64)));
#pragma clang loop unroll(full)
    for (int c = 0; c < FEW_CHANNELS; c++)
#pragma clang loop unroll(full)
        for (int j = 0; j < 3; j++) {
            vf in[3], out[6];
#pragma clang loop unroll(full)
            for (int i = 0; i < 3; i++) in[i] = v_load(w + (i * 3 + j) * 256 + c * 16);
            winograd_weights(in, out);
#pragma clang loop unroll(full)
            for (int i = 0; i < 6; i++) v_store(columns[c][i][j], out[i]);
        }
#pragma clang loop unroll(disable)
    for (int i = 0; i < 6; i++) {
        vf u[FEW_CHANNELS][6];
#pragma clang loop unroll(full)
        for (int c = 0; c < FEW_CHANNELS; c++) {
            const vf in[3] = {v_load(columns[c][i][0]), v_load(columns[c][i][1]), v_load(columns[c][i][2])};
            winograd_weights(in, u[c]);
        }
        for (int l = 0; l < FEW_CHANNELS * 9 / 6; l++) __builtin_prefetch(next + (i * FEW_CHANNELS * 9 / 6 + l) * 16, 0, 2);
        const float *vs = v + i * 6 * v_step;
        float *ms = m + i * 6 * m_step;
#pragma clang loop unroll(disable)
        for (int64_t t = 0; t < tiles; t++, vs += 16, ms += 16) {
            vf sum[6];
#pragma clang loop unroll(full)
            for (int j = 0; j < 6; j++) sum[j] = first ? (vf){} : v_load(ms + j * m_step);
#pragma clang loop unroll(full)
            for (int c = 0; c < FEW_CHANNELS; c++)
#pragma clang loop unroll(full)
                for (int j = 0; j < 6; j++) sum[j] = SX_FMA(v_set1(vs[j * v_step + c]), u[c][j], sum[j]);
#pragma clang loop unroll(full)
            for (int j = 0; j < 6; j++) v_store(ms + j * m_step, sum[j]);
        }
    }
}

// All sums of one output channel block from its weights w[icb][9][16][16] and the block's V.
static void winograd_few_product(const winograd_cut *cut, const winograd_block *b, const float *w, const float *v,
                                 float *m) {
    for (int64_t ib = 0; ib < cut->icb; ib++, w += 9 * 256) {
        const float *vs = v + ib / WINOGRAD_CHUNK * POSITIONS * b->v + ib % WINOGRAD_CHUNK * b->count * 16;
        for (int c = 0; c < 16; c += FEW_CHANNELS) {
            const float *next = w + 9 * 256 + c * 9 * 16; // a hint: nothing is read where there is no next block
            for (int l = 0; l < 16; l += VL) {
                if (ib == 0 && c == 0) winograd_few_channels(w + l, next, vs, b->v, b->count, m + l, b->s, 1);
                else winograd_few_channels(w + c * 16 + l, next, vs + c, b->v, b->count, m + l, b->s, 0);
            }
        }
    }
}

#endif
