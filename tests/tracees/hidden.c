/* hidden HOW [NAME]: call swapon, which fails, until killed, and meanwhile look like something else.
 *
 *   named NAME   have this name
 *   plain        be called what the file is called
 *   memory NAME  run from memory, as runtimes do, under this name
 *   roams        in a mount namespace of its own
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/swap.h>
#include <unistd.h>

static int run_from_memory(const char *name)
{
	int from = open("/proc/self/exe", O_RDONLY), to = memfd_create("runc_cloned:/proc/self/exe", 0);
	char *const argv[] = { "hidden", "named", (char *)name, NULL }, *const envp[] = { NULL };

	if (from < 0 || to < 0 || sendfile(to, from, NULL, 1 << 28) <= 0)
		return 1;
	fexecve(to, argv, envp);
	return 1;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "", *name = argc > 2 ? argv[2] : NULL;

	if (name && strcmp(how, "memory") == 0)
		return run_from_memory(name);
	if (name && strcmp(how, "named") == 0 && prctl(PR_SET_NAME, name) != 0)
		return 1;
	if (strcmp(how, "roams") == 0 && unshare(CLONE_NEWNS | CLONE_NEWUSER) != 0)
		return 1;
	for (;;) {
		swapon("/nowhere", 0);
		usleep(20000);
	}
}
