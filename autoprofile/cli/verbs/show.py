"""`autoprofile show`: a profile, a trace or an audit log, readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli.options import ExistingFile, json_option, output_of, verb
from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from pathlib import Path

    from autoprofile.cli.output import Output
    from autoprofile.observations import Trace
    from autoprofile.profile import Profile

__all__ = ["command"]


@verb("show", "Understand", 10)
@click.argument("file", type=ExistingFile(), metavar="FILE")
@click.option(
    "--all", "show_all", is_flag=True, help="List every call of a trace, not only the most frequent."
)
@click.option(
    "--unobserved",
    type=click.Choice(["show", "hide", "only", "list"]),
    default="show",
    show_default=True,
    help="Rules of a profile that are there for another reason than that their calls were seen; list groups "
    "them by that reason.",
)
@json_option
@click.pass_context
def command(ctx: click.Context, file: Path, show_all: bool, unobserved: str, as_json: bool) -> None:
    """Show a profile, a trace or an audit log.

    A profile: where it comes from, which calls it allows with which arguments, which of them deserve a second
    look. A trace: which programs made which calls, how often, first when, and how complete its runs are. An
    audit log: what was refused.
    """
    from autoprofile.cli.inputs import kind_of, read_audit_log, read_profile, read_trace
    from autoprofile.report import summary

    output = output_of(ctx)
    kind = kind_of(file)
    title = str(file)
    if kind == "profile" and file.is_file() and file.stat().st_size == 0:
        raise AutoprofileError("an empty file is neither a trace, an audit log nor a profile", where=title)
    if unobserved != "show" and kind != "profile":
        raise click.UsageError("--unobserved is about the rules of a profile", ctx)
    if kind == "trace":
        _show_trace(output, read_trace(file), as_json, title=title, limit=0 if show_all else 40)
    elif kind == "audit":
        log = read_audit_log(file)
        if as_json:
            output.json("audit", summary.audit_document(log))
        else:
            output.data(summary.audit_text(log, output.style(), title=title))
    else:
        _show_profile(output, read_profile(file), unobserved, as_json, title=title)


def _show_trace(output: Output, trace: Trace, as_json: bool, *, title: str, limit: int) -> None:
    from autoprofile.report import summary
    from autoprofile.report.completeness import completeness_text, estimate_of

    estimate = estimate_of(trace)
    if as_json:
        known = {} if estimate is None else {"completeness": estimate.to_dict()}
        output.json("trace", {**summary.trace_document(trace), **known})
        return
    output.data(summary.trace_text(trace, output.style(), title=title, limit=limit))
    if estimate is not None:
        output.data("\n" + completeness_text(estimate, output.style()))


def _show_profile(output: Output, profile: Profile, unobserved: str, as_json: bool, *, title: str) -> None:
    from autoprofile.report import summary
    from autoprofile.report.unobserved import (
        observed_only,
        unobserved_document,
        unobserved_only,
        unobserved_text,
    )

    if unobserved == "list":
        if as_json:
            output.json("unobserved", {"rules": unobserved_document(profile)})
        else:
            output.data(unobserved_text(profile, output.style()))
        return
    chosen = {"show": lambda p: p, "hide": observed_only, "only": unobserved_only}[unobserved](profile)
    if as_json:
        output.json("profile", summary.profile_document(chosen))
        return
    output.data(summary.profile_text(chosen, output.style(), title=title))
    left = len(profile.rules) - len(chosen.rules)
    if left:
        which = "that were not observed" if unobserved == "hide" else "that were observed"
        output.note(f"{left} rules {which} are hidden")
