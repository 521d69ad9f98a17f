"""`autoprofile learn`: run a workload, or read what one did, and write the profile it needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import ExistingFile, command_argument, force_option, output_of, verb
from autoprofile.cli.watching import chosen_target, target_options
from autoprofile.errors import AutoprofileError, UsageError

if TYPE_CHECKING:
    from autoprofile.profile import Action

__all__ = ["command"]


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
@click.option("--runs", type=click.IntRange(1), default=1, metavar="N", help="Run the command N times.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="End each run then."
)
@click.option("--merge", "merge_into", is_flag=True, help="Widen the profile when it exists.")
@force_option
@click.option("--allow-new-privs", is_flag=True, help="Let setuid programs gain their rights (root only).")
@click.option(
    "--from-trace", type=ExistingFile(), multiple=True, metavar="T.parquet...", help="Learn from traces."
)
@click.option(
    "--from-strace", type=ExistingFile(), multiple=True, metavar="LOG...", help="Learn from `strace -f` logs."
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
    runs: int,
    timeout: float | None,
    merge_into: bool,
    force: bool,
    allow_new_privs: bool,
    from_trace: tuple[Path, ...],
    from_strace: tuple[Path, ...],
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
      autoprofile learn --merge -o web.yaml -- ./web --other-feature
      autoprofile learn -o web.yaml --from-trace monday.parquet tuesday.parquet
      autoprofile learn -o web.yaml --container web --timeout 600
      strace -f -X raw -o web.log ./web
      autoprofile learn -o web.yaml --from-strace web.log
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.learning import Plan, check_offered, default_target, read_logs, run_command

    output = output_of(ctx)
    if from_trace and from_strace:
        raise click.UsageError("--from-trace and --from-strace exclude each other", ctx)
    chosen = chosen_target(ctx, pid, cgroup, container, unit)
    if chosen is not None and (command or from_trace or from_strace):
        raise click.UsageError(f"--{chosen.kind} watches what runs already: it takes no command or log", ctx)
    if chosen is not None and (runs > 1 or backend not in ("auto", "ebpf")):
        raise click.UsageError(f"--{chosen.kind} watches once, with --backend ebpf", ctx)
    check_offered(level, mode)
    action = _action(default_action)
    if chosen is not None:
        from autoprofile.cli.watching import learn_from

        output.failure_status = exits.FAILED  # nothing is run
        found = chosen.find()
        named = default_target(found.argv or (str(chosen.value),))
        plan = Plan(output, target or named, trace_file, force, merge_into)
        trace, status = learn_from(output, found, timeout, trace_file), exits.DONE
    elif from_trace or from_strace:
        output.failure_status = exits.FAILED  # nothing is run
        logs = [*from_trace, *from_strace, *map(Path, command)]
        trace = read_logs(logs, strace=bool(from_strace))
        plan = Plan(output, target or default_target(trace.meta.argv), trace_file, force, merge_into)
        status = exits.DONE
    else:
        if not command:
            raise click.UsageError("there is no command to learn from: give it after --", ctx)
        plan = Plan(output, target or default_target(command), trace_file, force, merge_into)
        trace, status = run_command(
            output, command, backend, runs, timeout, privileged=allow_new_privs, checkpoint=trace_file
        )
        output.failure_status = exits.FAILED  # from here on the command was run
    plan.write(trace, level=level, mode=mode, action=action)
    return status


def _action(text: str | None) -> Action | None:
    from autoprofile.profile import Action

    if text is None:
        return None
    try:
        return Action.parse(text)
    except AutoprofileError as error:
        raise UsageError(f"--default: {error.what}", hint=error.hint) from error
