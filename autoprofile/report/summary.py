"""Profiles, traces, differences, drift and findings as text for people.

Each function takes one object of the lower floors and a `Style`, and returns the text.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

from autoprofile.report.facts import (
    call_rows,
    call_text,
    counted,
    profile_facts,
    program_rows,
    rule_rows,
    trace_facts,
)
from autoprofile.report.text import SEVERITY_STYLES, Style, TextPage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoprofile.auditlog import AuditLog, AuditRecord
    from autoprofile.drift import DriftRecord, DriftReport
    from autoprofile.lint import LintReport
    from autoprofile.observations import Trace
    from autoprofile.profile import Profile
    from autoprofile.profile.diff import Change
    from autoprofile.report.facts import RuleRow

__all__ = [
    "audit_document",
    "audit_text",
    "diff_text",
    "drift_record_text",
    "drift_summary",
    "drift_text",
    "lint_text",
    "profile_document",
    "profile_text",
    "trace_document",
    "trace_text",
    "witness_text",
]

_INDENT = 8  # under a severity word
_LONGEST_SET = 12  # values of one argument listed before they are only counted
_STRANGERS = 3  # programs named that a profile was not learned from
_FRAMES = 5  # callers of a call that are shown


def profile_text(profile: Profile, style: Style, *, title: str = "") -> str:
    """Return a profile: where it comes from, what it allows with which arguments, what it denies."""
    page = TextPage(style)
    if title:
        page.line(title, "bold")
    page.facts(profile_facts(profile))
    rows = rule_rows(profile, longest_set=_LONGEST_SET)
    allowed = [r for r in rows if r.action == "allow"]
    other = [r for r in rows if r.action != "allow"]
    with_arguments = {r.syscall for r in allowed if r.arguments != "any"}
    names = {r.syscall for r in allowed}
    is_open = profile.default.is_permitting
    if is_open:
        refused = [r for r in other if r.action.partition("(")[0] not in ("log", "notify", "trace")]
        limited = len({r.syscall for r in refused} - {r.syscall for r in refused if r.arguments == "any"})
        denied = counted(len({r.syscall for r in refused}), "syscall")
        page.heading(
            f"denied: {denied}, {limited} of them only with some arguments; what no rule names:"
            f" {profile.default}"
        )
    else:
        page.heading(
            f"allowed: {counted(len(names), 'syscall')},"
            f" {len(with_arguments)} of them only with known arguments"
        )
    if is_open and other:
        _other_rules(page, other)
    if is_open and allowed:
        page.heading("allowed by a rule")
    has_arch = any(r.arch for r in rows)
    page.table(
        [
            (
                f"{r.syscall} [{r.arch}]" if has_arch and r.arch else r.syscall,
                f"{r.arguments}; {r.reason}" if r.reason else r.arguments,
                "" if r.count is None else f"{r.count:,}".replace(",", " "),
            )
            for r in allowed
        ],
        header=("syscall", "arguments", "seen"),
        styles=("", "", "dim"),
        right=(2,),
    )
    if other and not is_open:
        page.heading("answered otherwise")
        _other_rules(page, other)
    risky = {r.syscall: r for r in allowed if r.risk in {"high", "medium"}}
    if risky:
        page.heading("worth a second look")
        page.table(
            sorted(
                ((r.risk, r.syscall, r.risk_reason) for r in risky.values()),
                key=lambda row: (row[0] != "high", row[1]),
            )
        )
    return page.render()


def _other_rules(page: TextPage, rows: Sequence[RuleRow]) -> None:
    page.table([(r.syscall, r.arguments, r.action) for r in rows], header=("syscall", "arguments", "action"))


def trace_text(trace: Trace, style: Style, *, title: str = "", limit: int = 40) -> str:
    """Return a trace: where it comes from, by which programs, which calls, the most frequent first.

    Args:
        trace: what to show.
        style: the width and whether to colour.
        title: the first line.
        limit: how many distinct calls to list; 0 for all.
    """
    page = TextPage(style)
    if title:
        page.line(title, "bold")
    page.facts(trace_facts(trace))
    programs = program_rows(trace)
    if len(programs) > 1:
        page.heading("programs")
        page.table(
            [(path, str(distinct), f"{n:,}".replace(",", " ")) for path, distinct, n in programs],
            header=("program", "syscalls", "calls"),
            right=(1, 2),
        )
    rows = call_rows(trace)
    shown = rows if limit == 0 else rows[:limit]
    page.heading("calls")
    page.table(
        [
            (
                f"{r.count:,}".replace(",", " "),
                r.call if r.arch == rows[0].arch else f"{r.call} [{r.arch}]",
                f"{r.first_s:.3f} s",
                "" if not r.failed else f"{r.failed} failed",
            )
            for r in shown
        ],
        header=("count", "call", "first", ""),
        right=(0, 2),
        styles=("", "", "dim", "dim"),
    )
    if len(shown) < len(rows):
        page.line(f"and {len(rows) - len(shown)} more (--all)", "dim", indent=2)
    return page.render()


def drift_text(report: DriftReport, style: Style) -> str:
    """Return a drift report: a line that sums it up, then each difference, the most important first."""
    page = TextPage(style)
    page.line(drift_summary(report), "bold" if len(report) else "green")
    for record in report:
        if record.kind != "unused_rule":
            page.line()
            _drift_record(page, record)
    unused = [r for r in report if r.kind == "unused_rule"]
    if unused:
        page.heading(f"{counted(len(unused), 'rule')} not used (allowed, but never seen in these traces)")
        page.table(
            [(r.call, f"learned from {r.count}" if r.count else "") for r in unused], styles=("", "dim")
        )
    return page.render()


def drift_record_text(record: DriftRecord, style: Style) -> str:
    """Return one difference as text."""
    page = TextPage(style)
    _drift_record(page, record)
    return page.render()


def drift_summary(report: DriftReport) -> str:
    """Return one line: how much differs, how much was compared, and whether with another program."""
    if not report.strangers:
        return _drift_sum(report)
    of = ", ".join(report.strangers[:_STRANGERS])
    if len(report.strangers) > _STRANGERS:
        of += f" and {len(report.strangers) - _STRANGERS} more"
    return f"{_drift_sum(report)}; the profile was learned from {report.learned_from}, not from {of}"


def _drift_sum(report: DriftReport) -> str:
    compared = f"{counted(report.calls, 'call')} compared"
    if report.undecided:
        compared += f", {report.undecided} undecided"
    if report.settled:
        calls = sum(r.count for r in report.settled if r.kind in ("new_syscall", "new_argument"))
        compared += f", {counted(len(report.settled), 'difference')} settled by review"
        compared += f" ({counted(calls, 'call')} not allowed)" if calls else ""
        if not len(report):
            return f"no open drift: {compared}"
    if not len(report):
        if report.undecided:
            return f"no drift found: {compared} (rules compare arguments that the evidence does not hold)"
        return f"no drift: {compared}, all allowed"
    kinds = ", ".join(f"{n} {kind}" for kind, n in report.counts.items() if n)
    return f"{counted(len(report), 'difference')}: {kinds} ({compared})"


def _drift_record(page: TextPage, record: DriftRecord) -> None:
    style = SEVERITY_STYLES.get(record.severity, "")
    page.table([(record.severity.upper(), record.kind, record.call)], indent=0, styles=(style, "", "bold"))
    facts = []
    if record.program:
        others = f" and {len(record.programs) - 1} more" if len(record.programs) > 1 else ""
        facts.append(("program", record.program + others))
    where = witness_text(record.witness)
    if where:
        facts.append(("seen", f"{counted(record.count, 'time')}; {where}"))
    facts.append(("why", record.why))
    if record.arch and record.arch != "x86_64":
        facts.append(("arch", record.arch))
    page.facts(facts, indent=_INDENT)
    if record.edit:
        page.line("to accept it, add:", "dim", indent=_INDENT)
        page.code(record.edit, indent=_INDENT + 2)


def witness_text(witness: Mapping[str, object]) -> str:
    """Return where a difference was seen, in a few words: called from which library, by which process."""
    parts = []
    if witness.get("location"):
        symbol = f" ({witness['symbol']})" if witness.get("symbol") else ""
        parts.append(f"called from {witness['location']}{symbol}")
    if witness.get("pid"):
        parts.append(f"process {witness['pid']}" + (f" ({witness['comm']})" if witness.get("comm") else ""))
    if witness.get("action"):
        is_answered = witness.get("event") != "complain"
        answers = witness.get("answers")
        if isinstance(answers, (list, tuple)) and len(answers) > 1:
            parts.append(f"answered {', '.join(answers)}")
        else:
            parts.append(f"answered {witness['action']}" if is_answered else "let pass (complain mode)")
    if witness.get("source") == "trace" and witness.get("first_s") is not None:
        parts.append(f"first {witness['first_s']} s into run {witness.get('run', 0)}")
        if witness.get("last_return"):
            parts.append(f"returned {witness['last_return']}")
    return ", ".join(parts)


def audit_text(log: AuditLog, style: Style, *, title: str = "") -> str:
    """Return an audit log: its runs, then each distinct refused call, the most frequent first."""
    from autoprofile.auditlog import aggregate

    page = TextPage(style)
    if title:
        page.line(title, "bold")
    page.facts(
        [
            (
                s.mode,
                f"{shlex.join(s.argv) or 'unknown command'}; {s.started}"
                + ("" if s.ended else ", not ended"),
            )
            for s in log.sessions
        ]
    )
    if log.losses:
        page.facts([("lost", ", ".join(f"{reason} {n}" for reason, n in sorted(log.losses.items())))])
    records = aggregate(log.records)
    page.heading(f"{counted(len(records), 'distinct call')} not allowed")
    for record in records:
        page.line()
        page.table(
            [(f"{record.count}x", _audit_call(record), record.answer)],
            indent=0,
            styles=("dim", "bold", "yellow"),
        )
        facts = [("program", record.program)]
        if record.location:
            facts.append(("from", record.location + (f" ({record.symbol})" if record.symbol else "")))
        if record.backtrace:
            facts.append(("called by", ", ".join(record.backtrace[:_FRAMES])))
        if record.by != "profile":
            facts.append(("decided by", record.by))
        page.facts(facts, indent=4)
    return page.render()


def _audit_call(record: AuditRecord) -> str:
    arch = "" if record.arch == "x86_64" else f" [{record.arch}]"
    return call_text(record.arch, record.syscall or str(record.nr), record.constrained) + arch


def diff_text(changes: Sequence[Change], style: Style) -> str:
    """Return the changes between two profiles, what widens first."""
    page = TextPage(style)
    if not changes:
        page.line("no difference", "green")
    order = {"widened": 0, "narrowed": 1, "changed": 2, "same": 3}
    signs = {"widened": "+", "changed": "~", "narrowed": "-", "same": "="}
    colours = {"widened": "yellow", "changed": "cyan", "narrowed": "green", "same": "dim"}
    meant = {"same": " (the same calls in other rules)"}
    for kind in sorted({c.kind for c in changes}, key=lambda k: (order.get(k, 9), k)):
        same = [c for c in changes if c.kind == kind]
        page.heading(f"{kind}: {len(same)}{meant.get(kind, '')}")
        for change in same:
            page.table([(signs.get(kind, " "), str(change))], styles=(colours.get(kind, ""), ""))
    return page.render()


def lint_text(report: LintReport, style: Style) -> str:
    """Return the findings, the most severe first, each with what to do."""
    page = TextPage(style)
    if not report.findings:
        page.line("nothing found", "green")
    # What holds on several arches is said once, with their names.
    arches: dict[tuple[str, ...], list[str]] = {}
    for finding in report.findings:
        key = (finding.severity, finding.id, finding.title, finding.detail, finding.remedy)
        arches.setdefault(key, []).append(finding.arch or "")
    several = len({finding.arch for finding in report.findings if finding.arch}) > 1
    for number, ((severity, name, title, detail, remedy), on) in enumerate(arches.items()):
        if number:
            page.line()
        page.table([(severity.upper(), title)], indent=0, styles=(SEVERITY_STYLES.get(severity, ""), "bold"))
        facts = [("id", name), ("why", detail), ("do", remedy)]
        if several and any(on):
            facts.insert(1, ("arch", ", ".join(on)))
        page.facts(facts, indent=_INDENT)
    return page.render()


def profile_document(profile: Profile) -> dict[str, object]:
    """Return a profile as JSON values: the document of its file (published schema) under ``profile``."""
    import yaml

    return {"profile": yaml.safe_load(profile.dumps())}


def trace_document(trace: Trace) -> dict[str, object]:
    """Return a trace as JSON values: its head and its distinct calls, the most frequent first."""
    return {
        "meta": trace.meta.to_dict(),
        "ledger": trace.ledger.to_dict(),
        "processes": trace.process_count,
        "complete": trace.is_complete,
        "calls": [asdict(row) for row in call_rows(trace)],
    }


def audit_document(log: AuditLog) -> dict[str, object]:
    """Return an audit log as JSON values: its runs, its records with their totals, what is missing."""
    return {
        "sessions": [asdict(s) for s in log.sessions],
        "records": [r.to_dict() for r in log.records],
        "losses": dict(log.losses),
    }
