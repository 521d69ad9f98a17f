"""`autoprofile diff`: what one profile accepts that another does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import ExistingFile, json_option, output_of, verb

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("diff", "Understand", 30)
@click.argument("old", type=ExistingFile(), metavar="OLD")
@click.argument("new", type=ExistingFile(), metavar="NEW")
@click.option("--exit-code", is_flag=True, help="Exit with 3 when the profiles differ.")
@json_option
@click.pass_context
def command(ctx: click.Context, old: Path, new: Path, exit_code: bool, as_json: bool) -> int:
    """Say how NEW differs from OLD: what it widens, what it narrows, what it changes."""
    from autoprofile.cli.inputs import read_profile
    from autoprofile.profile.diff import diff
    from autoprofile.report.summary import diff_text

    output = output_of(ctx)
    changes = diff(read_profile(old), read_profile(new))
    if as_json:
        output.json("diff", {"changes": [change.to_dict() for change in changes]})
    else:
        output.data(diff_text(changes, output.style()))
    return exits.FINDINGS if changes and exit_code else exits.DONE
