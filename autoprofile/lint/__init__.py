"""Lint: weaknesses of a profile, found by a registry of small checks.

`lint` runs them and returns a `LintReport`; nothing here prints, changes a profile or looks at the machine.
"""

from __future__ import annotations

from autoprofile.lint.finding import LINT_SCHEMA_VERSION, SEVERITIES, Finding, LintReport
from autoprofile.lint.registry import CHECKS, lint
from autoprofile.lint.sarif import sarif
from autoprofile.lint.subject import kernel_version

__all__ = [
    "CHECKS",
    "LINT_SCHEMA_VERSION",
    "SEVERITIES",
    "Finding",
    "LintReport",
    "kernel_version",
    "lint",
    "sarif",
]
