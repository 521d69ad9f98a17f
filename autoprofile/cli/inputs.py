"""Files named on the command line, read into the objects they hold; ``-`` is stdin.

What a file is follows from its content, never from its name: a trace is Parquet, an audit log is JSON Lines
or holds SECCOMP records of the kernel's audit, anything else is a profile.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.auditlog import AuditLog
    from autoprofile.observations import Trace
    from autoprofile.profile import Profile

__all__ = [
    "kind_of",
    "read_audit_log",
    "read_profile",
    "read_profile_text",
    "read_trace",
    "read_traces",
]

_STDIN = Path("-")
_PROFILE_HEAD = 1 << 14  # bytes in which a profile's comments have to end for it to be told at once
_HEAD = 1 << 20  # bytes in which a file of kernel messages has to show a SECCOMP record


def kind_of(path: Path) -> str:
    """Return ``trace``, ``audit``, ``oci`` (a seccomp profile for container runtimes) or ``profile``.

    Raises:
        AutoprofileError: the file cannot be read.
    """
    if path == _STDIN:
        return "profile"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise _unreadable(path, error) from error
    if head.startswith(b"PAR1"):
        return "trace"
    is_json = head.lstrip().startswith(b"{")
    if is_json and (b'"defaultAction"' in head or b'"ociVersion"' in head) and _is_oci(path):
        return "oci"
    if is_json or (not head and path.suffix == ".jsonl"):
        return "audit"
    # The first key of every profile, where comments may stand before it: enforcing needs no audit logs read.
    if head.startswith(b"autoprofile:") or b"\nautoprofile:" in head[:_PROFILE_HEAD]:
        return "profile"
    from autoprofile.auditlog.foreign import holds_kernel_records

    return "audit" if holds_kernel_records(head) else "profile"


def read_profile(path: Path) -> Profile:
    """Read a profile; its errors carry ``file:line``."""
    from autoprofile.profile import Profile

    return Profile.loads(*read_profile_text(path))


def read_profile_text(path: Path) -> tuple[str, str]:
    """Return the text of a profile file, and its name for errors.

    Raises:
        AutoprofileError: it cannot be read, or is a trace or an audit log.
    """
    if path == _STDIN:
        return sys.stdin.read(), "<stdin>"
    kind = kind_of(path)
    if kind == "oci":
        raise AutoprofileError(
            "this is a seccomp profile of another format (OCI, Docker)",
            where=str(path),
            hint=f"`autoprofile import {path} -o P.yaml` makes one of ours of it",
        )
    if kind != "profile":
        names = {"trace": "a trace", "audit": "an audit log"}
        raise AutoprofileError(
            f"this is {names[kind]}, not a profile",
            where=str(path),
            hint="`autoprofile learn --from-trace` makes a profile of traces" if kind == "trace" else None,
        )
    from autoprofile.profile.file import read_profile_file

    return read_profile_file(path), str(path)


def read_trace(path: Path) -> Trace:
    """Read a trace."""
    from autoprofile.observations import Trace

    return Trace.load(path)


def read_traces(paths: Sequence[Path]) -> list[Trace]:
    """Read traces.

    Raises:
        AutoprofileError: a file cannot be read, or is something else; audit logs show only what was refused.
    """
    for path in paths:
        if kind_of(path) == "audit":
            raise AutoprofileError(
                "this is an audit log: it shows what was refused, not what was used",
                where=str(path),
                hint="traces come from `learn --trace T.parquet`",
            )
    return [read_trace(path) for path in paths]


def read_audit_log(path: Path) -> AuditLog:
    """Read an audit log."""
    from autoprofile.auditlog import read_audit

    return read_audit(path)


def _is_oci(path: Path) -> bool:
    import json

    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and bool({"defaultAction", "ociVersion"} & content.keys())


def _unreadable(path: Path, error: OSError) -> AutoprofileError:
    return AutoprofileError(f"cannot read: {error.strerror or error}", where=str(path))
