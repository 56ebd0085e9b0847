// fft_task.h -- the tasks of fft_f32 and fft_f64: samples into planes, transforms, bins out of them; for REAL.
//
// Sixteen signals are the lanes of one transform where there are that many and they fit the cache. A single signal is its own
// lanes: as a matrix of rows x columns its columns are transformed side by side, turned by w^(row column), transposed, and
// transformed again (Bailey, "FFTs in external or hierarchical memory", 1990). Lengths with large prime factors become a
// convolution with a chirp, of `points` (Bluestein). The inverse is the transform with real and imaginary parts exchanged.
//
// Real signals of even length are transformed as half as many complex numbers, and the spectra of even and odd samples told
// apart afterwards. That is half of the work, and bin 0 and that in the middle are real to the last bit.
#ifndef SARDONYX_FFT_TASK_H
#define SARDONYX_FFT_TASK_H

#include "fft_steps.h"

#define LANES 16
#define MOST_SIDE_BY_SIDE 384 // points: 48 KB of floats a buffer; 256 take 0.7 of the time of one by one, 512 1.6
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
    const int fits = a->points == a->size && a->size <= MOST_SIDE_BY_SIDE;
    return fits && signal_count(a) >= FEWEST_SIDE_BY_SIDE ? LANES : 1;
}

static int64_t task_count(const fft_args *a) {
    const int64_t each = side_by_side(a);
    return (signal_count(a) + each - 1) / each;
}

static int64_t scratch_bytes(const fft_args *a) {
    const int64_t filter = a->points == a->size ? 0 : a->points;
    return (2 * grid_of(a->points, side_by_side(a)).plane + filter) * 2 * (int64_t)sizeof(REAL);
}

// Steps that are numbers to the compiler make loops over registers.
#define KNOWN_STEPS(FUNCTION, first, second, ...)                                         \
    if (first == 1 && second == 1) FUNCTION(__VA_ARGS__, 1, 1);                           \
    else if (first == 1 && second == 2) FUNCTION(__VA_ARGS__, 1, 2);                      \
    else if (first == LANES && second == 1) FUNCTION(__VA_ARGS__, LANES, 1);              \
    else if (first == LANES && second == 2) FUNCTION(__VA_ARGS__, LANES, 2);              \
    else FUNCTION(__VA_ARGS__, first, second);

SX_INLINE void copy_in(REAL *plane, const REAL *x, const REAL *window, const int w_step, int64_t n, int64_t step,
                       int64_t x_step) {
    if (window) for (int64_t k = 0; k < n; k++) plane[k * step] = x[k * x_step] * window[k * w_step];
    else for (int64_t k = 0; k < n; k++) plane[k * step] = x[k * x_step];
}

SX_INLINE void copy_out(const REAL *re, const REAL *im, REAL scale, REAL sign, REAL *y, int64_t n, int64_t step, int64_t y_step) {
    for (int64_t k = 0; k < n; k++) {
        const REAL real = re[k * step] * scale, imaginary = im[k * step] * (scale * sign);
        y[k * y_step] = real, y[k * y_step + 1] = imaginary;
    }
}

SX_INLINE void copy_real(const REAL *re, REAL scale, REAL *y, int64_t n, int64_t step, int64_t y_step) {
    for (int64_t k = 0; k < n; k++) y[k * y_step] = re[k * step] * scale;
}

SX_INLINE int64_t place_of(order at, int64_t k) { return k / at.width * at.pitch + k % at.width * at.step; }

// Bins beyond half of the length: conjugates of those before, where these are given.
static void mirror(const fft_args *a, order at, REAL *re, REAL *im) {
    for (int64_t k = a->length / 2 + 1; k < a->length; k++) {
        const int64_t to = place_of(at, k), source = place_of(at, a->length - k);
        re[to] = re[source], im[to] = -im[source];
    }
}

static int is_packed(const fft_args *a) { return a->size != a->length; }
static int is_exchanged(const fft_args *a) { return a->inverse && !is_packed(a); }

// Samples of one signal into planes that are 0: parts of complex ones, or even and odd real ones.
static void load(const fft_args *a, int64_t signal, order at, REAL *plane0, REAL *plane1) {
    const int64_t i = signal % a->inner, frame = signal / a->inner % a->frames, outer = signal / a->inner / a->frames;
    const REAL *const x = (const REAL *)a->x + outer * a->x_outer + frame * a->x_frame + i * a->parts;
    REAL *const planes[2] = {is_exchanged(a) ? plane1 : plane0, is_exchanged(a) ? plane0 : plane1};
    const int64_t used = a->mirrored ? a->length / 2 + 1 : a->length, n = a->given < used ? a->given : used;
    const int64_t each = is_packed(a) ? 2 : 1, parts = is_packed(a) ? 2 : a->parts, x_step = each * a->x_step;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t total = is_packed(a) ? (n + 1 - part) / 2 : n;
        const REAL *const from = x + (is_packed(a) ? part * a->x_step : part);
        for (int64_t k = 0; k < total; k += at.width) {
            const REAL *const window = a->window ? (const REAL *)a->window + (is_packed(a) ? 2 * k + part : k) : 0;
            const int64_t count = total - k < at.width ? total - k : at.width;
            REAL *const to = planes[part] + k / at.width * at.pitch;
            if (is_packed(a)) {
                KNOWN_STEPS(copy_in, at.step, x_step, to, from + k * x_step, window, 2, count)
            } else {
                KNOWN_STEPS(copy_in, at.step, x_step, to, from + k * x_step, window, 1, count)
            }
        }
    }
    if (a->mirrored) mirror(a, at, planes[0], planes[1]);
}

// Bins k and size - k of a real signal, at p and q, from the transform of its even samples e and odd ones o, e + i o:
// e + w o and conj(e - w o).
#define UNPACK(T, re, im, p, q, w)                                                                             \
    {                                                                                                          \
        const T a_re = *(const T *)(re + p), a_im = *(const T *)(im + p);                                      \
        const T b_re = *(const T *)(re + q), b_im = *(const T *)(im + q);                                      \
        const T e_re = (a_re + b_re) * (REAL)0.5, e_im = (a_im - b_im) * (REAL)0.5;                            \
        const T o_re = (a_im + b_im) * (REAL)0.5, o_im = (b_re - a_re) * (REAL)0.5;                            \
        const T t_re = o_re * w.re - o_im * w.im, t_im = o_re * w.im + o_im * w.re;                            \
        *(T *)(re + q) = e_re - t_re, *(T *)(im + q) = t_im - e_im;                                            \
        *(T *)(re + p) = e_re + t_re, *(T *)(im + p) = e_im + t_im;                                            \
    }

// The bins of real signals, in place: 1 .. size - 1, and of bin 0 and bin `size`, which are real, one in each plane.
static void unpack(const fft_args *a, order at, REAL *re, REAL *im, int64_t lanes) {
    const factor *const turn = a->unpack;
    for (int64_t lane = 0; lane < lanes; lane++) {
        const REAL sum = re[lane] + im[lane], difference = re[lane] - im[lane];
        re[lane] = sum, im[lane] = difference;
    }
    for (int64_t k = 1; 2 * k <= a->size; k++) {
        const int64_t p = place_of(at, k), q = place_of(at, a->size - k);
        if (lanes == 1) UNPACK(REAL, re, im, p, q, turn[k])
        else for (int64_t lane = 0; lane < lanes; lane += WIDTH) UNPACK(vr, re, im, p + lane, q + lane, turn[k])
    }
}

// Bins of a real signal that its half transform does not hold as such.
static void store_packed(const fft_args *a, REAL zero, REAL middle, REAL *y, int64_t step) {
    if (a->bins) y[0] = zero, y[1] = 0;
    if (a->bins > a->size) y[a->size * step] = middle, y[a->size * step + 1] = 0;
    for (int64_t k = a->size + 1; k < a->bins; k++) {
        const REAL *const from = y + (a->length - k) * step;
        y[k * step] = from[0], y[k * step + 1] = -from[1];
    }
}

static void store(const fft_args *a, int64_t signal, order at, const REAL *plane0, const REAL *plane1) {
    const int64_t parts = a->y_parts, step = a->inner * parts, n = is_packed(a) && a->bins > a->size ? a->size : a->bins;
    REAL *const y = (REAL *)a->y + signal / a->inner * a->bins * step + signal % a->inner * parts;
    const REAL *const re = is_exchanged(a) ? plane1 : plane0, *const im = is_exchanged(a) ? plane0 : plane1;
    const REAL scale = a->inverse ? (REAL)1 / (REAL)a->length : 1, sign = a->inverse && is_packed(a) ? -1 : 1;
    for (int64_t k = 0; k < n; k += at.width) {
        const int64_t count = n - k < at.width ? n - k : at.width, place = k / at.width * at.pitch;
        if (parts == 2) {
            KNOWN_STEPS(copy_out, at.step, step, re + place, im + place, scale, sign, y + k * step, count)
        } else {
            KNOWN_STEPS(copy_real, at.step, step, re + place, scale, y + k * step, count)
        }
    }
    if (is_packed(a)) store_packed(a, re[0] * scale, im[0] * scale, y, step);
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
    for (int64_t k = 0; k < a->size; k++) {
        const int64_t mirror = k ? a->points - k : 0;
        x[k] = x[mirror] = chirp[k].re * scale;
        x[k + g->plane] = x[mirror + g->plane] = -chirp[k].im * scale;
    }
    __builtin_memcpy(filter, spectrum(a->turn, g, x, y), (size_t)g->plane * 2 * sizeof(REAL));
}

// A signal in x, times the chirp, convolved with the filter, times the chirp.
static REAL *convolve(const fft_args *a, const grid *g, const REAL *filter, REAL *x, REAL *y) {
    const int64_t plane = g->plane;
    times(x, plane, a->chirp, a->size);
    REAL *const middle = spectrum(a->turn, g, x, y);
    for (int64_t k = 0; k < plane; k++) { // parts exchanged, so that what follows is the inverse
        const REAL re = middle[k], im = middle[k + plane], c = filter[k], s = filter[k + plane];
        middle[k] = re * s + im * c, middle[k + plane] = re * c - im * s;
    }
    REAL *const done = spectrum(a->turn, g, middle, middle == x ? y : x);
    for (int64_t k = 0; k < a->size; k++) {
        const REAL re = done[k];
        done[k] = done[k + plane], done[k + plane] = re;
    }
    times(done, plane, a->chirp, a->size);
    return done;
}

static void run_tasks(const fft_args *a, int64_t lo, int64_t hi, REAL *scratch) {
    const int64_t each = side_by_side(a), signals = signal_count(a);
    const grid g = grid_of(a->points, each);
    REAL *const x = scratch, *const y = x + 2 * g.plane, *const filter = y + 2 * g.plane;
    const int convolved = a->points != a->size;
    if (convolved) make_filter(a, &g, filter, x, y);
    const order whole = {a->points, 0, 1}, in = convolved ? whole : g.in, out = convolved ? whole : g.out;
    for (int64_t task = lo; task < hi; task++) {
        const int64_t first = task * each, count = signals - first < each ? signals - first : each;
        __builtin_memset(x, 0, (size_t)g.plane * 2 * sizeof(REAL));
        for (int64_t i = 0; i < count; i++) load(a, first + i, in, x + i, x + i + g.plane);
        REAL *const done = convolved ? convolve(a, &g, filter, x, y) : spectrum(a->turn, &g, x, y);
        if (is_packed(a)) unpack(a, out, done, done + g.plane, each);
        for (int64_t i = 0; i < count; i++) store(a, first + i, out, done + i, done + i + g.plane);
    }
}

#endif
