"""`autoprofile lint`: weaknesses of a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import json_option, output_of, profile_argument, verb

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("lint", "Understand", 40)
@profile_argument
@json_option
@click.option("--sarif", "as_sarif", is_flag=True, help="Print a SARIF log, for code scanning services.")
@click.pass_context
def command(ctx: click.Context, profile: Path, as_json: bool, as_sarif: bool) -> int:
    """Look for ways around a profile; exit with 3 when there are any.

    Finds allowed calls that undo what other rules forbid (clone3 beside checked clone flags, mprotect beside
    W^X on mmap, io_uring beside checked sockets), arches that bypass the rules, and rules that say nothing.
    """
    from autoprofile.cli.app import version_of_this
    from autoprofile.cli.inputs import read_profile
    from autoprofile.lint import lint, sarif
    from autoprofile.report.summary import lint_text

    output = output_of(ctx)
    report = lint(read_profile(profile))
    if as_json and as_sarif:
        raise click.UsageError("--json and --sarif exclude each other", ctx)
    if as_sarif:
        import json

        log = sarif(report, str(profile), version=version_of_this())
        output.data(json.dumps(log, indent=2, sort_keys=True) + "\n")
    elif as_json:
        output.json("lint", report.to_dict())
    else:
        output.data(lint_text(report, output.style()))
    return exits.FINDINGS if report.findings else exits.DONE
