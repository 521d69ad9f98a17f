"""Findings as SARIF 2.1.0, the format that code hosts and editors read.

In: a report and the file it is about. Out: one JSON document; severities map to SARIF's levels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoprofile.lint.finding import LintReport

__all__ = ["sarif"]

_LEVEL = {"high": "error", "medium": "warning", "low": "note", "info": "note"}


def sarif(report: LintReport, uri: str, *, version: str) -> dict[str, object]:
    """Return the SARIF log of a report.

    Args:
        report: the findings.
        uri: where the profile lies, relative to the repository.
        version: of autoprofile.
    """
    titles = {f.id: f.title for f in report.findings}
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
                "results": [
                    {
                        "ruleId": f.id,
                        "level": _LEVEL[f.severity],
                        "message": {"text": f"{f.detail}. Remedy: {f.remedy}."},
                        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}}}],
                        "partialFingerprints": {"autoprofile/v1": f.fingerprint},
                    }
                    for f in report.findings
                ],
            }
        ],
    }
