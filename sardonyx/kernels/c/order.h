// order.h -- numbers as unsigned keys in the order in which numpy sorts them: -0 equals 0, NaN comes after everything.
#ifndef SARDONYX_ORDER_H
#define SARDONYX_ORDER_H

#include "elementary_base.h"

#define SX_ORDER_FLOAT(NAME, U, BITS, INFINITE)                            \
    SX_INLINE uint64_t NAME(U u) {                                         \
        const U sign = (U)1 << (BITS - 1), magnitude = (U)(u & (U)~sign);  \
        if (magnitude > (U)INFINITE) return UINT64_MAX;                    \
        if (magnitude == 0) return sign;                                   \
        return u & sign ? (U)~u : (U)(u | sign);                           \
    }
SX_ORDER_FLOAT(order_f16, uint16_t, 16, 0x7c00)
SX_ORDER_FLOAT(order_bf16, uint16_t, 16, 0x7f80)
SX_ORDER_FLOAT(order_bits_f32, uint32_t, 32, 0x7f800000)
SX_ORDER_FLOAT(order_bits_f64, uint64_t, 64, 0x7ff0000000000000)
#undef SX_ORDER_FLOAT

SX_INLINE uint64_t order_f32(float x) { return order_bits_f32(bits_f32(x)); }
SX_INLINE uint64_t order_f64(double x) { return order_bits_f64(bits_f64(x)); }
SX_INLINE uint64_t order_signed(int64_t x) { return (uint64_t)x ^ UINT64_C(0x8000000000000000); }
SX_INLINE uint64_t order_unsigned(uint64_t x) { return x; }

// A candidate of a selection: smaller keys come first, of equal keys the smaller position.
typedef struct {
    uint64_t key;
    int64_t at;
} sx_ranked;

SX_INLINE int ranked_before(sx_ranked a, sx_ranked b) { return a.key < b.key || (a.key == b.key && a.at < b.at); }

// Lets the item at `root` of a heap (the last in order on top) sink to its place among `count`.
SX_INLINE void ranked_sink(sx_ranked *heap, int64_t root, int64_t count) {
    const sx_ranked item = heap[root];
    for (int64_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && ranked_before(heap[child], heap[child + 1])) ++child;
        if (!ranked_before(item, heap[child])) break;
        heap[root] = heap[child];
    }
    heap[root] = item;
}

SX_INLINE void ranked_heapify(sx_ranked *items, int64_t count) {
    for (int64_t root = count / 2; root-- > 0;) ranked_sink(items, root, count);
}

// Puts a heap in order.
SX_INLINE void ranked_sort_heap(sx_ranked *heap, int64_t count) {
    for (int64_t last = count - 1; last > 0; --last) {
        const sx_ranked top = heap[0];
        heap[0] = heap[last], heap[last] = top;
        ranked_sink(heap, 0, last);
    }
}

#endif
