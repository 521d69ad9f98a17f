/* bare: a program without any library that makes exactly five getppid calls and exits with status 6.
   Build with -nostdlib -static -ffreestanding. */
#include <asm/unistd.h>

static long call(long nr, long a) {
    long result;
#ifdef __x86_64__
    __asm__ volatile("syscall" : "=a"(result) : "0"(nr), "D"(a) : "rcx", "r11", "memory");
#else
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(nr), "b"(a) : "memory");
#endif
    return result;
}

void _start(void) {
    for (int i = 0; i < 5; i++) call(__NR_getppid, 0);
    call(__NR_exit, 6);
}
