/* signals [block]: prints what it was started with (blocked and ignored signals, as hexadecimal sets), then "ready";
   ends with status 40 + N at the first signal N it can catch. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static void end(int signum) { _exit(40 + signum); }

int main(void) {
    unsigned long long blocked = 0, ignored = 0;
    sigset_t now;
    sigprocmask(SIG_SETMASK, 0, &now);
    for (int i = 1; i < 65; i++) {
        struct sigaction old;
        if (sigismember(&now, i) == 1) blocked |= 1ull << (i - 1);
        if (sigaction(i, 0, &old) == 0 && old.sa_handler == SIG_IGN) ignored |= 1ull << (i - 1);
    }
    printf("%llx %llx\n", blocked, ignored);
    for (int i = 1; i < 32; i++) signal(i, end);
    printf("ready\n");
    fflush(stdout);
    for (int i = 0; i < 60; i++) sleep(1);
    return 1;
}
