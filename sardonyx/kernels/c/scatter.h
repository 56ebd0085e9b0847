// scatter.h -- arguments of scatter.c.
#ifndef SARDONYX_SCATTER_H
#define SARDONYX_SCATTER_H

#include "integer.h"

enum { SX_SCATTER_SET, SX_SCATTER_ADD, SX_SCATTER_MUL, SX_SCATTER_MAX, SX_SCATTER_MIN };
enum { SX_F32, SX_F64, SX_F16, SX_BF16, SX_I8, SX_I16, SX_I32, SX_I64, SX_U8, SX_U16, SX_U32, SX_U64, SX_B8 };

typedef struct {
    void *out;               // the data, changed in place
    const int64_t *indices;  // [count][depth]
    const void *updates;     // [count][run]
    int64_t count, depth, run;
    int64_t dtype, reduction;
    int64_t dims0, dims1, dims2, dims3, dims4, dims5, dims6, dims7;  // extents of the axes that the indices address
} scatter_args;

int64_t scatter(const scatter_args *a, sx_host *host);

#endif
