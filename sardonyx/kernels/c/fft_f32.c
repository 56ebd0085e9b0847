// fft_f32 -- discrete Fourier transforms in float: fft_task.h on the steps of fft_steps.h.
#include "fft_f32.h"

#define REAL float
#include "fft_task.h"

int64_t fft_f32_tasks(const fft_f32_args *args) { return task_count(args); }
int64_t fft_f32_scratch(const fft_f32_args *args) { return scratch_bytes(args); }
void fft_f32(const void *args, int64_t lo, int64_t hi, void *scratch) { run_tasks(args, lo, hi, scratch); }
