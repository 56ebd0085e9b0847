// fft_f64 -- discrete Fourier transforms in double: fft_task.h on the steps of fft_steps.h.
#include "fft_f64.h"

#define REAL double
#include "fft_task.h"

int64_t fft_f64_tasks(const fft_f64_args *args) { return task_count(args); }
int64_t fft_f64_scratch(const fft_f64_args *args) { return scratch_bytes(args); }
void fft_f64(const void *args, int64_t lo, int64_t hi, void *scratch) { run_tasks(args, lo, hi, scratch); }
