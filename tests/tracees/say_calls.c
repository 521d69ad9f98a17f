/* say_calls: makes prime numbers of calls by hand and prints what a tracer must have recorded of them, one
   "ARCH NR COUNT ARG0 ARG1 ARG2" a line ("-": the argument is not kept). Built for x86-64 it also enters the
   kernel as i386 does. Numbers that libc does not use by itself here. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __x86_64__
#define ARCH "x86_64"
static long compat(long nr, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(nr), "b"(a), "c"(b), "d"(c)
                     : "memory", "r8", "r9", "r10", "r11");
    return result;
}
#else
#define ARCH "i386"
#endif

int main(void) {
    int i, fd;
    for (i = 0; i < 23; i++) syscall(SYS_getppid);
    printf("%s %d 23 - - -\n", ARCH, SYS_getppid);
    for (i = 0; i < 13; i++) {
        fd = syscall(SYS_socket, 1, 1 | 02000000, 0); /* AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC */
        close(fd);
    }
    printf("%s %d 13 1 %d 0\n", ARCH, SYS_socket, 1 | 02000000);
#ifdef __x86_64__
    for (i = 0; i < 7; i++) {
        /* an int argument with garbage above: the kernel reads the lower half only */
        fd = syscall(SYS_socket, 0xdead00000001ul + ((long)i << 40), 2, 0);
        close(fd);
    }
    printf("%s %d 7 1 2 0\n", ARCH, SYS_socket);
    for (i = 0; i < 11; i++) compat(64, 0, 0, 0); /* getppid */
    printf("i386 64 11 - - -\n");
    for (i = 0; i < 3; i++) compat(359, 77, 1, 0); /* socket of an unknown family */
    printf("i386 359 3 77 1 0\n");
#endif
    syscall(4000, 1, 2, 3); /* no such call */
    printf("%s 4000 1 - - -\n", ARCH);
    return 0;
}
