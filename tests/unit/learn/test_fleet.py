"""Aggregating a fleet's traces says what merging them in memory says, in less space."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest

from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.learn import infer, learn
from autoprofile.learn.calls import call_groups
from autoprofile.learn.completeness import run_incidence
from autoprofile.learn.fleet import aggregate
from autoprofile.observations import ProgramId, Trace
from tests.unit.learn.traces import observed, trace_of

pytest.importorskip("dask.bag")

BIG = (1 << 64) - 1


def machine(n: int) -> Trace:
    """Return the trace of one machine: common calls, some seen on a few machines, one of its own."""
    return trace_of(
        observed("getpid", count=10 + n, processes=2, ok=10 + n, failed=0, last_return="ok"),
        observed("socket", 2, 1, 0, count=1, ok=0, failed=1, last_return="EPERM" if n % 2 else "ENOSYS"),
        observed("mmap", 0, 0, 1, n % 3),
        observed("ioctl", 0, 0x1000 + n, run=1, count=BIG // 100),
        observed("unshare", BIG - n % 2, run=1, program=ProgramId("/bin/sh")),
        runs=2,
        lost={"map_full": 1} if n == 3 else None,
        kernel="6.18.0" if n else "6.1.0",
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("fleet")
    paths = [folder / f"machine-{n}.parquet" for n in range(9)]
    for n, path in enumerate(paths):
        machine(n).save(path)
    return paths


@pytest.fixture(scope="module")
def merged() -> Trace:
    return reduce(Trace.merge, [machine(n) for n in range(9)])


def test_the_profile_is_that_of_the_merged_traces(files: list[Path], merged: Trace) -> None:
    """Rules, counts and what was learned from are the same as when everything is merged in memory."""
    for level in ("strict", "standard"):
        ours, theirs = learn(aggregate(files).trace, level=level), learn(merged, level=level)
        assert ours == theirs
        assert [r.evidence.count for r in ours.rules] == [r.evidence.count for r in theirs.rules]


def test_completeness_is_that_of_the_merged_traces(files: list[Path], merged: Trace) -> None:
    """Leave-one-run-out and the exact incidence agree with the merged traces."""
    fleet = aggregate(files)
    ours, theirs = infer(fleet.trace).completeness, infer(merged).completeness
    assert ours.unseen == theirs.unseen
    assert [o.run for o in ours.left_out if o.denials] == [o.run for o in theirs.left_out if o.denials]
    exact = run_incidence(call_groups(merged.observations), merged.meta.runs)
    assert sorted(fleet.incidence.frequency.values()) == sorted(exact.frequency.values())
    assert fleet.incidence.unseen_mass == pytest.approx(exact.unseen_mass)


def test_the_table_grows_with_distinct_calls_not_with_files(files: list[Path]) -> None:
    """A distinct call has at most two rows, however many files show it."""
    frame = aggregate(files).frame
    keys = ["program", "arch", "nr", "a0", "a1", "a2", "a3", "a4", "a5"]
    assert frame.groupby(keys, dropna=False).size().max() <= 2
    assert frame["runs"].sum() == 9 * 5


@pytest.mark.parametrize("split_every", [2, 3, 100])
def test_the_tree_of_merges_does_not_matter(files: list[Path], split_every: int) -> None:
    """Any shape of the reduction gives the same trace."""
    assert aggregate(files, split_every=split_every).trace == aggregate(files, scheduler="sync").trace


def test_large_counts_survive(files: list[Path]) -> None:
    """Counts and arguments beyond 2^53 are exact."""
    trace = aggregate(files).trace
    assert {o.args[0] for o in trace.observations if o.args[0]} >= {BIG, BIG - 1}
    assert {o.count for o in trace.observations} >= {BIG // 100}


def test_losses_of_one_machine_are_losses_of_the_fleet(files: list[Path]) -> None:
    """The ledgers are joined: one incomplete machine makes the fleet incomplete."""
    trace = aggregate(files).trace
    assert trace.ledger.entries == {"map_full": 1}
    assert not learn(trace).learned.complete
    assert trace.meta.kernel == "6.1.0, 6.18.0"


def test_different_errors_are_no_single_verdict(files: list[Path]) -> None:
    """A call that met ENOSYS here and EPERM there is not denied with either."""
    profile = learn(aggregate(files).trace, level="standard")
    assert profile.decide("socket", "AF_INET", "SOCK_STREAM", 0).action.kind == "allow"


def test_the_fleet_keeps_every_error(tmp_path: Path) -> None:
    """Runs that met one error each, and one whose errors are not known, join to what is certain."""
    calls = [
        observed("kill", 0, 0, ok=0, failed=2, last_return="EPERM"),
        observed("kill", 0, 0, ok=0, failed=2, last_return="ESRCH"),
        replace(observed("kill", 0, 0, ok=0, failed=2, last_return="EPERM"), errors=None),
        observed("kill", 0, 0, ok=1, failed=0, last_return="ok"),
    ]
    paths = []
    for n, call in enumerate(calls):
        paths.append(tmp_path / f"{n}.parquet")
        trace_of(call).save(paths[-1])
    whole = {name for o in aggregate(paths).trace.observations for name in o.error_names}
    assert whole == {"EPERM", "ESRCH", "other"}


def test_a_file_that_is_no_trace_is_named(tmp_path: Path, files: list[Path]) -> None:
    """A broken file among many is said by name."""
    bad = tmp_path / "bad.parquet"
    bad.write_text("no")
    with pytest.raises(AutoprofileError) as caught:
        aggregate([files[0], bad])
    assert "bad.parquet" in str(caught.value)
    with pytest.raises(UsageError):
        aggregate([])


def test_importing_the_room_loads_no_dask() -> None:
    """Dask and pandas are loaded by `aggregate` alone."""
    code = (
        "import sys, autoprofile.learn.fleet, autoprofile.drift, autoprofile.lint;"
        "print([m for m in ('dask', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
