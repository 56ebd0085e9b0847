// matmul_f32 -- C[b0,b1,i,j] = sum over k of A[b0,b1,i,k] * B[b0,b1,k,j], then the epilogue, block by block.
//
// Each element is accumulated from 0 with SX_FMA, k ascending: neither tile nor blocks nor threads show in the bits.
// Where K is cut into chunks, C holds the partial sums between them, which is exact.
//
//   task    some blocks of rows x panels (16 columns) of some batches; neighbours share panels and run as one block
//   block   for each chunk of K: pack B's panels (unless they are packed); for each MC rows: copy A (where it pays);
//           for each group of panels: for each tile of <= MR rows: one call of a register tile
//           (where nothing is packed, each MC rows are a block of their own: their C stays close between chunks)
//
// A chunk of one panel (48 KB) comes from L2 for each tile of MC rows; so do MC rows of A and the panels that are packed
// here. The next panel is fetched into L2 meanwhile: without that, 128x3072x768 ran at 82 % of peak instead of 90 %.
// Fetching the next rows of A likewise, or copying rows that are contiguous already, gained nothing (-1 to -3 %).
// NaN and infinity pass through as they come: no product is ever skipped.
#include "matmul_f32.h"

#include "matmul_pack.h"
#include "matmul_tile.h"

// Tunables.
#ifndef KC
#define KC 768               // most of a chunk of K; 384 is 2 to 4 % slower: each tile costs some cycles of its own
#endif
#define COPIED_KC (KC < 384 ? KC : 384) // the same where A or B is copied first: the copies should stay in L2
#ifndef MC
#if VL == 16
#define MC (10 * MR) // rows of A in L2: 128 rows in one go read B once (84 are 1 to 2 % slower, 210 no faster)
#else
#define MC (96 / MR * MR) // 60 to 120 are equal within noise
#endif
#endif
#ifndef PACKED_PANELS
#define PACKED_PANELS 16     // most panels that a block packs
#endif
#define MERGED_COLUMNS 512   // most columns of a block made of several: C should be near when the epilogue comes
#define STREAM_AHEAD 32      // how many k ahead a B that is read once is fetched
#ifndef TASK_WORK
#define TASK_WORK (1 << 20)  // products that are worth a task: 10 to 20 us
#endif
#define MOST_TASKS 256

SX_INLINE int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
SX_INLINE int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }
SX_INLINE int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

// How a call is cut. It depends on shapes and strides alone, so that all tasks of a call agree.
typedef struct {
    int64_t panels;                 // of 16 columns
    int64_t row_blocks, col_blocks; // of one batch; row blocks are numbered first
    int64_t units, tasks;           // blocks in all, and the tasks that share them
    int64_t kc;                     // length of a chunk of K
    int pack_b;                     // pack panels into scratch; otherwise only a last, narrow one of an unpacked B
} matmul_plan;

static matmul_plan plan_of(const matmul_f32_args *g) {
    matmul_plan plan = {.panels = ceil_div(g->n, 16)};
    if (g->m == 0 || g->n == 0 || g->batch0 == 0 || g->batch1 == 0) return plan;
    const int one_tile = g->m <= MR;
    // Tiles of one row block use each element of B once, so it is read in place, but for a B stored by columns.
    plan.pack_b = !g->b_packed && !(one_tile && g->b_col == 1);
    plan.kc = one_tile && g->b_packed ? g->k : plan.pack_b || g->a_col != 1 ? COPIED_KC : KC;
    const int64_t chunks = most(1, ceil_div(g->k, most(1, plan.kc)));
    plan.kc = (ceil_div(g->k, chunks) + 3) / 4 * 4;

    // Few rows cost what reading B costs, about as much as 8 rows.
    const int64_t batches = g->batch0 * g->batch1;
    const int64_t work = batches * most(g->k, 1) * g->n * most(g->m, 8) / TASK_WORK;
    const int64_t wanted = least(work <= 16 ? most(1, work) : 16 + (work - 16) / 4, MOST_TASKS);
    plan.row_blocks = 1;
    plan.col_blocks = plan.pack_b ? ceil_div(plan.panels, PACKED_PANELS) : 1;
    // Large blocks read A and B least often (and pack B, the tall ones): a block of 33 x 32 waits for L3 as long as it
    // computes. So cut only as small as the wanted number of tasks demands: into blocks of at least so many rows and
    // columns, for at most so many tasks. Whole tiles of 3 panels where possible.
    static const int16_t smallest[][3] = {
        {16 * MR, 96, MOST_TASKS}, {8 * MR, 96, 64}, {4 * MR, 48, 32}, {MR, 48, 16}, {MR, 32, 16}};
    for (int i = 0; i < (int)(sizeof smallest / sizeof *smallest); i++) {
        const int64_t rows = g->m / smallest[i][0], cols = g->n / smallest[i][1];
        const int64_t tasks = ceil_div(least(wanted, smallest[i][2]), batches);
        plan.col_blocks = most(plan.col_blocks, least(cols, ceil_div(tasks, plan.row_blocks)));
        plan.row_blocks = most(plan.row_blocks, least(rows, ceil_div(tasks, plan.col_blocks)));
    }
    plan.units = batches * plan.row_blocks * plan.col_blocks;
    plan.tasks = batches <= wanted ? plan.units : least(plan.units, wanted);
    return plan;
}

// Part `i` of `parts` of 0 .. n starts here: parts differ by one at most.
SX_INLINE int64_t part(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }

// A tile of which only the first `width` of its `full` columns are C's: computed beside C, then stored in part.
static void run_narrow(matmul_tile_function function, const matmul_tile *t, int64_t rows, int64_t full, int64_t width) {
    float beside[MR * 4 * 16];
    for (int64_t i = 0; i < rows && !t->fresh; i++)
        for (int64_t j = 0; j < full; j++) beside[i * full + j] = j < width ? t->c[i * t->c_row + j] : 0;
    matmul_tile narrow = *t;
    narrow.c = beside;
    narrow.c_row = full;
    function(&narrow);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < width; j++) t->c[i * t->c_row + j] = beside[i * full + j];
}

// Runs the tiles of `rows` rows for `cols` columns from the panels at `t.b`; `t` has the pointers of the block's
// corner. What is read after that begins at `after`.
static void run_tiles(matmul_tile t, int64_t rows, int64_t cols, const float *after) {
    const float *const a = t.a;
    float *const c = t.c;
    const int64_t c_row = t.c_row;
    for (int64_t col = 0; col < cols;) {
        const matmul_cut cut = matmul_cut_of(rows, ceil_div(cols - col, 16));
        const int64_t width = least(16 * cut.panels, cols - col);
        const float *const next = col + width < cols ? t.b + cut.panels * t.b_panel : after;
        // While one tile passes, B streams: fetch ahead in it. Many tiles share the work of fetching the next panels.
        t.ahead = (const char *)(cut.tiles == 1 ? t.b + STREAM_AHEAD * t.b_k : next);
        t.ahead_step = cut.tiles == 1 ? t.b_k * (int64_t)sizeof(float) : ceil_div(64, cut.tiles);
        t.a = a;
        t.c = c + col;
        for (int64_t i = 0; i < cut.tiles; i++) {
            const int64_t count = cut.height + (i < cut.taller);
            const matmul_tile_function function = matmul_tiles[count][cut.panels];
            if (width == 16 * cut.panels)
                function(&t);
            else
                run_narrow(function, &t, count, 16 * cut.panels, width);
            t.a += count * t.a_row;
            t.c += count * c_row;
            t.ahead += t.k * t.ahead_step;
        }
        t.b += cut.panels * t.b_panel;
        col += width;
    }
}

typedef struct {
    int64_t batch0, batch1, row_lo, row_hi, col_lo, col_hi; // col_lo is a multiple of 16
} matmul_block;

// Copying A costs a pass over it, so several panels must use it. Contiguous rows are read as well in place.
SX_INLINE int copies_a(const matmul_f32_args *g, int64_t cols, int64_t k) {
    return g->a_col != 1 && cols > 16 && k <= COPIED_KC;
}

SX_INLINE int64_t a_copy_floats(const matmul_f32_args *g) {
    return g->a_col == 1 ? 0 : matmul_a_copy_floats(least(MC, g->m), least(COPIED_KC, g->k));
}

// Scratch holds the copy of A, then the packed panels.
static void run_block(const matmul_f32_args *g, const matmul_plan *plan, const matmul_block *s, float *scratch) {
    const int64_t rows = s->row_hi - s->row_lo, cols = s->col_hi - s->col_lo, whole = cols / 16 * 16;
    const float *const a = g->a + s->batch0 * g->a_batch0 + s->batch1 * g->a_batch1 + s->row_lo * g->a_row;
    const float *const b = g->b + s->batch0 * g->b_batch0 + s->batch1 * g->b_batch1;
    float *const c = g->c + s->batch0 * g->c_batch0 + s->batch1 * g->c_batch1 + s->row_lo * g->c_row + s->col_lo;
    const int64_t parts = ceil_div(rows, MC);
    float *const packed = scratch + a_copy_floats(g);

    int64_t k_lo = 0;
    do {
        const int64_t k = least(plan->kc, g->k - k_lo);
        const matmul_view here = {b + k_lo * g->b_row + s->col_lo * g->b_col, g->b_row, g->b_col};
        if (plan->pack_b)
            matmul_pack_b(here, k, cols, packed);
        else if (!g->b_packed && whole < cols)
            matmul_pack_b((matmul_view){here.data + whole, g->b_row, 1}, k, cols - whole, packed);
        for (int64_t i = 0; i < parts; i++) {
            const int64_t lo = part(rows, parts, i), count = part(rows, parts, i + 1) - lo;
            matmul_view from = {a + lo * g->a_row + k_lo * g->a_col, g->a_row, g->a_col};
            if (copies_a(g, cols, k)) from = matmul_copy_a(from, count, k, scratch);
            matmul_tile t = {.a = from.data, .a_row = from.row, .a_k = from.col, .k = k, .fresh = k_lo == 0};
            t.c = c + lo * g->c_row;
            t.c_row = g->c_row;
            t.b_k = 16;
            if (g->b_packed) {
                t.b = b + s->col_lo * g->k + k_lo * 16;
                t.b_panel = 16 * g->k;
                run_tiles(t, count, cols, k_lo + k < g->k ? t.b + 16 * k : b + s->col_hi * g->k);
            } else if (plan->pack_b) {
                t.b = packed;
                t.b_panel = 16 * k;
                run_tiles(t, count, cols, packed);
            } else {
                matmul_tile in_place = t;
                in_place.b = here.data;
                in_place.b_panel = 16;
                in_place.b_k = g->b_row;
                run_tiles(in_place, count, whole, packed);
                t.b = packed;
                t.c += whole;
                run_tiles(t, count, cols - whole, packed);
            }
            if (g->epilogue && k_lo + k == g->k)
                g->epilogue(g->operands, g->dims, s->batch0, s->batch1, s->row_lo + lo, s->row_lo + lo + count,
                            s->col_lo, s->col_hi);
        }
        k_lo += k;
    } while (k_lo < g->k);
}

// Runs as many of the units lo <= u < hi as make one block, or a few that differ in rows; returns how many.
static int64_t run_units(const matmul_f32_args *g, const matmul_plan *plan, int64_t lo, int64_t hi, float *scratch) {
    const int64_t row = lo % plan->row_blocks, col = lo / plan->row_blocks % plan->col_blocks;
    const int64_t batch = lo / plan->row_blocks / plan->col_blocks;
    const int64_t row_end = least(plan->row_blocks, row + hi - lo);
    int64_t col_end = col + 1;
    if (row_end - row == plan->row_blocks && !plan->pack_b) {
        const int64_t more = least(MERGED_COLUMNS * plan->col_blocks / g->n, (hi - lo) / plan->row_blocks);
        col_end = least(plan->col_blocks, col + most(1, more));
    }
    const int64_t first = part(g->m, plan->row_blocks, row);
    const int64_t rows = part(g->m, plan->row_blocks, row_end) - first;
    const int64_t parts = plan->pack_b ? 1 : ceil_div(rows, MC);
    for (int64_t i = 0; i < parts; i++) {
        const matmul_block block = {
            .batch0 = batch / g->batch1,
            .batch1 = batch % g->batch1,
            .row_lo = first + part(rows, parts, i),
            .row_hi = first + part(rows, parts, i + 1),
            .col_lo = part(plan->panels, plan->col_blocks, col) * 16,
            .col_hi = least(g->n, part(plan->panels, plan->col_blocks, col_end) * 16),
        };
        run_block(g, plan, &block, scratch);
    }
    return (row_end - row) * (col_end - col);
}

int64_t matmul_f32_tasks(const matmul_f32_args *args) { return plan_of(args).tasks; }

int64_t matmul_f32_scratch(const matmul_f32_args *args) {
    const matmul_plan plan = plan_of(args);
    const int64_t panels = plan.pack_b ? least(plan.panels, PACKED_PANELS) : args->b_packed ? 0 : 1;
    return (a_copy_floats(args) + panels * plan.kc * 16) * (int64_t)sizeof(float);
}

void matmul_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const matmul_plan plan = plan_of(args);
    if (plan.tasks == 0) return;
    const int64_t end = part(plan.units, plan.tasks, hi);
    for (int64_t unit = part(plan.units, plan.tasks, lo); unit < end;)
        unit += run_units(args, &plan, unit, end, scratch);
}
