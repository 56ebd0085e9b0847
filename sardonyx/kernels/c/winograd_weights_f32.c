// winograd_weights_f32.c -- a task is one output channel block and one chunk of input channel blocks.
#include "winograd_weights_f32.h"

#include "winograd_tile.h"

static int64_t chunks(const winograd_weights_f32_args *a) {
    return (a->ic_blocks + WINOGRAD_CHUNK - 1) / WINOGRAD_CHUNK;
}

int64_t winograd_weights_f32_tasks(const winograd_weights_f32_args *a) {
    return a->tiles > 16 * a->oc_blocks ? a->groups * a->oc_blocks * chunks(a) : 0;
}

int64_t winograd_weights_f32_scratch(const winograd_weights_f32_args *a) {
    (void)a;
    return 0;
}

void winograd_weights_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    (void)scratch;
    const winograd_weights_f32_args *a = args;
    for (int64_t task = lo; task < hi; task++) {
        int64_t ob = task / chunks(a), k = task % chunks(a) * WINOGRAD_CHUNK, left = a->ic_blocks - k;
        winograd_weights_chunk(a->w + (ob * a->ic_blocks + k) * 9 * 256,
                               left < WINOGRAD_CHUNK ? left : WINOGRAD_CHUNK,
                               a->u + task * POSITIONS * WINOGRAD_U_STEP);
    }
}
