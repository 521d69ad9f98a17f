"""How `learn` runs a workload and turns what was seen into files.

In: a command or logs. Out: a profile file, a trace file when asked, and the command's exit status.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.cli import exit as exits
from autoprofile.errors import AutoprofileError, MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.cli.output import Output
    from autoprofile.observations import Trace
    from autoprofile.profile import Action, Profile
    from autoprofile.trace.source import TraceSource

__all__ = ["Plan", "check_offered", "default_target", "read_logs", "run_command"]


def check_offered(level: str, mode: str) -> None:
    """Refuse a level or mode that cannot be learned yet, before the command runs for nothing."""
    from autoprofile.learn import LEVELS, MODES

    for what, name, offered in (("level", level, LEVELS), ("mode", mode, MODES)):
        if name not in offered:
            raise UsageError(
                f"this build cannot learn {what} {name}", hint=f"it offers {what} {', '.join(offered)}"
            )


def default_target(argv: Sequence[str]) -> Path:
    """Return PROGRAM.yaml in the working directory, after the program of a command."""
    if not argv:
        raise UsageError(
            "the log does not say which program it is of", hint="name the profile with -o P.yaml"
        )
    return Path(f"{Path(argv[0]).name}.yaml")


def read_logs(paths: Sequence[Path], *, strace: bool) -> Trace:
    """Read traces, or logs of strace, as runs of one trace."""
    from autoprofile.cli.inputs import read_trace
    from autoprofile.observations import Trace

    if strace:
        from autoprofile.trace.strace_log import trace_from_strace_log

        traces = [trace_from_strace_log(path) for path in paths]
    else:
        traces = [read_trace(path) for path in paths]
    return reduce(Trace.merge, traces)


def run_command(
    output: Output,
    argv: tuple[str, ...],
    backend: str,
    runs: int,
    timeout_s: float | None,
    *,
    privileged: bool,
    checkpoint: Path | None = None,
) -> tuple[Trace, int]:
    """Run a command some times under a trace source.

    With `checkpoint`, what the eBPF source has seen is written there every few seconds during a run.

    Returns:
        The trace of all runs, and the shell status: the first that is not 0.
    """
    from autoprofile.cli.deadline import deadline
    from autoprofile.observations import Trace
    from autoprofile.report.facts import counted
    from autoprofile.trace.source import SOURCES, Command, Progress, auto_source, source_named

    if backend == "ebpf" and backend not in SOURCES:
        raise MachineError(
            "this build of autoprofile has no eBPF source",
            hint="--backend notify and ptrace need no privileges",
        )
    backend = auto_source() if backend == "auto" else backend
    name = Path(argv[0]).name
    line = output.progress()

    def show(progress: Progress) -> None:
        line.update(
            f"learning {name}: {counted(progress.syscalls, 'syscall')},"
            f" {counted(progress.observations, 'argument tuple')}, {counted(progress.events, 'call')},"
            f" {counted(progress.processes, 'process', 'processes')}, {progress.elapsed_s:.0f} s"
        )

    traces: list[Trace] = []
    status: int = exits.DONE
    for run in range(runs):
        source = source_named(backend)
        if checkpoint is not None and backend == "ebpf":
            _keep(source, traces, checkpoint)
        which = f" (run {run + 1} of {runs})" if runs > 1 else ""
        output.note(f"learning {name} with {backend}{which}; Ctrl-C ends it")
        with deadline(timeout_s, source.interrupt) as timed:
            result = source.run(Command(argv), on_progress=show, privileged=privileged)
        line.clear()
        if timed.is_over:
            output.note(f"{name} was ended after {timeout_s:g} s")
        traces.append(result.trace)
        status = status or result.status
        if result.trace.ledger.entries.get("interrupted"):
            break  # Ctrl-C ends the learning, not one run of it
    return reduce(Trace.merge, traces), status


def _keep(source: TraceSource, before: Sequence[Trace], checkpoint: Path) -> None:
    from autoprofile.observations import Trace
    from autoprofile.trace.ebpf import EbpfSource

    if isinstance(source, EbpfSource):
        source.on_checkpoint = lambda trace: reduce(Trace.merge, [*before, trace]).save(checkpoint)


def _default_action(mode: str) -> Action:
    from autoprofile.profile import Action

    return {"denylist": Action.ALLOW, "hybrid": Action.NOTIFY}.get(mode, Action.KILL_PROCESS)


class Plan:
    """Where the results go; made before the command runs, so that a long run is not for nothing.

    Args:
        output: where to say what was written.
        target: the profile.
        trace_file: the trace, when it is to be kept.
        force: whether existing files may be replaced.
        merge_into: whether an existing profile is widened.

    Raises:
        AutoprofileError: a file exists and may not be replaced, or its directory does not exist.
        UsageError: both are one file.
    """

    def __init__(
        self, output: Output, target: Path, trace_file: Path | None, force: bool, merge_into: bool
    ) -> None:
        self._output = output
        self._target = target
        self._trace_file = trace_file
        self._force = force
        self._before: Profile | None = None
        if merge_into and target.exists():
            from autoprofile.profile import Profile

            self._before = Profile.load(target)
        elif target.exists() and not force:
            raise AutoprofileError(
                "the profile exists",
                where=str(target),
                hint="--merge widens it, --force replaces it, -o names another",
            )
        if trace_file is not None and trace_file.exists() and not force:
            raise AutoprofileError(
                "the trace exists", where=str(trace_file), hint="--force replaces it, or name another"
            )
        if trace_file is not None and trace_file.resolve() == target.resolve():
            raise UsageError(
                f"{target} cannot be both the profile and the trace", hint="name another file for one of them"
            )
        for path in (target, trace_file):
            if path is not None and not path.absolute().parent.is_dir():
                raise AutoprofileError(f"there is no directory {path.parent}", where=str(path))

    def write(self, trace: Trace, *, level: str, mode: str, action: Action | None) -> None:
        """Infer the profile and write it, and the trace when asked.

        Args:
            trace: what was seen.
            level: how much beyond it is allowed.
            mode: what happens to calls that no rule names.
            action: the default action, unless it follows from the mode.

        Raises:
            AutoprofileError: a file could not be written; the hint says where the profile was kept instead.
        """
        from autoprofile.learn import infer

        inference = infer(trace, level=level, mode=mode, default=action or _default_action(mode))
        profile = inference.profile
        if self._before is not None:
            from autoprofile.profile.merge import merge

            profile = merge(self._before, profile)
            self._warn_of_lifted(self._before, profile)
        for note in inference.notes:
            self._output.warn(note)
        failures: list[AutoprofileError] = []
        try:
            profile.save(self._target, overwrite=self._force or self._before is not None)
        except AutoprofileError as error:
            failures.append(self._rescue(profile, error))
        if self._trace_file is not None:
            try:
                trace.save(self._trace_file)
                self._output.note(f"wrote {self._trace_file}: {len(trace.observations)} observations")
            except AutoprofileError as error:
                failures.append(error)
        if failures:
            for other in failures[1:]:
                self._output.error(str(other), other.hint)
            raise failures[0]
        self._summarise(profile, trace)

    def _warn_of_lifted(self, before: Profile, merged: Profile) -> None:
        # A refusal is a person's decision more often than not: it never goes in silence.
        left = set(merged.rules)
        lifted = {str(r.syscall) for r in before.rules if r.action.is_refusing and r not in left}
        if lifted:
            self._output.warn(
                f"what was seen lifts refusals of {self._target}, whole or in part:"
                f" {', '.join(sorted(lifted))}"
            )

    def _rescue(self, profile: Profile, error: AutoprofileError) -> AutoprofileError:
        # The run may have taken hours: keep what it taught in the temporary directory, and say where.
        import tempfile

        try:
            folder = Path(tempfile.mkdtemp(prefix="autoprofile-"))
            kept = folder / self._target.name
            profile.save(kept)
        except (AutoprofileError, OSError):
            return error
        return AutoprofileError(
            error.what,
            where=error.where,
            hint=f"what was learned is kept in {kept}; {error.hint or 'move it'}",
        )

    def _summarise(self, profile: Profile, trace: Trace) -> None:
        from autoprofile.report.facts import counted

        allowed = [rule for rule in profile.rules if rule.action.kind == "allow"]
        names = {rule.syscall for rule in allowed}
        checked = {rule.syscall for rule in allowed if rule.comparators}
        refused = {rule.syscall for rule in profile.rules if not rule.action.is_permitting}
        what = f"{counted(len(names), 'syscall')} allowed, {len(checked)} of them only with known arguments"
        if profile.default.kind == "allow":
            what = f"{counted(len(refused), 'syscall')} refused, at least with some arguments"
        self._output.note(
            f"wrote {self._target}: {what}; {counted(trace.events, 'call')} of"
            f" {counted(trace.process_count, 'process', 'processes')} seen, {trace.ledger.total} lost"
        )
        if self._before is not None:
            from autoprofile.profile.diff import diff

            widened = sum(change.kind == "widened" for change in diff(self._before, profile))
            self._output.note(f"it was widened in {counted(widened, 'place')}")
