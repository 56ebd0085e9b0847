// unique.h -- arguments of unique.c.
#ifndef SARDONYX_UNIQUE_H
#define SARDONYX_UNIQUE_H

#include "integer.h"

typedef struct {
    const void *x;     // [rows][width], double when `floating`, else int64_t
    int64_t *first;    // [rows]: of each distinct row, the first row that equals it
    int64_t *inverse;  // [rows]: of each row, the number of its distinct row
    int64_t *counts;   // [rows]: how many rows equal each distinct row
    int64_t *scratch;  // [3 * rows]
    int64_t rows, width;
    int64_t floating, sorted;
} unique_args;

int64_t unique(const unique_args *a, sx_host *host);

#endif
