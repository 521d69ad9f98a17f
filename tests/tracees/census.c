/* census PART...: makes known, prime numbers of calls in ways that lose tracers, and prints the truth as one line
   "getppid personality": how many calls of getppid, and of personality with 0xffffffff, were made by everybody.
     threads     64 threads, 101 + 53 calls each
     forks=N     N children, at most 64 at once, 1 call each, that exit at once
     chain       23 links of vfork and exec of this program, one call each
     daemon      a double-forked daemon, 97 calls after its parents have ended
     swap        19 processes in which a thread that is not the first executes this program: 2 calls each
     compat      31 calls through int $0x80 (i386's getppid), from whatever program this is
     sleepers    3 children killed while they wait in pause(), 7 calls each before */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long getppids, personalities;
static char *self;

static void call(int n) { while (n-- > 0) syscall(SYS_getppid); }

static void *worker(void *unused) {
    call(101);
    for (int i = 0; i < 53; i++) syscall(SYS_personality, 0xffffffffUL);
    return unused;
}

static void threads(void) {
    pthread_t ids[64];
    for (int i = 0; i < 64; i++) if (pthread_create(&ids[i], 0, worker, 0)) exit(3);
    for (int i = 0; i < 64; i++) pthread_join(ids[i], 0);
    getppids += 64 * 101;
    personalities += 64 * 53;
}

static void forks(int n) {
    int running = 0;
    for (int i = 0; i < n; i++) {
        if (running == 64) { wait(0); running--; }
        pid_t pid = fork();
        if (pid < 0) exit(3);
        if (pid == 0) { call(1); _exit(0); }
        running++;
    }
    while (running-- > 0) wait(0);
    getppids += n;
}

static void run(const char *role, const char *number) {
    execl(self, self, role, number, (char *)0);
    _exit(3);
}

static void link_of_chain(int left) {
    char number[16];
    call(1);
    if (left <= 1) return;
    snprintf(number, sizeof number, "%d", left - 1);
    pid_t pid = vfork();
    if (pid == 0) run("=link", number);
    waitpid(pid, 0, 0);
}

static void *swapper(void *unused) { call(1); run("=swapped", "0"); return unused; }

static void swap(void) {
    for (int i = 0; i < 19; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            pthread_t id;
            pthread_create(&id, 0, swapper, 0);
            for (;;) pause();
        }
        waitpid(pid, 0, 0);
    }
    getppids += 19 * 2;
}

static void double_fork(void) {
    int ends[2];
    char byte;
    if (pipe(ends)) exit(3);
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        if (fork() > 0) _exit(0);
        usleep(20000);
        call(97);
        _exit(write(ends[1], "x", 1) != 1);
    }
    waitpid(pid, 0, 0);
    close(ends[1]);
    if (read(ends[0], &byte, 1) != 1) exit(3);
    getppids += 97;
}

static void sleepers(void) {
    for (int i = 0; i < 3; i++) {
        int ends[2];
        char byte;
        if (pipe(ends)) exit(3);
        pid_t pid = fork();
        if (pid == 0) { call(7); if (write(ends[1], "x", 1) == 1) for (;;) pause(); }
        if (read(ends[0], &byte, 1) != 1) exit(3);
        usleep(10000);
        kill(pid, SIGKILL);
        waitpid(pid, 0, 0);
    }
    getppids += 3 * 7;
}

static void compat(void) {
    long ret;
    for (int i = 0; i < 31; i++) {
#ifdef __x86_64__
        __asm__ volatile("int $0x80" : "=a"(ret) : "0"(64L) : "memory", "r8", "r9", "r10", "r11");
#else
        __asm__ volatile("int $0x80" : "=a"(ret) : "0"(64L) : "memory");
#endif
    }
    getppids += 31;
}

int main(int argc, char **argv) {
    self = argv[0];
    if (argc == 3 && !strcmp(argv[1], "=link")) { link_of_chain(atoi(argv[2])); return 0; }
    if (argc == 3 && !strcmp(argv[1], "=swapped")) { call(1); return 0; }
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "threads")) threads();
        else if (!strncmp(argv[i], "forks=", 6)) forks(atoi(argv[i] + 6));
        else if (!strcmp(argv[i], "chain")) { link_of_chain(23); getppids += 23; }
        else if (!strcmp(argv[i], "daemon")) double_fork();
        else if (!strcmp(argv[i], "swap")) swap();
        else if (!strcmp(argv[i], "compat")) compat();
        else if (!strcmp(argv[i], "sleepers")) sleepers();
        else return 2;
    }
    printf("%ld %ld\n", getppids, personalities);
    return 0;
}
