"""End processes the way the kernel's own KILL does: by SIGSYS where that is certain to kill, else by SIGKILL.

A filter's KILL ends a process with SIGSYS (shell status 159), whatever it does about that signal; nobody else
can send a signal that cannot be caught but SIGKILL (137). So SIGSYS is sent only to a process that neither
catches, ignores nor blocks it, and SIGKILL follows if that changed meanwhile. The call itself never runs: its
notification stays unanswered.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from autoprofile import kernel
from autoprofile.abi.arch import arch_from_machine
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.kernel.call import fail
from autoprofile.kernel.call import syscall as kernel_syscall
from autoprofile.trace.program_id import thread_group_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Executioner"]

_SIGSYS_BIT: Final = 1 << (signal.SIGSYS - 1)
#: A process that lives on for so long after a SIGSYS gets SIGKILL. Dying takes microseconds; the time is for
#: a machine that has none. A core dump in progress keeps its status.
_PATIENCE_S: Final = 5.0


class Executioner:
    """Kill processes, and see to it that they die.

    Attributes:
        killed: processes killed so far.
        by_sigkill: those of them that got SIGKILL at once.
    """

    def __init__(self) -> None:
        self.killed = 0
        self.by_sigkill = 0
        self._dying: dict[int, tuple[int, float]] = {}  # process -> (pidfd, when to send SIGKILL)

    def kill(self, tid: int, waits: Callable[[], bool]) -> None:
        """Kill the process of a thread that waits in a notification; nothing when it is gone already.

        Args:
            tid: the thread.
            waits: tells whether the notification is still unanswered, so that the ids mean the caller.

        Raises:
            KernelError: it cannot be killed (it has become someone else's), and must be refused instead.
        """
        # KILL_THREAD kills the process too (narrows): a thread cannot be killed alone from outside.
        process = thread_group_of(tid) or tid
        fd = kernel.pidfd_open(process)
        try:
            gentle = _dies_of_sigsys(tid)
            if not waits():
                return  # gone, and the number may be someone else's by now
            if process in self._dying and kernel.pidfd_send_signal(self._dying[process][0], 0):
                # Another thread of a process that is about to die of SIGSYS, or it has found a way not to.
                if not gentle:
                    kernel.pidfd_send_signal(fd, signal.SIGKILL)
                return
            if gentle:
                # To the calling thread, which meets it before it runs anything more of the program.
                # A signal to the process might go to another thread first.
                _send_to_thread(process, tid, signal.SIGSYS)
                # Another thread may have changed its mind between the look and the signal.
                gentle = _dies_of_sigsys(tid)
            if gentle:
                self._forget(process)
                self._dying[process] = (fd, time.monotonic() + _PATIENCE_S)
                fd = -1
            else:
                kernel.pidfd_send_signal(fd, signal.SIGKILL)
                self.by_sigkill += 1
            self.killed += 1
        finally:
            if fd >= 0:
                os.close(fd)

    def wait_ms(self) -> int | None:
        """Return how long the loop may sleep before `press` is due, None for as long as it likes."""
        if not self._dying:
            return None
        soonest = min(deadline for _, deadline in self._dying.values())
        return max(0, min(200, int((soonest - time.monotonic()) * 1000) + 1))

    def press(self) -> None:
        """Send SIGKILL to those that should be dead by now, and forget the dead."""
        now = time.monotonic()
        for process, (fd, deadline) in tuple(self._dying.items()):
            is_due = now >= deadline
            if not kernel.pidfd_send_signal(fd, signal.SIGKILL if is_due else 0) or is_due:
                self._forget(process)

    def close(self) -> None:
        """Send SIGKILL to whoever was to die and has not yet; let go of them."""
        for fd, _ in self._dying.values():
            # A zombie does not mind; a process in its core dump keeps the status SIGSYS gave it.
            kernel.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
        self._dying.clear()

    def _forget(self, process: int) -> None:
        known = self._dying.pop(process, None)
        if known is not None:
            os.close(known[0])


def _send_to_thread(process: int, tid: int, signum: int) -> None:
    nr = syscall_nr(arch_from_machine(os.uname().machine), "tgkill")
    assert nr is not None  # every arch has it
    if kernel_syscall(nr, process, tid, signum) < 0 and ctypes.get_errno() != errno.ESRCH:
        fail("tgkill", f"sending signal {signum} to thread {tid}")


def _dies_of_sigsys(tid: int) -> bool:
    """Tell whether SIGSYS would end the process of a thread: proc(5), status.

    The init of a pid namespace ignores every signal it has no handler for, and a tracer sees signals first.
    A thread that is gone (its status unreadable) counts as dying.
    """
    try:
        with open(f"/proc/{tid}/status", "rb") as file:  # noqa: PTH123
            text = file.read()
    except OSError:
        return True
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        if name in (b"SigBlk", b"SigIgn", b"SigCgt") and int(value, 16) & _SIGSYS_BIT:
            return False
        if (name == b"TracerPid" and int(value) != 0) or (name == b"NSpid" and value.split()[-1] == b"1"):
            return False
    return True
