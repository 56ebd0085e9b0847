// matmul_int8 -- C[b,i,j] = sum over k of (A[b,i,k] - a_zero[i]) * (B[b,k,j] - b_zero[j]) in exact int32, then the epilogue.
//
//   task    a block of rows x panels (16 columns) of one batch
//   block   for each MC rows: for each chunk of K: lay out A's rows as words of 32 bits; for each group of panels: lay out
//           B's panel likewise; for each tile of <= MR rows: one call of a register tile
//
// Two engines, by what the target has (simd.h):
//   SX_DOT_GROUP 2  words are two int16 with the zero points already taken off: nothing can saturate or round. Widening a
//                   panel costs about as much as one row of the product.
//   SX_DOT_GROUP 4  words are four bytes, B's as packed; zero points follow from the sums of rows and columns:
//                   sum (A - za)(B - zb) = sum A B - zb * sum A - za * sum B + K * za * zb
//                   with A and B moved by 128 where the instruction wants the other sign, and za, zb alike.
#include "matmul_int8.h"

#include "matmul_int8_tile.h"

// Tunables.
#define WORDS 256            // words of K in a chunk: a panel of it is 16 KB and stays in L1
#define KC (WORDS * SX_DOT_GROUP)
#define MC (120 / MR * MR)   // rows of A in L2
#define A_PITCH (WORDS + 16) // words between rows of A: not a power of two, which would fall on few sets
#define BLOCK_PANELS 4       // fewest panels of a block, where there are as many: each block lays out its rows of A anew
#define BLOCK_ROWS 48        // fewest rows likewise: each block lays out its panels of B anew
#define TASK_WORK (1 << 21)  // products that are worth a task

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

typedef struct {
    int64_t panels, row_blocks, col_blocks, tasks;
} int8_plan;

static int8_plan plan_of(const matmul_int8_args *g) {
    int8_plan plan = {.panels = ceil_div(g->n, 16), .row_blocks = 1, .col_blocks = 1};
    if (g->m == 0 || g->n == 0 || g->batch == 0) return plan;
    const int64_t work = most(g->m, 8) * g->n * most(g->k, 1) / TASK_WORK; // few rows cost what reading B costs
    const int64_t wanted = most(1, least(work, 64));
    plan.col_blocks = most(1, least(plan.panels / BLOCK_PANELS, wanted));
    plan.row_blocks = most(1, least(g->m / BLOCK_ROWS, wanted / plan.col_blocks));
    plan.tasks = g->batch * plan.row_blocks * plan.col_blocks;
    return plan;
}

// Part `i` of `parts` of 0 .. n starts here: parts differ by one at most.
SX_INLINE int64_t part(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }

SX_INLINE int32_t byte_at(const void *p, int64_t i, int64_t is_signed) {
    return is_signed ? ((const int8_t *)p)[i] : ((const uint8_t *)p)[i];
}

// Zero points as the products see them: of A plus 128 or less where its bytes are moved, of B less 128 where it is uint8.
SX_INLINE int32_t a_zero_of(const matmul_int8_args *g, int64_t i) {
    const int32_t zero = g->a_zero ? byte_at(g->a_zero, i * g->a_zero_step, g->a_signed) : 0;
#if SX_DOT_GROUP == 4
    return SX_DOT_A_UNSIGNED ? zero + (g->a_signed ? 128 : 0) : zero - (g->a_signed ? 0 : 128);
#else
    return zero;
#endif
}
SX_INLINE int32_t b_zero_of(const matmul_int8_args *g, int64_t j) {
    return (g->b_zero ? byte_at(g->b_zero, j * g->b_zero_step, g->b_signed) : 0) - (g->b_signed ? 0 : 128);
}

// What one thread works with, in its scratch.
typedef struct {
    int32_t *a;        // [MC][A_PITCH] words
    int32_t *b;        // [PANELS][WORDS][16] words, of panels that are widened
    int8_t *packed;    // [PANELS][KC / 4][16][4], of a B that comes unpacked
    int32_t *row_sums; // [MC], and of the columns of a block that comes unpacked
    int32_t *col_sums;
} int8_scratch;

#define A_BYTES (MC * A_PITCH * 4)
#define B_BYTES (PANELS * WORDS * 64)
#define SUMS_BYTES ((MC + 15) / 16 * 64)

SX_INLINE int64_t block_columns(const int8_plan *plan) { return ceil_div(plan->panels, plan->col_blocks) * 16; }

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
// Turns sums of products into sums of products of differences.
static void take_zeros_off(const matmul_int8_args *g, const int8_scratch *s, const int8_block *block, int64_t row_lo,
                           int64_t rows, int32_t *c) {
    const int32_t *const col_sums = g->b_packed ? g->b_sums + block->col_lo : s->col_sums;
    for (int64_t i = 0; i < rows; i++) {
        const uint32_t za = (uint32_t)a_zero_of(g, row_lo + i);
        const uint32_t of_b = (uint32_t)g->k * za - (uint32_t)s->row_sums[i];
        for (int64_t j = 0; j < block->col_hi - block->col_lo; j++) {
            const uint32_t zb = (uint32_t)b_zero_of(g, block->col_lo + j);
            const uint32_t sum = (uint32_t)c[i * g->c_row + j] + of_b * zb - za * (uint32_t)col_sums[j];
            c[i * g->c_row + j] = (int32_t)sum;
        }
    }
}
#endif

// At most MC rows of a block, all of K.
static void run_rows(const matmul_int8_args *g, const int8_block *block, int64_t row_lo, int64_t rows, int first,
                     const int8_scratch *s) {
    int32_t *const c = g->c + block->batch * g->c_batch + row_lo * g->c_row;
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
    take_zeros_off(g, s, block, row_lo, rows, c + block->col_lo);
#endif
    if (g->epilogue)
        g->epilogue(g->operands, g->dims, 0, block->batch, row_lo, row_lo + rows, block->col_lo, block->col_hi);
}

int64_t matmul_int8_tasks(const matmul_int8_args *args) { return plan_of(args).tasks; }

int64_t matmul_int8_scratch(const matmul_int8_args *args) {
    const int8_plan plan = plan_of(args);
    const int64_t unpacked = args->b_packed ? 0 : PANELS * KC * 16 + block_columns(&plan) * 4;
    return A_BYTES + B_BYTES + SUMS_BYTES + unpacked;
}

void matmul_int8(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const matmul_int8_args *const g = args;
    const int8_plan plan = plan_of(g);
    char *const memory = scratch;
    int8_scratch s = {.a = (int32_t *)memory, .b = (int32_t *)(memory + A_BYTES)};
    s.row_sums = (int32_t *)(memory + A_BYTES + B_BYTES);
    s.packed = (int8_t *)(memory + A_BYTES + B_BYTES + SUMS_BYTES);
    s.col_sums = (int32_t *)(s.packed + PANELS * KC * 16);
    for (int64_t task = lo; task < hi; task++) {
        const int64_t row = task % plan.row_blocks, col = task / plan.row_blocks % plan.col_blocks;
        const int8_block block = {
            .batch = task / plan.row_blocks / plan.col_blocks,
            .row_lo = part(g->m, plan.row_blocks, row),
            .row_hi = part(g->m, plan.row_blocks, row + 1),
            .col_lo = part(plan.panels, plan.col_blocks, col) * 16,
            .col_hi = least(g->n, part(plan.panels, plan.col_blocks, col + 1) * 16),
        };
        if (!g->b_packed)
            for (int64_t j = 0; j < block.col_hi - block.col_lo; j++) s.col_sums[j] = 0;
        const int64_t parts = ceil_div(block.row_hi - block.row_lo, MC), rows = block.row_hi - block.row_lo;
        for (int64_t i = 0; i < parts; i++)
            run_rows(g, &block, block.row_lo + part(rows, parts, i), part(rows, parts, i + 1) - part(rows, parts, i),
                     i == 0, &s);
    }
}
