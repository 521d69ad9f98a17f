"""The audit log as data: what a supervised run refused or complained about, and how to read it back.

JSON Lines in, `AuditLog` out. Every distinct call is one line at first sight and its totals follow in
``summary`` lines; whatever is missing (a torn last line, a run that never ended, records that did not fit on
the disk) is counted in `AuditLog.losses`, and anything else outside the schema is an error with file:line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

from autoprofile import abi
from autoprofile.errors import AutoprofileError

__all__ = [
    "AUDIT_SCHEMA_VERSION",
    "CALL_EVENTS",
    "AuditLog",
    "AuditRecord",
    "AuditSession",
    "aggregate",
    "audit_schema",
    "constrained_values",
    "decoded_args",
    "read_audit",
]

AUDIT_SCHEMA_VERSION = 1

#: Events that describe a call: refused with an errno; process killed for it; let pass by complain mode; let
#: pass and logged because the profile says so.
CALL_EVENTS = ("deny", "kill", "complain", "log")
_OTHER_EVENTS = ("start", "summary", "lost", "end")


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One distinct call that the profile does not allow, with how often it was made.

    Args:
        event: one of `CALL_EVENTS`.
        session: the supervised run that made it (16 hex digits).
        id: stable name of the distinct call (12 hex digits): the same program, build, arch, call, typed
            constrained arguments, place in the code and action have the same id in every run.
        time, last: when it was first and last made, ISO 8601 in UTC.
        arch, nr, syscall: the call; `syscall` is None for a number without a name.
        args: the six raw argument registers of the first such call.
        decoded: the used arguments of the first such call as symbols, by the kernel's argument names.
        program, build_id: what the process ran ("?" when it could not be read).
        pid, tid, comm: process, thread and thread name of the first such call.
        ip: instruction pointer after the call instruction.
        location: file and offset in it (``libc.so.6+0x10a5d7``); None when the process could not be read.
        symbol: function there (``socket+0x7``), None when unknown.
        action: what was answered, or in complain mode would have been (``EPERM``, ``kill``, ``log``).
        count: how many such calls were seen so far (exact once the session has ended).
        processes: by how many processes.
    """

    event: str
    session: str
    id: str
    time: str
    last: str
    arch: str
    nr: int
    syscall: str | None
    args: tuple[int, int, int, int, int, int]
    decoded: Mapping[str, str] = field(hash=False)
    program: str
    build_id: str | None
    pid: int
    tid: int
    comm: str
    ip: int
    location: str | None
    symbol: str | None
    action: str
    count: int = 1
    processes: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the record as the log holds it."""
        return {
            "schema_version": AUDIT_SCHEMA_VERSION,
            "event": self.event,
            "session": self.session,
            "id": self.id,
            "time": self.time,
            "last": self.last,
            "arch": self.arch,
            "nr": self.nr,
            "syscall": self.syscall,
            "args": [f"{value:#x}" for value in self.args],
            "decoded": dict(self.decoded),
            "program": self.program,
            "build_id": self.build_id,
            "pid": self.pid,
            "tid": self.tid,
            "comm": self.comm,
            "ip": f"{self.ip:#x}",
            "location": self.location,
            "symbol": self.symbol,
            "action": self.action,
            "count": self.count,
            "processes": self.processes,
        }

    @property
    def constrained(self) -> tuple[int | None, ...]:
        """Return the six arguments as the kernel reads the constrained ones, None for the others."""
        return constrained_values(self.arch, self.nr, self.args)


@dataclass(frozen=True, slots=True)
class AuditSession:
    """One supervised run.

    Args:
        session: its name in the records.
        argv: the command.
        profile: the profile file it ran under, None when it had none.
        mode: "enforce" or "complain".
        started, ended: ISO 8601 in UTC; `ended` is None while it runs and after its supervisor was killed.
    """

    session: str
    argv: tuple[str, ...]
    profile: str | None
    mode: str
    started: str
    ended: str | None = None


@dataclass(frozen=True)
class AuditLog(Sequence[AuditRecord]):
    """A log read back: its records with their totals, its runs, and what it lacks.

    Args:
        records: one per distinct call and session, in order of first sight.
        sessions: the runs, in order of start.
        losses: reason to number of records (or runs) that are missing; empty when the log is whole.
        where: the file.
    """

    records: tuple[AuditRecord, ...]
    sessions: tuple[AuditSession, ...] = ()
    losses: Mapping[str, int] = field(default_factory=dict)
    where: str = ""

    @overload
    def __getitem__(self, index: int) -> AuditRecord: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[AuditRecord]: ...

    def __getitem__(self, index: int | slice) -> AuditRecord | Sequence[AuditRecord]:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def lost(self) -> int:
        """Return how many records are missing, at least."""
        return sum(self.losses.values())

    @property
    def is_complete(self) -> bool:
        """Tell whether every run ended properly and nothing is missing."""
        return not self.losses


def constrained_values(arch: str, nr: int, args: Sequence[int]) -> tuple[int | None, ...]:
    """Return six values: the constrained arguments at the kernel's width, None for every other argument.

    An argument the kernel does not look at in this call (open's mode without O_CREAT) is None too: it holds
    whatever the register held.
    """
    values: list[int | None] = [None] * 6
    name = abi.syscall_name(arch, nr)
    if name is not None:
        for spec in abi.constrained_args(arch, name):
            if spec.used_if is None or spec.used_if.holds(args):
                values[spec.index] = abi.kernel_value(spec, args[spec.index])
    return tuple(values)


def decoded_args(arch: str, nr: int, args: Sequence[int]) -> dict[str, str]:
    """Return the arguments a call uses, as symbols and numbers by the kernel's argument names.

    Empty for a call without a known signature, whose raw arguments are all there is.
    """
    name = abi.syscall_name(arch, nr)
    signature = None if name is None else abi.call_signature(arch, name, args)
    if signature is None:
        return {}
    return {
        spec.name: abi.decode_value(arch, spec, abi.kernel_value(spec, args[spec.index]))
        for spec in signature.args
        if spec.used_if is None or spec.used_if.holds(args)
    }


def aggregate(records: Iterable[AuditRecord]) -> list[AuditRecord]:
    """Return one record per distinct call, over all sessions, with counts added up, most frequent first.

    `processes` adds up too: a process belongs to one session.
    """
    found: dict[str, AuditRecord] = {}
    for record in records:
        known = found.get(record.id)
        if known is None:
            found[record.id] = record
            continue
        first = min(known, record, key=lambda r: r.time)
        found[record.id] = replace(
            first,
            last=max(known.last, record.last),
            count=known.count + record.count,
            processes=known.processes + record.processes,
        )
    return sorted(found.values(), key=lambda r: (-r.count, r.time, r.id))


def audit_schema() -> dict[str, Any]:
    """Return the JSON Schema of one line of the log."""
    text = Path(__file__).with_name("auditlog.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


# -------------------------------------------------------------------- reading

_COMMON = {"schema_version", "event", "session", "time"}
_KEYS = {
    "start": _COMMON | {"argv", "profile", "mode", "pid"},
    "summary": _COMMON | {"id", "count", "processes", "last"},
    "lost": _COMMON | {"reason", "count"},
    "end": _COMMON | {"denials", "distinct", "lost"},
}
_CALL_KEYS = frozenset(
    (*_COMMON, "id", "last", "arch", "nr", "syscall", "args", "decoded", "program", "build_id", "pid", "tid")
) | {"comm", "ip", "location", "symbol", "action", "count", "processes"}
_TYPES: Mapping[str, type | tuple[type, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("session", "time", "last", "id", "arch", "program", "comm", "action", "mode"), str),
        **dict.fromkeys(("nr", "pid", "tid", "count", "processes", "denials", "distinct", "lost"), int),
        **dict.fromkeys(("syscall", "build_id", "location", "symbol", "profile"), (str, type(None))),
        **dict.fromkeys(("args", "argv"), list),
        "ip": str,
        "decoded": dict,
        "reason": str,
    }
)


class _Reader:
    # The state of one file: sessions and records by their order of first sight.
    def __init__(self, where: str) -> None:
        self.where = where
        self.sessions: dict[str, AuditSession] = {}
        self.records: dict[tuple[str, str], AuditRecord] = {}
        self.losses: dict[str, int] = {}

    def lose(self, reason: str, count: int = 1) -> None:
        self.losses[reason] = self.losses.get(reason, 0) + count

    def take(self, entry: dict[str, Any], where: str) -> None:
        event = _checked_event(entry, where)
        session = entry["session"]
        if event == "start":
            argv, profile, mode = tuple(map(str, entry["argv"])), entry["profile"], entry["mode"]
            self.sessions[session] = AuditSession(session, argv, profile, mode, entry["time"])
        elif event == "end":
            if session in self.sessions:
                self.sessions[session] = replace(self.sessions[session], ended=entry["time"])
        elif event == "lost":
            self.lose(entry["reason"], entry["count"])
        elif event == "summary":
            known = self.records.get((session, entry["id"]))
            if known is None:
                self.lose("log_incomplete")  # its first line is not here: a rotated or torn file
            elif entry["count"] >= known.count:
                self.records[(session, entry["id"])] = replace(
                    known, count=entry["count"], processes=entry["processes"], last=entry["last"]
                )
        else:
            record = _record(entry, where)
            self.records.setdefault((session, record.id), record)

    def finish(self) -> AuditLog:
        unfinished = sum(s.ended is None for s in self.sessions.values())
        if unfinished:
            self.lose(
                "log_incomplete", unfinished
            )  # counts may be short: its supervisor was killed or still runs
        return AuditLog(
            tuple(self.records.values()),
            tuple(self.sessions.values()),
            MappingProxyType(dict(sorted(self.losses.items()))),
            self.where,
        )


def _fail(where: str, what: str, hint: str | None = None) -> AutoprofileError:
    return AutoprofileError(what, where=where, hint=hint)


def _checked_event(entry: dict[str, Any], where: str) -> str:
    version = entry.get("schema_version")
    if version != AUDIT_SCHEMA_VERSION:
        raise _fail(
            where,
            f"audit record of schema version {version!r}; this autoprofile reads {AUDIT_SCHEMA_VERSION}",
            "read it with the version of autoprofile that wrote it",
        )
    event = entry.get("event")
    if event not in CALL_EVENTS and event not in _OTHER_EVENTS:
        raise _fail(
            where, f"unknown audit event {event!r}; known are {', '.join(CALL_EVENTS + _OTHER_EVENTS)}"
        )
    keys = _KEYS.get(event, _CALL_KEYS)
    if missing := sorted(keys - entry.keys()):
        raise _fail(where, f"{event} record without {', '.join(missing)}")
    if unknown := sorted(entry.keys() - keys):
        raise _fail(where, f"{event} record with unknown {', '.join(unknown)}")
    for key in keys - {"schema_version", "event"}:
        # bool is an int to Python, never to the schema.
        if not isinstance(entry[key], _TYPES[key]) or isinstance(entry[key], bool):
            raise _fail(where, f"{event} record whose {key} is {entry[key]!r}")
    return str(event)


def _record(entry: dict[str, Any], where: str) -> AuditRecord:
    try:
        args = tuple(int(value, 16) for value in entry["args"])
        ip = int(entry["ip"], 16)
    except (TypeError, ValueError):
        raise _fail(where, "args and ip must be hexadecimal text") from None
    if len(args) != 6 or not all(0 <= value < 1 << 64 for value in (*args, ip)):
        raise _fail(where, "args must be six unsigned 64-bit values")
    rest = {k: v for k, v in entry.items() if k not in ("schema_version", "args", "ip", "decoded")}
    decoded = MappingProxyType({str(k): str(v) for k, v in entry["decoded"].items()})
    return AuditRecord(**rest, args=args, ip=ip, decoded=decoded)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def read_audit(path: str | os.PathLike[str]) -> AuditLog:
    """Read an audit log.

    A torn last line is what a full disk or a crash leaves: it is counted as lost. Torn lines inside are
    accepted only where the writer went on after them and said so (a ``lost`` record with reason
    ``broken_line`` follows).

    Raises:
        AutoprofileError: the file cannot be read, or a line is not of this schema (``file:line``).
    """
    where = os.fspath(path)
    try:
        raw = Path(where).read_bytes()
    except OSError as error:
        raise _fail(where, f"cannot read the audit log: {error.strerror}") from error
    lines = raw.split(b"\n")
    is_unterminated = lines[-1] != b""
    if not is_unterminated:
        lines.pop()
    reader = _Reader(where)
    torn: list[int] = []  # numbers of adjacent torn lines, which the next record must own up to
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entry = _parse_line(line)
        if entry is None:
            torn.append(number)
            continue
        if torn and (entry.get("event"), entry.get("reason")) != ("lost", "broken_line"):
            is_unterminated = False
            break
        torn.clear()
        reader.take(entry, f"{where}:{number}")
    if torn and not is_unterminated:
        raise _fail(f"{where}:{torn[0]}", "not an audit record (a JSON object)", "is this an audit log?")
    if torn:
        reader.lose("broken_line", len(torn))
    return reader.finish()
