// max_roi_pool_f32.c -- see max_roi_pool_f32.h.
#include "max_roi_pool_f32.h"

#include "elementary.h"
#include "integer.h"

int64_t max_roi_pool_f32_tasks(const max_roi_pool_f32_args *a) { return a->regions; }

int64_t max_roi_pool_f32_scratch(const max_roi_pool_f32_args *a) {
    (void)a;
    return 0;
}

typedef struct {
    int64_t start, size;
} span_t;

// Halves are rounded away from zero.
static int64_t pixel(float x) {
    const float away = floor_f32(fabs_f32(x) + 0.5f);
    return max_i64(min_i64(f32_to_i64(copysign_f32(away, x)), INT64_C(1) << 40), -(INT64_C(1) << 40));
}

static span_t span_of(float from, float to) {
    const int64_t start = pixel(from);
    return (span_t){start, max_i64(pixel(to) - start + 1, 1)};
}

// Pixels of bin number `bin` of `bins`, clipped to the image.
static span_t bin_of(span_t s, int64_t bin, int64_t bins, int64_t limit) {
    const float size = (float)s.size / (float)bins;
    const int64_t low = f32_to_i64(floor_f32((float)bin * size)), high = f32_to_i64(ceil_f32((float)(bin + 1) * size));
    const int64_t from = min_i64(max_i64(low + s.start, 0), limit), to = min_i64(max_i64(high + s.start, 0), limit);
    return (span_t){from, to - from};
}

static float top_of(const float *x, int64_t width, span_t rows, span_t columns) {
    if (rows.size <= 0 || columns.size <= 0) return 0.0f;
    float top = -__builtin_inff();
    for (int64_t h = rows.start; h < rows.start + rows.size; ++h)
        for (int64_t w = columns.start; w < columns.start + columns.size; ++w) top = max_f32(top, x[h * width + w]);
    return top;
}

void max_roi_pool_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    (void)scratch;
    const max_roi_pool_f32_args *a = args;
    const int64_t bins = a->rows * a->columns;
    for (int64_t region = lo; region < hi; ++region) {
        const float *r = a->regions_at + 5 * region;
        const int64_t image = f32_to_i64(r[0]), known = image >= 0 && image < a->images;
        const span_t across = span_of(r[1] * a->scale, r[3] * a->scale), down = span_of(r[2] * a->scale, r[4] * a->scale);
        for (int64_t i = 0; i < a->channels * bins; ++i) {
            const float *x = a->x + (image * a->channels + i / bins) * a->height * a->width;
            const span_t rows = bin_of(down, i % bins / a->columns, a->rows, a->height);
            const span_t columns = bin_of(across, i % a->columns, a->columns, a->width);
            a->y[region * a->channels * bins + i] = known ? top_of(x, a->width, rows, columns) : 0.0f;
        }
    }
}
