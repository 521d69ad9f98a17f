/* stops: what job control and signals look like from inside. Prints what it saw, which must not depend on being
   traced: a child stops itself by SIGSTOP, then by SIGTSTP, its parent sees both stops and both continuations; own
   SIGTRAPs, by kill and by a breakpoint instruction, reach the program's handler. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int traps;
static void on_trap(int signum) { (void)signum; traps++; }

static void show(pid_t child) {
    int status;
    if (waitpid(child, &status, WUNTRACED | WCONTINUED) != child) printf("nobody\n");
    else if (WIFSTOPPED(status)) printf("stopped %d\n", WSTOPSIG(status));
    else if (WIFCONTINUED(status)) printf("continued\n");
    else if (WIFSIGNALED(status)) printf("killed %d\n", WTERMSIG(status));
    else printf("exited %d\n", WEXITSTATUS(status));
}

int main(void) {
    int signals[2] = {SIGSTOP, SIGTSTP}, i, go[2];
    char byte = 0;
    pid_t child;
    setvbuf(stdout, 0, _IOLBF, 0);
    for (i = 0; i < 2; i++) {
        if (pipe(go)) return 2;
        if ((child = fork()) == 0) {
            setpgid(0, 0);
            signal(SIGTSTP, SIG_DFL);
            raise(signals[i]);
            /* Not before the parent has seen the continuation: it is gone once we have exited. */
            _exit(read(go[0], &byte, 1) == 1 ? 5 + i : 99);
        }
        show(child);
        kill(child, SIGCONT);
        show(child);
        if (write(go[1], &byte, 1) != 1) return 3;
        show(child);
        close(go[0]);
        close(go[1]);
    }
    if ((child = fork()) == 0) {
        raise(SIGTRAP);
        _exit(0);
    }
    show(child);
    signal(SIGTRAP, on_trap);
    raise(SIGTRAP);
#if defined(__x86_64__) || defined(__i386__)
    __asm__ volatile("int3");
#else
    raise(SIGTRAP);
#endif
    printf("traps %d\n", traps);
    return 0;
}
