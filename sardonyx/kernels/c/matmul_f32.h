// matmul_f32.h -- C = A * B in fp32 over two batch dimensions, and what follows it.
#ifndef SARDONYX_MATMUL_F32_H
#define SARDONYX_MATMUL_F32_H

#include "sardonyx.h"

// C[b0,b1,i,j] = sum over k of A[b0,b1,i,k] * B[b0,b1,k,j]. Strides count elements; those of inputs may be 0
// (broadcast) or negative.
typedef struct {
    const float *a;
    int64_t a_batch0, a_batch1, a_row, a_col; // a_col == 1: rows are contiguous; a_row == 1: A is stored transposed
    const float *b;
    int64_t b_batch0, b_batch1, b_row, b_col; // b_row, b_col: of a B that is not packed
    int64_t b_packed;                         // B is panels [ceil(N/16)][K][16], columns beyond N being 0
    float *c;
    int64_t c_batch0, c_batch1, c_row; // column stride 1; nothing beyond column N is written
    int64_t batch0, batch1, m, n, k;   // any may be 0; with k == 0 the result is 0
    sx_epilogue epilogue;              // NULL: nothing follows
    void *const *operands;
    const int64_t *dims;
} matmul_f32_args;

// How many tasks to share among threads, bytes of scratch for one thread, and the tasks themselves (an sx_task).
int64_t matmul_f32_tasks(const matmul_f32_args *args);
int64_t matmul_f32_scratch(const matmul_f32_args *args);
void matmul_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
