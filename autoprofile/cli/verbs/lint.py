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
@click.pass_context
def command(ctx: click.Context, profile: Path, as_json: bool) -> int:
    """Look for ways around a profile; exit with 3 when there are any.

    Finds allowed calls that undo what other rules forbid (clone3 beside checked clone flags, mprotect beside
    W^X on mmap, io_uring beside checked sockets), arches that bypass the rules, and rules that say nothing.
    """
    from autoprofile.cli.inputs import read_profile
    from autoprofile.lint import lint
    from autoprofile.report.summary import lint_text

    output = output_of(ctx)
    report = lint(read_profile(profile))
    if as_json:
        output.json("lint", report.to_dict())
    else:
        output.data(lint_text(report, output.style()))
    return exits.FINDINGS if report.findings else exits.DONE
