"""Turn a trace into a profile: `learn`, and `infer`, which also says how and how surely.

In: a trace. Out: a profile, or an `Inference` (profile, notes, completeness). Pure: the same trace gives the
same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprofile.abi.arch import ARCHES
from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.learn.calls import arch_rank, call_groups
from autoprofile.learn.completeness import Completeness, completeness
from autoprofile.learn.strict import strict_rules
from autoprofile.profile.action import Action
from autoprofile.profile.model import Learned, Profile, Program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.observations import Observation, Trace

__all__ = ["LEVELS", "MODES", "Inference", "infer", "learn"]

LEVELS = ("strict",)
MODES = ("allowlist",)


@dataclass(frozen=True, slots=True)
class Inference:
    """Hold a profile and what there is to say about how it was made.

    Args:
        profile: the result.
        notes: things a reader must know, most important first: what was lost, left out or widened.
        completeness: how much of the program's needs the trace has shown.
    """

    profile: Profile
    notes: tuple[str, ...]
    completeness: Completeness


def learn(
    trace: Trace,
    *,
    level: str = "strict",
    mode: str = "allowlist",
    default: Action = Action.KILL_PROCESS,
    program: Program | None = None,
) -> Profile:
    """Return the profile that `trace` supports; see `infer`, which takes the same arguments and says more."""
    return infer(trace, level=level, mode=mode, default=default, program=program).profile


def infer(
    trace: Trace,
    *,
    level: str = "strict",
    mode: str = "allowlist",
    default: Action = Action.KILL_PROCESS,
    program: Program | None = None,
) -> Inference:
    """Infer a profile from a trace.

    The processes of one tree inherit one filter, so the profile is the union over the programs that the trace
    shows; the evidence of equal calls is summed.

    Args:
        trace: the observations of one or more runs.
        level: how much beyond what was seen is allowed.
        mode: what happens to calls that no rule names.
        default: the action for them.
        program: what the profile is for; the first program of the first run unless given.

    Raises:
        AutoprofileError: the trace holds no call of a known arch.
        UsageError: no such level or mode.
    """
    if level not in LEVELS:
        raise UsageError(f"there is no level {level!r}", hint="levels are " + ", ".join(LEVELS))
    if mode not in MODES:
        raise UsageError(f"there is no mode {mode!r}", hint="modes are " + ", ".join(MODES))
    found = sorted({o.arch for o in trace.observations}, key=arch_rank)
    arches = tuple(a for a in found if a in ARCHES)
    if not arches:
        raise AutoprofileError(
            "the trace holds no call to learn from",
            hint="check that the command ran; `learn -v` says what the source lost",
        )
    identity = program or program_of(trace)

    def profile_of(observations: Sequence[Observation], learned: Learned | None = None) -> Profile:
        return Profile(
            program=identity,
            learned=learned,
            arch=arches,
            level=level,
            mode=mode,
            default=default,
            rules=tuple(strict_rules(call_groups(observations), arches)),
        )

    estimate = completeness(
        trace.observations, trace.meta.runs, trace.ledger, trace.meta.complete, profile_of
    )
    return Inference(
        profile_of(trace.observations, _learned(trace, estimate)),
        _notes(trace, arches),
        estimate,
    )


def program_of(trace: Trace) -> Program:
    """Return the identity of the traced program: the executable that made the first call of the first run."""
    first = min(trace.observations, key=lambda o: (o.run, o.first_ns, o.key), default=None)
    path = first.program.path if first is not None and first.program.path != "?" else None
    build_id = first.program.build_id if first is not None else None
    return Program(path=path, build_id=build_id, argv=trace.meta.argv)


def _learned(trace: Trace, estimate: Completeness) -> Learned:
    meta = trace.meta
    return Learned(
        runs=meta.runs,
        processes=trace.process_count,
        events=trace.events,
        lost=trace.ledger.total,
        kernel=meta.kernel,
        libc=meta.libc,
        unseen=None if estimate.unseen is None else float(f"{estimate.unseen:.4g}"),
        backend=meta.backend,
        complete=estimate.complete,
    )


def _notes(trace: Trace, arches: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if trace.ledger.total:
        what = ", ".join(f"{reason}: {n}" for reason, n in sorted(trace.ledger.entries.items()))
        notes.append(f"the trace is incomplete ({what}): the program may need more than the profile allows")
    elif not trace.meta.complete:
        notes.append("the trace is incomplete: the program was not followed from its start to its end")
    for arch in sorted({o.arch for o in trace.observations} - set(arches)):
        calls = sum(o.count for o in trace.observations if o.arch == arch)
        # narrows: nothing can be allowed for an arch that the filter does not know
        notes.append(f"{calls} calls of the unknown arch {arch} are left out and will be refused")
    for group in call_groups(trace.observations):
        if group.arch not in arches:
            continue
        if group.name is None:
            notes.append(
                f"syscall {group.nr} of {group.arch} has no name in the tables: it is allowed by number, "
                "its arguments unconstrained"
            )
        if any(t.unrecorded for t in group.tuples):
            # widens: see the evidence of the rules
            notes.append(f"some arguments of {group.syscall} were not recorded and are left unconstrained")
    return tuple(notes)
