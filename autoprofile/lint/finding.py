"""What a check finds: a record with an id, a severity and a remedy; text, JSON and SARIF render it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LINT_SCHEMA_VERSION", "SEVERITIES", "Finding", "LintReport"]

LINT_SCHEMA_VERSION = 1

SEVERITIES = ("high", "medium", "low", "info")


@dataclass(frozen=True, slots=True)
class Finding:
    """Describe one weakness of a profile.

    Args:
        id: of the check that found it.
        severity: one of `SEVERITIES`.
        title: one line, without the particulars.
        detail: what it is about in this profile, with a witness call where there is one.
        syscalls: the calls concerned, sorted.
        remedy: what to do about it.
        arch: the arch it holds for; None when it is about the profile as a whole.
    """

    id: str
    severity: str
    title: str
    detail: str
    syscalls: tuple[str, ...]
    remedy: str
    arch: str | None = None

    @property
    def fingerprint(self) -> str:
        """A stable name of this very finding: the check, the arch and the calls, not the wording."""
        text = repr((self.id, self.arch, self.syscalls))
        return "L" + hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "id": self.id,
            "fingerprint": self.fingerprint,
            "severity": self.severity,
            "title": self.title,
            "detail": self.detail,
            "syscalls": list(self.syscalls),
            "remedy": self.remedy,
            "arch": self.arch,
        }


@dataclass(frozen=True, slots=True)
class LintReport:
    """Hold the findings, most severe first, and say which checks ran.

    Args:
        findings: in a fixed order.
        checks: ids of the checks that ran.
    """

    findings: tuple[Finding, ...]
    checks: tuple[str, ...]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """The number of findings of each severity, all severities named."""
        return {s: sum(f.severity == s for f in self.findings) for s in SEVERITIES}

    def to_dict(self) -> dict[str, object]:
        """Return the JSON document of ``lint --json``."""
        return {
            "schema_version": LINT_SCHEMA_VERSION,
            "checks": list(self.checks),
            "counts": self.counts,
            "findings": [f.to_dict() for f in self.findings],
        }
