"""Shared test machinery: privileged tests skip with a reason, or fail where CI says the machine can."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent

# How long one example takes says nothing about the code on a machine that is busy with something else.
settings.register_profile("autoprofile", deadline=None)
settings.load_profile("autoprofile")

# Whoever runs the tests may ignore signals (nohup, a background job of a script), and children inherit that:
# the tests send these signals to programs and expect them to arrive.
for _signum in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _kernel_lacks() -> str | None:
    """Return why seccomp notify or ptrace cannot be used here, or None."""
    try:
        actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    except OSError:
        return "this kernel has no seccomp (no /proc/sys/kernel/seccomp)"
    if "user_notif" not in actions:
        return "this kernel has no seccomp user notification (needs Linux 5.0)"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if scope.exists() and int(scope.read_text()) >= 3:
        return "ptrace is switched off (yama ptrace_scope=3)"
    return None


def _ebpf_lacks() -> str | None:
    """Return why eBPF programs cannot be loaded here, or None."""
    if os.geteuid() != 0:
        return "eBPF tracing needs root"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "this kernel has no BTF (/sys/kernel/btf/vmlinux)"
    libc = ctypes.CDLL(None, use_errno=True)
    attr = (ctypes.c_uint32 * 16)(2, 4, 4, 1)  # BPF_MAP_CREATE: an array of one u32
    fd = libc.syscall(321 if os.uname().machine == "x86_64" else 280, 0, ctypes.byref(attr), 64)
    if fd < 0:
        return f"bpf(2) is refused here: {os.strerror(ctypes.get_errno())}"
    os.close(fd)
    return None


def _skip_or_fail(reason: str, variable: str) -> None:
    if os.environ.get(variable) == "1":
        pytest.fail(f"{variable}=1, but {reason}")
    pytest.skip(f"{reason}; set {variable}=1 to make this a failure")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip marked tests on a lesser machine, or fail when the REQUIRE variable says it is not one."""
    if item.get_closest_marker("kernel") and (reason := _kernel_lacks()):
        _skip_or_fail(reason, "AUTOPROFILE_REQUIRE_KERNEL")
    if item.get_closest_marker("ebpf") and (reason := _ebpf_lacks()):
        _skip_or_fail(reason, "AUTOPROFILE_REQUIRE_EBPF")


def kernel_thread() -> int | None:
    """Return the pid of a kernel thread (PF_KTHREAD, include/linux/sched.h); None where a namespace hides all."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[6]) & 0x00200000:
                return int(stat.parent.name)
    return None


def need_program(name: str, package: str | None = None) -> str:
    """Return the path of a real program; without it skip (or fail, see above), naming its package."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        _skip_or_fail(
            f"{name} is not installed (Debian package {package or name})", "AUTOPROFILE_REQUIRE_KERNEL"
        )
        raise AssertionError("unreachable")
    return path
