"""What a profile says about a call of which not every argument is known.

In: a profile and a call; None stands for an argument that the evidence does not hold. Out: a decision where
it is the same whatever that argument was, else None: nothing is decided on a made-up value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.profile.model import Decision
from autoprofile.profile.wording import rule_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.profile.model import Profile

__all__ = ["decide_known", "passes"]


def passes(decision: Decision) -> bool:
    """Tell whether a decision lets a call through without a word.

    A rule that allows or logs does. So does a default of allow (a denylist). A default of log, trace or
    notify does not: it lets the call through, or may, precisely because nobody has accepted it yet.
    """
    if decision.rule is not None:
        return decision.action.is_permitting
    return decision.action.kind == "allow"


def decide_known(profile: Profile, arch: str, nr: int, args: Sequence[int | None]) -> Decision | None:
    """Return what a profile answers to a call, None where that depends on an argument that is not known.

    Args:
        profile: what decides.
        arch: of the call.
        nr: its number.
        args: its six registers, None where the evidence does not hold one.
    """
    unknown = {i for i, a in enumerate(args) if a is None}
    matching = [
        rule
        for rule in profile.rules_for(arch, nr)
        if all(c.index in unknown or c.match(args[c.index] or 0) for c in rule.comparators)
    ]
    doubtful = [rule for rule in matching if any(c.index in unknown for c in rule.comparators)]
    if not doubtful:
        return profile.decide_call(arch, nr, [a or 0 for a in args])
    sure = next((rule for rule in matching if rule not in doubtful), None)
    if sure is not None:
        decision = Decision(sure.action, sure, f"rule {rule_text(arch, sure)}")
    else:
        decision = Decision(profile.default, None, f"no rule surely matches: default {profile.default}")
    # The severest match wins: a sure refusal stays one, a sure pass only where no doubtful rule refuses.
    if sure is not None and not passes(decision):
        return decision
    agree = {rule.action.is_permitting for rule in doubtful} == {passes(decision)}
    return decision if agree else None
