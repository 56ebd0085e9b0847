// conv_nhwc_int8.c -- implicit matrix product over NHWC: positions x (taps and channels) x output channels.
//
//   task    some output rows of one image and group, and a part of its output channels
//   rows    the input rows that the task's windows see, laid out once: padded, one plane for each row phase of the stride.
//           There all positions of the task lie `step` bytes apart, over the ends of rows too (what windows over an end see
//           is computed and dropped), and a row of the window is one run of bytes: kw * channels long, since NHWC has
//           neighbouring taps side by side. A 1x1 convolution that moves nothing reads x where it is.
//   block   for each pair of panels (32 output channels): for each tile of positions: sums, then bytes (requantize.h)
//
// Engines, by what the target has (simd.h): matrix tiles; dot products of four bytes (one sign may have to be flipped, which
// the zero point makes up for); products of two int16, to which x less its zero point and weights are widened.
#include "conv_nhwc_int8.h"

#include "conv_int8_tile.h"
#include "requantize.h"

// Tunables.
#ifndef ROWS_BYTES
#define ROWS_BYTES (SX_TILES ? 98304 : 49152) // of laid out rows in a task: they are read once for each pair of panels
#endif
#ifndef MOST_ROWS_BYTES
#define MOST_ROWS_BYTES 196608 // where there are twice as many of weights, which are read once for each range of rows
#endif
#ifndef FLAT_BYTES
#define FLAT_BYTES 49152 // likewise of 1x1 convolutions
#endif
#define SPAN_BYTES 16384    // of weights of 64 output channels, which fill lines of y where they stay in L1 together
#define AHEAD_BYTES 65536   // of weights that are fetched ahead: fewer stay in L2
#define ONCE_BYTES 32768    // of weights of a tile: more do not stay in L1
#define TASK_WORK (SX_TILES ? 1 << 25 : 1 << 23) // products that are worth a task
#define SHARED_WORK (1 << 21) // products that are worth four tasks
#define MOST_TASKS 16       // because of this rule
#define PART_PANELS 4       // fewest panels of a part: each part lays out its rows anew
#define SLACK 64            // bytes that tiles may read beyond rows

#define WIDE (!SX_TILES && SX_DOT_GROUP == 2) // x and weights as int16
#ifdef SX_DOT_A_UNSIGNED
#define X_UNSIGNED SX_DOT_A_UNSIGNED
#else
#define X_UNSIGNED 0
#endif
#define ITEM (WIDE ? 2 : 1)                   // bytes of an element of x as laid out
#define GROUP (16 * PANELS)                   // output channels of a tile

typedef struct {
    int64_t icg, ocg, panels;             // of one group
    int64_t segments, length, words;      // of the window; elements and words of a segment
    int64_t w_segment, w_panel;           // bytes of packed weights
    int64_t in_place, flip;               // x is read where it is; its bytes are moved by 128
    int64_t tiled;                        // positions are laid out as tiles
    int64_t oh, ow, row;                  // output rows and columns as tasks see them; positions from row to row
    int64_t step, line, phases;           // bytes from position to position, of a laid out row; planes
    int64_t span;                         // output channels of a block
    int64_t ranges, most, parts, columns; // of rows; rows of a range at most; of panels; output channels of a part at most
} conv_plan;

SX_INLINE int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
SX_INLINE int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }
SX_INLINE int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

// Part `i` of `parts` of 0 .. n starts here: parts differ by one at most.
SX_INLINE int64_t part(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }

// Rows of a plane that `rows` output rows need.
SX_INLINE int64_t plane_rows(const conv_nhwc_int8_args *a, int64_t rows) {
    return ceil_div((rows - 1) * a->stride_h + (a->kh - 1) * a->dilation_h + 1, a->stride_h);
}

static void cut(const conv_nhwc_int8_args *a, conv_plan *p) {
    const int window = !p->in_place && !p->tiled;
    const int64_t fixed = window ? plane_rows(a, 1) * p->line * p->phases : 0, each = p->line * p->phases;
    const int64_t room = window ? most(ROWS_BYTES, least(p->panels * p->w_panel / 2, MOST_ROWS_BYTES)) : FLAT_BYTES;
    const int64_t fit = most(window ? 1 : ceil_div(64, p->row), (room - fixed) / each);
    const int64_t images = a->n * a->groups, work = images * p->oh * p->row * p->ocg * p->segments * p->length;
    const int64_t wanted = least(most(work / TASK_WORK, work >= SHARED_WORK ? 4 : 1), MOST_TASKS);
    p->ranges = ceil_div(p->oh, fit);
    p->parts = 1;
    while (images * p->ranges * p->parts < wanted && p->panels >= 2 * PART_PANELS * p->parts) p->parts *= 2;
    while (images * p->ranges * p->parts < wanted && p->oh >= 2 * p->ranges * (window ? 2 : ceil_div(32, p->row))) p->ranges *= 2;
    if (work >= SHARED_WORK && images * p->ranges * p->parts % 2 && p->ranges < p->oh) p->ranges++; // for two threads
    p->most = ceil_div(p->oh, p->ranges);
    p->columns = ceil_div(ceil_div(p->panels, PANELS), p->parts) * GROUP;
}

static conv_plan plan_of(const conv_nhwc_int8_args *a) {
    conv_plan p = {.icg = a->ic / a->groups, .ocg = a->oc / a->groups, .oh = a->oh, .ow = a->ow};
    const int merged = a->dilation_w == 1;
    p.panels = ceil_div(p.ocg, 16);
    p.segments = merged ? a->kh : a->kh * a->kw;
    p.length = merged ? a->kw * p.icg : p.icg;
    p.words = ceil_div(p.length * ITEM, 4);
    p.w_segment = ceil_div(p.length, 64) * 1024 * ITEM;
    p.w_panel = p.segments * p.w_segment;
    p.span = SX_TILES && 4 * p.w_panel <= SPAN_BYTES ? 2 * GROUP : GROUP;
    p.flip = !SX_TILES && !WIDE && SX_DOT_GROUP == 4 && X_UNSIGNED == (a->x_signed != 0);
    if (a->n * a->oh * a->ow * a->oc == 0) return p;
    const int pointwise = a->kh * a->kw == 1 && !a->pad_top && !a->pad_left && (a->oh - 1) * a->stride_h < a->ih &&
                          (a->ow - 1) * a->stride_w < a->iw;
    const int still = pointwise && a->stride_h * a->stride_w == 1 && a->ow == a->iw;
    p.tiled = SX_TILES && pointwise && (!still || a->oh * a->ow < 16 || (p.icg >= 256 && p.ocg >= 256));
    p.in_place = !p.tiled && !WIDE && !p.flip && still;
    if (p.tiled) {
        if (still) p.oh *= p.ow, p.ow = 1;
        p.row = p.ow;
        p.step = ceil_div(p.icg, 64) * 64;
        p.line = p.row * p.step, p.phases = 1;
    } else if (p.in_place) {
        p.oh *= p.ow, p.ow = p.row = 1;
        p.step = p.line = a->x_pitch, p.phases = 1;
    } else {
        p.row = ceil_div((a->ow - 1) * a->stride_w + (a->kw - 1) * a->dilation_w + 1, a->stride_w);
        p.step = a->stride_w * p.icg * ITEM;
        p.line = p.row * p.step;
        p.phases = least(a->stride_h, (a->kh - 1) * a->dilation_h + 1);
    }
    cut(a, &p);
    return p;
}

SX_INLINE int32_t byte_at(const void *p, int64_t is_signed) {
    return !p ? 0 : is_signed ? *(const int8_t *)p : *(const uint8_t *)p;
}

// `count` elements as they are laid out.
static void lay_out(char *to, const uint8_t *from, int64_t count, const conv_plan *p, int64_t is_signed, int32_t zero) {
#if WIDE
    (void)p;
    int16_t *const out = (int16_t *)to;
    if (is_signed)
        for (int64_t i = 0; i < count; i++) out[i] = (int16_t)((int8_t)from[i] - zero);
    else
        for (int64_t i = 0; i < count; i++) out[i] = (int16_t)(from[i] - zero);
#else
    (void)is_signed, (void)zero;
    if (p->flip)
        for (int64_t i = 0; i < count; i++) to[i] = (char)(from[i] ^ 0x80);
    else
        __builtin_memcpy(to, from, (size_t)count);
#endif
}

// `count` elements of padding.
static void lay_out_padding(char *to, int64_t count, const conv_plan *p, int32_t zero) {
    __builtin_memset(to, WIDE ? 0 : (uint8_t)zero ^ (p->flip ? 0x80 : 0), (size_t)(count * ITEM));
}

// Row `ih` of the image, or padding, from column -pad_left on.
static void lay_out_row(const conv_nhwc_int8_args *a, const conv_plan *p, const uint8_t *x, int64_t ih, int32_t zero,
                        char *to) {
    const int64_t width = p->line / (p->icg * ITEM), c = p->icg;
    if (ih < 0 || ih >= a->ih) {
        lay_out_padding(to, width * c, p, zero);
        return;
    }
    const int64_t left = least(a->pad_left, width), inside = least(a->iw, width - left);
    const uint8_t *const from = x + ih * a->iw * a->x_pitch;
    lay_out_padding(to, left * c, p, zero);
    to += left * c * ITEM;
    if (a->x_pitch == c)
        lay_out(to, from, inside * c, p, a->x_signed, zero);
    else
        for (int64_t i = 0; i < inside; i++)
            lay_out(to + i * c * ITEM, from + i * a->x_pitch, c, p, a->x_signed, zero);
    lay_out_padding(to + inside * c * ITEM, (width - left - inside) * c, p, zero);
}

#if WIDE
// A packed panel as words of two int16 each: four bytes of a column become two words, one row of words after the other.
static void widen_panel(const int8_t *from, int64_t segments, int64_t quads, int64_t stored, int32_t *to) {
    for (int64_t s = 0; s < segments; s++)
        for (int64_t q = 0; q < quads; q++) {
            const int8_t *const bytes = from + (s * stored + q) * 64;
            int32_t *const words = to + (s * stored + q) * 32;
            for (int j = 0; j < 16; j++) {
                words[j] = (int32_t)((uint32_t)(uint16_t)bytes[4 * j] | (uint32_t)bytes[4 * j + 1] << 16);
                words[16 + j] = (int32_t)((uint32_t)(uint16_t)bytes[4 * j + 2] | (uint32_t)bytes[4 * j + 3] << 16);
            }
        }
}
#endif

// What one thread works with.
typedef struct {
    int64_t image, group, row_lo, rows, col_lo, col_hi; // output channels of the group
    int32_t *sums, *bias; // [MR][GROUP], with tiles twice; [columns]
    float *scale;         // [columns]
    uint8_t *beside;      // [MR][GROUP] bytes: the last channels
    int64_t aside[MR];    // of each row of them
    int64_t *places;      // of each position, in y
    char *rows_at;        // laid out rows
    char *w;              // widened weights of a block
    int64_t *segment;
    int64_t fetch;        // weights ahead,
    const char *ahead, *end; // or this
    requantization r;
} conv_task;

#define SUMS_BYTES ((SX_TILES ? 2 : 1) * MR * GROUP * 4 + 256)
#define BESIDE_BYTES (MR * GROUP)

static int64_t places_bytes(const conv_plan *p) { return ceil_div(p->most * p->row, 8) * 64; }

static int64_t rows_bytes(const conv_nhwc_int8_args *a, const conv_plan *p) {
    if (p->in_place) return 0;
    if (p->tiled) return ceil_div(p->most * p->row, 16) * 16 * p->step;
    return ceil_div(p->phases * plane_rows(a, p->most) * p->line + (MR + 1) * p->step + SLACK, 64) * 64;
}

// Bias and scale of each channel of the task. The zero point's share is the same for all positions, since padding has it too.
static void prepare(const conv_nhwc_int8_args *a, const conv_plan *p, int32_t zero, conv_task *t) {
    const int64_t first = t->group * p->ocg;
    const int32_t seen = WIDE ? 0 : !p->flip ? zero : a->x_signed ? zero + 128 : zero - 128;
    t->r = (requantization){
        .zero = byte_at(a->y_zero, a->y_signed), .is_signed = a->y_signed != 0, .own_zero = (int32_t)a->own_zero,
        .other_zero = (int32_t)a->other_zero, .own_scale = a->own_scale, .other_scale = a->other_scale,
        .divisor = a->divisor, .inverse = a->inverse, .by_factors = a->own_factor != 0, .own_factor = a->own_factor,
        .other_factor = a->other_factor, .offset = a->offset};
    for (int64_t j = 0; j < t->col_hi - t->col_lo; j++) {
        const int64_t o = first + t->col_lo + j;
        const int inside = t->col_lo + j < p->ocg;
        const uint32_t bias = inside && a->bias ? (uint32_t)a->bias[o] : 0;
        t->bias[j] = inside ? (int32_t)(bias - (uint32_t)seen * (uint32_t)a->w_sums[o]) : 0;
        t->scale[j] = inside && a->scale ? a->scale[o * a->scale_step] : 0;
        t->r.large |= !(t->scale[j] < 1 && t->scale[j] > -1);
    }
}

// Lays out the positions of a task as tiles [16 positions][64 bytes], those of 64 channels after each other.
static void lay_out_tiles(const conv_nhwc_int8_args *a, const conv_plan *p, const uint8_t *x, const conv_task *t) {
    typedef uint64_t line __attribute__((vector_size(64), aligned(1), may_alias));
    const int64_t row = p->ow == 1 ? a->x_pitch : a->stride_h * a->iw * a->x_pitch, count = t->rows * p->row;
    for (int64_t i = 0, oh = t->row_lo, ow = 0; i < count; i++) {
        const uint8_t *const from = x + oh * row + ow * a->stride_w * a->x_pitch;
        char *const to = t->rows_at + i / 16 * 16 * p->step + i % 16 * 64;
        for (int64_t c = 0; c < p->step; c += 64) *(line *)(to + c * 16) = *(const line *)(from + c);
        if (++ow == p->row) ow = 0, oh++;
    }
}

// Lays out the rows of a task, or finds them in x; lists the segments of the window.
static const char *find_rows(const conv_nhwc_int8_args *a, const conv_plan *p, int32_t zero, conv_task *t) {
    const uint8_t *const x = (const uint8_t *)a->x + t->image * a->x_batch + t->group * p->icg;
    if (p->in_place) {
        t->segment[0] = 0;
        return (const char *)x + t->row_lo * p->step;
    }
    if (p->tiled) {
        t->segment[0] = 0;
        lay_out_tiles(a, p, x, t);
        return t->rows_at;
    }
    const int64_t per_plane = plane_rows(a, t->rows), first = t->row_lo * a->stride_h - a->pad_top;
    for (int64_t phase = 0; phase < p->phases; phase++)
        for (int64_t i = 0; i < per_plane; i++)
            lay_out_row(a, p, x, first + i * a->stride_h + phase, zero, t->rows_at + (phase * per_plane + i) * p->line);
    const int64_t across = p->segments / a->kh;
    for (int64_t s = 0; s < p->segments; s++) {
        const int64_t down = s / across * a->dilation_h, right = s % across * a->dilation_w;
        t->segment[s] = (down % a->stride_h * per_plane + down / a->stride_h) * p->line + right * p->icg * ITEM;
    }
    return t->rows_at;
}

// What the next range of rows reads and this one does not.
static void find_ahead(const conv_nhwc_int8_args *a, const conv_plan *p, conv_task *t) {
    const char *const x = (const char *)a->x + t->image * a->x_batch + t->group * p->icg;
    const int64_t row = p->oh > a->oh ? a->x_pitch : a->iw * a->x_pitch, rows = p->oh > a->oh ? a->ih * a->iw : a->ih;
    const int64_t first = (t->row_lo + t->rows - 1) * a->stride_h - a->pad_top + (a->kh - 1) * a->dilation_h + 1;
    t->ahead = x + least(most(first, 0), rows) * row;
    t->end = t->row_lo + t->rows < p->oh ? x + least(most(first + t->rows * a->stride_h, 0), rows) * row : t->ahead;
}

// Where each position of the task goes, in elements from its image's first on. What is computed beyond the end of a row goes
// to where the next row begins, and is overwritten by what belongs there.
static void find_places(const conv_nhwc_int8_args *a, const conv_plan *p, const conv_task *t) {
    int64_t *to = t->places;
    const int64_t count = t->rows * p->ow, first = t->row_lo * p->ow, pitch = a->y_pitch;
    if (a->spread > 1) {
        for (int64_t i = 0, row = first / a->ow, column = first % a->ow; i < count; i++) {
            to[i] = (row * a->spread * a->ow + column) * a->spread * pitch;
            if (++column == a->ow) column = 0, row++;
        }
        return;
    }
    if (p->row == p->ow) { // no gaps
        for (int64_t i = 0; i < count; i++) to[i] = (first + i) * pitch;
        return;
    }
    for (int64_t row = 0; row < t->rows; row++) {
        const int64_t pixel = (t->row_lo + row) * p->ow;
        for (int64_t i = 0; i < p->ow; i++) *to++ = (pixel + i) * a->y_pitch;
        for (int64_t i = p->ow; i < p->row && row + 1 < t->rows; i++) *to++ = (pixel + p->ow) * a->y_pitch;
    }
}

// Up to 31 bytes, in two pieces that overlap.
SX_INLINE void copy_few(uint8_t *to, const uint8_t *from, int64_t count) {
    typedef uint64_t u64_unaligned __attribute__((aligned(1), may_alias));
    if (count >= 16) {
        *(i8x16_unaligned *)to = *(const i8x16_unaligned *)from;
        *(i8x16_unaligned *)(to + count - 16) = *(const i8x16_unaligned *)(from + count - 16);
    } else if (count >= 8) {
        *(u64_unaligned *)to = *(const u64_unaligned *)from;
        *(u64_unaligned *)(to + count - 8) = *(const u64_unaligned *)(from + count - 8);
    } else {
        for (int64_t c = 0; c < count; c++) to[c] = from[c];
    }
}

// Sums of some positions and output channels.
typedef struct {
    const int32_t *sums;              // [count][width]
    int64_t lo, count;                // positions of the task
    int64_t column, width, channels;  // of the group: the first; how many are there, and wanted
} computed_tile;

// Where an output channel of the task's group lies in y, from its image's first element and a position's place on.
SX_INLINE int64_t column_place(const conv_nhwc_int8_args *a, const conv_plan *p, const conv_task *t, int64_t column) {
    if (a->spread <= 1) return t->group * p->ocg + column;
    const int64_t depth = p->ocg / (a->spread * a->spread), block = column / depth;
    return (block / a->spread * a->ow * a->spread + block % a->spread) * a->y_pitch + column % depth;
}

// Bytes of the last output channels, to where they belong.
static void put_beside(uint8_t *y, const conv_task *t, const computed_tile *c) {
    const int64_t *const at = t->places + c->lo;
    if (c->channels > 3)
        for (int64_t i = 0; i < c->count; i++) copy_few(y + at[i], t->beside + i * GROUP, c->channels);
    else
        for (int64_t j = 0; j < c->channels; j++)
            for (int64_t i = 0; i < c->count; i++) y[at[i] + j] = t->beside[i * GROUP + j];
}

// Sums to where they belong.
static void put(const conv_nhwc_int8_args *a, const conv_plan *p, conv_task *t, const computed_tile *c) {
    const int64_t first = t->image * a->y_batch + column_place(a, p, t, c->column), *const at = t->places + c->lo;
    if (!a->scale) {
        for (int64_t i = 0; i < c->count; i++)
            __builtin_memcpy((int32_t *)a->y + first + at[i], c->sums + i * c->width, (size_t)c->channels * 4);
        return;
    }
    t->r.scale = t->scale + c->column - t->col_lo;
    if (a->other) t->r.other = (const uint8_t *)a->other + first;
    uint8_t *const y = (uint8_t *)a->y + first;
    if (c->channels == c->width) {
        requantize(c->sums, c->count, c->width, y, at, at, &t->r);
        return;
    }
    requantize(c->sums, c->count, c->width, t->beside, t->aside, at, &t->r);
    put_beside(y, t, c);
}

#if SX_TILES
// A span of columns for all positions of a task: positions by 16 or 32 (the last ones reach back where they would read
// beyond x), and for these one pair of panels after the other, so that lines of y are written while they are in L1.
static void run_block(const conv_nhwc_int8_args *a, const conv_plan *p, conv_task *t, const char *x, int64_t col) {
    const int64_t positions = (t->rows - 1) * p->row + p->ow, end = least(col + p->span, least(t->col_hi, p->ocg));
    const int64_t steps = p->segments * ceil_div(p->words, 16), blocks = ceil_div(positions, 32);
    conv_int8_work work = {.step = p->tiled ? 64 : p->step, .next = p->tiled ? 1024 : 64, .below = 16 * p->step,
                           .segment = t->segment, .segments = p->segments, .words = p->words, .w_panel = p->w_panel,
                           .w_segment = p->w_segment, .sums = t->sums, .x_signed = a->x_signed,
                           .once = PANELS * p->w_panel >= ONCE_BYTES};
    const char *const panels_at = (const char *)a->w + t->group * p->panels * p->w_panel;
    const char *const next = panels_at + ceil_div(end, 16) * p->w_panel;
    int64_t lines = ceil_div(32, blocks);
    if (t->fetch) t->ahead = next, t->end = next + ceil_div(end - col, 16) * p->w_panel;
    else lines = ceil_div(t->end - t->ahead, 64 * steps * blocks * ceil_div(least(t->col_hi, p->ocg) - col, GROUP));
    const uint8_t *const others = (const uint8_t *)a->other + t->image * a->y_batch + t->group * p->ocg;
    // Where something is added to the bytes of few products, the processor overlaps them better when they come last.
    const int busy = a->scale && !t->r.large, last_of_all = a->other && steps <= 2;
    requantization r = t->r;
    uint8_t *const image = (uint8_t *)a->y + t->image * a->y_batch;
    int32_t *sums = t->sums;
    computed_tile last = {.width = 32, .channels = 32};
    for (int64_t lo = 0, used; lo < positions; lo += used) {
        const int64_t all = positions - lo > 16 && (positions >= 32 || !p->in_place) ? 32 : 16;
        if (p->in_place) lo = least(lo, positions - all);
        used = least(all, positions - lo);
        work.x = x + lo * p->step;
        for (int64_t c = col; c < end; c += GROUP) {
            const int64_t panels = least(PANELS, p->panels - c / 16);
            work.w = panels_at + c / 16 * p->w_panel, work.bias = t->bias + c - t->col_lo;
            work.sums = sums, work.ahead = t->ahead, work.ahead_lines = t->ahead < t->end ? lines : 0;
            if (busy && used > 16 && panels == 2 && last.count % 2 == 0 && last.width == 32) {
                const int64_t groups = last.count / 2, turns = 2 * steps + 2;
                const int whole = last.channels == 32;
                uint8_t *const y = image + column_place(a, p, t, last.column);
                r.scale = t->scale + last.column - t->col_lo, r.other = a->other ? others + last.column : NULL;
                work.meanwhile = &(conv_int8_meanwhile){
                    .sums = last.sums, .groups = groups, .each = last_of_all ? groups : ceil_div(groups, turns),
                    .turns = last_of_all ? turns : most(1, turns / most(groups, 1)), .y = whole ? y : t->beside,
                    .at = whole ? t->places + last.lo : t->aside, .beside = t->places + last.lo, .r = &r};
                conv_int8_busy_tile(&work);
                if (!whole) put_beside(y, t, &last);
            } else {
                conv_int8_tile(&work, used, panels);
                if (last.count) put(a, p, t, &last);
                conv_int8_store(&work, used, panels);
            }
            t->ahead += steps * work.ahead_lines * 64;
            last = (computed_tile){sums, lo, used, c, 16 * panels, least(16 * panels, p->ocg - c)};
            sums = sums == t->sums ? sums + MR * GROUP : t->sums;
        }
    }
    put(a, p, t, &last);
}
#else
// Some columns, a pair of panels or one, for all positions of a task.
static void run_block(const conv_nhwc_int8_args *a, const conv_plan *p, conv_task *t, const char *x, int64_t col) {
    const int64_t panels = least(PANELS, p->panels - col / 16), width = 16 * panels;
    const int64_t positions = (t->rows - 1) * p->row + p->ow, tiles = ceil_div(positions, MR);
    conv_int8_work work = {.step = p->step, .segment = t->segment, .segments = p->segments, .words = p->words,
                           .w_panel = p->w_panel, .w_segment = p->w_segment, .bias = t->bias + col - t->col_lo,
                           .sums = t->sums, .x_signed = a->x_signed};
    work.w = (const char *)a->w + (t->group * p->panels + col / 16) * (p->w_panel / ITEM);
#if WIDE
    for (int64_t i = 0; i < panels; i++)
        widen_panel((const int8_t *)work.w + i * (p->w_panel / 2), p->segments, ceil_div(p->words, 2),
                    p->w_segment / 128, (int32_t *)(t->w + i * p->w_panel));
    work.w = t->w;
#endif
    computed_tile tile = {t->sums, 0, 0, col, width, least(width, p->ocg - col)};
    for (int64_t i = 0; i < tiles; i++, tile.lo += tile.count) {
        tile.count = part(positions, tiles, i + 1) - tile.lo;
        work.x = x + tile.lo * p->step;
        conv_int8_tile(&work, tile.count, panels);
        put(a, p, t, &tile);
    }
}
#endif

int64_t conv_nhwc_int8_tasks(const conv_nhwc_int8_args *a) {
    const conv_plan p = plan_of(a);
    return p.ranges ? a->n * a->groups * p.ranges * p.parts : 0;
}

int64_t conv_nhwc_int8_scratch(const conv_nhwc_int8_args *a) {
    const conv_plan p = plan_of(a);
    if (!p.ranges) return 0;
    return SUMS_BYTES + BESIDE_BYTES + p.columns * 8 + ceil_div(p.segments, 8) * 64 + places_bytes(&p) + rows_bytes(a, &p) +
           (WIDE ? PANELS * p.w_panel : 0);
}

void conv_nhwc_int8(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const conv_nhwc_int8_args *const a = args;
    const conv_plan p = plan_of(a);
    const int32_t zero = byte_at(a->x_zero, a->x_signed);
    char *at = scratch;
    conv_task t = {.sums = (int32_t *)at};
    t.beside = (uint8_t *)(at += SUMS_BYTES);
    t.bias = (int32_t *)(at += BESIDE_BYTES);
    t.scale = (float *)(at += p.columns * 4);
    t.segment = (int64_t *)(at += p.columns * 4);
    t.places = (int64_t *)(at += ceil_div(p.segments, 8) * 64);
    t.rows_at = at += places_bytes(&p);
    t.w = at + rows_bytes(a, &p);
#if SX_TILES
    tiles_begin((const uint8_t[8]){0});
#endif
    for (int64_t i = 0; i < MR; i++) t.aside[i] = i * GROUP;
    for (int64_t task = lo; task < hi; task++) {
        const int64_t range = task % p.ranges, part_of = task / p.ranges % p.parts, rest = task / p.ranges / p.parts;
        const int64_t groups = ceil_div(p.panels, PANELS);
        t.group = rest % a->groups, t.image = rest / a->groups;
        t.row_lo = part(p.oh, p.ranges, range), t.rows = part(p.oh, p.ranges, range + 1) - t.row_lo;
        t.col_lo = part(groups, p.parts, part_of) * GROUP, t.col_hi = part(groups, p.parts, part_of + 1) * GROUP;
        // The first range of each of two threads brings weights to L2, where those after it find them; these bring x.
        t.fetch = p.panels * p.w_panel >= AHEAD_BYTES && range % ceil_div(p.ranges, 2) == 0;
        find_ahead(a, &p, &t);
        prepare(a, &p, zero, &t);
        const char *const x = find_rows(a, &p, zero, &t);
        find_places(a, &p, &t);
        for (int64_t col = t.col_lo; col < least(t.col_hi, p.ocg); col += p.span) run_block(a, &p, &t, x, col);
        if (!a->epilogue) continue;
        const int64_t first = t.group * p.ocg, pixel = t.row_lo * p.ow;
        a->epilogue(a->operands, a->dims, t.image, 0, pixel, pixel + t.rows * p.ow, first + t.col_lo,
                    first + least(t.col_hi, p.ocg));
    }
#if SX_TILES
    tiles_end();
#endif
}
