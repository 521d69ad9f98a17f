/* crowd THREADS|CHILDREN WORKERS CALLS: WORKERS threads or children (at most 64 at once) make CALLS getppid calls
   each; prints how many failed with EPERM (counted in the threads, or from the exit statuses of the children). */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int calls;

static long make_calls(void) {
    long failed = 0;
    for (int i = 0; i < calls; i++)
        if (syscall(SYS_getppid) < 0 && errno == EPERM) failed++;
    return failed;
}

static void *worker(void *unused) { (void)unused; return (void *)make_calls(); }

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    int workers = atoi(argv[2]), running = 0, status;
    long failed = 0;
    calls = atoi(argv[3]);
    if (!strcmp(argv[1], "threads")) {
        pthread_t *threads = calloc(workers, sizeof *threads);
        for (int i = 0; i < workers; i++) if (pthread_create(&threads[i], 0, worker, 0)) return 3;
        for (int i = 0; i < workers; i++) { void *got; pthread_join(threads[i], &got); failed += (long)got; }
    } else {
        for (int i = 0; i < workers; i++) {
            if (running == 64) { if (wait(&status) > 0) failed += WEXITSTATUS(status); running--; }
            pid_t pid = fork();
            if (pid < 0) return 3;
            if (pid == 0) _exit((int)make_calls());
            running++;
        }
        while (running-- > 0) if (wait(&status) > 0) failed += WEXITSTATUS(status);
    }
    printf("failed %ld\n", failed);
    return 0;
}
