// recurrent_f32 -- LSTM, GRU and RNN in float: recurrent_cell.h on the register tiles of matmul_f32.
//
// With one batch element a step costs what reading R costs. Weights beyond L2 would all come from L3 again on each step,
// so odd steps go through the panels backwards: what was read last is still near. No prefetching: it halved the speed of L2
// (LSTM 256 with one batch element: 17.0 us a step, without 10.5, which is 100 GB/s).
#include "recurrent_f32.h"

#define MATMUL_AHEAD 0
#include "matmul_tile.h"

static void multiply(const float *h, int64_t h_row, int64_t k, const float *panels, int64_t count, float *c,
                     int64_t c_row, int64_t rows, int64_t backwards) {
    static const int8_t widths[MR + 1] = {
#define WIDTH_ENTRY(R) [R] = WIDE(R),
        EACH_ROW_COUNT(WIDTH_ENTRY)};
    const int64_t tiles = (rows + MR - 1) / MR, height = rows / tiles, taller = rows % tiles; // the first by one more
    const int64_t wide = widths[height + (taller > 0)];
    const int64_t groups = count / wide + count % wide; // what is left over goes one by one
    for (int64_t i = 0; i < groups; i++) {
        const int64_t group = backwards ? groups - 1 - i : i, whole = count / wide;
        const int64_t panel = group < whole ? group * wide : whole * wide + group - whole;
        const matmul_tile_function *const functions = group < whole ? matmul_wide_tiles : matmul_slim_tiles;
        matmul_tile t = {.a = h, .a_row = h_row, .a_k = 1, .b = panels + panel * 16 * k, .b_panel = 16 * k, .b_k = 16,
                         .c = c + panel * 16, .c_row = c_row, .k = k};
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t n = height + (tile < taller);
            functions[n](&t);
            t.a += n * h_row;
            t.c += n * c_row;
        }
    }
}

#define REAL float
#define OF(name) name##_f32
#define fma1_f32 fma1
#define ROWS 4
#define NAME_ARGS recurrent_f32_args
#include "recurrent_cell.h"

int64_t recurrent_f32_tasks(const recurrent_f32_args *args) { return task_count(args); }
int64_t recurrent_f32_scratch(const recurrent_f32_args *args) { return scratch_bytes(args); }
void recurrent_f32(const void *args, int64_t lo, int64_t hi, void *scratch) { run_tasks(args, lo, hi, scratch); }
