// limit_cpu.c -- preloaded into a process, lets it see a processor with AVX2 and FMA and nothing beyond.
//
// Runtimes choose kernels by the CPUID instruction, and some can't be told otherwise. Linux can make that instruction
// trap (arch_prctl(ARCH_CPUID_SET), where /proc/cpuinfo lists cpuid_fault); the handler executes it in the place of the
// program and takes off the bits of AVX-512, AMX and AVX-VNNI. Threads and forks inherit it. Linux on x86-64 only.
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_CPUID_SET 0x1012

// By leaf and subleaf, what is taken off EAX, EBX, ECX, EDX.
static const struct {
    uint32_t leaf, subleaf, off[4];
} hidden[] = {
    // AVX512 F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ;
    // 4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8
    {7, 0, {0, 0xdc230000, 0x5842, 0x03c0010c}},
    // AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA; AVX-VNNI-INT8, AVX-NE-CONVERT, AMX-COMPLEX, AVX-VNNI-INT16, AVX10
    {7, 1, {0x00a00030, 0, 0, 0x00080530}},
};

static void answer(int signal_number, siginfo_t *info, void *context) {
    (void)info;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)r[REG_RIP];
    if (at[0] != 0x0f || at[1] != 0xa2) {  // a real fault: it comes again, without this handler
        signal(signal_number, SIG_DFL);
        return;
    }
    uint32_t leaf = (uint32_t)r[REG_RAX], subleaf = (uint32_t)r[REG_RCX], found[4];
    syscall(SYS_arch_prctl, ARCH_CPUID_SET, 1);
    __asm__ volatile("cpuid" : "=a"(found[0]), "=b"(found[1]), "=c"(found[2]), "=d"(found[3]) : "a"(leaf), "c"(subleaf));
    syscall(SYS_arch_prctl, ARCH_CPUID_SET, 0);
    for (unsigned i = 0; i < sizeof hidden / sizeof *hidden; i++)
        for (int j = 0; j < 4 && hidden[i].leaf == leaf && hidden[i].subleaf == subleaf; j++)
            found[j] &= ~hidden[i].off[j];
    r[REG_RAX] = found[0], r[REG_RBX] = found[1], r[REG_RCX] = found[2], r[REG_RDX] = found[3];
    r[REG_RIP] += 2;
}

__attribute__((constructor)) static void limit(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (sigaction(SIGSEGV, &action, 0) || syscall(SYS_arch_prctl, ARCH_CPUID_SET, 0)) {
        fputs("limit_cpu: this processor or system cannot trap CPUID\n", stderr);
        _exit(78);
    }
}
