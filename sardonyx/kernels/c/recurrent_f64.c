// recurrent_f64 -- LSTM, GRU and RNN in double: recurrent_cell.h on a plain loop over panels.
#include "recurrent_f64.h"

#define REAL double
#define OF(name) name##_f64
#define ROWS 4
#define NAME_ARGS recurrent_f64_args
#include "recurrent_cell.h"

static void multiply(const task_t *t, const double *h, int64_t h_row, int64_t first, int64_t count, double *c) {
    const int64_t k = t->a->hidden;
    const double *const panels = t->a->recurrent + (t->direction * t->gates / 16 + first) * 16 * k;
    for (int64_t p = 0; p < count; p++)
        for (int64_t i = 0; i < t->rows; i++) {
            double sum[16];
            for (int j = 0; j < 16; j++) sum[j] = c[i * t->gates + p * 16 + j];
            for (int64_t l = 0; l < k; l++) {
                const double *const row = panels + (p * k + l) * 16, x = h[i * h_row + l];
                for (int j = 0; j < 16; j++) sum[j] = fma1_f64(x, row[j], sum[j]);
            }
            for (int j = 0; j < 16; j++) c[i * t->gates + p * 16 + j] = sum[j];
        }
}

int64_t recurrent_f64_tasks(const recurrent_f64_args *args) { return task_count(args); }
int64_t recurrent_f64_scratch(const recurrent_f64_args *args) { return scratch_bytes(args); }
void recurrent_f64(const void *args, int64_t lo, int64_t hi, void *scratch) { run_tasks(args, lo, hi, scratch); }
