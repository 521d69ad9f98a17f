/* Makes argv[1] calls of getppid under a timer whose handler restarts nothing; prints how many failed with EINTR. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static void ignore(int signum)
{
	(void)signum;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = ignore};
	struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
	int n = argc > 1 ? atoi(argv[1]) : 0, interrupted = 0;

	sigaction(SIGALRM, &action, 0);
	setitimer(ITIMER_REAL, &often, 0);
	for (int i = 0; i < n; i++)
		if (syscall(SYS_getppid) < 0) {
			if (errno != EINTR)
				return 1;
			interrupted++;
		}
	setitimer(ITIMER_REAL, &never, 0);
	printf("%d\n", interrupted);
	return 0;
}
