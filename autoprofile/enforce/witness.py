"""What is known of each recorded call: who made it, from where, how often; one record per distinct call.

Notifications and their callers in, `AuditRecord`s out. A call whose caller cannot be identified is counted
all the same, under "?". Nothing here decides anything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from autoprofile import abi
from autoprofile.auditlog import AuditRecord, call_id, constrained_values, decoded_args
from autoprofile.enforce.audit import utc_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoprofile.enforce.audit import AuditWriter
    from autoprofile.enforce.caller import Caller
    from autoprofile.kernel.seccomp import Notification

__all__ = ["DISTINCT_LIMIT", "Tally", "Witness"]

#: Distinct calls recorded per run. A hostile target can make as many as it likes (ioctl has 2^32 commands);
#: those beyond are answered and counted as lost, so that it cannot fill memory or disk.
DISTINCT_LIMIT = 10_000

_FIRST_SUMMARY = 16


@dataclass(slots=True)
class Tally:
    """A distinct call and its totals; the serving loop counts in it directly.

    Args:
        record: as it was at first sight.
        last_ns: time of the last one, nanoseconds since the epoch.
        count: how many.
        processes: the process ids that made it.
        next_summary: the count at which totals go out.
    """

    record: AuditRecord
    last_ns: int
    count: int = 0
    processes: set[int] = field(default_factory=set)
    next_summary: int = _FIRST_SUMMARY

    def totals(self) -> AuditRecord:
        """Return the record with its totals so far."""
        return replace(
            self.record, count=self.count, processes=len(self.processes), last=utc_text(self.last_ns)
        )


class Witness:
    """Count recorded calls and write each distinct one once.

    Args:
        audit: where records go; None keeps them in memory only.
        on_record: called with each distinct call at first sight.
    """

    def __init__(
        self,
        audit: AuditWriter | None = None,
        *,
        on_record: Callable[[AuditRecord], None] | None = None,
    ) -> None:
        self.total = 0
        self.lost = 0
        self._audit = audit
        self._session = "0" * 16 if audit is None else audit.session
        self._on_record = on_record
        self._tallies: dict[tuple[object, ...], Tally] = {}

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """Return the distinct calls seen so far, in order of first sight; safe from any thread."""
        return tuple(self._tallies.values())

    @property
    def records(self) -> tuple[AuditRecord, ...]:
        """Return the distinct calls seen so far with their totals, in order of first sight."""
        return tuple(tally.totals() for tally in self.tallies)

    def saw(
        self, call: Notification, arch: str, event: str, action: str, by: str, caller: Caller, process: int
    ) -> Tally | None:
        """Count one call, and record it when it is the first of its kind.

        Args:
            call: the notification, not answered yet.
            arch: name of its architecture.
            event: one of `CALL_EVENTS`.
            action: the answer, as text.
            by: who decided.
            caller: who made it.
            process: the process id.

        Returns:
            Where calls like this one are counted; None when there are too many distinct ones.
        """
        now = time.time_ns()
        nr = call.nr & 0xFFFFFFFF
        values = constrained_values(arch, nr, call.args)
        program = caller.program
        distinct = (event, program.path, program.build_id, arch, nr, values, caller.location, action)
        tally = self._tallies.get(distinct)
        if tally is None:
            if len(self._tallies) >= DISTINCT_LIMIT:
                self.total += 1
                self.lost += 1
                if self._audit is not None:
                    self._audit.lose("too_many_distinct")
                return None
            record = self._record(call, caller, (arch, event, action, by, call_id(distinct)), process, now)
            tally = self._tallies[distinct] = Tally(record, now)
        self.count(tally, process, now)
        return tally

    def count(self, tally: Tally, process: int, now: int) -> None:
        """Count one more call like those of a tally, made now (nanoseconds since the epoch)."""
        self.total += 1
        tally.count += 1
        tally.last_ns = now
        tally.processes.add(process)
        if tally.count >= tally.next_summary:
            # Totals go out at each doubling, so that after kill -9 of this process the log is short by less
            # than half, and a call refused a million times costs twenty lines.
            tally.next_summary *= 2
            if self._audit is not None:
                self._audit.summary(tally.totals())

    def finish(self) -> None:
        """Write the totals of every distinct call."""
        if self._audit is not None:
            for tally in self._tallies.values():
                self._audit.summary(tally.totals())

    def _record(
        self, call: Notification, caller: Caller, what: tuple[str, str, str, str, str], process: int, now: int
    ) -> AuditRecord:
        arch, event, action, by, name = what
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
            file=caller.file,
            file_build_id=caller.file_build_id,
            backtrace=caller.backtrace,
            by=by,
        )
        if self._audit is not None:
            self._audit.call(record)
        if self._on_record is not None:
            self._on_record(record)
        return record
