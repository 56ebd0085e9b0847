// fft_task.h -- the tasks of fft_f32 and fft_f64: samples into planes, transforms, bins out of them; for REAL.
//
// Sixteen signals are the lanes of one transform where there are that many and they fit the cache. A single signal is its own
// lanes: as a matrix of rows x columns its columns are transformed side by side, turned by w^(row column), transposed, and
// transformed again (Bailey, "FFTs in external or hierarchical memory", 1990). Lengths with large prime factors become a
// convolution with a chirp, of `points` (Bluestein). The inverse is the transform with real and imaginary parts exchanged.
#ifndef SARDONYX_FFT_TASK_H
#define SARDONYX_FFT_TASK_H

#include "fft_steps.h"

#define LANES 16
#define MOST_SIDE_BY_SIDE 2048 // points: 16 lanes of them are 512 KB of floats in both buffers
#define FEWEST_SIDE_BY_SIDE 8  // signals: fewer leave too many lanes empty

SX_INLINE int64_t round_up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// Where number k of a signal lies in a plane: row k / width, column k % width, rows `pitch` apart and columns `step`.
typedef struct { int64_t width, pitch, step; } order;

// A transform of n points as rows x columns; a signal among others is one column of n rows.
typedef struct {
    int64_t n, rows, columns, plane;
    order in, out;
} grid;

// The divisors that leave the fewest lanes empty.
static grid grid_of(int64_t n, int64_t signals) {
    if (n < 1) n = 1; // a bin of nothing is 0
    const order among = {n, LANES, LANES};
    if (signals > 1) return (grid){n, n, 1, n * LANES, among, among};
    int64_t columns = 1, least = INT64_MAX;
    for (int64_t c = 1; c * c <= n; c++) {
        if (n % c) continue;
        const int64_t numbers = n / c * round_up(c) + c * round_up(n / c);
        if (numbers < least) least = numbers, columns = c;
    }
    const int64_t rows = n / columns, first = rows * round_up(columns), second = columns * round_up(rows);
    if (columns == 1) return (grid){n, n, 1, first, among, among};
    const order in = {columns, round_up(columns), 1}, out = {rows, round_up(rows), 1};
    return (grid){n, rows, columns, first > second ? first : second, in, out};
}

static int64_t signal_count(const fft_args *a) { return a->outer * a->frames * a->inner; }

static int64_t side_by_side(const fft_args *a) {
    const int fits = a->points == a->length && a->length <= MOST_SIDE_BY_SIDE;
    return fits && signal_count(a) >= FEWEST_SIDE_BY_SIDE ? LANES : 1;
}

static int64_t task_count(const fft_args *a) {
    const int64_t each = side_by_side(a);
    return (signal_count(a) + each - 1) / each;
}

static int64_t scratch_bytes(const fft_args *a) {
    const int64_t filter = a->points == a->length ? 0 : a->points;
    return (2 * grid_of(a->points, side_by_side(a)).plane + filter) * 2 * (int64_t)sizeof(REAL);
}

// Steps that are numbers to the compiler make loops over registers.
#define KNOWN_STEPS(FUNCTION, first, second, ...)                                         \
    if (first == 1 && second == 1) FUNCTION(__VA_ARGS__, 1, 1);                           \
    else if (first == 1 && second == 2) FUNCTION(__VA_ARGS__, 1, 2);                      \
    else if (first == LANES && second == 1) FUNCTION(__VA_ARGS__, LANES, 1);              \
    else if (first == LANES && second == 2) FUNCTION(__VA_ARGS__, LANES, 2);              \
    else FUNCTION(__VA_ARGS__, first, second);

SX_INLINE void copy_in(REAL *plane, const REAL *x, const REAL *window, int64_t n, int64_t step, int64_t x_step) {
    if (window) for (int64_t k = 0; k < n; k++) plane[k * step] = x[k * x_step] * window[k];
    else for (int64_t k = 0; k < n; k++) plane[k * step] = x[k * x_step];
}

SX_INLINE void copy_out(const REAL *re, const REAL *im, REAL scale, REAL *y, int64_t n, int64_t step, int64_t y_step) {
    for (int64_t k = 0; k < n; k++) {
        const REAL real = re[k * step] * scale, imaginary = im[k * step] * scale;
        y[k * y_step] = real, y[k * y_step + 1] = imaginary;
    }
}

SX_INLINE void copy_real(const REAL *re, REAL scale, REAL *y, int64_t n, int64_t step, int64_t y_step) {
    for (int64_t k = 0; k < n; k++) y[k * y_step] = re[k * step] * scale;
}

// Bins beyond half of the length: conjugates of those before, where these are given.
static void mirror(const fft_args *a, order at, REAL *re, REAL *im) {
    for (int64_t k = a->length / 2 + 1; k < a->length; k++) {
        const int64_t from = a->length - k, to = k / at.width * at.pitch + k % at.width * at.step;
        const int64_t source = from / at.width * at.pitch + from % at.width * at.step;
        re[to] = re[source], im[to] = -im[source];
    }
}

// Samples of one signal into planes that are 0.
static void load(const fft_args *a, int64_t signal, order at, REAL *plane0, REAL *plane1) {
    const int64_t i = signal % a->inner, frame = signal / a->inner % a->frames, outer = signal / a->inner / a->frames;
    const REAL *const x = (const REAL *)a->x + outer * a->x_outer + frame * a->x_frame + i * a->parts;
    REAL *const planes[2] = {a->inverse ? plane1 : plane0, a->inverse ? plane0 : plane1};
    const int64_t used = a->mirrored ? a->length / 2 + 1 : a->length, n = a->given < used ? a->given : used;
    for (int64_t k = 0; k < n; k += at.width) {
        const REAL *const window = a->window ? (const REAL *)a->window + k : 0;
        const int64_t count = n - k < at.width ? n - k : at.width, place = k / at.width * at.pitch;
        for (int64_t part = 0; part < a->parts; part++) {
            KNOWN_STEPS(copy_in, at.step, a->x_step, planes[part] + place, x + k * a->x_step + part, window, count)
        }
    }
    if (a->mirrored) mirror(a, at, planes[0], planes[1]);
}

static void store(const fft_args *a, int64_t signal, order at, const REAL *plane0, const REAL *plane1) {
    const int64_t parts = a->y_parts, step = a->inner * parts, n = a->bins;
    REAL *const y = (REAL *)a->y + signal / a->inner * n * step + signal % a->inner * parts;
    const REAL *const re = a->inverse ? plane1 : plane0, *const im = a->inverse ? plane0 : plane1;
    const REAL scale = a->inverse ? (REAL)1 / (REAL)a->length : 1;
    for (int64_t k = 0; k < n; k += at.width) {
        const int64_t count = n - k < at.width ? n - k : at.width, place = k / at.width * at.pitch;
        if (parts == 2) {
            KNOWN_STEPS(copy_out, at.step, step, re + place, im + place, scale, y + k * step, count)
        } else {
            KNOWN_STEPS(copy_real, at.step, step, re + place, scale, y + k * step, count)
        }
    }
}

// y[column][row] = w^(row column) x[row][column]; what is left of rows of y is 0.
static void turn_over(const factor *turn, const grid *g, const REAL *x, REAL *y) {
    const int64_t from = g->in.pitch, to = g->out.pitch;
    for (int64_t column = 0; column < g->columns; column++) {
        for (int64_t row = 0; row < g->rows; row++) {
            const factor w = turn[row * column];
            const REAL re = x[row * from + column], im = x[row * from + column + g->plane];
            y[column * to + row] = re * w.re - im * w.im;
            y[column * to + row + g->plane] = re * w.im + im * w.re;
        }
        for (int64_t row = g->rows; row < to; row++) y[column * to + row] = y[column * to + row + g->plane] = 0;
    }
}

// Transforms the points in x. Returns where the result is: x or y, which both are lost.
static REAL *spectrum(const factor *turn, const grid *g, REAL *x, REAL *y) {
    REAL *const done = transform(turn, g->n, g->rows, g->in.pitch, g->plane, x, y);
    if (g->columns == 1) return done;
    REAL *const spare = done == x ? y : x;
    turn_over(turn, g, done, spare);
    return transform(turn, g->n, g->columns, g->out.pitch, g->plane, spare, done);
}

// x[k] times factors[k], for n numbers without gaps.
static void times(REAL *x, int64_t plane, const factor *factors, int64_t n) {
    for (int64_t k = 0; k < n; k++) {
        const REAL re = x[k], im = x[k + plane], c = factors[k].re, s = factors[k].im;
        x[k] = re * c - im * s, x[k + plane] = re * s + im * c;
    }
}

// The spectrum of conj(chirp) around 0, divided by points.
static void make_filter(const fft_args *a, const grid *g, REAL *filter, REAL *x, REAL *y) {
    const factor *const chirp = a->chirp;
    const REAL scale = (REAL)1 / (REAL)a->points;
    __builtin_memset(x, 0, (size_t)g->plane * 2 * sizeof(REAL));
    for (int64_t k = 0; k < a->length; k++) {
        const int64_t mirror = k ? a->points - k : 0;
        x[k] = x[mirror] = chirp[k].re * scale;
        x[k + g->plane] = x[mirror + g->plane] = -chirp[k].im * scale;
    }
    __builtin_memcpy(filter, spectrum(a->turn, g, x, y), (size_t)g->plane * 2 * sizeof(REAL));
}

// A signal in x, times the chirp, convolved with the filter, times the chirp.
static REAL *convolve(const fft_args *a, const grid *g, const REAL *filter, REAL *x, REAL *y) {
    const int64_t plane = g->plane;
    times(x, plane, a->chirp, a->length);
    REAL *const middle = spectrum(a->turn, g, x, y);
    for (int64_t k = 0; k < plane; k++) { // parts exchanged, so that what follows is the inverse
        const REAL re = middle[k], im = middle[k + plane], c = filter[k], s = filter[k + plane];
        middle[k] = re * s + im * c, middle[k + plane] = re * c - im * s;
    }
    REAL *const done = spectrum(a->turn, g, middle, middle == x ? y : x);
    for (int64_t k = 0; k < a->length; k++) {
        const REAL re = done[k];
        done[k] = done[k + plane], done[k + plane] = re;
    }
    times(done, plane, a->chirp, a->length);
    return done;
}

static void run_tasks(const fft_args *a, int64_t lo, int64_t hi, REAL *scratch) {
    const int64_t each = side_by_side(a), signals = signal_count(a);
    const grid g = grid_of(a->points, each);
    REAL *const x = scratch, *const y = x + 2 * g.plane, *const filter = y + 2 * g.plane;
    const int convolved = a->points != a->length;
    if (convolved) make_filter(a, &g, filter, x, y);
    const order whole = {a->points, 0, 1}, in = convolved ? whole : g.in, out = convolved ? whole : g.out;
    for (int64_t task = lo; task < hi; task++) {
        const int64_t first = task * each, count = signals - first < each ? signals - first : each;
        __builtin_memset(x, 0, (size_t)g.plane * 2 * sizeof(REAL));
        for (int64_t i = 0; i < count; i++) load(a, first + i, in, x + i, x + i + g.plane);
        const REAL *const done = convolved ? convolve(a, &g, filter, x, y) : spectrum(a->turn, &g, x, y);
        for (int64_t i = 0; i < count; i++) store(a, first + i, out, done + i, done + i + g.plane);
    }
}

#endif
