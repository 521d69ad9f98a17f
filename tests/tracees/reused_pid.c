/* reused_pid ROUND: as the init of a pid namespace, lets two programs make a refused call (getppid) one after the
   other under one and the same process id: itself in a child, then itself under another name ("other", found
   beside it). Prints "same" when the ids were the same. Needs CAP_CHECKPOINT_RESTORE for ns_last_pid. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t child_with(pid_t wanted, const char *program) {
    char text[32];
    int fd = open("/proc/sys/kernel/ns_last_pid", O_RDWR), length = snprintf(text, sizeof text, "%d", wanted - 1);
    if (fd < 0 || write(fd, text, length) != length) { perror("ns_last_pid"); _exit(3); }
    close(fd);
    pid_t pid = fork();
    if (pid == 0) {
        if (program) { execl(program, program, "call", (char *)0); _exit(4); }
        syscall(SYS_getppid);
        _exit(0);
    }
    waitpid(pid, 0, 0);
    return pid;
}

int main(int argc, char **argv) {
    char other[4096];
    if (argc > 1 && !strcmp(argv[1], "call")) { syscall(SYS_getppid); return 0; }
    snprintf(other, sizeof other, "%.*s/other", (int)(strrchr(argv[0], '/') - argv[0]), argv[0]);
    pid_t first = child_with(300, 0), second = child_with(300, other);
    puts(first == second ? "same" : "different");
    return 0;
}
