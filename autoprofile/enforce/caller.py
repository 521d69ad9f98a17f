"""Who made a notified call, and from where: program, build-ids, thread, code location, optional backtrace.

Notifications in, `Caller`s out, each thread looked at once for each place in its code. The target may die,
exec, or be another process under a reused tid at any time: what is read under ``/proc/TID`` counts only if
the notification still waited afterwards, else the caller is unknown ("?"). Nothing here decides anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprofile.enforce.backtrace import Unwinder
from autoprofile.trace.code_location import CodeLocator
from autoprofile.trace.program_id import (
    UNKNOWN_PROGRAM,
    ProgramIdentity,
    comm_of,
    libc_of,
    loaded_objects,
    program_of,
    thread_group_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autoprofile.kernel.seccomp import Notification

__all__ = ["GONE", "Caller", "Callers", "ProgramParts", "Task"]

_PLACES_KEPT = 65_536
_TASKS_KEPT = 128  # each holds a file descriptor

#: Path, device, inode, time of change (ns) and size of a program's file.
_Running = tuple[str, int, int, int, int]


@dataclass(slots=True)
class Task:
    """A thread seen lately, pinned by a descriptor of its /proc directory.

    Reads through the descriptor fail once the thread is gone, whoever has its number then. What is known of
    it is filed under its serial number.
    """

    directory: int
    program: _Running | None
    process: int
    serial: int

    def is_same(self) -> bool:
        """Tell whether the thread still runs the program it ran when it was looked at."""
        # exec(2) of another program shows here, a new file of the same name too.
        try:
            return _running(self.directory) == self.program
        except PermissionError:
            return self.program is None
        except OSError:
            return False


def _running(directory: int) -> _Running:
    path = os.readlink("exe", dir_fd=directory)
    status = os.stat("exe", dir_fd=directory)
    return path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


@dataclass(frozen=True, slots=True)
class Caller:
    """A thread at one place of its code.

    Kept while the thread runs the same program: should it unload a library and map another in its place,
    calls from there go on being counted under the first one's name.

    Args:
        program: what it runs.
        comm: name of the thread.
        location, symbol: as in `AuditRecord`.
        file, file_build_id: the file at `location`.
        backtrace: who called it, the innermost first.
    """

    program: ProgramIdentity
    comm: str
    location: str | None
    symbol: str | None
    file: str | None = None
    file_build_id: str | None = None
    backtrace: tuple[str, ...] = ()


#: The caller of a call whose thread ended while it was looked at.
GONE = Caller(
    ProgramIdentity(UNKNOWN_PROGRAM, None, reason="the caller ended while it was looked at"),
    UNKNOWN_PROGRAM,
    None,
    None,
)


@dataclass(frozen=True, slots=True)
class ProgramParts:
    """What a program was made of when a call of it was looked at: its libc, and files with code in them."""

    program: ProgramIdentity
    libc: str | None
    binaries: Mapping[str, str]


class Callers:
    """Identify callers, once for each thread and place.

    Args:
        symbols: whether to look up function names (loads pyelftools at the first refused call).
        backtrace: whether to look for who called the place of the call.
        on_program: called with what a program is made of: at its first refused call, and again when a call
            comes from a file that was not mapped then.
    """

    def __init__(
        self,
        *,
        symbols: bool = True,
        backtrace: bool = False,
        on_program: Callable[[ProgramParts], None] | None = None,
    ) -> None:
        self._locator = CodeLocator(symbols=symbols)
        self._unwinder = Unwinder(self._locator) if backtrace else None
        self._on_program = on_program
        self._tasks: dict[int, Task] = {}
        self._places: dict[tuple[int, int], Caller] = {}
        self._parts: dict[tuple[str, str | None], dict[str, str]] = {}
        self._serial = 0

    def task_of(self, tid: int) -> Task | None:
        """Return a thread seen before that still runs the same program; None: look at it (again)."""
        task = self._tasks.get(tid)
        if task is not None and not task.is_same():
            self._forget(tid)
            return None
        return task

    def look_at(self, call: Notification, waits: Callable[[], bool]) -> tuple[Caller, Task | None]:
        """Return who makes a call.

        Args:
            call: the notification, not answered yet.
            waits: tells whether the notification is still unanswered and its caller alive.
        """
        tid = call.tid
        task = self.task_of(tid)
        if task is not None:
            known = self._places.get((task.serial, call.ip))
            if known is not None:
                return known, task
        task = self._open(tid)
        program = program_of(tid)
        place = self._locator.locate(tid, call.ip)
        parts = self._unknown_parts(tid, program, place.path)
        known_parts = (
            self._parts.get((program.path, program.build_id), {}) if parts is None else parts.binaries
        )
        backtrace = () if self._unwinder is None else self._unwinder.backtrace(tid, call.ip)
        caller = Caller(
            program,
            comm_of(tid),
            None if place.name == "[unreadable]" else str(place),
            place.symbol,
            place.path,
            known_parts.get(place.path or "") or None,
            backtrace,
        )
        if task is None or not waits():
            self._forget(tid)
            return GONE, None
        if parts is not None:
            self._parts[(program.path, program.build_id)] = dict(parts.binaries)
            if self._on_program is not None:
                self._on_program(parts)
        if len(self._places) >= _PLACES_KEPT:
            self._places.clear()
        self._places[(task.serial, call.ip)] = caller
        return caller, task

    def close(self) -> None:
        """Let go of the target's threads."""
        for task in self._tasks.values():
            os.close(task.directory)
        self._tasks.clear()
        self._places.clear()

    def _unknown_parts(self, tid: int, program: ProgramIdentity, path: str | None) -> ProgramParts | None:
        # Reading the map of a process and the build-ids of fifty libraries takes a millisecond: once for each
        # program, and when it calls from a file mapped since.
        known = self._parts.get((program.path, program.build_id))
        if known is not None and (path is None or path in known):
            return None
        binaries = {loaded.path: loaded.build_id or "" for loaded in loaded_objects(tid)}
        libc = libc_of(tid)
        return ProgramParts(
            program, None if libc.kind == "unknown" else str(libc), {**(known or {}), **binaries}
        )

    def _open(self, tid: int) -> Task | None:
        known = self._tasks.get(tid)
        if known is not None:
            return known
        try:
            directory = os.open(f"/proc/{tid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._tasks:
                return None
            for other in tuple(self._tasks):
                self._forget(other)
            return self._open(tid)
        program = None
        with contextlib.suppress(OSError):
            program = _running(directory)
        process = thread_group_of(tid)
        if process is None:
            os.close(directory)
            return None
        while len(self._tasks) >= _TASKS_KEPT:
            self._forget(next(iter(self._tasks)))
        self._serial += 1
        task = self._tasks[tid] = Task(directory, program, process, self._serial)
        return task

    def _forget(self, tid: int) -> None:
        task = self._tasks.pop(tid, None)
        if task is not None:
            os.close(task.directory)
            task.directory = -1
