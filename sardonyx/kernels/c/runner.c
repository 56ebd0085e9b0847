// runner.c -- a static Linux program around compiled models: runs requests from a file, writes results to another.
//
//   runner REQUEST WEIGHTS RESULT        exit status 0; 2 usage, 3 a file, 4 a malformed request
//
// For targets under an emulator and for checking memory: no libc, no threads, system calls only. Memory comes from
// pages of its own between pages that nobody may touch, ends where its page ends, and is filled with 0xFF: an access
// beyond it crashes, what is read before it was written gives a NaN, and what was written beside it is counted. Tasks run
// one by one from the last to the first when the request says so, as any order must do.
//
// All numbers are int64, little endian. Request: magic, flags (1: tasks backwards), runs; then for each run: model,
// inputs, outputs, symbols, dims of all outputs, planned buffers, offset of the weights, bytes of the weights;
// for each input: offset in the request, bytes; the symbols; for each output: bytes of an element, rank.
// Result: magic; for each run: error, step, damaged and leaked blocks; then, if error is 0, the dims of all outputs, and
// the data of each output, padded to 8 bytes. Both are written and read by deployment/run_target.py.
#include "sardonyx.h"

typedef int64_t sx_program(sx_host *, sx_call *);
extern sx_program *const sx_programs[];  // generated
extern const int64_t sx_program_count;

#define REQUEST_MAGIC INT64_C(0x31302d4e55525853)  // "SXRUN-01"
#define RESULT_MAGIC INT64_C(0x31302d54554f5853)   // "SXOUT-01"
#define BACKWARDS 1
#define MOST_BYTES (INT64_C(1) << 33)

// ---- system calls ---------------------------------------------------------------------------------------------------

#if defined(__x86_64__)
enum { SYS_write = 1, SYS_lseek = 8, SYS_mmap = 9, SYS_mprotect = 10, SYS_munmap = 11, SYS_arch_prctl = 158, SYS_exit = 231, SYS_openat = 257 };
#define PAGE 4096
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall sx_start\n");

static int64_t call6(int64_t n, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f) {
    register int64_t r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    int64_t result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#else
enum { SYS_openat = 56, SYS_lseek = 62, SYS_write = 64, SYS_exit = 94, SYS_munmap = 215, SYS_mmap = 222, SYS_mprotect = 226 };
#if defined(__aarch64__)
#define PAGE 65536  // the largest that Linux is built with
__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl sx_start\n");
#define CALL "svc #0"
#define REGISTERS(X) X(n, "x8") X(a, "x0") X(b, "x1") X(c, "x2") X(d, "x3") X(e, "x4") X(f, "x5")
#elif defined(__riscv)
#define PAGE 4096
__asm__(".globl _start\n_start:\n\tmv a0, sp\n\tandi sp, sp, -16\n\tcall sx_start\n");
#define CALL "ecall"
#define REGISTERS(X) X(n, "a7") X(a, "a0") X(b, "a1") X(c, "a2") X(d, "a3") X(e, "a4") X(f, "a5")
#endif

static int64_t call6(int64_t n, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f) {
#define REGISTER(name, place) register int64_t r_##name __asm__(place) = name;
    REGISTERS(REGISTER)
    __asm__ volatile(CALL : "+r"(r_a) : "r"(r_n), "r"(r_b), "r"(r_c), "r"(r_d), "r"(r_e), "r"(r_f) : "memory");
    return r_a;
}
#endif

static _Noreturn void leave(int64_t status) {
    for (;;) call6(SYS_exit, status, 0, 0, 0, 0, 0);
}

static void write_all(int64_t file, const void *data, int64_t bytes) {
    for (const char *p = data; bytes > 0;) {
        const int64_t done = call6(SYS_write, file, (int64_t)p, bytes, 0, 0, 0);
        if (done <= 0) leave(3);
        p += done, bytes -= done;
    }
}

static char *map(int64_t file, int64_t bytes) {
    // PROT_READ | PROT_WRITE; MAP_PRIVATE, and MAP_ANONYMOUS without a file
    const int64_t at = call6(SYS_mmap, 0, bytes, 3, file < 0 ? 0x22 : 2, file, 0);
    return at < 0 && at > -4096 ? 0 : (char *)at;
}

// A file's contents; NULL when it is empty.
static char *contents(const char *path, int64_t *bytes) {
    const int64_t file = call6(SYS_openat, -100, (int64_t)path, 0, 0, 0, 0);
    *bytes = file < 0 ? -1 : call6(SYS_lseek, file, 0, 2, 0, 0, 0);
    if (*bytes < 0) leave(3);
    char *at = *bytes ? map(file, *bytes) : 0;
    if (*bytes && !at) leave(3);
    return at;
}

// ---- memory ---------------------------------------------------------------------------------------------------------

// A block: [header page][guard page][pages that end with the memory, aligned to `align`][guard page].
typedef struct {
    char *mapping;
    int64_t mapped, bytes, room;  // room: bytes of the pages in the middle
} header;

static int64_t live, damaged;

static int64_t up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

static void *allocate_aligned(int64_t bytes, int64_t align) {
    if (bytes <= 0 || bytes > MOST_BYTES) return 0;
    const int64_t room = up(bytes, PAGE), mapped = room + 4 * PAGE;
    char *mapping = map(-1, mapped);
    if (!mapping) return 0;
    char *base = (char *)up((int64_t)mapping, PAGE), *pages = base + 2 * PAGE;
    *(header *)base = (header){mapping, mapped, bytes, room};
    call6(SYS_mprotect, (int64_t)(base + PAGE), PAGE, 0, 0, 0, 0);
    call6(SYS_mprotect, (int64_t)(pages + room), PAGE, 0, 0, 0, 0);
    for (int64_t i = 0; i < room; ++i) pages[i] = (char)0xFF;
    ++live;
    return (char *)((int64_t)(pages + room - bytes) & -align);
}

static void *allocate(sx_host *host, int64_t bytes) {
    (void)host;
    return allocate_aligned(bytes ? bytes : 1, 64);
}

static char *pages_of(void *memory) { return (char *)((int64_t)memory & -(int64_t)PAGE); }
static header header_of(void *memory) { return *(header *)(pages_of(memory) - 2 * PAGE); }

// Whether something was written beside a block.
static int touched(void *memory) {
    const header h = header_of(memory);
    int found = 0;
    for (char *p = pages_of(memory); p < (char *)memory; ++p) found |= *p != (char)0xFF;
    for (char *p = (char *)memory + h.bytes; p < pages_of(memory) + h.room; ++p) found |= *p != (char)0xFF;
    return found;
}

static void release(sx_host *host, void *memory) {
    (void)host;
    const header h = header_of(memory);
    damaged += touched(memory);
    --live;
    call6(SYS_munmap, (int64_t)h.mapping, h.mapped, 0, 0, 0, 0);
}

// ---- the host -------------------------------------------------------------------------------------------------------

static int64_t flags;

static void parallel(sx_host *host, sx_task task, const void *args, int64_t tasks, int64_t scratch_bytes) {
    const int64_t step = flags & BACKWARDS ? 1 : tasks;
    for (int64_t hi = tasks; hi > 0; hi -= step) {
        void *scratch = allocate(host, scratch_bytes);
        if (!scratch) {
            host->failed = 1;
            return;
        }
        task(args, hi - step, hi, scratch);
        release(host, scratch);
    }
}

static int no_call(sx_host *host, void *call, int64_t step) {
    (void)host, (void)call, (void)step;
    return 1;
}

static int64_t no_clock(sx_host *host) {
    (void)host;
    return 0;
}

// ---- runs -----------------------------------------------------------------------------------------------------------

typedef struct {
    const char *data;
    int64_t bytes;
    const char *weights;
    int64_t weights_bytes;
    const int64_t *next;
} request;

// A copy in a block of its own. With `align` 1 it ends exactly where its pages end; elements are aligned all the same.
static char *copied(const char *from, int64_t size, int64_t offset, int64_t bytes, int64_t align) {
    if (offset < 0 || bytes < 0 || offset > size || bytes > size - offset) leave(4);
    char *to = bytes ? allocate_aligned(bytes, align) : allocate(0, 0);
    if (!to) leave(3);
    __builtin_memcpy(to, from + offset, (size_t)bytes);
    return to;
}

static const int64_t *words(request *r, int64_t count) {
    const int64_t *at = r->next;
    if (count < 0 || count > (r->data + r->bytes - (const char *)at) / 8) leave(4);
    r->next += count;
    return at;
}

static void write_outputs(int64_t file, char **buffers, const int64_t *dims, const int64_t *outputs, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        int64_t bytes = outputs[2 * i];
        for (int64_t axis = 0; axis < outputs[2 * i + 1]; ++axis) bytes *= *dims++;
        write_all(file, buffers[i], bytes);
        write_all(file, &(int64_t){0}, -bytes & 7);
    }
}

static void run(request *r, sx_host *host, int64_t file) {
    const int64_t *head = words(r, 8), inputs = head[1], outputs = head[2], symbols = head[3], ranks = head[4];
    const int64_t *data = words(r, 2 * inputs), *values = words(r, symbols), *results = words(r, 2 * outputs);
    if (head[0] < 0 || head[0] >= sx_program_count || ranks < 0 || head[5] < 0) leave(4);
    damaged = 0;
    char **buffers = allocate(host, (inputs + outputs) * 8);
    int64_t *dims = allocate(host, (symbols + ranks) * 8), *planned = allocate(host, (symbols + 1) * 8);
    sx_call call = {.buffers = (void **)buffers, .dims = dims, .planned = planned};
    call.offsets = allocate(host, (head[5] + 1) * 8);
    planned[0] = 0;
    for (int64_t i = 0; i < inputs; ++i)
        buffers[i] = copied(r->data, r->bytes, data[2 * i], data[2 * i + 1], 1);
    for (int64_t i = 0; i < outputs; ++i) buffers[inputs + i] = 0;
    for (int64_t i = 0; i < symbols; ++i) dims[i] = values[i];
    char *weights = copied(r->weights, r->weights_bytes, head[6], head[7], 64);
    call.weights = weights;

    const int64_t before = live - inputs;
    const int64_t error = sx_programs[head[0]](host, &call);
    if (call.arena) release(host, call.arena);
    int64_t made = 0;
    for (int64_t i = 0; i < outputs && !error; ++i)
        if (buffers[inputs + i]) made += 1, damaged += touched(buffers[inputs + i]);
    const int64_t leaked = live - inputs - made - before;
    for (int64_t i = 0; i < inputs; ++i) release(host, buffers[i]);
    release(host, weights);
    const int64_t facts[] = {error, call.step, damaged, leaked};
    write_all(file, facts, sizeof facts);
    if (!error) {
        write_all(file, dims + symbols, ranks * 8);
        write_outputs(file, buffers + inputs, dims + symbols, results, outputs);
        for (int64_t i = 0; i < outputs; ++i)
            if (buffers[inputs + i]) release(host, buffers[inputs + i]);
    }
    release(host, call.offsets), release(host, planned), release(host, dims), release(host, buffers);
}

__attribute__((used)) _Noreturn void sx_start(const int64_t *stack) {
    const char *const *arguments = (const char *const *)(stack + 1);
    if (stack[0] != 4) leave(2);
#if defined(__AMX_TILE__)
    if (call6(SYS_arch_prctl, 0x1023, 18, 0, 0, 0, 0)) leave(5); // ARCH_REQ_XCOMP_PERM: the registers of matrix tiles
#endif
    request r = {0};
    r.data = contents(arguments[1], &r.bytes);
    r.weights = contents(arguments[2], &r.weights_bytes);
    r.next = (const int64_t *)r.data;
    const int64_t *head = words(&r, 3);
    if (head[0] != REQUEST_MAGIC) leave(4);
    flags = head[1];
    // O_WRONLY | O_CREAT | O_TRUNC
    const int64_t file = call6(SYS_openat, -100, (int64_t)arguments[3], 01 | 0100 | 01000, 0600, 0, 0);
    if (file < 0) leave(3);
    sx_host host = {.parallel = parallel, .allocate = allocate, .release = release, .call = no_call, .clock = no_clock};
    write_all(file, &(int64_t){RESULT_MAGIC}, 8);
    for (int64_t i = 0; i < head[2]; ++i) run(&r, &host, file);
    leave(0);
}
