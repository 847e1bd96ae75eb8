/* Preloaded, it has this process's CPUID tell of another x86-64 processor: OTHER_CPU=intel | amd.

   Linux lets the instruction fault where the processor can (arch_prctl, ARCH_SET_CPUID); the handler puts in what
   differs: AMD's name, no AVX-512 and nothing newer, other caches. What libraries choose kernels and block sizes by is
   then as on such a machine. How an instruction rounds is not: the estimates of rsqrtps stay this processor's. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

static int amd;

static void ask(unsigned leaf, unsigned part, unsigned *found) {
    __asm__ volatile("cpuid"
                     : "=a"(found[0]), "=b"(found[1]), "=c"(found[2]), "=d"(found[3])
                     : "a"(leaf), "c"(part));
}

static void set_cache(unsigned *found, unsigned kib, unsigned ways) {
    found[1] = ((ways - 1) << 22) | 63; /* lines of 64 bytes */
    found[2] = kib * 1024 / 64 / ways - 1;
}

static void change(unsigned leaf, unsigned part, unsigned *found) {
    if (leaf == 0 && amd) {
        found[1] = 0x68747541, found[3] = 0x69746e65, found[2] = 0x444d4163; /* AuthenticAMD */
    } else if (leaf == 4) {
        unsigned kind = found[0] & 31, level = (found[0] >> 5) & 7;
        if (level == 1 && kind == 1) set_cache(found, 32, 8);
        if (level == 2) set_cache(found, amd ? 512 : 256, 8);
        if (level == 3) set_cache(found, 32768, 16);
    } else if (leaf == 7 && part == 0) {
        found[0] = 0;
        found[1] &= ~0xDC230000u; /* AVX-512 */
        found[2] &= ~0x00005F42u;
        found[3] &= ~0x03C0010Cu; /* AVX-512 and AMX */
    } else if (leaf == 7) {
        memset(found, 0, 4 * sizeof *found); /* AVX-VNNI and newer */
    }
}

static void on_fault(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned char *code = (void *)registers[REG_RIP];
    unsigned leaf = registers[REG_RAX], part = registers[REG_RCX], found[4];
    (void)info;
    if (code[0] != 0x0f || code[1] != 0xa2) { /* a true fault */
        signal(number, SIG_DFL);
        return;
    }
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    ask(leaf, part, found);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    change(leaf, part, found);
    registers[REG_RAX] = found[0], registers[REG_RBX] = found[1];
    registers[REG_RCX] = found[2], registers[REG_RDX] = found[3];
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("OTHER_CPU");
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (!name) return;
    amd = strcmp(name, "amd") == 0;
    sigaction(SIGSEGV, &action, 0);
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) _exit(77); /* this processor cannot */
}
