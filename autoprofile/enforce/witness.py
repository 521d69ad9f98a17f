"""What is known of each refused call: who made it, from where, how often; one audit record per distinct call.

Notifications in, `AuditRecord`s out. The target may die, exec, or be another process under a reused tid at
any time: what is read under ``/proc/TID`` counts only if the notification still waited afterwards, else the
caller is unknown ("?") and the call is counted all the same. Nothing here decides anything.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from autoprofile import abi
from autoprofile.auditlog import AuditRecord, constrained_values, decoded_args
from autoprofile.enforce.audit import utc_text
from autoprofile.trace.code_location import CodeLocator
from autoprofile.trace.program_id import (
    UNKNOWN_PROGRAM,
    ProgramIdentity,
    comm_of,
    program_of,
    thread_group_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoprofile.enforce.audit import AuditWriter
    from autoprofile.kernel.seccomp import Notification

__all__ = ["DISTINCT_LIMIT", "Witness"]

#: Distinct calls recorded per run. A hostile target can make as many as it likes (ioctl has 2^32 commands);
#: those beyond are answered and counted as lost, so that it cannot fill memory or disk.
DISTINCT_LIMIT = 10_000

_KNOWN_LIMIT = 65_536
_TASKS_KEPT = 128  # each holds a file descriptor
_FIRST_SUMMARY = 16


@dataclass(slots=True)
class _Task:
    # A thread seen lately, pinned by a descriptor of its /proc directory: reads through it fail once the
    # thread is gone, whoever has its number then. What is known of it is filed under its serial number.
    directory: int
    program: str | None
    process: int
    serial: int

    def is_same(self) -> bool:
        # exec(2) of another program shows here; one of the same program has the same identity anyway.
        try:
            return os.readlink("exe", dir_fd=self.directory) == self.program
        except PermissionError:
            return self.program is None
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class _Caller:
    # A thread at one place of its code. Kept while the thread runs the same program: should it unload a
    # library and map another in its place, calls from there go on being counted under the first one's name.
    program: ProgramIdentity
    comm: str
    location: str | None
    symbol: str | None


_GONE = _Caller(
    ProgramIdentity(UNKNOWN_PROGRAM, None, reason="the caller ended while it was looked at"),
    UNKNOWN_PROGRAM,
    None,
    None,
)


@dataclass(slots=True)
class _Call:
    # A distinct call and its totals.
    record: AuditRecord
    last_ns: int
    count: int = 0
    processes: set[int] = field(default_factory=set)
    next_summary: int = _FIRST_SUMMARY

    def totals(self) -> AuditRecord:
        return replace(
            self.record, count=self.count, processes=len(self.processes), last=utc_text(self.last_ns)
        )


def _name(distinct: tuple[object, ...]) -> str:
    return hashlib.blake2b(repr(distinct).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()


class Witness:
    """Count refused calls and identify each distinct one once.

    Args:
        audit: where records go; None keeps them in memory only.
        symbols: whether to look up function names (loads pyelftools at the first refused call).
        on_record: called with each distinct call at first sight.
    """

    def __init__(
        self,
        audit: AuditWriter | None = None,
        *,
        symbols: bool = True,
        on_record: Callable[[AuditRecord], None] | None = None,
    ) -> None:
        self.total = 0
        self.lost = 0
        self._audit = audit
        self._session = "0" * 16 if audit is None else audit.session
        self._on_record = on_record
        self._locator = CodeLocator(symbols=symbols)
        self._calls: dict[tuple[object, ...], _Call] = {}
        self._known: dict[tuple[object, ...], _Call] = {}
        self._callers: dict[tuple[int, int], _Caller] = {}
        self._tasks: dict[int, _Task] = {}
        self._serial = 0

    @property
    def records(self) -> tuple[AuditRecord, ...]:
        """Return the distinct calls seen so far with their totals, in order of first sight."""
        return tuple(call.totals() for call in self._calls.values())

    def saw(self, call: Notification, arch: str, event: str, action: str, waits: Callable[[], bool]) -> None:
        """Count one call, and record it when it is the first of its kind.

        Args:
            call: the notification, not answered yet.
            arch: name of its architecture.
            event: "deny", "kill", "complain" or "log".
            action: the answer, as text.
            waits: tells whether the notification is still unanswered and its caller alive.
        """
        self.total += 1
        now = time.time_ns()
        task = self._tasks.get(call.tid)
        if task is not None and not task.is_same():
            self._forget(call.tid)
            task = None
        caller = None
        if task is not None:
            known = self._known.get((task.serial, call.nr, call.ip, call.args, call.arch))
            if known is not None:
                self._count(known, task.process, now)
                return
            caller = self._callers.get((task.serial, call.ip))
        if caller is None:
            caller = self._look_at(call, waits)
            task = self._tasks.get(call.tid)
        nr = call.nr & 0xFFFFFFFF
        values = constrained_values(arch, nr, call.args)
        program = caller.program
        distinct = (event, program.path, program.build_id, arch, nr, values, caller.location, action)
        process = call.tid if task is None else task.process
        found = self._calls.get(distinct)
        if found is None:
            if len(self._calls) >= DISTINCT_LIMIT:
                self.lost += 1
                if self._audit is not None:
                    self._audit.lose("too_many_distinct")
                return
            what = (arch, event, action, _name(distinct))
            found = self._calls[distinct] = _Call(self._record(call, caller, what, process, now), now)
        self._count(found, process, now)
        if task is not None:
            if len(self._known) >= _KNOWN_LIMIT:
                self._known.clear()
            self._known[(task.serial, call.nr, call.ip, call.args, call.arch)] = found

    def finish(self) -> None:
        """Write the totals of every distinct call and let go of the target's threads."""
        for task in self._tasks.values():
            os.close(task.directory)
        self._tasks.clear()
        self._known.clear()
        if self._audit is not None:
            for call in self._calls.values():
                self._audit.summary(call.totals())

    def _count(self, call: _Call, process: int, now: int) -> None:
        call.count += 1
        call.last_ns = now
        call.processes.add(process)
        if call.count >= call.next_summary:
            # Totals go out at each doubling, so that after kill -9 of this process the log is short by less
            # than half, and a call refused a million times costs twenty lines.
            call.next_summary *= 2
            if self._audit is not None:
                self._audit.summary(call.totals())

    def _record(
        self, call: Notification, caller: _Caller, what: tuple[str, str, str, str], process: int, now: int
    ) -> AuditRecord:
        arch, event, action, name = what
        nr = call.nr & 0xFFFFFFFF
        text = utc_text(now)
        record = AuditRecord(
            event=event,
            session=self._session,
            id=name,
            time=text,
            last=text,
            arch=arch,
            nr=nr,
            syscall=abi.syscall_name(arch, nr),
            args=call.args,
            decoded=MappingProxyType(decoded_args(arch, nr, call.args)),
            program=caller.program.path,
            build_id=caller.program.build_id,
            pid=process,
            tid=call.tid,
            comm=caller.comm,
            ip=call.ip,
            location=caller.location,
            symbol=caller.symbol,
            action=action,
        )
        if self._audit is not None:
            self._audit.call(record)
        if self._on_record is not None:
            self._on_record(record)
        return record

    def _look_at(self, call: Notification, waits: Callable[[], bool]) -> _Caller:
        task = self._open(call.tid)
        program = program_of(call.tid)
        place = self._locator.locate(call.tid, call.ip)
        location = None if place.name == "[unreadable]" else str(place)
        caller = _Caller(program, comm_of(call.tid), location, place.symbol)
        if task is None or not waits():
            self._forget(call.tid)
            return _GONE
        if len(self._callers) >= _KNOWN_LIMIT:
            self._callers.clear()
        self._callers[(task.serial, call.ip)] = caller
        return caller

    def _open(self, tid: int) -> _Task | None:
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
            program = os.readlink("exe", dir_fd=directory)
        process = thread_group_of(tid)
        if process is None:
            os.close(directory)
            return None
        while len(self._tasks) >= _TASKS_KEPT:
            self._forget(next(iter(self._tasks)))
        self._serial += 1
        task = self._tasks[tid] = _Task(directory, program, process, self._serial)
        return task

    def _forget(self, tid: int) -> None:
        task = self._tasks.pop(tid, None)
        if task is not None:
            os.close(task.directory)
