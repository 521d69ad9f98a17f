"""`autoprofile merge`: one profile that accepts what any of several accepts."""

from __future__ import annotations

from pathlib import Path

import click

from autoprofile.cli.options import ExistingFile, force_option, json_option, output_of, verb

__all__ = ["command"]


@verb("merge", "Change and convert", 10)
@click.argument("profiles", type=ExistingFile(), nargs=-1, required=True, metavar="PROFILE...")
@click.option("-o", "--output", "target", type=ExistingFile(), help="Write here instead of to stdout.")
@force_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, profiles: tuple[Path, ...], target: Path | None, force: bool, as_json: bool
) -> None:
    """Unite profiles: the result accepts every call that any of them accepts.

    Evidence is added up, runs are kept apart. The result widens each of its inputs; `autoprofile diff` shows
    by what. Where the exact union of a syscall would take more than 256 rules, a shorter and wider one is
    used, and a warning names it. --json tells the same of a profile written with -o.
    """
    from autoprofile.cli.histories import record_if_kept
    from autoprofile.cli.inputs import read_profile
    from autoprofile.profile.merge import Widening, merge_noting

    output = output_of(ctx)
    if len(profiles) < 2:
        raise click.UsageError("merging takes at least two profiles", ctx)
    to_stdout = target is None or target == Path("-")
    if as_json and to_stdout:
        raise click.UsageError("--json tells what was written: name the file with -o", ctx)
    first, *others = [read_profile(path) for path in profiles]
    united, widenings = first, list[Widening]()
    for other in others:
        merged = merge_noting(united, other)
        united = merged.profile
        widenings += merged.widenings
    widenings = list(dict.fromkeys(widenings))
    for widening in widenings:
        output.warn(str(widening))
    if to_stdout:
        output.data(united.dumps())
        return
    assert target is not None
    united.save(target, overwrite=force)
    record_if_kept(target, united, why="merge: " + ", ".join(str(path) for path in profiles))
    output.note(f"wrote {target}: {len(united.rules)} rules")
    if as_json:
        output.json(
            "merge",
            {
                "inputs": [str(path) for path in profiles],
                "output": str(target),
                "rules": len(united.rules),
                "widened": [widening.to_dict() for widening in widenings],
            },
        )
