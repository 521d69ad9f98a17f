"""The calls a program may need although no trace shows them, each with the reason.

In: an arch. Out: names that every profile of that arch allows. The list is minimal: a call is here only when
the kernel itself makes the process issue it, or when a process cannot end without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoprofile.abi.syscalls import syscall_nr

__all__ = ["BASELINE", "BaselineEntry", "baseline"]


@dataclass(frozen=True, slots=True)
class BaselineEntry:
    """Name one call of the runtime baseline and say why it is there."""

    syscall: str
    reason: str
    arches: frozenset[str] | None = None


# Only where the kernel sets up the frame of a handler without SA_SIGINFO with the old call:
# arch/x86/kernel/signal_32.c (__kernel_sigreturn), arch/arm/kernel/signal.c.
_OLD_SIGRETURN = frozenset({"i386", "arm"})

BASELINE: tuple[BaselineEntry, ...] = (
    BaselineEntry("rt_sigreturn", "signal handlers return through it; signals come when they come"),
    BaselineEntry("sigreturn", "handlers set without SA_SIGINFO return through it", _OLD_SIGRETURN),
    BaselineEntry(
        "restart_syscall",
        "the kernel resumes a stopped and continued nanosleep, poll or futex wait with it",
    ),
    BaselineEntry("exit", "a thread ends through it"),
    BaselineEntry("exit_group", "the process ends through it, also after an error"),
)
"""In the order in which profiles list them."""


def baseline(arch: str) -> tuple[BaselineEntry, ...]:
    """Return the baseline entries that `arch` has."""
    return tuple(
        e
        for e in BASELINE
        if (e.arches is None or arch in e.arches) and syscall_nr(arch, e.syscall) is not None
    )
