/* A library that makes getppid by itself; see places.c. */
#include <sys/syscall.h>

long place_in_library(void) {
    long result;
#ifdef __x86_64__
    __asm__ volatile("syscall" : "=a"(result) : "0"(SYS_getppid) : "rcx", "r11", "memory");
#else
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(SYS_getppid) : "memory");
#endif
    return result;
}
