"""`autoprofile compile`: the seccomp filter of a profile."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from autoprofile.cli.options import ExistingFile, force_option, json_option, output_of, profile_argument, verb

__all__ = ["command"]


@verb("compile", "Change and convert", 20)
@profile_argument
@click.option("-o", "--output", "target", type=ExistingFile(), help="Write here instead of to stdout.")
@click.option(
    "--as",
    "form",
    type=click.Choice(["asm", "raw", "c"]),
    default="asm",
    show_default=True,
    help="Readable, the bytes the kernel takes (struct sock_filter[]), or a C array.",
)
@force_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, profile: Path, target: Path | None, form: str, force: bool, as_json: bool
) -> None:
    """Compile a profile into the classic-BPF program that the kernel runs at every call.

    \b
      autoprofile compile web.yaml
      autoprofile compile web.yaml --as raw -o web.bpf && bwrap --seccomp 9 9<web.bpf …
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.atomic import write_atomic
    from autoprofile.cli.inputs import read_profile
    from autoprofile.filter import compile_profile

    output = output_of(ctx)
    program = compile_profile(read_profile(profile))
    raw = bytes(program)
    output.detail(f"{len(program)} instructions of 4096")
    if as_json:
        output.json(
            "filter",
            {
                "instructions": [{"code": i.code, "jt": i.jt, "jf": i.jf, "k": i.k} for i in program],
                "length": len(program),
            },
        )
        return
    if form == "raw":
        content = raw
    else:
        from autoprofile.formats.c import c_array

        content = (program.disassemble() if form == "asm" else c_array(program)).encode()
        content = content.rstrip(b"\n") + b"\n"
    if target is not None and target != Path("-"):
        write_atomic(target, content, overwrite=force)
        output.note(f"wrote {target}: {len(program)} instructions")
    elif form == "raw" and sys.stdout.isatty():
        raise click.UsageError("the bytes of a filter do not belong on a terminal: give -o FILE", ctx)
    else:
        output.binary(content)
