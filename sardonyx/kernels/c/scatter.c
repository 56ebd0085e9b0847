// scatter.c -- out[indices[i][0], ..., indices[i][depth - 1], 0 .. run - 1]  op=  updates[i][0 .. run - 1]
//
// for i = 0 .. count - 1 in order, so that the last of several updates of one place wins and sums round the same way
// everywhere. Negative indices count from the end; one that is out of range ends the run with an error and writes nothing
// there. `dims` are the extents of the addressed axes; `run` elements lie behind each of their positions.
#include "scatter.h"

#include "elementary.h"
#include "float16.h"

#define KEEP(x) (x)

// One type: T as stored, W as computed with, IN and OUT between them. Wrapping needs W unsigned for integers.
#define SCATTER(NAME, T, W, S, IN, OUT)                                                        \
    static void NAME(T *restrict o, const T *restrict u, int64_t n, int64_t reduction) {       \
        switch (reduction) {                                                                   \
        case SX_SCATTER_ADD:                                                                   \
            for (int64_t j = 0; j < n; ++j) o[j] = OUT((W)IN(o[j]) + (W)IN(u[j]));             \
            break;                                                                             \
        case SX_SCATTER_MUL:                                                                   \
            for (int64_t j = 0; j < n; ++j) o[j] = OUT((W)IN(o[j]) * (W)IN(u[j]));             \
            break;                                                                             \
        case SX_SCATTER_MAX:                                                                   \
            for (int64_t j = 0; j < n; ++j) o[j] = OUT(max_##S(IN(o[j]), IN(u[j])));           \
            break;                                                                             \
        case SX_SCATTER_MIN:                                                                   \
            for (int64_t j = 0; j < n; ++j) o[j] = OUT(min_##S(IN(o[j]), IN(u[j])));           \
            break;                                                                             \
        default:                                                                               \
            for (int64_t j = 0; j < n; ++j) o[j] = u[j];                                       \
        }                                                                                      \
    }

SCATTER(row_f32, float, float, f32, KEEP, KEEP)
SCATTER(row_f64, double, double, f64, KEEP, KEEP)
SCATTER(row_f16, sx_f16, float, f32, f16_to_f32, f32_to_f16)
SCATTER(row_bf16, sx_bf16, float, f32, bf16_to_f32, f32_to_bf16)
SCATTER(row_i8, int8_t, uint32_t, i8, KEEP, (int8_t))
SCATTER(row_i16, int16_t, uint32_t, i16, KEEP, (int16_t))
SCATTER(row_i32, int32_t, uint32_t, i32, KEEP, (int32_t))
SCATTER(row_i64, int64_t, uint64_t, i64, KEEP, (int64_t))
SCATTER(row_u8, uint8_t, uint32_t, u8, KEEP, (uint8_t))
SCATTER(row_u16, uint16_t, uint32_t, u16, KEEP, (uint16_t))
SCATTER(row_u32, uint32_t, uint32_t, u32, KEEP, (uint32_t))
SCATTER(row_u64, uint64_t, uint64_t, u64, KEEP, (uint64_t))

static void row_b8(uint8_t *restrict o, const uint8_t *restrict u, int64_t n, int64_t reduction) {
    const _Bool any = reduction == SX_SCATTER_ADD || reduction == SX_SCATTER_MAX, set = reduction == SX_SCATTER_SET;
    for (int64_t j = 0; j < n; ++j) o[j] = set ? u[j] : any ? o[j] | u[j] : o[j] & u[j];
}

int64_t scatter(const scatter_args *a, sx_host *host) {
    (void)host;
    const int64_t dims[8] = {a->dims0, a->dims1, a->dims2, a->dims3, a->dims4, a->dims5, a->dims6, a->dims7};
    int64_t error = 0;
    for (int64_t i = 0; i < a->count; ++i) {
        int64_t place = 0;
        for (int64_t k = 0; k < a->depth; ++k)
            place = place * dims[k] + checked_index(a->indices[i * a->depth + k], dims[k], &error);
        if (error) return -error;
        const int64_t to = place * a->run, from = i * a->run;
#define ROW(CODE, T, NAME) \
    case CODE:             \
        NAME((T *)a->out + to, (const T *)a->updates + from, a->run, a->reduction); \
        break;
        switch (a->dtype) {
            ROW(SX_F32, float, row_f32)
            ROW(SX_F64, double, row_f64)
            ROW(SX_F16, sx_f16, row_f16)
            ROW(SX_BF16, sx_bf16, row_bf16)
            ROW(SX_I8, int8_t, row_i8)
            ROW(SX_I16, int16_t, row_i16)
            ROW(SX_I32, int32_t, row_i32)
            ROW(SX_I64, int64_t, row_i64)
            ROW(SX_U8, uint8_t, row_u8)
            ROW(SX_U16, uint16_t, row_u16)
            ROW(SX_U32, uint32_t, row_u32)
            ROW(SX_U64, uint64_t, row_u64)
            ROW(SX_B8, uint8_t, row_b8)
        }
#undef ROW
    }
    return 0;
}
