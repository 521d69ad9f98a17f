/* busy THREADS: computes, calls, sleeps, waits and signals itself in many threads, checks in each that nothing of it was
   lost or changed, and ends with a summary once its stdin is closed. Status 0 when all was well; anything else is said on
   stderr. Each thread keeps values in general and vector registers and on its stack across its calls; timers and
   pthread_kill interrupt it with SIGUSR1 and SIGALRM all the time; some threads wait without end until they are woken. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(what) do { if (!(what)) { dprintf(2, "%s:%d: %s (errno %d)\n", __func__, __LINE__, #what, errno); \
    _exit(9); } } while (0)

static atomic_int stop;
static atomic_ulong rounds, handled;
static int link_fds[2];

/* Queued signals arrive in their order, none twice and none not. */
static _Thread_local volatile int queued;
static void counts(int signum, siginfo_t *info, void *context) {
    CHECK(info->si_value.sival_int == queued + 1);
    queued++;
    (void)signum, (void)context;
}

static void handler(int signum) { int kept = errno; handled++; syscall(SYS_gettid); errno = kept; (void)signum; }

/* Values in all callee-saved and some vector registers survive a syscall and what happens around it. */
static void registers(uint64_t seed) {
    uint64_t a = seed, b = ~seed, c = seed * 3, d = seed * 5, x = 0, y = 0;
    __asm__ volatile(
        "movq %[a], %%xmm6\n movq %[b], %%xmm15\n mov %[a], %%r12\n mov %[b], %%r13\n mov %[c], %%r14\n mov %[d], %%rbx\n"
        "mov $39, %%eax\n syscall\n" /* getpid */
        "xor %[a], %%r12\n xor %[b], %%r13\n xor %[c], %%r14\n xor %[d], %%rbx\n"
        "or %%r13, %%r12\n or %%r14, %%r12\n or %%rbx, %%r12\n mov %%r12, %[x]\n"
        "movq %%xmm6, %%r12\n xor %[a], %%r12\n movq %%xmm15, %%r13\n xor %[b], %%r13\n or %%r13, %%r12\n mov %%r12, %[y]\n"
        : [x] "=&m"(x), [y] "=&m"(y) : [a] "D"(a), [b] "S"(b), [c] "d"(c), [d] "r"(d)
        : "rax", "rcx", "r11", "r12", "r13", "r14", "rbx", "xmm6", "xmm15", "memory");
    CHECK(x == 0);
    CHECK(y == 0);
}

/* Nothing writes into the red zone, nor into a frame. */
static uint64_t stack(uint64_t seed) {
    volatile uint64_t frame[300];
    for (int i = 0; i < 300; i++) frame[i] = seed + i;
    uint64_t red = 0;
    __asm__ volatile("movq %1, -8(%%rsp)\n movq %1, -128(%%rsp)\n mov $20000, %%ecx\n 1: dec %%ecx\n jnz 1b\n"
        "movq -8(%%rsp), %0\n xor -128(%%rsp), %0\n" : "=&r"(red) : "r"(seed) : "rcx", "memory");
    CHECK(red == 0);
    for (int i = 0; i < 300; i++) CHECK(frame[i] == seed + i);
    return frame[7];
}

static void *works(void *number) {
    uint64_t seed = (uint64_t)number * 1000003, n = 0;
    int e = epoll_create1(0), wake = eventfd(0, EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN};
    CHECK(e >= 0 && wake >= 0 && epoll_ctl(e, EPOLL_CTL_ADD, wake, &event) == 0);
    while (!stop) {
        registers(seed + n);
        CHECK(stack(seed + n) == seed + n + 7);
        struct timespec sleep = {0, 300000}, left = {9, 9}, begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        while (nanosleep(&sleep, &left) != 0) { CHECK(errno == EINTR); sleep = left; }
        clock_gettime(CLOCK_MONOTONIC, &end);
        CHECK((end.tv_sec - begin.tv_sec) * 1000000000L + end.tv_nsec - begin.tv_nsec >= 300000);
        int got = epoll_wait(e, &event, 1, 1);
        CHECK(got == 0 || (got == -1 && errno == EINTR));
        struct pollfd p = {wake, POLLIN, 0};
        got = poll(&p, 1, 1);
        CHECK(got == 0 || (got == -1 && errno == EINTR));
        uint64_t out = seed + n, in = 0;
        int pipes[2];
        CHECK(pipe(pipes) == 0 && write(pipes[1], &out, 8) == 8 && read(pipes[0], &in, 8) == 8 && in == out);
        close(pipes[0]);
        close(pipes[1]);
        for (int before = queued, i = 1; i <= 3; i++) {
            CHECK(pthread_sigqueue(pthread_self(), SIGRTMIN, (union sigval){.sival_int = before + i}) == 0);
            CHECK(queued == before + i);
        }
        if (n % 7 == 0) pthread_kill(pthread_self(), SIGUSR1);
        rounds++;
        n++;
    }
    close(e);
    close(wake);
    return NULL;
}

/* Waits in read without end, and without a signal handler's EINTR: SA_RESTART, so it must never see one. */
static void *reads(void *unused) {
    uint64_t value, next = 1;
    for (;;) {
        ssize_t got = read(link_fds[0], &value, sizeof value);
        CHECK(got == sizeof value);
        if (value == 0) return unused;
        CHECK(value == next++);
    }
}

/* Threads that come and go, and children. */
static void *brief(void *number) { registers((uint64_t)number); return number; }

static void *spawns(void *unused) {
    for (uint64_t n = 1; !stop; n++) {
        pthread_t other;
        void *back;
        CHECK(pthread_create(&other, NULL, brief, (void *)n) == 0);
        CHECK(pthread_join(other, &back) == 0 && back == (void *)n);
        if (n % 16 == 0) {
            int status;
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) _exit(42);
            while (waitpid(child, &status, 0) != child) CHECK(errno == EINTR);
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
        }
        usleep(500);
    }
    return unused;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 4;
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    struct sigaction counting = {.sa_sigaction = counts, .sa_flags = SA_RESTART | SA_SIGINFO};
    sigaction(SIGRTMIN, &counting, NULL);
    struct itimerval often = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_REAL, &often, NULL);
    CHECK(pipe(link_fds) == 0);
    pthread_t threads[64], reader, spawner;
    for (long i = 0; i < count; i++) CHECK(pthread_create(&threads[i], NULL, works, (void *)(i + 1)) == 0);
    CHECK(pthread_create(&reader, NULL, reads, NULL) == 0);
    CHECK(pthread_create(&spawner, NULL, spawns, NULL) == 0);
    printf("ready\n");
    fflush(stdout);
    /* The first thread hands numbers to the reader while it waits for the end of its stdin. */
    uint64_t value = 0, zero = 0;
    for (;;) {
        struct pollfd p = {0, POLLIN | POLLHUP, 0};
        int got = poll(&p, 1, 5);
        CHECK(got >= 0 || errno == EINTR);
        if (got > 0) { char byte; if (read(0, &byte, 1) == 0) break; }
        value++;
        CHECK(write(link_fds[1], &value, sizeof value) == sizeof value);
    }
    stop = 1;
    for (int i = 0; i < count; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(pthread_join(spawner, NULL) == 0);
    CHECK(write(link_fds[1], &zero, sizeof zero) == sizeof zero);
    CHECK(pthread_join(reader, NULL) == 0);
    printf("well: %s\n", rounds > 0 && handled > 0 ? "yes" : "nothing was done");
    return 0;
}
