"""The union of two profiles: it accepts every call that either accepts.

For every call the merged action is the milder of the two, and for profiles of the same arches it is exactly
that: a refusal survives only where both sides refuse. Nothing else is refused or accepted by accident.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from autoprofile.errors import ProfileError
from autoprofile.profile.arg import ANY
from autoprofile.profile.canonical import arches_with
from autoprofile.profile.model import LEVELS, Learned, Profile, Program
from autoprofile.profile.region import intersection, is_subset, subtract, subtract_all, witness
from autoprofile.profile.rule import SeccompRule
from autoprofile.profile.wording import call_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.profile.action import Action
    from autoprofile.profile.region import Region
    from autoprofile.profile.rule import Evidence

__all__ = ["Merged", "Widening", "merge", "merge_noting"]

# A syscall whose exact union takes more rules than this gets a wider, short one.
_MAX_RULES: Final = 256
_LEFT_OUT_CALLS: Final = 5


@dataclass(frozen=True, slots=True)
class Widening:
    """Say that one syscall's union is wider than exact.

    Args:
        syscall: its name or number.
        arch: the arch it is about.
        rules: how many rules the exact union takes at least.
    """

    syscall: str | int
    arch: str
    rules: int

    def to_dict(self) -> dict[str, str | int]:
        """Return plain JSON values."""
        return {"syscall": self.syscall, "arch": self.arch, "rules": self.rules}

    def __str__(self) -> str:
        return (
            f"the exact union of {self.syscall} on {self.arch} takes more than {_MAX_RULES} rules: a shorter "
            "one is used, which may allow calls that both profiles refuse"
        )


@dataclass(frozen=True, slots=True)
class Merged:
    """A union, and where it is wider than exact."""

    profile: Profile
    widenings: tuple[Widening, ...]


def merge(a: Profile, b: Profile) -> Profile:
    """Return the union of two profiles; see `merge_noting`, which also says where it is wider than exact."""
    return merge_noting(a, b).profile


def merge_noting(a: Profile, b: Profile) -> Merged:
    """Return the profile whose action for every call is the milder of what `a` and `b` answer.

    * **Rules**: calls accepted by either are accepted. widens: where one side refuses by a ``deny`` rule
      what the other accepts, the refusal gives way; it stays for the calls the other refuses as well.
    * **default**, **bad_arch**: the milder of the two (``EPERM`` is milder than ``kill``).
    * **arch**: those of both. widens: on an arch that only one side lists, calls without a rule get the
      merged default, a milder refusal than before perhaps; were it to permit them, the merge fails.
    * **level**: the more permissive. **mode**: kept when equal; else ``denylist`` when the merged default
      permits, else ``hybrid``.
    * **program**: what both agree on; of two commands of one program the first. **learned**: sums, the runs
      of `b` numbered after those of `a`; ``left_out`` holds at least what each run would have met without
      itself, ``unseen`` follows from it, ``complete`` holds when both are. Evidence of equal rules adds up.

    In what it decides, the merge is commutative. When the exact union of one syscall would take more than 256
    rules, refusals beside the milder rules are dropped for that syscall: widens, and may allow what both
    refuse; the result names it.

    Raises:
        ProfileError: the merge would permit every call on an arch where one side refuses calls by default.
    """
    arches = (*a.arch, *(arch for arch in b.arch if arch not in a.arch))
    defaults = {arch: _milder(_default(a, arch), _default(b, arch)) for arch in arches}
    default = min(defaults.values(), key=lambda action: action.rank)
    for arch, own in defaults.items():
        if default.is_permitting and not own.is_permitting:
            raise ProfileError(
                f"merging would permit every call on {arch}, where the default is {own}",
                hint="the profiles differ in arch and in default; make them list the same arches first",
            )
    rules: list[SeccompRule] = []
    widenings: list[Widening] = []
    for arch in arches:
        sides = [(p, _default(p, arch), p.syscalls(arch)) for p in (a, b)]
        for syscall in sorted(sides[0][2] | sides[1][2], key=str):
            (mine, own, _), (theirs, other, _) = sides
            merged, needed = _union(
                mine.rules_for(arch, syscall), own, theirs.rules_for(arch, syscall), other
            )
            if needed is not None:
                widenings.append(Widening(syscall, arch, needed))
            rules += [
                SeccompRule(syscall, action, region or ANY, (arch,), evidence)
                for (region, action), evidence in merged.items()
            ]
    mixed = "denylist" if default.is_permitting else "hybrid"
    profile = Profile(
        program=_program(a.program, b.program),
        learned=_learned(a, b),
        arch=arches,
        level=max(a.level, b.level, key=LEVELS.index),
        mode=a.mode if a.mode == b.mode else mixed,
        default=default,
        bad_arch=_milder(a.bad_arch, b.bad_arch),
        rules=tuple(rules),
    )
    return Merged(profile, tuple(widenings))


def _milder(one: Action, other: Action) -> Action:
    return min(one, other, key=lambda action: action.rank)


def _default(profile: Profile, arch: str) -> Action:
    return profile.default if arch in profile.arch else profile.bad_arch


_Union = dict[tuple["Region", "Action"], "Evidence | None"]


def _union(
    mine: Sequence[SeccompRule], own: Action, theirs: Sequence[SeccompRule], other: Action
) -> tuple[_Union, int | None]:
    # Returns how many rules the exact union would take, at least, when it is not used; None when it is.
    # The milder of two decisions, each the severest of its matching rules, is the severest of all pairwise
    # milder ones (min distributes over max). So it suffices to say, for each rule of one side, where the
    # other side is no milder, and to do that for both sides.
    found: _Union = {}
    needed = None
    exact = _emit(found, mine, own, theirs, other) and _emit(found, theirs, other, mine, own)
    if not exact or len(found) > max(_MAX_RULES, 2 * (len(mine) + len(theirs))):
        # widens: every rule with the mildest thing that can happen anywhere in it.
        needed = max(len(found), _MAX_RULES + 1)
        found = {}
        for rules, against, fallback in ((mine, theirs, other), (theirs, mine, own)):
            floor = min((fallback, *(rule.action for rule in against)), key=lambda action: action.rank)
            for rule in rules:
                _put(found, rule.comparators, _milder(rule.action, floor), rule.evidence)
    _prune(found, mine, theirs)
    return found, needed


def _emit(
    found: _Union, rules: Sequence[SeccompRule], own: Action, others: Sequence[SeccompRule], other: Action
) -> bool:
    regions = [rule.comparators for rule in others]
    for rule in rules:
        rank = rule.action.rank
        milder = [one for one in others if one.action.rank < rank]
        severer = [one for one in others if one.action.rank >= rank]
        if other.rank >= rank:
            if not milder:
                _put(found, rule.comparators, rule.action, rule.evidence)
                continue
            pieces = subtract_all(rule.comparators, [one.comparators for one in milder], _MAX_RULES)
        else:
            # Outside the other side's rules its milder default counts; said only where nothing else says it.
            pieces = []
            if own.rank < other.rank or any(one.action.rank < other.rank for one in rules):
                rest = subtract_all(rule.comparators, regions, _MAX_RULES)
                if rest is None:
                    return False
                for piece in rest:
                    _put(found, piece, other, rule.evidence)
        if pieces is None:
            return False
        for piece in pieces:
            _put(found, piece, rule.action, rule.evidence)
        for one in severer:
            both = intersection(rule.comparators, one.comparators)
            if both is not None:
                _put(found, both, rule.action, rule.evidence)
        if len(found) > 4 * _MAX_RULES:
            return False
    return True


def _put(found: _Union, region: Region, action: Action, evidence: Evidence | None) -> None:
    key = (tuple(sorted(region, key=lambda one: one.sort_key)), action)
    kept = found.get(key)
    found[key] = evidence if kept is None else kept.joined(evidence)


def _prune(found: _Union, mine: Sequence[SeccompRule], theirs: Sequence[SeccompRule]) -> None:
    # A rule inside another of the same or a severer action never decides. What one side alone holds twice is
    # its author's business; only what the merge itself made superfluous goes.
    if {(r.comparators, r.action) for r in mine} == {(r.comparators, r.action) for r in theirs}:
        return
    sides = [{(rule.comparators, rule.action) for rule in rules} for rules in (mine, theirs)]
    keys = sorted(found, key=lambda key: len(key[0]))
    of = [[key in side for side in sides] for key in keys]
    gone: set[int] = set()
    for at, (region, action) in enumerate(keys):
        call = witness(region)
        for other, (outer, severity) in enumerate(keys):
            # The witness settles most pairs: regions of learned rules lie apart.
            if call is not None and not all(one.match(call[one.index]) for one in outer):
                continue
            if other == at or other in gone or severity.rank < action.rank:
                continue
            if any(a and b for a, b in zip(of[at], of[other], strict=True)) or not is_subset(region, outer):
                continue
            gone.add(at)
            evidence = found.pop(keys[at])
            if severity == action and evidence is not None:
                found[keys[other]] = evidence.joined(found[keys[other]])
            break


def _program(a: Program, b: Program) -> Program:
    return Program(
        a.path if a.path == b.path else None,
        a.build_id if a.build_id == b.build_id else None,
        a.argv if a.argv == b.argv or (a.argv and a.path is not None and a.path == b.path) else (),
    )


def _learned(one: Profile, other: Profile) -> Learned | None:
    a, b = one.learned, other.learned
    if a is None or b is None:
        return a or b
    runs, lost, events = a.runs + b.runs, a.lost + b.lost, a.events + b.events
    left_out = _left_out(one, other)
    unseen = None if a.unseen is None or b.unseen is None else max(a.unseen, b.unseen)
    if left_out is not None and runs > 1:
        # Jeffreys' estimate from leave-one-run-out, as learning gives it (learn/completeness.py); each lost
        # call may have been something new.
        share = lost / (lost + events) if lost else 0.0
        unseen = float(f"{max((len(left_out) + 0.5) / (runs + 1), share):.4g}")
    return Learned(
        runs=runs,
        processes=a.processes + b.processes,
        events=events,
        lost=lost,
        kernel=a.kernel if a.kernel == b.kernel else None,
        libc=a.libc if a.libc == b.libc else None,
        unseen=unseen,
        backend=a.backend if a.backend == b.backend else None,
        complete=a.complete and b.complete,
        binaries={
            path: a.binaries.get(path, build) if a.binaries.get(path, build) == build else ""
            for path, build in {**a.binaries, **b.binaries}.items()
        },
        left_out=left_out,
    )


def _left_out(one: Profile, other: Profile) -> dict[int, tuple[str, ...]] | None:
    # What a run would have met without itself only shrinks when runs are added, so what each side says of
    # its own runs stands. A side of one run says nothing of it, but what the other side refuses it does.
    found: dict[int, tuple[str, ...]] = {}
    first = 1
    for mine, theirs in ((one, other), (other, one)):
        learned = mine.learned
        assert learned is not None
        if learned.runs == 1:
            if refused := _refused(mine, theirs):
                found[first] = refused
        elif learned.left_out is not None:
            found |= {first + run - 1: calls for run, calls in learned.left_out.items()}
        elif learned.runs:
            return None
        first += learned.runs
    return found


def _refused(mine: Profile, theirs: Profile) -> tuple[str, ...]:
    # Calls that rules with evidence of calls allow here and that are refused there.
    found: list[str] = []
    for rule in mine.rules:
        if not rule.action.is_permitting or rule.evidence is None or not rule.evidence.count:
            continue
        for arch in rule.arch or arches_with(rule.syscall, mine.arch):
            call = _refused_call(rule, arch, theirs)
            if call is not None:
                found.append(call)
                break
    few = found[:_LEFT_OUT_CALLS]
    return (*few, f"and {len(found) - len(few)} more") if len(found) > len(few) else tuple(few)


def _refused_call(rule: SeccompRule, arch: str, theirs: Profile) -> str | None:
    own = _default(theirs, arch)
    left: list[Region] = [rule.comparators]
    for other in theirs.rules_for(arch, rule.syscall):
        if not other.action.is_permitting:
            for region in left:
                both = intersection(region, other.comparators)
                if both is not None and (call := witness(both)) is not None:
                    return call_text(arch, rule.syscall, call)
        left = [piece for region in left for piece in subtract(region, other.comparators)]
        if len(left) > _MAX_RULES:
            break  # too many pieces to tell: what is left counts as refused
    if own.is_permitting:
        return None
    return next((call_text(arch, rule.syscall, c) for r in left if (c := witness(r)) is not None), None)
