// pool_nhwc_int8.c -- maximum and sum pooling over NHWC: 64 channels of a window at a time.
#include "pool_nhwc_int8.h"

#include "simd.h"

#define TASK_WORK (1 << 18) // bytes read that are worth a task
#define MOST_TASKS 16

typedef int8_t i8x64 __attribute__((vector_size(64)));
typedef int8_t i8x32 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int8_t i8x64_unaligned __attribute__((vector_size(64), aligned(1), may_alias));
typedef int8_t i8x32_unaligned __attribute__((vector_size(32), aligned(1), may_alias));
typedef int8_t i8x16_unaligned __attribute__((vector_size(16), aligned(1), may_alias));

SX_INLINE int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
SX_INLINE int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }
SX_INLINE int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

// The taps of one output position that lie inside the image: `first` of each axis, and how many.
typedef struct {
    const uint8_t *x; // of the first tap
    int64_t rows, columns, down, right; // down, right: bytes from tap to tap
} pool_window;

// First tap and number of taps inside 0 .. size - 1 of a window that begins at `at`.
static int64_t taps_inside(int64_t at, int64_t size, int64_t count, int64_t dilation, int64_t *first) {
    *first = 0;
    if (at >= 0 && at + (count - 1) * dilation < size) return count; // the usual case, without a division
    *first = at < 0 ? ceil_div(-at, dilation) : 0;
    const int64_t end = at >= size ? 0 : least(count, ceil_div(size - at, dilation));
    return most(0, end - *first);
}

// The largest of `lanes` channels; bytes of the other sign are compared by way of a flipped bit.
#define LARGEST(name, vector, unaligned)                                                            \
    SX_INLINE vector name(const pool_window *w, const vector flip, int64_t c) {                     \
        vector best = (vector){} + (int8_t)-128;                                                        \
        for (int64_t i = 0; i < w->rows; i++)                                                       \
            for (int64_t j = 0; j < w->columns; j++)                                                \
                best = __builtin_elementwise_max(                                                   \
                    best, *(const unaligned *)(w->x + i * w->down + j * w->right + c) ^ flip);      \
        return best ^ flip;                                                                         \
    }
LARGEST(largest_64, i8x64, i8x64_unaligned)
LARGEST(largest_32, i8x32, i8x32_unaligned)
LARGEST(largest_16, i8x16, i8x16_unaligned)

static void pool_position(const pool_window *w, int64_t channels, int8_t flip, uint8_t *y) {
    int64_t c = 0;
    for (; c + 64 <= channels; c += 64) *(i8x64_unaligned *)(y + c) = largest_64(w, flip - (i8x64){}, c);
    for (; c + 32 <= channels; c += 32) *(i8x32_unaligned *)(y + c) = largest_32(w, flip - (i8x32){}, c);
    for (; c + 16 <= channels; c += 16) *(i8x16_unaligned *)(y + c) = largest_16(w, flip - (i8x16){}, c);
    for (; c < channels; c++) {
        int8_t best = -128;
        for (int64_t i = 0; i < w->rows; i++)
            for (int64_t j = 0; j < w->columns; j++) {
                const int8_t x = (int8_t)w->x[i * w->down + j * w->right + c] ^ flip;
                best = x > best ? x : best;
            }
        y[c] = (uint8_t)(best ^ flip);
    }
}

// Sums are those of unsigned bytes: signed ones are moved by 128, which goes off again with the zero points. 256 of them
// fit 16 bits.
#define SUMS(name, lanes)                                                                                               \
    SX_INLINE void name(const pool_window *w, const uint8_t flip, int32_t zero, int64_t c, int32_t *y) {                \
        typedef uint8_t bytes __attribute__((vector_size(lanes)));                                                      \
        typedef uint8_t bytes_unaligned __attribute__((vector_size(lanes), aligned(1), may_alias));                     \
        typedef uint16_t halves __attribute__((vector_size(2 * lanes)));                                                \
        typedef int32_t words __attribute__((vector_size(4 * lanes)));                                                  \
        typedef int32_t words_unaligned __attribute__((vector_size(4 * lanes), aligned(4), may_alias));                 \
        words total = -zero * (int32_t)(w->rows * w->columns) - (words){};                                              \
        halves part = {};                                                                                               \
        int64_t room = 256;                                                                                             \
        for (int64_t i = 0; i < w->rows; i++)                                                                           \
            for (int64_t j = 0; j < w->columns;) {                                                                      \
                const int64_t end = j + least(room, w->columns - j);                                                    \
                room -= end - j;                                                                                        \
                for (; j < end; j++) {                                                                                  \
                    const bytes x = *(const bytes_unaligned *)(w->x + i * w->down + j * w->right + c) ^ flip;           \
                    part += __builtin_convertvector(x, halves);                                                         \
                }                                                                                                       \
                if (room) continue;                                                                                     \
                total += __builtin_convertvector(part, words);                                                          \
                part = (halves){}, room = 256;                                                                          \
            }                                                                                                           \
        *(words_unaligned *)(y + c) = total + __builtin_convertvector(part, words);                                     \
    }
SUMS(sums_64, 64)
SUMS(sums_16, 16)

static void sum_position(const pool_window *w, int64_t channels, uint8_t flip, int32_t zero, int32_t *y) {
    int64_t c = 0;
    for (; c + 64 <= channels; c += 64) sums_64(w, flip, zero, c, y);
    for (; c + 16 <= channels; c += 16) sums_16(w, flip, zero, c, y);
    for (; c < channels; c++) {
        y[c] = 0;
        for (int64_t i = 0; i < w->rows; i++)
            for (int64_t j = 0; j < w->columns; j++) y[c] += (w->x[i * w->down + j * w->right + c] ^ flip) - zero;
    }
}

static int64_t ranges_of(const pool_nhwc_int8_args *a) {
    const int64_t work = a->n * a->oh * a->ow * a->oc * a->kh * a->kw;
    if (!work) return 0;
    return least(a->oh, ceil_div(least(most(work / TASK_WORK, 1), MOST_TASKS), a->n));
}

int64_t pool_nhwc_int8_tasks(const pool_nhwc_int8_args *a) { return a->n * ranges_of(a); }

int64_t pool_nhwc_int8_scratch(const pool_nhwc_int8_args *a) {
    (void)a;
    return 0;
}

void pool_nhwc_int8(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const pool_nhwc_int8_args *const a = args;
    const int64_t ranges = ranges_of(a);
    const int32_t zero = a->x_zero ? *(const uint8_t *)a->x_zero ^ (a->is_signed ? 0x80 : 0) : a->is_signed ? 128 : 0;
    (void)scratch;
    for (int64_t task = lo; task < hi; task++) {
        const int64_t image = task / ranges, range = task % ranges;
        const int64_t first = a->oh * range / ranges, end = a->oh * (range + 1) / ranges;
        const uint8_t *const x = (const uint8_t *)a->x + image * a->x_batch, flip = a->is_signed ? 0x80 : 0;
        for (int64_t oh = first; oh < end; oh++) {
            int64_t top, left;
            const int64_t ih = oh * a->stride_h - a->pad_top;
            pool_window w = {.down = a->dilation_h * a->iw * a->x_pitch, .right = a->dilation_w * a->x_pitch};
            w.rows = taps_inside(ih, a->ih, a->kh, a->dilation_h, &top);
            for (int64_t ow = 0; ow < a->ow; ow++) {
                const int64_t iw = ow * a->stride_w - a->pad_left;
                w.columns = taps_inside(iw, a->iw, a->kw, a->dilation_w, &left);
                w.x = x + ((ih + top * a->dilation_h) * a->iw + iw + left * a->dilation_w) * a->x_pitch;
                const int64_t at = image * a->y_batch + (oh * a->ow + ow) * a->y_pitch;
                if (a->sums)
                    sum_position(&w, a->oc, flip, zero, (int32_t *)a->y + at);
                else
                    pool_position(&w, a->oc, a->is_signed ? 0 : -128, (uint8_t *)a->y + at);
            }
        }
        if (a->epilogue) a->epilogue(a->operands, a->dims, image, 0, first * a->ow, end * a->ow, 0, a->oc);
    }
}
