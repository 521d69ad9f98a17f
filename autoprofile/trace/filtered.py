"""Run a command under a filter from its first instruction on: launch, install, pass signals on, clean up.

Shared by the notify source and by enforcement. No signal finds a moment in which the program runs and the
tool does not yet look after it; an error in the tool's own work ends the program.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, NamedTuple

from autoprofile import kernel
from autoprofile.errors import LaunchError
from autoprofile.trace.inject import install_filter
from autoprofile.trace.launch import kill_tracee, launch
from autoprofile.trace.status import Child, Forwarding

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from autoprofile.trace.source import Command

__all__ = ["Running", "run_filtered"]


class Running(NamedTuple):
    """A program under its filter.

    Args:
        child: the process.
        listener: close-on-exec listener fd, when one was asked for.
        signals: what passes signals on and counts interrupts.
        arch: of the program's image.
        exe_path: of the program; of a script, its interpreter; "?" when /proc did not tell.
    """

    child: Child
    listener: int | None
    signals: Forwarding
    arch: str
    exe_path: str


@contextlib.contextmanager
def run_filtered(
    command: Command,
    program: bytes,
    *,
    before: Sequence[bytes] = (),
    flags: int = 0,
    new_listener: bool = False,
    privileged: bool = False,
    kill_on: int = 0,
    arches: Collection[str] | None = None,
    closes: Callable[[str, int], bool] | None = None,
) -> Iterator[Running]:
    """Start a command under a filter; afterwards close the listener and, on an error, kill the child.

    Args:
        command: what to run.
        program: bytes of the cBPF program.
        before: programs to install first (see `install_filter`).
        flags: further SECCOMP_FILTER_FLAG_*.
        new_listener: see `install_filter`.
        privileged: leave no_new_privs unset.
        kill_on: which SIGINT kills the program (see `Forwarding`).
        arches: those the filter judges; a program of another would die at its first instruction, so it is
            refused instead. None asks for no such check.
        closes: see `install_filter`.

    Raises:
        LaunchError: 127 not found, 126 cannot be executed, 125 the filter cannot be installed or is not for
            the program's arch.
    """
    if privileged and not kernel.has_cap_sys_admin():
        raise LaunchError(
            "installing a filter without no_new_privs needs CAP_SYS_ADMIN",
            exit_status=125,
            hint="run as root, or let no_new_privs be set",
        )
    stopped = launch(command)
    # Until the handlers are in place signals wait; the child has its own mask.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if arches is not None and stopped.arch not in arches:
            raise LaunchError(
                f"{command.argv[0]} is a {stopped.arch} program, the profile is for {', '.join(arches)} only",
                exit_status=125,
                hint=f"learn it on this arch, or add {stopped.arch} to the profile's `arch` with its rules",
            )
        listener = install_filter(
            stopped,
            program,
            before=before,
            flags=flags,
            new_listener=new_listener,
            no_new_privs=not privileged,
            closes=closes,
        )
        child = Child(stopped.pid)
        signals = Forwarding(child, kill_on=kill_on)
        signals.install()
    except BaseException:
        kill_tracee(stopped.pid)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        yield Running(child, listener, signals, stopped.arch, stopped.exe_path)
    except BaseException:
        child.kill()
        raise
    finally:
        signals.remove()
        if listener is not None:
            os.close(listener)
        child.close()
