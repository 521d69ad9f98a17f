/* chain: makes a refused call (getppid) four functions deep, one of them called through a pointer. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline)) long
/* what follows a call keeps it from becoming a jump */
#define AFTER(result) do { __asm__ volatile(""); return (result) + 1; } while (0)

FUNCTION innermost(void) { long r = syscall(SYS_getppid); AFTER(r); }
FUNCTION middle(long (*f)(void)) { long r = f(); AFTER(r); }
FUNCTION outer(void) { long r = middle(innermost); AFTER(r); }
int main(void) { printf("%ld\n", outer()); return 0; }
