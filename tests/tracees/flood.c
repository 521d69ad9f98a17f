/* flood IOCTLS REFUSED: say the pid, wait for a line, ask for that many different ioctls, then as often for a socket, a
 * mount and a file to write to; say "done", wait for a line and end.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void wait_for_line(void)
{
	char byte;

	while (read(0, &byte, 1) == 1 && byte != '\n')
		;
}

int main(int argc, char **argv)
{
	long ioctls = argc > 1 ? atol(argv[1]) : 0, refused = argc > 2 ? atol(argv[2]) : 0;
	char said[32];

	snprintf(said, sizeof(said), "%d\n", (int)getpid());
	if (write(1, said, strlen(said)) < 0)
		return 1;
	wait_for_line();
	for (long i = 0; i < ioctls; i++)
		syscall(SYS_ioctl, -1, i * 7, 0);
	for (long i = 0; i < refused; i++) {
		syscall(SYS_socket, 16, 3, 9);
		syscall(SYS_mount, 0, 0, 0, 4096, 0);
		syscall(SYS_openat, AT_FDCWD, "/nowhere", O_RDWR, 0);
	}
	if (write(1, "done\n", 5) < 0)
		return 1;
	wait_for_line();
	return 0;
}
