// run.h -- what the generated run function is written with.
#ifndef SARDONYX_RUN_H
#define SARDONYX_RUN_H

#include "sardonyx.h"

#define SX_MOST_BYTES 0x1p46  // no single value is larger; sizes beyond have wrapped or come from a hostile model

// Ends the run with an error code at a step.
#define SX_FAIL(number, code)                             \
    do {                                                  \
        error = (code), call->step = (number);            \
        goto fail;                                        \
    } while (0)

// Adds the time since the last tick to a step, when the run is profiled.
#define SX_TICK(number)                                   \
    do {                                                  \
        if (call->ticks) {                                \
            const int64_t now = host->clock(host);        \
            call->ticks[number] += now - last, last = now; \
        }                                                 \
    } while (0)

// `real` is the same size computed in floating point: it says when `bytes` has wrapped.
static inline void *sx_allocate(sx_host *host, int64_t bytes, double real) {
    if (real > SX_MOST_BYTES || bytes < 0) return 0;
    return host->allocate(host, bytes ? bytes : 1);
}

static inline void sx_release(sx_host *host, char **memory) {
    if (*memory) host->release(host, *memory);
    *memory = 0;
}

// Runs tasks on all threads when there are more than `grain` of them.
static inline void sx_parallel(sx_host *host, sx_task task, const void *args, int64_t tasks, int64_t grain) {
    if (tasks <= grain)
        task(args, 0, tasks, 0);
    else
        host->parallel(host, task, args, tasks, 0);
}

// Makes sure that the arena holds `bytes`.
static inline int sx_arena(sx_host *host, sx_call *call, int64_t bytes) {
    if (call->arena && call->arena_bytes >= bytes) return 0;
    if (call->arena) host->release(host, call->arena);
    call->arena_bytes = 0;
    call->arena = host->allocate(host, bytes ? bytes : 1);
    if (!call->arena) return 1;
    call->arena_bytes = bytes;
    return 0;
}

static inline int sx_same(const int64_t *planned, const int64_t *symbols, int64_t n) {
    if (!planned[0]) return 0;
    for (int64_t i = 0; i < n; ++i)
        if (planned[i + 1] != symbols[i]) return 0;
    return 1;
}

static inline void sx_remember(int64_t *planned, const int64_t *symbols, int64_t n) {
    planned[0] = 1;
    for (int64_t i = 0; i < n; ++i) planned[i + 1] = symbols[i];
}

// Copies `bytes` behind the `count` elements in *target, doubling its memory when it is full.
static inline int sx_append(sx_host *host, char **target, int64_t *capacity, int64_t count, const char *element,
                            int64_t bytes) {
    const int64_t needed = (count + 1) * bytes;
    if (!*target || *capacity < needed) {
        char *grown = host->allocate(host, 2 * needed + 64);
        if (!grown) return 0;
        for (int64_t i = 0; i < count * bytes; ++i) grown[i] = (*target)[i];
        sx_release(host, target);
        *target = grown, *capacity = 2 * needed + 64;
    }
    for (int64_t i = 0; i < bytes; ++i) (*target)[count * bytes + i] = element[i];
    return 1;
}

#endif
