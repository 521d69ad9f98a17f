"""`autoprofile drift`: how later behaviour differs from a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import ExistingFile, json_option, output_of, profile_argument, verb

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("drift", "Learn and enforce", 30)
@profile_argument
@click.argument("evidence", type=ExistingFile(), nargs=-1, required=True, metavar="EVIDENCE...")
@click.option(
    "--ignore-unused", is_flag=True, help="Do not count rules that the evidence never used as drift."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, profile: Path, evidence: tuple[Path, ...], ignore_unused: bool, as_json: bool
) -> int:
    """Compare a profile with traces and audit logs; exit with 3 on drift.

    EVIDENCE is any number of traces (`learn --trace`) and audit logs (`enforce --audit`). Each difference
    comes with its arguments, the program and code location where they are known, why it is one, and the
    smallest edit that would accept it.

    \b
      autoprofile enforce web.yaml --on-violation notify --audit web.jsonl -- ./web
      autoprofile drift web.yaml web.jsonl
    """  # noqa: D301 - \b is click's own mark
    from dataclasses import replace

    from autoprofile.cli.inputs import read_evidence, read_profile
    from autoprofile.drift import compare
    from autoprofile.report.summary import drift_text

    output = output_of(ctx)
    allowed = read_profile(profile)
    traces, audits = read_evidence(evidence)
    report = compare(allowed, traces, audits)
    if ignore_unused:
        report = replace(report, records=tuple(r for r in report if r.kind != "unused_rule"))
    if as_json:
        output.json("drift", report.to_dict())
    else:
        output.data(drift_text(report, output.style()))
    return exits.FINDINGS if len(report) else exits.DONE
