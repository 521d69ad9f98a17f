"""The options that verbs share, and the class every verb is an instance of.

A verb module defines ``command = verb(...)(function)``; the function receives what it declared and
returns an exit status (None = done). ``-q``, ``-v`` and ``--color`` work before and after the verb's name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.output import Output

__all__ = [
    "COMMAND",
    "ExistingFile",
    "Number",
    "Verb",
    "beyond_option",
    "command_argument",
    "common_options",
    "force_option",
    "json_option",
    "loader_option",
    "output_of",
    "profile_argument",
    "verb",
]

_COMMON = {"quiet", "verbose", "color"}

F = TypeVar("F", bound=Callable[..., Any])


class Verb(click.Command):
    """One verb of the command line.

    Attributes:
        section: the heading of ``--help`` it stands under.
        order: its place under that heading.
        runs_command: its status is that of a command it runs, so its own failures are 125.
    """

    section = "This machine"
    order = 0
    runs_command = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse options anywhere before ``--``; without it, they end where the command begins."""
        if self.runs_command and "--" not in args and not any(a.startswith("--from-") for a in args):
            if self._begins_with_command():
                ctx.allow_interspersed_args = False
            else:
                args = self._with_command_apart(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; until a command was run, failing means that it was not."""
        if self.runs_command:
            output_of(ctx).failure_status = exits.NOT_RUN
        return super().invoke(ctx)

    def _with_command_apart(self, args: list[str]) -> list[str]:
        # The profile, then options, then the command: its words are its own, even those that look like ours.
        # `enforce P.yaml ./prog --complain` must not let everything pass.
        options = {
            name: param
            for param in self.params
            if isinstance(param, click.Option)
            for name in (*param.opts, *param.secondary_opts)
        }
        at, has_profile = 0, False
        while at < len(args):
            word = args[at]
            if word[:1] == "-" and word != "-":
                option = options.get(word)
                if option is not None and not option.is_flag and not option.count:
                    at += option.nargs
            elif has_profile:
                return [*args[:at], "--", *args[at:]]
            else:
                has_profile = True
            at += 1
        return args

    def _begins_with_command(self) -> bool:
        first = next((p for p in self.params if isinstance(p, click.Argument)), None)
        return first is not None and first.nargs == -1


def verb(
    name: str, section: str, order: int, *, runs_command: bool = False, **attributes: Any
) -> Callable[[F], Verb]:
    """Make a verb of a function; its docstring is the help text.

    Args:
        name: the word that asks for it.
        section: the heading of ``--help`` it stands under.
        order: its place under that heading.
        runs_command: whether it runs a command whose status it passes through.
        attributes: what `click.command` takes.
    """

    def decorate(function: F) -> Verb:
        attributes.setdefault("context_settings", {})
        attributes["context_settings"].setdefault("help_option_names", ["-h", "--help"])
        attributes["context_settings"].setdefault("max_content_width", 80)
        made: Verb = click.command(name, cls=Verb, **attributes)(common_options(function))
        made.section, made.order, made.runs_command = section, order, runs_command
        # What is peculiar to the verb is read first.
        made.params.sort(key=lambda p: p.name in _COMMON)
        return made

    return decorate


def output_of(context: click.Context) -> Output:
    """Return the invocation's `Output`."""
    return context.ensure_object(Output)


def _set_quiet(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        output_of(ctx).verbosity = -1


def _set_verbose(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    if value:
        output_of(ctx).verbosity = value


def _set_colour(ctx: click.Context, _param: click.Parameter, value: bool | None) -> None:
    output = output_of(ctx)
    if value is not None:
        output.colour = value
    import sys

    ctx.color = output.colours(sys.stdout)


def common_options(function: F) -> F:
    """Add ``-q``, ``-v`` and ``--color``, which every verb and the group take."""
    for option in (
        click.option(
            "--color/--no-color",
            default=None,
            expose_value=False,
            is_eager=True,
            callback=_set_colour,
            help="Colour or none; else NO_COLOR, FORCE_COLOR, then whether it is a terminal.",
        ),
        click.option(
            "-v",
            "--verbose",
            count=True,
            expose_value=False,
            is_eager=True,
            callback=_set_verbose,
            help="Say more; -vv adds tracebacks to errors.",
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_set_quiet,
            help="Say only errors and warnings.",
        ),
    ):
        function = option(function)
    return function


class ExistingFile(click.ParamType[Path]):
    """A file to read; reading it finds out whether it can be read, so that the error names the reason."""

    name = "file"

    def convert(self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None) -> Path:
        """Return the path."""
        return Path(value)

    def shell_complete(
        self, _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Let the shell complete file names."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class Number(click.FloatRange):
    """A finite number in a range: a comparison with nan is false, so that no range refuses it by itself."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if number - number != 0:  # nan or inf, without loading math on the way to enforce
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class _CommandWord(click.types.UnprocessedParamType):
    """A word of the command to run: nothing is done to it; the shell completes it as a file name."""

    name = "command"

    def shell_complete(
        self, _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Let the shell complete file names."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


COMMAND = _CommandWord()

command_argument = click.argument("command", nargs=-1, type=COMMAND, metavar="[--] COMMAND [ARG]...")
profile_argument = click.argument("profile", type=ExistingFile(), metavar="PROFILE")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
force_option = click.option("--force", is_flag=True, help="Replace the output file when it exists.")
beyond_option = click.option(
    "--beyond",
    type=click.Choice(["ENOSYS", "default"]),
    default="ENOSYS",
    show_default=True,
    help="What numbers newer than the profile get where its default refuses: ENOSYS, as from the kernel it"
    " was learned on, so that libc falls back; or that default.",
)


def _choose_loader(_ctx: click.Context, _param: click.Parameter, value: str) -> None:
    if value != "auto":  # the usual case loads nothing of it
        from autoprofile.trace.ebpf.loading import choose

        choose("core" if value == "core" else "bcc")


loader_option = click.option(
    "--loader",
    type=click.Choice(["auto", "core", "bcc"]),
    default="auto",
    show_default=True,
    callback=_choose_loader,
    expose_value=False,
    help="What loads the eBPF probes: core needs BTF, bcc kernel headers.",
)
