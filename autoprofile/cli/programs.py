"""Filters as the verbs read and write them: raw bytes, readable text, C source; one, or several stacked.

Several raw filters go to several files, since the bytes of one do not say where the next begins. Their order
is that of installation.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.cli.output import Output
    from autoprofile.filter import Program
    from autoprofile.profile import Action, Profile

__all__ = [
    "FORMS",
    "as_option",
    "enforced",
    "fallback_option",
    "form_for",
    "json_of",
    "older_filters",
    "read_program",
    "refuse_target_with_json",
    "remove_older",
    "write_programs",
]

FORMS = ("asm", "raw", "c")
_STDIO = Path("-")
_FORM_OF_SUFFIX = {
    ".bpf": "raw",
    ".bin": "raw",
    ".raw": "raw",
    ".c": "c",
    ".h": "c",
    ".asm": "asm",
    ".s": "asm",
    ".txt": "asm",
}
_FORM_TEXT = {"asm": "as text", "raw": "as raw bytes", "c": "as C source"}

as_option = click.option(
    "--as",
    "form",
    type=click.Choice(FORMS),
    help="Readable, the bytes the kernel takes (struct sock_filter[]), or a C array. Unless given, the name"
    " of -o decides (.bpf .bin .raw; .c .h; .asm .s .txt), else asm.",
)

fallback_option = click.option(
    "--fallback",
    type=click.Choice(["ENOSYS", "default"]),
    default="ENOSYS",
    show_default=True,
    help="What calls that no rule names and that libc has an older way for (clone3, statx) get where the"
    " default is an errno: ENOSYS, as from 'enforce', so that libc takes that way; or that default.",
)


def enforced(profile: Profile, beyond: str, fallback: str) -> tuple[Profile, Action | None]:
    """Return a profile as `enforce` takes it, but for what ``--beyond`` and ``--fallback`` say otherwise.

    Returns:
        The profile to compile, and the answer to numbers newer than it; None is its default.
    """
    from autoprofile.filter.newer import answer_beyond, with_fallbacks

    taken = with_fallbacks(profile) if fallback == "ENOSYS" else profile
    return taken, answer_beyond(taken) if beyond == "ENOSYS" else None


def refuse_target_with_json(ctx: click.Context, target: Path | None) -> None:
    """Raise a usage error for ``--json -o FILE``: the document goes to stdout, no file would be written."""
    if target is not None and target != _STDIO:
        raise click.UsageError("--json writes its document to stdout, -o a filter: give one of them", ctx)


def form_for(asked: str | None, target: Path | None) -> str:
    """Return the form to write: the one asked for, else what the name of the target says, else ``asm``."""
    if asked is not None:
        return asked
    return "asm" if target is None else _FORM_OF_SUFFIX.get(target.suffix.lower(), "asm")


def write_programs(
    programs: Sequence[Program],
    form: str,
    target: Path | None,
    *,
    output: Output,
    force: bool,
    ctx: click.Context,
    remarks: Sequence[str] = (),
    profile: Profile | None = None,
) -> None:
    """Write programs to a file, to several, or to stdout, and say what was written.

    Args:
        programs: in the order of installation.
        form: one of `FORMS`.
        target: the file; of several raw programs ``NAME.1.EXT``, ``NAME.2.EXT`` and so on.
        output: where messages go.
        force: whether existing files may be replaced, and older filters beside them removed.
        ctx: for usage errors.
        remarks: beside `programs`, what a listing says of each.
        profile: what they were compiled from; a listing shows its rules.

    Raises:
        AutoprofileError: a file exists, or an older filter beside it that its reader could be given in its
            place (`older_filters`), or a file cannot be written; then none of them is left.
    """
    to_stdout = target is None or target == _STDIO
    if to_stdout and form == "raw":
        if len(programs) > 1:
            raise click.UsageError(
                f"{len(programs)} stacked filters do not fit one stream: give -o FILE, which is numbered", ctx
            )
        if sys.stdout.isatty():
            raise click.UsageError("the bytes of a filter do not belong on a terminal: give -o FILE", ctx)
    if form == "raw":
        contents = [bytes(program) for program in programs]
    elif form == "c":
        from autoprofile.formats.c import c_array

        contents = [c_array(*programs).encode()]
    else:
        contents = ["\n".join(_listings(programs, remarks, profile)).encode()]
    if target is None or target == _STDIO:
        for content in contents:
            output.binary(content)
        return
    paths = [target]
    if len(contents) > 1:
        paths = [_numbered(target, n) for n in range(1, len(contents) + 1)]
    older = [path for path in older_filters(target) if path not in paths] if form == "raw" else []
    _write_all(paths, contents, older, force=force)
    for path in older:
        output.note(f"removed {path}, an older filter (--force)")
    if len(paths) > 1:
        for path, program in zip(paths, programs, strict=True):
            output.note(f"wrote {path}: {len(program)} instructions, {_FORM_TEXT[form]}")
    else:
        other = "" if form != "asm" or target.suffix in _FORM_OF_SUFFIX else " (--as raw writes the bytes)"
        output.note(f"wrote {target}: {_size_of(programs)}, {_FORM_TEXT[form]}{other}")


def _size_of(programs: Sequence[Program]) -> str:
    instructions = sum(len(program) for program in programs)
    return f"{instructions} instructions" + (f" in {len(programs)} filters" if len(programs) > 1 else "")


def _listings(programs: Sequence[Program], remarks: Sequence[str], profile: Profile | None) -> list[str]:
    listings = [program.disassemble(profile) for program in programs]
    if len(programs) == 1 and not remarks:
        return listings
    heads = []
    for number, program in enumerate(programs):
        remark = f", {remarks[number]}" if number < len(remarks) and remarks[number] else ""
        place = f"filter {number + 1} of {len(programs)}, in the order of installation"
        heads.append(f"; {place if len(programs) > 1 else 'filter'}: {len(program)} instructions{remark}\n")
    return [head + listing for head, listing in zip(heads, listings, strict=True)]


def _numbered(target: Path, number: int | str) -> Path:
    return target.with_suffix(f".{number}{target.suffix}")


def older_filters(target: Path) -> list[Path]:
    """Return the files that hold, or may be taken for, filters written under a name before.

    These are the file itself, whatever it holds, and those of its numbered siblings that hold a raw filter.
    Whoever reads one of them after another filter was written beside it would install the wrong one.
    """
    found = [target] if target.exists() or target.is_symlink() else []
    start, end = f"{target.stem}.", target.suffix
    with contextlib.suppress(OSError):  # a folder that cannot be listed: writing says why, or works
        for path in sorted(target.parent.iterdir()):
            number = path.name[len(start) : len(path.name) - len(end)]
            if path.name == f"{start}{number}{end}" and number.isdecimal() and _holds_filter(path):
                found.append(path)
    return found


def _holds_filter(path: Path) -> bool:
    from autoprofile.filter import Program

    try:
        if not path.is_file():  # reading anything else might wait for ever
            return False
        Program.from_bytes(path.read_bytes(), None)
    except (OSError, AutoprofileError):
        return False
    return True


def _write_all(
    paths: Sequence[Path], contents: Sequence[bytes], older: Sequence[Path], *, force: bool
) -> None:
    # All of `paths`, and none of `older` is left.
    from autoprofile.atomic import write_atomic

    if not force and (existing := next((p for p in paths if p.exists()), None)):
        raise AutoprofileError(
            "the file exists", where=str(existing), hint="say --force to overwrite it, or name another file"
        )
    if older and not force:
        raise AutoprofileError(
            f"an older filter, beside which {paths[0].name} would be misleading",
            where=str(older[0]),
            hint="say --force to remove it, or name another file",
        )
    for path in older:
        remove_older(path)
    written: list[Path] = []
    try:
        for path, content in zip(paths, contents, strict=True):
            write_atomic(path, content, overwrite=force)
            written.append(path)
    except AutoprofileError:
        if not force:
            for path in written:
                path.unlink(missing_ok=True)
        raise


def remove_older(path: Path) -> None:
    """Remove an older filter, which --force gave up; `AutoprofileError` where it stays and what it is."""
    if path.is_symlink() or not path.is_file():
        raise AutoprofileError(
            "in the way, and no regular file", where=str(path), hint="remove it, or name another file"
        )
    try:
        path.unlink()
    except OSError as error:
        raise AutoprofileError(
            f"an older filter that cannot be removed: {error.strerror}", where=str(path)
        ) from error


def read_program(path: Path, *, any_byteorder: bool = False) -> Program:
    """Read a raw filter; ``-`` is stdin.

    Args:
        path: the file.
        any_byteorder: whether to take filters of big-endian machines too.

    Raises:
        AutoprofileError: it cannot be read, or holds no filter; naming the file.
    """
    from autoprofile.filter import Program

    where = "<stdin>" if path == _STDIO else str(path)
    try:
        raw = sys.stdin.buffer.read() if path == _STDIO else path.read_bytes()
    except OSError as error:
        raise AutoprofileError(f"cannot read: {error.strerror or error}", where=where) from error
    try:
        return Program.from_bytes(raw, None if any_byteorder else "little")
    except AutoprofileError as error:
        hint = error.hint if raw else "the file is empty"
        if raw and raw[:5].isascii() and raw[:5].decode().isprintable():
            hint = "this is text; a raw filter comes from `compile --as raw` or `dump --as raw`"
        raise AutoprofileError(error.what, where=where, hint=hint) from error


def json_of(program: Program) -> dict[str, Any]:
    """Return what ``--json`` says of a program."""
    return {
        "instructions": [{"code": i.code, "jt": i.jt, "jf": i.jf, "k": i.k} for i in program],
        "length": len(program),
    }
