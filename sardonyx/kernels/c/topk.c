// topk.c -- see topk.h.
#include "topk.h"

#include "order.h"

int64_t topk_tasks(const topk_args *a) { return a->k ? a->outer * a->inner : 0; }

int64_t topk_scratch(const topk_args *a) { return a->k * (int64_t)sizeof(sx_ranked); }

// One line: x and values are given at its start, with `inner` elements from one to the next.
#define LINE(NAME, T, KEY)                                                                                  \
    static void NAME(const topk_args *a, int64_t start, int64_t target, sx_ranked *heap) {                  \
        const T *x = (const T *)a->x + start;                                                               \
        const uint64_t flip = a->largest ? UINT64_MAX : 0;                                                  \
        for (int64_t i = 0; i < a->k; ++i) heap[i] = (sx_ranked){KEY(x[i * a->inner]) ^ flip, i};           \
        ranked_heapify(heap, a->k);                                                                         \
        for (int64_t i = a->k; i < a->extent; ++i) {                                                        \
            const uint64_t key = KEY(x[i * a->inner]) ^ flip;                                               \
            if (key >= heap[0].key) continue; /* an equal one came earlier */                               \
            heap[0] = (sx_ranked){key, i};                                                                  \
            ranked_sink(heap, 0, a->k);                                                                     \
        }                                                                                                   \
        ranked_sort_heap(heap, a->k);                                                                       \
        for (int64_t i = 0; i < a->k; ++i) {                                                                \
            ((T *)a->values)[target + i * a->inner] = x[heap[i].at * a->inner];                             \
            a->positions[target + i * a->inner] = heap[i].at;                                               \
        }                                                                                                   \
    }

LINE(line_f32, float, order_f32)
LINE(line_f64, double, order_f64)
LINE(line_f16, uint16_t, order_f16)
LINE(line_bf16, uint16_t, order_bf16)
LINE(line_i8, int8_t, order_signed)
LINE(line_i16, int16_t, order_signed)
LINE(line_i32, int32_t, order_signed)
LINE(line_i64, int64_t, order_signed)
LINE(line_u8, uint8_t, order_unsigned)
LINE(line_u16, uint16_t, order_unsigned)
LINE(line_u32, uint32_t, order_unsigned)
LINE(line_u64, uint64_t, order_unsigned)

void topk(const void *args, int64_t lo, int64_t hi, void *scratch) {
    typedef void line(const topk_args *, int64_t, int64_t, sx_ranked *);
    static line *const lines[] = {line_f32, line_f64, line_f16, line_bf16, line_i8,  line_i16,
                                  line_i32, line_i64, line_u8,  line_u16,  line_u32, line_u64};
    const topk_args *a = args;
    for (int64_t task = lo; task < hi; ++task) {
        const int64_t row = task / a->inner, column = task % a->inner;
        lines[a->type](a, row * a->extent * a->inner + column, row * a->k * a->inner + column, scratch);
    }
}
