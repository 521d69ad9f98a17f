"""What every trace source takes and gives: a command in, a trace and the program's exit status out.

Sources are found by name (`source_named`), so that a machine loads only the one it uses. A source never
prints; it calls `on_progress` a few times a second, possibly from another thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from autoprofile.errors import UsageError

if TYPE_CHECKING:
    from autoprofile.observations import Trace

__all__ = [
    "Command",
    "OnProgress",
    "Progress",
    "RunResult",
    "SOURCES",
    "TraceSource",
    "auto_source",
    "source_named",
]


class Command(NamedTuple):
    """A command to run.

    Args:
        argv: program (searched in PATH unless it holds a slash) and its arguments.
        env: the whole environment; None means ours.
        cwd: working directory; None means ours.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    cwd: str | None = None


class Progress(NamedTuple):
    """How far a run is: distinct syscalls, distinct observations, calls, processes, seconds."""

    syscalls: int
    observations: int
    events: int
    processes: int
    elapsed_s: float


OnProgress: TypeAlias = Callable[[Progress], None]


class RunResult(NamedTuple):
    """What a run gave: its trace, and the program's shell status (exit code, or 128 + signal)."""

    trace: Trace
    status: int


class TraceSource(Protocol):
    """Something that runs a command and sees every syscall, from the exec to the end."""

    name: str

    def run(
        self, command: Command, *, on_progress: OnProgress | None = None, privileged: bool = False
    ) -> RunResult:
        """Run the command to its end and return what was seen.

        Args:
            command: what to run.
            on_progress: called a few times a second.
            privileged: leave no_new_privs unset, so that setuid programs started later gain their rights;
                needs CAP_SYS_ADMIN.

        Raises:
            LaunchError: the command was not run (status 125, 126, 127).
            MachineError: this machine cannot trace this way.
        """
        ...

    def interrupt(self) -> None:
        """Do as Ctrl-C does: the first time let the program end by itself, the second time kill it."""
        ...


# name -> module and class; imported when asked for.
SOURCES: Mapping[str, tuple[str, str]] = {
    "ebpf": ("autoprofile.trace.ebpf", "EbpfSource"),
    "notify": ("autoprofile.trace.notify", "NotifySource"),
    "ptrace": ("autoprofile.trace.ptrace", "PtraceSource"),
}


def source_named(name: str) -> TraceSource:
    """Return a new source by its name, or the automatic choice for "auto".

    Raises:
        UsageError: there is no source of this name.
    """
    if name == "auto":
        name = auto_source()
    if name not in SOURCES:
        raise UsageError(f"unknown trace source {name!r}", hint=f"known: auto, {', '.join(sorted(SOURCES))}")
    module, cls = SOURCES[name]
    source: TraceSource = getattr(importlib.import_module(module), cls)()
    return source


def auto_source(but: Collection[str] = ()) -> str:
    """Return the name of the quickest source that can be expected to run here.

    ebpf as root on a kernel whose types are known, notify from Linux 5.5 on, else ptrace.

    Args:
        but: sources that were tried and cannot; ptrace is the last, and returned even so.
    """
    from autoprofile import kernel
    from autoprofile.trace.ebpf.probes import is_ready

    if "ebpf" not in but and is_ready():
        return "ebpf"
    # USER_NOTIF is 5.0, but answering "continue" is 5.5 and SECCOMP_GET_ACTION_AVAIL cannot tell.
    if (
        "notify" not in but
        and kernel.kernel_release() >= (5, 6)
        and kernel.seccomp.is_action_available(0x7FC00000)
    ):
        return "notify"
    return "ptrace"
