/* pushes_tty: pushes "o 0000", "o", "y" and the like into the terminal's input with TIOCSTI, from a thread and before,
   while it makes a refused call (getppid); prints its errno. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int is_done;

static void push(void) {
    for (const char *at = "o 0000\na 0000\no\na\ny\n"; *at; at++) ioctl(0, TIOCSTI, at);
}

static void *pusher(void *unused) {
    (void)unused;
    while (!is_done) { push(); usleep(20000); }
    return 0;
}

int main(void) {
    pthread_t thread;
    signal(SIGTTOU, SIG_IGN);
    push();
    pthread_create(&thread, 0, pusher, 0);
    long got = syscall(SYS_getppid);
    is_done = 1;
    printf("errno %d\n", got < 0 ? errno : 0);
    fflush(stdout);
    pthread_join(thread, 0);
    return 0;
}
