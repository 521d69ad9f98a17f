"""Run a command under a filter, from its first instruction on, and answer with its shell status.

The filter is in place before anything of the program runs; when it cannot be, the program never runs. Without
a supervisor the program needs us no more once it has started: killing the tool leaves it filtered.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, SupportsBytes

from autoprofile import kernel
from autoprofile.trace.filtered import run_filtered
from autoprofile.trace.status import shell_status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from autoprofile.trace.filtered import Running
    from autoprofile.trace.source import Command
    from autoprofile.trace.status import Child

__all__ = ["Supervisor", "enforce"]

_PROBE: Final = 0  # sends nothing: Ctrl-C has reached the program from the terminal
_ENDING: Final = (_PROBE, signal.SIGTERM, signal.SIGHUP)


class Supervisor(Protocol):
    """Answers the calls that the filter hands over with USER_NOTIF."""

    def serve(self, listener: int, child: Child) -> None:
        """Answer notifications until no process uses the filter any more, then return.

        Called in the thread that called `enforce`, once, as soon as the program runs. Must watch `child` too
        (its `pidfd` is readable at its end) and then call ``child.poll()``: before Linux 6.11 an unreaped
        child counts as a user of the filter. SIGINT and forwarded signals interrupt the wait with EINTR
        (`kernel.seccomp.PendingNotification`), which means ask again.

        Args:
            listener: close-on-exec listener fd; `enforce` closes it afterwards. narrows: a call that is
                waiting, or made later by a process that still runs, then fails with ENOSYS.
            child: the program; the supervisor may signal or kill it.
        """
        ...

    def stop(self) -> None:
        """End `serve` soon although processes still use the filter; called from a signal handler."""
        ...

    def interrupt(self) -> None:
        """Ask nobody any longer about the call that is being decided; called from a signal handler."""
        ...


def enforce(
    command: Command,
    program: SupportsBytes,
    *,
    before: Sequence[SupportsBytes] = (),
    supervisor: Supervisor | None = None,
    privileged: bool = False,
    log: bool = False,
    arches: Collection[str] | None = None,
    on_start: Callable[[str], None] | None = None,
    on_end: Callable[[int], None] | None = None,
) -> int:
    """Run a command under a filter to its end.

    Ctrl-C reaches the program from the terminal; the tool waits for it. SIGTERM, SIGHUP, SIGUSR1, SIGUSR2,
    SIGALRM and SIGWINCH sent to the tool are passed on; the first two, and Ctrl-C, also end whatever question
    keeps the program waiting, since it may be deaf to them meanwhile. When the supervisor raises, the program
    is killed.
    When the program has ended and left processes behind, the supervisor goes on for them until SIGINT,
    SIGTERM or SIGHUP stops it. narrows: from then on what they would have to ask for fails with ENOSYS.

    Args:
        command: what to run.
        program: the filter; ``bytes(program)`` is an array of ``struct sock_filter``.
        before: filters to install first, in this order: the others of a `compile_stack`. Of all the most
            severe answer counts; the supervisor listens to `program` alone, so only that may answer NOTIFY.
        supervisor: answers USER_NOTIF calls. narrows: without one they fail with ENOSYS.
        privileged: leave no_new_privs unset; needs CAP_SYS_ADMIN. widens: setuid programs that the command
            starts gain their rights, under the same filter.
        log: have the kernel log every action but ALLOW (SECCOMP_FILTER_FLAG_LOG).
        arches: those the profile is for; a program of another is refused. None asks for no such check.
        on_start: called with the path of the executable (of a script, its interpreter; "?" when not known)
            once the program runs, which does not wait for it.
        on_end: called with the raw wait status, which tells an exit code from a signal.

    Returns:
        The program's exit code, or 128 + the signal that ended it (159: killed by the filter).

    Raises:
        LaunchError: 127 not found, 126 cannot be executed, 125 the filter cannot be installed or
            is not for the program's arch.
    """
    flags = kernel.seccomp.FLAG_LOG if log else 0
    if supervisor is not None and kernel.kernel_release() >= (5, 19):
        # A signal with a handler then waits for the answer instead of making the call anew: calls are counted
        # once, and a question at the terminal is not withdrawn because the program was stopped.
        flags |= kernel.seccomp.FLAG_WAIT_KILLABLE_RECV
    with run_filtered(
        command,
        bytes(program),
        before=[bytes(one) for one in before],
        flags=flags,
        new_listener=supervisor is not None,
        privileged=privileged,
        arches=arches,
        closes=None if supervisor is None else partial(_closes, [bytes(one) for one in (*before, program)]),
    ) as running:
        if on_start is not None:
            on_start(running.exe_path)
        if supervisor is not None and running.listener is not None:
            _stop_with_signals(running, supervisor)
            supervisor.serve(running.listener, running.child)
        wait_status = running.child.wait()
        if on_end is not None:
            on_end(wait_status)
        return shell_status(wait_status)


def _closes(filters: Sequence[bytes], arch: str, fd: int) -> bool:
    # Whether close(fd) comes through: what is asked about it the installer answers.
    from autoprofile.abi.syscalls import syscall_nr
    from autoprofile.filter.program import Program

    nr = syscall_nr(arch, "close")
    answers = [Program.from_bytes(one).simulate(arch, nr or 0, (fd,)) for one in filters]
    return all(answer.is_permitting or answer.kind == "notify" for answer in answers)


def _stop_with_signals(running: Running, supervisor: Supervisor) -> None:
    # While the program runs, signals mean the program. After its end they can only mean us: without this the
    # tool would wait, deaf to all but SIGKILL, for as long as any daemon the program left behind.
    import select  # not needed where nobody supervises

    def pass_on(signum: int) -> None:
        # Nobody may have reaped it yet, and a zombie takes any signal. It is not for a handler to reap.
        poller = select.poll()
        poller.register(running.child, select.POLLIN)
        lives = not poller.poll(0) and running.child.send_signal(signum)
        if signum in _ENDING:
            if lives:
                supervisor.interrupt()
            else:
                supervisor.stop()

    running.signals.send = pass_on
    running.signals.on_interrupt = partial(pass_on, _PROBE)
