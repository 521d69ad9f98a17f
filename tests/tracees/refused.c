/* refused NETLINK UNIX PARENT: makes that many socket(AF_NETLINK), socket(AF_UNIX) and getppid calls and prints
   for each kind how many failed, and with which errno the last one did (0: none failed). */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void report(const char *what, int failed, int error) { printf("%s %d %d\n", what, failed, error); }

int main(int argc, char **argv) {
    int counts[3] = {0, 0, 0}, failed = 0, error = 0, i;
    for (i = 0; i < 3 && i + 1 < argc; i++) counts[i] = atoi(argv[i + 1]);
    for (i = 0; i < counts[0]; i++) {
        int fd = syscall(SYS_socket, 16, 3, 0);
        if (fd < 0) failed++, error = errno; else close(fd);
    }
    report("netlink", failed, error);
    failed = error = 0;
    for (i = 0; i < counts[1]; i++) {
        /* the upper half of an int argument is garbage, different each time */
        int fd = syscall(SYS_socket, (long)(sizeof(long) == 8 ? (unsigned long)(i + 1) << 32 | 1 : 1), 1, 0);
        if (fd < 0) failed++, error = errno; else close(fd);
    }
    report("unix", failed, error);
    failed = error = 0;
    for (i = 0; i < counts[2]; i++) {
        errno = 0;
        if (syscall(SYS_getppid, 0, 0, 0, 0, 0, 0) < 0) failed++, error = errno; /* no garbage in registers */
    }
    report("parent", failed, error);
    return 0;
}
