"""`autoprofile prove`: that the compiled filter means exactly what the profile says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import (
    ExistingFile,
    beyond_option,
    json_option,
    output_of,
    profile_argument,
    verb,
)
from autoprofile.cli.programs import enforced, fallback_option

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("prove", "Understand", 60)
@profile_argument
@click.option(
    "--filter",
    "raw",
    type=ExistingFile(),
    multiple=True,
    help="Prove this raw filter instead of the compiled one; several are stacked, the first installed first.",
)
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    default=120,
    show_default=True,
    help="Give up after so many seconds, with status 1. Filters of autoprofile take a few; others may do"
    " arithmetic that is hard to prove.",
)
@beyond_option
@fallback_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    profile: Path,
    raw: tuple[Path, ...],
    timeout: int,
    beyond: str,
    fallback: str,
    as_json: bool,
) -> int:
    """Prove that the filter answers every call as the profile says: every arch, number and argument.

    Uses the z3 solver (pip install 'autoprofile[prove]'). Exits with 3 and prints the call when a filter
    answers it differently; that can only be one given with --filter, or a defect of autoprofile.

    \b
      autoprofile prove web.yaml
      autoprofile prove web.yaml --filter web.bpf
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.inputs import read_profile
    from autoprofile.cli.programs import read_program
    from autoprofile.filter import compile_stack
    from autoprofile.filter.prove import prove

    output = output_of(ctx)
    claimed, newer = enforced(given := read_profile(profile), beyond, fallback)
    programs = tuple(read_program(path) for path in raw) or compile_stack(claimed, beyond=newer)
    end = time.monotonic() + timeout
    proof = prove(claimed, programs, beyond=newer, seconds_left=lambda: end - time.monotonic())
    instructions = sum(len(program) for program in programs)
    if as_json:
        found = proof.counterexample
        output.json(
            "proof",
            {
                "beyond": str(newer or claimed.default),
                "calls": proof.calls,
                "counterexample": None
                if found is None
                else {
                    "arch": found.arch,
                    "nr": found.nr,
                    "args": [f"{value:#x}" for value in found.args],
                    "profile": str(found.profile),
                    "program": str(found.program),
                },
                "fallbacks": len(claimed.rules) - len(given.rules),
                "filters": len(programs),
                "holds": proof.holds,
                "instructions": instructions,
                "queries": proof.queries,
            },
        )
    elif proof.holds:
        stack = f" in {len(programs)} filters" if len(programs) > 1 else ""
        output.data(
            f"proven: {instructions} instructions{stack} answer every call as the profile says "
            f"({proof.calls} calls one by one, all other numbers and arches together"
            + (f"; numbers newer than the profile get {newer}" if newer else "")
            + ("; calls that libc has an older way for get ENOSYS)\n" if claimed is not given else ")\n")
        )
    else:
        output.text(f"refuted: {proof.counterexample}\n")
    return exits.DONE if proof.holds else exits.FINDINGS
