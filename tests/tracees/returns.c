/* returns: 11 calls that fail, 7 that succeed, one pause and one sleep that a signal ends, and one sleep that is
   stopped, continued and goes on (restart_syscall). Prints "done" when all of it went as without a tracer. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int alarms;
static void on_alarm(int signum) { (void)signum; alarms++; }

int main(void) {
    struct itimerval soon = {{0, 0}, {0, 30000}};
    struct timespec nap = {0, 200000000};
    int i, good = 1;
    for (i = 0; i < 11; i++) good &= close(-1) == -1 && errno == EBADF;
    for (i = 0; i < 7; i++) good &= syscall(SYS_getsid, 0) > 0;
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &soon, 0);
    good &= syscall(SYS_pause) == -1 && errno == EINTR && alarms == 1;
    setitimer(ITIMER_REAL, &soon, 0);
    good &= syscall(SYS_nanosleep, &nap, 0) == -1 && errno == EINTR && alarms == 2;
    if (fork() == 0) {
        struct timespec moment = {0, 60000000};
        kill(getppid(), SIGSTOP);
        nanosleep(&moment, 0);
        kill(getppid(), SIGCONT);
        _exit(0);
    }
    good &= syscall(SYS_nanosleep, &nap, 0) == 0;
    wait(0);
    puts(good ? "done" : "bad");
    return 0;
}
