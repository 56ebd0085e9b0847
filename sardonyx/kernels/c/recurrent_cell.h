// recurrent_cell.h -- LSTM, GRU and RNN cells over time, for the element type REAL.
//
//   task    one direction of some batch elements, all steps
//   step    gates[row][gate] = projected + h R' (one product for all gates), then the cell, 16 lanes at a time
//
// Includers define REAL, NAME_ARGS, OF(function) (its name for REAL), ROWS (a direction is worth as many tasks as it has
// parts of ROWS * directions batch elements) and below `multiply`, the product of a step. No bit depends on threads or tiles.
#include "elementary.h"

typedef NAME_ARGS args_t;

SX_INLINE int64_t whole_lanes(int64_t n) { return (n + 15) / 16 * 16; }
SX_INLINE int64_t gate_count(const args_t *a) { return (int64_t[]){1, 3, 4}[a->cell]; }

static int64_t slices(const args_t *a) {
    const int64_t n = a->batch / (ROWS * a->directions);
    return n < 1 ? 1 : n > 16 ? 16 : n;
}

static int64_t slice_rows(const args_t *a) { return (a->batch + slices(a) - 1) / slices(a); }

// ---- activations ----------------------------------------------------------------------------------------------------

enum { RELU, TANH, SIGMOID, AFFINE, LEAKY_RELU, THRESHOLDED_RELU, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN, SOFTPLUS };

#define EACH(expression)                                                                                               \
    for (int64_t j = 0; j < n; j++) {                                                                                  \
        const REAL v = x[j];                                                                                           \
        x[j] = (expression);                                                                                           \
    }                                                                                                                  \
    break

static void activate(REAL *x, int64_t n, const REAL *function, REAL clip) {
    const REAL alpha = function[1], beta = function[2];
    if (clip < (REAL)__builtin_inff())
        for (int64_t j = 0; j < n; j++) x[j] = OF(min)(OF(max)(x[j], -clip), clip);
    switch ((int)function[0]) {
    case RELU: EACH(OF(max)(v, 0));
    case TANH: EACH(OF(tanh)(v));
    case SIGMOID: EACH(OF(sigmoid)(v));
    case AFFINE: EACH(alpha * v + beta);
    case LEAKY_RELU: EACH(v < 0 ? alpha * v : v);
    case THRESHOLDED_RELU: EACH(v < alpha ? 0 : v);
    case SCALED_TANH: EACH(alpha * OF(tanh)(beta * v));
    case HARD_SIGMOID: EACH(OF(max)(OF(min)(alpha * v + beta, 1), 0));
    case ELU: EACH(v < 0 ? alpha * OF(expm1)(v) : v);
    case SOFTSIGN: EACH(v / (1 + OF(fabs)(v)));
    case SOFTPLUS: EACH(OF(softplus)(v));
    }
}

// ---- cells: one batch element, `n` lanes; `gates` holds what goes into the activations -----------------------------

static void rnn_cell(const args_t *a, const REAL *functions, REAL *restrict gates, REAL *restrict h, int64_t n) {
    activate(gates, n, functions, a->clip);
    for (int64_t j = 0; j < n; j++) h[j] = gates[j];
}

static void lstm_cell(const args_t *a, const REAL *functions, const REAL *p, REAL *restrict gates, REAL *restrict h,
                      REAL *restrict c, int64_t n) {
    REAL *const i = gates, *const o = gates + n, *const f = gates + 2 * n, *const g = gates + 3 * n;
    for (int64_t j = 0; p && j < n; j++) {
        i[j] = OF(fma1)(p[j], c[j], i[j]);
        f[j] = OF(fma1)(p[2 * n + j], c[j], f[j]);
    }
    activate(i, n, functions, a->clip);
    if (a->input_forget)
        for (int64_t j = 0; j < n; j++) f[j] = 1 - i[j];
    else
        activate(f, n, functions, a->clip);
    activate(g, n, functions + 3, a->clip);
    for (int64_t j = 0; j < n; j++) c[j] = OF(fma1)(f[j], c[j], i[j] * g[j]);
    for (int64_t j = 0; p && j < n; j++) o[j] = OF(fma1)(p[n + j], c[j], o[j]);
    activate(o, n, functions, a->clip);
    for (int64_t j = 0; j < n; j++) h[j] = c[j];
    activate(h, n, functions + 6, a->clip);
    for (int64_t j = 0; j < n; j++) h[j] *= o[j];
}

// The gates z and r; with linear_before_reset also what goes into the hidden one, whose projection is at `x`. Otherwise
// r * h is left in the place of r, for a second product.
static void gru_gates(const args_t *a, const REAL *functions, REAL *restrict gates, const REAL *restrict x,
                      const REAL *restrict h, int64_t n) {
    REAL *const r = gates + n, *const g = gates + 2 * n;
    activate(gates, 2 * n, functions, a->clip);
    for (int64_t j = 0; j < n; j++) {
        if (a->linear_before_reset)
            g[j] = OF(fma1)(r[j], g[j], x[2 * n + j]);
        else
            r[j] *= h[j];
    }
}

static void gru_cell(const args_t *a, const REAL *functions, REAL *restrict gates, REAL *restrict h, int64_t n) {
    REAL *const z = gates, *const g = gates + 2 * n;
    activate(g, n, functions + 3, a->clip);
    for (int64_t j = 0; j < n; j++) h[j] = OF(fma1)(z[j], h[j], (1 - z[j]) * g[j]);
}

// ---- steps ----------------------------------------------------------------------------------------------------------

typedef struct {
    const args_t *a;
    int64_t direction, first, rows; // batch elements first .. first + rows
    int64_t n, gates;               // lanes, and floats of all gates
    int64_t step;
    REAL *h, *c, *g;                // state and gates: [rows][n], [rows][n], [rows][gates]
    void *beside;                   // the rest of the scratch
} task_t;

// Adds h[row] (`h_row` apart) times `count` panels of R' from `first` on to c[row] (`gates` apart), for each row.
static void multiply(const task_t *t, const REAL *h, int64_t h_row, int64_t first, int64_t count, REAL *c);

SX_INLINE int64_t length_of(const args_t *a, int64_t b) {
    if (!a->lengths) return a->time;
    const int64_t n = a->lengths[b];
    return n < 0 ? 0 : n > a->time ? a->time : n;
}

// The input that row `i` takes at this step, or NULL when its sequence is over.
static const REAL *input_of(const task_t *t, int64_t i, int64_t *time) {
    const args_t *const a = t->a;
    const int64_t b = t->first + i, length = length_of(a, b), step = t->step;
    *time = step < length && (a->backwards >> t->direction & 1) ? length - 1 - step : step;
    if (step >= length) return 0;
    return a->projected + *time * a->projected_time + b * a->projected_batch + t->direction * a->projected_direction;
}

static void load_gates(const task_t *t) {
    const args_t *const a = t->a;
    const REAL *const rest = a->rest ? a->rest + t->direction * t->n : 0;
    for (int64_t i = 0; i < t->rows; i++) {
        REAL *const gates = t->g + i * t->gates;
        int64_t time;
        const REAL *const x = input_of(t, i, &time);
        for (int64_t j = 0; j < t->gates; j++) gates[j] = x ? x[j] : 0;
        for (int64_t j = 0; rest && j < t->n; j++) gates[2 * t->n + j] = rest[j];
    }
}

static void store_row(const task_t *t, int64_t i, int64_t time, const REAL *h) {
    const args_t *const a = t->a;
    if (!a->y) return;
    REAL *const y = a->y + time * a->y_time + (t->first + i) * a->y_batch + t->direction * a->y_direction;
    for (int64_t j = 0; j < a->hidden; j++) y[j] = h ? h[j] : 0;
}

static void run_step(const task_t *t) {
    const args_t *const a = t->a;
    const int64_t n = t->n;
    const REAL *const functions = a->functions + 9 * t->direction;
    const REAL *const peephole = a->peephole ? a->peephole + 3 * n * t->direction : 0;
    const int twice = a->cell == RECURRENT_GRU && !a->linear_before_reset;
    const int64_t at_once = (twice ? 2 * n : t->gates) / 16;
    int64_t time;
    load_gates(t);
    multiply(t, t->h, n, 0, at_once, t->g);
    for (int64_t i = 0; a->cell == RECURRENT_GRU && i < t->rows; i++) {
        const REAL *const x = input_of(t, i, &time);
        if (x) gru_gates(a, functions, t->g + i * t->gates, x, t->h + i * n, n);
    }
    if (twice) multiply(t, t->g + n, t->gates, at_once, n / 16, t->g + 2 * n);
    for (int64_t i = 0; i < t->rows; i++) {
        REAL *const h = t->h + i * n, *const gates = t->g + i * t->gates;
        const int runs = input_of(t, i, &time) != 0;
        if (runs && a->cell == RECURRENT_LSTM) lstm_cell(a, functions, peephole, gates, h, t->c + i * n, n);
        if (runs && a->cell == RECURRENT_GRU) gru_cell(a, functions, gates, h, n);
        if (runs && a->cell == RECURRENT_RNN) rnn_cell(a, functions, gates, h, n);
        store_row(t, i, time, runs ? h : 0);
    }
}

static void move_states(const task_t *t, int end) {
    const args_t *const a = t->a;
    for (int64_t i = 0; i < t->rows; i++) {
        const int64_t at = (t->first + i) * a->state_batch + t->direction * a->state_direction;
        for (int64_t j = 0; j < (end ? a->hidden : t->n); j++) {
            REAL *const h = t->h + i * t->n + j, *const c = t->c + i * t->n + j;
            if (!end) {
                *h = a->h0 && j < a->hidden ? a->h0[at + j] : 0;
                *c = a->c0 && j < a->hidden ? a->c0[at + j] : 0;
                continue;
            }
            if (a->y_last) a->y_last[at + j] = *h;
            if (a->c_last) a->c_last[at + j] = *c;
        }
    }
}

// ---- tasks ----------------------------------------------------------------------------------------------------------

SX_INLINE int64_t task_count(const args_t *a) { return a->batch ? a->directions * slices(a) : 0; }

SX_INLINE int64_t scratch_bytes(const args_t *a) {
    return slice_rows(a) * (2 + gate_count(a)) * whole_lanes(a->hidden) * (int64_t)sizeof(REAL);
}

static void run_tasks(const args_t *a, int64_t lo, int64_t hi, REAL *scratch) {
    const int64_t parts = slices(a), n = whole_lanes(a->hidden);
    for (int64_t i = lo; i < hi; i++) {
        const int64_t part = i % parts, first = a->batch * part / parts, rows = a->batch * (part + 1) / parts - first;
        task_t t = {.a = a, .direction = i / parts, .first = first, .rows = rows, .n = n, .gates = n * gate_count(a)};
        t.h = scratch;
        t.c = t.h + rows * n;
        t.g = t.c + rows * n;
        t.beside = t.g + rows * t.gates;
        move_states(&t, 0);
        for (t.step = 0; t.step < a->time; t.step++) run_step(&t);
        move_states(&t, 1);
    }
}
