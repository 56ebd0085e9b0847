// Loops over the functions of elementary.h, as generated programs contain them: loop_<function>(x, y, n), and for two
// operands loop_<function>(a, b, y, n). Built as a shared library, and with ELEMENTARY_MAIN as a static program for
// emulators that writes the results of all loops on its own inputs to standard output.
#include "elementary.h"

#define UNARY(name, from, to) \
    void loop_##name(const from *x, to *y, int64_t n) { for (int64_t i = 0; i < n; ++i) y[i] = name(x[i]); }
#define BINARY(name, type) \
    void loop_##name(const type *a, const type *b, type *y, int64_t n) { \
        for (int64_t i = 0; i < n; ++i) y[i] = name(a[i], b[i]); \
    }

#define FLOAT_FUNCTIONS(X) \
    X(exp) X(exp_negative) X(expm1) X(log) X(log1p) X(sqrt) X(reciprocal) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) X(sinh) X(cosh) \
    X(tanh) X(asinh) X(acosh) X(atanh) X(erf) X(sigmoid) X(softplus) \
    X(floor) X(ceil) X(trunc) X(round_even) X(fabs) X(sign)
#define BINARY_FUNCTIONS(X) X(pow) X(fmod) X(mod_floor) X(max) X(min) X(copysign)
#define CONVERSIONS(X) \
    X(i8, int8_t) X(u8, uint8_t) X(i16, int16_t) X(u16, uint16_t) X(i32, int32_t) X(u32, uint32_t) X(i64, int64_t) \
    X(u64, uint64_t) X(bool, uint8_t) X(f16, sx_f16) X(bf16, sx_bf16)
#define WIDENINGS(X) X(f16_to_f32, sx_f16, float) X(f16_to_f32_integer, sx_f16, float) X(bf16_to_f32, sx_bf16, float)

#define UNARY_BOTH(f) UNARY(f##_f32, float, float) UNARY(f##_f64, double, double)
#define BINARY_BOTH(f) BINARY(f##_f32, float) BINARY(f##_f64, double)
#define CONVERT_BOTH(t, type) CONVERT(f32_to_##t, float, type) CONVERT(f64_to_##t, double, type)

// QEMU 7.2 aborts on RISC-V's vector conversions with a static rounding mode.
#ifdef SCALAR_CONVERSIONS
#define CONVERT(name, from, to) \
    void loop_##name(const from *x, to *y, int64_t n) { \
        _Pragma("clang loop vectorize(disable)") for (int64_t i = 0; i < n; ++i) y[i] = name(x[i]); \
    }
#else
#define CONVERT(name, from, to) UNARY(name, from, to)
#endif

FLOAT_FUNCTIONS(UNARY_BOTH)
BINARY_FUNCTIONS(BINARY_BOTH)
CONVERSIONS(CONVERT_BOTH)
WIDENINGS(UNARY)
UNARY(gelu_f32, float, float)
UNARY(mish_f32, float, float)
UNARY(f32_to_f16_integer, float, sx_f16)
UNARY(isnan_f32, float, uint8_t)
UNARY(isinf_f32, float, uint8_t)
UNARY(isnan_f64, double, uint8_t)
UNARY(isinf_f64, double, uint8_t)
UNARY(truncated_bits_f64, double, uint64_t)

// The same loops, one element a call: what the scalar remainder of a vectorised loop computes.
typedef void unary_loop(const char *x, char *y, int64_t n);
typedef void binary_loop(const char *a, const char *b, char *y, int64_t n);

void each_unary(unary_loop *loop, const char *x, int64_t from, char *y, int64_t to, int64_t n) {
    for (int64_t i = 0; i < n; ++i) loop(x + i * from, y + i * to, 1);
}

void each_binary(binary_loop *loop, const char *a, const char *b, char *y, int64_t size, int64_t n) {
    for (int64_t i = 0; i < n; ++i) loop(a + i * size, b + i * size, y + i * size, 1);
}

#ifdef ELEMENTARY_MAIN

#define N 4096
static union { float f32[N]; double f64[N]; } a, b, y;

static long system_call(long number, long p0, const void *p1, long p2) {
#if defined(__x86_64__)
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(number), "D"(p0), "S"(p1), "d"(p2) : "rcx", "r11", "memory");
    return r;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = p0, x2 __asm__("x2") = p2;
    register const void *x1 __asm__("x1") = p1;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#elif defined(__riscv)
    register long a7 __asm__("a7") = number, a0 __asm__("a0") = p0, a2 __asm__("a2") = p2;
    register const void *a1 __asm__("a1") = p1;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2) : "memory");
    return a0;
#endif
}

#ifdef __x86_64__
enum { SYS_WRITE = 1, SYS_EXIT = 60 };
#else
enum { SYS_WRITE = 64, SYS_EXIT = 93 };
#endif

static void write_out(const void *data, long size) {
    const char *p = data;
    for (long r; size > 0; p += r, size -= r)
        if ((r = system_call(SYS_WRITE, 1, p, size)) <= 0) system_call(SYS_EXIT, 1, 0, 0);
}

// NaNs differ in sign and payload between ISAs; they are written as one.
#define WRITE(bits) do { \
    for (int i = 0; i < N; ++i) \
        if (y.f##bits[i] != y.f##bits[i]) y.f##bits[i] = from_bits_f##bits((uint##bits##_t)-1); \
    write_out(y.f##bits, sizeof y.f##bits); } while (0)

// Random bits: every exponent, both signs, infinities, NaNs; every second number has an exponent near that of 1.
static void fill(void) {
    uint64_t s = 88172645463325252u;
    for (int i = 0; i < 2 * N; ++i) {
        s ^= s << 13, s ^= s >> 7, s ^= s << 17;
        uint64_t u = s ^ s >> 29;
        if (i & 1) u = (u & 0x807fffffffffffff) | 0x3f80000000000000 | ((s & 7) << 52);
        (i < N ? a : b).f64[i % N] = from_bits_f64(u);
    }
}

static void narrow(void) {
    for (int i = 0; i < N; ++i) {
        uint32_t u = (uint32_t)(bits_f64(a.f64[i]) >> 32), v = (uint32_t)(bits_f64(b.f64[i]) >> 32);
        if (i & 1) u = (u & 0x807fffff) | 0x3d800000 | ((u & 15) << 23), v = (v & 0x807fffff) | 0x3f800000;
        a.f32[i] = from_bits_f32(u), b.f32[i] = from_bits_f32(v);
    }
}

#define RUN_F32(f) loop_##f##_f32(a.f32, y.f32, N); WRITE(32);
#define RUN_F64(f) loop_##f##_f64(a.f64, y.f64, N); WRITE(64);
#define RUN2_F32(f) loop_##f##_f32(a.f32, b.f32, y.f32, N); WRITE(32);
#define RUN2_F64(f) loop_##f##_f64(a.f64, b.f64, y.f64, N); WRITE(64);
#define RUN_CONVERT_F32(t, type) loop_f32_to_##t(a.f32, (type *)&y, N); write_out(&y, N * sizeof(type));
#define RUN_CONVERT_F64(t, type) loop_f64_to_##t(a.f64, (type *)&y, N); write_out(&y, N * sizeof(type));
#define RUN_WIDEN(name, from, to) loop_##name((const from *)&a, (to *)&y, N); write_out(&y, N * sizeof(to));

void start(void) {
    fill();
    FLOAT_FUNCTIONS(RUN_F64)
    BINARY_FUNCTIONS(RUN2_F64)
    CONVERSIONS(RUN_CONVERT_F64)
    narrow();
    FLOAT_FUNCTIONS(RUN_F32)
    RUN_F32(gelu)
    RUN_F32(mish)
    BINARY_FUNCTIONS(RUN2_F32)
    CONVERSIONS(RUN_CONVERT_F32)
    WIDENINGS(RUN_WIDEN)
    system_call(SYS_EXIT, 0, 0, 0);
}

#ifdef __riscv
__asm__(".globl _start\n_start:\n.option push\n.option norelax\nla gp, __global_pointer$\n.option pop\ncall start\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\nbl start\n");
#else
__asm__(".globl _start\n_start:\ncall start\n");
#endif

// Compilers turn loops into calls of these even in freestanding code.
void *memcpy(void *to, const void *from, size_t n) {
    char *t = to;
    const volatile char *f = from;
    for (size_t i = 0; i < n; ++i) t[i] = f[i];
    return to;
}

void *memset(void *to, int value, size_t n) {
    volatile char *t = to;
    for (size_t i = 0; i < n; ++i) t[i] = (char)value;
    return to;
}

#endif
