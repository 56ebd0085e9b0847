// range_f32 -- the largest and the least of each block of numbers.
#ifndef SARDONYX_RANGE_F32_H
#define SARDONYX_RANGE_F32_H

#include "sardonyx.h"

#define RANGE_BLOCK 8192 // numbers

// ends[b][0] = max, ends[b][1] = min of x[RANGE_BLOCK * b ...], at most RANGE_BLOCK of the n numbers; NaN if one is.
typedef struct {
    const float *x;
    int64_t n;
    float *ends; // [ceil(n / RANGE_BLOCK)][2]
} range_f32_args;

// How many tasks to share among threads, bytes of scratch for one thread, and the tasks themselves (an sx_task).
int64_t range_f32_tasks(const range_f32_args *args);
int64_t range_f32_scratch(const range_f32_args *args);
void range_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
