/* outlive FILE [detach]: calls getppid until it fails with ENOSYS, then writes "ENOSYS after N other failures, M
   successes" to FILE; touches FILE.running after the first failure. "detach": does so in a session of its own,
   while the first process waits. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char name[4096], text[128];
    long failures = 0, successes = 0;
    if (argc < 2) return 2;
    if (argc > 2 && fork() > 0) { for (;;) pause(); }
    if (argc > 2) setsid();
    alarm(60);
    snprintf(name, sizeof name, "%s.running", argv[1]);
    for (;;) {
        if (syscall(SYS_getppid) >= 0) { successes++; continue; }
        if (errno == ENOSYS) break;
        if (!failures++) close(open(name, O_CREAT | O_WRONLY, 0600));
        usleep(1000);
    }
    int length = snprintf(text, sizeof text, "ENOSYS after %ld other failures, %ld successes\n",
                          failures, successes);
    snprintf(name, sizeof name, "%s.part", argv[1]);
    int fd = open(name, O_CREAT | O_WRONLY, 0600);
    if (write(fd, text, length) != length) return 3;
    close(fd);
    rename(name, argv[1]);
    return 0;
}
