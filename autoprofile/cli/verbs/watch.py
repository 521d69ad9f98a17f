"""`autoprofile watch`: what a running, enforced workload is refused, seen from outside."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from autoprofile.cli import exit as exits
from autoprofile.cli.options import Number, json_option, loader_option, output_of, profile_argument, verb
from autoprofile.cli.watching import chosen_target, target_options

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@verb("watch", "Learn and enforce", 35)
@profile_argument
@target_options
@click.option("--timeout", type=Number(min=0, min_open=True), metavar="SECONDS", help="Stop watching then.")
@click.option("--metrics", metavar="FILE|:PORT", help="Publish counters for Prometheus (:PORT on localhost).")
@loader_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    profile: Path,
    pid: int | None,
    cgroup: str | None,
    container: str | None,
    unit: str | None,
    timeout: float | None,
    metrics: str | None,
    as_json: bool,
) -> int:
    """Report live what a running workload is refused; exit with 3 on drift, with 1 when something was lost.

    The kernel counts the calls that a seccomp filter refused with an errno, a trap or a kill, arguments
    included, and the calls that went through although the profile does not allow them. Needs root and eBPF,
    but no supervisor, and does not touch the workload. Ends with it, after --timeout, or with Ctrl-C.

    \b
      autoprofile watch web.yaml --pid 4711
      autoprofile watch web.yaml --container web --timeout 60 --json
    """  # noqa: D301 - \b is click's own mark
    from autoprofile.cli.inputs import read_profile
    from autoprofile.cli.supervision import new_metrics
    from autoprofile.cli.watching import Parts, Refusals, live, loss_text, refusal_text
    from autoprofile.report.facts import counted

    output = output_of(ctx)
    chosen = chosen_target(ctx, pid, cgroup, container, unit)
    if chosen is None:
        raise click.UsageError("name what to watch: --pid, --cgroup, --container or --unit", ctx)
    refusals = Refusals(read_profile(profile))
    target = chosen.find()
    parts = Parts(target)
    with live(target, returns=True) as watch, new_metrics(metrics, output) as published:
        parts.look()
        sample = refusals.sample(0)
        if published is not None:
            published.add(lambda: sample)

        lost_said = 0

        def report() -> None:
            nonlocal sample, lost_said
            new = refusals.update(watch, [*watch.counts(), *watch.spilled()])
            if new and as_json:
                parts.look()
            for record in new:
                if not as_json:
                    output.text(refusal_text(record))
                    sys.stdout.flush()
            if published is not None:
                sample = refusals.sample(watch.lost)
            # At once, then each time it is ten times as much: whoever floods the counters may be hiding.
            if (losses := watch.losses).total >= max(1, 10 * lost_said):
                lost_said = losses.total
                output.warn(loss_text(losses))

        output.note(f"watching {target.name}; Ctrl-C ends the watch, not the target")
        watch.follow(timeout_s=timeout, on_tick=report)
        watch.detach()
        report()
        trace = watch.trace()
    refused, unlisted = refusals.total("refused"), refusals.total("unlisted")
    if as_json:
        content = {
            "calls": refusals.calls,
            "kernel": trace.meta.kernel,
            "lost": trace.ledger.to_dict(),
            "programs": parts.documents(trace.meta.libraries),
            "records": refusals.records(),
            "refused": refused,
            "undecided": refusals.undecided,
            "unlisted": unlisted,
        }
        output.json("watch", content)
    for reason, number in sorted(trace.ledger.entries.items()):
        output.warn(f"{number} lost ({reason})")
    if refusals.undecided:
        output.warn(
            f"{counted(refusals.undecided, 'call')} passed and may be outside the profile:"
            " it compares arguments that are not counted"
        )
    output.note(
        f"{target.name}: {counted(refusals.calls, 'call')} seen, {refused} refused,"
        f" {unlisted} not in the profile"
    )
    if refused or unlisted:
        return exits.FINDINGS
    # Nobody may take it for clean.
    return exits.FAILED if trace.ledger.total else exits.DONE
