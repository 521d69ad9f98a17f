"""The fault table (docs/faults.md): nothing hangs, nothing runs unfiltered, no record is lost unsaid."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprofile.auditlog import read_audit
from autoprofile.enforce.audit import AuditWriter
from autoprofile.enforce.supervise import NotifySupervisor
from autoprofile.profile import Action
from tests.cli.tool import AUTOPROFILE, autoprofile, environment
from tests.conftest import _skip_or_fail, need_program
from tests.kernel.test_supervise import deny, run, wait_for

pytestmark = pytest.mark.kernel

DENYLIST = """\
autoprofile: 1
arch: [x86_64, i386]
level: strict
mode: denylist
default: allow
deny:
  getppid: {action}
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile that refuses getppid with EACCES and allows all else."""
    return profile_with(tmp_path, "EACCES")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter; pytest's own are its user's."""
    with tempfile.TemporaryDirectory(prefix="autoprofile-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def profile_with(folder: Path, action: str) -> Path:
    path = folder / f"{action}.yaml"
    path.write_text(DENYLIST.format(action=action))
    return path


def need_root() -> None:
    if os.geteuid() != 0:
        _skip_or_fail("this needs root (mounts, pid namespaces, setuid)", "AUTOPROFILE_REQUIRE_KERNEL")


def test_the_supervisor_is_killed(tracee, profile, tmp_path):
    """After kill -9 of `enforce` the program's calls fail with ENOSYS, none succeeds, and the log is whole but for its end."""
    out, log = tmp_path / "out", tmp_path / "a.jsonl"
    words = [*AUTOPROFILE, "enforce", profile, "--audit", log, "--", tracee("outlive"), out]
    tool = subprocess.Popen([os.fspath(word) for word in words], env=environment())
    try:
        wait_for(Path(f"{out}.running"))
    finally:
        tool.kill()
        tool.wait(60)
    assert wait_for(out).endswith(", 0 successes\n")
    audit = read_audit(log)
    assert audit.losses == {"log_incomplete": 1}
    assert [r.syscall for r in audit] == ["getppid"]
    assert all(line.endswith(b"}") for line in log.read_bytes().splitlines())


def test_the_disk_of_the_log_is_full(tracee, profile, tmp_path):
    """On a file system without room every call is still refused, and the log says how many records it lacks once it has."""
    need_root()
    folder = tmp_path / "small"
    folder.mkdir()
    script = f"""
        set -e
        mount -t tmpfs -o size=8k none {folder}
        head -c 8192 /dev/zero > {folder}/filler || true
        {sys.executable} -m autoprofile enforce {profile} --audit {folder}/a.jsonl -- {tracee("refused")} 1 1 97
        rm {folder}/filler
        {sys.executable} -m autoprofile enforce {profile} --audit {folder}/a.jsonl -- {tracee("refused")} 1 1 13
        cp {folder}/a.jsonl {tmp_path}/copy.jsonl
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"parent 97 {errno.EACCES}") == 1
    assert done.stdout.count(f"parent 13 {errno.EACCES}") == 1
    assert done.stderr.count("cannot write the audit log") == 1
    assert "audit records were lost" in done.stderr
    (record,) = read_audit(tmp_path / "copy.jsonl")
    assert record.count == 13


def test_the_target_forks_ten_thousand_times(tracee, tmp_path):
    """10,007 children with one refused call each are one distinct call from 10,007 processes."""
    log = tmp_path / "a.jsonl"
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log), symbols=False)
    assert run([tracee("crowd"), "children", 10_007, 1], supervisor, ["getppid"]) == 0
    audit = read_audit(log)
    assert audit.is_complete
    assert sum(r.count for r in audit) == supervisor.summary.denials == 10_007
    assert audit[0].processes >= 10_007 * 0.9  # ids may come round on a machine with a small pid space


def test_the_target_ends_mid_notification(tracee, tmp_path):
    """Targets killed while their call waits for a slow judge leave no hang, and their calls are counted."""

    class Slow:
        by = "hook"

        def judge(self, event, waits):
            os.kill(event.pid, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while waits():
                assert time.monotonic() < deadline
                time.sleep(0.001)

    log = tmp_path / "a.jsonl"
    supervisor = NotifySupervisor(deny, judge=Slow(), audit=AuditWriter(log))
    assert run([tracee("refused"), 0, 0, 5], supervisor) == 128 + signal.SIGKILL
    audit = read_audit(log)
    assert audit.is_complete
    assert [r.count for r in audit] == [1]


def test_a_pid_is_reused(tracee, profile, tmp_path):
    """Two programs that call one after the other under the same process id are two records, each under its own name."""
    need_root()
    program = Path(tracee("reused_pid"))
    shutil.copy(program, program.with_name("other"))
    log = tmp_path / "a.jsonl"
    words = [*AUTOPROFILE, "enforce", profile, "--audit", log, "--", program]
    inside = ["unshare", "--pid", "--fork", "--mount-proc", "--", *map(os.fspath, words)]
    done = subprocess.run(inside, capture_output=True, text=True, timeout=120, env=environment(), check=False)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr
    audit = read_audit(log)
    assert sorted((Path(r.program).name, r.count, r.pid) for r in audit) == [
        ("other", 1, 300),
        ("reused_pid", 1, 300),
    ]


def test_signals_arrive_while_the_filter_is_installed(tracee, profile, tmp_path):
    """Signals sent to the tool from its start on never let the program run unfiltered, nor hang it."""
    log = tmp_path / "a.jsonl"
    words = [*AUTOPROFILE, "enforce", profile, "--audit", log, "--", tracee("restarts"), "3"]
    for _ in range(3):
        tool = subprocess.Popen(
            [os.fspath(word) for word in words], stdout=subprocess.PIPE, text=True, env=environment()
        )
        while tool.poll() is None:  # its output is shorter than a pipe, so that it need not be read
            for signum in (signal.SIGWINCH, signal.SIGCONT):
                tool.send_signal(signum)
            time.sleep(0.002)
        out, _ = tool.communicate(timeout=60)
        assert (tool.returncode, out) == (0, f"{errno.EACCES} 2\n" * 4)
    assert sum(r.count for r in read_audit(log)) == 12


@pytest.mark.parametrize(
    ("options", "status"), [([], 0), (["--audit", "inner.jsonl"], 125)], ids=["filter", "supervised"]
)
def test_autoprofile_is_nested(tracee, profile, tmp_path, options, status):
    """Inside an enforced program `enforce` stacks a second filter; it says so when it needs a second supervisor, which no kernel has."""
    outer = profile_with(tmp_path, "EPERM")
    words = ["enforce", outer, "--audit", "outer.jsonl", "--", *AUTOPROFILE, "enforce", profile, *options]
    done = autoprofile(*words, "--", tracee("refused"), 0, 3, 5, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    if status:
        assert "busy" in done.stderr.lower()
        assert done.stdout == ""  # the program was not run without its filter
    else:
        # Of two filters the most severe action counts: the inner one's errno over the outer one's question.
        assert done.stdout == f"netlink 0 0\nunix 0 0\nparent 5 {errno.EACCES}\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("way", ["seccomp", "prctl"])
def test_the_target_has_a_filter_of_its_own(tracee, tmp_path, way):
    """A program that filters itself goes on doing so under a profile, and the profile goes on holding."""
    log = tmp_path / "a.jsonl"
    supervisor = NotifySupervisor(deny, audit=AuditWriter(log))
    # Its own filter refuses getppid with EPERM before the supervisor is asked; socket is ours to refuse.
    script = f"{tracee('own_filter')} {way}; {tracee('refused')} 2 3 0"
    assert run(["/bin/sh", "-c", script], supervisor, ["socket"]) == 0
    assert sorted((r.syscall, r.count) for r in read_audit(log)) == [("socket", 2), ("socket", 3)]


def test_bubblewrap_runs_under_a_profile(tracee, profile, tmp_path):
    """What bubblewrap starts in a container of its own is refused and recorded like all else."""
    need_program("bwrap", package="bubblewrap")
    log = tmp_path / "a.jsonl"
    sandbox = ["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--", tracee("refused")]
    done = autoprofile("enforce", profile, "--audit", log, "--", *sandbox, 0, 0, 7, cwd=tmp_path)
    assert done.stdout.endswith(f"parent 7 {errno.EACCES}\n"), done.stderr
    assert [r.count for r in read_audit(log) if r.program.endswith("refused")] == [7]


@pytest.mark.parametrize("gains", [False, True], ids=["no_new_privs", "allow-new-privs"])
def test_a_setuid_program(tracee, profile, tmp_path, open_folder, gains):
    """A setuid program gains its rights only where asked for, and is under the filter either way."""
    need_root()
    need_program("setpriv", package="util-linux")
    programs = []
    for name in ("seccomp_state", "refused"):
        programs.append(open_folder / name)
        shutil.copy(tracee(name), programs[-1])
        programs[-1].chmod(0o4755)
    state, refused = programs
    options = ["--allow-new-privs"] if gains else []
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    words = ["enforce", profile, *options, "--audit", tmp_path / "a.jsonl", "--", *user]
    done = autoprofile(*words, "sh", "-c", f"{state} && {refused} 0 0 3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(":\t") for line in done.stdout.splitlines() if ":\t" in line)
    gained = gains and not os.statvfs(open_folder).f_flag & os.ST_NOSUID
    assert (lines["Euid"], lines["Seccomp"]) == ("0" if gained else "65534", "2")
    assert done.stdout.endswith(f"parent 3 {errno.EACCES}\n")
    audit = read_audit(tmp_path / "a.jsonl")
    assert sum(r.count for r in audit if r.comm == "refused") == 3


def test_a_restarted_target_keeps_its_profile(tracee, profile, tmp_path):
    """A program that executes itself and forks its way on is refused the same in every life."""
    log = tmp_path / "a.jsonl"
    done = autoprofile("enforce", profile, "--audit", log, "--", tracee("restarts"), 6, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{errno.EACCES} 2\n" * 7), done.stderr
    assert sum(r.count for r in read_audit(log)) == 7


@pytest.mark.parametrize(
    ("how", "status"), [("none", signal.SIGSYS), ("handle", 9), ("ignore", 9), ("block", 9)]
)
def test_nobody_survives_a_kill(tracee, tmp_path, how, status):
    """A killed program ends by SIGSYS as the kernel's kill does, and by SIGKILL if it would not die of that."""
    log = tmp_path / "a.jsonl"
    supervisor = NotifySupervisor(lambda arch, nr, args: Action.KILL_PROCESS, audit=AuditWriter(log))
    assert run([tracee("defiant"), how], supervisor, ["getppid"]) == 128 + status
    assert [(r.event, r.count) for r in read_audit(log)] == [("kill", 1)]
    assert supervisor.summary.killed == 1
    assert supervisor.summary.killed_by_sigkill == (status == 9)


def test_a_killed_process_with_many_threads_ends_whole(tracee, tmp_path):
    """Of a process whose eleven threads all make a call that is killed for, nothing is left."""
    supervisor = NotifySupervisor(lambda arch, nr, args: Action.KILL_PROCESS)
    assert run([tracee("crowd"), "threads", 11, 3], supervisor, ["getppid"]) == 128 + signal.SIGSYS
    assert supervisor.summary.killed == 1
