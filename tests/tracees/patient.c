/* patient N: prints its pid, waits for a line on stdin, asks N times for a netlink socket and prints how often that
   failed with EPERM; then waits for the end of stdin. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char byte;
    int refused = 0, n = argc > 1 ? atoi(argv[1]) : 0;
    printf("%d\n", getpid());
    fflush(stdout);
    if (read(0, &byte, 1) != 1) return 2;
    for (int i = 0; i < n; i++) if (socket(AF_NETLINK, SOCK_RAW, 12) < 0 && errno == EPERM) refused++;
    printf("%d\n", refused);
    fflush(stdout);
    while (read(0, &byte, 1) == 1) ;
    return 0;
}
