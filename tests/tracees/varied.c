/* varied: one run of the things a trace format must get right, with the same calls every time: threads, fork, vfork
   and exec, signals, failing and unknown calls, flags, modes, commands, and optional arguments. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static void *in_thread(void *unused) { syscall(SYS_getppid); return unused; }
static void on_signal(int signum) { (void)signum; }

int main(void) {
    pthread_t thread;
    char text[8], name[] = "varied-XXXXXX";
    struct iovec part = {text, sizeof text};
    int fd;
    pthread_create(&thread, 0, in_thread, 0);
    pthread_join(thread, 0);
    signal(SIGUSR1, on_signal);
    signal(SIGRTMIN + 3, on_signal);
    raise(SIGUSR1);
    kill(getpid(), SIGRTMIN + 3);
    kill(getpid(), 0);
    fd = open("/dev/null", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK);
    ioctl(fd, TCGETS, text);
    ioctl(fd, 0x80045430, text); /* TIOCGPTN */
    ioctl(fd, 0x12345678, text);
    syscall(SYS_preadv2, fd, &part, 1, 0, 0, 8 /* RWF_NOWAIT */);
    close(fd);
    umask(022);
    mkdir("/", 0755);
    socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    socket(77, SOCK_RAW, 3);
    prctl(PR_SET_NAME, name);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_DUMPABLE, 1);
    syscall(4000, 1, 2, 3);
    if (fork() == 0) {
        syscall(SYS_getsid, 0);
        _exit(3);
    }
    wait(0);
    if (vfork() == 0) {
        execl("/bin/true", "true", "a \"quoted\", (odd) argument", (char *)0);
        _exit(1);
    }
    wait(0);
    return 7;
}
