// topk.h -- the k largest or smallest elements along an axis, in order; of equal elements the first comes first.
//
//   x[outer][extent][inner] -> values[outer][k][inner], positions[outer][k][inner]
//
// NaN counts as larger than everything, as numpy sorts. A task is one line; it keeps its candidates in a heap of k.
#ifndef SARDONYX_TOPK_H
#define SARDONYX_TOPK_H

#include "sardonyx.h"

enum { TOPK_F32, TOPK_F64, TOPK_F16, TOPK_BF16, TOPK_I8, TOPK_I16, TOPK_I32, TOPK_I64, TOPK_U8, TOPK_U16, TOPK_U32, TOPK_U64 };

typedef struct {
    const void *x;
    void *values;
    int64_t *positions;
    int64_t outer, extent, inner, k;  // 0 <= k <= extent
    int64_t type;                     // TOPK_*
    int64_t largest;
} topk_args;

int64_t topk_tasks(const topk_args *a);
int64_t topk_scratch(const topk_args *a);
void topk(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
