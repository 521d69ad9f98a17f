"""Read denials back: an audit log and its rotated files, or what the kernel's audit or an eBPF watch wrote.

A file in, `AuditLog` out. In an audit log every distinct call is one line at first sight and its totals
follow in ``summary`` lines; whatever is missing (a torn last line, a run that never ended, records that did
not fit on the disk) is counted in `AuditLog.losses`, and anything else outside the schema is an error with
file:line.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from autoprofile.auditlog.foreign import holds_kernel_records, kernel_log, watch_log
from autoprofile.auditlog.record import (
    AUDIT_SCHEMA_VERSION,
    CALL_EVENTS,
    DECIDERS,
    AuditLog,
    AuditProgram,
    AuditRecord,
    AuditSession,
)
from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["read_audit", "rotated_files"]

_OTHER_EVENTS = ("start", "program", "summary", "lost", "end")

_COMMON = {"schema_version", "event", "session", "time"}
_KEYS = {
    "start": _COMMON | {"argv", "profile", "mode", "pid"},
    "program": _COMMON | {"program", "build_id", "libc", "binaries"},
    "summary": _COMMON | {"id", "count", "processes", "last"},
    "lost": _COMMON | {"reason", "count"},
    "end": _COMMON | {"denials", "distinct", "lost"},
}
_CALL_KEYS = frozenset(
    (*_COMMON, "id", "last", "arch", "nr", "syscall", "args", "decoded", "program", "build_id", "pid", "tid")
) | {"comm", "ip", "location", "symbol", "action", "count", "processes"}
# Written since the first release of the schema; older lines lack them.
_OPTIONAL = {"start": frozenset({"kernel"}), "call": frozenset({"file", "file_build_id", "backtrace", "by"})}
_TYPES: Mapping[str, type | tuple[type, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("session", "time", "last", "id", "arch", "program", "comm", "action", "mode"), str),
        **dict.fromkeys(("nr", "pid", "tid", "count", "processes", "denials", "distinct", "lost"), int),
        **dict.fromkeys(("syscall", "build_id", "location", "symbol", "profile"), (str, type(None))),
        **dict.fromkeys(("kernel", "libc", "file", "file_build_id"), (str, type(None))),
        **dict.fromkeys(("args", "argv", "backtrace"), list),
        **dict.fromkeys(("decoded", "binaries"), dict),
        **dict.fromkeys(("ip", "by"), str),
        "reason": str,
    }
)


class _Reader:
    # The state of one file: sessions and records by their order of first sight.
    def __init__(self, where: str) -> None:
        self.where = where
        self.sessions: dict[str, AuditSession] = {}
        self.seen: set[str] = set()  # sessions of any record
        self.records: dict[tuple[str, str], AuditRecord] = {}
        self.losses: dict[str, int] = {}
        self.programs: dict[tuple[str, str, str | None], AuditProgram] = {}

    def lose(self, reason: str, count: int = 1) -> None:
        self.losses[reason] = self.losses.get(reason, 0) + count

    def take(self, entry: dict[str, Any], where: str) -> None:
        event = _checked_event(entry, where)
        session = entry["session"]
        self.seen.add(session)
        if event == "start":
            argv, profile, mode = tuple(map(str, entry["argv"])), entry["profile"], entry["mode"]
            # A rotated log says it again at the head of each file: the first time counts.
            self.sessions.setdefault(
                session,
                AuditSession(session, argv, profile, mode, entry["time"], kernel=entry.get("kernel")),
            )
        elif event == "program":
            self._program(entry)
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

    def _program(self, entry: dict[str, Any]) -> None:
        # Several lines of one program add up: libraries are loaded as it runs, and lines are kept short.
        key = (entry["session"], entry["program"], entry["build_id"])
        binaries = {str(path): str(build) for path, build in entry["binaries"].items()}
        known = self.programs.get(key)
        if known is not None:
            binaries = {**known.binaries, **binaries}
        self.programs[key] = AuditProgram(*key, entry["libc"], MappingProxyType(binaries))

    def finish(self) -> AuditLog:
        # Without its end counts may be short: the supervisor was killed or still runs. Without its start the
        # beginning is not here.
        unfinished = sum(s.ended is None for s in self.sessions.values())
        if cut := unfinished + len(self.seen - self.sessions.keys()):
            self.lose("log_incomplete", cut)
        if not self.seen:
            self.lose("empty_log")  # no run left a record: nothing ran, or nothing could be written
        return AuditLog(
            tuple(self.records.values()),
            tuple(self.sessions.values()),
            MappingProxyType(dict(sorted(self.losses.items()))),
            self.where,
            tuple(self.programs.values()),
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
    optional = _OPTIONAL.get(event, frozenset()) if event in _KEYS else _OPTIONAL["call"]
    if unknown := sorted(entry.keys() - keys - optional):
        raise _fail(where, f"{event} record with unknown {', '.join(unknown)}")
    for key in entry.keys() - {"schema_version", "event"}:
        # bool is an int to Python, never to the schema.
        if not isinstance(entry[key], _TYPES[key]) or isinstance(entry[key], bool):
            raise _fail(where, f"{event} record whose {key} is {entry[key]!r}")
    return str(event)


def _record(entry: dict[str, Any], where: str) -> AuditRecord:
    try:
        args = tuple(None if value is None else int(value, 16) for value in entry["args"])
        ip = int(entry["ip"], 16)
    except (TypeError, ValueError):
        raise _fail(where, "args and ip must be hexadecimal text") from None
    if len(args) != 6 or not all(value is None or 0 <= value < 1 << 64 for value in (*args, ip)):
        raise _fail(where, "args must be six unsigned 64-bit values")
    if not 0 <= entry["nr"] < 1 << 32:
        raise _fail(where, f"no syscall has the number {entry['nr']}")
    if entry.get("by", "profile") not in DECIDERS:
        raise _fail(where, f"unknown decider {entry['by']!r}; known are {', '.join(DECIDERS)}")
    rest = {
        k: v for k, v in entry.items() if k not in ("schema_version", "args", "ip", "decoded", "backtrace")
    }
    decoded = MappingProxyType({str(k): str(v) for k, v in entry["decoded"].items()})
    backtrace = tuple(map(str, entry.get("backtrace", ())))
    return AuditRecord(**rest, args=args, ip=ip, decoded=decoded, backtrace=backtrace)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def rotated_files(path: str | os.PathLike[str]) -> list[str]:
    """Return the files of a rotated log that exist, the oldest first, the log itself last."""
    where = os.fspath(path)
    folder, name = os.path.split(where)
    found = []
    try:
        names = os.listdir(folder or ".")  # noqa: PTH208 - names alone, the folder may be a relative one
    except OSError:
        names = []
    for one in names:
        match = re.fullmatch(rf"{re.escape(name)}\.([1-9]\d{{0,5}})", one)
        if match:
            found.append((-int(match[1]), os.path.join(folder, one)))  # noqa: PTH118
    return [*(one for _, one in sorted(found)), where]


def read_audit(path: str | os.PathLike[str]) -> AuditLog:
    """Read denials from a file: an audit log, the kernel's audit records, or ``watch --json``.

    Of an audit log that was rotated, the older files (``A.jsonl.1`` …) are read with it. A torn last line is
    what a full disk or a crash leaves: it is counted as lost. Torn lines inside are accepted only where the
    writer went on after them and said so (a ``lost`` record with reason ``broken_line`` follows).

    Raises:
        AutoprofileError: the file cannot be read, or a line is not of this schema (``file:line``).
    """
    where = os.fspath(path)
    raw = _bytes_of(where)
    if not raw.lstrip().startswith(b"{") and holds_kernel_records(raw):
        return kernel_log(raw, where)
    if (document := _document(raw)) is not None:
        return watch_log(document, where)
    reader = _Reader(where)
    for file in rotated_files(where)[:-1]:
        _read_file(reader, _bytes_of(file), file)
    _read_file(reader, raw, where)
    return reader.finish()


def _bytes_of(where: str) -> bytes:
    try:
        return Path(where).read_bytes()
    except OSError as error:
        raise _fail(where, f"cannot read the audit log: {error.strerror}") from error


def _document(raw: bytes) -> dict[str, Any] | None:
    # A document of `watch --json` holds "records"; a line of a log never does.
    if b'"records"' not in raw:
        return None
    entry = _parse_line(raw)
    return entry if entry is not None and isinstance(entry.get("records"), list) else None


def _read_file(reader: _Reader, raw: bytes, where: str) -> None:
    lines = raw.split(b"\n")
    is_unterminated = lines[-1] != b""
    if not is_unterminated:
        lines.pop()
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
