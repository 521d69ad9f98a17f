/* restarts N: makes a refused call (getppid), prints its errno and its seccomp mode, then executes itself with N-1
   until N is 0, each second time from a child whose parent has ended (as a daemon that restarts does). */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char next[16];
    int left = argc > 1 ? atoi(argv[1]) : 0;
    long got = syscall(SYS_getppid);
    printf("%d %d\n", got < 0 ? errno : 0, prctl(PR_GET_SECCOMP));
    fflush(stdout);
    if (left == 0) return 0;
    snprintf(next, sizeof next, "%d", left - 1);
    if (left % 2 == 0) {
        pid_t pid = fork();
        if (pid > 0) { waitpid(pid, 0, 0); return 0; }
    }
    execl("/proc/self/exe", argv[0], next, (char *)0);
    return 3;
}
