"""The `autoprofile` group: finds verbs, imports the one that is asked for, and answers with its exit status.

Every error of every verb ends here, once, as ``error:`` and ``hint:`` on stderr and a status of
`autoprofile.cli.exit`; a traceback is shown only with ``-vv``.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import Verb, common_options
from autoprofile.cli.output import STDOUT, Output
from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PROGRAM", "UnknownVerb", "Verbs", "app", "main", "verb_names", "version_of_this"]

PROGRAM = "autoprofile"
COMPLETION_VARIABLE = "_AUTOPROFILE_COMPLETE"

# The order of the sections in --help; a verb names its own.
SECTIONS = ("Learn and enforce", "Understand", "Change and convert", "This machine")


@cache
def verb_names() -> tuple[str, ...]:
    """Return every verb: one module of `autoprofile.cli.verbs` each, ``import_`` being ``import``."""
    files = Path(__file__).with_name("verbs").iterdir()
    names = (file.stem for file in files if file.suffix == ".py" and file.stem != "__init__")
    return tuple(sorted(name.rstrip("_").replace("_", "-") for name in names))


class UnknownVerb(click.UsageError):
    """Report a verb that does not exist; `hint` names the ones it may have been meant to be."""

    def __init__(self, name: str, near: list[str], ctx: click.Context) -> None:
        super().__init__(f"there is no verb {name!r}", ctx)
        self.hint = (
            f"did you mean {' or '.join(near)}?" if near else f"the verbs are {', '.join(verb_names())}"
        )


class Verbs(click.Group):
    """A group whose commands are imported when they are asked for, so that starting costs next to nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs by section, then in the order each verb asks for."""
        verbs = [self.get_command(ctx, name) for name in verb_names()]
        known = [v for v in verbs if isinstance(v, Verb)]
        known.sort(key=lambda v: (SECTIONS.index(v.section), v.order, str(v.name)))
        return [str(v.name) for v in known]

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb; None when there is no such verb."""
        if cmd_name not in verb_names():
            return None
        module = cmd_name.replace("-", "_")
        module += "_" * (module == "import")
        command: click.Command = import_module(f"autoprofile.cli.verbs.{module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or fail with the names it may have been meant to be."""
        name = args[0]
        if not name.startswith("-") and name not in verb_names():
            from difflib import get_close_matches

            raise UnknownVerb(name, get_close_matches(name, verb_names(), n=2), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs, one line each, under their sections."""
        commands = [self.get_command(ctx, name) for name in self.list_commands(ctx)]
        verbs = [v for v in commands if isinstance(v, Verb)]
        widest = max((len(str(v.name)) for v in verbs), default=0)
        for section in SECTIONS:
            rows = [
                (str(v.name).ljust(widest), v.get_short_help_str(limit=200))
                for v in verbs
                if v.section == section
            ]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)


def version_of_this() -> str:
    """Return the installed version, ``unknown`` in a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PROGRAM)
    except PackageNotFoundError:
        return "unknown"


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"{PROGRAM} {version_of_this()}")
        ctx.exit(exits.DONE)


@click.command(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="'autoprofile VERB --help' explains one verb. Exit statuses: 0 done, 1 failed, 2 usage,"
    " 3 findings, 4 this machine cannot; learn and enforce pass the command's own status through.",
)
@common_options
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version.",
)
def app() -> None:
    """Learn minimal seccomp profiles from what a program does, enforce them, report drift.

    \b
      autoprofile learn -- ls -l                watch ls, write ls.yaml
      autoprofile enforce ls.yaml -- ls -l      run it with nothing else allowed
    """  # noqa: D301 - \b is click's own mark


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; the console script exits with it.

    Args:
        arguments: the words after the program's name; those of this process unless given.
    """
    if COMPLETION_VARIABLE in os.environ:
        app.main(prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE)
    words = list(sys.argv[1:] if arguments is None else arguments)
    closed = _open_closed_streams()
    try:
        return _run(words, closed)
    finally:
        # The process ends now and the kernel takes everything back: a last look through all of it for
        # garbage would only cost time, a tenth of that of a start.
        gc.freeze()


def _run(words: list[str], closed: frozenset[str]) -> int:
    output = Output()
    output.stdout_is_closed = "stdout" in closed
    try:
        try:
            with app.make_context(PROGRAM, words, obj=output) as context:
                status = app.invoke(context)
        except click.exceptions.NoArgsIsHelpError as error:
            # Only -h asks for help: without a verb it is an answer to a mistake.
            output.note(error.format_message())
            return exits.USAGE
        except click.exceptions.Exit as stop:
            status = stop.exit_code
        output.flush()
    except click.ClickException as error:
        return _usage_status(error, output)
    except (KeyboardInterrupt, click.Abort):
        output.error("interrupted")
        return exits.INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return exits.PIPE_CLOSED
    except AutoprofileError as error:
        output.error(str(error), error.hint)
        _show_traceback(output)
        return output.failure_status if error.exit_status == exits.FAILED else error.exit_status
    except OSError as error:
        output.error(_os_error_text(error), _os_error_hint(error))
        _show_traceback(output)
        _abandon_stdout()
        return output.failure_status
    except Exception as error:  # noqa: BLE001 - the last resort: a defect still ends as one message
        output.error(
            f"autoprofile has a defect: {type(error).__name__}: {error}",
            "run it again with -vv for the traceback, and please report it",
        )
        _show_traceback(output)
        return output.failure_status
    return status if isinstance(status, int) else exits.DONE


def _open_closed_streams() -> frozenset[str]:
    # Started with `>&-`, Python has no stream there. The file that takes the descriptor's place keeps our own
    # files from it; it is close-on-exec, so the command finds its descriptor closed, as it was given to us.
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in ("stdin", "stdout", "stderr"):
        if name in closed:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - lives as long as the process
    return frozenset(closed)


def _usage_status(error: click.ClickException, output: Output) -> int:
    hint = getattr(error, "hint", None)
    context = getattr(error, "ctx", None)
    if hint is None and isinstance(error, click.UsageError) and context is not None:
        hint = f"see '{context.command_path} --help'"
    message = " ".join(error.format_message().split()).rstrip(".")
    output.error(message[:1].lower() + message[1:], hint)
    return exits.USAGE if isinstance(error, click.UsageError) else error.exit_code


def _os_error_text(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{os.fspath(error.filename)!s}: {reason}" if error.filename else reason


def _os_error_hint(error: OSError) -> str | None:
    if error.filename == STDOUT:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        return (
            "the file it leads to may be empty or partial; a verb's -o writes all or nothing"
            if full
            else None
        )
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "the disk (or the quota) is full; nothing partial was left behind"
    return None


def _abandon_stdout() -> None:
    # What is still buffered cannot be written: without this the interpreter would complain again at exit.
    with suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def _show_traceback(output: Output) -> None:
    if output.verbosity >= 2:
        import traceback

        from autoprofile.printable import printable

        sys.stderr.write(printable(traceback.format_exc()))
