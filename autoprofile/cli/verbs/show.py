"""`autoprofile show`: a profile, a trace or an audit log, readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli.options import ExistingFile, json_option, output_of, verb

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("show", "Understand", 10)
@click.argument("file", type=ExistingFile(), metavar="FILE")
@click.option(
    "--all", "show_all", is_flag=True, help="List every call of a trace, not only the most frequent."
)
@json_option
@click.pass_context
def command(ctx: click.Context, file: Path, show_all: bool, as_json: bool) -> None:
    """Show a profile, a trace or an audit log.

    A profile: where it comes from, which calls it allows with which arguments, which of them deserve a second
    look. A trace: which programs made which calls, how often, first when. An audit log: what was refused.
    """
    from autoprofile.cli.inputs import kind_of, read_audit_log, read_profile, read_trace
    from autoprofile.report import summary

    output = output_of(ctx)
    kind = kind_of(file)
    title = str(file)
    if kind == "trace":
        trace = read_trace(file)
        if as_json:
            output.json("trace", summary.trace_document(trace))
        else:
            output.data(summary.trace_text(trace, output.style(), title=title, limit=0 if show_all else 40))
    elif kind == "audit":
        log = read_audit_log(file)
        if as_json:
            output.json("audit", summary.audit_document(log))
        else:
            output.data(summary.audit_text(log, output.style(), title=title))
    else:
        profile = read_profile(file)
        if as_json:
            output.json("profile", summary.profile_document(profile))
        else:
            output.data(summary.profile_text(profile, output.style(), title=title))
