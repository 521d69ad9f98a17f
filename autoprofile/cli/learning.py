"""How `learn` gets its evidence: it runs a command, watches what runs already, or reads logs.

In: a command, a target or files. Out: a trace, and the command's exit status. What becomes of the trace is
`autoprofile.cli.results`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from autoprofile.cli import exit as exits
from autoprofile.errors import AutoprofileError, LaunchError, MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from autoprofile.cli.output import Output, ProgressLine
    from autoprofile.cli.stability import Runs, Windows
    from autoprofile.learn import Inference
    from autoprofile.observations import Trace
    from autoprofile.profile import Action
    from autoprofile.trace.source import Progress, TraceSource
    from autoprofile.trace.targets import Target

__all__ = ["How", "Stop", "default_target", "read_logs", "run_command", "watch_target"]

CHECKPOINT_S = 5.0  # a crash loses no more of a long watch than this
_SAME_S = 0.5  # timeout(1) and some shells send a signal to the tool and to its group: that is one, not two


class Stop:
    """While entered, the first Ctrl-C or SIGTERM ends the learning after the run in progress; the next, us.

    Nothing is raised: an exception in the middle of a callback from libbpf would be lost. A source has its
    own handlers while its program runs; what they took is seen here, too, by the wakeup descriptor.

    Attributes:
        signum: the signal that came first, 0 for none.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._since_s = 0.0
        self._before: dict[int, Any] = {}
        self._reader = self._writer = self._wakeup = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._came)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        if self._reader >= 0:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._reader)
            os.close(self._writer)
            self._reader = -1

    def is_asked(self, *, but: int = 0) -> bool:
        """Tell whether one of the signals has come; `but` is one that the tool sent to itself meanwhile."""
        if self._reader >= 0:
            with contextlib.suppress(BlockingIOError):
                for signum in os.read(self._reader, 4096):
                    if signum in self._before and signum != but:
                        self._note(signum)
        return bool(self.signum)

    def _note(self, signum: int) -> None:
        if not self.signum:
            self.signum, self._since_s = signum, time.monotonic()

    def _came(self, signum: int, _frame: FrameType | None) -> None:
        if not self.signum:
            self._note(signum)
        elif time.monotonic() - self._since_s > _SAME_S:
            os.write(2, b"error: interrupted\n")
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)


@dataclass(frozen=True, slots=True)
class How:
    """How a profile is made of a trace: what `learn` was asked for.

    Args:
        level: how much beyond what was seen is allowed.
        mode: what happens to calls that no rule names.
        action: the default action, unless it follows from the mode.
        confidence: when evidence is enough; None for the usual.
        worth: what a constraint has to bring; None for the usual.
        deny_failed: whether calls that always failed are denied.
        deny_opaque: whether calls with arguments behind pointers are denied where libc has another.
        deny_jit: whether memory for code made at run time is denied with an error that libraries expect.
        deny_lookups: whether unseen lookups of users, hosts and locales are denied with one.
    """

    level: str = "strict"
    mode: str = "allowlist"
    action: Action | None = None
    confidence: float | None = None
    worth: float | None = None
    deny_failed: bool = True
    deny_opaque: bool = True
    deny_jit: bool = True
    deny_lookups: bool = True

    def infer(self, trace: Trace) -> Inference:
        """Infer a profile; raises what `autoprofile.learn.infer` does."""
        from autoprofile.learn import infer
        from autoprofile.learn.evidence import CONFIDENCE
        from autoprofile.learn.price import WORTH

        return infer(
            trace,
            level=self.level,
            mode=self.mode,
            default=self.action,
            confidence=CONFIDENCE if self.confidence is None else self.confidence,
            worth=WORTH if self.worth is None else self.worth,
            deny_failed=self.deny_failed,
            deny_opaque=self.deny_opaque,
            deny_jit=self.deny_jit,
            deny_lookups=self.deny_lookups,
        )


def default_target(argv: Sequence[str]) -> Path:
    """Return PROGRAM.yaml in the working directory, after the program of a command."""
    if not argv:
        raise UsageError(
            "the log does not say which program it is of", hint="name the profile with -o P.yaml"
        )
    return Path(f"{Path(argv[0]).name}.yaml")


def read_logs(paths: Sequence[Path], *, strace: bool) -> Trace:
    """Read traces, or logs of strace, as runs of one trace.

    Raises:
        AutoprofileError: a file cannot be read, or holds something else.
    """
    from autoprofile.cli.inputs import kind_of, read_trace
    from autoprofile.observations import Trace

    if strace:
        from autoprofile.trace.strace_files import runs_of
        from autoprofile.trace.strace_log import trace_from_strace_log

        return reduce(Trace.merge, [trace_from_strace_log(run) for run in runs_of(paths)])
    for path in paths:
        if kind_of(path) == "audit":
            # It holds only what an enforced profile refused: a profile of that alone allows nothing else.
            raise AutoprofileError(
                "this is an audit log: it holds what a profile refused, not what the program needs",
                where=str(path),
                hint=f"`autoprofile review P.yaml {path}` adds what you accept of it to the profile",
            )
    return reduce(Trace.merge, [read_trace(path) for path in paths])


def run_command(
    output: Output,
    argv: tuple[str, ...],
    backend: str,
    runs: int,
    timeout_s: float | None,
    *,
    privileged: bool,
    keep: Callable[[Trace], None] | None = None,
    stability: Runs | None = None,
    stop: Stop | None = None,
) -> tuple[Trace, int]:
    """Run a command some times under a trace source.

    Args:
        output: where to say what is done.
        argv: the command.
        backend: of `SOURCES`, or auto.
        runs: how often; at most so often with `stability`.
        timeout_s: seconds after which a run is ended; None for never.
        privileged: whether setuid programs gain their rights.
        keep: given what was seen every few seconds, by the eBPF source.
        stability: asked after each run whether another is needed.
        stop: ends the repeating early; entered by the caller, who also writes under it what was learned.

    Returns:
        The trace of all runs, and the shell status: the first that is not 0, 125 when a later run failed to
        start, 128 + N when signal N ended the repeating between runs.

    Raises:
        LaunchError: a signal came before the first run was begun.
    """
    from autoprofile.cli.deadline import deadline
    from autoprofile.trace.source import SOURCES, Command, auto_source, source_named

    if backend == "ebpf" and backend not in SOURCES:
        raise MachineError(
            "this build of autoprofile has no eBPF source",
            hint="--backend notify and ptrace need no privileges",
        )
    is_auto = backend == "auto"
    backend = auto_source() if is_auto else backend
    name = Path(argv[0]).name
    line = output.progress()
    seen: Trace | None = None
    stop = Stop() if stop is None else stop
    status: int = exits.DONE
    is_cut = False
    failed: list[int] = []
    run = 0
    while True:
        run += 1
        source = source_named(backend)
        _until(source, stop)
        if keep is not None:
            _keep(source, seen, keep)
        which = f" (run {run} of {runs})" if stability is None and runs > 1 else ""
        which = f" in at most {runs} runs" if stability is not None else which
        if (stability is None or run == 1) and _can_start(argv, backend):
            output.note(f"learning {name} with {backend}{which}; Ctrl-C ends it")
        try:
            if stop.is_asked():
                raise KeyboardInterrupt
            with deadline(timeout_s, source.interrupt) as timed:
                result = source.run(Command(argv), on_progress=_shown(line, name), privileged=privileged)
        except KeyboardInterrupt:
            if seen is None:
                raise _not_begun(stop.signum) from None
            is_cut = True
            break
        except AutoprofileError as error:
            is_unstarted = seen is None and _was_not_started(error)
            if is_unstarted and stop.is_asked():  # Ctrl-C reached the compiler, too
                raise _not_begun(stop.signum) from None
            if is_unstarted and is_auto:
                # What is installed says that it works, and it does not: another source may.
                backend, run = auto_source(but=("ebpf",)), run - 1
                output.note(f"eBPF does not work here: {error}")
                continue
            if seen is None:
                raise
            if stop.is_asked():  # Ctrl-C reached the program before it had started
                is_cut = True
                break
            # What the runs before have shown is not lost with this one.
            output.warn(f"run {run} could not be made: {error}", hint=error.hint)
            status = status or exits.NOT_RUN
            break
        line.clear()
        if timed.is_over:
            output.note(f"{name} was ended after {timeout_s:g} s")
        seen = result.trace if seen is None else seen.merge(result.trace)
        status = status or result.status
        ours = signal.SIGTERM if timed.is_over else 0
        is_asked = stop.is_asked(but=ours)
        was_ended = timed.is_over and not is_asked  # as it was asked for: the next run may begin
        if not was_ended and (result.trace.ledger.entries.get("interrupted") or (is_asked and result.status)):
            is_cut = True  # Ctrl-C ends the learning, not one run of it
            break
        if result.status and not was_ended:
            failed.append(result.status)
        if run == runs or (stability is not None and not stability.wants_more(seen)):
            break
        if stop.is_asked(but=ours):
            is_cut = True
            break
        if keep is not None:
            keep(seen)
    assert seen is not None
    line.clear()
    if stability is not None:
        stability.conclude(interrupted=is_cut)
    elif is_cut and seen.meta.runs < runs:
        output.warn(
            f"interrupted: {seen.meta.runs} of {runs} runs were made; what they have shown is written"
        )
    if is_cut and stop.signum and not status:
        status = 128 + stop.signum
    _warn_of_failed(output, failed, seen.meta.runs)
    return seen, status


def _not_begun(signum: int) -> LaunchError:
    # The status is what a shell has for a command that the signal ended.
    signum = signum or signal.SIGINT
    what = f"interrupted by {signal.Signals(signum).name}: the command was not started"
    return LaunchError(what, exit_status=128 + signum)


def _was_not_started(error: AutoprofileError) -> bool:
    # Another error says nothing of eBPF, whose modules are then not loaded.
    if not isinstance(error, MachineError):
        return False
    from autoprofile.trace.ebpf.loading import LoadError

    return isinstance(error, LoadError)


def _warn_of_failed(output: Output, failed: Sequence[int], runs: int) -> None:
    if failed and runs == 1:
        output.warn(
            f"the command ended with status {failed[0]}: what was learned is that of a failed run",
            hint="--force learns it again, --merge adds a run that succeeds",
        )
    elif failed:
        statuses = ", ".join(map(str, sorted(set(failed))))
        output.warn(
            f"{len(failed)} of {runs} runs ended with status {statuses}: what was learned is in part that of"
            " failed runs"
        )


def _until(source: TraceSource, stop: Stop) -> None:
    from autoprofile.trace.source import SOURCES

    if source.name == "ebpf" and "ebpf" in SOURCES:
        from autoprofile.trace.ebpf import EbpfSource

        if isinstance(source, EbpfSource):
            source.is_stopped = stop.is_asked


def _can_start(argv: Sequence[str], backend: str) -> bool:
    # Nothing is said to begin that is known to fail: a missing program, a machine without eBPF.
    if shutil.which(argv[0]) is None:
        return False
    if backend != "ebpf":
        return True
    from autoprofile.trace.ebpf.probes import is_ready

    return is_ready()


def _shown(line: ProgressLine, name: str) -> Callable[[Progress], None]:
    from autoprofile.report.facts import counted

    def show(progress: Progress) -> None:
        line.update(
            f"learning {name}: {counted(progress.syscalls, 'syscall')},"
            f" {counted(progress.observations, 'argument tuple')}, {counted(progress.events, 'call')},"
            f" {counted(progress.processes, 'process', 'processes')}, {progress.elapsed_s:.0f} s"
        )

    return show


def _keep(source: TraceSource, before: Trace | None, keep: Callable[[Trace], None]) -> None:
    from autoprofile.trace.source import SOURCES

    if source.name != "ebpf" or "ebpf" not in SOURCES:
        return
    from autoprofile.trace.ebpf import EbpfSource

    if isinstance(source, EbpfSource):
        source.on_checkpoint = lambda trace: keep(trace if before is None else before.merge(trace))


def watch_target(
    output: Output,
    target: Target,
    timeout_s: float | None,
    *,
    returns: bool = False,
    keep: Callable[[Trace], None] | None = None,
    stability: Windows | None = None,
) -> Trace:
    """Watch a target until it ends, the time is over, Ctrl-C, or nothing new comes; return what was seen.

    Args:
        output: where to say so.
        target: whom to watch.
        timeout_s: seconds; None for no end.
        returns: see what calls return, too; without it the target is slowed down half as much.
        keep: given what was seen every few seconds.
        stability: asked after each of its windows whether to go on.

    Raises:
        MachineError: this machine cannot trace with eBPF.
        AutoprofileError: nothing was seen.
    """
    from autoprofile.cli.watching import live

    line = output.progress()
    with live(target, returns=returns) as watch:
        kept_s = looked_s = time.monotonic()

        def tick() -> None:
            nonlocal kept_s, looked_s
            now_s = time.monotonic()
            if keep is not None and now_s - kept_s >= CHECKPOINT_S:
                keep(watch.trace(is_final=False))
                kept_s = now_s
            if stability is not None and now_s - looked_s >= stability.window_s:
                if not stability.wants_more(watch.trace(is_final=False)):
                    watch.stop()
                looked_s = now_s

        output.note(f"learning {target.name} with ebpf; Ctrl-C ends the learning, not the target")
        if not returns:
            output.note(
                "its calls are seen, not what they return, nor those that a filter refuses: --returns does"
            )
        watch.follow(timeout_s=timeout_s, on_progress=_shown(line, target.name), on_tick=tick)
        watch.detach()
        line.clear()
        trace = watch.trace()
    if stability is not None:
        stability.conclude()
    if not trace.observations:
        raise AutoprofileError(f"{target.name} made no calls while it was watched", hint="watch it longer")
    return trace
