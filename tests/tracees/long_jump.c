/* long_jump: says "ready", and goes on in 32-bit code (code segment 0x23) of this 64-bit program, where it spins for ever. */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void) {
    static const unsigned char spin[] = {0xeb, 0xfe}; /* jmp . */
    void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (code == MAP_FAILED) return 9;
    memcpy(code, spin, sizeof spin);
    if (write(1, "ready\n", 6) != 6) return 9;
    __asm__ volatile("pushq $0x23\n pushq %0\n lretq\n" : : "r"((uint64_t)(uintptr_t)code) : "memory");
    return 9;
}
