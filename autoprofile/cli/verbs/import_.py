"""`autoprofile import`: another tool's profile as one of ours."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from autoprofile.cli.options import ExistingFile, force_option, output_of, verb

__all__ = ["command"]

FORMATS = ("oci", "kubernetes")


@verb("import", "Change and convert", 40)
@click.argument("document", type=ExistingFile(), metavar="FILE")
@click.option(
    "--from", "form", type=click.Choice(FORMATS), default="oci", show_default=True, help="Its format."
)
@click.option("--cap", "caps", multiple=True, metavar="CAP_X", help="A capability the container has (oci).")
@click.option("-o", "--output", "target", type=ExistingFile(), help="Write here instead of to stdout.")
@force_option
@click.pass_context
def command(
    ctx: click.Context, document: Path, form: str, caps: tuple[str, ...], target: Path | None, force: bool
) -> None:
    """Read a seccomp profile of another tool, so that it can be shown, decided, linted and compared.

    It means what the runtimes of that format make of it, which is not always what it reads like; where the
    two differ, a warning says so.

    \b
      autoprofile import docker-default.json -o docker.yaml
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.errors import AutoprofileError
    from autoprofile.formats import import_profile
    from autoprofile.formats.oci import import_oci

    output = output_of(ctx)
    try:
        text = sys.stdin.read() if document == Path("-") else document.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise AutoprofileError(f"cannot read: {error}", where=str(document)) from error
    where = str(document)
    made = import_oci(text, where, caps=caps) if form == "oci" else import_profile(text, form, where)
    for note in made.notes:
        say = output.detail if note.effect == "kept" else output.warn
        say(f"{note.effect}: {note.subject}: {note.detail}")
    if target is None or target == Path("-"):
        output.data(made.profile.dumps())
    else:
        made.profile.save(target, overwrite=force)
        output.note(f"wrote {target}: {len(made.profile.rules)} rules")
