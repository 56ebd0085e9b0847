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

#include "matmul_int8_pack.h"

// Tunables.
#if SX_TILES                 // products take a quarter of the time
#define BLOCK_PANELS 8       // as in a group of columns
#define BLOCK_ROWS 64
#define TASK_WORK (1 << 24)
#else
#define BLOCK_PANELS 4       // fewest panels of a block, where there are as many: each block lays out its rows of A anew
#define BLOCK_ROWS 48        // fewest rows likewise: each block lays out its panels of B anew
#define TASK_WORK (1 << 21)  // products that are worth a task
#endif
#define BLOCK_COLUMNS (BLOCK_PANELS * 16)

typedef struct {
    int64_t units, row_blocks, col_blocks, tasks; // units: of BLOCK_PANELS panels
} int8_plan;

static int8_plan plan_of(const matmul_int8_args *g) {
    int8_plan plan = {.units = ceil_div(g->n, BLOCK_COLUMNS), .row_blocks = 1, .col_blocks = 1};
    if (g->m == 0 || g->n == 0 || g->batch == 0) return plan;
    const int64_t work = most(g->m, 8) * g->n * most(g->k, 1) / TASK_WORK; // few rows cost what reading B costs
    const int64_t wanted = most(1, least(work, 64));
    plan.col_blocks = least(plan.units, wanted);
    plan.row_blocks = most(1, least(g->m / BLOCK_ROWS, wanted / plan.col_blocks));
    plan.tasks = g->batch * plan.row_blocks * plan.col_blocks;
    return plan;
}

#if SX_TILES
#include "matmul_int8_amx.h"
#else
#include "matmul_int8_words.h"
#endif

int64_t matmul_int8_tasks(const matmul_int8_args *args) { return plan_of(args).tasks; }

// An odd number of cache lines, so that rows fall on different sets.
int64_t matmul_int8_own_row(int64_t n) { return ceil_div(least(n, OWN_COLUMNS), 16) * 16 | 16; }

int64_t matmul_int8_scratch(const matmul_int8_args *args) {
    const int8_plan plan = plan_of(args);
    const int64_t columns = ceil_div(plan.units, plan.col_blocks) * BLOCK_COLUMNS;
    const int64_t unpacked = args->b_packed ? 0 : PACKED_PANELS * KC * 16 + columns * 4;
    const int64_t own = args->c ? 0 : (OWN_ROWS - 1) * args->c_row + least(columns, OWN_COLUMNS);
    return A_BYTES + B_BYTES + SUMS_BYTES + unpacked + own * 4;
}

void matmul_int8(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const matmul_int8_args *const g = args;
    const int8_plan plan = plan_of(g);
    char *const memory = scratch;
    int8_scratch s = {.a = (int32_t *)memory, .b = (int32_t *)(memory + A_BYTES)};
    s.row_sums = (int32_t *)(memory + A_BYTES + B_BYTES);
    s.packed = (int8_t *)(memory + A_BYTES + B_BYTES + SUMS_BYTES);
    s.col_sums = (int32_t *)(s.packed + PACKED_PANELS * KC * 16);
    s.own = g->b_packed ? (int32_t *)s.packed : s.col_sums + ceil_div(plan.units, plan.col_blocks) * BLOCK_COLUMNS;
    for (int64_t task = lo; task < hi; task++) {
        const int64_t row = task % plan.row_blocks, col = task / plan.row_blocks % plan.col_blocks;
        const int8_block block = {
            .batch = task / plan.row_blocks / plan.col_blocks,
            .row_lo = part(g->m, plan.row_blocks, row),
            .row_hi = part(g->m, plan.row_blocks, row + 1),
            .col_lo = part(plan.units, plan.col_blocks, col) * BLOCK_COLUMNS,
            .col_hi = least(g->n, part(plan.units, plan.col_blocks, col + 1) * BLOCK_COLUMNS),
        };
        if (!g->b_packed)
            for (int64_t j = 0; j < block.col_hi - block.col_lo; j++) s.col_sums[j] = 0;
        run_block(g, &block, &s);
    }
}
