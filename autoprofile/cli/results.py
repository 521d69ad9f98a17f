"""Where the results of `learn` go: the profile and the trace, checked before the run and never lost after it.

In: a trace. Out: the files, and what there is to say about them on stderr. A file that somebody else wrote in
the meantime is never replaced; what people changed in a profile that is widened stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.cli.histories import record_if_kept
from autoprofile.errors import AutoprofileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autoprofile.cli.learning import How
    from autoprofile.cli.output import Output
    from autoprofile.learn import Inference
    from autoprofile.observations import Trace
    from autoprofile.profile import Profile

__all__ = ["Plan", "TraceFile"]

_LOCK_S = 30.0  # for others to finish with the profile
_TRIES = 20  # of merging into a file that somebody keeps writing to


class TraceFile:
    """The file a trace is kept in, written anew during a run and at its end.

    Only the file that this object wrote itself, or that could be replaced from the start, is replaced. Where
    another one appears under the name, the trace goes beside it under a free name.

    Args:
        output: where to say so.
        path: its name.
        force: whether what is there may be replaced.
    """

    def __init__(self, output: Output, path: Path, *, force: bool) -> None:
        self._output = output
        self.path = path
        self._force = force
        self._own: tuple[int, int, int] | None = None
        self._has_failed = False

    def keep(self, trace: Trace) -> None:
        """Write what there is so far; a full disk is no reason to end a run, it is said once."""
        try:
            self.save(trace)
        except AutoprofileError as error:
            if not self._has_failed:
                self._output.warn(f"the trace is not kept up to date: {error}")
            self._has_failed = True

    def save(self, trace: Trace) -> None:
        """Write the trace, whole or not at all."""
        if not self._force and self.path.exists() and self._identity() != self._own:
            taken, self.path = self.path, _free_name(self.path)
            self._output.warn(f"{taken} appeared meanwhile and is left alone: the trace goes to {self.path}")
        trace.save(self.path)
        self._own = self._identity()

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns


def _free_name(path: Path, *, also_itself: bool = False) -> Path:
    if also_itself and not path.exists():
        return path
    number = 1
    while (other := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return other


class Plan:
    """Where the results go; made before the command runs, so that a long run is not for nothing.

    Args:
        output: where to say what was written.
        target: the profile.
        trace_file: the trace, when it is to be kept.
        force: whether existing files may be replaced.
        merge_into: whether an existing profile is widened.

    Raises:
        AutoprofileError: a file exists and may not be replaced, or cannot be written where it should be.
        UsageError: both are one file.
    """

    def __init__(
        self, output: Output, target: Path, trace_file: Path | None, force: bool, merge_into: bool
    ) -> None:
        self._output = output
        self._target = target
        self._force = force
        self._merge_into = merge_into
        self.trace_file = None if trace_file is None else TraceFile(output, trace_file, force=force)
        self._unfinished: TraceFile | None = None
        #: The profile that will be widened, as it is before the run; None when there is none.
        self.before: Profile | None = None
        if merge_into and target.exists():
            from autoprofile.profile import Profile

            self.before = Profile.load(target)  # what cannot be read now cannot be widened later
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
            if path is not None:
                _check_writable(path)

    @property
    def keep(self) -> Callable[[Trace], None] | None:
        """What keeps a trace while it grows, None when none is to be kept."""
        return None if self.trace_file is None else self.trace_file.keep

    def keep_anyway(self) -> Callable[[Trace], None]:
        """Return what keeps a trace while it grows, asked for or not.

        One that was not asked for is removed once the profile is written; it is what a killed tool leaves.
        """
        if self.trace_file is not None:
            return self.trace_file.keep
        path = _free_name(self._target.with_name(f"{self._target.stem}.unfinished.parquet"), also_itself=True)
        self._unfinished = TraceFile(self._output, path, force=False)

        def keep(trace: Trace) -> None:
            assert self._unfinished is not None
            is_first = not path.exists()
            self._unfinished.keep(trace)
            if is_first and path.exists():
                self._output.note(f"until the profile is written, what was seen is kept in {path}")

        return keep

    def write(self, trace: Trace, how: How, *, is_watched: bool = False) -> None:
        """Infer the profile and write it, and the trace when asked.

        Args:
            trace: what was seen.
            how: to infer.
            is_watched: whether it is of what ran already, so that its start and end were not to be seen.

        Raises:
            AutoprofileError: a file could not be written; the hint says where its content was kept instead.
        """
        from autoprofile.learn.infer import NOT_WHOLE

        failures: list[AutoprofileError] = []
        # The trace first: whatever inference may say about it, what was seen is not lost.
        if self.trace_file is not None:
            try:
                self.trace_file.save(trace)
                kept = f"wrote {self.trace_file.path}: {len(trace.observations)} observations"
            except AutoprofileError as error:
                failures.append(_rescued(self.trace_file.path, trace.save, error))
                kept = ""
        inference = how.infer(trace)
        for note in inference.notes:
            if is_watched and note == NOT_WHOLE:
                self._output.note(
                    f"watched from outside{_span(trace)}: what the target did before and does after is not in"
                    " the profile"
                )
            else:
                self._output.warn(note)
        self._tell_losses(trace)
        if how.level != "strict" and how.deny_failed and all(o.ok is None for o in trace.observations):
            self._output.note(
                "what calls returned was not seen: those that always fail are allowed as others are"
            )
        before: Profile | None = None
        profile = inference.profile
        try:
            before, profile = self._save(profile)
        except AutoprofileError as error:
            failures.insert(0, _rescued(self._target, profile.save, error))
        else:
            record_if_kept(self._target, profile, why=f"learn: {shlex.join(trace.meta.argv)}")
        if self.trace_file is not None and kept:
            self._output.note(kept)
        if failures:
            for other in failures[1:]:
                self._output.error(str(other), other.hint)
            raise failures[0]
        if self._unfinished is not None:
            self._unfinished.path.unlink(missing_ok=True)
        self._tell_decided(inference, profile, before)
        self._summarise(profile, before, trace)
        self._tell_constraints(inference)

    def _tell_decided(self, inference: Inference, written: Profile, before: Profile | None) -> None:
        # What was widened may have decided otherwise before: only what stands in the file is told.
        for one in inference.decided:
            told = one if before is None else one.among(written.rules)
            if told is not None:
                self._output.note(str(told))

    def _tell_losses(self, trace: Trace) -> None:
        # What was lost is known better than by its number: a line of a log, a program.
        for reason, details in sorted(trace.ledger.details.items()):
            distinct = list(dict.fromkeys(details))
            if reason == "interrupted" or not distinct:
                continue
            self._output.note(f"  {reason}: {distinct[0]}" + (" …" if len(distinct) > 1 else ""))
            for detail in distinct[1:]:
                self._output.detail(f"  {reason}: {detail}")

    def _save(self, profile: Profile) -> tuple[Profile | None, Profile]:
        # Returns the profile that was widened, if one was, and what is in the file now.
        if not self._merge_into or not self._target.exists():
            try:
                profile.save(self._target, overwrite=self._force and not self._merge_into)
            except AutoprofileError:
                if not self._merge_into or not self._target.exists():
                    raise
                # it appeared during the run: widen it
            else:
                return None, profile
        return self._merge(profile)

    def _merge(self, learned: Profile) -> tuple[Profile, Profile]:
        from autoprofile.atomic import write_atomic
        from autoprofile.profile import Profile
        from autoprofile.profile.edit import edit_profile
        from autoprofile.profile.file import read_profile_file
        from autoprofile.profile.merge import merge_noting

        for _ in range(_TRIES):
            with _locked(self._target):
                # What people changed during the run counts: it is read now, not before.
                text = read_profile_file(self._target)
                before = Profile.loads(text, str(self._target))
                merged = merge_noting(before, learned)
                edited = edit_profile(text, merged.profile)
                if read_profile_file(self._target) != text:
                    continue  # saved by an editor meanwhile
                write_atomic(self._target, edited)
            self._warn_of_lifted(before, merged.profile)
            was, now = before.program.path, learned.program.path
            if was is not None and now is not None and was != now:
                self._output.warn(
                    f"{self._target} is of {was}: it now allows what {now} needs, too",
                    hint="-o names a profile of its own",
                )
            for widening in merged.widenings:
                self._output.warn(str(widening))
            return before, merged.profile
        raise AutoprofileError(
            "somebody keeps writing to the profile",
            where=str(self._target),
            hint="merge it when they are done",
        )

    def _warn_of_lifted(self, before: Profile, merged: Profile) -> None:
        # A refusal is a person's decision more often than not: it never goes in silence.
        left = set(merged.rules)
        lifted = {str(r.syscall) for r in before.rules if r.action.is_refusing and r not in left}
        if lifted:
            self._output.warn(
                f"what was seen lifts refusals of {self._target}, whole or in part:"
                f" {', '.join(sorted(lifted))}"
            )

    def _summarise(self, profile: Profile, before: Profile | None, trace: Trace) -> None:
        from autoprofile.report.facts import counted, left_out_text

        allowed = [rule for rule in profile.rules if rule.action.kind == "allow"]
        names = {rule.syscall for rule in allowed}
        checked = {rule.syscall for rule in allowed if rule.comparators}
        refused = {rule.syscall for rule in profile.rules if not rule.action.is_permitting}
        what = f"{counted(len(names), 'syscall')} allowed, {len(checked)} of them only with known arguments"
        if profile.default.kind == "allow":
            what = f"{counted(len(refused), 'syscall')} refused, at least with some arguments"
        cut = trace.ledger.entries.get("interrupted", 0)  # of that no call was lost
        seen = (
            f"{counted(trace.events, 'call')} of {counted(trace.process_count, 'process', 'processes')} seen,"
            f" {trace.ledger.total - cut} lost" + (", interrupted" if cut else "")
        )
        learned = profile.learned
        if before is None:
            self._output.note(f"wrote {self._target}: {what}; {seen}")
        else:
            from autoprofile.profile.diff import diff

            self._output.note(f"wrote {self._target}: {what}")
            widened = sum(change.kind == "widened" for change in diff(before, profile))
            added = f"it was widened in {counted(widened, 'place')}" if widened else "nothing was added"
            own = "this run" if trace.meta.runs == 1 else f"these {trace.meta.runs} runs"
            total = "" if learned is None else f"; the profile: {counted(learned.runs, 'run')}"
            self._output.note(f"{added}; {own}: {seen}{total}")
        if learned is not None and learned.unseen is not None and learned.left_out is not None:
            self._output.note(
                f"chance that another run needs something unseen: {learned.unseen:.1%};"
                f" {left_out_text(learned.left_out, learned.runs)}"
            )

    def _tell_constraints(self, inference: Inference) -> None:
        # widens: a constraint that is not worth its price is not in the profile, so it is listed here.
        dropped = [c for c in inference.constraints if not c.kept and c.gain > 0]
        if dropped:
            self._output.note("constraints dropped, because they cost more than they bring (--worth):")
        for one in dropped:
            self._output.note(
                f"  {one.syscall}: gain {one.gain:g} ({', '.join(one.shuts_out)}),"
                f" price {one.price_ns:.3g} ns on the mean call"
            )
        for one in inference.constraints:
            if one.kept or one.gain <= 0:
                self._output.detail(f"{one.syscall}: {one.why}")


def _span(trace: Trace) -> str:
    start_s = trace.meta.start_time_s
    if start_s is None:
        return ""
    times = (time.localtime(at) for at in (start_s, start_s + trace.meta.duration_ns / 1e9))
    start, end = (time.strftime("%H:%M:%S", at) for at in times)
    return f", from {start} to {end}"


def _check_writable(path: Path) -> None:
    # The file is made beside its name and moved there, so it is the directory that has to take it.
    real = Path(os.path.realpath(path))
    if not real.parent.is_dir():
        raise AutoprofileError(f"there is no directory {path.parent}", where=str(path))
    if real.exists() and not real.is_file():
        raise AutoprofileError("not a regular file, so it is not replaced", where=str(path))
    try:
        with tempfile.TemporaryFile(dir=real.parent):
            pass
    except OSError as error:
        raise AutoprofileError(
            f"cannot write here: {error.strerror or error}",
            where=str(path),
            hint="nothing was run; name a file in a directory that can be written to",
        ) from error


def _rescued(path: Path, save: Callable[[Path], object], error: AutoprofileError) -> AutoprofileError:
    # The run may have taken hours: keep what it taught in the temporary directory, and say where.
    try:
        kept = Path(tempfile.mkdtemp(prefix="autoprofile-")) / path.name
        save(kept)
    except (AutoprofileError, OSError):
        return error
    return AutoprofileError(
        error.what,
        where=error.where,
        hint=f"what was learned is kept in {kept}; {error.hint or 'move it'}",
    )


def _lock(handle: int) -> bool:
    # A merge takes a second. Whoever holds the file much longer is no learner, and must not hold this one up.
    end_s = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end_s:
                return False
            time.sleep(0.05)
        except OSError:
            return False
        else:
            return True


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Two learners that widen one file take turns. The lock is on the file, which the other replaces: whoever
    # waited for the old one waits again for the new one. Without locks (some network file systems) the
    # comparison of texts has to do.
    while True:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield  # the reader says what is wrong with it
            return
        try:
            if not _lock(handle) or _is_still(path, handle):
                yield
                return
        finally:
            os.close(handle)
