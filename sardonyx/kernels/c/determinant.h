// determinant.h -- determinants of square matrices, double, by elimination with row exchanges.
#ifndef SARDONYX_DETERMINANT_H
#define SARDONYX_DETERMINANT_H

#include "sardonyx.h"

typedef struct {
    const double *x;  // [count][n][n]
    double *y;        // [count]; 1 where n is 0
    int64_t count, n;
} determinant_args;

int64_t determinant_tasks(const determinant_args *a);    // a matrix each
int64_t determinant_scratch(const determinant_args *a);  // a copy of one
void determinant(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
