"""Calls that give a program nothing it has not: who may open files for writing may also cut and rename them.

In: what was seen on an arch. Out: names to open at level standard, each with the reason. The list is curated
data: a line has a trigger and calls that reach nothing beyond what the trigger reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.abi.families import family
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.learn.risks import conditions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.learn.calls import CallGroup

__all__ = ["Companions", "companions", "companions_of"]

_DATA = Path(__file__).with_name("data") / "companions.tsv"


@dataclass(frozen=True, slots=True)
class Companions:
    """Hold one line of the list.

    Args:
        trigger: ``always``; ``call:A,B`` (one of these or of their families was seen); or ``risk:CLASS`` (a
            call of this risk class was).
        reason: what the calls do, for the label.
        calls: their names, over all arches.
    """

    trigger: str
    reason: str
    calls: tuple[str, ...]


@cache
def companions() -> tuple[Companions, ...]:
    """Return the whole list."""
    lines = _DATA.read_text(encoding="utf-8").splitlines()[1:]
    rows = (line.split("\t") for line in lines)
    return tuple(Companions(trigger, reason, tuple(calls.split(" "))) for trigger, reason, calls in rows)


def companions_of(arch: str, groups: Sequence[CallGroup]) -> dict[str, str]:
    """Return the companions of what was seen on `arch`, by name, each with the reason."""
    own = [g for g in groups if g.arch == arch and g.name is not None]
    seen = {str(g.name) for g in own}
    classes = {
        c.risk.name_class
        for g in own
        for c in conditions(arch, str(g.name))
        if any(c.holds(dict(zip((s.index for s in g.specs), t.values, strict=True))) for t in g.tuples)
    }
    found: dict[str, str] = {}
    for line in companions():
        kind, _, what = line.trigger.partition(":")
        if kind == "call" and not any(family(name) & seen for name in what.split(",")):
            continue
        if kind == "risk" and what not in classes:
            continue
        for name in line.calls:
            if name not in seen and syscall_nr(arch, name) is not None:
                found.setdefault(name, line.reason)
    return found
