"""The launched program as its parent sees it: exit status in the shell's terms, signals passed on.

`Child` reaps exactly once. `Forwarding` gives the program the signals sent to the tool for it, while Ctrl-C,
which the terminal sends to both, is only counted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Self

from autoprofile import kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["FORWARDED", "Child", "Forwarding", "shell_status"]

# Signals that someone sends to the tool and means the program. Not SIGINT and SIGQUIT: a terminal sends them
# to the whole foreground group, the program included, and a second copy would end it twice.
FORWARDED = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
)


def shell_status(wait_status: int) -> int:
    """Return what a shell's ``$?`` would be for a wait status: the exit code, or 128 + signal."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


class Child:
    """A child process of ours, no longer traced.

    Attributes:
        pid: its process id, valid until it is reaped here.
        pidfd: readable once the process has ended; closed by `close`.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = kernel.pidfd_open(pid)
        self._wait_status: int | None = None

    def fileno(self) -> int:
        """Return the pidfd, so that a Child can be given to select and poll."""
        return self.pidfd

    def poll(self) -> int | None:
        """Reap the child if it has ended; return its raw wait status, None while it runs."""
        if self._wait_status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | kernel.ptrace.WALL)
            if pid == self.pid and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
                self._wait_status = status
        return self._wait_status

    def wait(self) -> int:
        """Wait for the end of the child; return its raw wait status."""
        while self._wait_status is None:
            _, status = os.waitpid(self.pid, kernel.ptrace.WALL)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self._wait_status = status
        return self._wait_status

    def send_signal(self, signum: int) -> bool:
        """Send a signal; False when the child has ended."""
        return self._wait_status is None and kernel.pidfd_send_signal(self.pidfd, signum)

    def kill(self) -> None:
        """Send SIGKILL, and wait."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """Close the pidfd; the child is left as it is."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Forwarding:
    """While entered, pass signals on to a child, and count Ctrl-C instead of being ended by it.

    Args:
        child: who gets them.
        kill_on: the number of interrupts from which on the child is killed; 0 means never.

    Attributes:
        interrupts: how many SIGINT have come so far.
        send: passes a signal on; the child's `send_signal` unless replaced.
        on_interrupt: called for a SIGINT that does not kill.

    Handlers exist only in Python's main thread; entered elsewhere, this does nothing. A signal that was
    ignored when the tool started stays ignored.
    """

    def __init__(self, child: Child, *, kill_on: int = 0) -> None:
        self.interrupts = 0
        self.send: Callable[[int], object] = child.send_signal
        self.on_interrupt: Callable[[], None] | None = None
        self._kill_on = kill_on
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Set the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._catch(signal.SIGINT, self._interrupted)
            # SIGQUIT comes from the terminal as SIGINT does; the tool must outlive the program it ends.
            self._catch(signal.SIGQUIT, self._outlive)
            for signum in FORWARDED:
                self._catch(signum, self._forward)

    def remove(self) -> None:
        """Put the former handlers back."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def interrupt(self) -> None:
        """Do as SIGINT does."""
        self.interrupts += 1
        if self._kill_on and self.interrupts >= self._kill_on:
            self.send(signal.SIGKILL)
        elif self.on_interrupt is not None:
            self.on_interrupt()

    def _catch(self, signum: int, handler: Any) -> None:
        before = signal.getsignal(signum)
        if before is signal.SIG_IGN:
            return
        with contextlib.suppress(OSError, ValueError):
            signal.signal(signum, handler)
            self._before[signum] = signal.SIG_DFL if before is None else before

    def _interrupted(self, _signum: int, _frame: FrameType | None) -> None:
        self.interrupt()

    def _outlive(self, _signum: int, _frame: FrameType | None) -> None:
        pass

    def _forward(self, signum: int, _frame: FrameType | None) -> None:
        self.send(signum)
