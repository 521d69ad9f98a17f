"""`enforce --pid`: what it says, how long it stays, and what its status is."""

from __future__ import annotations

import errno as errnos
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import kernel_thread
from tests.kernel.attaching import (
    GETPPID,
    LIMIT_S,
    field,
    needs_root,
    running,
)
from tests.kernel.tool import ROOT

pytestmark = pytest.mark.kernel

PROFILE = """\
autoprofile: 1
arch: [x86_64]
level: strict
mode: denylist
default: allow
deny:
  getppid: {action}
"""
ASKS_ITS_PARENT = (
    "import ctypes, sys\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "print('ready', flush=True)\n"
    "for line in sys.stdin:\n"
    f"    print(libc.syscall({GETPPID}), ctypes.get_errno(), flush=True)\n"
)


def start_enforce(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "autoprofile", "enforce", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def enforce(*args: object) -> tuple[int, str]:
    """Run `autoprofile enforce` to its end; return its status and what it said."""
    process = start_enforce(*args)
    out, err = process.communicate(timeout=LIMIT_S)
    assert not out
    return process.returncode, err


def ask(process: subprocess.Popen[str]) -> str:
    process.stdin.write("x\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def profile(folder: Path, action: str) -> Path:
    file = folder / f"{action}.yaml"
    file.write_text(PROFILE.format(action=action))
    return file


def test_the_command_is_done_once_the_filter_is_in_place(tmp_path):
    """Without a supervisor `enforce --pid` ends with status 0, and the process is under the profile."""
    with running(sys.executable, "-c", ASKS_ITS_PARENT) as process:
        status, said = enforce(profile(tmp_path, "EACCES"), "--pid", process.pid)
        assert (status, said) == (
            0,
            f"process {process.pid} ({field(process.pid, 'Name')}): 1 thread filtered\n",
        )
        assert ask(process) == f"-1 {errnos.EACCES}"
        if os.geteuid() == 0:  # a second profile comes on top, and the first is shown
            status, said = enforce(profile(tmp_path, "EPERM"), "--pid", process.pid)
            assert status == 0
            assert "on top of 1 filter (" in said
            assert ask(process) == f"-1 {errnos.EPERM}"


def test_a_process_of_another_program_is_warned_of(tmp_path):
    """Putting the profile of another program on a process, which is for good, is warned of; of its own it is not."""
    with running(sys.executable, "-c", ASKS_ITS_PARENT) as process:
        own = os.readlink(f"/proc/{process.pid}/exe")
        for path, warnings in ((own, 0), ("/usr/bin/another", 1)):
            file = profile(tmp_path, "EACCES")
            file.write_text(file.read_text() + f"program: {{path: {path}}}\n")
            status, said = enforce(file, "--pid", process.pid, "--trust-filters")
            assert status == 0, said
            assert (
                said.count(f"warning: {file} was learned from /usr/bin/another, not from {own}\n") == warnings
            )
            assert said.count("warning: ") == warnings


def test_the_command_supervises_until_the_end_of_the_process(tmp_path):
    """With an audit log it stays, records what is refused with the arguments, and ends with the process."""
    log = tmp_path / "a.jsonl"
    with running(sys.executable, "-c", ASKS_ITS_PARENT) as process:
        tool = start_enforce(profile(tmp_path, "EACCES"), "--audit", log, "--pid", process.pid)
        assert "fails with ENOSYS" in tool.stderr.readline()
        assert "hint: " in tool.stderr.readline()
        assert "1 thread filtered" in tool.stderr.readline()
        assert "Ctrl-C ends this, not the process" in tool.stderr.readline()
        assert ask(process) == ask(process) == f"-1 {errnos.EACCES}"
        process.stdin.close()
        _, said = tool.communicate(timeout=LIMIT_S)
        assert tool.returncode == 0, said
        assert "2 calls refused, 1 distinct" in said
    (deny,) = [e for e in map(json.loads, log.read_text().splitlines()) if e.get("event") == "deny"]
    assert (deny["syscall"], deny["pid"]) == ("getppid", process.pid)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_end_of_the_command_leaves_the_process_failing_closed(tmp_path, signum):
    """Ctrl-C ends the supervisor with status 0; what it would have answered fails with ENOSYS from then on."""
    with running(sys.executable, "-c", ASKS_ITS_PARENT) as process:
        tool = start_enforce(profile(tmp_path, "EACCES"), "--complain", "--pid", process.pid)
        assert "fails with ENOSYS" in tool.stderr.readline()
        assert "hint: " in tool.stderr.readline()
        assert "1 thread filtered" in tool.stderr.readline()
        assert "Ctrl-C" in tool.stderr.readline()
        assert ask(process) == f"{os.getpid()} 0"
        tool.send_signal(signum)
        _, said = tool.communicate(timeout=LIMIT_S)
        assert (tool.returncode, "1 call not allowed but let pass" in said) == (0, True), said
        assert ask(process) == f"-1 {errnos.ENOSYS}"


def test_the_command_supervises_a_whole_tree(tmp_path):
    """Each process of a tree is answered for, and the tool ends with the last of them."""
    code = (
        "import os\nprint('ready', flush=True)\ninput()\n"
        f"import ctypes\nprint(ctypes.CDLL(None).syscall({GETPPID}), flush=True)\n"
    )
    parent = f"import os, sys\nif os.fork() == 0:\n    os.execv(sys.executable, [sys.executable, '-c', {code!r}])\nos.wait()"
    with running(sys.executable, "-c", parent) as process:
        tool = start_enforce(profile(tmp_path, "EACCES"), "--on-violation", "notify", "--pid", process.pid)
        assert "fails with ENOSYS" in tool.stderr.readline()
        assert "hint: " in tool.stderr.readline()
        assert "filtered" in tool.stderr.readline()
        assert "filtered" in tool.stderr.readline()
        assert "Ctrl-C" in tool.stderr.readline()
        assert ask(process) == "-1"
        _, said = tool.communicate(timeout=LIMIT_S)
        assert (tool.returncode, "1 call refused" in said) == (0, True), said


def test_what_cannot_be_attached_to_has_its_status(tmp_path):
    """1: there is no such process; 2: that makes no sense; 4: we may not. Each with a reason."""
    rules = profile(tmp_path, "EACCES")
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert enforce(rules, "--pid", ended.pid) == (1, f"error: there is no process {ended.pid}\n")
    if (thread := kernel_thread()) is not None:
        status, text = enforce(rules, "--pid", thread)
        assert (status, "is a kernel thread" in text) == (2, True), text
    for words, status, said in (
        (["--pid", os.getpid(), "--", "true"], 2, "exclude each other"),
        (["--no-descendants", "--", "true"], 2, "say something of --pid"),
    ):
        got, text = enforce(rules, *words)
        assert (got, said in text) == (status, True), text
    log = tmp_path / "folder" / "a.jsonl"
    with running(sys.executable, "-c", ASKS_ITS_PARENT) as process:
        status, said = enforce(rules, "--audit", log, "--pid", process.pid)
        assert status == 1, said  # found out before anything was done to the process
        assert field(process.pid, "Seccomp_filters") == "0"


@needs_root
def test_autoprofile_attaches_to_what_autoprofile_runs(tmp_path):
    """What `enforce` or `learn` runs gets a profile on top, if another listener or tracer does not prevent it."""
    rules = profile(tmp_path, "EACCES")
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text(PROFILE.replace("getppid: {action}", "seccomp: kill\n  prctl: kill"))

    def inside(tool: subprocess.Popen[str]) -> int:
        assert tool.stdout.readline() == "ready\n"
        (child,) = Path(f"/proc/{tool.pid}/task/{tool.pid}/children").read_text().split()
        return int(child)

    command = [sys.executable, "-m", "autoprofile"]
    program = ["--", sys.executable, "-c", ASKS_ITS_PARENT]
    for words, can_filter, can_supervise in (
        (["enforce", str(hostile)], True, True),
        (["enforce", str(rules), "--complain"], True, False),
        (["learn", "--backend", "notify", "-o", str(tmp_path / "n.yaml")], True, False),
        (["learn", "--backend", "ptrace", "-o", str(tmp_path / "p.yaml")], False, False),
    ):
        with running(*command, *words, *program, until="", cwd=ROOT) as tool:
            pid = inside(tool)
            status, said = enforce(rules, "--pid", pid)
            assert (status == 0) == can_filter, said
            if not can_filter:
                assert "is traced by process" in said
            elif can_supervise:
                second = start_enforce(rules, "--complain", "--pid", pid)
                assert "fails with ENOSYS" in second.stderr.readline()
                assert "hint: " in second.stderr.readline()
                assert "filtered" in second.stderr.readline()
                second.send_signal(signal.SIGINT)
                second.communicate(timeout=LIMIT_S)
            else:
                status, said = enforce(rules, "--complain", "--pid", pid)
                assert (status, "already listens" in said) == (1, True), said
            if can_filter:
                assert ask(tool) == f"-1 {errnos.EACCES}"  # of all filters' answers the most severe counts
            tool.stdin.close()
            assert tool.wait(LIMIT_S) == 0, tool.stderr.read()
