/* sequence [alone]: a thread (alone: the only one) spins inside a restartable sequence (rseq(2)), which whatever interrupts
   it aborts, and begins anew. Says "ready". Once stdin is closed, alone at SIGUSR1, it says whether the sequence was
   aborted, status 0. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/rseq.h>
#include <unistd.h>

static atomic_int stop;
static uint64_t aborts;

static int is_alone;

static void end(int signum) { (void)signum; if (is_alone) stop = 1; }

static void *spins(void *unused) {
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    while (!stop)
        __asm__ volatile(
            ".pushsection .data\n .balign 32\n 9: .long 0, 0\n .quad 1f, 2f - 1f, 4f\n .popsection\n"
            "lea 9b(%%rip), %%rax\n mov %%rax, %0\n"
            "1: jmp 1b\n nop\n 2: jmp 5f\n"
            ".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n" /* RSEQ_SIG */
            "4: incq %1\n 5:\n"
            : "=m"(area->rseq_cs), "+m"(aborts) : : "rax", "memory", "cc");
    return unused;
}

int main(int argc, char **argv) {
    pthread_t thread;
    char byte;
    if (__rseq_size == 0) { printf("none\n"); return 9; }
    is_alone = argc > 1 && !strcmp(argv[1], "alone");
    signal(SIGUSR1, end);
    printf("ready\n");
    fflush(stdout);
    if (is_alone) {
        spins(NULL);
    } else {
        pthread_create(&thread, NULL, spins, NULL);
        while (read(0, &byte, 1) > 0) {}
        stop = 1;
        pthread_kill(thread, SIGUSR1);
        pthread_join(thread, NULL);
    }
    printf("aborted: %s\n", aborts > 0 ? "yes" : "no");
    return 0;
}
