"""Find a container by id or name, from what its runtime keeps about it.

In: an id, a unique beginning of one (12 characters, as runtimes shorten them), or a name. Out: its first
process, from the state files of runc, crun, youki and containerd, in the folders that docker, podman, CRI-O
and k3s have them use; podman, docker and nerdctl are asked for names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
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
_PID_KEYS: Final = ("init_process_pid", "pid")
_START_KEYS: Final = ("init_process_start", "process-start-time")  # of runc; of crun
_STARTED: Final = 19  # position of starttime after the name in /proc/PID/stat, proc(5)
_ASKED: Final = ("podman", "docker", "nerdctl")
_SHORTEST: Final = 12
_ASK_TIMEOUT_S: Final = 10


def container_target(name: str) -> Target:
    """Return a container as a target: whatever is executed inside it, from now on and later.

    Raises:
        AutoprofileError: no runtime knows it, or it does not run.
    """
    pid = init_pid_of(name)
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
    return Target(
        f"container {name}",
        (pid,),
        mount_space=space,
        pid_space=pid_space_of(pid),
        cgroups=cgroups,
        ends_with=pid,
    )


def init_pid_of(name: str, root: Path = Path("/")) -> int:
    """Return the pid of a container's first process.

    Args:
        name: its id or name.
        root: where the runtimes' state folders are.

    Raises:
        AutoprofileError: no runtime knows it, several do, or it has stopped.
    """
    found = {pid for identity, pid in _states(root) if identity == name}
    if not found and len(name) >= _SHORTEST:
        found = {pid for identity, pid in _states(root) if identity.startswith(name)}
    if not found:
        found = set(_asked(name))
    # What has ended may be written down still, by one of several runtimes involved.
    alive = {pid for pid in found if pid > 0 and Path(f"/proc/{pid}").exists()}
    if len(alive) > 1:
        raise AutoprofileError(f"several containers answer to {name}", hint="give the whole id")
    if alive:
        return alive.pop()
    if found:
        raise AutoprofileError(f"container {name} does not run")
    raise AutoprofileError(
        f"no runtime knows a container {name}",
        hint="runc list, crun list, podman ps, docker ps, ctr task ls show them; or use --pid",
    )


def _states(root: Path) -> Iterator[tuple[str, int]]:
    for pattern, file in _STATES:
        for state in root.glob(f"{pattern}/*/{file}"):
            try:
                text = state.read_text()
                if file == "init.pid":
                    yield state.parent.name, int(text)
                    continue
                document = json.loads(text)
                pid = int(next((document[key] for key in _PID_KEYS if key in document), 0))
                start = int(next((document[key] for key in _START_KEYS if key in document), 0))
                if start and start != _start_of(pid):
                    pid = 0  # the container has ended, and another process has its number
                yield str(document.get("id") or state.parent.name), pid
            except (OSError, ValueError, TypeError):
                continue  # being written or removed, or of a version that keeps it elsewhere


def _start_of(pid: int) -> int:
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(after[_STARTED])
    except (OSError, IndexError):
        return 0


def _asked(name: str) -> Iterator[int]:
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
            yield int(done.stdout)
