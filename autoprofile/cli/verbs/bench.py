"""`autoprofile bench`: what a profile's filter costs on this machine, and each of its constraints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli.options import json_option, output_of, profile_argument, verb

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]

_NOISE = 0.05  # of the references; above it, what tells filters apart is lost


@verb("bench", "Understand", 65)
@profile_argument
@click.option(
    "--kernel",
    type=click.Choice(["newer", "older"]),
    help="Lay the filter out for Linux 5.11 and newer, which answers what is always allowed from a bitmap, or"
    " for older ones, where every call counts. Else for this kernel.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 10_000),
    default=15,
    show_default=True,
    help="Time everything so often; the least counts.",
)
@click.option("--no-timing", is_flag=True, help="Count instructions only.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, profile: Path, kernel: str | None, rounds: int, no_timing: bool, as_json: bool
) -> None:
    """Measure what the filter costs per call, and what each constraint costs.

    Counts the instructions a call executes, weighted by how often the profile saw it, and times calls on this
    machine, beside no filter, the smallest filter that could check a call, and libseccomp's (where it is
    installed). No call of the program is made for real but those that do nothing.

    \b
      autoprofile bench web.yaml
      autoprofile bench web.yaml --no-timing --kernel older
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.benching import json_of_bench, text_of_bench
    from autoprofile.cli.inputs import read_profile
    from autoprofile.enforce.bench import BITMAP_SINCE, compare_filters, time_filters
    from autoprofile.kernel import kernel_release

    output = output_of(ctx)
    bitmap = kernel_release() >= BITMAP_SINCE if kernel is None else kernel == "newer"
    compared = compare_filters(read_profile(profile), bitmap=bitmap)
    for fault in compared.faults:
        output.warn(fault, "its filter is left out of the comparison")
    timing = None
    if not no_timing:
        line = output.progress()
        timing = time_filters(
            compared, rounds=rounds, progress=lambda done, of: line.update(f"timing: round {done} of {of}")
        )
        line.clear()
        if timing.noise > _NOISE:
            output.warn(
                f"the machine was busy: the same calls took {timing.noise:.0%} longer at other times",
                "run it again when it is quieter, or with more --rounds",
            )
    if as_json:
        output.json("bench", json_of_bench(compared, timing))
    else:
        output.data(text_of_bench(output.style(), compared, timing))
