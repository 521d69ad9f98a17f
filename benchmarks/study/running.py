"""Run tasks: under a trace source, under a filter with a recording supervisor, or under the filter alone.

Every wait is bounded, and whatever a task leaves behind is killed before the next one starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import socket
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.enforce import enforce
from autoprofile.enforce.supervise import NotifySupervisor
from autoprofile.filter import compile_profile
from autoprofile.learn.calls import describe_call
from autoprofile.profile.action import Action
from autoprofile.trace.source import Command, source_named
from study.workload import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autoprofile.observations import Trace
    from autoprofile.profile import Profile
    from study.workload import Program, Task

__all__ = ["Denials", "Runner", "adopt_orphans"]

TASK_LIMIT_S = 60
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "HOME": "{dir}", "PATH": os.environ["PATH"], "TERM": "dumb"}


@dataclass(frozen=True)
class Denials:
    """What enforcing one pass of a workload came to.

    Args:
        calls: distinct calls refused (or that would have been), with how often.
        statuses: shell status of each task.
    """

    calls: dict[str, int]
    statuses: tuple[int, ...]

    @property
    def total(self) -> int:
        """Return how many calls were refused."""
        return sum(self.calls.values())


def adopt_orphans() -> None:
    """Become the parent of what our programs leave behind, so that nothing escapes `Runner`."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Runner:
    """Run whole workloads of one program, each pass in a fresh scratch folder.

    Args:
        program: what to run.
        folder: where scratch folders and compiled programs go.
        backends: names of the trace sources, taken in turn from pass to pass. What a program does may depend
            on its pace (git hashes again what changed in the second in which its index was written), and
            sources slow programs down differently.
    """

    def __init__(self, program: Program, folder: Path, backends: Sequence[str]) -> None:
        self._program = program
        self._folder = folder
        self._backends = itertools.cycle(backends)
        folder.chmod(0o755)  # servers give their rights up and still have to get at their files
        self._built = folder / "built"
        self._built.mkdir(parents=True, exist_ok=True)
        if program.build is not None:
            program.build(Place(folder, 0, self._built))

    def trace(self, tasks: Sequence[Task]) -> list[Trace]:
        """Return one trace for each task of one pass."""
        traces = []
        backend = next(self._backends)
        with self._place() as place:
            for task in tasks:
                source = source_named(backend)
                with self._running(place, task) as command:
                    traces.append(source.run(command).trace)
        return traces

    def supervise(self, tasks: Sequence[Task], profile: Profile, *, complain: bool) -> Denials:
        """Enforce a profile with a supervisor that counts what the default action is for.

        It answers as the profile says, or with `complain` lets everything pass. What a rule refuses the
        kernel answers itself, uncounted.
        """
        handed = replace(profile, default=Action.NOTIFY, bad_arch=Action.NOTIFY, mode="allowlist")
        program = bytes(compile_profile(handed))
        calls: dict[str, int] = {}
        statuses = []
        with self._place() as place:
            for task in tasks:
                supervisor = NotifySupervisor(
                    lambda arch, nr, args: profile.decide_call(arch, nr, args).action,
                    complain=complain,
                    symbols=False,
                )
                with self._running(place, task) as command:
                    statuses.append(enforce(command, program, supervisor=supervisor))
                for record in supervisor.summary.records:
                    text = describe_call(record.arch, record.nr, record.args)
                    calls[text] = calls.get(text, 0) + record.count
        return Denials(calls, tuple(statuses))

    def enforce(self, tasks: Sequence[Task], profile: Profile | None) -> tuple[int, ...]:
        """Return the statuses of the tasks under the filter alone, as the profile says; plain without one."""
        allowing = b"\x06\x00\x00\x00\x00\x00\xff\x7f"  # BPF_RET|BPF_K, SECCOMP_RET_ALLOW
        program = allowing if profile is None else bytes(compile_profile(profile))
        statuses = []
        with self._place() as place:
            for task in tasks:
                with self._running(place, task) as command:
                    statuses.append(enforce(command, program))
        return tuple(statuses)

    @contextlib.contextmanager
    def _place(self) -> Iterator[Place]:
        folder = Path(tempfile.mkdtemp(prefix="pass-", dir=self._folder))
        place = Place(folder, _free_port(), self._built)
        end = self._program.prepare(place)
        try:
            yield place
        finally:
            if end is not None:
                end()
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _running(self, place: Place, task: Task) -> Iterator[Command]:
        # The command's streams are files, its clients run beside it, and a watchdog ends what hangs.
        command = Command(
            tuple(place.text(word) for word in task.argv),
            env={name: place.text(value) for name, value in _ENVIRONMENT.items()},
            cwd=str(place.folder),
        )
        failures: list[BaseException] = []

        def drive() -> None:
            assert task.drive is not None
            try:
                task.drive(place)
            except BaseException as error:  # noqa: BLE001 - handed to the main thread below
                failures.append(error)
                _kill_descendants(signal.SIGKILL)

        watchdog = threading.Timer(TASK_LIMIT_S, _kill_descendants, [signal.SIGKILL])
        watchdog.daemon = True
        watchdog.start()
        clients = threading.Thread(target=drive, daemon=True) if task.drive is not None else None
        try:
            with _streams(place, task.stdin):
                if clients is not None:
                    clients.start()
                yield command
            if clients is not None:
                clients.join(TASK_LIMIT_S)
        finally:
            watchdog.cancel()
            _kill_descendants(signal.SIGKILL)
            _reap()
        if failures:
            output = (place.folder / "stderr").read_text(errors="replace")[-500:]
            raise RuntimeError(f"{' '.join(command.argv)}: the clients failed: {failures[0]!r}; {output}")


@contextlib.contextmanager
def _streams(place: Place, stdin: str) -> Iterator[None]:
    saved = [os.dup(fd) for fd in (0, 1, 2)]
    opened = [
        os.open(place.folder / stdin if stdin else os.devnull, os.O_RDONLY),
        os.open(place.folder / "stdout", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        os.open(place.folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
    ]
    try:
        for fd, target in zip(opened, (0, 1, 2), strict=True):
            os.dup2(fd, target)
        yield
    finally:
        for fd, target in zip(saved, (0, 1, 2), strict=True):
            os.dup2(fd, target)
        for fd in (*saved, *opened):
            os.close(fd)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # the name in brackets may hold anything; the parent is the second field after it
                parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _kill_descendants(signum: int) -> None:
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass
