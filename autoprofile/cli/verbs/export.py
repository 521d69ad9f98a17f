"""`autoprofile export`: a profile in another tool's format, and what that format loses of it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from autoprofile.cli.options import ExistingFile, force_option, json_option, output_of, profile_argument, verb

__all__ = ["command"]

FORMATS = ("oci", "kubernetes", "systemd", "minijail", "raw", "c")


@verb("export", "Change and convert", 30)
@profile_argument
@click.option("--to", "form", type=click.Choice(FORMATS), required=True, help="The other tool's format.")
@click.option("-o", "--output", "target", type=ExistingFile(), help="Write here instead of to stdout.")
@click.option("--exact", is_flag=True, help="Fail, writing nothing, unless the format can hold all of it.")
@force_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, profile: Path, form: str, target: Path | None, exact: bool, force: bool, as_json: bool
) -> None:
    """Write a profile for another tool, and say on stderr what that tool cannot hold of it.

    Every difference is listed: widened and added mean that more calls pass than the profile allows; added is
    what the runtime itself needs to start the program. Rules that differ for one reason share a line; -v says
    each by itself. --json prints the report, each by itself, and the document instead.

    \b
      autoprofile export web.yaml --to oci -o web.json
      autoprofile export web.yaml --to systemd -o seccomp.conf
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.atomic import write_atomic
    from autoprofile.cli.inputs import read_profile
    from autoprofile.errors import AutoprofileError
    from autoprofile.formats import export_profile
    from autoprofile.formats.fidelity import grouped
    from autoprofile.formats.launcher import launcher_note

    output = output_of(ctx)
    given = read_profile(profile)
    made = export_profile(given, form)
    lost = [note for note in made.notes if note.effect != "kept"]
    if exact and lost:
        raise AutoprofileError(
            f"{form} differs in {len(lost)} places; the first: {lost[0].subject}: {lost[0].detail}",
            where=str(profile),
            hint="leave out --exact to see all of them",
        )
    if target is not None and target != Path("-"):
        write_atomic(target, made.content, overwrite=force)
        output.note(f"wrote {target}")
    elif as_json:
        pass
    elif form == "raw" and sys.stdout.isatty():
        raise click.UsageError("the bytes of a filter do not belong on a terminal: give -o FILE", ctx)
    else:
        output.binary(made.content)
    if as_json:
        text = made.content.hex() if form == "raw" else made.content.decode()
        notes = [note.to_dict() for note in made.notes]
        output.json("export", {"format": form, "document": text, "notes": notes, "exact": made.is_exact})
        return
    for effect, line, members in grouped(lost):
        # More passes than was asked for, and not for the runtime's sake: that is never silenced.
        say = output.warn if effect in {"widened", "impossible"} else output.note
        say(f"{effect}: {line}")
        if len(members) > 1:
            for note in members:
                output.detail(f"  {note.effect}: {note.subject}: {note.detail}")
    launch = launcher_note(given)
    for note in made.notes:
        if note == launch:
            output.note(f"note: {note.subject}: {note.detail}")
        elif note not in lost:
            output.detail(f"{note.effect}: {note.subject}{': ' + note.detail if note.detail else ''}")
    if not lost:
        output.note("exact: every constraint is kept")
    elif output.verbosity == 0 and len(grouped(lost)) < len(lost):
        output.note("-v lists every rule with what became of it")
