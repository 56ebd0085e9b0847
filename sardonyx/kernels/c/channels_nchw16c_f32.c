// channels_nchw16c_f32.c -- a register of y is put together from the registers of x in which its channels lie.
//
// Which those are, and how their lanes are moved, is found once for a task's part of a block. Groups of 8 channels given
// room for 16, 112x112: a generated loop over lanes took some 15 ns for 16 channels, this takes 2.
#include "channels_nchw16c_f32.h"

#include "plane_tasks.h"
#include "simd.h"

#define EPILOGUE_POSITIONS 128  // outputs between two calls of the epilogue: 8 KB

// The lanes of one register of y that come from the same register of x, at x + offset.
typedef struct {
    vi lanes, mask;  // where in that register, and which of them (-1)
    int64_t offset;
} source;

// The sources of one register of y; how many.
static int64_t find_sources(const channels_nchw16c_f32_args *a, const int32_t *from, source *s) {
    int64_t count = 0;
    for (int l = 0; l < VL; l++) {
        if (from[l] < 0) continue;
        const int64_t offset = from[l] / 16 * a->positions * 16 + from[l] % 16 / VL * VL;
        int64_t i = 0;
        while (i < count && s[i].offset != offset) i++;
        if (i == count) s[count++] = (source){{}, {}, offset};
        s[i].lanes[l] = from[l] % VL;
        s[i].mask[l] = -1;
    }
    return count;
}

// Positions lo <= p < hi of one block, `count` sources each.
SX_INLINE void put_together(const source *s, int64_t count, const float *x, float *y, int64_t lo, int64_t hi) {
    for (int64_t p = lo; p < hi; p++) {
        vi all = {};
        for (int64_t i = 0; i < count; i++)
            all |= (vi)v_permute(v_load(x + s[i].offset + p * 16), s[i].lanes) & s[i].mask;
        v_store(y + p * 16, (vf)all);
    }
}

static plane_tasks cut(const channels_nchw16c_f32_args *a) {
    int64_t planes = a->n * a->c_blocks;
    return cut_planes(planes, a->positions, 1, planes * a->positions * 8);
}

int64_t channels_nchw16c_f32_tasks(const channels_nchw16c_f32_args *a) { return cut(a).tasks; }

int64_t channels_nchw16c_f32_scratch(const channels_nchw16c_f32_args *a) {
    (void)a;
    return 0;
}

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

void channels_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    (void)scratch;
    const channels_nchw16c_f32_args *a = args;
    plane_tasks tasks = cut(a);
    for (int64_t task = lo; task < hi; task++) {
        int64_t first = task / tasks.ranges * tasks.group, start = task % tasks.ranges * tasks.rows;
        int64_t last = min(first + tasks.group, tasks.planes), end = min(start + tasks.rows, a->positions);
        for (int64_t plane = first; plane < last; plane++) {
            int64_t image = plane / a->c_blocks, block = plane % a->c_blocks;
            const float *x = a->x + image * a->x_batch;
            float *y = a->y + image * a->y_batch + block * a->positions * 16;
            source s[16 / VL][VL];
            int64_t count[16 / VL];
            for (int v = 0; v < 16 / VL; v++) count[v] = find_sources(a, a->from + block * 16 + v * VL, s[v]);
            for (int64_t p = start; p < end; p += EPILOGUE_POSITIONS) {
                int64_t stop = min(p + EPILOGUE_POSITIONS, end);
                for (int v = 0; v < 16 / VL; v++) {
                    if (count[v] == 1) put_together(s[v], 1, x, y + v * VL, p, stop);
                    else if (count[v] == 2) put_together(s[v], 2, x, y + v * VL, p, stop);
                    else put_together(s[v], count[v], x, y + v * VL, p, stop);
                }
                if (a->epilogue) a->epilogue(a->operands, a->dims, image, block, p, stop, 0, 16);
            }
        }
    }
}
