"""`autoprofile decide`: what a profile and its filter answer for one call, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import beyond_option, json_option, output_of, profile_argument, verb
from autoprofile.cli.programs import enforced, fallback_option
from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]

_MOST_TEXT = 600  # characters of an explanation that are shown; its beginning and its end say most
_MOST_MORE = 100  # so many more are not worth a cut


# Numbers may be negative: -1 is an argument here, never an unknown option.
@verb("decide", "Understand", 20, context_settings={"ignore_unknown_options": True})
@profile_argument
@click.argument("syscall", metavar="SYSCALL")
@click.argument("args", nargs=-1, metavar="[ARG]...")
@click.option("--arch", help="The arch of the call; the profile's first unless given.")
@beyond_option
@fallback_option
@click.option("--exit-code", is_flag=True, help="Exit with 3 unless the call is allowed.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    profile: Path,
    syscall: str,
    args: tuple[str, ...],
    arch: str | None,
    beyond: str,
    fallback: str,
    exit_code: bool,
    as_json: bool,
) -> int:
    """Say what a profile and the compiled filter answer for one call, and why.

    SYSCALL is a name or a number, each ARG a number or symbols joined by '|'; missing ones are 0.

    \b
      autoprofile decide web.yaml socket AF_NETLINK SOCK_RAW 12
      autoprofile decide web.yaml openat AT_FDCWD 0 'O_WRONLY|O_CREAT' 0644
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.abi.syscalls import display_name
    from autoprofile.cli.inputs import read_profile
    from autoprofile.filter import compile_stack
    from autoprofile.filter.newer import action_for
    from autoprofile.filter.simulate import most_severe
    from autoprofile.profile import Action

    output = output_of(ctx)
    allowed = read_profile(profile)
    call = int(syscall, 0) if syscall[:1].isdigit() else syscall
    encoded = allowed.encode_call(call, *args, arch=arch)
    decision = allowed.decide_call(*encoded)
    taken, newer = enforced(allowed, beyond, fallback)
    action, why = action_for(taken, *encoded, newer), decision.why
    if decision.rule is None and taken.decide_call(*encoded).rule is not None:
        why = f"libc has an older way than {display_name(*encoded[:2])} (with --fallback default: {why})"
    elif action != decision.action:
        why = f"number {encoded[1]} is newer than the profile (with --beyond default: {why})"
    stack = compile_stack(taken, beyond=newer)
    compiled = Action.from_ret(most_severe([program.simulate_ret(*encoded) for program in stack]))
    if compiled != action:
        raise AutoprofileError(
            f"the filter answers {compiled}, the profile {action}: this is a defect of autoprofile",
            hint="do not use this profile; please report it with the profile attached",
        )
    if as_json:
        output.json(
            "decision",
            {
                "action": str(action),
                "arch": encoded[0],
                "args": [f"{value:#x}" for value in encoded[2]],
                "filter": str(compiled),
                "nr": encoded[1],
                "syscall": syscall,
                "why": why,
            },
        )
    else:
        output.text(f"{action}: {_shortened(why)}\n")
        output.detail("the compiled filter answers the same")
    return exits.FINDINGS if exit_code and action.kind != "allow" else exits.DONE


def _shortened(why: str) -> str:
    # A rule may hold thousands of values; --json has all of the text.
    cut = len(why) - _MOST_TEXT
    if cut <= _MOST_MORE:
        return why
    return f"{why[: _MOST_TEXT // 2]} … ({cut} characters; see --json) … {why[-_MOST_TEXT // 2 :]}"
