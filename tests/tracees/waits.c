/* waits KIND: says "ready", waits in one call, and says what came of it: "KIND: result errno=N late|early filters=N",
   where early means sooner than a timeout allows. Waits without a timeout end once stdin is closed: a child sees to that,
   which shares what is waited for. Prints "unknown" for a kind it does not know. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int fds[2], sockets[2], listener, sem, *word;
static struct sockaddr_in address;
static const double timeout = 1.5;
static const struct timespec wait_time = {1, 500000000};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void wake(const char *kind) {
    char byte = 'x';
    struct sembuf up = {0, 1, 0};
    *word = 1;
    if (write(fds[1], &byte, 1) != 1 || write(sockets[1], &byte, 1) != 1) _exit(1);
    syscall(SYS_futex, word, FUTEX_WAKE, 10, 0, 0, 0);
    if (!strcmp(kind, "accept")) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(s, (struct sockaddr *)&address, sizeof address) != 0) _exit(2);
    }
    semop(sem, &up, 1);
}

static long waits(const char *kind, int *timed) {
    char byte;
    struct epoll_event event = {.events = EPOLLIN};
    int e = epoll_create1(0);
    epoll_ctl(e, EPOLL_CTL_ADD, fds[0], &event);
    struct pollfd p = {fds[0], POLLIN, 0};
    struct sembuf down = {0, -1, 0};
    struct timespec t = wait_time, end;
    struct timeval tv = {1, 500000};
    fd_set set;
    sigset_t none, usr1;
    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    FD_ZERO(&set);
    FD_SET(fds[0], &set);
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += 2;
    if (!strcmp(kind, "read")) return read(fds[0], &byte, 1);
    if (!strcmp(kind, "poll")) return poll(&p, 1, -1);
    if (!strcmp(kind, "ppoll")) return ppoll(&p, 1, NULL, &usr1);
    if (!strcmp(kind, "select")) return select(fds[0] + 1, &set, NULL, NULL, NULL);
    if (!strcmp(kind, "epoll")) return epoll_wait(e, &event, 1, -1);
    if (!strcmp(kind, "epoll-pwait")) return epoll_pwait(e, &event, 1, -1, &usr1);
    if (!strcmp(kind, "futex")) return syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0);
    if (!strcmp(kind, "accept")) return accept(listener, NULL, NULL) >= 0;
    if (!strcmp(kind, "recv")) return recv(sockets[0], &byte, 1, 0);
    if (!strcmp(kind, "semop")) return semop(sem, &down, 1);
    if (!strcmp(kind, "waitpid")) return waitpid(-1, NULL, 0) > 0;
    *timed = 1;
    if (!strcmp(kind, "nanosleep")) return nanosleep(&t, NULL);
    if (!strcmp(kind, "clock-absolute")) return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL);
    if (!strcmp(kind, "poll-timeout")) { p.fd = -1; return poll(&p, 1, timeout * 1000); }
    if (!strcmp(kind, "ppoll-timeout")) return ppoll(NULL, 0, &t, &none);
    if (!strcmp(kind, "select-timeout")) return select(0, NULL, NULL, NULL, &tv);
    if (!strcmp(kind, "epoll-timeout")) return epoll_wait(e, &event, 1, timeout * 1000);
    if (!strcmp(kind, "futex-timeout")) return syscall(SYS_futex, word, FUTEX_WAIT, 0, &t, NULL, 0);
    if (!strcmp(kind, "sigtimedwait")) { sigprocmask(SIG_BLOCK, &usr1, NULL); return sigtimedwait(&usr1, NULL, &t); }
    if (!strcmp(kind, "semtimedop")) return semtimedop(sem, &down, 1, &t);
    if (!strcmp(kind, "recv-timeout")) {
        setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
        return recv(sockets[0], &byte, 1, 0);
    }
    printf("unknown\n");
    exit(9);
}

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "";
    socklen_t size = sizeof address;
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    sem = semget(IPC_PRIVATE, 1, 0600);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (pipe(fds) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) || bind(listener, (void *)&address, size)
        || listen(listener, 1) || getsockname(listener, (void *)&address, &size)) return 8;
    if (fork() == 0) {
        char byte;
        while (read(0, &byte, 1) > 0) {}
        wake(kind);
        _exit(0);
    }
    printf("ready\n");
    fflush(stdout);
    int timed = 0;
    double begin = now();
    errno = 0;
    long result = waits(kind, &timed);
    int number = errno;
    const char *when = timed && now() - begin < timeout ? "early" : "late";
    semctl(sem, 0, IPC_RMID);
    char line[256];
    int filters = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status)) sscanf(line, "Seccomp_filters: %d", &filters);
    printf("%s: %ld errno=%d %s filters=%d\n", kind, result, number, when, filters);
    return 0;
}
