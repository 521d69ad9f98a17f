"""Denials as data: what a supervised run, the kernel's audit or an eBPF watch says was refused or let pass.

Plain immutable records; where they are read from is the business of the other modules of this package.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from autoprofile import abi

__all__ = [
    "AUDIT_SCHEMA_VERSION",
    "CALL_EVENTS",
    "DECIDERS",
    "AuditLog",
    "AuditProgram",
    "AuditRecord",
    "AuditSession",
    "aggregate",
    "audit_schema",
    "call_id",
    "constrained_values",
    "decoded_args",
]

AUDIT_SCHEMA_VERSION = 1

#: Events that describe a call: refused with an errno; process killed for it; let pass by complain mode; let
#: pass and logged because the profile says so; let pass by whoever was asked about it (see `DECIDERS`).
CALL_EVENTS = ("deny", "kill", "complain", "log", "allow")

#: Who decided: the profile; the policy for what a hybrid profile leaves open; a hook; the user when asked.
DECIDERS = ("profile", "policy", "hook", "user")


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
        args: the six raw argument registers of the first such call; None where the source does not say (the
            kernel's audit knows no arguments).
        decoded: the used arguments of the first such call as symbols, by the kernel's argument names.
        program, build_id: what the process ran ("?" when it could not be read).
        pid, tid, comm: process, thread and thread name of the first such call.
        ip: instruction pointer after the call instruction.
        location: file and offset in it (``libc.so.6+0x10a5d7``); None when the process could not be read.
        symbol: function there (``socket+0x7``), None when unknown.
        action: what was answered, or in complain mode would have been (``EPERM``, ``kill``, ``log``).
        count: how many such calls were seen so far (exact once the session has ended).
        processes: by how many processes.
        file, file_build_id: the file at `location`, as its own mount namespace names it, and its build-id.
        backtrace: places that called it, the innermost first (``libssl.so.3:SSL_read+0x42``); empty unless
            asked for.
        by: one of `DECIDERS`.
    """

    event: str
    session: str
    id: str
    time: str
    last: str
    arch: str
    nr: int
    syscall: str | None
    args: tuple[int | None, ...]
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
    file: str | None = None
    file_build_id: str | None = None
    backtrace: tuple[str, ...] = ()
    by: str = "profile"

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
            "args": [None if value is None else f"{value:#x}" for value in self.args],
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
            "file": self.file,
            "file_build_id": self.file_build_id,
            "backtrace": list(self.backtrace),
            "by": self.by,
        }

    @property
    def is_passed(self) -> bool:
        """Tell whether the call was let pass, whatever `action` says would have been answered."""
        return self.event in ("complain", "log", "allow")

    @property
    def answer(self) -> str:
        """What happened to the call, in words: ``EPERM``, ``kill``, ``let pass (would be kill)``."""
        if self.event == "complain":
            return f"let pass (would be {self.action})"
        return f"let pass ({self.action})" if self.event == "log" else self.action

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
        kernel: the kernel release, None when the source does not say.
    """

    session: str
    argv: tuple[str, ...]
    profile: str | None
    mode: str
    started: str
    ended: str | None = None
    kernel: str | None = None


@dataclass(frozen=True, slots=True)
class AuditProgram:
    """What a program of a run was made of when its calls were refused.

    Args:
        session: the run.
        program, build_id: as in `AuditRecord`.
        libc: for instance ``glibc 2.36``, None when it could not be told.
        binaries: path to build-id of the files with mapped instructions, "" for those without a build-id.
    """

    session: str
    program: str
    build_id: str | None
    libc: str | None
    binaries: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class AuditLog(Sequence[AuditRecord]):
    """A log read back: its records with their totals, its runs, and what it lacks.

    Args:
        records: one per distinct call and session, in order of first sight.
        sessions: the runs, in order of start.
        losses: reason to number of records (or runs) that are missing; empty when the log is whole.
        where: the file.
        programs: what the programs were made of, one per run and program.
    """

    records: tuple[AuditRecord, ...]
    sessions: tuple[AuditSession, ...] = ()
    losses: Mapping[str, int] = field(default_factory=dict)
    where: str = ""
    programs: tuple[AuditProgram, ...] = ()

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

    def session_of(self, record: AuditRecord) -> AuditSession | None:
        """Return the run that a record belongs to, None when the log does not hold its start."""
        return next((s for s in self.sessions if s.session == record.session), None)

    def program_of(self, record: AuditRecord) -> AuditProgram | None:
        """Return what the program of a record was made of, None when the log does not say."""
        key = (record.session, record.program, record.build_id)
        return next((p for p in self.programs if (p.session, p.program, p.build_id) == key), None)

    @property
    def is_complete(self) -> bool:
        """Tell whether every run ended properly and nothing is missing."""
        return not self.losses


def call_id(distinct: tuple[object, ...]) -> str:
    """Return the stable name (12 hex digits) of a distinct call, from what makes it distinct."""
    return hashlib.blake2b(repr(distinct).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()


def constrained_values(arch: str, nr: int, args: Sequence[int | None]) -> tuple[int | None, ...]:
    """Return six values: the constrained arguments at the kernel's width, None for every other argument.

    An argument the kernel does not look at in this call (open's mode without O_CREAT) is None too: it holds
    whatever the register held.
    """
    values: list[int | None] = [None] * 6
    name = abi.syscall_name(arch, nr)
    if name is not None:
        for spec in abi.constrained_args(arch, name):
            raw = args[spec.index]
            if raw is not None and (spec.used_if is None or spec.used_if.holds([a or 0 for a in args])):
                values[spec.index] = abi.kernel_value(spec, raw)
    return tuple(values)


def decoded_args(arch: str, nr: int, args: Sequence[int | None]) -> dict[str, str]:
    """Return the arguments a call uses, as symbols and numbers by the kernel's argument names.

    Empty for a call without a known signature, whose raw arguments are all there is.
    """
    name = abi.syscall_name(arch, nr)
    known = [a or 0 for a in args]
    signature = None if name is None else abi.call_signature(arch, name, known)
    if signature is None:
        return {}
    return {
        spec.name: abi.decode_value(arch, spec, abi.kernel_value(spec, raw))
        for spec in signature.args
        if (raw := args[spec.index]) is not None and (spec.used_if is None or spec.used_if.holds(known))
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
    text = Path(__file__).with_name("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
