// roi_align_f32.c -- see roi_align_f32.h. A task is a region.
//
// Where samples lie along each axis is computed once a region. Sixteen channels are lanes: registers of NCHW16c, or single loads
// of NCHW. All bins of a block of channels come before the next block, so that what is under the region stays in L1.
#include "roi_align_f32.h"

#include "elementary.h"
#include "integer.h"

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

int64_t roi_align_f32_tasks(const roi_align_f32_args *a) { return a->regions; }

int64_t roi_align_f32_scratch(const roi_align_f32_args *a) {
    (void)a;
    return 2 * KNOWN * (int64_t)sizeof(tap_t);
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

SX_INLINE f32x16 larger(f32x16 x, f32x16 y) { return select16((y != y) | (y > x), y, x); }

// One pixel of `lanes` channels, `lane` apart; 0: a whole block.
SX_INLINE f32x16 pixel_of(const float *x, int64_t lane, int64_t lanes) {
    if (lane == 0) return load16(x);
    f32x16 found = {};
    if (lanes == 16) for (int i = 0; i < 16; i++) found[i] = x[i * lane];
    else for (int64_t i = 0; i < lanes; i++) found[i] = x[i * lane];
    return found;
}

// The four pixels around a sample, weighed; 0 outside.
SX_INLINE void parts_of(const float *x, int64_t width, int64_t lane, int64_t lanes, tap_t v, tap_t h, f32x16 part[4]) {
    for (int k = 0; k < 4; k++) part[k] = (f32x16){};
    if (!v.inside || !h.inside) return;
    const int64_t pixel = lane == 0 ? 16 : 1;
    const float *const low = x + v.low * width * pixel, *const high = x + v.high * width * pixel;
    part[0] = pixel_of(low + h.low * pixel, lane, lanes) * (v.near * h.near);
    part[1] = pixel_of(low + h.high * pixel, lane, lanes) * (v.near * h.far);
    part[2] = pixel_of(high + h.low * pixel, lane, lanes) * (v.far * h.near);
    part[3] = pixel_of(high + h.high * pixel, lane, lanes) * (v.far * h.far);
}

// The sum, or the maximum, of the samples of one bin.
SX_INLINE f32x16 pooled(const float *x, const axis_t *vertical, const axis_t *horizontal, int64_t row, int64_t column,
                        int64_t lane, int64_t lanes, const int largest) {
    f32x16 total = {};
    int first = 1;
    for (int64_t iy = 0; iy < vertical->samples; iy++) {
        const tap_t v = tap_at(vertical, row, iy);
        for (int64_t ix = 0; ix < horizontal->samples; ix++) {
            f32x16 part[4];
            parts_of(x, horizontal->size, lane, lanes, v, tap_at(horizontal, column, ix), part);
            if (largest) {
                const f32x16 best = larger(larger(part[0], part[1]), larger(part[2], part[3]));
                total = first ? best : larger(total, best);
                first = 0;
            } else {
                total += part[0] + part[1] + part[2] + part[3];
            }
        }
    }
    return total;
}

// All bins of up to 16 channels at x; `lane` is 0 for a block.
SX_INLINE void pool(const roi_align_f32_args *a, const float *x, float *y, const axis_t *vertical, const axis_t *horizontal,
                    int64_t lane, int64_t lanes, const int largest) {
    const int64_t bins = a->rows * a->columns;
    const float count = largest ? 1.0f : (float)max_i64(vertical->samples * horizontal->samples, 1);
    for (int64_t row = 0; row < a->rows; row++)
        for (int64_t column = 0; column < a->columns; column++, y++) {
            const f32x16 found = pooled(x, vertical, horizontal, row, column, lane, lanes, largest) / count;
            // A loop of unknown length takes lanes from memory one by one: 0.52 ms instead of 0.25 for 50 regions of 64 channels.
            if (lanes == 16) for (int c = 0; c < 16; c++) y[c * bins] = found[c];
            else for (int64_t c = 0; c < lanes; c++) y[c * bins] = found[c];
        }
}

void roi_align_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const roi_align_f32_args *a = args;
    tap_t *const taps = scratch;
    const int64_t plane = a->height * a->width, bins = a->rows * a->columns;
    for (int64_t region = lo; region < hi; region++) {
        const float *const r = a->regions_at + 4 * region;
        float *const y = a->y + region * a->channels * bins;
        const int64_t image = a->batch[region];
        if (image < 0 || image >= a->images || plane == 0) {
            for (int64_t i = 0; i < a->channels * bins; i++) y[i] = 0.0f;
            continue;
        }
        const axis_t vertical = axis_of(a, r[1], r[3], a->rows, a->height, taps);
        const axis_t horizontal = axis_of(a, r[0], r[2], a->columns, a->width, taps + KNOWN);
        for (int64_t c = 0; c < a->channels; c += 16) {
            const float *const x = a->x + image * a->x_image + c * plane;
            const int64_t lanes = min_i64(a->channels - c, 16);
            if (a->blocked && a->largest) pool(a, x, y + c * bins, &vertical, &horizontal, 0, lanes, 1);
            else if (a->blocked) pool(a, x, y + c * bins, &vertical, &horizontal, 0, lanes, 0);
            else pool(a, x, y + c * bins, &vertical, &horizontal, plane, lanes, (int)a->largest);
        }
    }
}
