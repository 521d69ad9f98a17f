"""`autoprofile review`: walk through drift, decide each difference, write the profile that comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import ExistingFile, json_option, output_of, profile_argument, verb

if TYPE_CHECKING:
    from pathlib import Path

    from autoprofile.cli.reviewing import Session
    from autoprofile.drift import DriftRecord

__all__ = ["command"]

_SEVERITIES = ("high", "medium", "low")


@verb("review", "Learn and enforce", 33)
@profile_argument
@click.argument("evidence", type=ExistingFile(), nargs=-1, required=True, metavar="EVIDENCE...")
@click.option(
    "--accept",
    "accepted",
    multiple=True,
    metavar="ID",
    help="Accept this difference, ask nothing; repeatable.",
)
@click.option(
    "--accept-below",
    type=click.Choice(_SEVERITIES),
    metavar="SEVERITY",
    help="Accept every refused call less severe than high, medium or low, ask nothing; not those whose"
    " arguments the evidence does not hold.",
)
@click.option(
    "--deny",
    "denied",
    multiple=True,
    metavar="ID[=ERRNO]",
    help="Deny this call with EPERM or ERRNO, ask nothing.",
)
@click.option(
    "--keep", "kept", multiple=True, metavar="ID", help="Report this difference no more, ask nothing."
)
@click.option("--why", default="", metavar="TEXT", help="Note this beside each verdict.")
@click.option("--who", metavar="NAME", help="Who decides; without it the name of the user.")
@click.option("--dry-run", is_flag=True, help="Show how the profile would change; write nothing.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    profile: Path,
    evidence: tuple[Path, ...],
    accepted: tuple[str, ...],
    accept_below: str | None,
    denied: tuple[str, ...],
    kept: tuple[str, ...],
    why: str,
    who: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Decide drift one by one, and write the profile that comes of it.

    Shows each difference, grouped by program, and asks: accept exactly this call, generalise it as level
    standard would, deny it with an errno, keep things as they are and report it no more, skip, or explain.
    Every answer is written at once, comments in the profile are kept, and the next review goes on where
    this one ended. The verdicts stand in PROFILE.review.json, with who, when and why. Exits with 3 while
    differences are undecided.

    \b
      autoprofile review web.yaml web.jsonl
      autoprofile review web.yaml web.jsonl --accept-below medium
      autoprofile review web.yaml web.jsonl --accept D1f00ba4c0de5 --why "new TLS library"
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.drifting import read_all
    from autoprofile.cli.reviewing import Session, walk

    output = output_of(ctx)
    for text in denied:
        _check_errno(text.partition("=")[2])
    session = Session(output, profile, read_all(evidence), who=who, why=why, dry_run=dry_run)
    if accepted or accept_below or denied or kept:
        _decide(session, accepted, accept_below, denied, kept)
    elif not as_json:
        walk(session)
    if as_json:
        output.json("review", session.to_dict())
    else:
        output.text(session.summary())
    return exits.FINDINGS if session.open_records() else exits.DONE


def _check_errno(errno: str) -> None:
    from autoprofile.errors import AutoprofileError, UsageError
    from autoprofile.profile import Action

    try:
        Action.errno(errno or "EPERM")
    except AutoprofileError as error:
        raise UsageError(f"--deny: {error.what}", hint=error.hint) from error


def _decide(
    session: Session,
    accepted: tuple[str, ...],
    accept_below: str | None,
    denied: tuple[str, ...],
    kept: tuple[str, ...],
) -> None:
    from autoprofile.drift.record import DENIALS, SEVERITIES

    wanted: list[tuple[DriftRecord, str, str]] = [(session.find(id_), "accept", "") for id_ in accepted]
    for text in denied:
        id_, _, errno = text.partition("=")
        wanted.append((session.find(id_), "deny", errno or "EPERM"))
    wanted += [(session.find(id_), "keep", "") for id_ in kept]
    if accept_below:
        limit = SEVERITIES.index(accept_below)
        named = {record.id for record, _, _ in wanted}
        wanted += [
            (record, "accept", "")
            for record in session.open_records()
            if record.kind in DENIALS
            and SEVERITIES.index(record.severity) > limit
            and not record.is_guess
            and record.id not in named
        ]
        guesses = sum(
            record.is_guess and SEVERITIES.index(record.severity) > limit and record.id not in named
            for record in session.open_records()
        )
        if guesses:
            session.output.warn(
                f"{guesses} left alone: the evidence does not hold their arguments",
                "accept them by their ids to allow all arguments",
            )
    seen: dict[str, str] = {}
    for record, verdict, _ in wanted:
        if seen.setdefault(record.id, verdict) != verdict:
            raise click.UsageError(f"{record.id} is given two verdicts, {seen[record.id]} and {verdict}")
    session.decide_all(wanted)
