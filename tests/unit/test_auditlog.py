"""The audit log: what is written is read back, what is missing is counted, what is wrong is named."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile import auditlog
from autoprofile.auditlog import AuditRecord, aggregate, audit_schema, read_audit
from autoprofile.enforce.audit import AuditWriter, utc_text
from autoprofile.errors import AutoprofileError
from autoprofile.report import Style
from autoprofile.report.summary import audit_text

HEX = "0123456789abcdef"
U64 = st.integers(0, 2**64 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def record(**changes) -> AuditRecord:
    values = {
        "event": "deny",
        "session": "0123456789abcdef",
        "id": "0123456789ab",
        "time": "2024-01-02T03:04:05.000006Z",
        "last": "2024-01-02T03:04:05.000006Z",
        "arch": "x86_64",
        "nr": 41,
        "syscall": "socket",
        "args": (16, 3, 0, 0, 0, 0),
        "decoded": {"family": "AF_NETLINK"},
        "program": "/bin/x",
        "build_id": "ab12",
        "pid": 7,
        "tid": 8,
        "comm": "x",
        "ip": 0x7F0000001234,
        "location": "libc.so.6+0x1234",
        "symbol": "socket+0x7",
        "action": "EPERM",
    }
    return AuditRecord(**{**values, **changes})


RECORDS = st.builds(
    record,
    event=st.sampled_from(auditlog.CALL_EVENTS),
    id=st.text(HEX, min_size=12, max_size=12),
    nr=st.integers(0, 2**32 - 1),
    syscall=st.none() | NAMES,
    args=st.tuples(U64, U64, U64, U64, U64, U64),
    decoded=st.dictionaries(NAMES, NAMES, max_size=3),
    program=NAMES,
    build_id=st.none() | NAMES,
    comm=NAMES,
    ip=U64,
    location=st.none() | NAMES,
)


def write(path, *records, **options):
    """Write a whole run and return its records as they were written."""
    with AuditWriter(path, argv=["x", "y"], **options) as writer:
        records = [replace(item, session=writer.session) for item in records]
        for item in records:
            writer.call(item)
        for item in records:
            writer.summary(item)
        writer.close(denials=len(records), distinct=len(records))
    return records


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORDS, max_size=5, unique_by=lambda r: r.id))
def test_what_is_written_is_read_back(tmp_path_factory, records):
    """A log of any records is read back as those records, complete, and every line fits the schema."""
    path = tmp_path_factory.mktemp("log") / "a.jsonl"
    written = write(path, *records)
    log = read_audit(path)
    assert list(log) == written
    assert log.is_complete
    assert [s.argv for s in log.sessions] == [("x", "y")]
    schema = jsonschema.Draft202012Validator(audit_schema())
    for line in path.read_text().splitlines():
        schema.validate(json.loads(line))


def test_names_that_are_not_utf8_survive(tmp_path):
    """A program path with a stray byte comes back as the very same path."""
    odd = os.fsdecode(b"/tmp/\xff\n\x01")
    write(tmp_path / "a", record(program=odd))
    assert read_audit(tmp_path / "a")[0].program == odd
    assert (tmp_path / "a").read_bytes().isascii()


def test_the_last_totals_count(tmp_path):
    """Totals replace the count of the first line, and the largest one stands."""
    path = tmp_path / "a"
    with AuditWriter(path) as writer:
        session = writer.session
        writer.call(record(session=session))
        writer.summary(record(session=session, count=16, processes=2))
        writer.summary(record(session=session, count=97, processes=5, last="2025-01-01T00:00:00.000000Z"))
        writer.close(denials=97, distinct=1)
    (only,) = read_audit(path)
    assert (only.count, only.processes, only.last[:4]) == (97, 5, "2025")


def test_runs_are_added_up(tmp_path):
    """The same distinct call of two runs in one file is two records, and one when aggregated."""
    path = tmp_path / "a"
    for count in (3, 5):
        with AuditWriter(path) as writer:
            writer.call(record(session=writer.session, time=f"202{count}-01-01T00:00:00.000000Z"))
            writer.summary(record(session=writer.session, count=count))
            writer.close(denials=count, distinct=1)
    log = read_audit(path)
    assert [r.count for r in log] == [3, 5]
    (total,) = aggregate(log)
    assert (total.count, total.processes, total.time[:4]) == (8, 2, "2023")
    assert log.is_complete


def test_a_torn_last_line_is_counted_as_lost(tmp_path):
    """Cutting the file anywhere inside its last line loses that record and says so, and nothing else."""
    path = tmp_path / "a"
    write(path, record())
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in (last + 1, last + 30, len(whole) - 2):
        path.write_bytes(whole[:cut])
        log = read_audit(path)
        assert len(log) == 1
        assert log.losses == {"broken_line": 1, "log_incomplete": 1}
        assert log.lost == 2
    path.write_bytes(whole[:-1])  # only the newline is missing
    assert read_audit(path).is_complete


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    """A log opened for a command that could not be started stays as it was, and complete."""
    write(tmp_path / "a", record())
    before = (tmp_path / "a").read_bytes()
    with AuditWriter(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_bytes() == before
    assert read_audit(tmp_path / "a").is_complete


def test_a_run_that_never_ended_is_incomplete(tmp_path):
    """A log whose supervisor was killed says that its counts may be short."""
    with AuditWriter(tmp_path / "a") as writer:
        writer.call(record(session=writer.session))
    log = read_audit(tmp_path / "a")
    assert len(log) == 1
    assert log.losses == {"log_incomplete": 1}
    assert not log.is_complete


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("garbage", "not an audit record"),
        ("[1]", "not an audit record"),
        ('{"schema_version":2,"event":"deny"}', "schema version 2"),
        ('{"schema_version":1,"event":"permit"}', "unknown audit event 'permit'"),
        ('{"schema_version":1,"event":"end"}', "end record without denials"),
        (json.dumps({**record().to_dict(), "extra": 1}), "unknown extra"),
        (json.dumps({**record().to_dict(), "nr": "41"}), "whose nr is '41'"),
        (json.dumps({**record().to_dict(), "count": True}), "whose count is True"),
        (json.dumps({**record().to_dict(), "args": ["0x1"]}), "six unsigned 64-bit"),
        (json.dumps({**record().to_dict(), "args": ["x"] * 6}), "hexadecimal"),
        (json.dumps({**record().to_dict(), "ip": "-0x1"}), "six unsigned 64-bit"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, says):
    """Anything else than a torn end is an error with file and line."""
    path = tmp_path / "a"
    good = json.dumps(record().to_dict())
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(AutoprofileError, match=says) as caught:
        read_audit(path)
    assert caught.value.where == f"{path}:2"


def test_an_unreadable_log_is_one_error(tmp_path):
    """A missing file is an error that names it."""
    with pytest.raises(AutoprofileError, match="No such file") as caught:
        read_audit(tmp_path / "none")
    assert caught.value.where == str(tmp_path / "none")


def test_appending_after_a_torn_line_keeps_both_runs(tmp_path):
    """A run that appends to a torn log ends the torn line and owns up to it, so that the log stays readable."""
    path = tmp_path / "a"
    write(path, record())
    path.write_bytes(path.read_bytes()[:-20])
    write(path, record(id="bbbbbbbbbbbb"))
    log = read_audit(path)
    assert [r.id[0] for r in log] == ["0", "b"]
    assert log.losses == {"broken_line": 1, "log_incomplete": 1}


@pytest.mark.parametrize("kind", ["directory", "device", "lonely pipe"])
def test_places_that_cannot_hold_a_log_are_refused(tmp_path, kind):
    """A directory, a device and a pipe that nobody reads are refused at once, with one sentence."""
    path = {"directory": str(tmp_path), "device": "/dev/null", "lonely pipe": str(tmp_path / "fifo")}[kind]
    if kind == "lonely pipe":
        os.mkfifo(path)
    with pytest.raises(AutoprofileError) as caught:
        AuditWriter(path)
    assert caught.value.where == path


def test_a_pipe_with_a_reader_takes_records_and_never_blocks(tmp_path):
    """Records go through a FIFO; when its reader sleeps they are counted as lost instead of waiting."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    troubles: list[str] = []
    writer = AuditWriter(path, on_trouble=troubles.append)
    for _ in range(400):  # some 250 kB into a pipe of 64 kB
        writer.call(record(session=writer.session))
    lost = writer.lost
    raw = os.read(reader, 1 << 20)
    writer.close(denials=400, distinct=1)
    raw += os.read(reader, 1 << 20)
    os.close(reader)
    assert lost > 0
    assert len(troubles) == 1
    copy = tmp_path / "copy"
    copy.write_bytes(raw)
    log = read_audit(copy)
    assert sum(log.losses.values()) == lost
    lines = raw.count(b'"event":"deny"')
    assert 400 - lost <= lines <= 400


def test_a_full_disk_loses_records_and_counts_them(tmp_path):
    """With the file limited to 3,000 bytes: one message, whole lines before it, the exact number lost, then on."""
    path = tmp_path / "a"
    code = textwrap.dedent(f"""
        import resource, sys
        sys.path[:0] = {sys.path!r}
        from tests.unit.test_auditlog import record
        from autoprofile.enforce.audit import AuditWriter
        told = []
        w = AuditWriter({str(path)!r}, on_trouble=told.append)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        ids = [f"{{n:012x}}" for n in range(23)]
        for i in ids:
            w.call(record(session=w.session, id=i))
        lost = w.lost
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        w.call(record(session=w.session, id="f" * 12))
        w.close(denials=24, distinct=24)
        assert w.lost == lost, (w.lost, lost)
        print(lost, len(told), told[0])
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lost, told, message = done.stdout.strip().split(" ", 2)
    assert told == "1"
    assert "File too large" in message or "No space" in message
    log = read_audit(path)
    assert log.lost == int(lost) > 10
    assert len(log) + log.lost == 24
    assert log[-1].id == "f" * 12
    assert log.losses["broken_line"] == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 3000


def test_records_share_a_file_without_mixing(tmp_path):
    """Two writers that take turns on one file leave a log that reads as two whole runs."""
    path = tmp_path / "a"
    one, two = AuditWriter(path), AuditWriter(path)
    for n in range(53):
        for writer in (one, two):
            writer.call(record(session=writer.session, id=f"{n:012x}"))
    for writer in (one, two):
        writer.close(denials=53, distinct=53)
    log = read_audit(path)
    assert len(log) == 106
    assert log.is_complete


def test_the_log_is_private(tmp_path):
    """A new log is readable by its owner only: arguments and paths are nobody else's business."""
    write(tmp_path / "a", record())
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_constrained_values_are_what_the_kernel_reads():
    """Dirty upper halves, pointers and arguments that a call does not use do not make calls distinct."""
    assert auditlog.constrained_values("x86_64", 41, (2 + (7 << 32), 1, 0, 9, 9, 9)) == (
        2,
        1,
        0,
        None,
        None,
        None,
    )
    without_create = auditlog.constrained_values("x86_64", 257, (5, 0xDEAD, 0, 0o777, 0, 0))
    assert without_create == (None, None, 0, None, None, None)
    assert auditlog.constrained_values("x86_64", 257, (5, 0xDEAD, 0o101, 0o600, 0, 0))[3] == 0o600
    assert auditlog.constrained_values("x86_64", 4999, (1, 2, 3, 4, 5, 6)) == (None,) * 6
    assert auditlog.decoded_args("x86_64", 4999, (1, 2, 3, 4, 5, 6)) == {}
    assert auditlog.decoded_args("x86_64", 41, (16, 3, 0, 0, 0, 0))["family"] == "AF_NETLINK"


def test_time_is_iso_8601_in_utc():
    """Times are UTC text with microseconds that sorts by time."""
    assert utc_text(0) == "1970-01-01T00:00:00.000000Z"
    assert utc_text(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456Z"


def test_a_log_without_the_start_of_a_run_is_incomplete(tmp_path):
    """An empty log is no evidence of silence, and a log whose beginning is missing says so."""
    (tmp_path / "empty").write_bytes(b"")
    assert read_audit(tmp_path / "empty").losses == {"empty_log": 1}
    write(tmp_path / "a", record())
    lines = (tmp_path / "a").read_bytes().splitlines(keepends=True)
    assert b'"start"' in lines[0]
    (tmp_path / "cut").write_bytes(b"".join(lines[1:]))
    assert read_audit(tmp_path / "cut").losses == {"log_incomplete": 1}


def test_a_call_that_was_let_pass_is_not_called_a_kill(tmp_path):
    """The text of a log in complain mode says what would have been, not that it was."""
    write(tmp_path / "a", record(event="complain", action="kill"))
    text = audit_text(read_audit(tmp_path / "a"), Style(100))
    assert "let pass (would be kill)" in text
