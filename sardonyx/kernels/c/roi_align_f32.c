// roi_align_f32.c -- see roi_align_f32.h.
#include "roi_align_f32.h"

#include "elementary.h"
#include "integer.h"

int64_t roi_align_f32_tasks(const roi_align_f32_args *a) { return a->regions; }

int64_t roi_align_f32_scratch(const roi_align_f32_args *a) {
    (void)a;
    return 0;
}

typedef struct {
    int64_t low, high;  // neighbours
    float near, far;    // their weights
    int inside;
} tap_t;

static tap_t tap_at(float place, int64_t size) {
    if (!(place >= -1.0f && place <= (float)size)) return (tap_t){0};
    place = place > 0.0f ? place : 0.0f;
    int64_t low = (int64_t)place;
    if (low >= size - 1) return (tap_t){size - 1, size - 1, 1.0f, 0.0f, size > 0};
    const float far = place - (float)low;
    return (tap_t){low, low + 1, 1.0f - far, far, 1};
}

typedef struct {
    float start, bin;
    int64_t samples;
} span_t;

static span_t span_of(const roi_align_f32_args *a, float from, float to, int64_t bins) {
    const float offset = a->half_pixel ? 0.5f : 0.0f, start = from * a->scale - offset;
    float size = to * a->scale - offset - start;
    if (!a->half_pixel) size = max_f32(size, 1.0f);
    const float bin = size / (float)bins;
    return (span_t){start, bin, a->ratio > 0 ? a->ratio : f32_to_i64(ceil_f32(bin))};
}

static float place_of(span_t s, int64_t bin, int64_t sample) {
    return s.start + (float)bin * s.bin + ((float)sample + 0.5f) * s.bin / (float)s.samples;
}

static float pooled(const roi_align_f32_args *a, const float *x, span_t vertical, span_t horizontal, int64_t row,
                    int64_t column) {
    float total = 0, top = 0;
    int first = 1;
    for (int64_t iy = 0; iy < vertical.samples; ++iy) {
        const tap_t v = tap_at(place_of(vertical, row, iy), a->height);
        for (int64_t ix = 0; ix < horizontal.samples; ++ix) {
            const tap_t h = tap_at(place_of(horizontal, column, ix), a->width);
            float parts[4] = {0};
            if (v.inside && h.inside) {
                const float *low = x + v.low * a->width, *high = x + v.high * a->width;
                parts[0] = v.near * h.near * low[h.low], parts[1] = v.near * h.far * low[h.high];
                parts[2] = v.far * h.near * high[h.low], parts[3] = v.far * h.far * high[h.high];
            }
            total += parts[0] + parts[1] + parts[2] + parts[3];
            const float best = max_f32(max_f32(parts[0], parts[1]), max_f32(parts[2], parts[3]));
            top = first ? best : max_f32(top, best);
            first = 0;
        }
    }
    const int64_t count = max_i64(vertical.samples * horizontal.samples, 1);
    return a->largest ? top : total / (float)count;
}

void roi_align_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    (void)scratch;
    const roi_align_f32_args *a = args;
    const int64_t plane = a->height * a->width, bins = a->rows * a->columns;
    for (int64_t region = lo; region < hi; ++region) {
        const float *r = a->regions_at + 4 * region;
        const int64_t image = a->batch[region], known = image >= 0 && image < a->images && plane > 0;
        const span_t vertical = span_of(a, r[1], r[3], a->rows), horizontal = span_of(a, r[0], r[2], a->columns);
        for (int64_t i = 0; i < a->channels * bins; ++i) {
            const float *x = a->x + (image * a->channels + i / bins) * plane;
            const int64_t row = i % bins / a->columns, column = i % a->columns;
            a->y[region * a->channels * bins + i] = known ? pooled(a, x, vertical, horizontal, row, column) : 0.0f;
        }
    }
}
