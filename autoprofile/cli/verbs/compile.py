"""`autoprofile compile`: the seccomp filter of a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli.options import ExistingFile, force_option, json_option, output_of, profile_argument, verb
from autoprofile.cli.programs import as_option

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("compile", "Change and convert", 20)
@profile_argument
@click.option("-o", "--output", "target", type=ExistingFile(), help="Write here instead of to stdout.")
@as_option
@force_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, profile: Path, target: Path | None, form: str | None, force: bool, as_json: bool
) -> None:
    """Compile a profile into the classic-BPF program that the kernel runs at every call.

    \b
      autoprofile compile web.yaml
      autoprofile compile web.yaml -o web.bpf && bwrap --seccomp 9 9<web.bpf …
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.inputs import read_profile
    from autoprofile.cli.programs import form_for, json_of, write_programs
    from autoprofile.filter import compile_profile

    output = output_of(ctx)
    form = form_for(form, target)
    program = compile_profile(read_profile(profile))
    output.detail(f"{len(program)} instructions of 4096")
    if as_json:
        output.json("filter", json_of(program))
        return
    write_programs([program], form, target, output=output, force=force, ctx=ctx)
