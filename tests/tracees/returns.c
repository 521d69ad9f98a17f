/* returns: 11 calls that fail, 7 that succeed, one pause and one sleep that a signal ends, and one sleep that is
   stopped, continued and goes on (restart_syscall). Prints "done" when all of it went as without a tracer.
   The child sends each signal only once the parent is seen asleep, so that no load can make it come too early. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int alarms;
static void on_alarm(int signum) { (void)signum; alarms++; }

/* Until the parent has reached `stage` and sleeps. One descriptor, never closed: close is counted above. */
static void await_sleep(int stat, volatile int *reached, int stage) {
    for (;;) {
        char text[512];
        ssize_t size = *reached == stage ? pread(stat, text, sizeof text - 1, 0) : 0;
        if (size > 0) {
            text[size] = 0;
            char *state = strrchr(text, ')');
            if (state && state[2] == 'S') return;
        }
        usleep(2000);
    }
}

int main(void) {
    struct timespec minute = {60, 0}, nap = {1, 500000000};
    volatile int *reached = mmap(0, sizeof *reached, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t parent = getpid();
    int i, good = 1;
    for (i = 0; i < 11; i++) good &= close(-1) == -1 && errno == EBADF;
    for (i = 0; i < 7; i++) good &= syscall(SYS_getsid, 0) >= 0; /* 0 where no setsid(2) came before: init's own */
    signal(SIGALRM, on_alarm);
    if (fork() == 0) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/stat", parent);
        int stat = open(path, O_RDONLY);
        await_sleep(stat, reached, 1);
        kill(parent, SIGALRM);
        await_sleep(stat, reached, 2);
        kill(parent, SIGALRM);
        await_sleep(stat, reached, 3);
        kill(parent, SIGSTOP);
        usleep(20000);
        kill(parent, SIGCONT);
        _exit(0);
    }
    *reached = 1;
    good &= syscall(SYS_pause) == -1 && errno == EINTR && alarms == 1;
    *reached = 2;
    good &= syscall(SYS_nanosleep, &minute, 0) == -1 && errno == EINTR && alarms == 2;
    *reached = 3;
    good &= syscall(SYS_nanosleep, &nap, 0) == 0;
    wait(0);
    puts(good ? "done" : "bad");
    return 0;
}
