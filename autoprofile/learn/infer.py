"""Turn a trace into a profile: `learn`, and `infer`, which also says how and how surely.

In: a trace. Out: a profile, or an `Inference` (profile, notes, completeness). Pure: the same trace gives the
same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, TypedDict, Unpack

from autoprofile.abi.arch import ARCHES
from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.learn.calls import arch_rank, call_groups
from autoprofile.learn.completeness import Completeness, completeness
from autoprofile.learn.evidence import CONFIDENCE
from autoprofile.learn.generalise import Policy
from autoprofile.learn.levels import Decided, Leveled, rules_of_level
from autoprofile.learn.modes import DEFAULTS, rules_of_mode
from autoprofile.learn.price import WORTH
from autoprofile.profile.canonical import canonical_rules
from autoprofile.profile.model import LEVELS, MODES, Learned, Profile, Program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.learn.price import Constraint
    from autoprofile.observations import Observation, Trace
    from autoprofile.profile.action import Action

__all__ = ["NOT_WHOLE", "Inference", "infer", "learn", "program_of"]

NOT_WHOLE = "the trace is incomplete: the program was not followed from its start to its end"
"""The note on a trace that lost nothing, and yet is not all of the program."""

LEFT_OUT_CALLS = 5
"""Calls of one left-out run that the profile names; the estimate holds all of them."""


@dataclass(frozen=True, slots=True)
class Inference:
    """Hold a profile and what there is to say about how it was made.

    Args:
        profile: the result.
        notes: what was lost or left out: things to be warned of, most important first.
        completeness: how much of the program's needs the trace has shown.
        constraints: what each constraint shuts out and costs, kept or dropped; empty at strict, which weighs
            none.
        decided: what the level decided without having seen it, and by which rules.
    """

    profile: Profile
    notes: tuple[str, ...]
    completeness: Completeness
    constraints: tuple[Constraint, ...] = ()
    decided: tuple[Decided, ...] = ()


class Options(TypedDict, total=False):
    """The keyword arguments that `learn` and `infer` share; `infer` says what each means."""

    level: str
    mode: str
    default: Action | None
    program: Program | None
    confidence: float
    worth: float
    deny_failed: bool
    deny_opaque: bool
    deny_jit: bool
    deny_lookups: bool


def learn(trace: Trace, **options: Unpack[Options]) -> Profile:
    """Return the profile that `trace` supports; see `infer`, which takes the same arguments and says more."""
    return infer(trace, **options).profile


def infer(
    trace: Trace,
    *,
    level: str = "strict",
    mode: str = "allowlist",
    default: Action | None = None,
    program: Program | None = None,
    confidence: float = CONFIDENCE,
    worth: float = WORTH,
    deny_failed: bool = True,
    deny_opaque: bool = True,
    deny_jit: bool = True,
    deny_lookups: bool = True,
) -> Inference:
    """Infer a profile from a trace.

    The processes of one tree inherit one filter, so the profile is the union over the programs that the trace
    shows; the evidence of equal calls is summed.

    Args:
        trace: the observations of one or more runs.
        level: how much beyond what was seen is allowed.
        mode: what happens to calls that no rule names.
        default: the action for them; by default what the mode says (`modes.DEFAULTS`).
        program: what the profile is for; the first program of the first run unless given.
        confidence: when evidence counts as saturated, and the level of the bound on the unseen (see
            `Policy`).
        worth: gain that a constraint has to bring for each nanosecond on the mean call (not at strict).
        deny_failed: deny calls that always met ENOSYS or EPERM with that error (not at strict).
        deny_opaque: deny clone3 with ENOSYS, so that libc uses clone (not at strict).
        deny_jit: answer unseen requests for writable and executable memory with EACCES, not the default,
            where a library was loaded that goes on without (not at strict).
        deny_lookups: answer the first calls of lookups of users, hosts and locales, where none was seen, with
            an error that the C library expects, not the default (not at strict, and only where the default
            refuses).

    Raises:
        AutoprofileError: the trace holds no call of a known arch.
        UsageError: no such level or mode, or a threshold out of range.
    """
    if level not in LEVELS:
        raise UsageError(f"there is no level {level!r}", hint="levels are " + ", ".join(LEVELS))
    if mode not in MODES:
        raise UsageError(f"there is no mode {mode!r}", hint="modes are " + ", ".join(MODES))
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence of {confidence:g} is none", hint="it lies between 0 and 1: 0.95")
    if not 0 <= worth < inf:
        raise UsageError(f"a worth of {worth:g} weighs nothing", hint="it is a number from 0 up: 1")
    found = sorted({o.arch for o in trace.observations}, key=arch_rank)
    arches = tuple(a for a in found if a in ARCHES)
    if not arches:
        raise AutoprofileError(
            "the trace holds no call to learn from",
            hint="check that the command ran; `learn -v` says what the source lost",
        )
    identity = program or program_of(trace)
    policy = Policy(level, confidence, worth)
    action = default or DEFAULTS[mode]

    def leveled(observations: Sequence[Observation]) -> Leveled:
        groups = call_groups(observations)
        result = rules_of_level(
            groups,
            arches,
            policy,
            deny_failed=deny_failed,
            deny_opaque=deny_opaque,
            deny_lookups=deny_lookups and mode == "allowlist" and action.is_refusing,
            libraries=trace.meta.libraries if deny_jit else (),
        )
        result.rules = rules_of_mode(mode, result.rules, groups, arches)
        return result

    def profile(found: Leveled, learned: Learned | None = None) -> Profile:
        return Profile(
            program=identity,
            learned=learned,
            arch=arches,
            level=level,
            mode=mode,
            default=action,
            rules=tuple(found.rules),
        )

    runs = trace.meta.runs
    estimate = completeness(
        trace.observations,
        runs,
        trace.ledger,
        trace.meta.complete,
        lambda observations: profile(leveled(observations)),
        confidence=confidence,
    )
    leveling = leveled(trace.observations)
    # in the form that profiles have, so that they are found in one
    decided = [replace(one, rules=canonical_rules(one.rules, arches)) for one in leveling.decided]
    return Inference(
        profile(leveling, _learned(trace, estimate)),
        _notes(trace, arches),
        estimate,
        tuple(leveling.constraints),
        (*_thin_evidence(runs, leveling.units, policy), *decided),
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
        binaries=_binaries(trace),
        left_out=_left_out(estimate),
    )


def _left_out(estimate: Completeness) -> dict[int, tuple[str, ...]] | None:
    # Of a sample of the runs a profile says nothing: what is not there would read as denied nothing.
    if estimate.runs < 2 or len(estimate.left_out) != estimate.runs:
        return None
    found = {}
    for one in estimate.left_out:
        calls = [text for text, _ in one.denials[:LEFT_OUT_CALLS]]
        if len(one.denials) > LEFT_OUT_CALLS:
            calls.append(f"and {len(one.denials) - LEFT_OUT_CALLS} more")
        if calls:
            found[one.run + 1] = tuple(calls)
    return found


def _binaries(trace: Trace) -> dict[str, str]:
    # What was mapped when processes ended, and the programs of those that did not get that far.
    found = {path: build for path, build in trace.meta.libraries.items() if build}
    for program in {o.program for o in trace.observations}:
        if build := program.build_id:
            found[program.path] = build if found.get(program.path, build) == build else ""
    # A name that a profile cannot hold (not UTF-8) is left out: drift then knows less, and says so.
    return {path: found[path] for path in sorted(found) if path.startswith("/") and path.isprintable()}


def _thin_evidence(runs: int, units: int, policy: Policy) -> tuple[Decided, ...]:
    # widens: with too little evidence every constraint takes its widest form
    if policy.level == "strict" or units > 1:
        return ()
    seen = "only one run" if runs == 1 else f"{runs} runs made the very same calls"
    return (Decided(f"{seen}: arguments stay open except for unseen risks; add runs that differ (--merge)"),)


def _notes(trace: Trace, arches: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if trace.ledger.total:
        what = ", ".join(f"{reason}: {n}" for reason, n in sorted(trace.ledger.entries.items()))
        notes.append(f"the trace is incomplete ({what}): the program may need more than the profile allows")
    elif not trace.meta.complete:
        notes.append(NOT_WHOLE)
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
