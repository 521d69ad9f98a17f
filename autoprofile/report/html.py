"""One self-contained HTML page for a profile, a trace or a drift report; light and dark, no outside assets.

In: objects of the lower floors. Out: the page as text. The page carries no time of its making, so the same
input gives the same page. Everything that came from outside (paths, arguments) is escaped by the template.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoprofile.report.completeness import completeness_facts
from autoprofile.report.facts import call_rows, counted, profile_facts, program_rows, rule_rows, trace_facts
from autoprofile.report.plots import Chart, trace_charts
from autoprofile.report.summary import drift_summary, witness_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.drift import DriftRecord, DriftReport
    from autoprofile.learn import Completeness
    from autoprofile.lint import Finding
    from autoprofile.observations import Trace
    from autoprofile.profile import Profile

__all__ = ["drift_page", "profile_page", "trace_page"]


@dataclass(frozen=True, slots=True)
class _Number:
    value: str
    label: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    kind: str = ""  # "", call, name, number, severity, soft


@dataclass(frozen=True, slots=True)
class _Card:
    severity: str
    kind: str
    title: str
    facts: Sequence[tuple[str, str]]
    code: str = ""
    code_label: str = ""


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    note: str = ""
    columns: Sequence[_Column] = ()
    rows: Sequence[Sequence[str]] = ()
    cards: Sequence[_Card] = ()
    calm: str = ""


@dataclass(frozen=True, slots=True)
class _Page:
    title: str
    subtitle: str
    sources: str
    numbers: Sequence[_Number]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[_Section]
    charts: Sequence[Chart] = field(default=())


def profile_page(profile: Profile, *, source: str, findings: Sequence[Finding] = ()) -> str:
    """Return the page of a profile.

    Args:
        profile: what to show.
        source: the name of its file.
        findings: what `lint` found in it.
    """
    sections = [_rules_section(profile)]
    if findings:
        sections.insert(0, _findings_section(findings))
    page = _Page(
        title=_name_of(profile),
        subtitle="seccomp profile: the syscalls and arguments this program may use",
        sources=source,
        numbers=_profile_numbers(profile),
        facts=profile_facts(profile),
        sections=sections,
    )
    return _render(page)


def trace_page(trace: Trace, *, source: str, completeness: Completeness | None = None) -> str:
    """Return the page of a trace, with its discovery curve and its most frequent calls as charts.

    Args:
        trace: what to show.
        source: its file name.
        completeness: what its runs say about further ones, when it has several.
    """
    rows = call_rows(trace)
    failed = any(r.failed is not None for r in rows)
    columns = [_Column("calls", "number"), _Column("call", "call"), _Column("first", "number")]
    columns += [_Column("failed", "number")] if failed else []
    calls = _Section(
        "Calls",
        counted(len(rows), "distinct call"),
        [*columns, _Column("program", "soft")],
        [
            [
                _thousands(r.count),
                r.call if r.arch == rows[0].arch else f"{r.call} [{r.arch}]",
                f"{r.first_s:.3f} s",
                *([str(r.failed or "")] if failed else []),
                ", ".join(path.rpartition("/")[2] for path in r.programs),
            ]
            for r in rows
        ],
    )
    programs = _Section(
        "Programs",
        columns=[_Column("program", "call"), _Column("syscalls", "number"), _Column("calls", "number")],
        rows=[[path, str(distinct), _thousands(n)] for path, distinct, n in program_rows(trace)],
    )
    page = _Page(
        title=shlex.join(trace.meta.argv) or "a trace",
        subtitle="trace: what the program called",
        sources=source,
        numbers=[
            _Number(_thousands(trace.events), "calls"),
            _Number(str(len({(o.arch, o.nr) for o in trace.observations})), "different syscalls"),
            _Number(str(len(rows)), "different argument tuples"),
            _Number(str(trace.process_count), "processes"),
            _Number(str(trace.ledger.total), "lost", "medium" if trace.ledger else "good"),
        ],
        facts=[*trace_facts(trace), *([] if completeness is None else completeness_facts(completeness))],
        sections=[programs, calls],
        charts=trace_charts(trace),
    )
    return _render(page)


def drift_page(report: DriftReport, profile: Profile, *, source: str) -> str:
    """Return the page of a drift report: each difference, then the profile it was compared with."""
    cards = [_drift_card(r) for r in report if r.kind != "unused_rule"]
    unused = [r for r in report if r.kind == "unused_rule"]
    sections = [_Section("Differences", cards=cards, calm="" if cards else "Every call was allowed.")]
    if unused:
        sections.append(
            _Section(
                "Rules not used",
                "allowed, but never seen in this evidence",
                [_Column("rule", "call"), _Column("learned from", "number")],
                [[r.call, _thousands(r.count) if r.count else ""] for r in unused],
            )
        )
    sections.append(_rules_section(profile))
    severities = {name: sum(r.severity == name for r in report) for name in ("high", "medium", "low")}
    page = _Page(
        title=f"Drift of {_name_of(profile)}",
        subtitle=drift_summary(report),
        sources=source,
        numbers=[
            _Number(str(severities["high"]), "high", "high" if severities["high"] else "good"),
            _Number(str(severities["medium"]), "medium", "medium" if severities["medium"] else "good"),
            _Number(str(severities["low"]), "low"),
            _Number(str(len(unused)), "rules not used"),
            _Number(_thousands(report.calls), "calls compared"),
        ],
        facts=profile_facts(profile),
        sections=sections,
    )
    return _render(page)


def _render(page: _Page) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("autoprofile.report", "."),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(page=page)


def _name_of(profile: Profile) -> str:
    program = profile.program
    return program.path or shlex.join(program.argv) or "a profile"


def _thousands(n: int) -> str:
    return f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _profile_numbers(profile: Profile) -> list[_Number]:
    allowed = [r for r in rule_rows(profile) if r.action == "allow"]
    names = {r.syscall for r in allowed}
    learned = profile.learned
    numbers = [
        _Number(str(len(names)), "syscalls allowed"),
        _Number(
            str(len({r.syscall for r in allowed if r.arguments != "any"})),
            "of them only with known arguments",
        ),
        _Number(str(len({r.syscall for r in allowed if r.risk == "high"})), "of high risk", "medium"),
    ]
    if learned is not None:
        numbers.append(_Number(_thousands(learned.events), "calls seen"))
        numbers.append(_Number(str(learned.lost), "lost", "medium" if learned.lost else "good"))
    return numbers


def _rules_section(profile: Profile) -> _Section:
    rows = rule_rows(profile)
    return _Section(
        "Rules",
        f"what no rule names: {profile.default}",
        [
            _Column("syscall", "name"),
            _Column("arguments", "call"),
            _Column("action"),
            _Column("seen", "number"),
            _Column("risk", "severity"),
            _Column("why", "soft"),
        ],
        [
            [
                f"{r.syscall} [{r.arch}]" if r.arch else r.syscall,
                r.arguments,
                r.action,
                "" if r.count is None else _thousands(r.count),
                r.risk,
                r.reason or (r.risk_reason if r.action == "allow" else ""),
            ]
            for r in rows
        ],
    )


def _findings_section(findings: Sequence[Finding]) -> _Section:
    return _Section(
        "Ways around it",
        counted(len(findings), "finding"),
        cards=[_Card(f.severity, f.id, f.title, [("why", f.detail), ("do", f.remedy)]) for f in findings],
    )


def _drift_card(record: DriftRecord) -> _Card:
    facts = [("program", record.program)] if record.program else []
    where = witness_text(record.witness)
    facts.append(("seen", f"{counted(record.count, 'time')}" + (f"; {where}" if where else "")))
    facts.append(("why", record.why))
    return _Card(record.severity, record.kind, record.call, facts, record.edit, "To accept it, add:")
