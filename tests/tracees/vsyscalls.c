/* Calls time() through the vsyscall page, as programs of the time before the vDSO do; argv[1] times. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	long (*volatile old_time)(long *) = (long (*)(long *))0xffffffffff600400;
	int n = argc > 1 ? atoi(argv[1]) : 0;

	for (int i = 0; i < n; i++)
		if (old_time(0) <= 0)
			return 1;
	printf("%d\n", n);
	return 0;
}
