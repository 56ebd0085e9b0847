// byte_table.h -- functions of one byte as tables of 256: y[i] = table[x[i]].
#ifndef SARDONYX_BYTE_TABLE_H
#define SARDONYX_BYTE_TABLE_H

#include "simd.h"

typedef struct {
    const uint8_t *bytes;
#if SX_LOOKUP
    vb_table in_registers;
#endif
} byte_table;

SX_INLINE byte_table byte_table_of(const void *bytes) {
    byte_table t = {.bytes = bytes};
#if SX_LOOKUP
    t.in_registers = vb_table_of(bytes);
#endif
    return t;
}

// n bytes; y may be x, and otherwise does not overlap it.
SX_INLINE void look_up_bytes(const byte_table *t, const void *from, void *to, int64_t n) {
    const uint8_t *const x = from;
    uint8_t *const y = to;
    int64_t i = 0;
#if SX_LOOKUP
#pragma clang loop unroll(disable)
    for (; i + VB <= n; i += VB) vb_store(y + i, vb_lookup(&t->in_registers, vb_load(x + i)));
#if SX_PARTS
    if (i < n) vb_store_part(y + i, vb_lookup(&t->in_registers, vb_load_part(x + i, n - i)), n - i);
    return;
#endif
#endif
    for (; i < n; i++) y[i] = t->bytes[x[i]];
}

#endif
