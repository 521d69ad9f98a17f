/* sizes: two threads ask getrandom with GRND_INSECURE for different numbers of bytes, one also with a null pointer. */
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

static char buffer[70000];

static void *ask(void *which) {
    static const long sizes[2][3] = {{1, 7, 4096}, {70000, 7, 8}};

    for (int i = 0; i < 3; i++) syscall(SYS_getrandom, buffer, sizes[which != 0][i], 4);
    if (which) syscall(SYS_getrandom, 0, 0L, 4);
    return 0;
}

int main(void) {
    pthread_t id;

    if (pthread_create(&id, 0, ask, buffer)) return 2;
    ask(0);
    pthread_join(id, 0);
    return 0;
}
