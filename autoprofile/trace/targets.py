"""What runs already and is to be watched: a process, a cgroup, a container, a systemd unit.

A `Target` says which processes belong to it now and how the kernel can tell those that come later. Nothing
here attaches to anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoprofile.errors import AutoprofileError, UsageError

__all__ = [
    "Target",
    "cgroup2_root",
    "cgroup_target",
    "descendants_of",
    "is_runtime",
    "mount_space_of",
    "pid_target",
    "processes_of",
    "threads_of",
    "unit_target",
]

_MOUNTS: Final = "/proc/self/mounts"

# Units that have processes, systemd.unit(5). Into scopes and slices running processes are moved; all others
# are started by systemd inside the unit's cgroup, where it sets things up before it executes the program.
_UNITS: Final = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")
_MOVED_INTO: Final = (".scope", ".slice")
_RUNTIMES: Final = frozenset({"runc", "crun", "youki", "runc_cloned", "runc_cloned_binary"})
_SYSTEMD: Final = frozenset({"systemd", "systemd-executor"})


@dataclass(frozen=True)
class Target:
    """What to watch.

    Args:
        name: for messages.
        pids: processes that belong to it now, with all their descendants; for a container those that share
            its mount namespace are found besides.
        argv: the command line of its first process, when there is one.
        cgroup: the cgroup v2 directory whose processes belong to it.
        at_exec: who enters the cgroup belongs to it from its next exec on, not from its next call on.
        mount_space: the mount namespace in which whatever is executed belongs to it.
        ends_with: the process with which it ends; None when it ends with its last process.
    """

    name: str
    pids: tuple[int, ...] = ()
    argv: tuple[str, ...] = ()
    cgroup: Path | None = None
    at_exec: bool = False
    mount_space: int | None = None
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
        found |= _pids_in_mount_space(target.mount_space)
    if target.mount_space is not None or target.at_exec:
        found = {pid for pid in found if not is_runtime(pid)}
    for pid in tuple(found):
        found |= descendants_of(pid)
    return {pid for pid in found if pid != os.getpid()}


def is_runtime(pid: int) -> bool:
    """Tell whether a process inside a container or unit is still what starts it, setting things up."""
    try:
        with open(f"/proc/{pid}/comm") as file:  # noqa: PTH123
            comm = file.read().strip()
        exe = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115
    except OSError:
        return False
    name = exe.removesuffix(" (deleted)").rpartition("/")[2].rpartition(":")[2]
    if name in _SYSTEMD:
        return comm.startswith("(")  # its child, named after the program to be: "(nginx)"
    return comm.startswith(("runc:[", "youki:[")) or name in _RUNTIMES


def mount_space_of(pid: int) -> int:
    """Return the inode number of a process's mount namespace.

    Raises:
        AutoprofileError: the process has ended, or may not be looked at.
    """
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino  # noqa: PTH116
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


def _pids_in_mount_space(inode: int) -> set[int]:
    found = set()
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdecimal():
            try:
                if os.stat(f"/proc/{name}/ns/mnt").st_ino == inode:  # noqa: PTH116
                    found.add(int(name))
            except OSError:
                continue
    return found


def _argv_of(pid: int) -> tuple[str, ...]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in raw.rstrip(b"\0").split(b"\0")) if raw else ()
