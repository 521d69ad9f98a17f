"""`autoprofile disassemble`: a raw seccomp filter, from anyone, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli.options import ExistingFile, json_option, output_of, verb

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("disassemble", "Understand", 70)
@click.argument("files", nargs=-1, required=True, type=ExistingFile(), metavar="FILE...")
@json_option
@click.pass_context
def command(ctx: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Show raw seccomp filters as text, with the names of arches, syscalls and actions.

    A raw filter is an array of struct sock_filter, as 'compile --as raw', 'dump --as raw', bwrap --seccomp
    and libseccomp's seccomp_export_bpf have it. FILE may be - for stdin. Filters of big-endian machines are
    recognised; numbers of arches that autoprofile does not know stay numbers.

    \b
      autoprofile disassemble web.bpf
      autoprofile dump --pid 4711 --as raw | autoprofile disassemble -
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.programs import json_of, read_program
    from autoprofile.printable import printable

    output = output_of(ctx)
    programs = [read_program(path, any_byteorder=True) for path in files]
    for path, program in zip(files, programs, strict=True):
        if program.byteorder == "big":
            output.note(f"{path} is for a big-endian machine")
    if as_json:
        output.json(
            "filters",
            {
                "filters": [
                    {
                        **json_of(program),
                        "byteorder": program.byteorder,
                        "file": str(path),
                        "text": program.disassemble().splitlines(),
                    }
                    for path, program in zip(files, programs, strict=True)
                ]
            },
        )
        return
    for number, (path, program) in enumerate(zip(files, programs, strict=True)):
        if len(files) > 1:
            name = printable(str(path)).replace("\n", "\\n")
            output.data(("\n" if number else "") + f"; {name}: {len(program)} instructions\n")
        output.data(program.disassemble())
