"""A process beside a tracee that shares its open files but not its filter: it closes what the tracee may not.

In: an `Injection` before its filter is installed. Out: closed file descriptors. The process is our child,
runs nothing but the calls made here, and is killed afterwards.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final, Self

from autoprofile.errors import LaunchError
from autoprofile.kernel import ptrace
from autoprofile.trace.launch import LAUNCH_OPTIONS, kill_tracee

if TYPE_CHECKING:
    from autoprofile.trace.inject import Injection

__all__ = ["Beside"]

# include/uapi/linux/sched.h. With CLONE_PARENT it is the tool that gets to know of its end, not the program.
_CLONE_VM: Final = 0x00000100
_CLONE_FILES: Final = 0x00000400
_CLONE_PARENT: Final = 0x00008000
_ERESTARTNOINTR: Final = -513  # it found a signal that cannot be blocked (SIGSTOP)
_ATTEMPTS: Final = 10


class Beside:
    """A process that shares the tracee's memory and open files; a context.

    Args:
        injection: in the tracee, entered.

    Raises:
        LaunchError: it cannot be made: too many processes (RLIMIT_NPROC), or an outer filter refuses clone.
    """

    def __init__(self, injection: Injection) -> None:
        self._tid = 0
        self._tracee = injection.tid
        try:
            ptrace.ptrace_set_options(self._tracee, LAUNCH_OPTIONS | ptrace.TraceOption.TRACECLONE)
            for _ in range(_ATTEMPTS):
                flags = _CLONE_VM | _CLONE_FILES | _CLONE_PARENT
                result = injection.call("clone", flags, while_blocked=self._be_born)
                if result != _ERESTARTNOINTR:
                    break
            ptrace.ptrace_set_options(self._tracee, LAUNCH_OPTIONS)
            if result < 0:
                raise LaunchError(f"clone failed in the program: {os.strerror(-result)}", exit_status=125)
        except BaseException:
            self.__exit__()
            raise
        self._calls = injection.beside(self._tid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._tid:
            kill_tracee(self._tid)

    def close(self, fd: int) -> int:
        """Close a file descriptor of the tracee; return 0, or a negative errno."""
        return self._calls.call("close", fd)

    def _be_born(self) -> int | None:
        while True:
            status = ptrace.wait_for(self._tracee)
            event = ptrace.stop_event(status)
            if event == ptrace.EVENT_CLONE:
                self._tid = ptrace.ptrace_get_event_message(self._tracee)
                # It stands before its first instruction, seized as it was born, with the options of the
                # tracee (EXITKILL).
                ptrace.wait_for(self._tid)
                ptrace.ptrace_syscall(self._tracee)
                return None
            if event == ptrace.EVENT_STOP:
                ptrace.ptrace_syscall(self._tracee)
            elif os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP:
                ptrace.ptrace_syscall(self._tracee, signal.SIGSTOP)
            else:
                return status
