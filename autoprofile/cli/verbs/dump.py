"""`autoprofile dump`: the seccomp filters of a running process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autoprofile.cli.options import ExistingFile, force_option, json_option, output_of, verb
from autoprofile.cli.programs import as_option
from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("dump", "Understand", 80)
@click.option("--pid", required=True, type=click.IntRange(min=1), help="The process, or one of its threads.")
@click.option("-o", "--output", "target", type=ExistingFile(), help="Write here instead of to stdout.")
@as_option
@force_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, pid: int, target: Path | None, form: str | None, force: bool, as_json: bool
) -> None:
    """Read the seccomp filters of a running process, whoever installed them, the oldest first.

    Needs CAP_SYS_ADMIN and a kernel with CONFIG_CHECKPOINT_RESTORE. The process stops for less than a
    millisecond, as at SIGSTOP and SIGCONT, and runs on. Several raw filters go to numbered files
    (F.1.bpf, F.2.bpf); --force also removes older filters under these names. With -o or --as raw, a process
    without a filter is an error.

    \b
      autoprofile dump --pid 4711
      autoprofile dump --pid 4711 -o web.bpf && autoprofile prove web.yaml --filter web.bpf
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.programs import form_for, json_of, refuse_target_with_json, write_programs
    from autoprofile.enforce.dump import installed_filters, thread_state, unlike_threads

    output = output_of(ctx)
    if as_json:
        refuse_target_with_json(ctx, target)
    form = form_for(form, target)
    state = thread_state(pid)
    filters = installed_filters(pid)
    if others := unlike_threads(pid):
        output.warn(
            f"{len(others)} other threads of this process are filtered otherwise",
            f"see one with: autoprofile dump --pid {others[0]}",
        )
    if as_json:
        output.json(
            "filters",
            {
                "filters": [{**json_of(f.program), "index": f.index, "logged": f.is_logged} for f in filters],
                "mode": state.mode,
                "other_threads": list(others),
                "pid": pid,
            },
        )
        return
    if not filters:
        what = {
            "none": "runs without seccomp",
            "strict": "is in strict mode: read, write, _exit and sigreturn only, no filter",
        }
        said = f"process {pid} {what.get(state.mode, f'is in mode {state.mode}')}"
        if target is not None or form == "raw":
            raise AutoprofileError(f"{said}: there is no filter to write", hint=_without_old(target, force))
        output.note(said)
        return
    write_programs(
        [f.program for f in filters],
        form,
        target,
        output=output,
        force=force,
        ctx=ctx,
        remarks=["refusals are logged" if f.is_logged else "" for f in filters],
    )


def _without_old(target: Path | None, force: bool) -> str | None:
    # --force gave up what the files held; left there they would be taken for the dump of this process.
    from autoprofile.cli.programs import older_filters, remove_older

    older = [] if target is None else older_filters(target)
    if not older:
        return None
    names = ", ".join(map(str, older))
    if not force:
        return f"{names}: older, not of this process"
    try:
        for path in older:
            remove_older(path)
    except AutoprofileError as error:
        return f"{names}: older, not of this process; {error}"
    return f"{names}: older, removed (--force)"
