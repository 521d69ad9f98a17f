/* daemon FILE SECONDS: leaves a process behind in a session of its own that makes 17 getppid calls, sleeps SECONDS
   (SIGTERM ends the sleep), writes "done" to FILE and ends. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void wake(int signum) { (void)signum; }

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    if (fork() > 0) return 0;
    setsid();
    signal(SIGTERM, wake);
    for (int i = 0; i < 17; i++) syscall(SYS_getppid);
    sleep(atoi(argv[2]));
    int fd = open(argv[1], O_CREAT | O_WRONLY, 0600);
    return write(fd, "done", 4) != 4;
}
