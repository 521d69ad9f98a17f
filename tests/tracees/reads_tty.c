/* reads_tty: one thread reads a line of the terminal all the time; once it is about to, the other makes a refused call
   (getppid) and prints its errno. At the end prints the line that was read. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char line[256];
static volatile int is_reading;

static void *reader(void *unused) {
    (void)unused;
    is_reading = 1;
    for (;;) {
        ssize_t length = read(0, line, sizeof line - 1);
        if (length > 0) { line[strcspn(line, "\r\n")] = 0; return 0; }
        usleep(10000);
    }
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, reader, 0);
    while (!is_reading) usleep(1000);
    usleep(50000);
    long got = syscall(SYS_getppid);
    printf("errno %d\n", got < 0 ? errno : 0);
    fflush(stdout);
    pthread_join(thread, 0);
    printf("line %s\n", line);
    return 0;
}
