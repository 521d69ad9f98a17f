"""A trace: what one or several runs did, counted, with what was lost.

Comes from a `Recorder` or a Parquet file and never changes; `merge` makes a new one. pandas and pyarrow are
loaded only by the methods that need them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.observations.model import LossLedger, Observation, TraceMeta

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

__all__ = ["Trace"]


class Trace:
    """Hold the observations of some runs.

    Args:
        meta: where they come from.
        observations: kept in their canonical order (run, program, arch, nr, arguments).
        ledger: what the source knows it missed.
        process_count: thread groups seen, summed over the runs.

    `frame` is the tidy pandas view with decoded arguments; `to_frame` the raw versioned columns of the file.
    """

    __slots__ = ("ledger", "meta", "observations", "process_count")

    def __init__(
        self,
        meta: TraceMeta,
        observations: Iterable[Observation],
        ledger: LossLedger | None = None,
        process_count: int = 0,
    ) -> None:
        self.meta = meta
        self.observations: list[Observation] = sorted(observations, key=lambda o: o.key)
        self.ledger = ledger if ledger is not None else LossLedger()
        self.process_count = process_count

    @property
    def is_complete(self) -> bool:
        """Tell whether every call of every run was seen: followed to its end, and nothing in the ledger."""
        return self.meta.complete and self.ledger.total == 0

    @property
    def events(self) -> int:
        """Return the number of calls counted."""
        return sum(o.count for o in self.observations)

    def merge(self, other: Trace) -> Trace:
        """Return a trace with the runs of both, those of `other` renumbered after the own ones.

        Facts on which the two disagree (backend, kernel, libc) are all kept, joined.
        """
        ours, theirs = self.meta, other.meta
        statuses = [s for s in (ours.exit_status, theirs.exit_status) if s is not None]
        starts = [s for s in (ours.start_time_s, theirs.start_time_s) if s is not None]
        meta = TraceMeta(
            backend=_joined("+", ours.backend, theirs.backend) or "",
            argv=ours.argv or theirs.argv,
            kernel=_joined(", ", ours.kernel, theirs.kernel),
            libc=_joined(", ", ours.libc, theirs.libc),
            start_time_s=min(starts, default=None),
            duration_ns=ours.duration_ns + theirs.duration_ns,
            runs=ours.runs + theirs.runs,
            exit_status=max(statuses, default=None),
            complete=ours.complete and theirs.complete,
            libraries={
                path: ours.libraries.get(path, build) if ours.libraries.get(path, build) == build else ""
                for path, build in {**ours.libraries, **theirs.libraries}.items()
            },
        )
        ledger = self.ledger.copy()
        ledger.update(other.ledger)
        moved = (replace(o, run=o.run + ours.runs) for o in other.observations)
        return Trace(meta, [*self.observations, *moved], ledger, self.process_count + other.process_count)

    @property
    def frame(self) -> pd.DataFrame:
        """Return one tidy row per observation, with decoded arguments (a new frame each time).

        Columns: ``run, program, build_id, arch, syscall, nr, args, arg0…arg5, a0…a5, count, first_s, last_s,
        processes, ok, failed, last_return, classes, errors, risk, risk_severity``. ``args`` holds the
        constrained arguments (``family=AF_UNIX type=SOCK_STREAM protocol=0``), ``arg0…arg5`` each decoded
        alone, ``a0…a5`` the raw integers (UInt64, missing where not constrained); times are in seconds from
        the start of the run.
        """
        from autoprofile.observations.frame import tidy_frame

        return tidy_frame(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the raw versioned columns of the Parquet file as a data frame (docs/trace-format.md)."""
        from autoprofile.observations.columns import frame_from_observations

        return frame_from_observations(self.observations)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        meta: TraceMeta,
        ledger: LossLedger | None = None,
        process_count: int = 0,
    ) -> Trace:
        """Return the trace whose `to_frame` is `frame`.

        Raises:
            AutoprofileError: a column is missing or holds what its definition forbids.
        """
        from autoprofile.observations.columns import observations_from_frame

        return cls(meta, observations_from_frame(frame), ledger, process_count)

    def save(self, path: str | Path) -> None:
        """Write the Parquet file, whole or not at all (an existing file is replaced).

        Raises:
            AutoprofileError: the file cannot be written.
        """
        from autoprofile.observations.columns import write_parquet

        write_parquet(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a Parquet file.

        Raises:
            AutoprofileError: no such file, not a trace, truncated, or written by a newer version.
        """
        from autoprofile.observations.columns import read_parquet

        return read_parquet(Path(path))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        return (
            self.meta == other.meta
            and self.observations == other.observations
            and self.ledger == other.ledger
            and self.process_count == other.process_count
        )

    __hash__ = None  # type: ignore[assignment]  # holds a list and a ledger

    def __repr__(self) -> str:
        return (
            f"Trace({self.meta.backend}, {' '.join(self.meta.argv)!r}, runs={self.meta.runs}, "
            f"observations={len(self.observations)}, events={self.events}, lost={self.ledger.total})"
        )


def _joined(separator: str, *texts: str | None) -> str | None:
    parts = {part for text in texts if text for part in text.split(separator)}
    return separator.join(sorted(parts)) or None
