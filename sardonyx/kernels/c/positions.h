// positions.h -- arguments of positions.c.
#ifndef SARDONYX_POSITIONS_H
#define SARDONYX_POSITIONS_H

#include "integer.h"

typedef struct {
    const uint8_t *x;
    int64_t *out;  // room for `size` elements
    int64_t size;
} positions_args;

int64_t positions(const positions_args *a, sx_host *host);

#endif
