"""`autoprofile merge`: one profile that accepts what any of several accepts."""

from __future__ import annotations

from pathlib import Path

import click

from autoprofile.cli.options import ExistingFile, force_option, output_of, verb

__all__ = ["command"]


@verb("merge", "Change and convert", 10)
@click.argument("profiles", type=ExistingFile(), nargs=-1, required=True, metavar="PROFILE...")
@click.option("-o", "--output", "target", type=ExistingFile(), help="Write here instead of to stdout.")
@force_option
@click.pass_context
def command(ctx: click.Context, profiles: tuple[Path, ...], target: Path | None, force: bool) -> None:
    """Unite profiles: the result accepts every call that any of them accepts.

    Evidence is added up. The result widens each of its inputs; `autoprofile diff` shows by what.
    """
    from functools import reduce

    from autoprofile.cli.inputs import read_profile
    from autoprofile.profile.merge import merge

    output = output_of(ctx)
    if len(profiles) < 2:
        raise click.UsageError("merging takes at least two profiles", ctx)
    united = reduce(merge, [read_profile(path) for path in profiles])
    if target is None or target == Path("-"):
        output.data(united.dumps())
    else:
        united.save(target, overwrite=force)
        output.note(f"wrote {target}")
