// pool -- the host's side of sardonyx.h inside one process: threads, memory, clock. Freestanding: what it needs of the
// operating system comes in as function pointers (sx_system), threads come in as callers of sx_pool_worker.
//
// A job is one call of parallel(). Its caller owns a slot, always works on its own job and never waits for a thread
// that has not begun: correctness needs no worker at all. Units are cut into zones, one for each thread. A thread takes
// chunks of its own zone and then of the others', by one compare-and-swap on the zone's claim = (generation << 32 | next
// unit); the generation proves that the fields read before the swap belong to this job, so a worker that was descheduled
// between reading and claiming holds nobody up. Chunks shrink towards the end of a zone. A thread has the same zone in
// each job, so it finds in its own cache what it wrote there for the same part of the step before.
// Workers keep off the processor of the caller that they help (keep_off). Running threads (callers and workers) stay at
// or under `limit` unless there are more callers than that.
#include "sardonyx.h"

#define SLOTS 32           // jobs at one time; further callers run alone
#define MAX_WORKERS 255
#define LINE 64
#define SPIN_NS 50000      // an idle worker spins this long for the next step of a model, then sleeps
#define SPINS 16           // between looks at the clock, each with an offer of the processor to others
#define JOIN_NS 50000      // a caller spins this long for the last chunks of others, then sleeps
#define ASIDE_NS 1000000   // a worker moves itself to another processor at most this often
#define FEW_WORKERS 16     // so many keep off the processor of their caller: among more others one is free anyway
#define CPU_WORDS 16       // 1024 processors
#define NO_CPU 0xffffffff
#define ZONES 8            // of one job; more threads share them
#define GUIDE 4            // a chunk is 1 / (GUIDE * threads of the zone) of what is left of it
#define MAX_UNITS 0x7fffffff
#define CACHED_BLOCKS 128  // released blocks kept by one host
#define CACHE_FLOOR (16 << 20)

typedef struct {           // the order is known to runtime/threads.py
#if defined(__linux__)
    long (*syscall)(long number, ...);
    int (*getcpu)(void);                                         // sched_getcpu
    int (*getaffinity)(int thread, size_t bytes, void *mask);    // sched_getaffinity; thread 0: the one that calls
    int (*setaffinity)(int thread, size_t bytes, const void *mask);
#elif defined(__APPLE__)
    int (*ulock_wait)(uint32_t operation, void *address, uint64_t value, uint32_t microseconds);
    int (*ulock_wake)(uint32_t operation, void *address, uint64_t value);
#elif defined(_WIN32)
    int(__stdcall *wait_on_address)(volatile void *address, void *compare, size_t bytes, uint32_t milliseconds);
    void(__stdcall *wake_by_address_all)(void *address);
#endif
#if defined(_WIN32)
    void *(*aligned_malloc)(size_t bytes, size_t alignment);
    void (*aligned_free)(void *memory);
    int(__stdcall *query_counter)(int64_t *ticks);
    int(__stdcall *query_frequency)(int64_t *ticks);
#else
    int (*posix_memalign)(void **memory, size_t alignment, size_t bytes);
    void (*free)(void *memory);
    int (*clock_gettime)(int clock, void *timespec);
#endif
    int (*yield)(void);    // lets another thread have this processor
    void (*start)(void);   // called once, by the first parallel() with work to share: starts the worker threads
} sx_system;

typedef struct {
    void *memory;
    int64_t bytes;
} scratch_t;

typedef struct {
    _Alignas(LINE) _Atomic uint64_t claim[ZONES];  // generation << 32 | next unit of the zone
    _Alignas(LINE) _Atomic uint64_t join;    // generation << 32 | workers that joined
    _Alignas(LINE) _Atomic uint32_t done;    // units finished; futex of the waiting caller
    _Atomic uint32_t waiting;
    _Alignas(LINE) _Atomic(sx_task) task;    // from here on written by the owner only, before it publishes `claim`
    _Atomic(const void *) args;
    _Atomic int64_t tasks, unit, scratch_bytes;
    _Atomic uint32_t units, zones, workers, divisor, cpu;  // cpu: where the caller was when it began
    _Atomic uint32_t owned;
} slot_t;

typedef struct {
    _Alignas(LINE) _Atomic int32_t thread;   // the system's number of it; 0 before it runs
    _Atomic uint32_t avoided;                // the processor that it keeps off
    uint32_t index;
    scratch_t scratch;
    int64_t moved;                           // when it last moved itself
    uint64_t cpus[CPU_WORDS];                // where it may run, as it was when it began
} worker_t;

typedef struct {
    _Alignas(LINE) _Atomic uint32_t epoch;   // grows with every change that may give a worker something to do; futex
    _Atomic uint32_t open;                   // bit per slot whose job has unclaimed units
    _Alignas(LINE) _Atomic int32_t sleepers;
    _Atomic int32_t spinners;
    _Atomic int32_t active;                  // callers inside parallel() and workers inside a job
    _Alignas(LINE) _Atomic int32_t limit;
    _Atomic uint32_t started, stop, workers;
    sx_system system;
    slot_t slots[SLOTS];
    worker_t crew[MAX_WORKERS];
} sx_pool;

typedef struct block block;
struct block {                               // stands in the 64 bytes before the memory handed out
    block *newer, *older;                    // in order of release, while cached
    int64_t bytes;                           // of the memory, a size class
};

typedef struct {
    sx_host api;                             // first: an sx_host* is a host_t*
    sx_pool *pool;
    _Atomic int32_t threads;
    _Atomic uint32_t busy;                   // a job of this host is running: whoever comes now is nested in it
    _Atomic uint32_t lock;                   // of what follows
    int64_t live_bytes, peak_bytes, cached_bytes, live_blocks, cached_blocks;
    block *newest, *oldest;
    scratch_t scratch;
} host_t;

#define load(p) __c11_atomic_load((p), __ATOMIC_RELAXED)
#define load_acquire(p) __c11_atomic_load((p), __ATOMIC_ACQUIRE)
#define load_ordered(p) __c11_atomic_load((p), __ATOMIC_SEQ_CST)
#define store(p, v) __c11_atomic_store((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __c11_atomic_store((p), (v), __ATOMIC_RELEASE)
#define store_ordered(p, v) __c11_atomic_store((p), (v), __ATOMIC_SEQ_CST)
#define add(p, v) __c11_atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define swap(p, v) __c11_atomic_exchange((p), (v), __ATOMIC_ACQ_REL)
#define replace(p, old, new) __c11_atomic_compare_exchange_strong((p), (old), (new), __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)

// ---------------------------------------------------------------- operating system

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");   // `yield` is a no-op on most cores
#elif defined(__riscv)
    __asm__ volatile(".insn i 0x0f, 0, x0, x0, 0x010");   // pause, a hint where Zihintpause is missing
#endif
}

#if defined(__linux__)
#if defined(__x86_64__)
#define SYS_FUTEX 202
#define SYS_GETTID 186
#elif defined(__i386__) || defined(__arm__)
#define SYS_FUTEX 240
#define SYS_GETTID 224
#elif defined(__riscv) && __riscv_xlen == 32
#define SYS_FUTEX 422      // only the variant with 64-bit time exists; without a timeout they are the same
#define SYS_GETTID 178
#elif defined(__powerpc__)
#define SYS_FUTEX 221
#define SYS_GETTID 207
#elif defined(__s390x__)
#define SYS_FUTEX 238
#define SYS_GETTID 236
#else
#define SYS_FUTEX 98       // aarch64, riscv64, loongarch64: the generic table
#define SYS_GETTID 178
#endif
#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129
#endif

// Sleeps while *word is `value`; may wake for no reason.
static void wait_word(const sx_system *s, _Atomic uint32_t *word, uint32_t value) {
#if defined(__linux__)
    s->syscall(SYS_FUTEX, word, (long)FUTEX_WAIT_PRIVATE, (long)value, (void *)0, (void *)0, 0L);
#elif defined(__APPLE__)
    s->ulock_wait(1, word, value, 0);                            // UL_COMPARE_AND_WAIT
#elif defined(_WIN32)
    s->wait_on_address(word, &value, sizeof value, 0xffffffff);
#endif
}

static void wake_word(const sx_system *s, _Atomic uint32_t *word, int32_t threads) {
#if defined(__linux__)
    s->syscall(SYS_FUTEX, word, (long)FUTEX_WAKE_PRIVATE, (long)threads, (void *)0, (void *)0, 0L);
#elif defined(__APPLE__)
    s->ulock_wake(1 | (threads > 1 ? 0x100 : 0), word, 0);       // ULF_WAKE_ALL
#elif defined(_WIN32)
    s->wake_by_address_all(word);
    (void)threads;
#endif
}

static int64_t now(const sx_system *s) {
#if defined(_WIN32)
    int64_t ticks = 0, frequency = 1;
    s->query_counter(&ticks);
    s->query_frequency(&frequency);
    return ticks / frequency * 1000000000 + ticks % frequency * 1000000000 / frequency;
#else
    struct { long seconds, nanoseconds; } t = {0, 0};
#if defined(__APPLE__)
    s->clock_gettime(6, &t);
#else
    s->clock_gettime(1, &t);
#endif
    return (int64_t)t.seconds * 1000000000 + t.nanoseconds;
#endif
}

// The processor that this thread runs on.
static uint32_t this_cpu(const sx_system *s) {
#if defined(__linux__)
    return (uint32_t)s->getcpu();
#else
    (void)s;
    return NO_CPU;
#endif
}

// Notes which thread `worker` is and where it may run.
static void enter_crew(const sx_system *s, worker_t *worker) {
#if defined(__linux__)
    if (s->getaffinity(0, sizeof worker->cpus, worker->cpus)) return;
    store_release(&worker->thread, (int32_t)s->syscall(SYS_GETTID));
#else
    (void)s, (void)worker;
#endif
}

// Keeps a worker off `cpu`, where its caller runs, and moves it at once if it is there; it may run anywhere else. The
// system likes to wake a worker on the processor of its caller, where it gets no time until somebody balances the
// load, milliseconds later.
static void keep_off(const sx_system *s, worker_t *worker, uint32_t cpu) {
#if defined(__linux__)
    int32_t thread = load_acquire(&worker->thread);
    if (!thread || load(&worker->avoided) == cpu || cpu >= CPU_WORDS * 64) return;
    store(&worker->avoided, cpu);
    uint64_t others[CPU_WORDS], any = 0;
    for (uint32_t i = 0; i < CPU_WORDS; i++) {
        others[i] = worker->cpus[i] & ~(i == cpu / 64 ? (uint64_t)1 << cpu % 64 : 0);
        any |= others[i];
    }
    if (any) s->setaffinity(thread, sizeof others, others);
#else
    (void)s, (void)worker, (void)cpu;
#endif
}

static void *take_memory(const sx_system *s, int64_t bytes) {
#if defined(_WIN32)
    return s->aligned_malloc((size_t)bytes, LINE);
#else
    void *memory = 0;
    return s->posix_memalign(&memory, LINE, (size_t)bytes) == 0 ? memory : 0;
#endif
}

static void give_memory(const sx_system *s, void *memory) {
#if defined(_WIN32)
    s->aligned_free(memory);
#else
    s->free(memory);
#endif
}

// Memory of at least `bytes` in `scratch`; 0 when there is none (what was there before stays).
static int grow(const sx_system *s, scratch_t *scratch, int64_t bytes) {
    if (bytes <= scratch->bytes) return 1;
    bytes = (bytes + 4095) & ~(int64_t)4095;
    void *memory = take_memory(s, bytes);
    if (!memory) return 0;
    if (scratch->memory) give_memory(s, scratch->memory);
    scratch->memory = memory;
    scratch->bytes = bytes;
    return 1;
}

// ---------------------------------------------------------------- jobs

// One chunk of the job in `slot`, from zone `home` if it has any left; 0 when nothing of this generation is to be claimed.
static int run_chunk(sx_pool *pool, slot_t *slot, uint32_t generation, uint32_t home, void *scratch) {
    sx_task task = load(&slot->task);
    const void *args = load(&slot->args);
    int64_t tasks = load(&slot->tasks), unit = load(&slot->unit);
    uint64_t units = load(&slot->units), zones = load(&slot->zones), claim = 0;
    uint32_t divisor = load(&slot->divisor), size = 0;
    __c11_atomic_thread_fence(__ATOMIC_ACQUIRE);                 // a field of a later job implies later claims
    for (uint64_t i = 0; i < zones && !size; i++) {
        uint64_t zone = (home + i) % zones, end = units * (zone + 1) / zones;
        claim = load_acquire(&slot->claim[zone]);
        do {
            if ((uint32_t)(claim >> 32) != generation) return 0;
            uint32_t left = (uint32_t)claim < end ? (uint32_t)end - (uint32_t)claim : 0;
            size = left && left < divisor ? 1 : left / divisor;
        } while (size && !replace(&slot->claim[zone], &claim, claim + size));
    }
    if (!size) return 0;

    int64_t lo = (uint32_t)claim * unit, hi = ((int64_t)(uint32_t)claim + size) * unit;
    task(args, lo, hi < tasks ? hi : tasks, scratch);
    // After this line the slot may belong to another job: a wake that reaches it is spurious, and harmless.
    if (add(&slot->done, size) + size == units && load_ordered(&slot->waiting)) {
        wake_word(&pool->system, &slot->done, 1);
    }
    return 1;
}

// Leaves the processor that the caller of the job in `slot` runs on, if this worker came to be there while it was awake.
static void step_aside(sx_pool *pool, slot_t *slot, worker_t *worker) {
    uint32_t cpu = load(&slot->cpu);
    if (cpu == NO_CPU || cpu != this_cpu(&pool->system)) return;
    int64_t time = now(&pool->system);
    if (time - worker->moved < ASIDE_NS) return;
    worker->moved = time;
    keep_off(&pool->system, worker, cpu);
}

// A worker's part in the job of one slot; 1 when it ran anything.
static int help(sx_pool *pool, slot_t *slot, worker_t *worker) {
    scratch_t *scratch = &worker->scratch;
    step_aside(pool, slot, worker);
    uint64_t join = load_acquire(&slot->join);
    uint32_t generation = (uint32_t)(load_acquire(&slot->claim[0]) >> 32);
    int64_t bytes = load(&slot->scratch_bytes);
    if (!grow(&pool->system, scratch, bytes)) return 0;
    do {
        if ((uint32_t)(join >> 32) != generation || (uint32_t)join >= load(&slot->workers)) return 0;
    } while (!replace(&slot->join, &join, join + 1));
    // A worker holds a ticket of this generation now, but only a claim proves that the job is still open; a newer job
    // in this slot has another generation, so `bytes` read above is of the job that is claimed or of none.
    int ran = 0;
    while (run_chunk(pool, slot, generation, worker->index + 1, scratch->memory)) {
        ran = 1;
        if (load(&pool->active) > load(&pool->limit)) break;     // callers came: this processor is theirs
    }
    // Gives the ticket back, unless the job is over and the count is another job's.
    join = load(&slot->join);
    while ((uint32_t)(join >> 32) == generation && !replace(&slot->join, &join, join - 1)) {}
    return ran;
}

static int find_work(sx_pool *pool, worker_t *worker) {
    uint32_t open = load_acquire(&pool->open);
    if (!open) return 0;
    int ran = 0;
    if (add(&pool->active, 1) < load(&pool->limit)) {
        for (uint32_t i = 0; i < SLOTS && !ran; i++) {           // workers begin at different slots
            uint32_t at = (i + worker->index) % SLOTS;
            if (open >> at & 1) ran = help(pool, &pool->slots[at], worker);
        }
    }
    add(&pool->active, -1);
    return ran;
}

static void announce(sx_pool *pool, int32_t wanted, uint32_t cpu) {
    add(&pool->epoch, 1);
    int32_t missing = wanted - load_ordered(&pool->spinners);
    if (missing <= 0 || load_ordered(&pool->sleepers) <= 0) return;
    int32_t workers = load(&pool->workers);
    for (int32_t i = 0; i < workers && i < FEW_WORKERS; i++) keep_off(&pool->system, &pool->crew[i], cpu);
    wake_word(&pool->system, &pool->epoch, missing);
}

// Waits until the epoch is no longer `seen`: spinning at first, since the next step of a model comes within
// microseconds. While it spins it offers its processor to others: the system likes to wake a worker in the place of
// the very caller that woke it. Without the offer jobs of 3 us every 80 us took 3 us + SPIN_NS (28, 38, 58 us at 20,
// 30, 50 us of spinning); with it 2.5 us.
static void idle(sx_pool *pool, uint32_t seen) {
    add(&pool->spinners, 1);
    int64_t end = now(&pool->system) + SPIN_NS;
    while (load_acquire(&pool->epoch) == seen && now(&pool->system) < end) {
        for (int i = 0; i < SPINS && load(&pool->epoch) == seen; i++) relax();
        pool->system.yield();
    }
    add(&pool->spinners, -1);
    if (load_ordered(&pool->epoch) != seen) return;
    add(&pool->sleepers, 1);
    if (load_ordered(&pool->epoch) == seen) wait_word(&pool->system, &pool->epoch, seen);
    add(&pool->sleepers, -1);
}

// The life of a worker thread; returns at shutdown.
void sx_pool_worker(sx_pool *pool) {
    uint32_t index = (uint32_t)add(&pool->workers, 1);
    worker_t *worker = &pool->crew[index % MAX_WORKERS];
    worker->index = index;
    enter_crew(&pool->system, worker);
    while (!load_acquire(&pool->stop)) {
        uint32_t seen = load_ordered(&pool->epoch);
        if (find_work(pool, worker)) continue;
        idle(pool, seen);
    }
    store(&worker->thread, 0);
    if (worker->scratch.memory) give_memory(&pool->system, worker->scratch.memory);
    worker->scratch = (scratch_t){0, 0};
    add(&pool->workers, -1);
}

static slot_t *own_slot(sx_pool *pool, uint32_t start, uint32_t *at) {
    for (uint32_t i = 0; i < SLOTS; i++) {
        *at = (start + i) % SLOTS;
        slot_t *slot = &pool->slots[*at];
        if (!load(&slot->owned) && !swap(&slot->owned, 1)) return slot;
    }
    return 0;
}

static void finish(sx_pool *pool, slot_t *slot, uint32_t units) {
    if (load_acquire(&slot->done) == units) return;
    int64_t end = now(&pool->system) + JOIN_NS;
    while (now(&pool->system) < end) {
        for (int i = 0; i < SPINS; i++) {
            if (load_acquire(&slot->done) == units) return;
            relax();
        }
        pool->system.yield();
    }
    store_ordered(&slot->waiting, 1);
    for (uint32_t done; (done = load_ordered(&slot->done)) != units;) wait_word(&pool->system, &slot->done, done);
    store(&slot->waiting, 0);
}

// Begins a new generation, in which nothing is to be claimed.
static uint32_t close_zones(slot_t *slot) {
    uint32_t generation = (uint32_t)(load(&slot->claim[0]) >> 32) + 1;
    for (int i = 0; i < ZONES; i++) store(&slot->claim[i], (uint64_t)generation << 32 | MAX_UNITS);
    return generation;
}

static void run_job(host_t *host, slot_t *slot, uint32_t at, sx_task task, const void *args, int64_t tasks,
                    int64_t scratch_bytes, int32_t threads) {
    sx_pool *pool = host->pool;
    int64_t unit = tasks / MAX_UNITS + 1;
    uint32_t cpu = this_cpu(&pool->system);
    uint32_t units = (uint32_t)((tasks + unit - 1) / unit);
    int32_t wanted = units - 1 < (uint32_t)threads - 1 ? (int32_t)units - 1 : threads - 1;
    uint32_t zones = wanted + 1 < ZONES ? (uint32_t)wanted + 1 : ZONES;

    // Closed while the fields change: no unit of the new generation is left until `claim` says otherwise.
    uint32_t generation = close_zones(slot);
    __c11_atomic_thread_fence(__ATOMIC_SEQ_CST);
    store(&slot->task, task);
    store(&slot->args, args);
    store(&slot->tasks, tasks);
    store(&slot->unit, unit);
    store(&slot->scratch_bytes, scratch_bytes);
    store(&slot->units, units);
    store(&slot->workers, (uint32_t)wanted);
    store(&slot->zones, zones);
    store(&slot->divisor, GUIDE * (((uint32_t)threads + zones - 1) / zones));
    store(&slot->cpu, cpu);
    store(&slot->done, 0);
    generation++;
    store(&slot->join, (uint64_t)generation << 32);
    for (uint32_t i = zones; i-- > 0;)  // the first, which workers look at, comes last
        store_ordered(&slot->claim[i], (uint64_t)generation << 32 | (uint64_t)units * i / zones);
    add(&pool->active, 1);
    __c11_atomic_fetch_or(&pool->open, 1u << at, __ATOMIC_SEQ_CST);
    announce(pool, wanted, cpu);

    while (run_chunk(pool, slot, generation, 0, host->scratch.memory)) {}
    uint32_t others = __c11_atomic_fetch_and(&pool->open, ~(1u << at), __ATOMIC_SEQ_CST) & ~(1u << at);
    finish(pool, slot, units);
    add(&pool->active, -1);
    if (others) announce(pool, 1, cpu);                          // this processor is free for another caller's job
}

// Within a task of the same host, or after the slots ran out: this thread does it all, in scratch of its own.
static void run_nested(host_t *host, sx_task task, const void *args, int64_t tasks, int64_t scratch_bytes) {
    scratch_t scratch = {0, 0};
    if (!grow(&host->pool->system, &scratch, scratch_bytes)) {
        __atomic_store_n(&host->api.failed, 1, __ATOMIC_RELEASE);
        return;
    }
    task(args, 0, tasks, scratch.memory);
    if (scratch.memory) give_memory(&host->pool->system, scratch.memory);
}

static void host_parallel(sx_host *api, sx_task task, const void *args, int64_t tasks, int64_t scratch_bytes) {
    host_t *host = (host_t *)api;
    sx_pool *pool = host->pool;
    if (tasks <= 0) return;
    if (swap(&host->busy, 1)) {
        run_nested(host, task, args, tasks, scratch_bytes);
        return;
    }
    if (!grow(&pool->system, &host->scratch, scratch_bytes)) {
        __atomic_store_n(&host->api.failed, 1, __ATOMIC_RELEASE);
        store_release(&host->busy, 0);
        return;
    }
    int32_t threads = load(&host->threads), limit = load(&pool->limit);
    threads = threads < limit ? threads : limit;
    uint32_t at = 0;
    slot_t *slot = tasks > 1 && threads > 1 ? own_slot(pool, (uint32_t)((uintptr_t)host / LINE), &at) : 0;
    if (slot) {
        if (!load_acquire(&pool->started) && !swap(&pool->started, 1)) pool->system.start();
        run_job(host, slot, at, task, args, tasks, scratch_bytes, threads);
        store_release(&slot->owned, 0);
    } else {
        task(args, 0, tasks, host->scratch.memory);
    }
    store_release(&host->busy, 0);
}

// ---------------------------------------------------------------- memory

static void lock(host_t *host) {
    while (swap(&host->lock, 1)) relax();
}

static void unlock(host_t *host) { store_release(&host->lock, 0); }

// Rounded up to one of four sizes in each power of two: at most a quarter is lost, and similar requests share blocks.
static int64_t size_class(int64_t bytes) {
    if (bytes < 256) return (bytes + LINE - 1) / LINE * LINE + (bytes <= 0 ? LINE : 0);
    int64_t step = (int64_t)1 << (61 - __builtin_clzll((unsigned long long)bytes - 1));
    return (bytes + step - 1) & ~(step - 1);
}

static void unlink_block(host_t *host, block *b) {
    if (b->newer) b->newer->older = b->older; else host->newest = b->older;
    if (b->older) b->older->newer = b->newer; else host->oldest = b->newer;
    host->cached_bytes -= b->bytes;
    host->cached_blocks--;
}

// Frees what was released longest ago until no more than `bytes` in `blocks` blocks are kept.
static void trim(host_t *host, int64_t bytes, int64_t blocks) {
    while (host->oldest && (host->cached_bytes > bytes || host->cached_blocks > blocks)) {
        block *b = host->oldest;
        unlink_block(host, b);
        give_memory(&host->pool->system, b);
    }
}

static void *host_allocate(sx_host *api, int64_t bytes) {
    host_t *host = (host_t *)api;
    if (bytes < 0 || bytes > (int64_t)1 << 46) return 0;
    bytes = size_class(bytes);
    lock(host);
    block *b = host->newest;
    while (b && b->bytes != bytes) b = b->older;
    if (b) {
        unlink_block(host, b);
    } else {
        b = take_memory(&host->pool->system, bytes + LINE);
        if (!b) {                                                // what is cached may be what is missing
            trim(host, 0, 0);
            b = take_memory(&host->pool->system, bytes + LINE);
        }
        if (b) b->bytes = bytes;
    }
    if (b) {
        host->live_bytes += bytes;
        host->live_blocks++;
        if (host->live_bytes > host->peak_bytes) host->peak_bytes = host->live_bytes;
    }
    unlock(host);
    return b ? (char *)b + LINE : 0;
}

static void host_release(sx_host *api, void *memory) {
    host_t *host = (host_t *)api;
    if (!memory) return;
    block *b = (block *)((char *)memory - LINE);
    lock(host);
    host->live_bytes -= b->bytes;
    host->live_blocks--;
    b->newer = 0;
    b->older = host->newest;
    if (host->newest) host->newest->newer = b; else host->oldest = b;
    host->newest = b;
    host->cached_bytes += b->bytes;
    host->cached_blocks++;
    // Live and cached together never exceed what was live at the peak (or the floor).
    int64_t room = (host->peak_bytes > CACHE_FLOOR ? host->peak_bytes : CACHE_FLOOR) - host->live_bytes;
    trim(host, room > 0 ? room : 0, CACHED_BLOCKS);
    unlock(host);
}

// ---------------------------------------------------------------- interface for runtime/threads.py

static int64_t host_clock(sx_host *api) { return now(&((host_t *)api)->pool->system); }

static int no_call(sx_host *api, void *call, int64_t step) {
    (void)api, (void)call, (void)step;
    return 1;
}

// Must be called before any thread works, and in a forked child, where the threads that did are gone.
void sx_pool_reset(sx_pool *pool) {
    for (int i = 0; i < SLOTS; i++) {
        slot_t *slot = &pool->slots[i];
        close_zones(slot);
        store(&slot->units, 0);
        store(&slot->waiting, 0);
        store(&slot->owned, 0);
    }
    for (int i = 0; i < MAX_WORKERS; i++) {
        store(&pool->crew[i].thread, 0);
        store(&pool->crew[i].avoided, NO_CPU);
        pool->crew[i].scratch = (scratch_t){0, 0};               // in a child a copy that nobody owns
    }
    store(&pool->open, 0);
    store(&pool->sleepers, 0);
    store(&pool->spinners, 0);
    store(&pool->active, 0);
    store(&pool->workers, 0);
    store(&pool->stop, 0);
    store_ordered(&pool->started, 0);
}

sx_pool *sx_pool_create(const sx_system *system, int32_t limit) {
    sx_pool *pool = take_memory(system, sizeof *pool);
    if (!pool) return 0;
    for (size_t i = 0; i < sizeof *pool / sizeof(int64_t); i++) ((volatile int64_t *)pool)[i] = 0;
    pool->system = *system;
    store(&pool->limit, limit);
    sx_pool_reset(pool);
    return pool;
}

// The most threads that run at one time, callers included.
void sx_pool_set_limit(sx_pool *pool, int32_t limit) { store_ordered(&pool->limit, limit); }

int32_t sx_pool_workers(sx_pool *pool) { return (int32_t)load_acquire(&pool->workers); }

// Ends all workers once they are idle.
void sx_pool_stop(sx_pool *pool) {
    store_ordered(&pool->stop, 1);
    add(&pool->epoch, 1);
    wake_word(&pool->system, &pool->epoch, MAX_WORKERS);
}

// A host is used by one thread at a time (and by the tasks that this thread started).
sx_host *sx_host_create(sx_pool *pool, int32_t threads) {
    host_t *host = take_memory(&pool->system, (sizeof *host + LINE - 1) / LINE * LINE);
    if (!host) return 0;
    *host = (host_t){.api = {host_parallel, host_allocate, host_release, no_call, host_clock, 0}, .pool = pool};
    store(&host->threads, threads);
    return &host->api;
}

void sx_host_set_call(sx_host *api, int (*call)(sx_host *host, void *call, int64_t step)) {
    api->call = call ? call : no_call;
}

void sx_host_set_threads(sx_host *api, int32_t threads) { store(&((host_t *)api)->threads, threads); }

// 1 when since the last question a task could not run for want of memory: the results are worthless.
int32_t sx_host_failed(sx_host *api) { return (int32_t)__atomic_exchange_n(&api->failed, 0, __ATOMIC_ACQ_REL); }

void sx_host_release(sx_host *api, void *memory) { host_release(api, memory); }

// In a forked child: whoever used the host is gone.
void sx_host_reset(sx_host *api) {
    store(&((host_t *)api)->busy, 0);
    store(&((host_t *)api)->lock, 0);
}

// Gives cached and scratch memory back to the system.
void sx_host_trim(sx_host *api) {
    host_t *host = (host_t *)api;
    lock(host);
    trim(host, 0, 0);
    host->peak_bytes = host->live_bytes;
    unlock(host);
    if (swap(&host->busy, 1)) return;                            // scratch is in use
    if (host->scratch.memory) give_memory(&host->pool->system, host->scratch.memory);
    host->scratch = (scratch_t){0, 0};
    store_release(&host->busy, 0);
}

// counts: live bytes, cached bytes, scratch bytes, live blocks, cached blocks.
void sx_host_memory(sx_host *api, int64_t counts[5]) {
    host_t *host = (host_t *)api;
    lock(host);
    counts[0] = host->live_bytes;
    counts[1] = host->cached_bytes;
    counts[2] = host->scratch.bytes;
    counts[3] = host->live_blocks;
    counts[4] = host->cached_blocks;
    unlock(host);
}

// Blocks that are still live must have been released before.
void sx_host_destroy(sx_host *api) {
    sx_pool *pool = ((host_t *)api)->pool;
    sx_host_trim(api);
    give_memory(&pool->system, api);
}
