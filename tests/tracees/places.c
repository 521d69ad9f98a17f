/* places: calls getppid from libc, from the program itself, from libplace.so beside it (dlopen), from a page of
   code without a file, and through int $0x80 where built for x86-64; prints how many failed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((noinline)) long place_in_program(void) {
    long result;
#ifdef __x86_64__
    __asm__ volatile("syscall" : "=a"(result) : "0"(SYS_getppid) : "rcx", "r11", "memory");
#else
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(SYS_getppid) : "memory");
#endif
    return result;
}

int main(int argc, char **argv) {
    int failed = 0;
    char library[4096];
    snprintf(library, sizeof library, "%s/libplace.so", argc > 1 ? argv[1] : ".");
    void *handle = dlopen(library, RTLD_NOW);
    long (*in_library)(void) = handle ? (long (*)(void))dlsym(handle, "place_in_library") : 0;
    failed += getppid() < 0;
    failed += place_in_program() < 0;
    if (!in_library) return 2;
    failed += in_library() < 0;
#ifdef __x86_64__
    static const unsigned char code[] = {0xb8, SYS_getppid, 0, 0, 0, 0x0f, 0x05, 0xc3}; /* mov; syscall; ret */
#else
    static const unsigned char code[] = {0xb8, SYS_getppid, 0, 0, 0, 0xcd, 0x80, 0xc3};
#endif
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, code, sizeof code);
    failed += ((long (*)(void))page)() < 0;
#ifdef __x86_64__
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(64L) : "memory", "r8", "r9", "r10", "r11"); /* i386 getppid */
    failed += (int)result < 0;
#endif
    printf("failed %d\n", failed);
    return 0;
}
