"""The ptrace source against strace: two tracers, written independently, must see the same calls."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprofile.abi import constrained_args, display_name, syscall_name
from autoprofile.observations import Trace
from autoprofile.trace.ptrace import PtraceSource
from autoprofile.trace.source import Command
from autoprofile.trace.strace_log import trace_from_strace_log
from tests.conftest import need_program

pytestmark = pytest.mark.kernel


# FUTEX_WAIT_BITSET|FUTEX_CLOCK_REALTIME: how pthread_join(3) of glibc waits.
_JOIN = 9 | 256


def seen(trace: Trace, cwd: Path) -> dict[tuple[object, ...], tuple[int, ...]]:
    """Return counts by program, arch, call and arguments that count.

    strace does not print an argument that a call does not use, and writes paths as the program gave them.
    """
    found: dict[tuple[object, ...], tuple[int, ...]] = {}
    for o in trace.observations:
        args = list(o.args)
        name = syscall_name(o.arch, o.nr)
        if name == "futex" and o.args[1] == _JOIN:
            continue  # whether a thread to be joined has ended already differs from run to run
        for spec in constrained_args(o.arch, name) if name else ():
            if spec.used_if is not None and not spec.used_if.holds([a or 0 for a in o.args]):
                args[spec.index] = None
        path = os.path.realpath(cwd / o.program.path)
        key = (path, o.arch, display_name(o.arch, o.nr), *args)
        # What rt_sigreturn "returns" is what the interrupted code had in its register.
        outcome = (0, 0) if name in ("rt_sigreturn", "sigreturn") else (o.ok or 0, o.failed or 0)
        counts = (o.count, *outcome)
        found[key] = tuple(a + b for a, b in zip(found.get(key, (0, 0, 0)), counts, strict=True))
    return found


def _shell(script: str) -> Callable[..., list[str]]:
    return lambda _tracee, _tmp: [need_program("sh"), "-c", script]


def _sqlite(_tracee: object, tmp: Path) -> list[str]:
    return [
        need_program("sqlite3"),
        str(tmp / "db"),
        "drop table if exists t; create table t(a); insert into t values (7);",
    ]


PROGRAMS: dict[str, Callable[..., list[str]]] = {
    "say_calls": lambda tracee, _tmp: [tracee("say_calls")],
    "say_calls -m32": lambda tracee, _tmp: [tracee("say_calls", "-m32")],
    "say_calls -static": lambda tracee, _tmp: [tracee("say_calls", "-static")],
    "vforks": lambda tracee, _tmp: [tracee("vforks"), "7", need_program("true")],
    "varied": lambda tracee, _tmp: [tracee("varied")],
    "bare": lambda tracee, _tmp: [tracee("bare", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector")],
    "ls": lambda _tracee, _tmp: [need_program("ls"), "-l", "/usr"],
    "shell": _shell("echo one; /bin/echo two; exit 3"),
    "failing exec": _shell("/nonexistent/program; ls /nonexistent; kill -TERM $$"),
    "busybox": lambda _tracee, _tmp: [need_program("busybox"), "sha256sum", "/etc/passwd"],
    "sqlite3": _sqlite,
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_ptrace_and_strace_see_the_same(tracee, tmp_path, program):
    """The same run traced twice gives the same observations with the same counts and outcomes."""
    argv = PROGRAMS[program](tracee, tmp_path)
    log = tmp_path / "log"
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for _ in range(2):  # once to warm what the program leaves behind
        done = subprocess.run(
            [need_program("strace"), "-f", "-n", "-X", "raw", "-o", str(log), *argv],
            cwd=tmp_path,
            timeout=60,
            check=False,
            **quiet,
        )
    theirs = trace_from_strace_log(log)
    # Stdio must be the same for both: programs ask what their descriptors are.
    saved = [os.dup(fd) for fd in range(3)]
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for fd in range(3):
            os.dup2(null, fd)
        ours = PtraceSource().run(Command(tuple(argv), cwd=str(tmp_path)))
    finally:
        for fd, old in enumerate(saved):
            os.dup2(old, fd)
            os.close(old)
        os.close(null)
    assert ours.trace.ledger.entries == theirs.ledger.entries, theirs.ledger.to_dict()
    assert theirs.ledger.entries.keys() <= {"unresolved_nr"}  # some make a call that does not exist
    assert seen(ours.trace, tmp_path) == seen(theirs, tmp_path)
    assert ours.trace.process_count == theirs.process_count
    assert (
        ours.status
        == theirs.meta.exit_status
        == (done.returncode if done.returncode >= 0 else 128 - done.returncode)
    )
