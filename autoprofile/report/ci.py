"""Drift for continuous integration: SARIF 2.1.0, JUnit XML and Markdown.

In: a drift report and the severity from which a difference fails the build. Out: text. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from autoprofile.drift.record import SEVERITIES
from autoprofile.lint.sarif import LEVELS, sarif_log
from autoprofile.printable import printable
from autoprofile.report.facts import counted
from autoprofile.report.summary import drift_summary, witness_text

if TYPE_CHECKING:
    from autoprofile.drift.record import DriftRecord, DriftReport

__all__ = ["NEW_BEHAVIOUR", "drift_junit", "drift_markdown", "drift_sarif", "fails"]

_TITLES = {
    "new_syscall": "A syscall that the profile does not allow",
    "new_argument": "Arguments that the profile does not allow",
    "lost": "Evidence is missing",
    "shifted": "A syscall's share of the calls changed",
    "unused_rule": "An allow rule that nothing needed",
}


NEW_BEHAVIOUR = "new-behaviour"
"""What fails, in place of a severity: every refused call that no change of what was learned explains."""


_MARKUP = "\\`*_{}[]<>#|!~&@:/\"'"


def fails(record: DriftRecord, fail_on: str) -> bool:
    """Tell whether a difference fails a build.

    Args:
        record: the difference.
        fail_on: one of `SEVERITIES` (as severe as that, or more) or `NEW_BEHAVIOUR`, or several joined by
            commas, each of which is enough.
    """
    return any(
        record.is_unexplained
        if word == NEW_BEHAVIOUR
        else SEVERITIES.index(record.severity) <= SEVERITIES.index(word)
        for word in fail_on.split(",")
    )


def drift_sarif(report: DriftReport, uri: str, *, version: str) -> dict[str, object]:
    """Return a SARIF log with one result per difference, located in the profile.

    Args:
        report: the differences.
        uri: where the profile lies, relative to the repository.
        version: of autoprofile.
    """
    results = [
        {
            "ruleId": f"drift/{r.kind}",
            "level": LEVELS[r.severity],
            "message": {"text": f"{r.call}: {r.why}"},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}}}],
            "partialFingerprints": {"autoprofile/v1": r.id},
            "occurrenceCount": max(r.count, 1),
            "properties": {
                "severity": r.severity,
                "attribution": r.attribution,
                "program": r.program,
                "edit": r.edit,
            },
        }
        for r in report
    ]
    titles = {f"drift/{r.kind}": _TITLES[r.kind] for r in report}
    return sarif_log(titles, results, version=version)


def drift_junit(report: DriftReport, name: str, *, fail_on: str) -> str:
    """Return JUnit XML: one test case per difference, failed from `fail_on` on, and one that always passes.

    The passing one says what was compared, so that a run without drift is not an empty suite.

    Args:
        report: the differences.
        name: of the suite: the profile's file.
        fail_on: what fails, see `fails`.
    """
    from xml.etree import ElementTree as Xml

    failing = [r for r in report if fails(r, fail_on)]
    counts = {"tests": str(len(report) + 1), "failures": str(len(failing)), "errors": "0"}
    suites = Xml.Element("testsuites", counts)
    suite = Xml.SubElement(suites, "testsuite", {"name": _printable(f"drift of {name}"), **counts})
    summary = Xml.SubElement(suite, "testcase", {"classname": "drift", "name": "evidence compared"})
    Xml.SubElement(summary, "system-out").text = _printable(drift_summary(report))
    for record in report:
        case = Xml.SubElement(
            suite,
            "testcase",
            {"classname": f"drift.{record.kind}", "name": _printable(f"{record.call} [{record.id}]")},
        )
        if fails(record, fail_on):
            failure = Xml.SubElement(
                case, "failure", {"type": record.severity, "message": _printable(record.why)}
            )
            failure.text = _printable(_details(record))
        else:
            Xml.SubElement(case, "system-out").text = _printable(f"{record.severity}: {_details(record)}")
    Xml.indent(suites)
    return Xml.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def drift_markdown(report: DriftReport, name: str, *, fail_on: str) -> str:
    """Return Markdown for a pull request: the sum, a table, and each refused call with its edit.

    Args:
        report: the differences.
        name: of the profile.
        fail_on: what fails, see `fails`; how many do is in the first line.
    """
    failing = sum(fails(r, fail_on) for r in report)
    lines = [
        f"### Drift of {_code(name)}",
        "",
        f"{drift_summary(report)}; {counted(failing, 'difference')} fail.",
    ]
    shown = [r for r in report if r.kind != "unused_rule"]
    if shown:
        lines += ["", "| severity | kind | call | program | times | cause |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {r.severity} | {r.kind} | {_code(r.call)} | {_code(r.program or '')} | {r.count} "
            f"| {r.attribution} |"
            for r in shown
        ]
    for r in shown:
        if not r.edit:
            continue
        lines += ["", f"<details><summary>{r.id}: {_html(r.call)}</summary>", "", _escape(r.why), ""]
        where = witness_text(r.witness)
        if where:
            lines += [f"Seen: {_escape(where)}.", ""]
        lines += ["To accept it, add:", "", *_block(r.edit), "", "</details>"]
    unused = Counter(r.syscall for r in report if r.kind == "unused_rule")
    if unused:
        names = ", ".join(_code(str(call)) + (f" ({n} rules)" if n > 1 else "") for call, n in unused.items())
        lines += ["", f"Not used: {names}."]
    return "\n".join(lines) + "\n"


def _details(record: DriftRecord) -> str:
    parts = [f"{record.call}, {counted(record.count, 'time')}", record.why]
    if record.program:
        parts.append(f"program: {record.program}")
    where = witness_text(record.witness)
    if where:
        parts.append(f"seen: {where}")
    if record.edit:
        parts.append(f"to accept it, add:\n{record.edit}")
    return "\n".join(parts)


def _printable(text: str) -> str:
    # XML 1.0 has no way to write U+FFFE, U+FFFF and most controls (production Char); printable shows those.
    return re.sub("[\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", printable(text))


def _escape(text: str) -> str:
    # what a program is called must not become markup in somebody's pull request
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!~&@" else c for c in _line(text))


def _html(text: str) -> str:
    # Markdown is read inside of HTML elements, too: what could begin something of either becomes an entity.
    shown = "".join(f"&#{ord(c)};" if c in _MARKUP else c for c in _line(text))
    return f"<code>{shown}</code>"


def _line(text: str) -> str:
    return _printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _code(text: str) -> str:
    plain = _line(text).replace("|", "\\|")
    if not plain.strip():
        return ""
    # A span ends with as many backticks as it began with: one more than any run inside (CommonMark 6.1).
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    return f"{fence}{plain}{fence}" if len(fence) == 1 else f"{fence} {plain} {fence}"


def _block(text: str) -> list[str]:
    # A fence is longer than any run of backticks inside (CommonMark 4.5).
    shown = _printable(text).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return [f"{fence}yaml", shown, fence]
