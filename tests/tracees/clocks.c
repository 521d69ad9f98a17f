/* Read the CPU clocks of this process and of this thread by the ids libc makes of their numbers, and a
 * plain one; make a timer on the first. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
    struct timespec now;
    clockid_t of_thread, of_process;
    timer_t timer;
    struct sigevent quiet = {.sigev_notify = SIGEV_NONE};

    if (pthread_getcpuclockid(pthread_self(), &of_thread) || clock_gettime(of_thread, &now))
        return 1;
    if (clock_getcpuclockid(getpid(), &of_process) || clock_gettime(of_process, &now))
        return 2;
    if (clock_getres(CLOCK_PROCESS_CPUTIME_ID, &now))
        return 3;
    return timer_create(of_process, &quiet, &timer) ? 4 : 0;
}
