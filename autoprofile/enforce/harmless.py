"""Arguments with which a call does nothing: it fails at once, or asks for nothing.

For timing calls that a profile allows with any arguments. Descriptors are -1 (EBADF), paths empty (ENOENT),
structures NULL (EFAULT), lengths 0, addresses not aligned and numbers out of range (EINVAL). What has no such
arguments (``exit``, ``fork``, ``sync``, ``sched_yield``, ``acct``, whose NULL means something) is not here.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from autoprofile.enforce.timing import SCRATCH, ZEROS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HARMLESS"]

Args: TypeAlias = "tuple[int, ...]"

_BAD: Final = 0xFFFFFFFFFFFFFFFF  # -1: no descriptor, no address of ours, no flags that any call knows
_CWD: Final = 0xFFFFFFFFFFFFFF9C  # AT_FDCWD
_NO_PID: Final = 0x7FFFFFFF  # above the largest pid_max, 2^22

_BY_ARGS: Mapping[Args, str] = {
    # Questions, and structures that are NULL, and lengths of 0.
    (): "getpid getppid gettid getuid geteuid getgid getegid getpgrp times time gettimeofday getcpu getgroups"
    " getsid getpgid getcwd set_tid_address brk sigaltstack umask restart_syscall readlink"
    " nanosleep clock_getres prlimit64 sched_getaffinity sched_getparam"
    " sched_getscheduler sched_get_priority_max sched_get_priority_min getpriority capget"
    " memfd_create perf_event_open rt_sigpending set_robust_list clone3 openat2 mmap mlock"
    " munlock getrandom poll epoll_create rt_sigsuspend rt_sigtimedwait rt_sigaction clock_nanosleep"
    " rt_sigprocmask io_uring_setup",
    # No such descriptor, number, flag, option or (aligned) address.
    (
        _BAD,
    ): "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 close fstat lseek ioctl"
    " fcntl flock fsync fdatasync ftruncate getdents getdents64 fchdir fchmod fchown flistxattr"
    " dup bind connect listen accept accept4 getsockname getpeername sendto recvfrom sendmsg recvmsg"
    " sendmmsg recvmmsg setsockopt getsockopt shutdown fallocate readahead sync_file_range syncfs fstatfs"
    " inotify_add_watch inotify_rm_watch timerfd_gettime fadvise64 vmsplice"
    " pidfd_send_signal pidfd_getfd io_uring_enter signalfd signalfd4 epoll_create1 inotify_init1"
    " timerfd_create timer_create setitimer getitimer prctl arch_prctl membarrier unshare bpf keyctl seccomp"
    " ptrace personality setuid setgid setfsuid setfsgid tgkill tkill select pselect6 shmat shmdt shmctl"
    " ioprio_get pidfd_open socket munmap mprotect madvise msync mincore mremap",
    # No such file.
    (
        ZEROS,
    ): "open access stat lstat unlink mkdir rmdir chmod chown lchown truncate statfs chdir mknod execve",
    (ZEROS, ZEROS): "rename link symlink getxattr lgetxattr setxattr lsetxattr removexattr lremovexattr"
    " listxattr llistxattr",
    (
        _CWD,
        ZEROS,
    ): "openat faccessat faccessat2 newfstatat statx readlinkat unlinkat mkdirat fchmodat fchmodat2"
    " fchownat mknodat utimensat futimesat execveat",
    (_CWD, ZEROS, _CWD, ZEROS): "renameat renameat2 linkat",
    (ZEROS, _CWD, ZEROS): "symlinkat",
    (_BAD, ZEROS): "fgetxattr fsetxattr fremovexattr",
    # Questions whose answers are written somewhere.
    (SCRATCH,): "uname sysinfo",
    (0, SCRATCH): "clock_gettime getrlimit getrusage",
    (SCRATCH, SCRATCH, SCRATCH): "getresuid getresgid",
    (0, SCRATCH, SCRATCH): "get_robust_list",
    # What else takes more than one argument to do nothing.
    (_BAD, _BAD): "setreuid setregid copy_file_range sendfile tee splice",
    (_BAD, _BAD, _BAD): "setresuid setresgid",  # -1 leaves all three as they are
    (_BAD, 5): "dup2 dup3",
    (_BAD, 0, 1): "epoll_wait epoll_pwait",
    (_BAD, 0, 0, ZEROS): "epoll_ctl",
    (_BAD, 0, 1, 0): "wait4",  # WNOHANG; there are no children
    (0, 0, 0, 5): "waitid",  # WNOHANG | WEXITED
    (_NO_PID,): "kill",
    (1 << 17,): "setgroups",  # more than NGROUPS_MAX
    (0, _BAD): "eventfd2 setpgid",
    (0, 0, _BAD): "mlock2 rseq",
    (0, 0, ZEROS): "ppoll",  # a timeout of 0
    (_BAD, 0, ZEROS): "timerfd_settime",
    (1, 1): "futex",  # FUTEX_WAKE at an odd address
    (0, 0, 0, 0, 0, 1): "process_vm_readv process_vm_writev",
}

HARMLESS: Mapping[str, Args] = MappingProxyType(
    {name: args for args, names in _BY_ARGS.items() for name in names.split()}
)
"""By the name of a call, its arguments for `timing.time_calls`; missing ones are 0."""
