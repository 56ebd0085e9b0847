// roi_align_f32.c -- see roi_align_f32.h. A task is a region.
//
// Where samples lie along each axis is computed once a region, what pixels they weigh how once a bin, for all channels; these
// are lanes: registers of NCHW16c, or single loads of NCHW. Bins of many samples are done in portions of SAMPLES.
#include "roi_align_f32.h"

#include "elementary.h"
#include "integer.h"

#define SAMPLES 64
#define KNOWN 512  // samples along an axis that are kept; those of larger regions are computed again for each bin

typedef struct {
    int64_t low, high;  // neighbours
    float near, far;    // their weights
    int inside;
} tap_t;

// The samples along one axis of a region.
typedef struct {
    float start, bin;
    int64_t samples, size, known;  // of a bin; pixels of the image; taps kept
    tap_t *taps;
} axis_t;

// One sample: its four pixels, in elements from the first, and their weights.
typedef struct {
    int64_t at[4];
    float weights[4];
    int inside;
} sample_t;

static int64_t blocks_of(const roi_align_f32_args *a) { return (a->channels + 15) / 16; }

int64_t roi_align_f32_tasks(const roi_align_f32_args *a) { return a->regions; }

int64_t roi_align_f32_scratch(const roi_align_f32_args *a) {
    return blocks_of(a) * (int64_t)sizeof(f32x16) + SAMPLES * (int64_t)sizeof(sample_t) + 2 * KNOWN * (int64_t)sizeof(tap_t);
}

static tap_t computed_tap(const axis_t *axis, int64_t bin, int64_t sample) {
    float place = axis->start + (float)bin * axis->bin + ((float)sample + 0.5f) * axis->bin / (float)axis->samples;
    if (!(place >= -1.0f && place <= (float)axis->size)) return (tap_t){0};
    place = place > 0.0f ? place : 0.0f;
    const int64_t low = (int64_t)place;
    if (low >= axis->size - 1) return (tap_t){axis->size - 1, axis->size - 1, 1.0f, 0.0f, axis->size > 0};
    const float far = place - (float)low;
    return (tap_t){low, low + 1, 1.0f - far, far, 1};
}

static tap_t tap_at(const axis_t *axis, int64_t bin, int64_t sample) {
    const int64_t i = bin * axis->samples + sample;
    return i < axis->known ? axis->taps[i] : computed_tap(axis, bin, sample);
}

static axis_t axis_of(const roi_align_f32_args *a, float from, float to, int64_t bins, int64_t size, tap_t *taps) {
    const float offset = a->half_pixel ? 0.5f : 0.0f, start = from * a->scale - offset;
    float extent = to * a->scale - offset - start;
    if (!a->half_pixel) extent = max_f32(extent, 1.0f);
    const float bin = extent / (float)bins;
    axis_t axis = {start, bin, a->ratio > 0 ? a->ratio : max_i64(f32_to_i64(ceil_f32(bin)), 0), size, 0, taps};
    for (int64_t b = 0; b < bins && (b + 1) * axis.samples <= KNOWN; b++)
        for (int64_t s = 0; s < axis.samples; s++) taps[axis.known++] = computed_tap(&axis, b, s);
    return axis;
}

static sample_t sample_of(const roi_align_f32_args *a, tap_t v, tap_t h) {
    const int64_t low = v.low * a->width, high = v.high * a->width, pixel = a->blocked ? 16 : 1;
    return (sample_t){{(low + h.low) * pixel, (low + h.high) * pixel, (high + h.low) * pixel, (high + h.high) * pixel},
                      {v.near * h.near, v.near * h.far, v.far * h.near, v.far * h.far},
                      v.inside && h.inside};
}

SX_INLINE f32x16 larger(f32x16 x, f32x16 y) { return select16((y != y) | (y > x), y, x); }

// One pixel of `lanes` channels, `lane` apart; 0: a whole block.
SX_INLINE f32x16 pixel_of(const float *x, int64_t lane, int64_t lanes) {
    if (lane == 0) return load16(x);
    f32x16 found = {};
    if (lanes == 16) for (int i = 0; i < 16; i++) found[i] = x[i * lane];
    else for (int64_t i = 0; i < lanes; i++) found[i] = x[i * lane];
    return found;
}

// Adds `count` samples of `lanes` channels to `total`; the maximum begins with the `first` sample.
SX_INLINE f32x16 add_samples(const sample_t *s, int64_t count, const float *x, int64_t lane, int64_t lanes, f32x16 total,
                             const int largest, int first) {
    for (int64_t i = 0; i < count; i++, s++) {
        f32x16 part[4] = {};
        if (s->inside)
            for (int k = 0; k < 4; k++) part[k] = pixel_of(x + s->at[k], lane, lanes) * s->weights[k];
        if (largest) {
            const f32x16 best = larger(larger(part[0], part[1]), larger(part[2], part[3]));
            total = first ? best : larger(total, best);
            first = 0;
        } else {
            total += part[0] + part[1] + part[2] + part[3];
        }
    }
    return total;
}

static void portion(const roi_align_f32_args *a, const sample_t *s, int64_t count, const float *image, f32x16 *totals,
                    int first) {
    const int64_t plane = a->height * a->width, lane = a->blocked ? 0 : plane;
    for (int64_t c = 0; c < a->channels; c += 16, totals++) {
        const int64_t lanes = min_i64(a->channels - c, 16);
        const float *const x = image + c * plane;
        const f32x16 sum = first ? (f32x16){} : *totals;
        if (lane == 0 && a->largest) *totals = add_samples(s, count, x, 0, 16, sum, 1, first);
        else if (lane == 0) *totals = add_samples(s, count, x, 0, 16, sum, 0, first);
        else *totals = add_samples(s, count, x, lane, lanes, sum, (int)a->largest, first);
    }
}

// All channels of one bin, from its samples.
static void pool(const roi_align_f32_args *a, const float *image, const axis_t *vertical, const axis_t *horizontal, int64_t row,
                 int64_t column, f32x16 *totals, sample_t *list) {
    int64_t count = 0;
    int first = 1;
    for (int64_t iy = 0; iy < vertical->samples; iy++) {
        const tap_t v = tap_at(vertical, row, iy);
        for (int64_t ix = 0; ix < horizontal->samples; ix++) {
            list[count++] = sample_of(a, v, tap_at(horizontal, column, ix));
            if (count < SAMPLES) continue;
            portion(a, list, count, image, totals, first);
            count = first = 0;
        }
    }
    if (count || first) portion(a, list, count, image, totals, first);
}

void roi_align_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const roi_align_f32_args *a = args;
    f32x16 *const totals = scratch;
    sample_t *const list = (sample_t *)(totals + blocks_of(a));
    tap_t *const taps = (tap_t *)(list + SAMPLES);
    const int64_t bins = a->rows * a->columns;
    for (int64_t region = lo; region < hi; region++) {
        const float *const r = a->regions_at + 4 * region;
        const int64_t image = a->batch[region], known = image >= 0 && image < a->images && a->height * a->width > 0;
        const axis_t vertical = axis_of(a, r[1], r[3], a->rows, a->height, taps);
        const axis_t horizontal = axis_of(a, r[0], r[2], a->columns, a->width, taps + KNOWN);
        const float scale = a->largest ? 1.0f : (float)max_i64(vertical.samples * horizontal.samples, 1);
        float *const y = a->y + region * a->channels * bins;
        for (int64_t bin = 0; bin < bins; bin++) {
            if (known)
                pool(a, a->x + image * a->x_image, &vertical, &horizontal, bin / a->columns, bin % a->columns, totals, list);
            for (int64_t c = 0; c < a->channels; c += 16) {
                const f32x16 found = known ? totals[c / 16] / scale : (f32x16){};
                for (int64_t lane = 0; lane < min_i64(a->channels - c, 16); lane++) y[(c + lane) * bins + bin] = found[lane];
            }
        }
    }
}
