// matmul_nbits_f32.h -- C = A * W, where W stays in memory as numbers of 4 or 8 bits, and what follows it.
#ifndef SARDONYX_MATMUL_NBITS_F32_H
#define SARDONYX_MATMUL_NBITS_F32_H

#include "sardonyx.h"

// C[i,j] = sum over k of A[i,k] * W[k,j], k ascending from 0, W[k,j] = (q[k,j] - zero[k / block, j]) * scale[k / block, j]
// rounded to float: the bits that matmul_f32 gives for W as floats.
typedef struct {
    const float *a;
    int64_t a_row;         // rows are contiguous
    const int32_t *b;      // [ceil(N/16)][ceil(K / per)][16] words of `per` = 32 / bits numbers, the first in the lowest
                           // bits, each less 2^(bits-1) modulo 2^bits
    int64_t bits;          // 4 or 8
    const float *scales;   // [ceil(N/16)][ceil(K / block)][16]
    const float *zeros;    // likewise, less 2^(bits-1); NULL: 0
    int64_t block;         // rows of W that share a scale; a multiple of `per`
    float *c;
    int64_t c_row;         // column stride 1; nothing beyond column N is written
    int64_t m, n, k;       // any may be 0; with k == 0 the result is 0
    sx_epilogue epilogue;  // NULL: nothing follows; its i0 and i1 are 0
    void *const *operands;
    const int64_t *dims;
} matmul_nbits_f32_args;

// How many tasks to share among threads, bytes of scratch for one thread, and the tasks themselves (an sx_task).
int64_t matmul_nbits_f32_tasks(const matmul_nbits_f32_args *args);
int64_t matmul_nbits_f32_scratch(const matmul_nbits_f32_args *args);
void matmul_nbits_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
