"""Find a container by id or name, from what its runtime keeps about it.

In: an id, a unique beginning of one (12 characters, as runtimes shorten them), or a name. Out: its first
process, from the state files of runc, crun, youki and containerd, in the folders that docker, podman, CRI-O
and k3s have them use, and from podman, docker and nerdctl, which are asked. Where they differ, none is
believed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.trace.targets import Target, cgroups_of, mount_space_of, pid_space_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["container_target", "init_pid_of"]

# Folders with one folder for each container, and the files in those that tell the pid of its init.
_STATES: Final = (
    ("run/runc", "state.json"),
    ("run/crun", "status"),
    ("run/docker/runtime-runc/moby", "state.json"),
    ("run/containerd/runc/*", "state.json"),
    ("run/youki", "state.json"),
    ("run/containerd/io.containerd.runtime.v2.task/*", "init.pid"),
    ("run/k3s/containerd/io.containerd.runtime.v2.task/*", "init.pid"),
    ("run/user/*/runc", "state.json"),
    ("run/user/*/crun", "status"),
)
_OF_USERS: Final = "run/user/"
_NS_GET_OWNER_UID: Final = 0xB704  # include/uapi/linux/nsfs.h
_PID_KEYS: Final = ("init_process_pid", "pid")
_START_KEYS: Final = ("init_process_start", "process-start-time")  # of runc; of crun
_STARTED: Final = 19  # position of starttime after the name in /proc/PID/stat, proc(5)
_ASKED: Final = ("podman", "docker", "nerdctl")
_SHORTEST: Final = 12
_ASK_TIMEOUT_S: Final = 10


@dataclass(frozen=True)
class _Answer:
    """What one source says of a container.

    Args:
        name: its id, or the name that was asked for.
        pid: its first process, 0 when it does not run.
        source: the file or program that says so.
        uid: the user whose file it is, who can write anything there; None for root's.
    """

    name: str
    pid: int
    source: str
    uid: int | None = None

    @property
    def runs(self) -> bool:
        return self.pid > 0 and Path(f"/proc/{self.pid}").exists()


def container_target(name: str) -> Target:
    """Return a container as a target: whatever is executed inside it, from now on and later.

    Raises:
        AutoprofileError: no runtime knows it, several know different ones, or it does not run.
    """
    found = _found(name, Path("/"))
    pid = found.pid
    space = mount_space_of(pid)
    if space == mount_space_of(os.getpid()):
        raise UsageError(
            f"container {name} shares our mount namespace, so its processes cannot be told from others",
            hint=f"--pid {pid} watches its processes and their descendants",
        )
    try:
        cgroups = cgroups_of(pid)
    except OSError as error:
        raise AutoprofileError(f"container {name} does not run") from error
    # A user's own container may have any name: it is never shown as if it were the machine's.
    owner = "" if found.uid is None else f" of user {found.uid}"
    return Target(
        f"container {name}{owner}",
        (pid,),
        mount_space=space,
        pid_space=pid_space_of(pid),
        cgroups=cgroups,
        ends_with=pid,
    )


def init_pid_of(name: str, root: Path = Path("/")) -> int:
    """Return the pid of a container's first process.

    All sources are asked. Users keep state files of their own, which are believed only of their own
    processes, and only where no source of root's knows another container of that name.

    Args:
        name: its id or name.
        root: where the runtimes' state folders are.

    Raises:
        AutoprofileError: no runtime knows it, several know different ones, or it has stopped.
    """
    return _found(name, root).pid


def _found(name: str, root: Path) -> _Answer:
    states = list(_states(root))
    answers = [answer for answer in states if answer.name == name]
    if len(name) >= _SHORTEST and all(answer.uid is not None for answer in answers):
        answers += [answer for answer in states if answer.name.startswith(name) and answer.name != name]
    answers += _asked(name)
    # What has ended may be written down still, by one of several runtimes involved.
    running = {answer.pid: answer for answer in answers if answer.runs}
    if len(running) > 1:
        raise _differ(name, list(running.values()))
    if not running:
        if answers:
            raise AutoprofileError(f"container {name} does not run")
        raise AutoprofileError(
            f"no runtime knows a container {name}",
            hint="runc list, crun list, podman ps, docker ps, ctr task ls show them; or use --pid",
        )
    (pid,) = running
    same = [answer for answer in answers if answer.pid == pid]
    # Anybody can call a process of his own by the name of a container of root's that does not run.
    ours = [answer for answer in answers if answer.uid is None]
    if ours and all(answer.uid is not None for answer in same):
        raise _differ(name, [same[0], ours[0]])
    return next((answer for answer in same if answer.uid is None), same[0])


def _differ(name: str, answers: list[_Answer]) -> AutoprofileError:
    said = "; ".join(
        f"{answer.source}: " + (f"process {answer.pid}" if answer.runs else "it does not run")
        for answer in answers
    )
    return AutoprofileError(
        f"several containers answer to {name} ({said})", hint="give the whole id, or the process with --pid"
    )


def _states(root: Path) -> Iterator[_Answer]:
    for pattern, file in _STATES:
        for state in root.glob(f"{pattern}/*/{file}"):
            user = state.relative_to(root).parts[2] if pattern.startswith(_OF_USERS) else "0"
            try:
                text = state.read_text()
                if file == "init.pid":
                    yield _Answer(state.parent.name, int(text), os.fspath(state))
                    continue
                document = json.loads(text)
                pid = int(next((document[key] for key in _PID_KEYS if key in document), 0))
                start = int(next((document[key] for key in _START_KEYS if key in document), 0))
                if start and start != _start_of(pid):
                    pid = 0  # the container has ended, and another process has its number
                identity = str(document.get("id") or state.parent.name)
                if user == "0":
                    yield _Answer(identity, pid, os.fspath(state))
                elif pid <= 0 or _belongs_to(pid, int(user)):
                    yield _Answer(identity, max(0, pid), os.fspath(state), int(user))
            except (OSError, ValueError, TypeError, AttributeError):
                continue  # being written or removed, or of a version that keeps it elsewhere


def _belongs_to(pid: int, uid: int) -> bool:
    # Rootless containers run as their user, or as a subordinate id in a user namespace that is the user's.
    try:
        words = next(
            line.split()[1:]
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line[:4] == "Uid:"
        )
        if all(int(word) == uid for word in words):
            return True
        if os.stat(f"/proc/{pid}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino:  # noqa: PTH116
            return False
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            owner = bytearray(4)
            ioctl(fd, _NS_GET_OWNER_UID, owner)
        finally:
            os.close(fd)
        return int.from_bytes(owner, sys.byteorder) == uid
    except (OSError, StopIteration):
        return False


def _start_of(pid: int) -> int:
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(after[_STARTED])
    except (OSError, IndexError):
        return 0


def _asked(name: str) -> Iterator[_Answer]:
    for program in _ASKED:
        if shutil.which(program) is None or name.startswith("-"):
            continue
        try:
            done = subprocess.run(
                [program, "container", "inspect", "--format", "{{.State.Pid}}", name],
                capture_output=True,
                text=True,
                timeout=_ASK_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout.strip().isdecimal():
            yield _Answer(name, int(done.stdout), program)
