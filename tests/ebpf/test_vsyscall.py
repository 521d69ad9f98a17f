"""Calls through the vsyscall page, which pass neither end of a syscall: counted like any other."""

from __future__ import annotations

import subprocess

import pytest

from autoprofile.abi import display_name
from autoprofile.trace.ebpf import EbpfSource
from autoprofile.trace.ebpf.watching import Watch
from autoprofile.trace.source import Command
from autoprofile.trace.targets import pid_target
from autoprofile.trace.vsyscall import vsyscall_mode

pytestmark = pytest.mark.ebpf


@pytest.fixture(autouse=True)
def _page():
    if vsyscall_mode() == "none":
        pytest.skip("this kernel has no vsyscall page: nobody can call it")


def test_those_of_a_command_are_counted(tracee, loader, capfd):
    """All 23 are there, by both loaders, beside everything else; what they returned is not seen."""
    trace = EbpfSource().run(Command((tracee("vsyscalls"), "23"))).trace
    assert capfd.readouterr().out == "23\n"
    (seen,) = [o for o in trace.observations if display_name(o.arch, o.nr) == "time"]
    assert (seen.count, seen.processes, seen.ok, seen.failed, seen.last_return) == (23, 1, 0, 0, None)
    assert trace.is_complete


def test_those_of_a_running_process_are_counted(tracee):
    """A process that is watched, entry alone, shows them as well."""
    process = subprocess.Popen(
        ["sh", "-c", f"read _; {tracee('vsyscalls')} 29"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        with Watch(pid_target(process.pid), returns=False) as watch:
            process.communicate(b"\n", timeout=60)
            watch.follow(timeout_s=60)
            watch.detach()
            trace = watch.trace()
    finally:
        process.kill()
        process.wait()
    assert [o.count for o in trace.observations if display_name(o.arch, o.nr) == "time"] == [29]
