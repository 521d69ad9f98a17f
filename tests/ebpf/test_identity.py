"""Which program made a call, and which libraries it had: whatever happens to files, and in whatever root directory."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from autoprofile.abi import display_name
from autoprofile.trace.containers import container_target
from autoprofile.trace.ebpf import EbpfSource
from autoprofile.trace.ebpf.watching import Watch
from autoprofile.trace.program_id import elf_facts
from autoprofile.trace.source import Command
from autoprofile.trace.targets import pid_target
from tests.ebpf.test_watch_hiding import container

pytestmark = pytest.mark.ebpf

__all__ = ["container"]

LOADER = "/lib64/ld-linux-x86-64.so.2"


class Shell:
    """A shell that runs before it is watched."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            ["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        self.run("true")  # it has started: its own libraries are mapped

    def run(self, line: str) -> None:
        """Run a line to its end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}; echo done\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def shell(tmp_path):
    """Return a running shell in an empty directory."""
    started = Shell(tmp_path)
    yield started
    started.process.kill()
    started.process.wait(timeout=60)
    started.process.stdin.close()
    started.process.stdout.close()


def callers(watch: Watch, name: str) -> set[int]:
    """Return which programs have made a call, by their ids."""
    return {c.file for c in watch.counts() if display_name(c.arch, c.nr) == name and c.file < 1 << 28}


def test_a_file_that_changed_is_another_program(shell, tracee, loader):
    """Written over or renamed, with its inode the same, it is told apart at its next exec, and not before."""
    first, second = tracee("one_call", "-DFIRST", "-static"), tracee("one_call", "-static")
    with Watch(pid_target(shell.process.pid), returns=False) as watch:
        shell.run(f"cp {first} it && ./it && ./it && cat {second} > it && ./it")
        assert (len(callers(watch, "getppid")), len(callers(watch, "getuid"))) == (1, 1)
        assert not callers(watch, "getppid") & callers(watch, "getuid")
        shell.run("mv it renamed && ./renamed")
        watch.detach()
        paths = {watch.program_of(c) for c in watch.counts() if c.file in callers(watch, "getuid")}
        assert {os.path.basename(path) for path in paths} == {"it", "renamed"}


def test_libraries_of_what_runs_already_are_recorded(shell, tracee, loader):
    """Of a process that is attached to, what it has mapped, and what its descendants map later, with build-ids."""
    library = tracee("one_call", "-shared", "-fPIC", "-Wl,--build-id")
    with Watch(pid_target(shell.process.pid), returns=False) as watch:
        libc = [path for path in watch.trace(is_final=False).meta.libraries if "libc.so" in path]
        assert len(libc) == 1
        shell.run(f"LD_PRELOAD={library} /bin/ls / >/dev/null")
        watch.detach()
        found = watch.trace().meta.libraries
    assert found[library] == elf_facts(library).build_id
    assert found[libc[0]] == elf_facts(libc[0]).build_id


def with_own_loader(rootfs: Path, program: str) -> Path:
    """Put a dynamic program into a root directory, its loader a link to a place that only that root has."""
    inside = rootfs / "mylib"
    inside.mkdir()
    (rootfs / "lib64").mkdir()
    shutil.copy(LOADER, inside / "ld-own.so")
    (rootfs / LOADER[1:]).symlink_to("/mylib/ld-own.so")
    mapped = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=60).stdout
    (libc,) = (word for word in mapped.split() if word.startswith("/") and "libc.so" in word)
    shutil.copy(libc, inside / "libc.so.6")
    shutil.copy(program, rootfs / "bin/dynamic")
    return inside / "ld-own.so"


def test_a_containers_loader_is_its_own(container, tracee):
    """The link to the loader is followed inside the container, whose program may have ended by then."""
    own = with_own_loader(container.rootfs, tracee("one_call"))
    container.runc("start", container.name)
    with Watch(container_target(container.name)) as watch:
        container.runc("exec", "--env", "LD_LIBRARY_PATH=/mylib", container.name, "/bin/dynamic")

        def look() -> None:
            if "/mylib/libc.so.6" in watch.trace(is_final=False).meta.libraries:
                watch.stop()

        watch.follow(timeout_s=60, on_tick=look)
        watch.detach()
        found = watch.trace().meta.libraries
    assert found["/mylib/ld-own.so"] == elf_facts(os.fspath(own)).build_id
    assert os.path.realpath(LOADER) not in found


def test_this_machines_loader_is_not_that_of_another_root(rootfs, tracee):
    """Of a program in a changed root directory that has ended, the loader is not guessed."""
    with_own_loader(rootfs, tracee("one_call"))
    busybox = rootfs / "bin/busybox"
    command = [os.fspath(busybox), "chroot", os.fspath(rootfs), "/bin/busybox", "sh", "-c"]
    result = EbpfSource().run(Command((*command, "LD_LIBRARY_PATH=/mylib /bin/dynamic; exit 7")))
    assert result.status == 7
    found = result.trace.meta.libraries
    assert os.path.realpath(LOADER) not in found
    assert any(path.endswith("/bin/dynamic") for path in found)
