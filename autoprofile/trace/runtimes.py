"""Which processes inside a container or unit are still what starts it, setting things up.

Their calls are the runtime's, not the workload's, and must not be counted; yet no workload may pass for one.
So nothing is believed that a process can choose, such as its name: only where its instructions come from.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from typing import TYPE_CHECKING, Final, Self

from autoprofile.trace.maps import read_maps

if TYPE_CHECKING:
    from collections.abc import Container

    from autoprofile.trace.maps import Mapping

__all__ = ["is_container_runtime", "is_systemd_child"]

_RUNTIMES: Final = ("runc", "crun", "youki")
_FOLDERS: Final = (
    *("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
    *("/usr/libexec/crio", "/usr/lib/cri-o-runc/sbin", "/var/lib/rancher/k3s/data/current/bin"),
)
_EXECUTOR: Final = "systemd-executor"
_OF_THE_KERNEL: Final = ("[vdso]", "[vsyscall]", "[uprobes]")
_CHUNK: Final = 1 << 20


def is_container_runtime(pid: int, first: int | None) -> bool:
    """Tell whether a process inside a container runs nothing but a runtime of this machine.

    That is: its program lies outside the mounts of the container and is one of the machine's runtimes, which
    copy themselves to memory or to a mount of their own (CVE-2019-5736); and its libraries are the machine's.

    Args:
        pid: the process.
        first: the container's first process.
    """
    try:
        inside = set() if first is None else _mounts_of(first)
        # It may not have joined the container's mounts yet, or a workload have gone to some of its own.
        if _mount_space_of(pid) != _mount_space_of(os.getpid()):
            inside |= _mounts_of(pid)
        with _Opened(f"/proc/{pid}/exe") as exe:
            if exe.mount in inside or not _is_runtime_program(exe):
                return False
            program = os.fstat(exe.fd)
        for mapping in read_maps(pid):
            if not mapping.is_executable or mapping.path in _OF_THE_KERNEL:
                continue
            if not mapping.is_file:
                return False
            with _Opened(_link(pid, mapping)) as file:
                status = os.fstat(file.fd)
                if file.mount in inside or not (_same(status, program) or _is_at(status, mapping.path)):
                    return False
    except OSError:
        return False
    return True


def is_systemd_child(pid: int, members: Container[int]) -> bool:
    """Tell whether a process inside a unit is systemd's own, between fork and the exec of the unit's program.

    Its parent is a manager outside the unit, and it has either the manager's instructions, at the manager's
    addresses, as only a fork has, or (systemd 254 and later) runs the manager's ``systemd-executor`` with
    nothing but root's files.

    Args:
        pid: the process.
        members: the processes inside the unit.
    """
    try:
        manager = _parent_of(pid)
        if manager <= 0 or manager in members:
            return False
        path = os.readlink(f"/proc/{manager}/exe")  # noqa: PTH115
        if not path.endswith("/systemd"):
            return False
        code = [m for m in read_maps(pid) if m.is_executable]
        if code == [m for m in read_maps(manager) if m.is_executable]:
            return True
        executor = f"/proc/{manager}/root{path.removesuffix('systemd')}{_EXECUTOR}"
        if not _same(os.stat(f"/proc/{pid}/exe"), os.stat(executor)):  # noqa: PTH116
            return False
        return all(
            m.path in _OF_THE_KERNEL
            or (m.is_file and not m.is_deleted and os.stat(_link(pid, m)).st_uid == 0)  # noqa: PTH116
            for m in code
        )
    except (OSError, ValueError):
        return False


class _Opened:
    """A file opened by a link of /proc without touching it, and the mount it was opened through."""

    def __init__(self, link: str) -> None:
        self.link = link
        self.fd = os.open(link, os.O_PATH | os.O_CLOEXEC)  # of a device an O_RDONLY would open it
        try:
            # proc(5): mnt_id, unique on the machine while the file is open.
            with open(f"/proc/self/fdinfo/{self.fd}") as file:  # noqa: PTH123
                words = file.read().split()
            self.mount = int(words[words.index("mnt_id:") + 1])
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.fd)


def _mounts_of(pid: int) -> set[int]:
    with open(f"/proc/{pid}/mountinfo", "rb") as file:  # noqa: PTH123
        return {int(line.split(b" ", 1)[0]) for line in file.read().split(b"\n") if line}


def _mount_space_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/mnt").st_ino  # noqa: PTH116


def _is_runtime_program(exe: _Opened) -> bool:
    status = os.fstat(exe.fd)
    for path in _runtime_programs():
        try:
            other = os.stat(path)  # noqa: PTH116
            if _same(status, other) or (
                # Of a copy in memory the whole content counts: anybody can make a file of that size.
                status.st_size == other.st_size and _have_same_bytes(exe.link, path)
            ):
                return True
        except OSError:
            continue
    return False


@cache
def _runtime_programs() -> tuple[str, ...]:
    found = {shutil.which(name, path=folder) for folder in _FOLDERS for name in _RUNTIMES}
    found |= {shutil.which(name) for name in _RUNTIMES}
    return tuple(sorted(path for path in found if path is not None))


def _have_same_bytes(one: str, other: str) -> bool:
    with open(one, "rb") as a, open(other, "rb") as b:  # noqa: PTH123
        while True:
            left, right = a.read(_CHUNK), b.read(_CHUNK)
            if left != right:
                return False
            if not left:
                return True


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _is_at(status: os.stat_result, path: str) -> bool:
    return _same(status, os.stat(path))  # noqa: PTH116


def _link(pid: int, mapping: Mapping) -> str:
    return f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"


def _parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        return int(file.read().rpartition(b")")[2].split()[1])
