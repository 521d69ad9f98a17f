"""`autoprofile doctor`: what works on this machine, what does not, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import json_option, output_of, verb

if TYPE_CHECKING:
    from autoprofile.cli.machine import Check
    from autoprofile.cli.output import Output

__all__ = ["command"]


@verb("doctor", "This machine", 10)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> int:
    """Say what this machine can do, and how to get the rest.

    Tries things instead of guessing from versions: it installs filters in children, traces `true`, and runs
    tiny 32-bit programs. Exits with 4 when programs cannot be learned or enforced here.
    """
    from autoprofile.cli.machine import checks

    output = output_of(ctx)
    found = list(checks())
    able = all(c.works for c in found if c.essential)
    if as_json:
        output.json("doctor", {"checks": [c.to_dict() for c in found], "able": able})
    else:
        _show(output, found, able)
    return exits.DONE if able else exits.CANNOT


def _show(output: Output, found: list[Check], able: bool) -> None:
    from autoprofile.report.text import TextPage

    page = TextPage(output.style())
    for section in dict.fromkeys(check.section for check in found):
        page.heading(section)
        for check in found:
            if check.section == section:
                mark, style = _mark(check)
                page.table([(mark, check.name.ljust(13), check.found)], styles=(style,))
                if check.how and not check.works:
                    page.line(f"to get it: {check.how}", "cyan", indent=21)
    page.line()
    page.line(
        "programs can be learned and enforced here"
        if able
        else "programs cannot be learned or enforced here: see what is marked NO",
        "bold",
    )
    output.data(page.render())


def _mark(check: Check) -> tuple[str, str]:
    if check.works:
        return "ok", "green"
    return ("NO", "bold red") if check.essential else ("no", "yellow")
