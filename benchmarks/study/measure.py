"""What the study measures of one program: replays, the other workload, the attack surface, and calibration.

Everything here takes traces or a `Runner` and gives plain numbers; `report` writes them down.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from attack_surface import load_primitives, measure, names_only

from autoprofile.learn import infer
from autoprofile.learn.calls import call_groups, describe_call
from autoprofile.learn.completeness import run_incidence
from autoprofile.learn.denied import is_answered
from autoprofile.learn.evidence import Incidence, jeffreys_mean
from autoprofile.observations import LossLedger, Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.observations import Observation
    from autoprofile.profile import Profile
    from study.running import Runner
    from study.workload import Program

__all__ = ["Calibration", "Result", "Study", "as_runs", "calibrate", "refused_of"]

LEVELS = ("strict", "standard")
SUBSETS = 4
"""Random subsets of the tasks for each size, of which the means are taken."""
SIZES = (2, 4, 8)


def as_runs(traces: Sequence[Sequence[Trace]]) -> Trace:
    """Join traces: each inner sequence becomes one run."""
    observations = [
        replace(o, run=run) for run, parts in enumerate(traces) for part in parts for o in part.observations
    ]
    parts = [part for parts in traces for part in parts]
    ledger = LossLedger()
    for part in parts:
        ledger.update(part.ledger)
    meta = replace(parts[0].meta, runs=len(traces), complete=all(part.meta.complete for part in parts))
    return Trace(meta, observations, ledger, process_count=sum(part.process_count for part in parts))


def refused_of(
    profile: Profile, observations: Sequence[Observation], *, by_default: bool = False
) -> dict[str, int]:
    """Return the calls that a profile would have refused, with how often they were made.

    Not refused is what a rule answers with the error it met anyway, or with ENOSYS where libc has another
    way. With `by_default` only what no rule names counts, so not what a rule answers with an error on
    purpose.
    """
    refused: dict[str, int] = {}
    for o in observations:
        decision = profile.decide_call(o.arch, o.nr, [a or 0 for a in o.args])
        if not decision.action.is_permitting and not is_answered(decision, o):
            if by_default and decision.rule is not None:
                continue
            text = describe_call(o.arch, o.nr, o.args)
            refused[text] = refused.get(text, 0) + o.count
    return dict(sorted(refused.items()))


@dataclass
class Result:
    """Everything the tables say about one program.

    Args:
        name: of the program.
        kind: what it stands for.
        is_held_out: whether it was kept from the improvement of the level.
        passes: passes of A that were learned from.
        tasks: tasks of A and of B.
        replays: replays of A under strict, and in how many of them something was refused.
        replay_denials: what was.
        b_denials: what standard refused of B, counted by a supervisor that lets it pass.
        b_traced: what it would have refused of B as it was traced without any filter.
        b_answered: what a rule answered with an error on purpose: the program has another way, if its tasks
            end alike.
        b_statuses: how the tasks of B ended without and with the filter of standard.
        b_strict: distinct tuples of B that strict refuses, and all there are.
        b_single: what standard refuses of B after a single pass.
        unseen_strict: estimated probability that another pass of A needs something that strict refuses.
        unseen_task: that another task of A does, at standard; None where A is one task.
        b_tasks_refused: tasks of B that standard refuses something.
        surface: per profile: syscalls refused and all, primitives refused and all, and the share refused of
            those that the program does not use.
        error: why it was not measured.
    """

    name: str
    kind: str
    is_held_out: bool
    passes: int = 0
    tasks: tuple[int, int] = (0, 0)
    replays: int = 0
    replays_refused: int = 0
    replay_denials: dict[str, int] = field(default_factory=dict)
    b_denials: dict[str, int] = field(default_factory=dict)
    b_traced: dict[str, int] = field(default_factory=dict)
    b_answered: dict[str, int] = field(default_factory=dict)
    b_statuses: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    b_strict: tuple[int, int] = (0, 0)
    b_single: dict[str, int] = field(default_factory=dict)
    unseen_strict: float | None = None
    unseen_task: float | None = None
    b_tasks_refused: int = 0
    surface: dict[str, dict[str, float]] = field(default_factory=dict)
    error: str = ""

    @property
    def b_holds(self) -> bool:
        """Whether B met no denial at standard, counted both ways, and ended as without a filter."""
        return not (self.b_denials or self.b_traced) and self.b_statuses[0] == self.b_statuses[1]

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {**asdict(self), "b_holds": self.b_holds}


class Study:
    """Measure one program.

    Args:
        program: which.
        runner: runs its tasks.
        docker: Docker's default profile, to compare with.
    """

    def __init__(self, program: Program, runner: Runner, docker: Profile | None) -> None:
        self._program = program
        self._runner = runner
        self._docker = docker
        self.a: list[list[Trace]] = []
        self.b: list[Trace] = []

    def record(self, passes: int) -> None:
        """Trace A that many times, and B once."""
        self.a = [self._runner.trace(self._program.a) for _ in range(passes)]
        self.b = self._runner.trace(self._program.b)

    def evaluate(self, replays: int) -> Result:
        """Measure; `record` comes first."""
        program = self._program
        result = Result(program.name, program.kind, program.is_held_out, passes=len(self.a))
        result.tasks = (len(program.a), len(program.b))
        trace = as_runs(self.a)
        strict = infer(trace, level="strict")
        standard = infer(trace, level="standard")
        result.unseen_strict = strict.completeness.unseen
        if len(program.a) > 1:
            by_task = as_runs(list(zip(*self.a, strict=True)))
            result.unseen_task = infer(by_task, level="standard").completeness.unseen
        self._trace_b(result, strict.profile, standard.profile)
        self._surface(result, trace, strict.profile, standard.profile)
        if replays:
            self._replay(result, strict.profile, standard.profile, replays)
        return result

    def _trace_b(self, result: Result, strict: Profile, standard: Profile) -> None:
        observations = [o for part in self.b for o in part.observations]
        result.b_traced = refused_of(standard, observations, by_default=True)
        answered = set(refused_of(standard, observations)) - set(result.b_traced)
        result.b_answered = {
            text: n for text, n in refused_of(standard, observations).items() if text in answered
        }
        result.b_tasks_refused = sum(
            bool(refused_of(standard, part.observations, by_default=True)) for part in self.b
        )
        groups = call_groups(observations)
        distinct = sum(len(group.tuples) for group in groups)
        result.b_strict = (len(refused_of(strict, observations)), distinct)
        single = infer(as_runs(self.a[:1]), level="standard").profile
        result.b_single = refused_of(single, observations, by_default=True)

    def _replay(self, result: Result, strict: Profile, standard: Profile, replays: int) -> None:
        program = self._program
        result.replays = replays
        for _ in range(replays):
            denials = self._runner.supervise(program.a, strict, complain=False)
            result.replays_refused += bool(denials.calls)
            for text, n in denials.calls.items():
                result.replay_denials[text] = result.replay_denials.get(text, 0) + n
        result.b_denials = self._runner.supervise(program.b, standard, complain=True).calls
        result.b_statuses = (
            self._runner.enforce(program.b, None),
            self._runner.enforce(program.b, standard),
        )

    def _surface(self, result: Result, trace: Trace, strict: Profile, standard: Profile) -> None:
        primitives = load_primitives()
        profiles = {"strict": strict, "standard": standard, "names": names_only(strict)}
        if self._docker is not None:
            profiles["docker"] = self._docker
        for name, profile in profiles.items():
            surface = measure(profile, primitives, trace.observations)
            result.surface[name] = {
                "syscalls_refused": surface.share.refused,
                "syscalls": surface.share.total,
                "primitives_refused": surface.refused,
                "primitives": len(primitives),
                "primitives_used": len(surface.used or ()),
                "refused_unused": surface.refused_unused or 0.0,
            }


@dataclass(frozen=True)
class Calibration:
    """Predicted and seen, the mean over random subsets of the tasks of one program.

    Args:
        program: name.
        level: of the profiles.
        runs: tasks learned from, each as one run.
        predicted: `Completeness.unseen`.
        upper: `Completeness.unseen_upper`.
        seen: share of the other tasks that the profile refused something.
        predicted_mass: Good-Turing's share of a further task's distinct tuples that are new.
        seen_mass: the share that was.
    """

    program: str
    level: str
    runs: int
    predicted: float
    upper: float
    seen: float
    predicted_mass: float
    seen_mass: float


def calibrate(name: str, tasks: Sequence[Sequence[Trace]]) -> list[Calibration]:
    """Learn from some tasks, predict the others, and compare; each task is one run.

    Args:
        name: of the program.
        tasks: the traces of each task, of both workloads.
    """
    found = []
    alone = [as_runs([task]) for task in tasks]
    for size in SIZES:
        if size > len(tasks) - 2:
            continue
        choose = random.Random(size)
        picks = [sorted(choose.sample(range(len(tasks)), size)) for _ in range(SUBSETS)]
        for level in LEVELS:
            rows = [_one(alone, pick, level) for pick in picks]
            means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
            found.append(Calibration(name, level, size, *means))
    return found


def _one(alone: Sequence[Trace], pick: Sequence[int], level: str) -> tuple[float, ...]:
    trace = as_runs([[alone[i]] for i in pick])
    inference = infer(trace, level=level)
    others = [task for i, task in enumerate(alone) if i not in pick]
    refused = [bool(refused_of(inference.profile, other.observations)) for other in others]
    seen: Incidence = run_incidence(call_groups(trace.observations), len(pick))
    new, total = 0, 0
    for other in others:
        species = run_incidence(call_groups(other.observations), 1).frequency
        new += sum(1 for one in species if one not in seen.frequency)
        total += len(species)
    return (
        inference.completeness.unseen or jeffreys_mean(0, 1),
        inference.completeness.unseen_upper,
        sum(refused) / len(refused),
        seen.unseen_mass or 0.0,
        new / total,
    )
