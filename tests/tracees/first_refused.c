/* first_refused none|calls|die: prints its pid and waits for a line on stdin, while four threads wait without any call.
   Then, unless told "none", those make 23 different calls, the first of which is the first call each of them makes since.
   For "die" nothing is waited for; else the number of calls that were refused or trapped is printed once all
   are made. Ends at the next line. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS 4

static const struct { long nr, a, b, c; } calls[] = {
    {SYS_socket, 16, 3, 0}, {SYS_socket, 16, 3, 4}, {SYS_socket, 16, 3, 6}, {SYS_socket, 16, 3, 9},
    {SYS_socket, 16, 3, 12}, {SYS_socket, 17, 3, 0}, {SYS_socket, 40, 1, 0}, {SYS_socket, 38, 5, 0},
    {SYS_unshare, 0x10000000}, {SYS_unshare, 0x20000}, {SYS_unshare, 0x40000000}, {SYS_unshare, 0x4000000},
    {SYS_unshare, 0x8000000}, {SYS_personality, 0x40000}, {SYS_personality, 0x400000}, {SYS_personality, 0x8},
    {SYS_personality, 0xffffffff}, {SYS_memfd_create, 0, 1}, {SYS_memfd_create, 0, 2}, {SYS_memfd_create, 0, 4},
    {SYS_memfd_create, 0, 8}, {SYS_memfd_create, 0, 16}, {SYS_memfd_create, 0, 3},
};
#define CALLS ((int)(sizeof calls / sizeof calls[0]))

static volatile int go, is_none;
static int refused, done;

static void trapped(int signum) { (void)signum; __atomic_add_fetch(&refused, 1, __ATOMIC_SEQ_CST); }

static void *thread(void *first) {
    while (!go) __builtin_ia32_pause();
    for (int i = (int)(long)first; i < CALLS && !is_none; i += THREADS) {
        errno = 0;
        if (syscall(calls[i].nr, calls[i].a, calls[i].b, calls[i].c) < 0 && (errno == EPERM || errno == ENOSYS))
            __atomic_add_fetch(&refused, 1, __ATOMIC_SEQ_CST);
    }
    __atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
    for (;;) pause();
    return 0;
}

int main(int argc, char **argv) {
    pthread_t id;
    char byte;
    int is_last = argc > 1 && !strcmp(argv[1], "die");

    if (nice(19) == -1) return 4; /* they would keep whoever starts the watch waiting */
    is_none = argc > 1 && !strcmp(argv[1], "none");
    if (argc > 2) signal(SIGSYS, trapped);
    for (long i = 0; i < THREADS; i++) if (pthread_create(&id, 0, thread, (void *)i)) return 3;
    printf("%d\n", getpid());
    fflush(stdout);
    if (read(0, &byte, 1) != 1) return 2;
    go = 1;
    while (!is_last && __atomic_load_n(&done, __ATOMIC_SEQ_CST) < THREADS) __builtin_ia32_pause();
    printf("%d\n", refused);
    fflush(stdout);
    while (read(0, &byte, 1) == 1 && byte != '\n') ;
    _exit(0);
}
