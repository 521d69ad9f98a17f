"""`autoprofile lint`: weaknesses of a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import ExistingFile, json_option, output_of, profile_argument, verb

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("lint", "Understand", 40)
@profile_argument
@click.option("--kernel", metavar="VERSION", help="The kernel that will enforce it, as `uname -r` says.")
@click.option(
    "--evidence",
    type=ExistingFile(),
    multiple=True,
    metavar="T.parquet",
    help="A trace of later runs: name the rules that they did not use. May be repeated.",
)
@click.option("--check", "only", multiple=True, metavar="NAME", help="Run this check alone; may be repeated.")
@click.option(
    "--fail-on",
    type=click.Choice(["high", "medium", "low", "info"]),
    default="info",
    show_default=True,
    help="Exit with 3 for findings of this severity and above.",
)
@json_option
@click.option("--sarif", "as_sarif", is_flag=True, help="Print a SARIF log, for code scanning services.")
@click.pass_context
def command(
    ctx: click.Context,
    profile: Path,
    kernel: str | None,
    evidence: tuple[Path, ...],
    only: tuple[str, ...],
    fail_on: str,
    as_json: bool,
    as_sarif: bool,
) -> int:
    """Look for ways around a profile; exit with 3 when there are any.

    Finds allowed calls that undo what other rules forbid (clone3 beside checked clone flags, mprotect beside
    W^X on mmap, io_uring beside checked sockets), arches that bypass the rules, answers that the program can
    turn itself, rules that contradict or shadow each other or say nothing, and dangerous calls beside which
    nobody wrote why they are needed: a comment above such a call or on its line is the answer.

    \b
      autoprofile lint web.yaml --kernel 5.10
      autoprofile lint web.yaml --evidence last-week.parquet
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.app import version_of_this
    from autoprofile.cli.inputs import read_profile_text, read_traces
    from autoprofile.lint import SEVERITIES, kernel_version, lint, sarif
    from autoprofile.lint.comments import lines_of_calls
    from autoprofile.profile import Profile
    from autoprofile.report.summary import lint_text

    output = output_of(ctx)
    if as_json and as_sarif:
        raise click.UsageError("--json and --sarif exclude each other", ctx)
    text, where = read_profile_text(profile)
    report = lint(
        Profile.loads(text, where),
        only=only or None,
        text=text,
        kernel=None if kernel is None else kernel_version(kernel),
        traces=read_traces(evidence),
    )
    if as_sarif:
        import json

        log = sarif(report, str(profile), version=version_of_this(), lines=lines_of_calls(text))
        output.data(json.dumps(log, indent=2, sort_keys=True) + "\n")
    elif as_json:
        output.json("lint", report.to_dict())
    else:
        output.data(lint_text(report, output.style()))
    counted = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    return exits.FINDINGS if any(f.severity in counted for f in report) else exits.DONE
