"""What the tests of attaching share: programs to attach to, and what /proc shows of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from autoprofile.enforce.attach import AttachError, Attachment, attach
from tests.kernel.tool import allow_all, tool

__all__ = [
    "AS_NOBODY",
    "CLOSE",
    "GETPPID",
    "IMPORTS",
    "LIMIT_S",
    "LONG",
    "PRCTL",
    "READ",
    "RESTART",
    "SECCOMP",
    "as_nobody",
    "attached",
    "field",
    "finish",
    "needs_root",
    "refused",
    "remove_cgroup",
    "running",
    "wait_for_call",
    "wait_for_state",
]

CLOSE, GETPPID, READ, PRCTL, RESTART, SECCOMP = 3, 110, 0, 157, 219, 317
LIMIT_S = 60
LONG = os.environ.get("AUTOPROFILE_LONG") == "1"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_SYS_ADMIN")


@contextlib.contextmanager
def running(*argv: str, until: str = "ready", **options):
    """Run a program that says when it is ready, with pipes for stdio; it is killed afterwards."""
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    try:
        while until and process.stdout.readline() != f"{until}\n":
            assert process.poll() is None, process.stderr.read()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(LIMIT_S)
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                stream.close()


def finish(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Close the stdin of a program and return what it still says, and its status."""
    out, err = process.communicate(timeout=LIMIT_S)
    assert not err
    return out, process.returncode


def field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.partition(":")[2].strip()
    raise AssertionError(f"no {name}")


def wait_for_state(tid: int, *states: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while field(tid, "State")[0] not in states:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def wait_for_call(pid: int) -> None:
    """Wait until a process sleeps in a syscall, two looks in a row."""
    seen = 0
    deadline = time.monotonic() + LIMIT_S
    while seen < 3:
        assert time.monotonic() < deadline
        seen = seen + 1 if field(pid, "State")[0] == "S" else 0
        time.sleep(0.01)


def attached(pid: int, *programs: bytes, **options) -> Attachment:
    attachment = attach(pid, list(programs or [allow_all]), **options)
    os.close(attachment.pidfd)
    return attachment


def refused(process: subprocess.Popen[str], *programs: bytes, kind=AttachError, **options) -> str:
    """Return the reason why a process cannot be attached to, after checking that it is as it was."""
    names = ("Seccomp", "Seccomp_filters", "NoNewPrivs", "TracerPid", "SigBlk")
    before = [field(process.pid, name) for name in names]
    with pytest.raises(kind) as caught:
        attached(process.pid, *programs, **options)
    assert [field(process.pid, name) for name in names] == before
    return f"{caught.value}; {caught.value.hint}"


def remove_cgroup(folder: Path) -> None:
    """Remove a cgroup once the last process of it has quite gone."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            folder.rmdir()
        except OSError:  # EBUSY
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return


# Imports come first: an ordinary user may be unable to read where we are installed.
IMPORTS = """
import subprocess
from autoprofile.enforce.attach import attach
from autoprofile.abi.syscalls import syscall_nr
syscall_nr("x86_64", "close")
"""
AS_NOBODY = """
program, options = bytes.fromhex(args[0]), json.loads(args[1])
target = subprocess.Popen(args[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
target.stdout.readline()
time.sleep(0.05)
try:
    attachment = attach(target.pid, [program], **options)
    print(open(f"/proc/{target.pid}/status").read().split("Seccomp_filters:")[1].split()[0])
    if attachment.listener is not None:
        threading.Thread(target=lambda: os.close(attachment.listener)).start()
except AutoprofileError as error:
    print(error.exit_status, error, error.hint)
out, _ = target.communicate()
print(out.strip(), target.returncode)
"""


def as_nobody(*argv: str, program: bytes = allow_all, before: str = "", **options) -> list[str]:
    """Attach as an unprivileged user to a program of that user; return what came of it."""
    # pytest's own folders are for the user who runs it.
    with tempfile.TemporaryDirectory(prefix="attach-") as folder:
        Path(folder).chmod(0o755)
        copied = shutil.copy(argv[0], folder)  # with its mode
        code = IMPORTS + "drop_to_nobody()\n" + before + AS_NOBODY
        done = tool(code, program.hex(), json.dumps(options), copied, *argv[1:])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
