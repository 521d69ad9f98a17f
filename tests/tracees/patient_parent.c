/* patient_parent: says "ready" from the child of a vfork, which lives until stdin is closed; its parent waits meanwhile in
   state D, says "went on" afterwards, and ends with status 0. */
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

static void say(const char *text) { if (write(1, text, strlen(text)) < 0) _exit(1); }

int main(void) {
    if (vfork() == 0) {
        char byte;
        say("ready\n");
        while (read(0, &byte, 1) > 0) {}
        _exit(0);
    }
    say("went on\n");
    return 0;
}
