"""Helpers of the kernel tests: tiny filters, and Python code run as the tool in a process of its own."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

__all__ = [
    "ALLOW",
    "KILL",
    "NOTIFY",
    "NOTIFY_ALL",
    "ROOT",
    "allow_all",
    "answer_for",
    "errno",
    "ret",
    "start_tool",
    "tool",
]

ROOT = Path(__file__).parent.parent.parent

ALLOW, KILL, NOTIFY = 0x7FFF0000, 0x80000000, 0x7FC00000

# What a test's code finds imported. Dropping to an unprivileged user makes a process undumpable, hence
# untraceable for itself; a program started by that user would not be.
_PRELUDE = """
import ctypes, json, os, signal, struct, sys, threading, time
from autoprofile import kernel
from autoprofile.enforce.install import enforce
from autoprofile.errors import AutoprofileError, LaunchError
from autoprofile.kernel import ptrace, seccomp
from autoprofile.trace.filtered import run_filtered
from autoprofile.trace.inject import Injection, install_filter
from autoprofile.trace.launch import launch
from autoprofile.trace.notify import NotifySource
from autoprofile.trace.source import Command, source_named
from autoprofile.trace.status import Child, Forwarding, shell_status
from autoprofile.abi.signatures import constrained_args
constrained_args("x86_64", "openat"), constrained_args("i386", "openat")

def drop_to_nobody():
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE

def ended(pid):
    while True:
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return shell_status(status)

args = sys.argv[1:]
"""


def ret(action: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, action)


def answer_for(action: int, *numbers: int, arch: int = 0xC000003E) -> bytes:
    """Return a filter that answers these syscalls of one arch with an action and allows all others."""
    code = struct.pack("=HBBI", 0x20, 0, 0, 4) + struct.pack("=HBBI", 0x15, 1, 0, arch) + ret(ALLOW)
    code += struct.pack("=HBBI", 0x20, 0, 0, 0)
    for nr in numbers:
        code += struct.pack("=HBBI", 0x15, 0, 1, nr) + ret(action)
    return code + ret(ALLOW)


def errno(number: int) -> int:
    return 0x00050000 | number


allow_all = ret(ALLOW)
NOTIFY_ALL = ret(NOTIFY)


def start_tool(code: str, *args: str, wrapper: tuple[str, ...] = (), **options) -> subprocess.Popen[str]:
    """Start a Python process (under `wrapper`) that runs `code` after the prelude, with pipes for stdio."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", _PRELUDE + code, *args], text=True, env=environment, **options
    )


def tool(code: str, *args: str, timeout_s: float = 60, **options) -> subprocess.CompletedProcess[str]:
    """Run `start_tool` to its end; filters that a test installs end with it."""
    process = start_tool(code, *args, **options)
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the tool hung\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
