/* vforks N FILE...: N times vfork and exec of FILE..., waiting for each; prints how many ended with status 0. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int good = 0, status;
    for (int i = argc > 2 ? atoi(argv[1]) : 0; i > 0; i--) {
        pid_t pid = vfork();
        if (pid == 0) {
            execv(argv[2], argv + 2);
            _exit(127);
        }
        if (waitpid(pid, &status, 0) == pid && status == 0) good++;
    }
    printf("%d\n", good);
    return 0;
}
