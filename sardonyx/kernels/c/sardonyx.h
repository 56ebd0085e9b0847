// sardonyx.h -- the one interface between generated programs, kernels and whoever hosts them.
//
// Generated libraries are freestanding: they call nothing from libc. What they need from outside (threads,
// memory, a clock, operators without native code) comes in as the function pointers of `sx_host`.
//
// A library for a target with matrix tiles (AMX) may run only where the host has asked Linux for their registers,
// arch_prctl(ARCH_REQ_XCOMP_PERM = 0x1023, 18), and got them: without, the first such instruction is a fault.
// A Session of Python asks before it loads anything, and refuses the library where Linux does.
#ifndef SARDONYX_H
#define SARDONYX_H

#include <stddef.h>
#include <stdint.h>

// A unit of parallel work: does the tasks lo <= t < hi of `args`. Tasks of one call may run in any order and on any
// thread, so each writes its own part of the output and nothing else. `scratch` is the running thread's own
// memory, 64-byte aligned, at least as large as the call asked for, with undefined contents.
typedef void (*sx_task)(const void *args, int64_t lo, int64_t hi, void *scratch);

// What follows a kernel on the part of its output that is still in cache. The output is seen in four dimensions
// (i0, i1, i2, i3); the call covers one i0, one i1 and the box lo2 <= i2 < hi2, lo3 <= i3 < hi3.
//   matmul:  i0 = batch0, i1 = batch1, i2 = row, i3 = column
//   NCHW16c: i0 = image, i1 = channel block, i2 = oh * OW + ow, i3 = lane (0..15)
// A kernel calls its epilogue exactly once for each element of its output, after the element has its final sum.
typedef void (*sx_epilogue)(void *const *operands, const int64_t *dims, int64_t i0, int64_t i1, int64_t lo2,
                            int64_t hi2, int64_t lo3, int64_t hi3);

typedef struct sx_host sx_host;
struct sx_host {
    // Runs `task` over 0 <= t < tasks on the pool's threads and the caller's; returns when all are done.
    void (*parallel)(sx_host *host, sx_task task, const void *args, int64_t tasks, int64_t scratch_bytes);
    // 64-byte aligned memory, or NULL; contents undefined.
    void *(*allocate)(sx_host *host, int64_t bytes);
    void (*release)(sx_host *host, void *memory);
    // Runs program step `step` outside native code; 0 when it succeeded.
    int (*call)(sx_host *host, void *call, int64_t step);
    // Monotonic time in nanoseconds.
    int64_t (*clock)(sx_host *host);
    // Set when `parallel` could not run a task for want of memory; whoever finds it set clears it.
    int64_t failed;
};

// A tensor that crosses from a program to Python in `sx_host.call`.
typedef struct {
    void *data;        // NULL in an output of unknown size: the callee allocates it with `sx_host.allocate`
    int64_t rank;      // -1: a Python object, `slot` says which
    int64_t slot;
    const char *dtype;
    int64_t dims[16];
} sx_io;

// One run of a program: what the caller hands in and gets back. The same call may be used again and again, by one
// thread at a time; it keeps its arena.
typedef struct {
    void **buffers;      // inputs, then outputs; an output that is NULL is allocated by the run with `sx_host.allocate`
    int64_t *dims;       // the symbols that the inputs define, then the dims of all outputs (written by the run)
    const char *weights;
    char *arena;
    int64_t arena_bytes;
    int64_t *planned;    // symbols that `offsets` were planned for
    int64_t *offsets;
    int64_t error;       // SX_ERROR_*, 0 when the run succeeded
    int64_t step;        // the step that failed
    int64_t *ticks;      // NULL, or nanoseconds of each step, added up
    sx_io *io;           // operands of the host call under way
    int64_t inputs;      // how many of them are inputs; outputs follow
} sx_call;

// What a generated library exports.
//   int64_t sx_main(sx_host *, sx_call *)                         runs; 0 or the error
//   void sx_output_dims(const int64_t *symbols, int64_t *dims)    dims of the outputs that the inputs determine

#endif
