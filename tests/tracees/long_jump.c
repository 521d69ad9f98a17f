/* long_jump: goes on in 32-bit code (code segment 0x23) of this 64-bit program, which says "ready" and spins for ever. */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void) {
    /* mov $4, %eax; mov $1, %ebx; mov $text, %ecx; mov $6, %edx; int $0x80 (write); jmp . */
    unsigned char code[] = {0xb8, 4, 0, 0, 0, 0xbb, 1, 0, 0, 0, 0xb9, 0, 0, 0, 0, 0xba, 6, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xfe};
    int rights = PROT_READ | PROT_WRITE | PROT_EXEC;
    unsigned char *low = mmap(NULL, 4096, rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED) return 9;
    uint32_t text = (uint32_t)(uintptr_t)low + 256;
    memcpy(low + 256, "ready\n", 6);
    memcpy(code + 11, &text, sizeof text);
    memcpy(low, code, sizeof code);
    __asm__ volatile("pushq $0x23\n pushq %0\n lretq\n" : : "r"((uint64_t)(uintptr_t)low) : "memory");
    return 9;
}
