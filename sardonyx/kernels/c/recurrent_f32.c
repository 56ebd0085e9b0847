// recurrent_f32 -- LSTM, GRU and RNN in float: recurrent_cell.h on the register tiles of matmul_f32.
//
// With one batch element a step costs what reading R costs. No prefetching: it halved the speed of L2 (LSTM 256 with one
// batch element: 17.0 us a step, without 10.5, which is 100 GB/s). Each element is summed k ascending.
#include "recurrent_f32.h"

#define REAL float
#define OF(name) name##_f32
#define fma1_f32 fma1
#define ROWS 4
#define NAME_ARGS recurrent_f32_args
#include "recurrent_cell.h"

#define MATMUL_AHEAD 0
#include "matmul_tile.h"
#include "recurrent_panels.h"

static void run_tile(const void *product, panel_tile at) {
    matmul_tile t = *(const matmul_tile *)product;
    t.a += at.row * t.a_row;
    t.b += at.panel * t.b_panel;
    t.c += at.row * t.c_row + at.panel * 16;
    matmul_tiles[at.rows][at.wide](&t);
}

static void multiply(const task_t *t, const float *h, int64_t h_row, int64_t first, int64_t count, float *c) {
    const int64_t k = t->a->hidden;
    const matmul_tile whole = {.a = h, .a_row = h_row, .a_k = 1, .b_panel = 16 * k, .b_k = 16, .c = c, .c_row = t->gates,
                               .b = t->a->recurrent + (t->direction * t->gates / 16 + first) * 16 * k, .k = k};
    each_panel_tile(t->rows, MR, matmul_widths, count, t->step & 1, &whole, run_tile);
}

int64_t recurrent_f32_tasks(const recurrent_f32_args *args) { return task_count(args); }
int64_t recurrent_f32_scratch(const recurrent_f32_args *args) { return scratch_bytes(args); }
void recurrent_f32(const void *args, int64_t lo, int64_t hi, void *scratch) { run_tasks(args, lo, hi, scratch); }
