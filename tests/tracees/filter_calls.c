/* filter_calls FILTER CALLS RESULTS [FILTER]...: installs filters and makes a list of calls under them.
   FILTER: an array of struct sock_filter; those after RESULTS are installed first, in their order. "-" is none. CALLS: records of eight 64-bit numbers: way in (0: syscall, 1: int $0x80),
   nr, six arguments. RESULTS: for each call one 64-bit number is written: what it returned, or 2^32 + si_errno when it
   was trapped. The filters have to allow rt_sigreturn and exit_group, those before the last seccomp too. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int64_t trapped;

static void on_sigsys(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    trapped = ((int64_t)1 << 32) + info->si_errno;
}

static int64_t native(const uint64_t *c) {
    register uint64_t r10 __asm__("r10") = c[5];
    register uint64_t r8 __asm__("r8") = c[6];
    register uint64_t r9 __asm__("r9") = c[7];
    int64_t result;
    __asm__ volatile("syscall" : "=a"(result) : "0"(c[1]), "D"(c[2]), "S"(c[3]), "d"(c[4]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static int64_t compat(const uint64_t *c) {
    /* The sixth argument travels in ebp, which C code cannot name: it is swapped in around the call, from the record,
       whose address is in r12. */
    int64_t result;
    register const uint64_t *at __asm__("r12") = c;
    __asm__ volatile("push %%rbp; mov 56(%%r12), %%rbp; int $0x80; pop %%rbp"
                     : "=a"(result)
                     : "0"(c[1]), "b"(c[2]), "c"(c[3]), "d"(c[4]), "S"(c[5]), "D"(c[6]), "r"(at)
                     : "r8", "r9", "r10", "r11", "memory");
    return result;
}

static void *map(const char *path, int writable, size_t *size) {
    struct stat info;
    int fd = open(path, writable ? O_RDWR : O_RDONLY);
    if (fd < 0 || fstat(fd, &info) != 0) _exit(2);
    *size = info.st_size;
    void *at = mmap(NULL, *size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED) _exit(2);
    return at;
}

int main(int argc, char **argv) {
    size_t calls_size, results_size;
    if (argc < 4) return 2;
    const uint64_t(*calls)[8] = map(argv[2], 0, &calls_size);
    int64_t *results = map(argv[3], 1, &results_size);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_sigsys;
    action.sa_flags = SA_SIGINFO;
    if (sigaction(SIGSYS, &action, NULL) != 0) return 2;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 2;
    struct sock_fprog programs[16];
    int count = 0;
    for (int i = 4; i <= argc && count < 16; i++) {
        const char *path = i < argc ? argv[i] : argv[1];
        size_t size;
        if (strcmp(path, "-") == 0) continue;
        programs[count].filter = map(path, 0, &size);
        programs[count++].len = (unsigned short)(size / sizeof(struct sock_filter));
    }
    for (int i = 0; i < count; i++)
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &programs[i]) != 0) return 3;
    for (size_t i = 0; i < calls_size / sizeof *calls; i++) {
        trapped = 0;
        int64_t result = calls[i][0] ? compat(calls[i]) : native(calls[i]);
        results[i] = trapped ? trapped : result;
    }
    _exit(0);
}
