"""`autoprofile report`: one HTML page to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli.options import ExistingFile, force_option, output_of, verb
from autoprofile.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("report", "Understand", 50)
@click.argument("file", type=ExistingFile(), metavar="INPUT")
@click.argument("evidence", type=ExistingFile(), nargs=-1, metavar="[EVIDENCE]...")
@click.option(
    "-o", "--output", "target", type=ExistingFile(), required=True, metavar="R.html", help="The page."
)
@force_option
@click.pass_context
def command(ctx: click.Context, file: Path, evidence: tuple[Path, ...], target: Path, force: bool) -> None:
    """Write a page about a profile, a trace, or the drift between a profile and evidence.

    The page is one file without outside assets; it can be mailed or kept.

    \b
      autoprofile report web.yaml -o web.html
      autoprofile report web.parquet -o run.html
      autoprofile report web.yaml monday.parquet web.jsonl -o drift.html
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.atomic import write_atomic
    from autoprofile.cli.inputs import kind_of, read_profile_text, read_trace
    from autoprofile.profile import Profile
    from autoprofile.report import html

    output = output_of(ctx)
    kind = kind_of(file)
    sources = ", ".join(str(path) for path in (file, *evidence))
    if kind in {"profile", "oci"}:
        text, where = read_profile_text(file)
        profile = Profile.loads(text, where)
        if evidence:
            from autoprofile.cli.drifting import compared, read_all

            report = compared(output, profile, read_all(evidence))
            page = html.drift_page(report, profile, source=sources)
        else:
            from autoprofile.lint import lint

            page = html.profile_page(profile, source=sources, findings=lint(profile, text=text).findings)
    elif evidence:
        raise UsageError(f"{file} is no profile", hint="evidence is compared with a profile: name that first")
    elif kind == "trace":
        from autoprofile.report.completeness import estimate_of

        trace = read_trace(file)
        page = html.trace_page(trace, source=sources, completeness=estimate_of(trace))
    else:
        raise UsageError(
            f"{file} is an audit log", hint="compare it with its profile: autoprofile report P.yaml A.jsonl"
        )
    write_atomic(target, page, overwrite=force)
    output.note(f"wrote {target}")
