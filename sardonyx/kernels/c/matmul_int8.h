// matmul_int8.h -- C = (A - a_zero) * (B - b_zero), bytes in, exact int32 out, and what follows it.
#ifndef SARDONYX_MATMUL_INT8_H
#define SARDONYX_MATMUL_INT8_H

#include "sardonyx.h"

#define SX_MOST_OPERANDS 32

// C[b,i,j] = sum over k of (A[b,i,k] - a_zero[i]) * (B[b,k,j] - b_zero[j]), modulo 2^32. Strides count elements; those
// of inputs may be 0 (broadcast). Zero points have the type of their matrix; NULL means 0.
typedef struct {
    const void *a;                           // uint8, or int8 when a_signed; rows are contiguous
    int64_t a_signed, a_batch, a_row;
    const void *a_zero;
    int64_t a_zero_step;                     // 0: one for all rows; 1: one for each row
    const void *b;                           // uint8, or int8 when b_signed
    int64_t b_signed, b_batch, b_row, b_col; // strides of a B that is not packed
    int64_t b_packed;                        // B is int8 [ceil(N/16)][ceil(K/4)][16][4]: uint8 less 128, 0 beyond K, N
    const int32_t *b_sums;                   // of a packed B: the sum of each column as packed
    const void *b_zero;
    int64_t b_zero_step;                     // 0: one for all columns; 1: one for each column
    int32_t *c;                              // NULL: the sums are wanted by the epilogue alone, as
    int64_t own, operand_count;              //       operands[own] of so many, at most SX_MOST_OPERANDS; see below
    int64_t c_batch, c_row;                  // column stride 1; nothing beyond column N is written
    int64_t batch, m, n, k;                  // any may be 0; with k == 0 the result is 0
    sx_epilogue epilogue;                    // NULL: nothing follows; its i0 is 0, i1 the batch
    void *const *operands;
    const int64_t *dims;
} matmul_int8_args;

// How many tasks to share among threads, bytes of scratch for one thread, and the tasks themselves (an sx_task).
int64_t matmul_int8_tasks(const matmul_int8_args *args);
int64_t matmul_int8_scratch(const matmul_int8_args *args);
void matmul_int8(const void *args, int64_t lo, int64_t hi, void *scratch);

// What c_row has to be (at least) where c is NULL: sums in scratch are rows of the columns that are there at once.
int64_t matmul_int8_own_row(int64_t n);

#endif
