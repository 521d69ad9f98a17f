"""Watching cgroups: from inside a cgroup namespace, and processes that come and go in mid-life."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autoprofile.abi import display_name
from autoprofile.observations import Trace
from autoprofile.trace.ebpf.watching import Watch
from autoprofile.trace.targets import cgroup2_root, cgroup_level_of, cgroup_target, processes_of
from tests.conftest import TESTS

pytestmark = pytest.mark.ebpf


@pytest.fixture
def cgroup():
    """Return a new cgroup in a new one."""
    outer = cgroup2_root() / f"autoprofile-{os.getpid()}"
    try:
        (outer / "inner").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    yield outer / "inner"
    deadline = time.monotonic() + 60
    while outer.exists() and time.monotonic() < deadline:
        for folder in (outer / "inner", outer):
            if folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    time.sleep(0.05)


# Say that it watches, then what it has seen once somebody entered.
WATCHER = """
import sys
from autoprofile.abi import display_name
from autoprofile.trace.ebpf.watching import Watch
from autoprofile.trace.targets import cgroup_level_of, cgroup_target
target = cgroup_target(sys.argv[1])
def calls():
    return sum(c.count for c in watch.counts() if display_name(c.arch, c.nr) == "getppid")
with Watch(target, returns=False) as watch:
    print(cgroup_level_of(target.cgroup), flush=True)
    watch.follow(timeout_s=60, on_tick=lambda: watch.stop() if calls() >= 31 else None)
    watch.detach()
    print(calls(), flush=True)
"""


@pytest.mark.parametrize("remount", [True, False], ids=["own-mount", "hosts-mount"])
def test_a_cgroup_namespace_hides_nobody(cgroup, tracee, tmp_path, remount):
    """Whoever enters the cgroup is watched from a cgroup namespace, too, whose root is not the machine's."""
    mount = f"umount -l {cgroup2_root()} && mount -t cgroup2 none {tmp_path} && " if remount else ""
    name = f"/{cgroup.name}" if remount else os.fspath(cgroup)
    enter = f'echo $$ > {cgroup.parent}/cgroup.procs; exec unshare -C -m sh -c \'{mount}exec "$@"\' sh "$@"'
    watcher = subprocess.Popen(
        ["sh", "-c", enter, "sh", sys.executable, "-c", WATCHER, name],
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
    )
    try:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == f"{cgroup_level_of(cgroup)}\n"
        census = f"echo $$ > {cgroup}/cgroup.procs; exec {tracee('census')} forks=31"
        subprocess.run(["sh", "-c", census], check=True, timeout=60, stdout=subprocess.DEVNULL)
        assert watcher.stdout.readline() == "31\n"
        assert watcher.wait(timeout=60) == 0
    finally:
        watcher.kill()
        watcher.wait(timeout=60)
        watcher.stdout.close()


def followed(cgroup, command: str) -> tuple[Trace, subprocess.Popen[str]]:
    """Watch a cgroup to its end while a shell runs a command that enters it; return the shell, which waits."""
    with Watch(cgroup_target(cgroup), returns=False) as watch:
        shell = subprocess.Popen(
            ["sh", "-c", f"{command}; echo done; read line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert shell.stdout is not None
        assert shell.stdout.readline() == "done\n"
        cgroup.rmdir()
        watch.follow(timeout_s=60)
        assert watch.has_ended
        watch.detach()
        return watch.trace(), shell


@pytest.mark.parametrize("where", ["moves", "ends"])
def test_a_cgroup_is_whole_only_with_all_its_processes(cgroup, where):
    """Who entered in mid-life, or lives on after the cgroup, was not seen whole."""
    enter, leave = f"echo $$ > {cgroup}/cgroup.procs", f"echo $$ > {cgroup.parent}/cgroup.procs"
    command = f"{enter}; {leave}" if where == "moves" else f"({enter.replace('$$', '0')}; :)"
    trace, shell = followed(cgroup, command)
    try:
        assert {display_name(o.arch, o.nr) for o in trace.observations}
        assert trace.ledger.total == 0
        assert not trace.is_complete
    finally:
        shell.kill()
        shell.communicate(timeout=60)


def test_nobody_in_a_unit_passes_for_systemd_by_names(cgroup, tracee, tmp_path):
    """A program called systemd, its process named as systemd names its children, belongs to the unit it is in."""
    program = tmp_path / "systemd"
    shutil.copy(tracee("hidden"), program)
    process = subprocess.Popen([program, "named", "(nginx)"])
    try:
        (cgroup / "cgroup.procs").write_text(str(process.pid))
        deadline = time.monotonic() + 60
        while Path(f"/proc/{process.pid}/comm").read_text() != "(nginx)\n":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.pid in processes_of(replace(cgroup_target(cgroup), at_exec=True))
    finally:
        process.kill()
        process.wait(timeout=60)
