"""What the maps of the probes hold, as observations and losses.

Counting happens in the kernel; here keys become names and cells of one program are put together.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_name
from autoprofile.observations import Observation
from autoprofile.observations.classes import Class, Pointer, Size, joined, text_from_classes
from autoprofile.observations.recorder import Tally, error_names, return_name
from autoprofile.trace.ebpf.records import (
    ARCHES,
    KEY_BYTES,
    LAYOUT_NRS,
    RETURN_SIGNAL,
    RETURN_UNSEEN,
    SPILLED_BY_MANY,
    Cell,
    CellKey,
    Layout,
    Spilled,
    Totals,
    noted_args,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprofile.observations import LossLedger, ProgramId
    from autoprofile.observations.model import Args
    from autoprofile.trace.ebpf.files import Files

__all__ = [
    "Count",
    "add_losses",
    "counts_from_maps",
    "kept_args",
    "observations_from_counts",
    "returned",
    "spilled_from_map",
    "tally_from_counts",
]

_CELL_BYTES: Final = ctypes.sizeof(Cell)


@dataclass(slots=True)
class Count:
    """One cell: what was called, and how often.

    `refused` of `count` calls were answered by seccomp. `doubtful` ones are not in `count`: they failed, and
    were either refused or begun before their thread was followed. Without `has_args` nothing is known of the
    arguments, and `file` is 0 where several programs called. `last_return`: None where it was not seen,
    RETURN_SIGNAL, 0 or an errno. `errors`: bit n for errno n, bit 0 for those above 63 and for SIGSYS.
    """

    file: int
    arch: str
    nr: int
    args: tuple[int, ...]
    count: int
    first_ns: int
    last_ns: int
    ok: int
    failed: int
    refused: int
    last_return: int | None
    processes: int
    doubtful: int = 0
    errors: int = 0
    classes: dict[int, Class] = field(default_factory=dict)
    has_args: bool = True

    def add(self, other: Count) -> None:
        """Add a cell of the same program and call."""
        if other.last_ns >= self.last_ns and other.last_return is not None:
            self.last_return = other.last_return
        self.errors |= other.errors
        self.first_ns = min(self.first_ns, other.first_ns)
        self.last_ns = max(self.last_ns, other.last_ns)
        for name in ("count", "ok", "failed", "refused", "processes", "doubtful"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for index, value in other.classes.items():
            known = self.classes.get(index)
            self.classes[index] = value if known is None else joined(known, value)


def counts_from_maps(keys: bytes, values: bytes, number: int) -> list[Count]:
    """Return the cells of a map that was read whole."""
    counts = []
    for i in range(number):
        key = CellKey.from_buffer_copy(keys, i * KEY_BYTES)
        cell = Cell.from_buffer_copy(values, i * _CELL_BYTES)
        if not cell.count:
            continue  # just being made
        last_return = None if cell.last_return == RETURN_UNSEEN else cell.last_return
        counts.append(
            Count(
                key.program_arch >> 2,
                ARCHES[key.program_arch & 3],
                key.nr,
                tuple(key.args),
                cell.count - cell.doubtful,
                cell.first_ns,
                cell.last_ns,
                cell.count - cell.doubtful - cell.failed - cell.unended,
                cell.failed,
                cell.refused,
                last_return,
                cell.processes,
                cell.doubtful,
                cell.errors,
                _classes(ARCHES[key.program_arch & 3], key.nr, cell),
            )
        )
    return counts


def spilled_from_map(values: bytes) -> list[Count]:
    """Return the calls for which there was no room, without arguments, from a map that was read whole."""
    counts = []
    for at in range(len(values) // ctypes.sizeof(Spilled)):
        one = Spilled.from_buffer_copy(values, at * ctypes.sizeof(Spilled))
        if not one.count:
            continue
        counts.append(
            Count(
                0 if one.program == SPILLED_BY_MANY else one.program,
                ARCHES[at // LAYOUT_NRS],
                one.nr,
                (0,) * 6,
                one.count - one.doubtful,
                0,
                0,
                0,
                0,
                one.refused,
                None if one.last_return == RETURN_UNSEEN else one.last_return,
                0,
                one.doubtful,
                has_args=False,
            )
        )
    return counts


def _classes(arch: str, nr: int, cell: Cell) -> dict[int, Class]:
    name = syscall_name(arch, nr)
    classes: dict[int, Class] = {}
    measures = iter(cell.measures)
    for index, how in (noted_args(arch, name) if name is not None else {}).items():
        if how == Layout.POINTER:
            pointer = Pointer(bool(cell.null >> index & 1), bool(cell.nonnull >> index & 1))
            if pointer.null or pointer.nonnull:
                classes[index] = pointer
        elif (measure := next(measures)).buckets:
            classes[index] = Size(measure.buckets, measure.least, measure.most)
    return classes


def tally_from_counts(counts: Iterable[Count], processes: int) -> Tally:
    """Return how far a recording is."""
    counts = [count for count in counts if count.count]
    return Tally(len({(c.arch, c.nr) for c in counts}), len(counts), sum(c.count for c in counts), processes)


def observations_from_counts(
    counts: Iterable[Count], files: Files, start_ns: int, run: int = 0, *, returns: bool = True
) -> list[Observation]:
    """Return the observations of counted calls.

    Args:
        counts: the cells.
        files: the programs their ids stand for; several ids may be one program.
        start_ns: CLOCK_MONOTONIC at the start of the run.
        run: the index of the run.
        returns: whether the probes saw what calls return.
    """
    merged: dict[tuple[ProgramId, str, int, Args], Count] = {}
    for count in counts:
        if not count.count:
            continue  # only doubtful calls
        key = (files.program(count.file), count.arch, count.nr, kept_args(count.arch, count.nr, count.args))
        known = merged.get(key)
        if known is None:
            merged[key] = count
            continue
        known.add(count)
    return [
        Observation(
            run=run,
            program=program,
            arch=arch,
            nr=nr,
            args=args,
            count=count.count,
            first_ns=max(0, count.first_ns - start_ns),
            last_ns=max(0, count.last_ns - start_ns),
            processes=count.processes,
            ok=count.ok if returns else None,
            failed=count.failed if returns else None,
            last_return=returned(count.last_return),
            errors=error_names(count.errors) if returns else None,
            classes=text_from_classes(count.classes),
        )
        for (program, arch, nr, args), count in merged.items()
    ]


def returned(last_return: int | None) -> str | None:
    """Return what the last call returned: ``ok``, an errno, ``SIGSYS`` where seccomp sent that, or None."""
    return "SIGSYS" if last_return == RETURN_SIGNAL else return_name(last_return)


def kept_args(arch: str, nr: int, args: tuple[int, ...]) -> Args:
    """Return a cell's arguments as an observation holds them.

    The probes put 0 where an argument is not constrained; None says so. A constrained one that this call does
    not read is 0, as in a `Recorder`.
    """
    name = syscall_name(arch, nr)
    kept: list[int | None] = [None] * len(args)
    for spec in constrained_args(arch, name) if name is not None else ():
        is_read = spec.used_if is None or spec.used_if.holds(args)
        kept[spec.index] = args[spec.index] if is_read else 0
    a, b, c, d, e, f = kept
    return a, b, c, d, e, f


def add_losses(totals: Totals, ledger: LossLedger) -> None:
    """Put what the probes could not count into a ledger."""
    ledger.add("map_full", totals.cells_full, "calls of argument tuples for which the counters had no room")
    ledger.add("map_full", totals.seen_full, "processes of an observation that were not told apart")
    ledger.add("map_full", totals.files_full, "programs for which there was no room")
    ledger.add("missed_fork", totals.threads_full, "threads and processes for which there was no room")
    ledger.add("ring_lost", totals.ring_full, "programs or libraries whose paths were not told")
