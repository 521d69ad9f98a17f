"""Levels standard and permissive: from the tuples seen to what will be needed tomorrow, risks kept out.

In: one call group and how much evidence there is for it. Out: rules, and the `Constraint` that says in which
form, at what gain and price. Everything seen stays allowed, whatever the form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from itertools import product
from operator import or_
from typing import TYPE_CHECKING

from autoprofile.abi.constants import constants
from autoprofile.abi.risk import syscall_risk
from autoprofile.learn.clocks import apart
from autoprofile.learn.compact import boxes
from autoprofile.learn.distributions import incidence_of, value_at
from autoprofile.learn.evidence import CONFIDENCE, Incidence, upper_bound
from autoprofile.learn.price import WORTH, Constraint, gain_of, price_ns
from autoprofile.learn.risks import conditions
from autoprofile.learn.shapes import Masked, comparators, covers, intersects, simplify, subtract
from autoprofile.learn.strict import evidence_of, rules_of_group
from autoprofile.profile.action import Action
from autoprofile.profile.arg import ANY
from autoprofile.profile.rule import Evidence, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from autoprofile.abi.risk import Risk
    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.learn.calls import CallGroup, SeenTuple
    from autoprofile.learn.risks import RiskCondition
    from autoprofile.learn.shapes import Shape, ShapeSide

__all__ = ["Policy", "generalise", "open_shapes", "saturated"]

_MAX_SHAPES = 64
"""More shapes than this are no longer readable; then the tuples seen are kept as they are (narrows)."""

_MAX_VALUES = 128
"""More named values than this (socket options) are no list to read: then all but the risks is allowed."""

_FUTEXES = frozenset({"futex", "futex_time64"})
_FUTEX_FLAGS = 0x180
"""FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME (linux/futex.h): flags beside the commands, freely combined."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Set what generalising may do.

    Args:
        level: ``standard`` keeps every risk class out that was not seen, ``permissive`` only the high ones.
        confidence: a distribution counts as saturated when, with this confidence, a further sampling unit
            shows something new in at most 1 - confidence of the cases. 0.95 asks for 59 units without a
            singleton. Units are runs that differ from each other.
        worth: gain that each nanosecond on the mean call has to bring for a constraint to be kept.
    """

    level: str = "standard"
    confidence: float = CONFIDENCE
    worth: float = WORTH

    @property
    def severities(self) -> tuple[str, ...]:
        """The severities of the risks that stay out unless seen."""
        return ("high",) if self.level == "permissive" else ("high", "medium", "low")


def saturated(seen: Incidence, confidence: float) -> bool:
    """Tell whether a further unit would hardly show a species that was not seen.

    The upper bound of the probability that it does, with every species seen in one unit only counted as a
    unit that showed something new (Good-Turing), has to lie below 1 - confidence.
    """
    if seen.units < 2:
        return False
    return upper_bound(min(seen.seen_in(1), seen.units), seen.units, confidence) <= 1 - confidence + 1e-9


def generalise(
    group: CallGroup, limit: tuple[str, ...] | None, same: Mapping[int, int], share: float, policy: Policy
) -> tuple[list[SeccompRule], Constraint | None]:
    """Return the rules of one syscall and the constraint they make, if there is anything to constrain.

    Args:
        group: what was seen.
        limit: the arch limit of the rules.
        same: for each run the first that did the same (`calls.distinct_runs`).
        share: the share of all calls that were this one.
        policy: level and thresholds.
    """
    if not group.specs or group.name is None:
        return rules_of_group(group, limit), None
    whole = syscall_risk(group.name)
    risky = whole is not None and whole.severity in _exact_severities(policy)
    form = "exact" if risky else _form(group, same, policy.confidence)
    shapes = [] if form == "exact" else _shapes(group, form, policy)
    rules = _rules(group, limit, shapes, policy.level)
    refused = _shut_out(group, shapes, rules, policy, whole if risky else None)
    gain, classes = gain_of(refused)
    price = price_ns(share)
    if form != "exact" and any(all(side is None for side in shape) for shape in shapes):
        form = "any"
    kept = form != "any" and gain > 0 and gain >= policy.worth * price
    why = _why(form, kept, gain, price, classes)
    constraint = Constraint(
        group.arch, group.name, form if kept else "any", classes, gain, share, price, kept, why
    )
    if not kept:
        reason = None if len(rules) == 1 and rules[0].args is ANY else f"{policy.level}: {why}"
        rules = [SeccompRule(group.syscall, Action.ALLOW, ANY, limit, evidence_of(group.tuples, reason))]
    return rules, constraint


def _exact_severities(policy: Policy) -> tuple[str, ...]:
    # A call that is a risk whatever its arguments: what was not seen of it is not added.
    return ("high",) if policy.level == "permissive" else ("high", "medium")


def _form(group: CallGroup, same: Mapping[int, int], confidence: float) -> str:
    # The finest description whose distribution is saturated: joint tuples, then single values, then bits.
    def holds(species: Callable[[SeenTuple], Iterable[object]]) -> bool:
        return saturated(incidence_of(group, same, species), confidence)

    columns = range(len(group.specs))
    if holds(lambda t: [t.values]):
        return "exact"
    if all(holds(partial(value_at, at)) for at in columns):
        return "values"
    return "bits" if all(holds(partial(_bits_at, at)) for at in columns) else "open"


def _bits_at(at: int, t: SeenTuple) -> list[object]:
    return _bits(t.values[at])


def _bits(value: int | None) -> list[object]:
    # None is a species of its own: the argument was free
    return [None] if value is None else [1 << i for i in range(64) if value >> i & 1]


def _kept_out(group: CallGroup, policy: Policy) -> list[RiskCondition]:
    # A low risk that was seen is taken for the program's nature; a higher one is allowed only exactly as it
    # was seen.
    assert group.name is not None
    seen = [dict(zip((s.index for s in group.specs), t.values, strict=True)) for t in group.tuples]
    return [
        c
        for c in conditions(group.arch, group.name)
        if c.risk.severity in policy.severities
        and (c.risk.severity != "low" or not any(c.holds(values) for values in seen))
    ]


def _shapes(group: CallGroup, form: str, policy: Policy) -> list[Shape]:
    risks = _kept_out(group, policy)
    compared = {clause.index for c in risks for clause in c.clauses}
    choices: list[list[ShapeSide]] = []
    for at, spec in enumerate(group.specs):
        values = frozenset(v for t in group.tuples if (v := t.values[at]) is not None)
        if spec.index not in compared:
            choices.append([None])
        elif form == "values" and values:
            choices.append([values])
        else:
            choices.append(_open_sides(group, spec, values, form == "bits"))
    shapes: list[Shape] = [tuple(sides) for sides in product(*choices)]
    for at, spec in enumerate(group.specs):
        if spec.used_if is not None and any(t.values[at] is None for t in group.tuples):
            shapes += [unread for shape in shapes for unread in _unread(shape, at, group.specs)]
    return _outside(shapes, risks, group.specs)


def _unread(shape: Shape, at: int, specs: Sequence[ArgSpec]) -> list[Shape]:
    # Of a shape that constrains an argument: the part in which the call does not read it (openat without
    # O_CREAT), where it holds whatever the register held.
    used_if = specs[at].used_if
    place = next((n for n, s in enumerate(specs) if used_if is not None and s.index == used_if.index), None)
    if used_if is None or place is None or shape[at] is None:
        return []
    decider = shape[place]
    if isinstance(decider, frozenset):
        left = frozenset(v for v in decider if not used_if.holds([0] * used_if.index + [v]))
        if not left:
            return []
        decider = left
    elif used_if.any_bits is not None:
        bits = reduce(or_, used_if.any_bits, 0)
        decider = decider or Masked(0, 0)
        if decider.value & bits:
            return []
        decider = decider.narrowed(bits, 0)
    else:
        return []  # narrows: values that are left out of an open side
    return [tuple(decider if n == place else None if n == at else side for n, side in enumerate(shape))]


def _open_sides(group: CallGroup, spec: ArgSpec, values: frozenset[int], only_bits: bool) -> list[ShapeSide]:
    whole = (1 << spec.width) - 1
    if spec.kind in ("flags", "mode"):
        used = 0
        for value in values:
            used |= value
        # bits of an argument that no call read were not seen to be 0
        return [Masked(whole & ~used, 0)] if only_bits and values else [None]
    if group.name == "ioctl":
        # An ioctl number says its driver, direction and size (asm-generic/ioctl.h); other drivers stay shut.
        return [Masked(whole & ~0xFF, driver) for driver in sorted({v & ~0xFF for v in values})]
    named = frozenset(constants(spec.constants, group.arch).values()) if spec.constants else frozenset()
    named = frozenset(v & whole for v in named)
    if group.name in _FUTEXES:
        named = frozenset(v & ~_FUTEX_FLAGS | flags for v in named for flags in (0, 0x80, 0x100, 0x180))
    return [named | values] if 0 < len(named) <= _MAX_VALUES else [None]


def _outside(shapes: list[Shape], risks: Sequence[RiskCondition], specs: Sequence[ArgSpec]) -> list[Shape]:
    for risk in risks:
        shapes = simplify(part for shape in shapes for part in subtract(shape, risk, specs))
        if len(shapes) > _MAX_SHAPES:
            return []
    return shapes


def open_shapes(group: CallGroup, policy: Policy) -> list[Shape]:
    """Return what level and risks leave open of a call that was not seen; nothing when it cannot be said."""
    return _shapes(group, "open", policy)


def _rules(
    group: CallGroup, limit: tuple[str, ...] | None, shapes: Sequence[Shape], level: str
) -> list[SeccompRule]:
    rules = []
    left = list(group.tuples)
    for shape in shapes:
        args = comparators(group.specs, shape)
        covered = [t for t in group.tuples if covers(shape, t.values)]
        left = [t for t in left if t not in covered]
        reason = f"{level}: everything of {group.name} that is of no unseen risk class"
        evidence = evidence_of(covered, reason) if covered else Evidence(reason=reason)
        rules.append(SeccompRule(group.syscall, Action.ALLOW, args, limit, evidence))
    for box in apart(group.specs, boxes(t.values for t in left)):
        covered = [t for t in left if covers(box, t.values)]
        args = comparators(group.specs, box)
        rules.append(SeccompRule(group.syscall, Action.ALLOW, args, limit, evidence_of(covered)))
    return rules


def _shut_out(
    group: CallGroup,
    shapes: Sequence[Shape],
    rules: Sequence[SeccompRule],
    policy: Policy,
    whole: Risk | None,
) -> list[Risk]:
    # What none of the shapes can match: the honest gain, whatever the form was meant to do. Of a class that
    # was seen, calls pass exactly as they were seen, and all its others are shut out.
    found = [
        c.risk
        for c in _kept_out(group, policy)
        if not any(intersects(shape, c, group.specs) for shape in shapes)
    ]
    if whole is not None and any(rule.args is not ANY for rule in rules):
        found.append(whole)
    return found


def _why(form: str, kept: bool, gain: float, price: float, classes: Sequence[str]) -> str:
    if gain == 0 or form == "any":
        return "its arguments shut out no risk class"
    figures = f"gain {gain:g} ({', '.join(classes)}), price {price:.3g} ns on the mean call"
    return figures if kept else f"not worth it: {figures}"
