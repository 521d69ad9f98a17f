"""`autoprofile drift`: how later behaviour differs from a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import ExistingFile, Number, json_option, output_of, profile_argument, verb

if TYPE_CHECKING:
    from pathlib import Path

    from autoprofile.drift import DriftReport

__all__ = ["command"]

_CAUSES = ("high", "medium", "low", "info", "new-behaviour")


@verb("drift", "Learn and enforce", 30)
@profile_argument
@click.argument("evidence", type=ExistingFile(), nargs=-1, required=True, metavar="EVIDENCE...")
@click.option(
    "--fail-on",
    type=click.Choice(_CAUSES),
    default=("info",),
    show_default=True,
    multiple=True,
    help="Exit with 3 only for drift this severe or more; new-behaviour: for refused calls that no rebuilt"
    " program, library or kernel explains. Repeatable.",
)
@click.option(
    "--ignore-unused", is_flag=True, help="Do not count rules that the evidence never used as drift."
)
@click.option(
    "--unused-days",
    type=Number(min=0, min_open=True),
    metavar="N",
    help="Report a rule as unused only when the traces of the last N days did not use it.",
)
@click.option(
    "--reviewed",
    type=ExistingFile(),
    metavar="FILE",
    help="Verdicts of `review`; without it those beside PROFILE, PROFILE.review.json.",
)
@click.option("--all", "show_all", is_flag=True, help="Report also what `review` has settled.")
@json_option
@click.option("--sarif", "form", flag_value="sarif", help="Print SARIF, for code scanning services.")
@click.option("--junit", "form", flag_value="junit", help="Print JUnit XML, for build servers.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown, for pull requests.")
@click.pass_context
def command(
    ctx: click.Context,
    profile: Path,
    evidence: tuple[Path, ...],
    fail_on: tuple[str, ...],
    ignore_unused: bool,
    unused_days: float | None,
    reviewed: Path | None,
    show_all: bool,
    as_json: bool,
    form: str | None,
) -> int:
    """Compare a profile with later behaviour; exit with 3 on drift.

    EVIDENCE is any number of traces (`learn --trace`), audit logs (`enforce --audit`) and other profiles.
    Each difference comes with its arguments, the program and code location where they are known, why it is
    one, and the smallest edit that would accept it. What `review` has settled is left out.

    \b
      autoprofile enforce web.yaml --on-violation notify --audit web.jsonl -- ./web
      autoprofile drift web.yaml web.jsonl
      autoprofile drift web.yaml web.jsonl --fail-on high --sarif > drift.sarif
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.drifting import compared, read_all, read_reviewed, review_file
    from autoprofile.cli.inputs import read_profile
    from autoprofile.report.ci import fails
    from autoprofile.report.facts import counted
    from autoprofile.report.summary import drift_text

    output = output_of(ctx)
    failing = ",".join(fail_on)
    if as_json and form:
        raise click.UsageError(f"--json and --{form} exclude each other", ctx)
    if reviewed is not None and not reviewed.is_file():
        raise click.UsageError(f"--reviewed: there is no file {reviewed}", ctx)
    allowed = read_profile(profile)
    report = compared(
        output, allowed, read_all(evidence), ignore_unused=ignore_unused, unused_days=unused_days
    )
    if not show_all:
        report = read_reviewed(reviewed or review_file(profile)).without_settled(report)
    if report.settled:
        left_out = counted(len(report.settled), "difference")
        output.note(f"{left_out} settled by review left out; --all shows them")
    if as_json:
        output.json("drift", report.to_dict())
    elif form:
        output.data(_rendered(report, form, str(profile), failing))
    else:
        output.data(drift_text(report, output.style()))
    return exits.FINDINGS if any(fails(record, failing) for record in report) else exits.DONE


def _rendered(report: DriftReport, form: str, name: str, fail_on: str) -> str:
    from autoprofile.report.ci import drift_junit, drift_markdown, drift_sarif

    if form == "sarif":
        import json

        from autoprofile.cli.app import version_of_this

        log = drift_sarif(report, name, version=version_of_this())
        return json.dumps(log, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    render = drift_junit if form == "junit" else drift_markdown
    return render(report, name, fail_on=fail_on)
