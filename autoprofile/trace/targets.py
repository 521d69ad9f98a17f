"""What runs already and is to be watched: a process, a cgroup, a container, a systemd unit.

A `Target` says which processes belong to it now and how the kernel can tell those that come later. Nothing
here attaches to anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoprofile.errors import AutoprofileError, MachineError, UsageError
from autoprofile.trace.runtimes import is_container_runtime, is_systemd_child

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Target",
    "cgroup2_root",
    "cgroup_level_of",
    "cgroup_target",
    "cgroups_of",
    "descendants_of",
    "mount_space_of",
    "pid_space_of",
    "pid_target",
    "processes_of",
    "threads_of",
    "unit_target",
]

_MOUNTS: Final = "/proc/self/mounts"
_MOUNTINFO: Final = "/proc/self/mountinfo"
_ROOT_CGROUP: Final = 1  # the inode number of the root of cgroup v2, fs/kernfs/dir.c

# Units that have processes, systemd.unit(5). Into scopes and slices running processes are moved; all others
# are started by systemd inside the unit's cgroup, where it sets things up before it executes the program.
_UNITS: Final = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")
_MOVED_INTO: Final = (".scope", ".slice")
_NS_GET_PARENT: Final = 0xB702  # include/uapi/linux/nsfs.h


@dataclass(frozen=True)
class Target:
    """What to watch.

    Args:
        name: for messages.
        pids: processes that belong to it now, with all their descendants; for a container those inside it
            are found besides.
        argv: the command line of its first process, when there is one.
        cgroup: the cgroup v2 directory whose processes belong to it.
        at_exec: who enters the cgroup belongs to it from its next exec on, not from its next call on.
        mount_space: the mount namespace in which whatever is executed belongs to it.
        pid_space: the pid namespace in which, or below which, a container's processes are, whatever mount
            namespace they have gone to.
        cgroups: the cgroups (by controllers) they are in or below; containers may share a pid namespace.
        ends_with: the process with which it ends; None when it ends with its last process.
    """

    name: str
    pids: tuple[int, ...] = ()
    argv: tuple[str, ...] = ()
    cgroup: Path | None = None
    at_exec: bool = False
    mount_space: int | None = None
    pid_space: int | None = None
    cgroups: Mapping[str, str] = field(default_factory=dict)
    ends_with: int | None = None


def pid_target(pid: int) -> Target:
    """Return a process, its threads and its descendants as a target.

    Raises:
        AutoprofileError: there is no such process.
    """
    if not Path(f"/proc/{pid}/task").is_dir():
        raise AutoprofileError(f"there is no process {pid}")
    return Target(f"process {pid}", (pid,), _argv_of(pid))


def cgroup_target(path: str | Path) -> Target:
    """Return a cgroup (v2) and those below it as a target.

    Args:
        path: its directory, or its path below the cgroup2 mount as /proc/PID/cgroup shows it.

    Raises:
        AutoprofileError: this is no cgroup v2 directory.
    """
    root = cgroup2_root()
    given = Path(path)
    candidates = (given, root / str(path).lstrip("/"))
    for folder in candidates:
        if folder.is_dir() and (folder.resolve() == root or root in folder.resolve().parents):
            folder = folder.resolve()
            if folder == root:
                raise UsageError("the root cgroup holds everything", hint="name one below it")
            pids = _pids_in(folder)
            argv = _argv_of(pids[0]) if pids else ()
            return Target(f"cgroup /{folder.relative_to(root)}", pids, argv, cgroup=folder)
    raise AutoprofileError(f"no cgroup v2 directory: {path}", hint=f"cgroup v2 is mounted at {root}")


def unit_target(name: str) -> Target:
    """Return a systemd unit as a target, by its cgroup.

    A container may run a unit of the same name: the outermost is taken.

    Raises:
        AutoprofileError: no cgroup has its name: the unit does not run.
    """
    unit = name if name.endswith(_UNITS) else f"{name}.service"
    root = cgroup2_root()
    found = (Path(folder) for folder, below, _ in os.walk(root) if unit in below)
    outermost = min(found, key=lambda p: len(p.parts), default=None)
    if outermost is None:
        raise AutoprofileError(
            f"unit {unit} has no cgroup below {root}", hint=f"start it first: systemctl start {unit}"
        )
    target = cgroup_target(outermost / unit)
    at_exec = not unit.endswith(_MOVED_INTO)
    return Target(f"unit {unit}", target.pids, target.argv, cgroup=target.cgroup, at_exec=at_exec)


def cgroup2_root() -> Path:
    """Return where cgroup v2 is mounted.

    Raises:
        AutoprofileError: it is not.
    """
    for line in Path(_MOUNTS).read_text().splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(where).resolve()
    raise AutoprofileError("cgroup v2 is not mounted here", hint="mount -t cgroup2 none /sys/fs/cgroup")


def cgroup_level_of(folder: Path) -> int:
    """Return how many cgroups (v2) are above one on this machine, whatever our cgroup namespace shows.

    Raises:
        AutoprofileError: cgroup v2 is not mounted here.
        MachineError: we are in a cgroup namespace, and nothing tells where its root is.
    """
    root = cgroup2_root()
    below = len(folder.relative_to(root).parts)
    if root.stat().st_ino == _ROOT_CGROUP:
        return below
    # What the mount shows as its root, cgroups(7), and what our namespace has as its own: relative to that, a
    # thread of the kernel, which is always in the machine's root cgroup, is as many levels up.
    shown = next(
        words[3]
        for words in map(str.split, Path(_MOUNTINFO).read_text().splitlines())
        if words[words.index("-", 6) + 1] == "cgroup2" and Path(words[4]).resolve() == root
    )
    kernel_thread = _root_seen_from_here()
    if kernel_thread is None:
        raise MachineError(
            "this is a cgroup namespace, and nothing tells which part of the cgroups it shows",
            hint="run it on the host, or with the host's /proc and cgroup namespace; --pid works here",
        )
    return below + _depth(shown) - _depth(kernel_thread)


def _depth(path: str) -> int:
    return sum(-1 if word == ".." else 1 for word in path.split("/") if word)


def _root_seen_from_here() -> str | None:
    try:
        # No other process can have pid 2 of the first pid namespace; one of another has a program.
        if Path("/proc/2/comm").read_text() == "kthreadd\n" and not Path("/proc/2/cmdline").read_bytes():
            return cgroups_of(2).get("")
    except OSError:
        pass
    return None


def threads_of(pid: int) -> list[int]:
    """Return the threads a process has now; none when it has ended."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208
    except OSError:
        return []


def descendants_of(pid: int) -> set[int]:
    """Return the processes a process has started, directly or not, and that still have their parents."""
    found: set[int] = set()
    front = [pid]
    while front:
        parent = front.pop()
        for tid in threads_of(parent):
            try:
                with open(f"/proc/{parent}/task/{tid}/children") as file:  # noqa: PTH123
                    children = [int(word) for word in file.read().split()]
            except OSError:
                continue
            front += [child for child in children if child not in found]
            found.update(children)
    return found


def processes_of(target: Target) -> set[int]:
    """Return the processes that belong to a target now."""
    found = set(target.pids if target.cgroup is None else _pids_in(target.cgroup))
    if target.mount_space is not None:
        found |= _pids_in_container(target)
        found = {pid for pid in found if not is_container_runtime(pid, target.ends_with)}
    elif target.at_exec:
        found = {pid for pid in found if not is_systemd_child(pid, found)}
    for pid in tuple(found):
        found |= descendants_of(pid)
    return {pid for pid in found if pid != os.getpid()}


def mount_space_of(pid: int) -> int:
    """Return the inode number of a process's mount namespace.

    Raises:
        AutoprofileError: the process has ended, or may not be looked at.
    """
    return _namespace_of(pid, "mnt")


def pid_space_of(pid: int) -> int:
    """Return the inode number of a process's pid namespace; raises as `mount_space_of`."""
    return _namespace_of(pid, "pid")


def cgroups_of(pid: int) -> dict[str, str]:
    """Return the cgroups of a process by their controllers, "" for version 2: cgroups(7).

    Raises:
        OSError: the process has ended.
    """
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape", newline="\n") as file:  # noqa: PTH123
        lines = [line.split(":", 2) for line in file.read().split("\n")]
    return {words[1]: words[2] for words in lines if len(words) == 3}


def _namespace_of(pid: int, kind: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino  # noqa: PTH116
    except OSError as error:
        raise AutoprofileError(f"process {pid} cannot be looked at: {error.strerror}") from error


def _pids_in(cgroup: Path) -> tuple[int, ...]:
    found: list[int] = []
    for folder in (cgroup, *(p for p in cgroup.rglob("*") if p.is_dir())):
        try:
            found += [int(line) for line in (folder / "cgroup.procs").read_text().split()]
        except OSError:
            continue  # removed meanwhile, or threaded: its threads are in the processes of the others
    return tuple(pid for pid in found if pid)  # 0: outside our pid namespace


def _pids_in_container(target: Target) -> set[int]:
    # Its mount namespace is its own. Whoever has left that is still in its pid namespace and its cgroups.
    here, ours = os.getpid(), set()
    own_mounts, own_pids, own_cgroups = mount_space_of(here), pid_space_of(here), cgroups_of(here)
    # Cgroups that we are in, too, tell nothing; in the machine's pid namespace they alone could.
    telling = {k: path for k, path in target.cgroups.items() if not _is_below(own_cgroups.get(k, "/"), path)}
    is_shared = target.pid_space == own_pids and not telling
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdecimal():
            continue
        try:
            mounts = os.stat(f"/proc/{name}/ns/mnt").st_ino  # noqa: PTH116
            if mounts == target.mount_space:
                ours.add(int(name))
                continue
            if is_shared or (mounts == own_mounts and target.pid_space == own_pids):
                continue
            if _is_in_pid_space(name, target.pid_space, own_pids):
                cgroups = cgroups_of(int(name))
                if all(_is_below(cgroups.get(kind, "/"), path) for kind, path in telling.items()):
                    ours.add(int(name))
        except OSError:
            continue
    return ours


def _is_in_pid_space(pid: str, space: int | None, own: int) -> bool:
    fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        while (number := os.fstat(fd).st_ino) != space:
            if number == own:
                return False
            parent = ioctl(fd, _NS_GET_PARENT)
            os.close(fd)
            fd = parent
        return True
    finally:
        os.close(fd)


def _is_below(cgroup: str, other: str) -> bool:
    return cgroup == other or cgroup.startswith(other.rstrip("/") + "/")


def _argv_of(pid: int) -> tuple[str, ...]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in raw.rstrip(b"\0").split(b"\0")) if raw else ()
