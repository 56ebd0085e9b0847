// peak.c -- what the machine can do at best: products a second and bytes a second, which a roofline is drawn from.
//
// Tasks for host->parallel. A task of peak_fma does `rounds` times FMAS fused multiply-adds of one register each, in
// chains that do not wait for one another; peak_fma_flops() says how many operations that is. A task of peak_read sums
// its own part of `data`, so that nothing but loads takes time; what is summed goes to `sums` and keeps the loop alive.
#include "sardonyx.h"
#include "simd.h"

#define CHAINS 12  // beyond latency times throughput of every core that is known (2 x 4 to 4 x 3)
#define UNROLL 4
#define FMAS (CHAINS * UNROLL)

typedef struct {
    int64_t rounds;
    float *sums;         // one for each task
    const float *data;   // of peak_read: [tasks][floats]
    int64_t floats;      // a multiple of 8 * VL
} peak_args;

int64_t peak_fma_flops(void) { return (int64_t)2 * VL * FMAS; }

void peak_fma(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const peak_args *a = args;
    (void)scratch;
    for (int64_t t = lo; t < hi; t++) {
        vf sum[CHAINS];
        for (int c = 0; c < CHAINS; c++) sum[c] = v_set1((float)c);
        const vf x = v_set1(0.5f), y = v_set1(0.25f + (float)t);
        for (int64_t r = 0; r < a->rounds; r++) {
#pragma clang loop unroll(full)
            for (int u = 0; u < UNROLL; u++) {
#pragma clang loop unroll(full)
                for (int c = 0; c < CHAINS; c++) sum[c] = SX_FMA(sum[c], x, y);
            }
        }
        vf total = {};
        for (int c = 0; c < CHAINS; c++) total += sum[c];
        a->sums[t] = total[0];
    }
}

void peak_read(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const peak_args *a = args;
    (void)scratch;
    for (int64_t t = lo; t < hi; t++) {
        const float *data = a->data + t * a->floats;
        vf sum[8];
        for (int c = 0; c < 8; c++) sum[c] = v_set1(0);
        for (int64_t r = 0; r < a->rounds; r++) {
            for (int64_t i = 0; i < a->floats; i += 8 * VL) {
#pragma clang loop unroll(full)
                for (int c = 0; c < 8; c++) sum[c] += v_load(data + i + c * VL);
            }
        }
        vf total = {};
        for (int c = 0; c < 8; c++) total += sum[c];
        a->sums[t] = total[0];
    }
}

// Nanoseconds that a job of `tasks` tasks took.
int64_t peak_time(sx_host *host, sx_task task, const peak_args *a, int64_t tasks) {
    const int64_t begin = host->clock(host);
    host->parallel(host, task, a, tasks, 0);
    return host->clock(host) - begin;
}
