"""Merge the traces of many machines, more than fit into memory, into one table of observations.

In: trace files. Out: a `Fleet`, whose size depends on how many distinct tuples there are, not on how many
files. Needs the optional extra ``fleet`` (Dask); nothing here is loaded unless `aggregate` is called.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.learn.evidence import Incidence
from autoprofile.observations import Trace
from autoprofile.observations.classes import joined_classes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from autoprofile.observations import Observation

__all__ = ["Fleet", "aggregate"]

_KEYS = ["program", "build_id", "arch", "nr", "a0", "a1", "a2", "a3", "a4", "a5"]
_RUNS = "runs"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hold the aggregate of many traces.

    Args:
        frame: the raw columns of a trace file and ``runs``, the number of runs a row stands for. A distinct
            call has at most two rows: one for the first run it was seen in, one for all the others together
            (under the number of the second). That is all that leave-one-run-out needs: only what was seen in
            a single run goes when a run is left out.
        trace: the same as a trace, for `learn`; its runs are those of all files, numbered in their order.
        files: how many files went in.
    """

    frame: pd.DataFrame
    trace: Trace
    files: int

    @property
    def incidence(self) -> Incidence:
        """In how many runs each distinct call was seen, exactly, for the estimators."""
        by_key = self.frame.groupby(_KEYS, dropna=False, sort=True)[_RUNS].sum()
        return Incidence(self.trace.meta.runs, {at: int(n) for at, n in enumerate(by_key)})


def aggregate(
    paths: Sequence[str | Path], *, scheduler: str | None = "threads", split_every: int = 8
) -> Fleet:
    """Aggregate trace files.

    One file at a time is read by each worker and reduced at once; partial results are merged as a tree, so
    memory holds some files and some partial tables, never all of them. The result does not depend on the
    shape of the tree.

    Args:
        paths: trace files; runs are numbered in this order.
        scheduler: of Dask; None uses its default, for instance a distributed client.
        split_every: partial results merged at a time.

    Raises:
        AutoprofileError: a file is no trace, or Dask is not installed.
        UsageError: no files.
    """
    if not paths:
        raise UsageError("there are no traces to aggregate")
    try:
        import dask.bag as db
    except ImportError as error:
        raise AutoprofileError(
            "merging a fleet's traces needs Dask", hint="pip install 'autoprofile[fleet]'"
        ) from error
    offsets, runs = [], 0
    for path in paths:
        offsets.append(runs)
        runs += _runs_of(Path(path))
    parts = db.from_sequence(list(zip(map(str, paths), offsets, strict=True)), partition_size=1)
    whole: _Part = (
        parts.map(_load)
        .reduction(_combine, _combine, split_every=max(2, split_every))
        .compute(scheduler=scheduler)
    )
    shell = whole.shell
    trace = Trace(shell.meta, (o for o, _ in whole.rows), shell.ledger, shell.process_count)
    runs_of = {o.key: n for o, n in whole.rows}
    frame = trace.to_frame()
    frame[_RUNS] = [runs_of[o.key] for o in trace.observations]
    return Fleet(frame, trace, len(paths))


def _runs_of(path: Path) -> int:
    # The metadata alone: reading every file twice would double the work.
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from autoprofile.observations.columns import METADATA_KEY

    try:
        document = json.loads((pq.read_schema(path).metadata or {})[METADATA_KEY])
        return int(document["meta"]["runs"])
    except (KeyError, ValueError, OSError, pa.ArrowException):
        # `Trace.load` says what is wrong with it in the words users know
        return Trace.load(path).meta.runs


@dataclass(slots=True)
class _Part:
    # a partial result: rows with the number of runs each stands for, and provenance as a trace without rows
    rows: list[tuple[Observation, int]]
    shell: Trace


def _load(source: tuple[str, int]) -> _Part:
    path, offset = source
    trace = Trace.load(path)
    rows = [(replace(o, run=o.run + offset), 1) for o in trace.observations]
    return _combine([_Part(rows, Trace(trace.meta, [], trace.ledger, trace.process_count))])


def _combine(parts: Iterable[_Part]) -> _Part:
    parts = list(parts)
    by_call: dict[tuple[object, ...], list[tuple[Observation, int]]] = {}
    for part in parts:
        for row in part.rows:
            o = row[0]
            by_call.setdefault((o.program, o.arch, o.nr, o.args), []).append(row)
    rows = []
    for same in by_call.values():
        first, *later = sorted(same, key=lambda row: row[0].run)
        rows.append(first)
        if later:
            rows.append(reduce(_joined, later))
    # `Trace.merge` knows how to join provenance
    return _Part(rows, reduce(Trace.merge, (part.shell for part in parts)))


def _joined(one: tuple[Observation, int], other: tuple[Observation, int]) -> tuple[Observation, int]:
    a, b = one[0], other[0]
    # all classes are kept: a call that met two errors must not look as if it always met one
    returns = {part for text in (a.last_return, b.last_return) if text for part in text.split(",")}
    return (
        replace(
            a,  # of the lower run, whose number stands for all of them
            count=a.count + b.count,
            first_ns=min(a.first_ns, b.first_ns),
            last_ns=max(a.last_ns, b.last_ns),
            processes=a.processes + b.processes,
            # one source that saw no results makes the sum unknown
            ok=None if a.ok is None or b.ok is None else a.ok + b.ok,
            failed=None if a.failed is None or b.failed is None else a.failed + b.failed,
            last_return=",".join(sorted(returns)) or None,
            classes=joined_classes(a.classes, b.classes),
            errors=",".join(sorted(a.error_names | b.error_names)) or None,
        ),
        one[1] + other[1],
    )
