"""`autoprofile learn`: run a workload, or read what one did, and write the profile it needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import (
    ExistingFile,
    Number,
    command_argument,
    force_option,
    loader_option,
    output_of,
    verb,
)
from autoprofile.cli.watching import chosen_target, target_options
from autoprofile.errors import AutoprofileError, UsageError

if TYPE_CHECKING:
    from autoprofile.cli.learning import How
    from autoprofile.profile import Action, Profile

__all__ = ["command"]

_DENIALS = {
    "deny_failed": "--deny-failed",
    "deny_opaque": "--deny-opaque",
    "deny_jit": "--jit-error",
    "deny_lookups": "--lookup-error",
}


@verb("learn", "Learn and enforce", 10, runs_command=True)
@command_argument
@click.option(
    "-o",
    "--output",
    "target",
    type=ExistingFile(),
    metavar="P.yaml",
    help="The profile; default PROGRAM.yaml.",
)
@click.option(
    "--trace",
    "trace_file",
    type=ExistingFile(),
    metavar="T.parquet",
    help="Keep the counted observations too.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "ebpf", "notify", "ptrace"]),
    default="auto",
    show_default=True,
    help="How to watch; auto takes the quickest this kernel has.",
)
@loader_option
@click.option(
    "--level",
    type=click.Choice(["strict", "standard", "permissive"]),
    default="strict",
    show_default=True,
    help="How much beyond what was seen is allowed.",
)
@click.option(
    "--mode",
    type=click.Choice(["allowlist", "denylist", "hybrid"]),
    default="allowlist",
    show_default=True,
    help="What happens to calls that no rule names.",
)
@click.option(
    "--default", "default_action", metavar="ACTION", help="What refuses them: kill, errno, trap, log, …"
)
@click.option(
    "--confidence",
    type=Number(0, 1, min_open=True, max_open=True),
    metavar="P",
    help="How sure to be that an argument has shown all its values, before only those are allowed; 0.95.",
)
@click.option(
    "--worth",
    type=Number(min=0),
    metavar="GAIN",
    help="Security gain that a constraint has to bring for each nanosecond on the mean call; 1.",
)
@click.option(
    "--deny-failed/--allow-failed",
    default=True,
    help="Whether calls that always met ENOSYS or EPERM are denied with that (not at strict). notify sees no"
    " returns, --pid and its like only with --returns.",
)
@click.option(
    "--deny-opaque/--allow-opaque",
    default=True,
    help="Whether clone3, whose flags no filter sees, gets ENOSYS so that libc takes clone (not at strict).",
)
@click.option(
    "--jit-error/--no-jit-error",
    "deny_jit",
    default=True,
    help="Whether memory for code made at run time gets EACCES where a library can do without it (not at"
    " strict).",
)
@click.option(
    "--lookup-error/--no-lookup-error",
    "deny_lookups",
    default=True,
    help="Whether lookups of users, hosts and locales get an error that libc expects where none was seen (not"
    " at strict).",
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    metavar="N",
    help="Run the command N times; with --until-stable at most (default 50).",
)
@click.option(
    "--until-stable",
    "bound",
    type=Number(0, 1, min_open=True, max_open=True),
    is_flag=False,
    flag_value=0.05,
    metavar="[=BOUND]",
    help="Repeat, or go on watching, until the chance of something unseen is this small; 0.05.",
)
@click.option(
    "--window",
    type=Number(min=0, min_open=True),
    metavar="SECONDS",
    help="What counts as one repetition of a target that runs on, for --until-stable; default 10.",
)
@click.option("--timeout", type=Number(min=0, min_open=True), metavar="SECONDS", help="End each run then.")
@click.option(
    "--merge", "merge_into", is_flag=True, help="Widen the profile when it exists, as its level and mode say."
)
@force_option
@click.option("--allow-new-privs", is_flag=True, help="Let setuid programs gain their rights (root only).")
@click.option(
    "--from-trace", type=ExistingFile(), multiple=True, metavar="T.parquet...", help="Learn from traces."
)
@click.option(
    "--from-strace", type=ExistingFile(), multiple=True, metavar="LOG...", help="Learn from `strace -f` logs."
)
@click.option(
    "--returns",
    is_flag=True,
    help="See also what the calls of a running target return, and which its own filter refuses; slows it down"
    " more. Commands are watched so anyway.",
)
@target_options
@click.pass_context
def command(
    ctx: click.Context,
    command: tuple[str, ...],
    target: Path | None,
    trace_file: Path | None,
    backend: str,
    level: str,
    mode: str,
    default_action: str | None,
    confidence: float | None,
    worth: float | None,
    deny_failed: bool,
    deny_opaque: bool,
    deny_jit: bool,
    deny_lookups: bool,
    runs: int | None,
    bound: float | None,
    window: float | None,
    timeout: float | None,
    merge_into: bool,
    force: bool,
    allow_new_privs: bool,
    from_trace: tuple[Path, ...],
    from_strace: tuple[Path, ...],
    returns: bool,
    pid: int | None,
    cgroup: str | None,
    container: str | None,
    unit: str | None,
) -> int:
    """Run a command and write the profile it needs.

    Watches every process of the command from its first instruction to its end. stdout and the exit status
    are the command's own. Ctrl-C ends the command, not the learning: what was seen is written and marked
    incomplete.

    \b
      autoprofile learn -o web.yaml --trace web.parquet -- ./web --port 8080
      autoprofile learn -o web.yaml --until-stable -- ./web --self-test
      autoprofile learn --merge -o web.yaml -- ./web --other-feature
      autoprofile learn -o web.yaml --from-trace monday.parquet tuesday.parquet
      autoprofile learn -o web.yaml --container web --until-stable --timeout 3600
      strace -f -X raw -o web.log ./web
      autoprofile learn -o web.yaml --from-strace web.log
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.learning import How, Stop, default_target, read_logs, run_command, watch_target
    from autoprofile.cli.results import Plan
    from autoprofile.cli.stability import MOST_RUNS, Runs, Windows

    output = output_of(ctx)
    logs = [*from_trace, *from_strace]
    chosen = chosen_target(ctx, pid, cgroup, container, unit)
    if from_trace and from_strace:
        raise click.UsageError("--from-trace and --from-strace exclude each other", ctx)
    if chosen is not None and (command or logs):
        raise click.UsageError(f"--{chosen.kind} watches what runs already: it takes no command or log", ctx)
    if chosen is not None and (runs is not None or backend not in ("auto", "ebpf")):
        raise click.UsageError(f"--{chosen.kind} watches once, with --backend ebpf", ctx)
    if logs and (runs is not None or bound is not None):
        raise click.UsageError("logs are read once: --runs and --until-stable are for what runs", ctx)
    if returns and chosen is None:
        raise click.UsageError("--returns is for --pid, --cgroup, --container and --unit", ctx)
    if _is_loader_named(ctx):
        if logs or backend not in ("auto", "ebpf"):
            what = "logs are read" if logs else f"--backend {backend} works"
            raise click.UsageError(f"--loader is for the eBPF probes: {what} without them", ctx)
        backend = "ebpf"
    if window is not None and (chosen is None or bound is None):
        raise click.UsageError("--window divides the watch of --pid and its like, for --until-stable", ctx)
    for option, path in (("-o", target), ("--trace", trace_file)):
        if str(path) == "-":
            raise click.UsageError(f"{option} names a file: stdout belongs to the program that is run", ctx)
    asked = How(
        level,
        mode,
        _action(default_action),
        confidence,
        worth,
        deny_failed,
        deny_opaque,
        deny_jit,
        deny_lookups,
    )

    def planned(path: Path) -> tuple[Plan, How]:
        plan = Plan(output, target or path, trace_file, force, merge_into)
        how = _as_before(ctx, asked, plan.before)
        _check_default(how)
        if how.level == "strict" and worth is not None:
            raise click.UsageError(
                "--worth weighs constraints, and strict drops none: give another --level", ctx
            )
        _check_denials(ctx, how)
        return plan, how

    if chosen is not None:
        output.failure_status = exits.FAILED  # nothing is run
        found = chosen.find()
        named = default_target(found.argv or (str(chosen.value),))
        plan, how = planned(named)
        windows = None if bound is None else Windows(output, how, bound, window or 10.0)
        trace = watch_target(
            output, found, timeout, returns=returns, keep=plan.keep_anyway(), stability=windows
        )
        status = exits.DONE
    elif logs:
        output.failure_status = exits.FAILED  # nothing is run
        trace = read_logs([*logs, *map(Path, command)], strace=bool(from_strace))
        plan, how = planned(target or default_target(trace.meta.argv))
        status = exits.DONE
    else:
        if not command:
            raise click.UsageError("there is no command to learn from: give it after --", ctx)
        plan, how = planned(default_target(command))
        most = runs or (1 if bound is None else MOST_RUNS)
        with Stop() as stop:
            trace, status = run_command(
                output,
                command,
                backend,
                most,
                timeout,
                privileged=allow_new_privs,
                keep=plan.keep,
                stability=None if bound is None else Runs(output, how, bound, most),
                stop=stop,
            )
            output.failure_status = exits.FAILED  # from here on the command was run
            plan.write(trace, how)
        return status
    plan.write(trace, how, is_watched=chosen is not None)
    return status


def _is_loader_named(ctx: click.Context) -> bool:
    if ctx.get_parameter_source("loader") is click.core.ParameterSource.DEFAULT:
        return False
    from autoprofile.trace.ebpf.loading import is_chosen

    return is_chosen()  # --loader auto names none


def _as_before(ctx: click.Context, how: How, before: Profile | None) -> How:
    # What is added to a profile has its level and mode, unless others are asked for: a run learned at strict
    # would be narrower than the profile claims to be.
    from dataclasses import replace

    if before is None:
        return how
    unset = click.core.ParameterSource.DEFAULT
    follows = {
        name: getattr(before, name) for name in ("level", "mode") if ctx.get_parameter_source(name) is unset
    }
    return replace(how, **follows)


def _check_denials(ctx: click.Context, how: How) -> None:
    # narrows: strict denies nothing that was seen; who asks for it in so many words is told, not ignored
    if how.level != "strict":
        return
    unset = click.core.ParameterSource.DEFAULT
    for name, option in _DENIALS.items():
        if getattr(how, name) and ctx.get_parameter_source(name) is not unset:
            raise click.UsageError(
                f"{option} needs --level standard: strict denies nothing that was seen", ctx
            )


def _check_default(how: How) -> None:
    # Before anything is run: what no profile can say would else be found after it, and the run be lost.
    from autoprofile.profile.model import check_header

    if how.action is not None:
        try:
            check_header(("x86_64",), how.level, how.mode, how.action)
        except AutoprofileError as error:
            raise UsageError(f"--default: {error.what}", hint=error.hint) from error


def _action(text: str | None) -> Action | None:
    from autoprofile.profile import Action

    if text is None:
        return None
    try:
        return Action.parse(text)
    except AutoprofileError as error:
        raise UsageError(f"--default: {error.what}", hint=error.hint) from error
