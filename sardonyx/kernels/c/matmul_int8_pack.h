// matmul_int8_pack.h -- what all engines of matmul_int8 share: zero points, panels of an unpacked B, corrections.
#ifndef SARDONYX_MATMUL_INT8_PACK_H
#define SARDONYX_MATMUL_INT8_PACK_H

#include "matmul_int8.h"
#include "matmul_int8_tile.h"

// Tunables.
#define WORDS 256            // words of K in a chunk: a panel of it is 16 KB and stays in L1
#define KC (WORDS * SX_DOT_GROUP)

typedef int8_t i8x32_unaligned __attribute__((vector_size(32), aligned(1), may_alias));
typedef int8_t i8x32 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int8_t i8x16_unaligned __attribute__((vector_size(16), aligned(1), may_alias));
typedef int8_t i8x64 __attribute__((vector_size(64)));
typedef int8_t i8x64_unaligned __attribute__((vector_size(64), aligned(1), may_alias));
typedef int16_t i16x16 __attribute__((vector_size(32)));
typedef int16_t i16x32 __attribute__((vector_size(64)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8_unaligned __attribute__((vector_size(32), aligned(4), may_alias));

SX_INLINE int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
SX_INLINE int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }
SX_INLINE int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

// Part `i` of `parts` of 0 .. n starts here: parts differ by one at most.
SX_INLINE int64_t part(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }

SX_INLINE int32_t byte_at(const void *p, int64_t i, int64_t is_signed) {
    return is_signed ? ((const int8_t *)p)[i] : ((const uint8_t *)p)[i];
}

// Zero points as the products see them: of A plus 128 or less where its bytes are moved, of B less 128 where it is uint8.
SX_INLINE int32_t a_zero_of(const matmul_int8_args *g, int64_t i) {
    const int32_t zero = g->a_zero ? byte_at(g->a_zero, i * g->a_zero_step, g->a_signed) : 0;
#if SX_TILES
    return zero; // they take bytes of either sign
#elif SX_DOT_GROUP == 4
    return SX_DOT_A_UNSIGNED ? zero + (g->a_signed ? 128 : 0) : zero - (g->a_signed ? 0 : 128);
#else
    return zero;
#endif
}
SX_INLINE int32_t b_zero_of(const matmul_int8_args *g, int64_t j) {
    return (g->b_zero ? byte_at(g->b_zero, j * g->b_zero_step, g->b_signed) : 0) - (g->b_signed ? 0 : 128);
}

// Four rows of 16 bytes as [16][4].
SX_INLINE i8x64 interleave(const uint8_t *b, int64_t row) {
    const i8x16 r0 = *(const i8x16_unaligned *)b, r1 = *(const i8x16_unaligned *)(b + row);
    const i8x16 r2 = *(const i8x16_unaligned *)(b + 2 * row), r3 = *(const i8x16_unaligned *)(b + 3 * row);
#define PAIRS(x, y) __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, \
                                            10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
    const i16x16 low = (i16x16)PAIRS(r0, r1), high = (i16x16)PAIRS(r2, r3);
    return (i8x64)PAIRS(low, high);
#undef PAIRS
}

// A panel of an unpacked B: `k` rows of `cols` columns into [ceil(k/4)][16][4], adding up the columns if asked.
static void pack_panel(const matmul_int8_args *g, const uint8_t *b, int64_t k, int64_t cols, int8_t *out, int32_t *sums) {
    const uint8_t flip = g->b_signed ? 0 : 0x80;
    int64_t q = 0;
    for (; g->b_col == 1 && cols == 16 && 4 * q + 4 <= k; q++)
        *(i8x64_unaligned *)(out + q * 64) = interleave(b + 4 * q * g->b_row, g->b_row) ^ (int8_t)flip;
    for (; q < ceil_div(k, 4); q++)
        for (int64_t j = 0; j < 16; j++)
            for (int64_t i = 0; i < 4; i++) {
                const int64_t at = 4 * q + i;
                const int inside = at < k && j < cols;
                out[q * 64 + j * 4 + i] = inside ? (int8_t)(b[at * g->b_row + j * g->b_col] ^ flip) : 0;
            }
    if (!sums) return;
    for (q = 0; q < ceil_div(k, 4); q++)
        for (int64_t j = 0; j < cols; j++)
            for (int64_t i = 0; i < 4; i++) sums[j] += out[q * 64 + j * 4 + i];
}

// What one thread works with, in its scratch.
typedef struct {
    int32_t *a;        // rows of A as words
    int32_t *b;        // [PANELS][WORDS][16] words, of panels that are widened
    int8_t *packed;    // [PANELS][KC / 4][16][4], of a B that comes unpacked
    int32_t *row_sums; // of the rows at hand, and of the columns of a block that comes unpacked
    int32_t *col_sums;
    int32_t *own;      // sums that the epilogue alone wants, as rows of C
} int8_scratch;

// The whole of C for elements from (row, col) of a batch on: its own memory, or the place in scratch seen as if it were.
SX_INLINE int32_t *whole_c(const matmul_int8_args *g, const int8_scratch *s, int64_t batch, int64_t row, int64_t col) {
    if (g->c) return g->c;
    return (int32_t *)((uintptr_t)s->own - (uintptr_t)(batch * g->c_batch + row * g->c_row + col) * 4);
}

static void run_epilogue(const matmul_int8_args *g, int32_t *c, int64_t batch, int64_t row_lo, int64_t row_hi,
                         int64_t col_lo, int64_t col_hi) {
    void *operands[SX_MOST_OPERANDS];
    if (!g->epilogue) return;
    if (!g->c) {
        for (int64_t i = 0; i < g->operand_count; i++) operands[i] = g->operands[i];
        operands[g->own] = c;
    }
    g->epilogue(g->c ? g->operands : operands, g->dims, 0, batch, row_lo, row_hi, col_lo, col_hi);
}

#if SX_DOT_GROUP == 2
// A packed panel less its zero points, each four bytes of a column as two words of a pair each.
static void widen_panel(const int8_t *from, int64_t quads, const int16_t *zeros, int32_t *to) {
    const i16x32 zero[2] = {*(const i16x32 *)zeros, *(const i16x32 *)(zeros + 32)};
    for (int64_t q = 0; q < quads; q++)
        for (int h = 0; h < 2; h++) {
            const i8x32 bytes = *(const i8x32_unaligned *)(from + q * 64 + h * 32);
            const i32x16 words = (i32x16)(__builtin_convertvector(bytes, i16x32) - zero[h]);
            *(i32x8_unaligned *)(to + 2 * q * 16 + h * 8) = __builtin_shufflevector(words, words, 0, 2, 4, 6, 8, 10, 12, 14);
            *(i32x8_unaligned *)(to + (2 * q + 1) * 16 + h * 8) =
                __builtin_shufflevector(words, words, 1, 3, 5, 7, 9, 11, 13, 15);
        }
}
#endif

typedef struct {
    int64_t batch, row_lo, row_hi, col_lo, col_hi; // col_lo is a multiple of 16
} int8_block;

// Where the words of `group` panels for this chunk of K lie, panel by panel; `*pitch` words apart.
static const int32_t *lay_out_panels(const matmul_int8_args *g, const int8_scratch *s, int64_t batch, int64_t col,
                                     int64_t k_lo, int64_t k, int64_t group, int add_up, int64_t *pitch, int64_t col_lo) {
    const int64_t quads = ceil_div(k, 4), all_quads = ceil_div(g->k, 4);
    const int8_t *from = (const int8_t *)g->b + (col / 16 * all_quads + k_lo / 4) * 64;
    int64_t panel_bytes = all_quads * 64;
    if (!g->b_packed) {
        const uint8_t *const b = (const uint8_t *)g->b + batch * g->b_batch + k_lo * g->b_row;
        for (int64_t p = 0; p < group; p++) {
            const int64_t at = col + 16 * p;
            pack_panel(g, b + at * g->b_col, k, least(16, g->n - at), s->packed + p * KC * 16,
                       SX_DOT_GROUP == 4 && add_up ? s->col_sums + at - col_lo : NULL);
        }
        from = s->packed;
        panel_bytes = KC * 16;
    }
#if SX_DOT_GROUP == 4
    (void)quads;
    *pitch = panel_bytes / 4;
    return (const int32_t *)from;
#else
    for (int64_t p = 0; p < group; p++) {
        int16_t zeros[64] __attribute__((aligned(64)));
        for (int64_t j = 0; j < 16; j++) {
            const int64_t at = col + 16 * p + j;
            for (int64_t i = 0; i < 4; i++) zeros[4 * j + i] = at < g->n ? (int16_t)b_zero_of(g, at) : 0;
        }
        widen_panel(from + p * panel_bytes, quads, zeros, s->b + p * WORDS * 16);
    }
    *pitch = WORDS * 16;
    return s->b;
#endif
}

#if SX_DOT_GROUP == 4
// Turns sums of products into sums of products of differences: columns lo .. hi of `rows` rows, which begin at `c`, from
// `row` of those that begin with `row_lo`.
static void take_zeros_off(const matmul_int8_args *g, const int8_scratch *s, const int8_block *block, int64_t lo,
                           int64_t hi, int64_t row_lo, int64_t row, int64_t rows, int32_t *c) {
    const int32_t *const col_sums = g->b_packed ? g->b_sums : s->col_sums - block->col_lo;
    for (int64_t i = 0; i < rows; i++) {
        const uint32_t za = (uint32_t)a_zero_of(g, row_lo + row + i);
        const uint32_t of_b = (uint32_t)g->k * za - (uint32_t)s->row_sums[row + i];
        int32_t *const row = c + i * g->c_row;
        if (g->b_zero_step == 0) {
            const uint32_t of_zeros = of_b * (uint32_t)b_zero_of(g, 0);
            for (int64_t j = lo; j < hi; j++) row[j] = (int32_t)((uint32_t)row[j] + of_zeros - za * (uint32_t)col_sums[j]);
        } else {
            for (int64_t j = lo; j < hi; j++) {
                const uint32_t of_zeros = of_b * (uint32_t)b_zero_of(g, j);
                row[j] = (int32_t)((uint32_t)row[j] + of_zeros - za * (uint32_t)col_sums[j]);
            }
        }
    }
}
#endif

#endif
