/* becomes N: N times over, threads compute while one of them, not the first, executes this program again with N - 1; at the
   end it says "done" and ends with status 0. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static char number[16], *next[3];

static void *calls(void *unused) { for (;;) syscall(SYS_getppid); return unused; }
static void *sleeps(void *unused) { for (;;) usleep(100); return unused; }
static void *executes(void *unused) { usleep(2000); execv("/proc/self/exe", next); exit(9); return unused; }

int main(int argc, char **argv) {
    int left = argc > 1 ? atoi(argv[1]) : 0;
    pthread_t thread;
    if (left == 0) { printf("done\n"); return 0; }
    snprintf(number, sizeof number, "%d", left - 1);
    next[0] = argv[0];
    next[1] = number;
    pthread_create(&thread, 0, calls, 0);
    pthread_create(&thread, 0, sleeps, 0);
    pthread_create(&thread, 0, executes, 0);
    for (;;) pause();
}
