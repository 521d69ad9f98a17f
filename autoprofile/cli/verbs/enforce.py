"""`autoprofile enforce`: run a command with nothing allowed but what its profile says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import beyond_option, command_argument, output_of, profile_argument, verb
from autoprofile.cli.supervision import supervision_options

if TYPE_CHECKING:
    from autoprofile.cli.output import Output

__all__ = ["command"]


@verb("enforce", "Learn and enforce", 20, runs_command=True)
@profile_argument
@command_argument
@click.option(
    "--pid", type=click.IntRange(1), metavar="N", help="Tighten a running process and its descendants."
)
@click.option("--no-descendants", is_flag=True, help="With --pid: leave the process's children alone.")
@click.option(
    "--trust-filters",
    is_flag=True,
    help="With --pid: trust filters that cannot be read to allow prctl, seccomp and close.",
)
@click.option(
    "--on-violation",
    type=click.Choice(["kill", "errno", "log", "notify", "trap"]),
    help="What happens to a call that no rule names; the profile's own default unless given.",
)
@click.option(
    "--complain",
    is_flag=True,
    help="Refuse nothing while this runs but what a rule answers with ENOSYS (clone3); record the rest.",
)
@supervision_options
@beyond_option
@click.option("--allow-new-privs", is_flag=True, help="Let setuid programs gain their rights (root only).")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    profile: Path,
    command: tuple[str, ...],
    pid: int | None,
    no_descendants: bool,
    trust_filters: bool,
    on_violation: str | None,
    complain: bool,
    beyond: str,
    allow_new_privs: bool,
    **supervised: Any,
) -> int:
    """Run a command, or go on with a running process, under a profile.

    The filter is in place before the command's first instruction; when it cannot be, the command is not run.
    stdout and the exit status are the command's own (159: killed by the filter or the supervisor; 137: by the
    supervisor, because the program handles SIGSYS).

    \b
    kill    end the process (SIGSYS)             trap    send it SIGSYS, which it may handle
    errno   fail with EPERM (or ENOSYS)          log     let it pass, into the kernel's log
    notify  fail with EPERM (or ENOSYS), recorded with arguments, program and code location

    What a hybrid profile leaves open is decided by risk: calls of class medium and high are refused, the
    others run and are recorded. --ask and --hook decide about every violation; what they let pass runs with
    whatever its pointer arguments point to by then.

    --pid cannot be undone. Where a supervisor is needed (notify, --complain, --audit, --ask, --hook), it
    has to run as long as the process: after its end every call it would answer fails with ENOSYS.

    \b
      autoprofile enforce web.yaml -- ./web
      autoprofile enforce web.yaml --on-violation notify --audit web.jsonl -- ./web
      autoprofile enforce web.yaml --complain --audit web.jsonl -- ./web
      autoprofile enforce web.yaml --pid 4711
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.enforcement import Enforcement
    from autoprofile.cli.inputs import read_profile
    from autoprofile.cli.supervision import Supervision

    output = output_of(ctx)
    if pid is None and (no_descendants or trust_filters):
        raise click.UsageError("--no-descendants and --trust-filters say something of --pid", ctx)
    if pid is None and not command:
        raise click.UsageError("there is no command to run: give it after --, or name a --pid", ctx)
    if pid is not None and command:
        raise click.UsageError("a command and --pid exclude each other", ctx)
    supervision = Supervision(complain=complain, **supervised)
    rules = read_profile(profile)
    supervision.check(ctx, rules, on_violation)
    plan = Enforcement(
        rules,
        where=str(profile),
        on_violation=on_violation,
        supervision=supervision,
        is_older=beyond == "ENOSYS",
    )
    if pid is not None:
        output.failure_status = exits.FAILED  # there is no command whose status it could be mistaken for
        return plan.attach(
            pid,
            output,
            privileged=allow_new_privs,
            descendants=not no_descendants,
            trust_filters=trust_filters,
        )
    status = plan.run(command, output, privileged=allow_new_privs)
    if plan.killed:
        return status  # the call is recorded, and how to see it was said
    if status == exits.SIGSYS_DEATH:
        _explain_death(output, profile, command, supervision.audit_file, is_child=plan.has_exited)
    elif status and plan.has_exited and plan.may_kill_unseen:
        output.detail(
            "if it failed because a program that it started was killed by seccomp, "
            f"see for which call: {_look_again(profile, command, supervision.audit_file)}"
        )
    return status


def _look_again(profile: Path, argv: tuple[str, ...], audit_file: Path | None) -> str:
    import shlex

    audit = audit_file or "A.jsonl"
    again = shlex.join(
        ["autoprofile", "enforce", str(profile), "--complain", "--audit", str(audit), "--", *argv]
    )
    return f"{again}; {shlex.join(['autoprofile', 'drift', str(profile), str(audit)])}"


def _explain_death(
    output: Output, profile: Path, argv: tuple[str, ...], audit_file: Path | None, *, is_child: bool
) -> None:
    from autoprofile.cli.inputs import read_profile

    learned_from = read_profile(profile).program.path
    origin = f" (learned from {learned_from})" if learned_from else ""
    name = Path(argv[0]).name
    # A shell ends with 159 itself when the last command of it was killed.
    who = f"{name} ended as if a program that it started" if is_child else name
    output.warn(
        f"{who} was killed by seccomp (SIGSYS): it made a call that {profile}{origin} does not allow",
        f"to see which: {_look_again(profile, argv, audit_file)}",
    )
