"""`autoprofile prove`: that the compiled filter means exactly what the profile says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import ExistingFile, json_option, output_of, profile_argument, verb

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("prove", "Understand", 60)
@profile_argument
@click.option(
    "--filter", "raw", type=ExistingFile(), help="Prove this raw filter instead of the compiled one."
)
@json_option
@click.pass_context
def command(ctx: click.Context, profile: Path, raw: Path | None, as_json: bool) -> int:
    """Prove that the filter answers every call as the profile says: every arch, number and argument.

    Uses the z3 solver (pip install 'autoprofile[prove]'). Exits with 3 and prints the call when a filter
    answers it differently; that can only be one given with --filter, or a defect of autoprofile.

    \b
      autoprofile prove web.yaml
      autoprofile prove web.yaml --filter web.bpf
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.inputs import read_profile
    from autoprofile.errors import AutoprofileError
    from autoprofile.filter import Program, compile_profile
    from autoprofile.filter.prove import prove

    output = output_of(ctx)
    claimed = read_profile(profile)
    if raw is None:
        program = compile_profile(claimed)
    else:
        try:
            program = Program.from_bytes(raw.read_bytes())
        except OSError as error:
            raise AutoprofileError(f"cannot read: {error.strerror or error}", where=str(raw)) from error
    proof = prove(claimed, program)
    if as_json:
        found = proof.counterexample
        output.json(
            "proof",
            {
                "holds": proof.holds,
                "calls": proof.calls,
                "queries": proof.queries,
                "instructions": len(program),
                "counterexample": None
                if found is None
                else {
                    "arch": found.arch,
                    "nr": found.nr,
                    "args": [f"{value:#x}" for value in found.args],
                    "profile": str(found.profile),
                    "program": str(found.program),
                },
            },
        )
    elif proof.holds:
        output.data(
            f"proven: {len(program)} instructions answer every call as the profile says "
            f"({proof.calls} calls one by one, all other numbers and arches together)\n"
        )
    else:
        output.data(f"refuted: {proof.counterexample}\n")
    return exits.DONE if proof.holds else exits.FINDINGS
