/* untraced clone|clone3: starts a child that tracers are not told of (CLONE_UNTRACED) and waits for it. */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_UNTRACED
#define CLONE_UNTRACED 0x00800000
#endif

int main(int argc, char **argv) {
    long pid;
    if (argc > 1 && strcmp(argv[1], "clone3") == 0) {
        struct clone_args args = {.flags = CLONE_UNTRACED, .exit_signal = SIGCHLD};
        pid = syscall(SYS_clone3, &args, sizeof args);
    } else {
        pid = syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
    }
    if (pid == 0) _exit(0);
    return pid < 0 || waitpid(pid, 0, 0) != pid;
}
