/* leaver CHILDREN: each child has threads that call getppid for ever while it ends by SIGKILL, exit_group or exec,
   at a time that differs from child to child, so that some end between notification and answer. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *caller(void *unused) { for (;;) syscall(SYS_getppid); return unused; }

int main(int argc, char **argv) {
    int children = argc > 1 ? atoi(argv[1]) : 1, ended = 0, status;
    for (int i = 0; i < children; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            pthread_t thread;
            struct timespec pause = {0, 1000 + 7919L * (i % 97)};
            pthread_create(&thread, 0, caller, 0);
            pthread_create(&thread, 0, caller, 0);
            nanosleep(&pause, 0);
            if (i % 3 == 0) kill(getpid(), SIGKILL);
            if (i % 3 == 1) execl("/bin/true", "true", (char *)0);
            _exit(0);
        }
        if (waitpid(pid, &status, 0) == pid) ended++;
    }
    printf("ended %d\n", ended);
    return 0;
}
