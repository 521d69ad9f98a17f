"""The audit log over time and from elsewhere: rotated, killed, moved away, the kernel's records, a watch's."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from autoprofile.auditlog import audit_schema, read_audit
from autoprofile.auditlog.read import rotated_files
from autoprofile.drift import compare
from autoprofile.enforce.audit import MIN_SIZE, AuditWriter
from autoprofile.enforce.caller import ProgramParts
from autoprofile.errors import AutoprofileError
from autoprofile.profile import Learned, Profile, Program
from autoprofile.report.summary import drift_summary
from autoprofile.trace.program_id import ProgramIdentity
from tests.unit.test_auditlog import record


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter; pytest's own are its user's."""
    with tempfile.TemporaryDirectory(prefix="autoprofile-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def fill(writer: AuditWriter, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        writer.call(record(session=writer.session, id=f"{number:012x}"))


def test_a_log_is_rotated_and_read_as_one(tmp_path):
    """Past its size a log goes on in a new file, each small enough and with its start; together they are the whole log."""
    path = tmp_path / "a.jsonl"
    writer = AuditWriter(path, argv=["x"], max_size=MIN_SIZE, keep=9)
    fill(writer, 307)
    for number in range(307):
        writer.summary(record(session=writer.session, id=f"{number:012x}", count=2))
    writer.close(denials=614, distinct=307)
    files = rotated_files(path)
    assert 3 < len(files) <= 10
    log = read_audit(path)
    assert log.is_complete
    assert [r.count for r in log] == [2] * 307
    assert [s.argv for s in log.sessions] == [("x",)]
    for file in files:
        lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
        assert lines[0]["event"] == "start"
        assert sum(len(json.dumps(line)) for line in lines) < MIN_SIZE * 1.1


def test_what_falls_off_a_rotated_log_is_counted(tmp_path):
    """With few files kept the oldest records go, and the log says how many."""
    path = tmp_path / "a.jsonl"
    writer = AuditWriter(path, max_size=MIN_SIZE, keep=2)
    fill(writer, 503)
    writer.close(denials=503, distinct=503)
    log = read_audit(path)
    assert len(rotated_files(path)) == 3
    assert len(log) < 503
    # Start lines count among what fell off: the true number is not above what is said.
    assert 503 <= len(log) + log.losses["rotated_out"] <= 503 + 20


def test_what_was_said_to_be_lost_does_not_fall_off(tmp_path):
    """However often runs rotate a shared log, the losses they told of are all in what is left of it."""
    path = tmp_path / "a.jsonl"
    told = 0
    for run in range(3):
        writer = AuditWriter(path, max_size=MIN_SIZE, keep=1)
        if run == 0:
            writer.lose("disk_full", 5)
        fill(writer, 701)
        writer.close(denials=701, distinct=701)
        told += writer.lost
    log = read_audit(path)
    assert log.losses["disk_full"] == 5
    # A rotated_out record that fell off is no further loss: it is carried on with its count.
    assert log.losses["rotated_out"] == told - 5 > 701


def test_a_log_that_was_moved_away_is_begun_anew(tmp_path):
    """After logrotate (or a user) moves the log, records go to a new file of the old name, none is lost."""
    path = tmp_path / "a.jsonl"
    writer = AuditWriter(path)
    fill(writer, 3)
    path.rename(tmp_path / "old.jsonl")
    fill(writer, 4, first=3)
    writer.close(denials=7, distinct=7)
    assert len(read_audit(tmp_path / "old.jsonl")) == 3
    assert len(read_audit(path)) == 4
    assert read_audit(path).sessions[0].session == writer.session


@pytest.mark.parametrize("what", ["link", "dangling link", "second name", "no log", "another's", "pipe"])
def test_a_log_is_begun_anew_only_as_a_file_of_its_own(tmp_path, what):
    """What somebody put at the name of a log that he moved is neither followed nor written to: the old file is, and it is said."""
    victim = tmp_path / "victim"
    if what != "dangling link":
        victim.write_text('{"not": "yours"}\n' if what != "no log" else "root::0:0\n")
    path = tmp_path / "a.jsonl"
    told: list[str] = []
    writer = AuditWriter(path, on_trouble=told.append)
    fill(writer, 3)
    path.rename(tmp_path / "old.jsonl")
    if what.endswith("link"):
        path.symlink_to(victim)
    elif what == "second name":
        path.hardlink_to(victim)
    elif what == "pipe":
        os.mkfifo(path)
    else:
        victim.rename(path)
        victim = path
    if what == "another's":
        if os.geteuid():
            pytest.skip("only root can give a file away")
        os.chown(path, 65534, 65534)
    before = victim.read_bytes() if victim.exists() else None
    fill(writer, 4, first=3)
    writer.close(denials=7, distinct=7)
    assert (victim.read_bytes() if victim.exists() else None) == before
    assert len(read_audit(tmp_path / "old.jsonl")) == 7
    assert len(told) == 1
    assert "cannot be begun anew" in told[0]


def test_a_pipe_among_rotated_files_holds_nobody(tmp_path):
    """A pipe at the name of the oldest file of a log does not stop the rotation."""
    path = tmp_path / "a.jsonl"
    os.mkfifo(tmp_path / "a.jsonl.1")
    with AuditWriter(path, max_size=MIN_SIZE, keep=1) as writer:
        fill(writer, 500)
    assert (tmp_path / "a.jsonl.1").is_file()


def test_two_runs_rotate_one_log(tmp_path):
    """Runs that share a log and rotate it in turn lose nothing."""
    path = tmp_path / "a.jsonl"
    writers = [AuditWriter(path, max_size=MIN_SIZE, keep=20) for _ in range(2)]
    for number in range(211):
        for writer in writers:
            fill(writer, 1, first=number)
    for writer in writers:
        writer.close(denials=211, distinct=211)
    log = read_audit(path)
    assert len(log) == 422
    assert log.is_complete
    assert len(rotated_files(path)) > 3


def test_a_folder_that_cannot_be_written_is_said_once(open_folder):
    """Where rotation fails the log goes on growing, whole, after one message."""
    folder = open_folder
    code = textwrap.dedent(f"""
        import ctypes, os, sys
        sys.path[:0] = {sys.path!r}
        from tests.unit.test_auditlog_sources import *
        told = []
        writer = AuditWriter({str(folder / "a")!r}, max_size=MIN_SIZE, on_trouble=told.append)
        os.chmod({str(folder)!r}, 0o555)
        if os.geteuid() == 0:
            os.chmod({str(folder / "a")!r}, 0o666), os.setgid(65534), os.setuid(65534)
        fill(writer, 151)
        writer.close(denials=151, distinct=151)
        print(len(told), told[0])
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 cannot rotate the audit log")
    log = read_audit(folder / "a")
    assert (len(log), log.is_complete) == (151, True)


def test_a_writer_killed_at_any_time_leaves_whole_lines(tmp_path):
    """Killing a run at thirteen random moments never leaves a broken line, and the next run goes on in the same file."""
    path = tmp_path / "a.jsonl"
    code = textwrap.dedent(f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from dataclasses import replace
        from autoprofile.auditlog import AuditRecord
        from autoprofile.enforce.audit import AuditWriter
        writer = AuditWriter({str(path)!r}, argv=["x"] * 40)
        record = AuditRecord(**{ {**{f: getattr(record(), f) for f in record().__slots__}, "decoded": {}}!r})
        print("ready", flush=True)
        for number in range(10**9):
            writer.call(replace(record, session=writer.session, id=f"{{number:012x}}"))
    """)
    pause = random.Random(6)
    for _ in range(13):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(pause.uniform(0, 0.01))
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        child.stdout.close()
        # Blanks before a line that was never begun are no broken line.
        assert all(json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip())
    log = read_audit(path)
    # The last run may have been killed before its first record.
    assert set(log.losses) == {"log_incomplete"}
    assert log.losses["log_incomplete"] == len(log.sessions)


def test_lines_lie_within_pages(tmp_path):
    """No line of a log crosses a page, where a kill could cut it: blanks before it carry it over."""
    path = tmp_path / "a.jsonl"
    writer = AuditWriter(path)
    for number in range(61):
        writer.call(record(session=writer.session, id=f"{number:012x}", program="/x" * (number * 7)))
    writer.close(denials=61, distinct=61)
    raw = path.read_bytes()
    at = 0
    for line in raw.splitlines(keepends=True):
        start = at + len(line) - len(line.lstrip(b" "))
        at += len(line)
        assert start // 4096 == (at - 1) // 4096
    assert len(read_audit(path)) == 61


def test_program_records_add_up(tmp_path):
    """A program with more libraries than fit a line is read back whole, and each line fits the schema and a page."""
    path = tmp_path / "a.jsonl"
    binaries = {f"/usr/lib/x86_64-linux-gnu/lib{n}.so": f"{n:040x}" for n in range(97)}
    identity = ProgramIdentity("/bin/x", "ab12")
    with AuditWriter(path) as writer:
        writer.program(ProgramParts(identity, "glibc 2.36", binaries))
        writer.program(ProgramParts(identity, "glibc 2.36", {"/late.so": "77"}))
        writer.call(record(session=writer.session))
        writer.close(denials=1, distinct=1)
    log = read_audit(path)
    program = log.program_of(log[0])
    assert program is not None
    assert program.libc == "glibc 2.36"
    assert dict(program.binaries) == {**binaries, "/late.so": "77"}
    assert log.session_of(log[0]).kernel
    schema = jsonschema.Draft202012Validator(audit_schema())
    for line in path.read_text().splitlines():
        schema.validate(json.loads(line))
        assert len(line.lstrip()) < 4096


# -------------------------------------------------------------------------------------- the kernel's own records

FIELDS = "auid=1000 uid=1000 gid=1000 ses=1 subj=unconfined"
AUDIT_LOG = f"""\
type=DAEMON_START msg=audit(1700000000.001:1): op=start ver=3.0
type=SECCOMP msg=audit(1700000000.123:456): {FIELDS} pid=7 comm="cat" exe="/bin/cat" sig=31 arch=c000003e syscall=101 compat=0 ip=0x7f01 code=0x80000000
type=SECCOMP msg=audit(1700000002.123:457): {FIELDS} pid=8 comm="cat" exe="/bin/cat" sig=31 arch=c000003e syscall=101 compat=0 ip=0x7f02 code=0x80000000\x1dARCH=x86_64 SYSCALL=ptrace
type=SECCOMP msg=audit(1700000003.123:458): {FIELDS} pid=8 comm=6120622063 exe=2F746D702F6120622063 sig=0 arch=40000003 syscall=26 compat=1 ip=0x7f03 code=0x50000
type=SECCOMP msg=audit(1700000003.123:458): {FIELDS} pid=8 comm="x" exe="/bin/x" sig=0 arch=c000003e syscall=9999 compat=0 ip=0x7f03 code=0x7ffc0000
type=SECCOMP msg=audit(1700000003.123:458): {FIELDS} pid=8 comm="x" syscall=1 cut
"""
DMESG = f"""\
[    0.000000] Linux version 6.18
[   12.345678] audit: type=1326 audit(1700000000.123:456): {FIELDS} pid=7 comm="cat" exe="/bin/cat" sig=31 arch=c000003e syscall=101 compat=0 ip=0x7f01 code=0x80000000
[   12.345678] kauditd_printk_skb: 12 callbacks suppressed
[   12.345679] audit: audit_lost=5 audit_rate_limit=0 audit_backlog_limit=64
[   12.345680] audit: audit_lost=8 audit_rate_limit=0 audit_backlog_limit=64
"""
JOURNAL = f"""\
Nov 24 10:00:00 host audit[7]: SECCOMP {FIELDS} pid=7 comm="cat" exe="/bin/cat" sig=31 arch=c000003e syscall=101 compat=0 ip=0x7f01 code=0x80000000
Nov 24 10:00:00 host kernel: audit: type=1326 audit(1700000000.123:456): {FIELDS} pid=7 comm="cat" exe="/bin/cat" sig=31 arch=c000003e syscall=101 compat=0 ip=0x7f01 code=0x80000000
"""


def test_records_of_the_audit_daemon_are_read(tmp_path):
    """Program, thread name (hex too), arch, call, answer, time and counts come over; a cut record is counted as lost."""
    path = tmp_path / "audit.log"
    path.write_text(AUDIT_LOG)
    log = read_audit(path)
    found = [
        (r.event, r.action, r.program, r.comm, r.arch, r.syscall, r.nr, r.count, r.processes) for r in log
    ]
    assert found == [
        ("kill", "kill", "/bin/cat", "cat", "x86_64", "ptrace", 101, 2, 2),
        ("deny", "errno", "/tmp/a b c", "a b c", "i386", "ptrace", 26, 1, 1),
        ("log", "log", "/bin/x", "x", "x86_64", None, 9999, 1, 1),
    ]
    assert (log[0].time, log[0].last) == ("2023-11-14T22:13:20.123000Z", "2023-11-14T22:13:22.123000Z")
    assert log[0].args == (None,) * 6
    assert log.losses == {"broken_line": 1}


@pytest.mark.parametrize(
    ("text", "losses"),
    [(DMESG, {"rate_limited": 12, "audit_lost": 8}), (JOURNAL, {})],
    ids=["dmesg", "journal"],
)
def test_kernel_messages_are_read(tmp_path, text, losses):
    """The kernel's log and the journal show the same record, and what the kernel says it dropped is counted."""
    path = tmp_path / "messages"
    path.write_text(text)
    log = read_audit(path)
    assert [(r.program, r.syscall, r.count) for r in log] == [("/bin/cat", "ptrace", 1)]
    assert log.losses == losses


def test_translated_records_are_refused(tmp_path):
    """Records from `ausearch -i` have lost their numbers: one error says how to get them."""
    path = tmp_path / "audit.log"
    path.write_text(AUDIT_LOG.replace("arch=c000003e syscall=101", "arch=x86_64 syscall=ptrace"))
    with pytest.raises(AutoprofileError, match="translated") as caught:
        read_audit(path)
    assert "--raw" in (caught.value.hint or "")
    assert caught.value.where == f"{path}:2"


def test_kernel_records_are_evidence_for_drift(tmp_path):
    """A call that was killed is drift, whether or not rules look at its arguments, which the kernel tells none of."""
    path = tmp_path / "audit.log"
    path.write_text(AUDIT_LOG)
    profile = Profile.loads("autoprofile: 1\narch: [x86_64]\ndefault: kill\nsyscalls: {read: any}\n")
    report = compare(profile, audits=[read_audit(path)])
    assert {r.syscall for r in report.denials} == {"ptrace", "9999"}
    limited = Profile.loads(
        "autoprofile: 1\narch: [x86_64]\ndefault: kill\nsyscalls: {ptrace: [{request: PTRACE_TRACEME}]}\n"
    )
    report = compare(limited, audits=[read_audit(path)])
    (record,) = [r for r in report.denials if (r.arch, r.syscall) == ("x86_64", "ptrace")]
    assert (record.kind, record.unknown, record.count) == ("new_argument", ("request",), 2)
    assert report.undecided == 0


def test_what_was_let_pass_unseen_is_undecided_and_never_called_allowed(tmp_path):
    """A call that was only logged, with arguments that nobody wrote down, is neither drift nor allowed."""
    path = tmp_path / "audit.log"
    path.write_text(AUDIT_LOG.splitlines()[1].replace("code=0x80000000", "code=0x7ffc0000") + "\n")
    limited = Profile.loads(
        "autoprofile: 1\narch: [x86_64]\ndefault: kill\nsyscalls: {ptrace: [{request: PTRACE_TRACEME}]}\n"
    )
    report = compare(limited, audits=[read_audit(path)])
    assert (len(report), report.undecided, report.allowed) == (0, 1, 0)
    assert "all allowed" not in drift_summary(report)
    assert "1 undecided" in drift_summary(report)


@pytest.mark.parametrize("stamp", ["99999999999999999999", "9999999999999999", "253402300800", "9" * 5000])
def test_a_time_that_no_clock_shows_is_a_broken_line(tmp_path, stamp):
    """A damaged stamp costs its own record, which is counted, and no other."""
    path = tmp_path / "audit.log"
    path.write_text(AUDIT_LOG.replace("audit(1700000000.123", f"audit({stamp}.123"))
    log = read_audit(path)
    assert [r.syscall for r in log] == ["ptrace", "ptrace", None]
    assert log.losses == {"broken_line": 2}


@pytest.mark.parametrize("arch", ["deadbeef", "80000016", "c0000015"], ids=["invalid", "s390x", "ppc64le"])
def test_records_of_other_arches_are_compared_with_the_rest(tmp_path, arch):
    """A record of an arch outside the tables is a high alarm of its own and ends nothing."""
    path = tmp_path / "audit.log"
    path.write_text(AUDIT_LOG.replace("arch=40000003", f"arch={arch}"))
    profile = Profile.loads("autoprofile: 1\narch: [x86_64]\ndefault: kill\nsyscalls: {read: any}\n")
    report = compare(profile, audits=[read_audit(path)])
    found = {r.arch: (r.syscall, r.severity, r.edit) for r in report.denials if r.arch != "x86_64"}
    assert found == {f"0x{arch}": ("26", "high", "")}
    assert len(report.denials) == 3


# ------------------------------------------------------------------------------------------------------ a watch


def watch_document(**changes):
    item = {
        "kind": "refused",
        "program": "/bin/x",
        "arch": "x86_64",
        "nr": 41,
        "syscall": "socket",
        "args": [16, 3, 0, None, None, None],
        "decoded": {"family": "AF_NETLINK"},
        "returned": "EPERM",
        "allowed_by_profile": False,
        "count": 13,
    }
    return {
        "schema_version": 1,
        "command": "watch",
        "calls": 20,
        "lost": {"total": 2, "entries": {"map_full": 2}, "details": {}},
        "records": [
            {**item, **changes},
            {**item, "kind": "unlisted", "count": 7, "nr": 39, "args": [None] * 6},
        ],
        "refused": 13,
        "unlisted": 7,
    }


def test_the_output_of_a_watch_is_read(tmp_path):
    """Refused calls are denials and unlisted ones logged calls, with their exact counts, and losses come over."""
    path = tmp_path / "watch.json"
    path.write_text(json.dumps(watch_document(), indent=1))
    log = read_audit(path)
    assert [(r.event, r.action, r.syscall, r.count) for r in log] == [
        ("deny", "EPERM", "socket", 13),
        ("log", "allow", "getpid", 7),
    ]
    assert log[0].constrained[:3] == (16, 3, 0)
    assert log.losses == {"map_full": 2}
    profile = Profile.loads("autoprofile: 1\narch: [x86_64]\ndefault: kill\nsyscalls: {read: any}\n")
    assert {(r.syscall, r.count) for r in compare(profile, audits=[log]).denials} == {
        ("socket", 13),
        ("getpid", 7),
    }


def test_a_watch_of_an_arch_outside_the_tables_is_compared(tmp_path):
    """An arch that this release does not know is a high alarm, not an error."""
    path = tmp_path / "watch.json"
    path.write_text(json.dumps(watch_document(arch="s390x")))
    profile = Profile.loads("autoprofile: 1\narch: [x86_64]\ndefault: kill\nsyscalls: {read: any}\n")
    report = compare(profile, audits=[read_audit(path)])
    assert [(r.arch, r.severity) for r in report.denials] == [("s390x", "high"), ("x86_64", "low")]


def test_what_a_watch_knows_of_programs_attributes_its_records(tmp_path):
    """Kernel, build-ids, libc and mapped files of a watch say whether anything changed since learning."""
    libc = "/lib/libc.so.6"
    document = watch_document(build_id="aa", args=[16, 3, 0, None, None, None])
    document["kernel"] = "6.18"
    document["programs"] = [
        {
            "program": "/bin/x",
            "build_id": "aa",
            "libc": "glibc 2.36",
            "binaries": {"/bin/x": "aa", libc: "11"},
        }
    ]
    path = tmp_path / "watch.json"
    profile = Profile(
        program=Program("/bin/x", "aa"),
        learned=Learned(1, 1, 1, kernel="6.18", libc="glibc 2.36", binaries={"/bin/x": "aa", libc: "11"}),
    )

    def cause() -> str:
        path.write_text(json.dumps(document))
        return next(
            r for r in compare(profile, audits=[read_audit(path)]) if r.syscall == "socket"
        ).attribution

    assert cause() == "same"
    document["programs"][0]["binaries"]["/tmp/pre.so"] = "66"
    assert cause() == "changed"
    document["programs"] = []
    assert cause() == "unknown"
    document["programs"] = [{"program": "/bin/x", "build_id": 1, "libc": None, "binaries": {}}]
    with pytest.raises(AutoprofileError, match="watch --json"):
        cause()


@pytest.mark.parametrize(
    "change",
    [
        {"args": [1]},
        {"kind": "other"},
        {"nr": "x"},
        {"nr": -1},
        {"count": None},
        {"args": [-1, 0, 0, 0, 0, 0]},
        {"args": [1 << 64, 0, 0, 0, 0, 0]},
    ],
)
def test_other_documents_are_refused(tmp_path, change):
    """A document that only looks like a watch's is one error that names the file."""
    path = tmp_path / "watch.json"
    path.write_text(json.dumps(watch_document(**change)))
    with pytest.raises(AutoprofileError, match="watch --json") as caught:
        read_audit(path)
    assert caught.value.where == str(path)


def test_an_older_log_is_read(tmp_path):
    """Lines without the newer keys (file, backtrace, by, kernel) are read with nothing in their place."""
    path = tmp_path / "a.jsonl"
    with AuditWriter(path) as writer:
        writer.call(record(session=writer.session))
        writer.close(denials=1, distinct=1)
    newer = {"file", "file_build_id", "backtrace", "by", "kernel"}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({k: v for k, v in line.items() if k not in newer}) + "\n" for line in lines)
    )
    log = read_audit(path)
    assert list(log) == [record(session=writer.session)]
    assert log.sessions[0].kernel is None


def test_backtraces_and_deciders_come_back(tmp_path):
    """The newer keys are read back as they were written, and an unknown decider is an error."""
    path = tmp_path / "a.jsonl"
    with AuditWriter(path) as writer:
        rich = record(
            session=writer.session,
            event="allow",
            by="hook",
            file="/lib/x.so",
            file_build_id="ab",
            backtrace=("a+0x1", "b"),
        )
        writer.call(rich)
        writer.close(denials=1, distinct=1)
    assert list(read_audit(path)) == [rich]
    path.write_text(path.read_text().replace('"by":"hook"', '"by":"nobody"'))
    with pytest.raises(AutoprofileError, match="unknown decider"):
        read_audit(path)
    assert replace(rich, by="user").by == "user"
    shutil.rmtree(tmp_path)
