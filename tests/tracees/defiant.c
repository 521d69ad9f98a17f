/* defiant handle|ignore|block|none: treats SIGSYS that way, then makes one call that is killed for (getppid) and says
   so if it lives on. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void handler(int unused) { (void)unused; }

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "none";
    if (!strcmp(how, "handle")) signal(SIGSYS, handler);
    if (!strcmp(how, "ignore")) signal(SIGSYS, SIG_IGN);
    if (!strcmp(how, "block")) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGSYS);
        sigprocmask(SIG_BLOCK, &set, 0);
    }
    syscall(SYS_getppid);
    puts("alive");
    return 0;
}
