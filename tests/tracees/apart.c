/* apart FIRST SECOND: FIRST and SECOND are how many filters that allow everything the first thread, and then a second one,
   install each for itself. Says "ready"; ends with status 0 when its stdin is closed. */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static void install(int count) {
    struct sock_filter allow = {0x06, 0, 0, SECCOMP_RET_ALLOW};
    struct sock_fprog program = {1, &allow};
    if (count) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    while (count-- > 0) if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) exit(3);
}

static pthread_barrier_t met;

static void *second(void *count) {
    install(atoi(count));
    pthread_barrier_wait(&met);
    for (;;) pause();
    return count;
}

int main(int argc, char **argv) {
    pthread_t other;
    char byte;
    if (argc < 3) return 2;
    pthread_barrier_init(&met, 0, 2);
    pthread_create(&other, 0, second, argv[2]);
    pthread_barrier_wait(&met);
    install(atoi(argv[1]));
    printf("ready\n");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {}
    _exit(0);
}
