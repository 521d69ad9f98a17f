"""Traces: merging, the Parquet file, and the errors of files that are none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from autoprofile import AutoprofileError, Trace
from autoprofile.observations import LossLedger, Observation, ProgramId, TraceMeta
from autoprofile.observations.columns import COLUMNS, METADATA_KEY

from .strategies import traces

DOCS = Path(__file__).parents[3] / "docs" / "trace-format.md"
SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(traces)
@SETTINGS
def test_a_saved_trace_loads_equal(tmp_path: Path, trace: Trace) -> None:
    """What is saved is what is loaded, every u64 and every missing value exactly."""
    trace.save(tmp_path / "t.parquet")
    assert Trace.load(tmp_path / "t.parquet") == trace


@given(traces)
@SETTINGS
def test_the_same_trace_is_the_same_bytes(tmp_path: Path, trace: Trace) -> None:
    """Saving is deterministic, and the order observations came in does not matter."""
    again = Trace(trace.meta, reversed(trace.observations), trace.ledger.copy(), trace.process_count)
    trace.save(tmp_path / "a.parquet")
    again.save(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@given(traces)
@SETTINGS
def test_the_raw_frame_holds_the_whole_trace(trace: Trace) -> None:
    """to_frame and from_frame are inverse."""
    frame = trace.to_frame()
    assert [*frame.columns] == [c.name for c in COLUMNS]
    assert Trace.from_frame(frame, trace.meta, trace.ledger, trace.process_count) == trace


@given(traces, traces, traces)
@settings(max_examples=40, deadline=None)
def test_merging_keeps_everything(a: Trace, b: Trace, c: Trace) -> None:
    """A merged trace has all runs, calls, processes and losses of its parts, in any grouping."""
    both = a.merge(b)
    assert both.events == a.events + b.events
    assert both.process_count == a.process_count + b.process_count
    assert both.ledger.total == a.ledger.total + b.ledger.total
    assert both.meta.runs == a.meta.runs + b.meta.runs
    assert both.is_complete == (a.is_complete and b.is_complete)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))


def _observation(**changes: object) -> Observation:
    fields: dict[str, object] = {
        "run": 0,
        "program": ProgramId("/bin/x"),
        "arch": "x86_64",
        "nr": 41,
        "args": (1, 1, 0, None, None, None),
        "count": 7,
        "first_ns": 1_500_000_000,
        "last_ns": 2_000_000_000,
        "processes": 2,
        "ok": 6,
        "failed": 1,
        "last_return": "EACCES",
    }
    return Observation(**{**fields, **changes})  # type: ignore[arg-type]


def test_merging_renumbers_runs_and_joins_facts() -> None:
    """The runs of the second trace follow those of the first; facts that differ are both kept."""
    a = Trace(TraceMeta("ptrace", ("x",), "6.1", "glibc 2.36", 10.0, 5, 1, 0), [_observation()])
    b = Trace(TraceMeta("notify", ("y",), "6.18", "glibc 2.36", 9.0, 6, 2, 3), [_observation(run=1)])
    both = a.merge(b)
    assert [o.run for o in both.observations] == [0, 2]
    assert both.meta == TraceMeta("notify+ptrace", ("x",), "6.1, 6.18", "glibc 2.36", 9.0, 11, 3, 3)


def test_a_lossy_trace_is_never_complete() -> None:
    """Anything in the ledger, or a run not followed to its end, makes a trace incomplete."""
    assert Trace(TraceMeta("ptrace"), []).is_complete
    assert not Trace(TraceMeta("ptrace", complete=False), []).is_complete
    ledger = LossLedger()
    ledger.add("missed_fork", detail="pid 7")
    assert not Trace(TraceMeta("ptrace"), [], ledger).is_complete
    assert ledger.to_dict() == {
        "total": 1,
        "entries": {"missed_fork": 1},
        "details": {"missed_fork": ["pid 7"]},
    }


def test_the_ledger_keeps_all_counts_and_few_details() -> None:
    """A log with a million bad lines does not fill memory; the count is still right."""
    ledger = LossLedger()
    for i in range(1000):
        ledger.add("log_incomplete", detail=f"line {i}")
    ledger.update(ledger.copy())
    assert ledger.entries == {"log_incomplete": 2000}
    assert ledger.details["log_incomplete"] == [f"line {i}" for i in range(20)]


def test_the_tidy_frame_decodes() -> None:
    """The frame shows calls and arguments by name, raw values exactly, times in seconds."""
    big = 2**63 + 5
    trace = Trace(
        TraceMeta("ptrace"), [_observation(), _observation(nr=1000, args=(big, *[None] * 5), ok=None)]
    )
    row, unnamed = (r for _, r in trace.frame.iterrows())
    assert row["syscall"] == "socket"
    assert row["args"] == "family=AF_UNIX type=SOCK_STREAM protocol=0"
    assert (row["arg0"], row["arg1"], row["arg2"], row["arg3"]) == ("AF_UNIX", "SOCK_STREAM", "0", None)
    assert (row["count"], row["first_s"], row["last_s"], row["processes"]) == (7, 1.5, 2.0, 2)
    assert (row["ok"], row["failed"], row["last_return"]) == (6, 1, "EACCES")
    assert (unnamed["syscall"], unnamed["args"]) == ("1000", "")
    assert unnamed["a0"] == big
    assert str(trace.frame.dtypes["a0"]) == "UInt64"


def test_an_empty_trace_has_an_empty_frame() -> None:
    """A trace without observations still has all its columns."""
    trace = Trace(TraceMeta("ptrace"), [])
    assert len(trace.frame) == 0
    assert {"syscall", "args", "arg5", "a5", "first_s", "risk"} <= set(trace.frame.columns)


def test_the_file_describes_its_own_columns(tmp_path: Path) -> None:
    """Every Parquet field carries its unit and meaning."""
    Trace(TraceMeta("ptrace"), [_observation()]).save(tmp_path / "t.parquet")
    schema = pq.read_schema(tmp_path / "t.parquet")
    for column in COLUMNS:
        assert schema.field(column.name).metadata == {
            b"unit": column.unit.encode(),
            b"description": column.meaning.encode(),
        }


def test_the_documentation_lists_the_columns() -> None:
    """docs/trace-format.md has exactly the columns of the code, with type, unit and meaning."""
    rows = [
        tuple(cell.strip().strip("`") for cell in line.strip("|").split("|"))
        for line in DOCS.read_text().splitlines()
        if line.startswith("| `")
    ]
    expected = [
        (c.name, c.dtype, "may be missing" if c.nullable else "always", c.unit, c.meaning) for c in COLUMNS
    ]
    assert [row for row in rows if len(row) == 5] == expected


def test_bad_files_are_named_and_explained(tmp_path: Path) -> None:
    """A file that is no trace, a truncated one and a newer one each give one clear error with the path."""
    good = tmp_path / "good.parquet"
    Trace(TraceMeta("ptrace"), [_observation()] * 50).save(good)
    raw = good.read_bytes()

    def message(content: bytes | None) -> str:
        path = tmp_path / "bad.parquet"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(AutoprofileError) as caught:
            Trace.load(path)
        assert caught.value.where == str(path)
        return caught.value.what

    assert message(None) == "cannot read the trace: No such file or directory"
    assert message(b"") == "not a trace: no Parquet file"
    assert message(b"autoprofile: 1\n") == "not a trace: no Parquet file"
    assert message(raw[: len(raw) // 2]) == "the trace file is damaged or was cut short"
    other = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), other)
    assert message(other.getvalue().to_pybytes()) == "a Parquet file, but not a trace"

    table = pq.read_table(good)

    def rewritten(metadata: bytes, drop: str | None = None) -> bytes:
        changed = table.drop_columns([drop]) if drop else table
        sink = pa.BufferOutputStream()
        pq.write_table(changed.replace_schema_metadata({METADATA_KEY: metadata}), sink)
        return bytes(sink.getvalue().to_pybytes())

    original = table.schema.metadata[METADATA_KEY]
    newer = original.replace(b'"schema_version": 1', b'"schema_version": 2')
    assert message(rewritten(newer)) == "the trace has schema version 2; this autoprofile reads up to 1"
    assert message(rewritten(b"{")) == "the trace's metadata is damaged"
    assert message(rewritten(b"{}")) == "the trace's metadata has no schema_version"
    assert message(rewritten(b'{"schema_version": 1}')).startswith("the trace's metadata is damaged")
    assert message(rewritten(original, drop="count")) == "no trace: column 'count' is missing"


def test_files_of_before_the_errors_are_read(tmp_path: Path) -> None:
    """A trace without the column is whole; of several failed calls nobody knows then that all met one error."""
    seen = replace(_observation(), ok=0, failed=2, last_return="EPERM", errors="EPERM,ESRCH")
    path = tmp_path / "old.parquet"
    Trace(TraceMeta("ptrace"), [seen]).save(path)
    pq.write_table(pq.read_table(path).drop_columns(["errors", "classes"]), path)
    (old,) = Trace.load(path).observations
    assert old == replace(seen, errors=None)
    assert (seen.only_error, old.only_error) == (None, None)
    assert replace(seen, errors="EPERM").only_error == "EPERM"
    assert replace(old, failed=1).only_error == "EPERM"
    assert replace(seen, errors="EPERM", ok=1).only_error is None
    assert replace(seen, errors="other").only_error is None


def test_frames_that_are_no_trace_are_refused() -> None:
    """A frame with a column missing or with values of the wrong kind is an error that names the column."""
    frame = Trace(TraceMeta("ptrace"), [_observation()]).to_frame()
    with pytest.raises(AutoprofileError, match="column 'nr' is missing"):
        Trace.from_frame(frame.drop(columns="nr"), TraceMeta("ptrace"))
    wrong = frame.assign(count=["many"])
    with pytest.raises(AutoprofileError, match="column 'count' does not hold uint64"):
        Trace.from_frame(wrong, TraceMeta("ptrace"))


def test_names_of_any_bytes_come_back(tmp_path: Path) -> None:
    """A program's name that is not UTF-8, or looks like such a one written down, is the same when read again."""
    names = ["/o\udcffd", "/o\\xffd", "/\\x5cxff", "/\\x41", "/plain"]
    trace = Trace(TraceMeta("ptrace"), [_observation(program=ProgramId(name)) for name in names])
    trace.save(tmp_path / "t.parquet")
    assert {o.program.path for o in Trace.load(tmp_path / "t.parquet").observations} == set(names)
    assert set(trace.to_frame()["program"]) == {
        "/o\\xffd",
        "/o\\x5cxffd",
        "/\\x5cx5cxff",
        "/\\x5cx41",
        "/plain",
    }


def test_what_no_column_holds_is_an_error(tmp_path: Path) -> None:
    """A value that its column cannot hold is an error of this program, not a traceback of a library's."""
    trace = Trace(TraceMeta("ptrace"), [_observation(count=2**64)])
    with pytest.raises(AutoprofileError, match="cannot be written"):
        trace.save(tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    """Saving is whole or not at all, and an impossible place is one clear error."""
    path = tmp_path / "t.parquet"
    Trace(TraceMeta("ptrace"), [_observation()]).save(path)
    with pytest.raises(AutoprofileError):
        Trace(TraceMeta("ptrace"), []).save(tmp_path / "no" / "such" / "t.parquet")
    assert len(Trace.load(path).observations) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_importing_traces_loads_no_data_libraries() -> None:
    """The names of this package are there before pandas and pyarrow are."""
    code = (
        "import sys; from autoprofile import Trace; from autoprofile.observations import Recorder; "
        "sys.exit(any(m in sys.modules for m in ('pandas', 'pyarrow', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
