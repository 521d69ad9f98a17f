"""What `drift` and `review` share: the evidence, the comparison, the verdicts kept beside a profile."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import click

from autoprofile.cli.inputs import kind_of, read_audit_log, read_profile, read_trace
from autoprofile.errors import AutoprofileError, ProfileError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from autoprofile.auditlog import AuditLog
    from autoprofile.cli.output import Output
    from autoprofile.drift import DriftReport
    from autoprofile.drift.reviewed import Reviewed
    from autoprofile.observations import Trace
    from autoprofile.profile import Profile

__all__ = ["Evidence", "compared", "read_all", "read_reviewed", "review_file", "write_reviewed"]

_DAY_S = 86_400.0


@dataclass
class Evidence:
    """The files of evidence, read."""

    traces: list[Trace] = field(default_factory=list)
    audits: list[AuditLog] = field(default_factory=list)
    profiles: dict[str, Profile] = field(default_factory=dict)


def read_all(paths: Sequence[Path]) -> Evidence:
    """Read traces, audit logs and profiles, in any order.

    Raises:
        AutoprofileError: a file cannot be read, is none of them, or is a trace of nothing.
    """
    evidence = Evidence()
    for path in paths:
        kind = kind_of(path)
        if kind == "trace":
            evidence.traces.append(_trace_of_something(path))
        elif kind == "audit":
            evidence.audits.append(read_audit_log(path))
        else:
            evidence.profiles[str(path)] = _other_profile(path)
    return evidence


def _trace_of_something(path: Path) -> Trace:
    # Every program makes a call, if only to end: of a trace without one nothing follows, least of all that
    # nothing has changed.
    trace = read_trace(path)
    if not trace.observations:
        raise AutoprofileError(
            "the trace holds no call: there is nothing to compare",
            where=str(path),
            hint="record it again with `learn --trace`",
        )
    return trace


def _other_profile(path: Path) -> Profile:
    try:
        return read_profile(path)
    except ProfileError as error:
        raise ProfileError(
            f"neither a trace nor an audit log, and as a profile it has an error: {error.what}",
            where=error.where,
            hint="traces come from `learn --trace T.parquet`, audit logs from `enforce --audit A.jsonl`",
        ) from error


def compared(
    output: Output,
    profile: Profile,
    evidence: Evidence,
    *,
    ignore_unused: bool = False,
    unused_days: float | None = None,
) -> DriftReport:
    """Compare, and say where the evidence cannot carry a claim.

    Raises:
        click.UsageError: `unused_days` without a trace that says when it was made.
    """
    from autoprofile.drift import compare

    since = None if unused_days is None else _since_s(output, evidence.traces, unused_days)
    report = compare(profile, evidence.traces, evidence.audits, evidence.profiles, unused_since_s=since)
    is_short = unused_days is not None and since is None
    if ignore_unused or is_short:
        report = replace(report, records=tuple(r for r in report if r.kind != "unused_rule"))
    return report


def _since_s(output: Output, traces: Sequence[Trace], days: float) -> float | None:
    # A rule is unused for N days only where there is evidence of N days.
    spans = [
        (t.meta.start_time_s, t.meta.start_time_s + t.meta.duration_ns / 1e9)
        for t in traces
        if t.meta.start_time_s is not None
    ]
    if not spans:
        raise click.UsageError("--unused-days needs a trace that says when it was made")
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    covered = (last - first) / _DAY_S
    if covered < days:
        output.warn(
            f"the traces cover {covered:.1f} days: nothing is said about rules unused for {days:g} days",
            "add older traces, or ask for fewer days",
        )
        return None
    return last - days * _DAY_S


def review_file(profile: Path) -> Path:
    """Return where the verdicts on a profile are kept: ``web.review.json`` beside ``web.yaml``."""
    return profile.with_name(f"{profile.stem}.review.json")


def read_reviewed(path: Path) -> Reviewed:
    """Read the verdicts; none where there is no such file.

    Raises:
        AutoprofileError: the file is there and cannot be read.
    """
    from autoprofile.drift.reviewed import Reviewed

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Reviewed()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8 text"
        raise AutoprofileError(f"cannot read: {reason}", where=os.fspath(path)) from error
    return Reviewed.loads(text, str(path))


def write_reviewed(path: Path, reviewed: Reviewed) -> None:
    """Write the verdicts, durable and in one step."""
    from autoprofile.atomic import write_atomic

    write_atomic(path, reviewed.dumps())
