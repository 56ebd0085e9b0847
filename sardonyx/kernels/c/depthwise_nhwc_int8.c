// depthwise_nhwc_int8.c -- depthwise convolution over NHWC by dot products down the columns of the window.
//
//   task    some output rows of one image, a part of the channels
//   row     words: the bytes of up to SX_DOT_GROUP taps of a column side by side, for every input column and channel, made
//           once for each output row and read by every window that has the column; kh taps take several planes of words
//   block   16 channels by all positions of a row: four positions at a time, a dot product for each column of the window
//           and plane; then bytes (requantize.h)
//
// With registers of 64 bytes, blocks are of 64 channels where all are whole. Instructions that interleave and pack work on
// quarters of registers: interleaved, word 16 j + 4 l + i is of channel 16 l + 4 j + i, and packing undoes just that. With
// weights, biases and scales in that order nothing is moved across quarters, and sums become bytes in registers.
#include "depthwise_nhwc_int8.h"

#include "requantize.h"

// Tunables.
#define WORDS_BYTES 65536   // of words in a task: they are read kw times
#define TASK_WORK (1 << 18) // products that are worth a task
#define SHARED_WORK (1 << 16) // products that are worth two tasks
#define MOST_TASKS 16
#define AT_ONCE 4           // positions of a tile

#define PAIRS (SX_DOT_GROUP == 2)
#define LANES (16 / VL)
#define WIDE (VL == 16 && !PAIRS && SX_QUARTERS) // blocks of 64 channels
#define UNROLL _Pragma("clang loop unroll(full)")
#ifdef SX_DOT_A_UNSIGNED
#define X_UNSIGNED SX_DOT_A_UNSIGNED
#else
#define X_UNSIGNED 0
#endif


typedef struct {
    int64_t planes, columns;              // of words: of taps; input columns with padding
    int64_t channels, parts;              // of a part at most, a multiple of 16 or all; how many parts
    int64_t ranges, most;                 // of output rows; rows of a range at most
    int64_t row;                          // words of a plane
} depthwise_plan;

SX_INLINE int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
SX_INLINE int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }
SX_INLINE int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }
SX_INLINE int64_t part(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }

static depthwise_plan plan_of(const depthwise_nhwc_int8_args *a) {
    depthwise_plan p = {.planes = ceil_div(a->kh, SX_DOT_GROUP)};
    if (a->n * a->oh * a->ow * a->oc == 0) return p;
    p.columns = (a->ow - 1) * a->stride_w + (a->kw - 1) * a->dilation_w + 1;
    const int64_t blocks = ceil_div(a->oc, 16), fit = most(4, WORDS_BYTES / (p.columns * p.planes * 64));
    p.parts = ceil_div(blocks, fit);
    p.channels = ceil_div(blocks, p.parts) * 16;
    if (WIDE && p.parts > 1 && p.channels > 64) p.channels = ceil_div(p.channels, 64) * 64;
    p.parts = ceil_div(blocks * 16, p.channels);
    const int64_t work = a->n * a->oh * a->ow * a->oc * a->kh * a->kw;
    const int64_t wanted = least(most(work / TASK_WORK, work >= SHARED_WORK ? 2 : 1), MOST_TASKS);
    p.ranges = least(a->oh, ceil_div(wanted, a->n * p.parts));
    if (wanted > 1 && a->n * p.parts * p.ranges % 2 && p.ranges < a->oh) p.ranges++; // for two threads
    p.most = ceil_div(a->oh, p.ranges);
    p.row = p.columns * p.channels + 16;
    return p;
}

SX_INLINE int32_t byte_at(const void *p, int64_t is_signed) {
    return !p ? 0 : is_signed ? *(const int8_t *)p : *(const uint8_t *)p;
}

#if PAIRS
// Words of two taps, each less the zero point.
static void make_words(const uint8_t *const *taps, int64_t count, int32_t zero, int is_signed, int flip, int32_t *to) {
    const uint8_t *const x = taps[0], *const y = taps[1];
    (void)flip;
    if (is_signed)
        for (int64_t i = 0; i < count; i++)
            to[i] = (int32_t)((uint32_t)(uint16_t)((int8_t)x[i] - zero) | (uint32_t)((int8_t)y[i] - zero) << 16);
    else
        for (int64_t i = 0; i < count; i++)
            to[i] = (int32_t)((uint32_t)(uint16_t)(x[i] - zero) | (uint32_t)(y[i] - zero) << 16);
}
#else
// Two vectors with their elements in turn: the first half of the result, and the last.
#define FOUR(k, n) (k), (n) + (k), (k) + 1, (n) + (k) + 1, (k) + 2, (n) + (k) + 2, (k) + 3, (n) + (k) + 3
#define SIXTEEN(k, n) FOUR(k, n), FOUR((k) + 4, n), FOUR((k) + 8, n), FOUR((k) + 12, n)
#define FIRST_BYTES(x, y) __builtin_shufflevector(x, y, SIXTEEN(0, 64), SIXTEEN(16, 64))
#define LAST_BYTES(x, y) __builtin_shufflevector(x, y, SIXTEEN(32, 64), SIXTEEN(48, 64))
#define FIRST_HALVES(x, y) __builtin_shufflevector(x, y, SIXTEEN(0, 32))
#define LAST_HALVES(x, y) __builtin_shufflevector(x, y, SIXTEEN(16, 32))
typedef int8_t i8x64_unaligned __attribute__((vector_size(64), aligned(1), may_alias));

// Words of four taps.
static void make_words(const uint8_t *const *taps, int64_t count, int32_t zero, int is_signed, int flip, int32_t *to) {
    const uint8_t *const a = taps[0], *const b = taps[1], *const c = taps[2], *const d = taps[3];
    const uint32_t mask = flip ? 0x80808080u : 0;
    int64_t i = 0;
    (void)zero, (void)is_signed;
#if VL == 16 // four shuffles for each 128 bytes of output, where widening, shifts and ors are nine operations a register
    for (; i + 64 <= count; i += 64) {
        const i8x64 r0 = *(const i8x64_unaligned *)(a + i), r1 = *(const i8x64_unaligned *)(b + i);
        const i8x64 r2 = *(const i8x64_unaligned *)(c + i), r3 = *(const i8x64_unaligned *)(d + i);
        const i16x32 low[2] = {(i16x32)FIRST_BYTES(r0, r1), (i16x32)LAST_BYTES(r0, r1)};
        const i16x32 high[2] = {(i16x32)FIRST_BYTES(r2, r3), (i16x32)LAST_BYTES(r2, r3)};
        for (int h = 0; h < 2; h++) {
            *(vi_unaligned *)(to + i + 32 * h) = (vi)FIRST_HALVES(low[h], high[h]) ^ (int32_t)mask;
            *(vi_unaligned *)(to + i + 32 * h + 16) = (vi)LAST_HALVES(low[h], high[h]) ^ (int32_t)mask;
        }
    }
#endif
    for (; i < count; i++)
        to[i] = (int32_t)((a[i] | (uint32_t)b[i] << 8 | (uint32_t)c[i] << 16 | (uint32_t)d[i] << 24) ^ mask);
}
#endif

#if WIDE
#define QUARTER_BYTES(k) (k), 64 + (k), (k) + 1, 65 + (k), (k) + 2, 66 + (k), (k) + 3, 67 + (k), (k) + 4, 68 + (k), \
    (k) + 5, 69 + (k), (k) + 6, 70 + (k), (k) + 7, 71 + (k)
#define QUARTER_HALVES(k) (k), 32 + (k), (k) + 1, 33 + (k), (k) + 2, 34 + (k), (k) + 3, 35 + (k)
#define BYTES_FROM(x, y, k) (i16x32) __builtin_shufflevector(x, y, QUARTER_BYTES(k), QUARTER_BYTES(16 + (k)), \
    QUARTER_BYTES(32 + (k)), QUARTER_BYTES(48 + (k)))
#define HALVES_FROM(x, y, k) (vi) __builtin_shufflevector(x, y, QUARTER_HALVES(k), QUARTER_HALVES(8 + (k)), \
    QUARTER_HALVES(16 + (k)), QUARTER_HALVES(24 + (k)))

// Words of four taps in the order of blocks of 64 channels; `count` is a multiple of 64.
static void make_wide_words(const uint8_t *const *taps, int64_t count, int flip, int32_t *to) {
    const int32_t mask = flip ? (int32_t)0x80808080u : 0;
    for (int64_t i = 0; i < count; i += 64) {
        const i8x64 a = *(const i8x64_unaligned *)(taps[0] + i), b = *(const i8x64_unaligned *)(taps[1] + i);
        const i8x64 c = *(const i8x64_unaligned *)(taps[2] + i), d = *(const i8x64_unaligned *)(taps[3] + i);
        for (int h = 0; h < 2; h++) {
            const i16x32 low = BYTES_FROM(a, b, 0), high = BYTES_FROM(c, d, 0);
            const i16x32 low_end = BYTES_FROM(a, b, 8), high_end = BYTES_FROM(c, d, 8);
            const i16x32 x = h ? low_end : low, y = h ? high_end : high;
            *(vi_unaligned *)(to + i + 32 * h) = HALVES_FROM(x, y, 0) ^ mask;
            *(vi_unaligned *)(to + i + 32 * h + 16) = HALVES_FROM(x, y, 4) ^ mask;
        }
    }
}
#endif

// What one thread works with.
typedef struct {
    int64_t image, row_lo, row_hi, lo, hi; // rows; channels
    int32_t *words;     // [planes][row]
    int32_t *sums;      // [ow + 3][16]
    int32_t *w;         // [planes][kw][channels] words
    int32_t *bias;      // [channels]
    float *scale;       // [channels]
    int64_t *places;    // [ow]: of each position of a row, in y and beside
    int64_t *aside;
    uint8_t *beside;    // [ow][16]: the last channels
    uint8_t *padding;   // [channels] zero points
    requantization r;
    int32_t zero;
    int flip;
    int wide;           // blocks of 64 channels
} depthwise_task;

// Numbers of channels into the order of words in blocks of 64: of 16 pieces of four, (l, j) and (j, l) change places.
static void reorder(void *numbers, int64_t count) {
    typedef int32_t four __attribute__((vector_size(16), aligned(4), may_alias));
    for (four *block = numbers; count > 0; count -= 64, block += 16)
        for (int l = 0; l < 4; l++)
            for (int j = 0; j < l; j++) {
                const four kept = block[4 * l + j];
                block[4 * l + j] = block[4 * j + l], block[4 * j + l] = kept;
            }
}

// Weights of the task's channels as words, bias and scale of each channel.
static void prepare(const depthwise_nhwc_int8_args *a, const depthwise_plan *p, depthwise_task *t) {
    const int64_t all = ceil_div(a->oc, 16) * 16, count = ceil_div(t->hi - t->lo, 16) * 16;
    const int32_t *const quads = a->w;
    for (int64_t plane = 0; plane < p->planes; plane++)
        for (int64_t k = 0; k < a->kw; k++) {
            int32_t *const to = t->w + (plane * a->kw + k) * p->channels;
            const int32_t *const from = quads + (plane * SX_DOT_GROUP / 4 * a->kw + k) * all + t->lo;
            for (int64_t c = 0; c < count; c++) {
#if PAIRS
                const int32_t pair = plane % 2 ? from[c] >> 16 : from[c];
                to[c] = (int32_t)((uint32_t)(uint16_t)(int8_t)pair | (uint32_t)(int8_t)(pair >> 8) << 16);
#else
                to[c] = from[c];
#endif
            }
            if (t->wide) reorder(to, count);
        }
    const uint32_t seen = PAIRS ? 0 : (uint32_t)(!t->flip ? t->zero : a->x_signed ? t->zero + 128 : t->zero - 128);
    t->r = (requantization){.zero = byte_at(a->y_zero, a->y_signed), .is_signed = a->y_signed != 0};
    for (int64_t j = 0; j < count; j++) {
        const int64_t c = t->lo + j;
        const int inside = c < a->oc;
        t->bias[j] = inside ? (int32_t)((a->bias ? (uint32_t)a->bias[c] : 0) - seen * (uint32_t)a->w_sums[c]) : 0;
        t->scale[j] = inside && a->scale ? a->scale[c * a->scale_step] : 0;
        t->r.large |= !(t->scale[j] < 1 && t->scale[j] > -1);
    }
    if (t->wide) reorder(t->bias, count), reorder(t->scale, count);
    for (int64_t j = 0; j < count; j++) t->padding[j] = (uint8_t)t->zero;
    for (int64_t i = 0; i < a->ow; i++) t->places[i] = i * a->y_pitch, t->aside[i] = i * 16;
}

// The words of some columns, whose bytes follow each other in each tap.
static void make_columns(const depthwise_task *t, const uint8_t *const *taps, int64_t columns, int64_t is_signed,
                         int32_t *to) {
    const int64_t count = columns * (t->hi - t->lo);
#if WIDE
    if (t->wide) {
        make_wide_words(taps, count, t->flip, to);
        return;
    }
#endif
    make_words(taps, count, t->zero, is_signed != 0, t->flip, to);
}

// The words of one output row.
static void make_row(const depthwise_nhwc_int8_args *a, const depthwise_plan *p, const depthwise_task *t, int64_t oh) {
    const int64_t channels = t->hi - t->lo, line = a->iw * a->x_pitch;
    const uint8_t *const x = (const uint8_t *)a->x + t->image * a->x_batch + t->lo;
    const int64_t left = least(a->pad_left, p->columns), right = least(p->columns, a->iw + left);
    for (int64_t plane = 0; plane < p->planes; plane++) {
        int32_t *const to = t->words + plane * p->row;
        const uint8_t *rows[SX_DOT_GROUP], *none[SX_DOT_GROUP];
        int inside[SX_DOT_GROUP], all = 1;
        for (int k = 0; k < SX_DOT_GROUP; k++) {
            const int64_t tap = plane * SX_DOT_GROUP + k, ih = oh * a->stride_h - a->pad_top + tap * a->dilation_h;
            inside[k] = tap < a->kh && ih >= 0 && ih < a->ih;
            rows[k] = inside[k] ? x + ih * line : t->padding, none[k] = t->padding;
            all &= inside[k] || tap >= a->kh; // beyond the window any bytes will do
            if (tap >= a->kh) rows[k] = rows[0];
        }
        for (int64_t i = 0; i < left; i++) make_columns(t, none, 1, a->x_signed, to + i * channels);
        if (all && a->x_pitch == channels) {
            make_columns(t, rows, right - left, a->x_signed, to + left * channels);
        } else {
            for (int64_t i = left; i < right; i++) {
                const uint8_t *taps[SX_DOT_GROUP];
                for (int k = 0; k < SX_DOT_GROUP; k++)
                    taps[k] = rows[k] == t->padding ? t->padding : rows[k] + (i - left) * a->x_pitch;
                make_columns(t, taps, 1, a->x_signed, to + i * channels);
            }
        }
        for (int64_t i = right; i < p->columns; i++) make_columns(t, none, 1, a->x_signed, to + i * channels);
    }
}

// Sums of AT_ONCE positions and 16 channels.
SX_INLINE void tile(const depthwise_nhwc_int8_args *a, const depthwise_plan *p, const int32_t *words, const int32_t *w,
                    const int32_t *bias, int64_t step, int64_t across, int32_t *sums) {
    vi sum[AT_ONCE][LANES];
    UNROLL for (int i = 0; i < AT_ONCE; i++)
        UNROLL for (int j = 0; j < LANES; j++) sum[i][j] = vi_load(bias + j * VL);
    for (int64_t plane = 0; plane < p->planes; plane++) {
        const int32_t *x = words + plane * p->row, *v = w + plane * a->kw * p->channels;
#pragma clang loop unroll(disable)
        for (int64_t k = a->kw; k > 0; k--, x += across, v += p->channels)
            UNROLL for (int j = 0; j < LANES; j++) {
                const vi y = vi_load(v + j * VL);
                UNROLL for (int i = 0; i < AT_ONCE; i++) sum[i][j] = vi_dot(sum[i][j], vi_load(x + i * step + j * VL), y);
            }
    }
    UNROLL for (int i = 0; i < AT_ONCE; i++)
        UNROLL for (int j = 0; j < LANES; j++) vi_store(sums + i * 16 + j * VL, sum[i][j]);
}

#if WIDE
// Bytes of `count` positions and 64 channels.
SX_INLINE void wide_tile(const depthwise_nhwc_int8_args *a, const depthwise_plan *p, const depthwise_task *t,
                         const int64_t c, const int64_t at, const int count, const requantization_vectors *v,
                         uint8_t *y, const int is_signed, const int large) {
    const int64_t channels = t->hi - t->lo, step = a->stride_w * channels, across = a->dilation_w * channels;
    vi sum[AT_ONCE][4];
    UNROLL for (int i = 0; i < count; i++)
        UNROLL for (int j = 0; j < 4; j++) sum[i][j] = vi_load(t->bias + c + j * 16);
    for (int64_t plane = 0; plane < p->planes; plane++) {
        const int32_t *x = t->words + plane * p->row + at * step + c, *w = t->w + plane * a->kw * p->channels + c;
#pragma clang loop unroll(disable)
        for (int64_t k = a->kw; k > 0; k--, x += across, w += p->channels)
            UNROLL for (int j = 0; j < 4; j++) {
                const vi weights = vi_load(w + j * 16);
                UNROLL for (int i = 0; i < count; i++)
                    sum[i][j] = vi_dot(sum[i][j], vi_load(x + i * step + j * 16), weights);
            }
    }
    UNROLL for (int i = 0; i < count; i++) {
        f32x16 products[4];
        i32x16 words[4];
        UNROLL for (int j = 0; j < 4; j++) products[j] = __builtin_convertvector(sum[i][j], f32x16) * v->scale[j];
        round_products(products, large, words);
        *(i8x64_unaligned *)(y + (at + i) * a->y_pitch) = narrow_quarters(words, v->zero, is_signed);
    }
}

SX_INLINE void wide_row(const depthwise_nhwc_int8_args *a, const depthwise_plan *p, const depthwise_task *t, int64_t c,
                        uint8_t *y, const int is_signed, const int large) {
    requantization r = t->r;
    r.scale = t->scale + c;
    requantization_vectors v = requantization_of(&r, 32);
    UNROLL for (int j = 0; j < 4; j++) v.scale[j] = load16(r.scale + 16 * j);
    int64_t i = 0;
    for (; i + AT_ONCE <= a->ow; i += AT_ONCE) wide_tile(a, p, t, c, i, AT_ONCE, &v, y, is_signed, large);
    for (; i < a->ow; i++) wide_tile(a, p, t, c, i, 1, &v, y, is_signed, large);
}

// 64 channels of a row, from channel `c` of the part on.
static void run_wide_channels(const depthwise_nhwc_int8_args *a, const depthwise_plan *p, const depthwise_task *t,
                              int64_t oh, int64_t c) {
    uint8_t *const y = (uint8_t *)a->y + t->image * a->y_batch + oh * a->ow * a->y_pitch + t->lo + c;
    if (t->r.is_signed)
        t->r.large ? wide_row(a, p, t, c, y, 1, 1) : wide_row(a, p, t, c, y, 1, 0);
    else
        t->r.large ? wide_row(a, p, t, c, y, 0, 1) : wide_row(a, p, t, c, y, 0, 0);
}
#endif

// 16 channels of a row, from channel `c` of the part on.
static void run_channels(const depthwise_nhwc_int8_args *a, const depthwise_plan *p, depthwise_task *t, int64_t oh,
                         int64_t c) {
    const int64_t channels = t->hi - t->lo, step = a->stride_w * channels, across = a->dilation_w * channels;
    const int64_t wanted = least(16, channels - c), size = a->scale ? 1 : 4;
    for (int64_t i = 0; i < a->ow; i += AT_ONCE) { // the last tile reaches back, or stands alone
        const int64_t from = a->ow >= AT_ONCE ? least(i, a->ow - AT_ONCE) : 0;
        if (a->ow >= AT_ONCE)
            tile(a, p, t->words + from * step + c, t->w + c, t->bias + c, step, across, t->sums + from * 16);
        else
            for (int64_t j = 0; j < a->ow; j++)
                tile(a, p, t->words + j * step + c, t->w + c, t->bias + c, 0, across, t->sums + j * 16);
    }
    uint8_t *const y = (uint8_t *)a->y + (t->image * a->y_batch + oh * a->ow * a->y_pitch + t->lo + c) * size;
    if (!a->scale) {
        for (int64_t i = 0; i < a->ow; i++)
            __builtin_memcpy(y + i * a->y_pitch * 4, t->sums + i * 16, (size_t)wanted * 4);
        return;
    }
    requantization r = t->r;
    r.scale = t->scale + c;
    requantize(t->sums, a->ow, 16, wanted == 16 ? y : t->beside, wanted == 16 ? t->places : t->aside, NULL, &r);
    for (int64_t i = 0; i < a->ow && wanted < 16; i++)
        for (int64_t j = 0; j < wanted; j++) y[i * a->y_pitch + j] = t->beside[i * 16 + j];
}

int64_t depthwise_nhwc_int8_tasks(const depthwise_nhwc_int8_args *a) {
    const depthwise_plan p = plan_of(a);
    return a->n * p.ranges * p.parts;
}

// Bytes of each part of the scratch, in the order of `depthwise_task`.
static void sizes_of(const depthwise_nhwc_int8_args *a, const depthwise_plan *p, int64_t sizes[9]) {
    const int64_t room = a->ow + AT_ONCE + 3;
    const int64_t bytes[9] = {p->planes * p->row * 4 + 64, room * 64, p->planes * a->kw * p->channels * 4,
                              p->channels * 4, p->channels * 4, room * 8, room * 8, room * 16, p->channels};
    for (int i = 0; i < 9; i++) sizes[i] = ceil_div(bytes[i], 64) * 64;
}

int64_t depthwise_nhwc_int8_scratch(const depthwise_nhwc_int8_args *a) {
    const depthwise_plan p = plan_of(a);
    int64_t sizes[9], sum = 0;
    if (!p.ranges) return 0;
    sizes_of(a, &p, sizes);
    for (int i = 0; i < 9; i++) sum += sizes[i];
    return sum;
}

void depthwise_nhwc_int8(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const depthwise_nhwc_int8_args *const a = args;
    const depthwise_plan p = plan_of(a);
    int64_t sizes[9];
    sizes_of(a, &p, sizes);
    char *at = scratch;
    depthwise_task t = {.words = (int32_t *)at};
    t.sums = (int32_t *)(at += sizes[0]), t.w = (int32_t *)(at += sizes[1]), t.bias = (int32_t *)(at += sizes[2]);
    t.scale = (float *)(at += sizes[3]), t.places = (int64_t *)(at += sizes[4]);
    t.aside = (int64_t *)(at += sizes[5]), t.beside = (uint8_t *)(at += sizes[6]), t.padding = (uint8_t *)(at += sizes[7]);
    t.zero = byte_at(a->x_zero, a->x_signed);
    t.flip = !PAIRS && X_UNSIGNED == (a->x_signed != 0);
    for (int64_t task = lo; task < hi; task++) {
        const int64_t range = task % p.ranges, of = task / p.ranges % p.parts;
        t.image = task / p.ranges / p.parts;
        t.row_lo = part(a->oh, p.ranges, range), t.row_hi = part(a->oh, p.ranges, range + 1);
        t.lo = of * p.channels, t.hi = least(a->oc, t.lo + p.channels);
        t.wide = WIDE && a->scale && (t.hi - t.lo) % 64 == 0;
        prepare(a, &p, &t);
        for (int64_t oh = t.row_lo; oh < t.row_hi; oh++) {
            make_row(a, &p, &t, oh);
#if WIDE
            for (int64_t c = 0; t.wide && c < t.hi - t.lo; c += 64) run_wide_channels(a, &p, &t, oh, c);
#endif
            for (int64_t c = 0; !t.wide && c < t.hi - t.lo; c += 16) run_channels(a, &p, &t, oh, c);
            if (a->epilogue)
                a->epilogue(a->operands, a->dims, t.image, 0, oh * a->ow, (oh + 1) * a->ow, t.lo, t.hi);
        }
    }
}
