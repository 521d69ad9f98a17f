"""When to stop learning: `--until-stable` for commands that are run again, and for targets that run on.

In: what was seen so far. Out: whether to go on, and a line on stderr that says how far it is. The unit of a
command is the run; of a target that runs already it is a window of time in which it made calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoprofile.cli.learning import How
    from autoprofile.cli.output import Output
    from autoprofile.observations import Observation, Trace
    from autoprofile.profile import Profile

__all__ = ["BOUND", "MOST_RUNS", "Runs", "Windows"]

BOUND = 0.05
"""Probability of something unseen at which learning stops, unless asked otherwise.

That takes 9 runs without a surprise, more with some (Jeffreys' estimate, (surprises + 1/2) / (runs + 1))."""

MOST_RUNS = 50
"""Runs after which `--until-stable` gives up, unless asked otherwise."""


def _distinct(trace: Trace) -> int:
    return len({(o.arch, o.nr, o.args) for o in trace.observations})


class Runs:
    """Decide after each run of a command whether another one is needed.

    Args:
        output: where to say so.
        how: the way the profile will be made: what it allows beyond what was seen is no surprise.
        bound: the estimate that has to be reached.
        most: runs after which the caller stops anyway.
    """

    def __init__(self, output: Output, how: How, bound: float, most: int) -> None:
        self._output = output
        self._how = how
        self._bound = bound
        self._most = most
        self._known = 0
        self._unseen: float | None = None
        self._is_stable = False
        self._runs: set[frozenset[object]] = set()
        self._taken = 0

    def wants_more(self, trace: Trace) -> bool:
        """Tell whether the estimate is still above the bound; says what the last run has shown."""
        last = trace.meta.runs - 1
        self._runs.add(frozenset((o.arch, o.nr, o.args) for o in trace.observations if o.run == last))
        self._taken = trace.meta.runs
        estimate = self._how.infer(trace).completeness
        distinct = _distinct(trace)
        new, self._known = distinct - self._known, distinct
        self._unseen = estimate.unseen
        self._is_stable = estimate.unseen is not None and estimate.unseen <= self._bound + 1e-9
        chance = "unknown yet" if estimate.unseen is None else f"{estimate.unseen:.1%}"
        self._output.note(
            f"run {trace.meta.runs}: {distinct} distinct calls, {new} new; chance that another run needs more"
            f" than the profile: {chance}, wanted {self._bound:.1%}"
        )
        floor = trace.ledger.total / (trace.ledger.total + trace.events) if trace.ledger.total else 0.0
        if floor > self._bound and not self._is_stable:
            self._output.warn(
                f"{trace.ledger.total} calls were lost: the estimate cannot fall below {floor:.1%}",
                hint="another --backend may lose less",
            )
            return False
        return not self._is_stable

    def conclude(self, *, interrupted: bool = False) -> None:
        """Say so when learning ends before the bound was reached, or when reaching it means little."""
        if interrupted and not self._is_stable:
            # The summary of what is written gives the estimate, with the run that was cut short.
            self._output.warn("not stable: interrupted before the chance of something new was small enough")
            return
        if self._is_stable and len(self._runs) == 1 and self._taken > 1:
            self._output.warn(
                f"all {self._taken} runs made the very same calls: that holds for more of the same, and says "
                "nothing about other uses",
                hint="give it a command that does something else each time, or merge runs of other workloads",
            )
        if not self._is_stable:
            chance = "unknown" if self._unseen is None else f"still {self._unseen:.1%}"
            self._output.warn(
                f"not stable: the chance that another run needs something new is {chance}",
                hint=f"--runs allows more than {self._most} runs; a workload that varies shows more in each",
            )


class Windows:
    """Decide after each window of a watch whether to go on.

    A window counts when the target made calls in it. After the last one in which it did something that the
    profile of everything before refuses, ``k`` quiet ones make the estimate (1/2) / (k + 1): Jeffreys' for no
    surprise in k trials. Earlier surprises are start-up, not habit, and are left out.

    Args:
        output: where to say so.
        how: the way the profile will be made.
        bound: the estimate that has to be reached.
        window_s: seconds of one window.
    """

    def __init__(self, output: Output, how: How, bound: float, window_s: float) -> None:
        self.window_s = window_s
        self._output = output
        self._how = how
        self._bound = bound
        self._quiet = 0
        self._events = 0
        self._known: set[tuple[str, int, tuple[int | None, ...]]] = set()
        self._profile: Profile | None = None
        self._is_stable = False

    def wants_more(self, trace: Trace) -> bool:
        """Tell whether the estimate is still above the bound; says what is new."""
        if trace.events == self._events:
            return True  # it slept: no evidence for anything
        self._events = trace.events
        # several programs may have made one call
        seen = {(o.arch, o.nr, o.args): o for o in trace.observations}
        new = [o for call, o in seen.items() if call not in self._known]
        self._known.update(seen)
        refused = [o for o in new if self._is_refused(o)]
        # A target whose calls were all made before the watch began shows nothing in its first windows.
        is_surprise = self._profile is None or bool(refused)
        if is_surprise:
            self._profile = self._how.infer(trace).profile
        self._quiet = 0 if is_surprise else self._quiet + 1
        unseen = 0.5 / (self._quiet + 1) if self._quiet else 1.0
        self._is_stable = unseen <= self._bound + 1e-9
        if is_surprise or self._is_stable:
            self._output.note(
                f"after {trace.meta.duration_ns / 1e9:.0f} s: {len(self._known)} distinct calls,"
                f" {len(new)} of them new"
                + (f" ({len(refused)} that the profile so far would refuse)" if refused else "")
                + (f"; quiet for {self._quiet} windows of {self.window_s:g} s" if self._quiet else "")
            )
        return not self._is_stable

    def _is_refused(self, o: Observation) -> bool:
        if self._profile is None:
            return False
        from autoprofile.learn.denied import is_missed

        decision = self._profile.decide_call(o.arch, o.nr, [a or 0 for a in o.args])
        return is_missed(self._profile, decision)

    def conclude(self) -> None:
        """Say so when the watch ends before the bound was reached."""
        if not self._is_stable:
            wanted = round(0.5 / self._bound) - 1
            self._output.warn(
                f"not stable: {self._quiet} quiet windows of {self.window_s:g} s since the last new call, "
                f"{max(wanted, 1)} are wanted"
            )
