// matmul_int8_amx.h -- the blocks of matmul_int8 where the target has matrix tiles (simd.h: SX_TILES).
//
//   for each ROWS rows: for each GROUP columns: for each chunk of K: for each 32 rows: for each 32 columns: 2 x 2 tiles
//   of C; and after the last chunk the epilogue of 32 rows x GROUP columns, while they are in L1
//
// A is read where it lies and B as packed; only what K leaves beyond whole tiles (64 bytes) is laid out anew. Sums start
// from what the zero points come to, where that is the same in all rows: a tile is loaded from one row, sixteen times.
// 32 rows of a chunk of A (32 KB) stay in L1 while a group of B (128 KB a chunk) comes from L2, and B comes from memory
// once, fetched a group ahead; beyond the last group that is what lies behind B, usually the weights that are used next.
#ifndef SARDONYX_MATMUL_INT8_AMX_H
#define SARDONYX_MATMUL_INT8_AMX_H

#include "matmul_int8_pack.h"

#define GROUP 128            // columns between two epilogues
#define ROWS 256             // rows of A at once, at most
#define A_L2 (1 << 20)       // bytes of these
#define STEP 64              // bytes of K in a tile

#define A_BYTES (ROWS * STEP) // what K leaves, of each row
#define B_BYTES (GROUP / 16 * 1024 + 32 * 32 * 4 + GROUP * 4)
#define SUMS_BYTES (ROWS * 4)
#define PACKED_PANELS (GROUP / 16)
#define OWN_ROWS ROWS
#define OWN_COLUMNS GROUP

typedef struct {
    const uint8_t *a, *a_rest; // 32 rows of A, or fewer; what K leaves of them
    int64_t a_row, a_signed, rows;
    const int8_t *b[2], *b_rest;
    int64_t panels, steps;     // columns in panels, K in whole steps
    const int8_t *ahead[2];    // panels that come next: `ahead_lines` of each are fetched with each step
    int64_t ahead_lines;
    const int32_t *start;      // sums to begin with,
    int64_t start_row;         // 0: all rows have the same
    int32_t *c;
    int64_t c_row;
} amx_tile;

// The tiles of C are 0 .. 3, of A 4 and 5, of B 6 and 7.
#define DOTS(DOT, low, wide)                    \
    do {                                        \
        DOT(0, 4, 6);                           \
        if (wide) DOT(1, 4, 7);                 \
        if (low) DOT(2, 5, 6);                  \
        if (low && wide) DOT(3, 5, 7);          \
    } while (0)
#define FETCH(line) (__builtin_prefetch(ahead[0] + (line) * 64, 0, 2), __builtin_prefetch(ahead[1] + (line) * 64, 0, 2))
#define STEPS(DOT, low, wide, lines)                                                            \
    for (int64_t i = t->steps; i > 0; i--) {                                                    \
        if (lines > 0) FETCH(0);                                                                \
        tile_load_once(6, b[0], 64);                                                            \
        tile_load(4, a, a_row);                                                                 \
        if (lines > 1) FETCH(1);                                                                \
        if (wide) tile_load_once(7, b[1], 64);                                                  \
        if (low) tile_load(5, a_low, a_row);                                                    \
        for (int64_t line = 2; line < lines; line++) FETCH(line);                               \
        DOTS(DOT, low, wide);                                                                   \
        a += STEP, a_low += STEP;                                                               \
        for (int p = 0; p < 2; p++) b[p] += 1024, ahead[p] += lines * 64;                       \
    }
#define ALL_STEPS(DOT, low, wide)                                                               \
    do {                                                                                        \
        if (t->ahead_lines == 4) /* of 128 rows */                                              \
            STEPS(DOT, low, wide, 4)                                                            \
        else                                                                                    \
            STEPS(DOT, low, wide, t->ahead_lines)                                               \
        if (t->a_rest) {                                                                        \
            tile_load(6, t->b_rest, 64);                                                        \
            tile_load(4, t->a_rest, STEP);                                                      \
            if (wide) tile_load(7, t->b_rest + 1024, 64);                                       \
            if (low) tile_load(5, t->a_rest + 16 * STEP, STEP);                                 \
            DOTS(DOT, low, wide);                                                               \
        }                                                                                       \
    } while (0)

SX_INLINE void amx_tile_body(const amx_tile *t, const int low, const int wide) {
    const int64_t a_row = t->a_row;
    const uint8_t *a = t->a, *a_low = a + 16 * a_row;
    const int8_t *b[2] = {t->b[0], t->b[1]}, *ahead[2] = {t->ahead[0], t->ahead[1]};
    const int64_t start_row = t->start_row * 4, c_row = t->c_row * 4;
    tile_load(0, t->start, start_row);
    if (wide) tile_load(1, t->start + 16, start_row);
    if (low) tile_load(2, t->start + 16 * t->start_row, start_row);
    if (low && wide) tile_load(3, t->start + 16 * t->start_row + 16, start_row);
    if (t->a_signed)
        ALL_STEPS(tile_dot_s8, low, wide);
    else
        ALL_STEPS(tile_dot_u8, low, wide);
    tile_store(0, t->c, c_row);
    if (wide) tile_store(1, t->c + 16, c_row);
    if (low) tile_store(2, t->c + 16 * t->c_row, c_row);
    if (low && wide) tile_store(3, t->c + 16 * t->c_row + 16, c_row);
}

static void amx_tile_run(const amx_tile *t) {
    if (t->rows > 16 && t->panels > 1)
        amx_tile_body(t, 1, 1);
    else if (t->rows > 16)
        amx_tile_body(t, 1, 0);
    else if (t->panels > 1)
        amx_tile_body(t, 0, 1);
    else
        amx_tile_body(t, 0, 0);
}

// A group of columns of a chunk of K.
typedef struct {
    const int8_t *b, *ahead; // panels, and panels that come next
    int64_t panel, ahead_panel; // bytes from one to the next
    const int8_t *rest;         // what K leaves of each
} amx_group;

// Tiles for `rows` rows of A and C, at most 32.
static void amx_shape(int64_t rows) {
    const uint8_t high = (uint8_t)least(rows, 16), low = (uint8_t)(rows > 16 ? rows - 16 : 16);
    tiles_begin((const uint8_t[8]){high, high, low, low, high, low});
}

// 32 rows of A, or fewer, times one group of columns for one chunk of K; `left` columns of C are there.
static void amx_stripe(const amx_tile *first, const amx_group *group, int64_t left) {
    int32_t beside[32 * 32];
    amx_tile t = *first;
    for (int64_t p = 0; left > 0; p += 2, left -= 32) {
        t.panels = left > 16 ? 2 : 1;
        for (int64_t i = 0; i < 2; i++) {
            t.b[i] = group->b + (p + i) * group->panel;
            t.ahead[i] = group->ahead + (p + i) * group->ahead_panel;
        }
        t.b_rest = group->rest + p * 1024;
        if (left >= 16 * t.panels) {
            amx_tile_run(&t);
        } else {
            amx_tile narrow = t;
            const int64_t width = least(left, 32);
            narrow.c = beside, narrow.c_row = 32;
            if (t.start_row) { // sums so far
                for (int64_t r = 0; r < t.rows; r++)
                    for (int64_t j = 0; j < 32; j++) beside[r * 32 + j] = j < width ? t.c[r * t.c_row + j] : 0;
                narrow.start = beside, narrow.start_row = 32;
            }
            amx_tile_run(&narrow);
            for (int64_t r = 0; r < t.rows; r++)
                for (int64_t j = 0; j < width; j++) t.c[r * t.c_row + j] = beside[r * 32 + j];
        }
        t.start += 32, t.c += 32;
    }
}

// What K leaves beyond whole tiles, of some rows of A and of a group of B.
static void amx_rest_of_rows(const uint8_t *a, int64_t a_row, int64_t rows, int64_t rest, uint8_t *to) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < STEP; k++) to[i * STEP + k] = k < rest ? a[i * a_row + k] : 0;
}
static void amx_rest_of_panels(const int8_t *b, int64_t panel_bytes, int64_t panels, int64_t rest, int8_t *to) {
    for (int64_t p = 0; p < panels; p++)
        for (int64_t i = 0; i < 1024; i++) to[p * 1024 + i] = i < rest * 16 ? b[p * panel_bytes + i] : 0;
}

static int32_t amx_row_sum(const uint8_t *a, int64_t k, int64_t is_signed) {
    int32_t sum = 0;
    if (is_signed)
        for (int64_t i = 0; i < k; i++) sum += (int8_t)a[i];
    else
        for (int64_t i = 0; i < k; i++) sum += a[i];
    return sum;
}

// A chunk of K from `k_lo` on: the panels of columns lo .. hi, those to fetch ahead, and what lies beyond whole steps.
static amx_group amx_panels(const matmul_int8_args *g, const int8_block *block, const int8_scratch *s, int64_t lo,
                            int64_t hi, int64_t k_lo, int64_t k, int first) {
    const int64_t panels = ceil_div(hi - lo, 16), last = k % STEP;
    amx_group group = {.rest = (const int8_t *)s->b};
    int64_t pitch;
    group.b = (const int8_t *)lay_out_panels(g, s, block->batch, lo, k_lo, k, panels, first, &pitch, block->col_lo);
    group.panel = pitch * 4;
    group.ahead = k_lo + k < g->k ? group.b + k * 16 : group.b + panels * group.panel - k_lo * 16;
    group.ahead_panel = group.panel;
    if (last)
        amx_rest_of_panels(group.b + (k - last) * 16, group.panel, panels, ceil_div(last, 4) * 4, (int8_t *)s->b);
    return group;
}

// At most ROWS rows of a block, all of K.
static void amx_rows(const matmul_int8_args *g, const int8_block *block, int64_t row_lo, int64_t rows, int first,
                     const int8_scratch *s) {
    const uint8_t *const a = (const uint8_t *)g->a + block->batch * g->a_batch + row_lo * g->a_row;
    int32_t *const start = s->b + PACKED_PANELS * 256;
    // All rows start alike:
    const int plain = g->b_packed && g->b_zero_step == 0 && b_zero_of(g, 0) == 0 && g->a_zero_step == 0;
    const int64_t rest = g->k % STEP, lines = g->b_packed ? ceil_div(16, ceil_div(rows, 32)) : 0;
    if (!plain)
        for (int64_t i = 0; i < rows; i++) s->row_sums[i] = amx_row_sum(a + i * g->a_row, g->k, g->a_signed);
    if (rest) amx_rest_of_rows(a + g->k - rest, g->a_row, rows, rest, (uint8_t *)s->a);
    int64_t shape = 0;
    for (int64_t lo = block->col_lo; lo < block->col_hi; lo += GROUP) {
        const int64_t hi = least(block->col_hi, lo + GROUP);
        int32_t *const whole = whole_c(g, s, block->batch, row_lo, lo);
        int32_t *const c = whole + block->batch * g->c_batch + row_lo * g->c_row;
        const uint32_t za = plain ? (uint32_t)a_zero_of(g, 0) : 0;
        for (int64_t j = 0; j < ceil_div(hi - lo, 16) * 16; j++)
            start[j] = plain ? (int32_t)(0 - za * (uint32_t)g->b_sums[lo + j]) : 0;
        for (int64_t k_lo = 0; k_lo == 0 || k_lo < g->k; k_lo += KC) {
            const int64_t k = least(KC, g->k - k_lo), steps = k / STEP;
            const int fresh = k_lo == 0, done = k_lo + KC >= g->k;
            amx_group group = amx_panels(g, block, s, lo, hi, k_lo, k, first);
            for (int64_t i = 0; i < rows; i += 32) {
                int32_t *const sums = c + i * g->c_row + lo;
                const int64_t count = least(32, rows - i);
                const amx_tile t = {
                    .a = a + i * g->a_row + k_lo, .a_row = g->a_row, .a_signed = g->a_signed, .rows = count,
                    .a_rest = k % STEP ? (const uint8_t *)s->a + i * STEP : NULL, .steps = steps,
                    .ahead_lines = lines, .start = fresh ? start : sums, .start_row = fresh ? 0 : g->c_row,
                    .c = sums, .c_row = g->c_row,
                };
                if (shape != count) amx_shape(shape = count);
                amx_stripe(&t, &group, hi - lo);
                group.ahead += steps * lines * 64;
                if (!done) continue;
                if (!plain) take_zeros_off(g, s, block, lo, hi, row_lo, i, count, sums - lo);
                run_epilogue(g, whole, block->batch, row_lo + i, row_lo + i + count, lo, hi);
            }
        }
    }
}

static void run_block(const matmul_int8_args *g, const int8_block *block, const int8_scratch *s) {
    const int64_t rows = block->row_hi - block->row_lo;
    const int64_t most_rows = most(32, least(ROWS, A_L2 / most(g->k, 1) / 32 * 32));
    for (int64_t i = 0; i < rows; i += most_rows)
        amx_rows(g, block, block->row_lo + i, least(most_rows, rows - i), i == 0, s);
    tiles_end();
}

#endif
