"""`autoprofile compile`: the seccomp filter of a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli.options import (
    ExistingFile,
    beyond_option,
    force_option,
    json_option,
    output_of,
    profile_argument,
    verb,
)
from autoprofile.cli.programs import as_option, enforced, fallback_option

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("compile", "Change and convert", 20)
@profile_argument
@click.option("-o", "--output", "target", type=ExistingFile(), help="Write here instead of to stdout.")
@as_option
@click.option(
    "--kernel",
    type=click.Choice(["newer", "older"]),
    default="newer",
    show_default=True,
    help="Linux 5.11 and newer answer calls that are always allowed from a bitmap; older ones run the filter"
    " for all, so for them all calls weigh. It changes the order of tests, not their meaning.",
)
@beyond_option
@fallback_option
@force_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    profile: Path,
    target: Path | None,
    form: str | None,
    kernel: str,
    beyond: str,
    fallback: str,
    force: bool,
    as_json: bool,
) -> None:
    """Compile a profile into the classic-BPF program that the kernel runs at every call.

    A profile too large for one filter (4096 instructions) is split over several that mean the same together:
    raw ones go to numbered files (web.1.bpf, web.2.bpf), to be installed in that order. Older files under any
    of these names are in the way; --force replaces or removes them.

    \b
      autoprofile compile web.yaml
      autoprofile compile web.yaml -o web.bpf && bwrap --seccomp 9 9<web.bpf …

    bwrap and other launchers execute the program under its filter, so for them the profile has to allow
    execve ('execve: any' under 'syscalls:'); a learned one does only where the program executes others.
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.inputs import read_profile
    from autoprofile.cli.programs import form_for, json_of, refuse_target_with_json, write_programs
    from autoprofile.filter import compile_stack
    from autoprofile.formats.launcher import launcher_note

    output = output_of(ctx)
    if as_json:
        refuse_target_with_json(ctx, target)
    form = form_for(form, target)
    given, newer = enforced(read_profile(profile), beyond, fallback)
    programs = compile_stack(given, beyond=newer, bitmap=kernel == "newer")
    output.detail(" and ".join(f"{len(program)} instructions of 4096" for program in programs))
    if len(programs) > 1:
        output.note(
            f"too large for one filter: {len(programs)} are to be stacked, in the order of their numbers"
        )
    if as_json:
        # The last filter has the default; `filters` are all, in the order of installation.
        output.json("filter", {**json_of(programs[-1]), "filters": [json_of(p) for p in programs]})
        return
    write_programs(programs, form, target, output=output, force=force, ctx=ctx, profile=given)
    if form != "asm" and (launch := launcher_note(given)) is not None:
        output.note(f"note: {launch.subject}: {launch.detail}")
