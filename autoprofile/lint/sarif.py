"""Findings as SARIF 2.1.0, the format that code hosts and editors read.

In: a report and the file it is about. Out: one JSON document; severities map to SARIF's levels. Drift uses
the same frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoprofile.lint.finding import Finding, LintReport

__all__ = ["LEVELS", "sarif", "sarif_log"]

LEVELS = {"high": "error", "medium": "warning", "low": "note", "info": "note"}
"""SARIF's level of each severity."""


def sarif(
    report: LintReport, uri: str, *, version: str, lines: Mapping[str, int] | None = None
) -> dict[str, object]:
    """Return the SARIF log of a report.

    Args:
        report: the findings.
        uri: where the profile lies, relative to the repository.
        version: of autoprofile.
        lines: of the entries of calls in that file, from 1; a finding points at its call's.
    """
    titles = {f.id: f.title for f in report.findings}
    results = [
        {
            "ruleId": f.id,
            "level": LEVELS[f.severity],
            "message": {"text": f"{f.detail}. Remedy: {f.remedy}."},
            "locations": [{"physicalLocation": _place(uri, f, lines or {})}],
            "partialFingerprints": {"autoprofile/v1": f.fingerprint},
        }
        for f in report.findings
    ]
    return sarif_log(titles, results, version=version)


def sarif_log(
    titles: Mapping[str, str], results: Sequence[Mapping[str, object]], *, version: str
) -> dict[str, object]:
    """Return a SARIF log around results.

    Args:
        titles: of the rules that results refer to, by rule id.
        results: ``result`` objects, section 3.27 of the standard.
        version: of autoprofile.
    """
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "autoprofile",
                        "version": version,
                        "rules": [
                            {"id": id_, "shortDescription": {"text": titles[id_]}} for id_ in sorted(titles)
                        ],
                    }
                },
                "results": list(results),
            }
        ],
    }


def _place(uri: str, finding: Finding, lines: Mapping[str, int]) -> dict[str, object]:
    place: dict[str, object] = {"artifactLocation": {"uri": uri}}
    line = next((lines[call] for call in finding.syscalls if call in lines), None)
    if line is not None:
        place["region"] = {"startLine": line}
    return place
