"""The records a trace is made of: who called, what was called, how often, and what was lost.

Plain immutable data (the ledger alone grows); nothing here reads a clock, a file or the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ARGS", "Args", "LossLedger", "OTHER_ERROR", "Observation", "ProgramId", "TraceMeta"]

ARGS = 6
"""Arguments a Linux syscall can have."""

OTHER_ERROR = "other"
"""Stands in `Observation.errors` for an error that the source cannot name."""

Args: TypeAlias = tuple[int | None, int | None, int | None, int | None, int | None, int | None]

_DETAILS_KEPT = 20


@dataclass(frozen=True, slots=True, order=True)
class ProgramId:
    """Name the executable that made a call.

    Args:
        path: the path the kernel gives for the executable; ``?`` when it could not be learned.
        build_id: the ELF build-id in hex, None when the file has none or was not read.
    """

    path: str
    build_id: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Count one distinct (run, program, arch, syscall, constrained arguments).

    Args:
        run: index of the run within the trace, from 0.
        program: the executable that made the calls.
        arch: the arch of the call (not of the program): ``x86_64``, ``i386``, ``x32``…, or the raw audit
            token as ``0x…`` when it has no name.
        nr: the number the kernel dispatched on, the x32 bit included.
        args: the constrained arguments as the kernel reads them (a 32-bit parameter is cut to 32 bits), 0 for
            one that this call does not read (`ArgSpec.used_if`); None for every argument that is not
            constrained (pointer, fd, size…) or not a parameter at all.
        count: calls.
        first_ns: nanoseconds from the start of the run to the first such call.
        last_ns: nanoseconds from the start of the run to the last such call.
        processes: distinct thread groups that made the call.
        ok: calls that returned without error; None when the source does not see returns.
        failed: calls that returned an error; None when the source does not see returns. Calls that did not
            return (``exit_group``, a killed process) or will be restarted by the kernel are in neither.
        last_return: ``ok``, the errno's name, or None when no return was seen.
        classes: how great sizes and offsets were, and whether pointers were null, as text (see
            `observations.classes`); None when the source does not note them.
        errors: the names of all errors that calls failed with, sorted and joined by commas, one that the
            source cannot name as `OTHER_ERROR`; None when none failed or they were not noted.
    """

    run: int
    program: ProgramId
    arch: str
    nr: int
    args: Args
    count: int
    first_ns: int
    last_ns: int
    processes: int
    ok: int | None = None
    failed: int | None = None
    last_return: str | None = None
    classes: str | None = None
    errors: str | None = None

    @property
    def error_names(self) -> frozenset[str]:
        """Return the errors that calls failed with, `OTHER_ERROR` among them where they are not all known."""
        if self.errors is not None:
            return frozenset(self.errors.split(","))
        if not self.failed:
            return frozenset()
        # the last call's error says it all only of a single call
        only = self.last_return if self.failed == 1 else None
        return frozenset([only or OTHER_ERROR])

    @property
    def only_error(self) -> str | None:
        """Return the error with which every call is known to have failed; None when there is none such."""
        names = self.error_names
        return next(iter(names - {OTHER_ERROR}), None) if self.ok == 0 and len(names) == 1 else None

    @property
    def key(self) -> tuple[object, ...]:
        """Return a total order over observations: run, program, arch, nr, arguments (None first)."""
        program = self.program
        return (
            self.run,
            program.path,
            program.build_id or "",
            self.arch,
            self.nr,
            tuple(-1 if a is None else a for a in self.args),
        )


class LossLedger:
    """Account for everything a source knows it did not see or could not tell.

    A trace whose ledger is not empty is never complete. Reasons in use:

    ``map_full``: counters had no room; ``ring_lost``: events were overwritten before they were read;
    ``missed_fork``: a process ran unwatched; ``unresolved_nr``: calls by a number without a name, and
    ``unknown_arch``: of an arch without one (the arguments of both are not kept);
    ``tracee_lost``: a thread vanished from under the tracer; ``interrupted``: the user stopped the run early;
    ``log_incomplete``: lines of a log that could not be understood; ``own_filter``: a seccomp filter of the
    program's own hides from ``notify`` what it refuses; ``setuid_ignored``: a program ran without rights that
    its file gives; ``vsyscall``: a program may call the vsyscall page, which the source does not see.
    """

    __slots__ = ("details", "entries")

    def __init__(
        self, entries: Mapping[str, int] | None = None, details: Mapping[str, list[str]] | None = None
    ) -> None:
        self.entries: dict[str, int] = dict(entries or {})
        self.details: dict[str, list[str]] = {k: list(v) for k, v in (details or {}).items()}

    def add(self, reason: str, n: int = 1, detail: str = "") -> None:
        """Add `n` losses of one reason; the first few details of each reason are kept for the reader."""
        if n <= 0:
            return
        self.entries[reason] = self.entries.get(reason, 0) + n
        if detail:
            kept = self.details.setdefault(reason, [])
            if len(kept) < _DETAILS_KEPT:
                kept.append(detail)

    @property
    def total(self) -> int:
        """Return the number of losses of all reasons."""
        return sum(self.entries.values())

    def update(self, other: LossLedger) -> None:
        """Add everything `other` holds to this ledger."""
        for reason, n in other.entries.items():
            self.add(reason, n)
        for reason, details in other.details.items():
            kept = self.details.setdefault(reason, [])
            kept.extend(details[: _DETAILS_KEPT - len(kept)])

    def copy(self) -> LossLedger:
        """Return an independent copy."""
        return LossLedger(self.entries, self.details)

    def to_dict(self) -> dict[str, object]:
        """Return ``{"total", "entries", "details"}`` with sorted keys, for JSON."""
        return {
            "total": self.total,
            "entries": dict(sorted(self.entries.items())),
            "details": {k: list(v) for k, v in sorted(self.details.items())},
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LossLedger):
            return NotImplemented
        return self.entries == other.entries and self.details == other.details

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __repr__(self) -> str:
        return f"LossLedger({self.entries!r})"


@dataclass(frozen=True, slots=True)
class TraceMeta:
    """Say where a trace comes from.

    Args:
        backend: the source: ``ptrace``, ``notify``, ``ebpf``, ``strace_log``; several, joined by ``+``, in a
            merged trace.
        argv: the command of the (first) run.
        kernel: the kernel release the run was on.
        libc: the C library of the program, for instance ``glibc 2.36``.
        start_time_s: wall-clock start of the (first) run, seconds since the epoch.
        duration_ns: nanoseconds from the first instruction to the end, summed over the runs.
        runs: number of runs.
        exit_status: the command's shell status (128 + N when signal N ended it); merged: the greatest.
        complete: the source followed the program from its first instruction to its end.
        libraries: shared objects seen mapped, path to build-id ("" when it has none).
    """

    backend: str
    argv: tuple[str, ...] = ()
    kernel: str | None = None
    libc: str | None = None
    start_time_s: float | None = None
    duration_ns: int = 0
    runs: int = 1
    exit_status: int | None = None
    complete: bool = True
    libraries: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the fields under their names, for JSON."""
        return {
            "backend": self.backend,
            "argv": list(self.argv),
            "kernel": self.kernel,
            "libc": self.libc,
            "start_time_s": self.start_time_s,
            "duration_ns": self.duration_ns,
            "runs": self.runs,
            "exit_status": self.exit_status,
            "complete": self.complete,
            "libraries": dict(sorted(self.libraries.items())),
        }
