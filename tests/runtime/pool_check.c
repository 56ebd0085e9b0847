// What test_threads.py runs on the pool: tasks that count themselves, nest, allocate and use scratch.
#include "sardonyx.h"

typedef struct {
    sx_host *host;
    uint8_t *seen;             // one byte per task, 0 before
    int64_t work, inner, scratch_bytes;
    int64_t *errors;
} arguments;

static void inner_task(const void *pointer, int64_t lo, int64_t hi, void *scratch) {
    const arguments *a = pointer;
    (void)scratch;
    for (int64_t t = lo; t < hi; t++) __atomic_fetch_add(a->errors + 1, 1, __ATOMIC_RELAXED);
}

static void task(const void *pointer, int64_t lo, int64_t hi, void *scratch) {
    const arguments *a = pointer;
    int64_t words = a->scratch_bytes / 8;
    if (words && (!scratch || (uintptr_t)scratch % 64)) __atomic_fetch_add(a->errors, 1, __ATOMIC_RELAXED);
    volatile int64_t *own = scratch;
    for (int64_t t = lo; t < hi; t++) {
        for (int64_t i = 0; i < words; i++) own[i] = t;
        for (volatile int64_t i = 0; i < a->work; i++) {}
        if (a->inner) a->host->parallel(a->host, inner_task, a, a->inner, a->scratch_bytes);
        for (int64_t i = 0; i < words; i++) {
            if (own[i] != t) __atomic_fetch_add(a->errors, 1, __ATOMIC_RELAXED);   // somebody else's scratch
        }
        a->seen[t]++;
    }
}

// Runs `repeats` jobs; errors[0] counts what went wrong, errors[1] the nested tasks.
void check(sx_host *host, uint8_t *seen, int64_t tasks, int64_t work, int64_t inner, int64_t scratch_bytes,
           int64_t repeats, int64_t *errors) {
    arguments a = {host, seen, work, inner, scratch_bytes, errors};
    for (int64_t r = 0; r < repeats; r++) {
        host->parallel(host, task, &a, tasks, scratch_bytes);
        for (int64_t t = 0; t < tasks; t++) {
            if (seen[t] != 1) errors[0]++;
            seen[t] = 0;
        }
    }
}

typedef struct {
    int64_t now, peak;
} crowd;

static void crowd_task(const void *pointer, int64_t lo, int64_t hi, void *scratch) {
    crowd *c = (crowd *)pointer;
    (void)scratch;
    int64_t count = __atomic_add_fetch(&c->now, 1, __ATOMIC_SEQ_CST);
    int64_t peak = __atomic_load_n(&c->peak, __ATOMIC_SEQ_CST);
    while (peak < count &&
           !__atomic_compare_exchange_n(&c->peak, &peak, count, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    for (volatile int64_t i = 0; i < (hi - lo) * 300; i++) {}
    __atomic_sub_fetch(&c->now, 1, __ATOMIC_SEQ_CST);
}

// The most threads that were at work at one time, of all callers that share `c`.
int64_t peak(sx_host *host, crowd *c, int64_t tasks, int64_t repeats) {
    for (int64_t r = 0; r < repeats; r++) host->parallel(host, crowd_task, c, tasks, 0);
    return c->peak;
}

static void empty_task(const void *pointer, int64_t lo, int64_t hi, void *scratch) {
    (void)pointer, (void)lo, (void)hi, (void)scratch;
}

static void pause_for(sx_host *host, int64_t nanoseconds) {
    int64_t end = host->clock(host) + nanoseconds;
    while (nanoseconds && host->clock(host) < end) {}
}

// Nanoseconds of each of `repeats` empty jobs, with `gap` nanoseconds of the caller's own work between jobs.
void latency(sx_host *host, int64_t tasks, int64_t gap, int64_t repeats, int64_t *times) {
    for (int64_t r = 0; r < repeats; r++) {
        pause_for(host, gap);
        int64_t begin = host->clock(host);
        host->parallel(host, empty_task, 0, tasks, 0);
        times[r] = host->clock(host) - begin;
    }
}

static void spin_task(const void *pointer, int64_t lo, int64_t hi, void *scratch) {
    const int64_t *iterations = pointer;
    (void)scratch;
    for (int64_t t = lo; t < hi; t++) {
        for (volatile int64_t i = 0; i < *iterations; i++) {}
    }
}

int64_t spin(sx_host *host, int64_t tasks, int64_t iterations, int64_t repeats) {
    int64_t begin = host->clock(host);
    for (int64_t r = 0; r < repeats; r++) host->parallel(host, spin_task, &iterations, tasks, 0);
    return host->clock(host) - begin;
}

// Allocates and releases blocks of varying sizes as a model with changing shapes does; 0 when all were aligned.
int64_t churn(sx_host *host, int64_t blocks, int64_t bytes, int64_t rounds) {
    void *held[64];
    int64_t bad = 0;
    for (int64_t r = 0; r < rounds; r++) {
        for (int64_t i = 0; i < blocks; i++) {
            int64_t size = bytes * (1 + (r * 7 + i * 3) % 11) / 4;
            held[i] = host->allocate(host, size);
            if (!held[i] || (uintptr_t)held[i] % 64) bad++;
            else ((volatile char *)held[i])[size ? size - 1 : 0] = 1;
        }
        for (int64_t i = 0; i < blocks; i++) host->release(host, held[i]);
    }
    return bad;
}

void *take(sx_host *host, int64_t bytes) { return host->allocate(host, bytes); }

int ask(sx_host *host, void *call, int64_t step) { return host->call(host, call, step); }
