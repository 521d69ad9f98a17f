"""Calls that give a program nothing it has not: who may open files for writing may also cut and rename them.

In: what was seen on an arch. Out: calls to open at level standard, each with the reason. The list is curated
data: a line has a trigger and calls that reach nothing beyond what the trigger reaches. It judges every call
of the tables that is no risk in itself; those it opens to nobody are in it too, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.abi.arch import AbiError
from autoprofile.abi.constants import encode_value
from autoprofile.abi.families import family
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.learn.risks import conditions
from autoprofile.learn.strict import arch_limit
from autoprofile.profile.action import Action
from autoprofile.profile.arg import Arg
from autoprofile.profile.rule import Evidence, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.learn.calls import CallGroup

__all__ = ["Companion", "Companions", "companion_rules", "companions", "companions_of"]

_DATA = Path(__file__).with_name("data") / "companions.tsv"


@dataclass(frozen=True, slots=True)
class Companion:
    """Name a call: whole, or with some values of one argument only.

    Args:
        syscall: its name.
        argument: the argument that decides; empty for the whole call.
        values: of this argument, as symbols.
    """

    syscall: str
    argument: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Companions:
    """Hold one line of the list.

    Args:
        trigger: ``always``; ``call:A,B`` (one of these or of their families was seen); ``risk:CLASS`` (a call
            of this risk class was); or ``never``.
        reason: what the calls do, for the label; with ``never``, why they are opened to nobody.
        calls: over all arches.
    """

    trigger: str
    reason: str
    calls: tuple[Companion, ...]


@cache
def companions() -> tuple[Companions, ...]:
    """Return the whole list."""
    lines = _DATA.read_text(encoding="utf-8").splitlines()[1:]
    rows = (line.split("\t") for line in lines)
    return tuple(
        Companions(trigger, reason, tuple(_companion(word) for word in calls.split(" ")))
        for trigger, reason, calls in rows
    )


def _companion(word: str) -> Companion:
    name, _, limit = word.rstrip(")").partition("(")
    argument, _, values = limit.partition("=")
    return Companion(name, argument, tuple(values.split(",")) if values else ())


def companions_of(arch: str, groups: Sequence[CallGroup]) -> dict[Companion, str]:
    """Return the companions of what was seen on `arch`, each with the reason; no whole call that was seen."""
    own = [g for g in groups if g.arch == arch and g.name is not None]
    seen = {str(g.name) for g in own}
    classes = {
        c.risk.name_class
        for g in own
        for c in conditions(arch, str(g.name))
        if any(c.holds(dict(zip((s.index for s in g.specs), t.values, strict=True))) for t in g.tuples)
    }
    found: dict[Companion, str] = {}
    for line in companions():
        kind, _, what = line.trigger.partition(":")
        if kind == "never" or (kind == "call" and not any(family(n) & seen for n in what.split(","))):
            continue
        if kind == "risk" and what not in classes:
            continue
        for call in line.calls:
            if syscall_nr(arch, call.syscall) is not None and (call.argument or call.syscall not in seen):
                found.setdefault(call, line.reason)
    return found


def companion_rules(
    arch: str, arches: Sequence[str], call: Companion, rules: Sequence[SeccompRule], evidence: Evidence
) -> list[SeccompRule]:
    """Return the rule for a companion with some values of one argument, as far as no rule decides them yet.

    Args:
        arch: which of the arches.
        arches: of the profile.
        call: has an argument.
        rules: of the profile so far; a value that one of them allows or refuses stays decided.
        evidence: for the rule.
    """
    spec = next((s for s in constrained_args(arch, call.syscall) if s.name == call.argument), None)
    if spec is None:
        return []
    own = [r for r in rules if r.syscall == call.syscall and (r.arch is None or arch in r.arch)]
    wanted = set()
    for text in call.values:
        try:
            value = encode_value(arch, spec, text)
        except AbiError:
            continue  # this arch has no such symbol
        args = [0] * 6
        args[spec.index] = value
        if not any(r.evaluate(args) for r in own):
            wanted.add(value)
    if not wanted:
        return []
    args_of_rule = (Arg(spec.index, "in", frozenset(wanted)),)
    return [SeccompRule(call.syscall, Action.ALLOW, args_of_rule, arch_limit(arch, arches), evidence)]
