"""The supervisor against the real kernel: what it answers, what it records, and that it fails closed."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from autoprofile import abi
from autoprofile.auditlog import aggregate, read_audit
from autoprofile.enforce import enforce
from autoprofile.enforce.audit import AuditWriter
from autoprofile.enforce.backtrace import _ends_with_call
from autoprofile.enforce.supervise import NotifySupervisor
from autoprofile.profile.action import Action
from autoprofile.trace.source import Command
from tests.conftest import need_program

pytestmark = pytest.mark.kernel

EPERM = Action("errno", errno.EPERM)
REPO = Path(__file__).parent.parent.parent


def notify_filter(*names: str) -> bytes:
    """Return a filter that hands these calls over, on x86_64 and i386, and allows all others."""

    def statement(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
        return struct.pack("=HBBI", code, jt, jf, k)

    load, equal, answer = 0x20, 0x15, 0x06
    notify, allow, kill = 0x7FC00000, 0x7FFF0000, 0x80000000
    out = [statement(load, 4)]
    for arch in ("x86_64", "i386"):
        numbers = [nr for name in names if (nr := abi.syscall_nr(arch, name)) is not None]
        body = [statement(load, 0)]
        for position, nr in enumerate(numbers):
            body.append(statement(equal, nr, len(numbers) - position, 0))
        body += [statement(answer, allow), statement(answer, notify)]
        out += [statement(equal, abi.arch(arch).audit_arch, 0, len(body)), *body]
    return b"".join([*out, statement(answer, kill)])


def deny(arch, nr, args):
    return EPERM


def run(argv, supervisor, names=("socket", "getppid")):
    return enforce(Command(tuple(map(str, argv))), notify_filter(*names), supervisor=supervisor)


@pytest.fixture
def log(tmp_path):
    """The path of an audit log."""
    return tmp_path / "audit.jsonl"


def test_refused_calls_are_recorded_exactly(tracee, log, capfd):
    """Every refused call fails with its errno and is in the log: arguments, place, program, and prime counts."""
    program = tracee("refused")
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log, argv=["refused"]))
    assert run([program, 97, 13, 1009], supervisor) == 0
    assert capfd.readouterr().out == "netlink 97 1\nunix 13 1\nparent 1009 1\n"
    audit = read_audit(log)
    assert audit.is_complete
    assert [(r.syscall, r.count, r.processes) for r in audit] == [
        ("socket", 97, 1),
        ("socket", 13, 1),
        ("getppid", 1009, 1),
    ]
    netlink, unix, parent = audit
    assert netlink.args[:3] == (16, 3, 0)
    assert netlink.decoded["family"] == "AF_NETLINK"
    # Thirteen different raw values are one call: the kernel reads the low half.
    assert unix.args[:3] == (1 | 1 << 32, 1, 0)
    assert unix.constrained[:2] == (1, 1)
    for record in audit:
        assert (record.event, record.action, record.arch) == ("deny", "EPERM", "x86_64")
        assert (record.program, record.comm) == (program, "refused")
        assert (record.location or "").startswith("libc.so.6+0x")
        assert (record.symbol or "").startswith("syscall+0x")
        assert record.pid == record.tid > 0
        assert record.time <= record.last
    assert parent.build_id == netlink.build_id
    assert supervisor.summary.denials == 97 + 13 + 1009
    assert supervisor.summary.lost == 0


def test_each_place_in_the_code_is_named(tracee, log, capfd):
    """libc, the program, a library beside it, code without a file and int $0x80 are told apart by name."""
    folder = os.path.dirname(tracee("libplace", "-shared", "-fPIC"))
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log))
    assert run([tracee("places"), folder], supervisor, ["getppid"]) == 0
    assert capfd.readouterr().out == "failed 5\n"
    found = [
        (r.arch, (r.location or "").split("+")[0], (r.symbol or "").split("+")[0]) for r in read_audit(log)
    ]
    assert found == [
        ("x86_64", "libc.so.6", "getppid"),
        ("x86_64", "places", "place_in_program"),
        ("x86_64", "libplace.so", "place_in_library"),
        ("x86_64", "[anonymous]", ""),
        ("i386", "places", "main"),
    ]


def test_i386_programs_are_supervised(tracee, log, capfd):
    """A 32-bit program is refused and recorded as i386, with the library behind the vdso's entry point."""
    folder = os.path.dirname(tracee("libplace", "-m32", "-shared", "-fPIC"))
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log))
    assert run([tracee("places", "-m32"), folder], supervisor, ["getppid"]) == 0
    assert capfd.readouterr().out == "failed 4\n"
    records = list(read_audit(log))
    assert [(r.arch, r.syscall, (r.location or "").split("+")[0]) for r in records] == [
        ("i386", "getppid", "libc.so.6"),
        ("i386", "getppid", "places"),
        ("i386", "getppid", "libplace.so"),
        ("i386", "getppid", "[anonymous]"),
    ]
    assert {r.nr for r in records} == {64}


def test_complaining_lets_calls_pass_and_records_them(tracee, log, capfd):
    """In complain mode no call fails, and the log says what would have been answered."""
    with AuditWriter(log, mode="complain") as audit:
        supervisor = NotifySupervisor(deny, complain=True, audit=audit)
        assert run([tracee("refused"), 3, 5, 7], supervisor) == 0
    assert capfd.readouterr().out == "netlink 0 0\nunix 0 0\nparent 0 0\n"
    audit = read_audit(log)
    assert [(r.event, r.action, r.count) for r in audit] == [("complain", "EPERM", n) for n in (3, 5, 7)]
    assert audit.sessions[0].mode == "complain"


def test_answers_follow_the_decision(tracee, log, capfd):
    """Silent allow, logged pass, a chosen errno and the ENOSYS preference are each what the caller gets."""

    def decide(arch, nr, args):
        if abi.syscall_name(arch, nr) == "getppid":
            return Action.LOG
        return Action("errno", errno.EACCES) if args[0] == 16 else Action.ALLOW

    assert run([tracee("refused"), 3, 5, 7], NotifySupervisor(decide, audit=AuditWriter(log))) == 0
    assert capfd.readouterr().out == f"netlink 3 {errno.EACCES}\nunix 0 0\nparent 0 0\n"
    assert [(r.event, r.action, r.count) for r in read_audit(log)] == [
        ("deny", "EACCES", 3),
        ("log", "log", 7),
    ]
    assert run([tracee("refused"), 3, 0, 0], NotifySupervisor(deny, enosys=frozenset({"socket"}))) == 0
    assert capfd.readouterr().out.startswith(f"netlink 3 {errno.ENOSYS}\n")
    # trap, trace and notify have no meaning here and refuse.
    supervisor = NotifySupervisor(lambda arch, nr, args: Action.NOTIFY)
    assert run([tracee("refused"), 0, 0, 3], supervisor) == 0
    assert capfd.readouterr().out.endswith(f"parent 3 {errno.ENOSYS}\n")


def test_kill_ends_the_process_before_the_call(tracee, log, capfd):
    """A kill decision ends the process as the kernel would, by SIGSYS (159), and the record is in the log."""
    supervisor = NotifySupervisor(lambda arch, nr, args: Action.KILL_PROCESS, audit=AuditWriter(log))
    assert run([tracee("refused"), 1, 1, 1], supervisor) == 128 + signal.SIGSYS
    assert capfd.readouterr().out == ""
    (record,) = read_audit(log)
    assert (record.event, record.action, record.count) == ("kill", "kill", 1)
    assert supervisor.summary.killed == 1


def test_threads_are_counted_together(tracee, log, capfd):
    """Eleven threads of one process are one distinct call from one process, with the exact count."""
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log))
    assert run([tracee("crowd"), "threads", 11, 211], supervisor) == 0
    assert capfd.readouterr().out == f"failed {11 * 211}\n"
    (record,) = read_audit(log)
    assert (record.count, record.processes) == (11 * 211, 1)


def test_two_thousand_children_are_counted(tracee, log, capfd):
    """2,003 children with 3 calls each are one distinct call from 2,003 processes, with the exact count."""
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log))
    assert run([tracee("crowd"), "children", 2003, 3], supervisor) == 0
    assert capfd.readouterr().out == f"failed {2003 * 3}\n"
    (record,) = read_audit(log)
    assert (record.count, record.processes) == (6009, 2003)


def test_targets_that_end_mid_notification(tracee, log, capfd):
    """Processes killed, exiting or exec'ing while their threads are being answered disturb nothing."""
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log))
    assert run([tracee("leaver"), 307], supervisor, ["getppid"]) == 0
    assert capfd.readouterr().out == "ended 307\n"
    audit = read_audit(log)
    assert audit.is_complete
    assert sum(r.count for r in audit) == supervisor.summary.denials
    # Nothing is pinned on a program that did not make the call: /bin/true never does.
    assert {os.path.basename(r.program) for r in audit} <= {"leaver", "?"}


def test_an_internal_error_fails_closed(tracee, log, tmp_path):
    """When deciding raises anything, the error is reported, the program ends, and what outlives it gets ENOSYS."""

    class Surprise(BaseException):
        pass

    out = tmp_path / "out"
    troubles: list[str] = []
    calls = 0

    def decide(arch, nr, args):
        nonlocal calls
        calls += 1
        raise Surprise("on purpose")

    supervisor = NotifySupervisor(decide, audit=AuditWriter(log), on_trouble=troubles.append)
    with pytest.raises(Surprise):
        run([tracee("outlive"), out, "detach"], supervisor, ["getppid"])
    assert isinstance(supervisor.error, Surprise)
    assert calls == 1
    assert len(troubles) == 1
    assert "on purpose" in troubles[0]
    assert "ENOSYS" in troubles[0]
    assert wait_for(out) == "ENOSYS after 0 other failures, 0 successes\n"
    assert read_audit(log).losses == {"supervisor_error": 1}


def test_stopping_leaves_the_target_refused(tracee, tmp_path):
    """After `stop` the calls of a target that still runs fail with ENOSYS."""
    out = tmp_path / "out"
    supervisor = NotifySupervisor(deny)

    def stop():
        wait_for(Path(f"{out}.running"))
        supervisor.stop()

    helper = threading.Thread(target=stop)
    helper.start()
    assert run([tracee("outlive"), out], supervisor, ["getppid"]) == 0
    helper.join(30)
    text = wait_for(out)
    assert text.startswith("ENOSYS after ")
    assert text.endswith(", 0 successes\n")


def test_a_killed_supervisor_leaves_the_target_refused(tracee, log, tmp_path):
    """After kill -9 of the tool no call passes: the target sees EPERM, then ENOSYS, and the log is readable."""
    out = tmp_path / "out"
    code = textwrap.dedent(f"""
        from tests.kernel.test_supervise import *
        supervisor = NotifySupervisor(deny, audit=AuditWriter({str(log)!r}))
        run([{tracee("outlive")!r}, {str(out)!r}], supervisor, ["getppid"])
    """)
    tool = subprocess.Popen([sys.executable, "-c", code], cwd=REPO)
    try:
        wait_for(Path(f"{out}.running"))
        time.sleep(0.2)
    finally:
        tool.kill()
        tool.wait(30)
    text = wait_for(out)
    assert text.endswith(", 0 successes\n")
    assert int(text.split()[2]) > 10
    audit = read_audit(log)
    assert audit.losses == {"log_incomplete": 1}
    (record,) = audit
    assert record.count >= 16  # totals go out at each doubling


def test_a_full_disk_does_not_stop_enforcement(tracee, tmp_path, capfd):
    """With no room for the log every call is still refused, one message is given, and the losses are counted."""
    log = tmp_path / "audit.jsonl"
    code = textwrap.dedent(f"""
        import resource
        from tests.kernel.test_supervise import *
        audit = AuditWriter({str(log)!r}, on_trouble=lambda text: print(text, file=sys.stderr))
        supervisor = NotifySupervisor(deny, audit=audit)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
        run([{tracee("refused")!r}, 3, 5, 7], supervisor)
        assert supervisor.summary.denials == 15, supervisor.summary
        assert supervisor.summary.lost > 0
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "netlink 3 1\nunix 5 1\nparent 7 1\n"
    assert done.stderr.count("cannot write the audit log") == 1
    assert not read_audit(log).is_complete


def test_too_many_distinct_calls_are_counted_not_kept(tracee, log, monkeypatch):
    """A target that varies its calls without end fills neither memory nor disk, and the log says so."""
    monkeypatch.setattr("autoprofile.enforce.witness.DISTINCT_LIMIT", 2)
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log))
    assert run([tracee("refused"), 3, 5, 7], supervisor) == 0
    audit = read_audit(log)
    assert len(audit) == 2
    assert audit.losses == {"too_many_distinct": 7}


def test_distinct_calls_have_the_same_id_in_every_run(tracee, log):
    """Two runs in one log add up by id, though pids, addresses and times differ."""
    for _ in range(2):
        assert run([tracee("refused"), 3, 5, 7], NotifySupervisor(deny, audit=AuditWriter(log))) == 0
    audit = read_audit(log)
    assert len(audit) == 6
    assert [r.count for r in aggregate(audit)] == [14, 10, 6]


def test_identical_denials_are_answered_from_a_cache(tracee):
    """The decision is made once for 5,003 identical calls."""
    asked = []

    def decide(arch, nr, args):
        asked.append(nr)
        return EPERM

    assert run([tracee("refused"), 0, 0, 5003], NotifySupervisor(decide)) == 0
    assert len(asked) == 1


def wait_for(path: Path, timeout_s: float = 60) -> str:
    """Wait for a file to appear and return its text."""
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)
    return path.read_text()


@pytest.mark.parametrize("flags", [("-O0",), ("-O2", "-fomit-frame-pointer"), ("-O2", "-m32")], ids=" ".join)
def test_backtraces_name_the_callers(tracee, log, flags):
    """With `backtrace` the functions that led to a call are named in their order, with and without frame pointers."""
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log), backtrace=True)
    assert run([tracee("chain", *flags)], supervisor, ["getppid"]) == 0
    (record,) = read_audit(log)
    names = [place.partition(":")[2].partition("+")[0] for place in record.backtrace]
    ours = [name for name in names if name in ("innermost", "middle", "outer", "main")]
    # On i386 a frame that has returned may show once more.
    assert list(dict.fromkeys(ours)) == ["innermost", "middle", "outer", "main"]
    assert len(record.backtrace) <= 16


def test_call_instructions_are_told_from_others(tracee):
    """Every call instruction that a disassembler finds in a static program is seen as one."""
    objdump = need_program("objdump", package="binutils")
    program = tracee("chain", "-static")
    raw = subprocess.run([objdump, "-d", "-w", program], capture_output=True, text=True, check=True).stdout
    code, calls = bytearray(), 0
    for line in raw.splitlines():
        parts = line.split("\t")
        if len(parts) < 3:
            continue
        code += bytes.fromhex(parts[1])
        # Long enough for what is looked at; calls by segment or with other prefixes are none of ours.
        if parts[2].startswith("call ") and len(code) > 7:
            calls += 1
            assert _ends_with_call(bytes(code[-7:])), line
    assert calls > 1000
    assert not _ends_with_call(bytes.fromhex("90909090909090"))
    assert not _ends_with_call(bytes.fromhex("9090909090ffe0"))  # jmp *%rax


def test_what_a_program_is_made_of_is_recorded_once(tracee, log):
    """The log names libc and every mapped file with its build-id, once per program, and the file of each call."""
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log))
    folder = os.path.dirname(tracee("libplace", "-shared", "-fPIC"))
    assert run([tracee("places"), folder], supervisor, ["getppid"]) == 0
    audit = read_audit(log)
    assert log.read_text().count('"event":"program"') == 1
    program = audit.program_of(audit[0])
    assert program is not None
    assert (program.libc or "").startswith("glibc 2.")
    assert {os.path.basename(path) for path in program.binaries} >= {"places", "libc.so.6", "libplace.so"}
    for record in audit:
        assert record.file_build_id == (program.binaries[record.file] if record.file else None)
    assert audit.sessions[0].kernel == os.uname().release


def test_a_library_that_is_loaded_later_is_recorded_too(tracee, log):
    """A call from a file that was not mapped when its program was first recorded adds what is mapped now."""
    library = tracee("libplace", "-shared", "-fPIC")
    script = (
        "import ctypes, os, sys\n"
        "try:\n    os.getppid()\nexcept OSError:\n    pass\n"
        "ctypes.CDLL(sys.argv[1]).place_in_library()\n"
    )
    supervisor = NotifySupervisor(lambda arch, nr, args: Action.LOG, audit=AuditWriter(log))
    assert run([sys.executable, "-I", "-c", script, library], supervisor, ["getppid"]) == 0
    audit = read_audit(log)
    first, later = audit
    assert (later.file, bool(later.file_build_id)) == (library, True)
    program = audit.program_of(later)
    assert program is not None
    assert {first.file, later.file} <= program.binaries.keys()
    assert log.read_text().count('"event":"program"') > 1
