/* threads FILE...: five threads make seven getppid calls each; then, from a thread that is not the leader, execs its
   arguments while two others go on calling getpgrp. Without arguments it ends normally. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static char **next;

static void *calls(void *unused) { for (int i = 0; i < 7; i++) syscall(SYS_getppid); return unused; }
static void *forever(void *unused) { for (;;) syscall(SYS_getpgrp); return unused; }
static void *becomes(void *unused) {
    execv("/nonexistent/program", next); /* fails: the program stays what it is */
    syscall(SYS_getuid);
    execv(next[0], next);
    exit(9);
    return unused;
}

int main(int argc, char **argv) {
    pthread_t threads[5], last;
    for (int i = 0; i < 5; i++) pthread_create(&threads[i], 0, calls, 0);
    for (int i = 0; i < 5; i++) pthread_join(threads[i], 0);
    if (argc < 2) return 0;
    next = argv + 1;
    pthread_create(&last, 0, forever, 0);
    pthread_create(&last, 0, forever, 0);
    pthread_create(&last, 0, becomes, 0);
    for (;;) syscall(SYS_getpgrp);
}
