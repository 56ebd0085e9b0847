// winograd_input_f32.c -- a task is one block of tiles and up to INPUT_BLOCKS channel blocks of a group.
#include "winograd_input_f32.h"

#include "winograd_tile.h"

#ifndef INPUT_BLOCKS
#define INPUT_BLOCKS 2
#endif

static int64_t parts(const winograd_cut *c) { return (c->icb + INPUT_BLOCKS - 1) / INPUT_BLOCKS; }

int64_t winograd_input_f32_tasks(const winograd_input_f32_args *a) {
    winograd_cut c = WINOGRAD_CUT(a);
    return c.shared ? a->groups * c.blocks * parts(&c) : 0;
}

int64_t winograd_input_f32_scratch(const winograd_input_f32_args *a) {
    (void)a;
    return 0;
}

void winograd_input_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    (void)scratch;
    const winograd_input_f32_args *a = args;
    winograd_cut c = WINOGRAD_CUT(a);
    for (int64_t task = lo; task < hi; task++) {
        int64_t group = task / parts(&c) / c.blocks, block = task / parts(&c) % c.blocks, ib = task % parts(&c) * INPUT_BLOCKS;
        winograd_block b = winograd_make_block(&c, block);
        winograd_input_block(&c, &b, a->x + group * c.icb * c.ih * c.iw * 16, ib, ib + INPUT_BLOCKS < c.icb ? ib + INPUT_BLOCKS : c.icb,
                             a->v + group * winograd_v_size(&c) + winograd_block_start(&c, &b, block));
    }
}
