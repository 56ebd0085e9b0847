// positions.c -- out[0 .. n - 1] = the i with x[i] != 0, ascending; returns n.
#include "positions.h"

int64_t positions(const positions_args *a, sx_host *host) {
    (void)host;
    int64_t n = 0;
    for (int64_t i = 0; i < a->size; ++i) {  // without a branch: the place is written in any case, and kept if it counts
        a->out[n] = i;
        n += a->x[i] != 0;
    }
    return n;
}
