// matmul_int8_words.h -- the blocks of matmul_int8 where the target multiplies words of bytes or halves (simd.h: vi_dot).
//
//   for each MC rows: for each chunk of K: lay out A's rows as words; for each group of panels: lay out B's panel
//   likewise; for each tile of <= MR rows: one call of a register tile
#ifndef SARDONYX_MATMUL_INT8_WORDS_H
#define SARDONYX_MATMUL_INT8_WORDS_H

#include "matmul_int8_pack.h"

#define MC (120 / MR * MR)   // rows of A in L2
#define A_PITCH (WORDS + 16) // words between rows of A: not a power of two, which would fall on few sets

#define A_BYTES (MC * A_PITCH * 4)
#define B_BYTES (PANELS * WORDS * 64)
#define SUMS_BYTES ((MC + 15) / 16 * 64)
#define PACKED_PANELS PANELS
#define OWN_ROWS MC
#define OWN_COLUMNS INT64_MAX // of a block

// One row of A, `k` elements, as words; what is beyond K up to a whole word (of four elements) counts as 0.
static int32_t lay_out_row(const void *from, int64_t k, int64_t is_signed, int32_t zero, void *to) {
    const uint8_t *const bytes = from;
    const int64_t whole = ceil_div(k, 4) * 4;
#if SX_DOT_GROUP == 4
    uint8_t *const out = to;
    const uint8_t flip = SX_DOT_A_UNSIGNED == !is_signed ? 0 : 0x80;
    int32_t sum = 0;
    (void)zero;
    for (int64_t i = 0; i < k; i++) out[i] = bytes[i] ^ flip;
    for (int64_t i = k; i < whole; i++) out[i] = 0;
    for (int64_t i = 0; i < k; i++) sum += SX_DOT_A_UNSIGNED ? out[i] : (int8_t)out[i];
    return sum;
#else
    int16_t *const out = to;
    if (is_signed)
        for (int64_t i = 0; i < k; i++) out[i] = (int16_t)((int8_t)bytes[i] - zero);
    else
        for (int64_t i = 0; i < k; i++) out[i] = (int16_t)(bytes[i] - zero);
    for (int64_t i = k; i < whole; i++) out[i] = 0;
    return 0;
#endif
}

// `rows` rows of laid-out A times one group of panels; the last columns of a narrow one are computed beside C.
static void run_tiles(int8_tile t, int64_t rows, int64_t group, int64_t width) {
    const int8_tile_function *const functions = group == 1 ? int8_slim_tiles : int8_wide_tiles;
    const int64_t tiles = ceil_div(rows, MR), full = 16 * group;
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t count = part(rows, tiles, i + 1) - part(rows, tiles, i);
        if (width == full) {
            functions[count](&t);
        } else {
            int32_t beside[MR * PANELS * 16];
            int8_tile narrow = t;
            narrow.c = beside;
            narrow.c_row = full;
            for (int64_t r = 0; r < count && !t.fresh; r++)
                for (int64_t j = 0; j < full; j++) beside[r * full + j] = j < width ? t.c[r * t.c_row + j] : 0;
            functions[count](&narrow);
            for (int64_t r = 0; r < count; r++)
                for (int64_t j = 0; j < width; j++) t.c[r * t.c_row + j] = beside[r * full + j];
        }
        t.a += count * t.a_row;
        t.c += count * t.c_row;
    }
}

// At most MC rows of a block, all of K.
static void run_rows(const matmul_int8_args *g, const int8_block *block, int64_t row_lo, int64_t rows, int first,
                     const int8_scratch *s) {
    int32_t *const whole = whole_c(g, s, block->batch, row_lo, block->col_lo);
    int32_t *const c = whole + block->batch * g->c_batch + row_lo * g->c_row;
    const uint8_t *const a = (const uint8_t *)g->a + block->batch * g->a_batch + row_lo * g->a_row;
    for (int64_t i = 0; i < rows; i++) s->row_sums[i] = 0;
    int64_t k_lo = 0;
    do {
        const int64_t k = least(KC, g->k - k_lo);
        for (int64_t i = 0; i < rows; i++)
            s->row_sums[i] += lay_out_row(a + i * g->a_row + k_lo, k, g->a_signed, a_zero_of(g, row_lo + i),
                                          s->a + i * A_PITCH);
        for (int64_t col = block->col_lo; col < block->col_hi;) {
            const int64_t group = block->col_hi - col > 16 * (PANELS - 1) ? PANELS : 1;
            int8_tile t = {.a = s->a, .a_row = A_PITCH, .fresh = k_lo == 0, .words = ceil_div(k, 4) * 4 / SX_DOT_GROUP};
            t.b = lay_out_panels(g, s, block->batch, col, k_lo, k, group, first, &t.b_panel, block->col_lo);
            t.c = c + col;
            t.c_row = g->c_row;
            run_tiles(t, rows, group, least(16 * group, block->col_hi - col));
            col += 16 * group;
        }
        k_lo += k;
    } while (k_lo < g->k);
#if SX_DOT_GROUP == 4
    take_zeros_off(g, s, block, block->col_lo, block->col_hi, row_lo, 0, rows, c);
#endif
    run_epilogue(g, whole, block->batch, row_lo, row_lo + rows, block->col_lo, block->col_hi);
}

static void run_block(const matmul_int8_args *g, const int8_block *block, const int8_scratch *s) {
    const int64_t rows = block->row_hi - block->row_lo, parts = ceil_div(rows, MC);
    for (int64_t i = 0; i < parts; i++)
        run_rows(g, block, block->row_lo + part(rows, parts, i), part(rows, parts, i + 1) - part(rows, parts, i), i == 0, s);
}

#endif
