"""`autoprofile import`: another tool's profile as one of ours."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import click

from autoprofile.cli.options import ExistingFile, force_option, output_of, verb
from autoprofile.errors import UsageError

__all__ = ["command"]

FORMATS = ("oci", "kubernetes")


@verb("import", "Change and convert", 40)
@click.argument("document", type=ExistingFile(), metavar="FILE")
@click.option(
    "--from", "form", type=click.Choice(FORMATS), default="oci", show_default=True, help="Its format."
)
@click.option("--cap", "caps", multiple=True, metavar="CAP_X", help="A capability the container has (oci).")
@click.option("--arch", metavar="ARCH", help="Of the machine it is for; default this one (oci).")
@click.option("--kernel", metavar="VERSION", help="Of the machine it is for; default a recent one (oci).")
@click.option("-o", "--output", "target", type=ExistingFile(), help="Write here instead of to stdout.")
@force_option
@click.pass_context
def command(
    ctx: click.Context,
    document: Path,
    form: str,
    caps: tuple[str, ...],
    arch: str | None,
    kernel: str | None,
    target: Path | None,
    force: bool,
) -> None:
    """Read a seccomp profile of another tool, so that it can be shown, decided, linted and compared.

    It means what the runtimes of that format make of it, which is not always what it reads like; where the
    two differ, a warning says so. Docker's and Podman's profiles hold entries for some capabilities, arches
    and kernels only; those apply that are named here.

    \b
      autoprofile import /usr/share/containers/seccomp.json -o podman.yaml
      autoprofile import docker-default.json --cap CAP_SYS_ADMIN | autoprofile show -
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.errors import AutoprofileError
    from autoprofile.formats import import_profile
    from autoprofile.formats.oci import import_oci

    output = output_of(ctx)
    try:
        text = sys.stdin.read() if document == Path("-") else document.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise AutoprofileError(f"cannot read: {error}", where=str(document)) from error
    where = "<stdin>" if document == Path("-") else str(document)
    if form == "oci":
        version = None if kernel is None else _version(kernel)
        made = import_oci(text, where, caps=_named(caps), arch=arch or _native(), kernel=version)
    elif caps or arch or kernel:
        raise click.UsageError("--cap, --arch and --kernel are for --from oci", ctx)
    else:
        made = import_profile(text, form, where)
    for note in made.notes:
        say = output.detail if note.effect == "kept" else output.warn
        say(f"{note.effect}: {note.subject}: {note.detail}")
    if target is None or target == Path("-"):
        output.data(made.profile.dumps())
    else:
        made.profile.save(target, overwrite=force)
        output.note(f"wrote {target}: {len(made.profile.rules)} rules")


def _native() -> str:
    from autoprofile.abi.arch import arch_from_machine

    return arch_from_machine(os.uname().machine)


def _named(caps: tuple[str, ...]) -> list[str]:
    # Runtimes spell them CAP_SYS_ADMIN; `docker run --cap-add` takes sys_admin too.
    return [cap.upper() if cap.upper().startswith("CAP_") else f"CAP_{cap.upper()}" for cap in caps]


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d{1,4})\.(\d{1,4})", text)
    if match is None:
        raise UsageError(f"--kernel: {text!r} is no kernel version", hint="write it as 5.10")
    return int(match[1]), int(match[2])
