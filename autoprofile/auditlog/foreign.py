"""Denials that others wrote down: the kernel's SECCOMP audit records and the output of ``watch --json``.

Bytes or a document in, `AuditLog` out. The kernel's records hold no arguments, no build-ids and no errno, and
are rate limited; what they lack is None or counted in the losses, never made up.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from autoprofile import abi
from autoprofile.auditlog.record import (
    AuditLog,
    AuditProgram,
    AuditRecord,
    AuditSession,
    call_id,
    decoded_args,
)
from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["holds_kernel_records", "kernel_log", "watch_log"]

# include/uapi/linux/audit.h: AUDIT_SECCOMP is 1326. ausearch and auditd write the name, dmesg and the journal
# the number. audit_seccomp() in kernel/auditsc.c writes the fields.
_KERNEL_RECORD: Final = re.compile(rb"\btype=(?:SECCOMP|1326)\b.*\bsyscall=\w")
_STAMP: Final = re.compile(r"audit\((\d+)\.(\d{1,9}):\d+\)")
_FIELD: Final = re.compile(r"\b(pid|comm|exe|sig|arch|syscall|ip|code)=(\"[^\"]*\"|\S+)")
_SUPPRESSED: Final = re.compile(r"(?:kauditd_printk_skb: (\d+) callbacks suppressed|audit: audit_lost=(\d+))")

_STAMP_DIGITS: Final = 12
_YEAR_10000: Final = 253_402_300_800  # seconds since the epoch, where times no longer sort as text

_NO_ARGS: Final = (None,) * 6
_SESSION: Final = "0" * 16

# SECCOMP_RET_* (include/uapi/linux/seccomp.h), as `code` holds them: without the data, so without the errno.
_CODES: Final[Mapping[int, tuple[str, str]]] = {
    0x80000000: ("kill", "kill"),
    0x00000000: ("kill", "kill_thread"),
    0x00030000: ("deny", "trap"),
    0x00050000: ("deny", "errno"),
    0x7FC00000: ("deny", "notify"),
    0x7FF00000: ("deny", "trace"),
    0x7FFC0000: ("log", "log"),
    0x7FFF0000: ("allow", "allow"),
}


def holds_kernel_records(raw: bytes) -> bool:
    """Tell whether text holds SECCOMP records of the kernel's audit, wherever it comes from."""
    return _KERNEL_RECORD.search(raw) is not None


def kernel_log(raw: bytes, where: str) -> AuditLog:
    """Read SECCOMP records: audit.log, ``ausearch -m SECCOMP --raw``, ``dmesg``, ``journalctl -k``.

    Other lines are skipped. Records are one per program, thread name, call and answer, with counts. A `deny`
    record says ``errno``, ``trap``, ``trace`` or ``notify``: the kernel tells no more. narrows: what a
    supervisor answered to a ``notify`` is not known, and is taken for a refusal.

    Raises:
        AutoprofileError: the records were interpreted (``ausearch -i``), so that numbers are lost.
    """
    found: dict[str, AuditRecord] = {}
    processes: dict[str, set[int]] = {}
    losses: dict[str, int] = {}
    lost_before: int | None = None
    for number, line in enumerate(raw.decode("utf-8", "surrogateescape").split("\n"), 1):
        if suppressed := _SUPPRESSED.search(line):
            if suppressed[1]:
                losses["rate_limited"] = losses.get("rate_limited", 0) + int(suppressed[1])
            else:  # a total since boot
                total = int(suppressed[2])
                losses["audit_lost"] = losses.get("audit_lost", 0) + total - (lost_before or 0)
                lost_before = total
        if not _KERNEL_RECORD.search(line.encode("utf-8", "surrogateescape")):
            continue
        # With log_format=ENRICHED auditd repeats fields as names behind a group separator.
        fields = dict(_FIELD.findall(line.split("\x1d")[0]))
        try:
            record = _kernel_record(fields, line)
        except KeyError:
            losses["broken_line"] = losses.get("broken_line", 0) + 1
            continue
        except ValueError:
            raise AutoprofileError(
                "this SECCOMP record was translated: its numbers are missing",
                where=f"{where}:{number}",
                hint="write the records with `ausearch -m SECCOMP --raw`",
            ) from None
        known = found.get(record.id)
        processes.setdefault(record.id, set()).add(record.pid)
        if known is None:
            found[record.id] = record
        else:
            first = min(known, record, key=lambda r: r.time)
            found[record.id] = replace(first, last=max(known.last, record.last), count=known.count + 1)
    records = tuple(replace(r, processes=len(processes[r.id])) for r in found.values())
    times = [r.time for r in records]
    session = AuditSession(_SESSION, (), None, "kernel", min(times, default=""), max(times, default=""))
    return AuditLog(records, (session,), MappingProxyType(dict(sorted(losses.items()))), where)


def _kernel_record(fields: Mapping[str, str], line: str) -> AuditRecord:
    token, nr = int(fields["arch"], 16), int(fields["syscall"]) & 0xFFFFFFFF
    code = int(fields["code"], 16)
    arch = abi.arch_from_audit(token, nr)
    event, action = _CODES.get(code, ("deny", f"{code:#x}"))
    stamp = _STAMP.search(line)
    if stamp and (len(stamp[1]) > _STAMP_DIGITS or int(stamp[1]) >= _YEAR_10000):
        raise KeyError("audit")  # no clock says so: the line is damaged
    when = _time_text(int(stamp[1]), stamp[2]) if stamp else ""
    program, comm = _name(fields["exe"]), _name(fields["comm"])
    pid = int(fields["pid"])
    return AuditRecord(
        event=event,
        session=_SESSION,
        id=call_id((event, program, None, arch, nr, _NO_ARGS, comm, action)),
        time=when,
        last=when,
        arch=arch,
        nr=nr,
        syscall=abi.syscall_name(arch, nr),
        args=_NO_ARGS,
        decoded=MappingProxyType({}),
        program=program,
        build_id=None,
        pid=pid,
        tid=pid,
        comm=comm,
        ip=int(fields["ip"], 16),
        location=None,
        symbol=None,
        action=action,
    )


def _name(text: str) -> str:
    # audit_log_untrustedstring(): in quotes, or in hex when it holds blanks, quotes or control characters.
    if text.startswith('"'):
        return text[1:-1]
    if text in ("(null)", "(none)", "?"):
        return "?"
    try:
        return bytes.fromhex(text).decode("utf-8", "surrogateescape")
    except ValueError:
        return text


def _time_text(seconds: int, fraction: str) -> str:
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction.ljust(6, '0')[:6]}Z"


def watch_log(document: Mapping[str, Any], where: str) -> AuditLog:
    """Read the document that ``watch --json`` prints.

    Refused calls are `deny` records, calls that ran although the profile does not list them `log` records.
    Counts are exact; times, processes and code locations are not in it, and neither are build-ids where an
    earlier release wrote it.

    Raises:
        AutoprofileError: it is not such a document.
    """
    try:
        records = tuple(_watch_record(item) for item in document["records"])
        programs = tuple(_watch_program(item) for item in document.get("programs", ()))
        kernel = document.get("kernel")
        losses = {str(reason): int(count) for reason, count in document["lost"]["entries"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AutoprofileError(
            f"this JSON document is no output of `watch --json` ({type(error).__name__}: {error})",
            where=where,
        ) from error
    session = AuditSession(
        _SESSION, (), None, "watch", "?", "?", kernel=kernel if isinstance(kernel, str) else None
    )
    return AuditLog(records, (session,), MappingProxyType(dict(sorted(losses.items()))), where, programs)


def _watch_program(item: Mapping[str, Any]) -> AuditProgram:
    binaries = {str(path): str(build) for path, build in item["binaries"].items()}
    return AuditProgram(
        _SESSION,
        str(item["program"]),
        _text(item["build_id"]),
        _text(item["libc"]),
        MappingProxyType(binaries),
    )


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _watch_record(item: Mapping[str, Any]) -> AuditRecord:
    arch, nr, program = str(item["arch"]), int(item["nr"]), str(item["program"])
    args = tuple(None if value is None else int(value) for value in item["args"])
    if len(args) != 6:
        raise ValueError(f"{len(args)} arguments instead of six")
    if not 0 <= nr < 1 << 32 or not all(value is None or 0 <= value < 1 << 64 for value in args):
        raise ValueError("a number that no register holds")
    build_id = _text(item.get("build_id"))
    is_refused = {"refused": True, "unlisted": False}[item["kind"]]
    event, action = ("deny", str(item["returned"] or "refused")) if is_refused else ("log", "allow")
    return AuditRecord(
        event=event,
        session=_SESSION,
        id=call_id((event, program, build_id, arch, nr, args, None, action)),
        time="",
        last="",
        arch=arch,
        nr=nr,
        syscall=abi.syscall_name(arch, nr),
        args=args,
        decoded=MappingProxyType(decoded_args(arch, nr, args)),
        program=program,
        build_id=build_id,
        pid=0,
        tid=0,
        comm="?",
        ip=0,
        location=None,
        symbol=None,
        action=action,
        count=int(item["count"]),
    )
