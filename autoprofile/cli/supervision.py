"""The options of `enforce` that need a supervisor: who decides, what is recorded where, who may look at it.

In: what the command line says. Out: the log, judge and metrics of a run, or an error before anything is run.
Nothing here loads a heavy library unless its option is given.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from autoprofile.cli.options import ExistingFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from autoprofile.cli.output import Output
    from autoprofile.enforce.audit import AuditWriter
    from autoprofile.enforce.judge import Judge
    from autoprofile.enforce.metrics import Metrics
    from autoprofile.profile import Profile

__all__ = ["Supervision", "new_metrics", "supervision_options"]

F = TypeVar("F", bound="Callable[..., Any]")

_SIZE = r"(\d+)\s*([kKMG]?)(?:i?B)?"
_UNITS = {"": 1, "k": 1 << 10, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MIN_SIZE = 64 << 10


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(_SIZE, value)
        if match is None:
            self.fail(f"{value!r} is no size: give bytes, or a number with k, M or G", param, ctx)
        size = int(match[1]) * _UNITS[match[2]]
        if size < _MIN_SIZE:
            self.fail(f"{value} is too small for a log: at least 64k", param, ctx)
        return size


def supervision_options(function: F) -> F:
    """Add the options that need a supervisor."""
    for option in (
        click.option(
            "--metrics", metavar="FILE|:PORT", help="Publish counters for Prometheus (:PORT on localhost)."
        ),
        click.option("--backtrace", is_flag=True, help="Record who called the code that made a call."),
        click.option(
            "--audit-keep",
            type=click.IntRange(1, 999),
            default=5,
            show_default=True,
            metavar="N",
            help="Rotated logs to keep: A.jsonl.1 … A.jsonl.N.",
        ),
        click.option("--audit-sync", is_flag=True, help="Force each record to the disk, against power loss."),
        click.option("--audit-max-size", type=_Size(), metavar="SIZE", help="Rotate the log at this size."),
        click.option(
            "--audit",
            "audit_file",
            type=ExistingFile(),
            metavar="A.jsonl",
            help="Record refused calls (appended).",
        ),
        click.option(
            "--let-pass",
            type=click.Choice(["none", "low", "medium"]),
            help="Of a hybrid profile: the riskiest unknown calls that may run (low).",
        ),
        click.option("--hook", metavar="FILE.py:FUNC", help="A Python function decides about violations."),
        click.option("--ask", is_flag=True, help="Ask at the terminal about violations."),
    ):
        function = option(function)
    return function


class Supervision(NamedTuple):
    """What was asked for.

    Args:
        complain: refuse nothing.
        ask, hook, let_pass: who decides about violations.
        audit_file, audit_max_size, audit_keep, audit_sync: the log.
        backtrace: record callers.
        metrics: where counters go.
    """

    complain: bool = False
    ask: bool = False
    hook: str | None = None
    let_pass: str | None = None
    audit_file: Path | None = None
    audit_max_size: int | None = None
    audit_keep: int = 5
    audit_sync: bool = False
    backtrace: bool = False
    metrics: str | None = None

    def check(self, ctx: click.Context, profile: Profile, on_violation: str | None) -> None:
        """Refuse options that contradict each other.

        Raises:
            click.UsageError: they do.
        """
        deciding = [
            name
            for name, given in (
                ("--complain", self.complain),
                ("--ask", self.ask),
                ("--hook", self.hook),
                ("--let-pass", self.let_pass),
            )
            if given
        ]
        if len(deciding) > 1:
            raise click.UsageError(f"{' and '.join(deciding)} exclude each other: one of them decides", ctx)
        if self.let_pass and (profile.mode != "hybrid" or on_violation):
            raise click.UsageError(
                "--let-pass is for hybrid profiles, which leave calls open"
                + ("; --on-violation closes them" if on_violation else f"; this one is an {profile.mode}"),
                ctx,
            )
        if self.audit_file is None:
            for name, given in (
                ("--audit-max-size", self.audit_max_size),
                ("--audit-sync", self.audit_sync),
                ("--backtrace", self.backtrace),
            ):
                if given:
                    raise click.UsageError(f"{name} says something of the --audit log", ctx)
        elif self.metrics and os.path.realpath(self.metrics) == os.path.realpath(self.audit_file):
            raise click.UsageError(f"--audit and --metrics both name {self.metrics}", ctx)

    @property
    def is_needed(self) -> bool:
        """Tell whether any option asks for a supervisor."""
        return bool(
            self.complain or self.ask or self.hook or self.let_pass or self.audit_file or self.metrics
        )

    @property
    def asks(self) -> bool:
        """Tell whether somebody is asked about violations."""
        return bool(self.ask or self.hook)

    def judge_for(self, profile: Profile) -> Judge | None:
        """Return who decides what a profile leaves open; None: nobody, it is refused.

        Raises:
            UsageError: the hook cannot be loaded, or there is no terminal to ask at.
        """
        if self.hook is not None:
            from autoprofile.enforce.hook import HookJudge, load_hook

            return HookJudge(load_hook(self.hook))
        if self.ask:
            from autoprofile.enforce.ask import TerminalJudge

            return TerminalJudge()
        if profile.mode == "hybrid" and profile.default.kind == "notify":
            from autoprofile.enforce.judge import RiskPolicy

            return RiskPolicy(self.let_pass or "low")
        return None

    def new_log(self, argv: Sequence[str], where: str, output: Output) -> AuditWriter | None:
        """Return a new log of one run, None where none was asked for.

        Raises:
            AutoprofileError: it cannot be opened.
        """
        if self.audit_file is None:
            return None
        from autoprofile.enforce.audit import AuditWriter

        return AuditWriter(
            self.audit_file,
            argv=tuple(argv),
            profile=where,
            mode="complain" if self.complain else "enforce",
            sync="record" if self.audit_sync else "end",
            max_size=self.audit_max_size,
            keep=self.audit_keep,
            on_trouble=output.warn,
        )


@contextmanager
def new_metrics(where: str | None, output: Output) -> Iterator[Metrics | None]:
    """Publish counters while entered; yields None where none were asked for.

    Raises:
        AutoprofileError: prometheus_client is missing, or it cannot be published there.
    """
    if where is None:
        yield None
        return
    from autoprofile.enforce.metrics import Metrics, parse_metrics_target

    with Metrics(parse_metrics_target(where)) as metrics:
        if metrics.port is not None:
            output.note(f"metrics at port {metrics.port}")
        yield metrics
