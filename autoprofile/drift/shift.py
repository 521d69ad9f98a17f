"""Did the frequencies shift: the same calls as learned, but in other proportions?

In: the counts beside the rules and those of later traces. Out: records of the syscalls whose share changed,
with the test and the effect size stated. Calls within a run are not independent, so significance alone proves
nothing here: the effect decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from math import erfc, log, sqrt
from typing import TYPE_CHECKING

from autoprofile.abi.syscalls import display_name, syscall_nr
from autoprofile.drift.record import DriftRecord, record_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.observations import Trace
    from autoprofile.profile.model import Profile
    from autoprofile.profile.rule import SeccompRule

__all__ = ["MIN_EFFECT", "MIN_EXPECTED", "SIGNIFICANCE", "Shift", "share_shift", "shifted_records"]

SIGNIFICANCE = 0.001
"""Level of the test over all syscalls together (Bonferroni-corrected for their number)."""

MIN_EFFECT = 0.1
"""Least Cramér's V: what Cohen calls a small effect for one degree of freedom."""

MIN_EXPECTED = 5.0
"""Least expected count in each of the four cells: the usual rule for the chi-squared approximation."""

_NAMING = ("eq", "in")


@dataclass(frozen=True, slots=True)
class Shift:
    """The result of one 2 x 2 G-test: this syscall and all others, then and now."""

    g: float
    p: float
    cramers_v: float


def share_shift(then: int, then_total: int, now: int, now_total: int) -> Shift | None:
    """Test whether a syscall's share of all calls changed; None when the counts are too small to tell.

    G = 2 Σ observed · ln(observed/expected), one degree of freedom; p from the chi-squared distribution;
    Cramér's V = √(X²/N) from Pearson's X².
    """
    observed = (then, then_total - then, now, now_total - now)
    total = then_total + now_total
    column = then + now
    if then_total == 0 or now_total == 0 or column in (0, total):
        return None
    expected = tuple(
        row * part / total for row in (then_total, now_total) for part in (column, total - column)
    )
    if min(expected) < MIN_EXPECTED:
        return None
    g = 2 * sum(o * log(o / e) for o, e in zip(observed, expected, strict=True) if o)
    chi2 = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    # rounding can leave a tiny negative number where the shares are equal
    g = max(g, 0.0)
    return Shift(g=g, p=erfc(sqrt(g / 2)), cramers_v=sqrt(chi2 / total))


def _counted(profile: Profile) -> dict[tuple[str, int], list[SeccompRule]]:
    # The allowing rules with counts, by arch and number; those of several arches say nothing of one.
    found: dict[tuple[str, int], list[SeccompRule]] = {}
    for rule in profile.rules:
        if rule.evidence is None or not rule.evidence.count or not rule.action.is_permitting:
            continue
        arches = rule.arch or profile.arch
        nr = syscall_nr(arches[0], rule.syscall) if isinstance(rule.syscall, str) else rule.syscall
        if nr is not None and len(arches) == 1:
            found.setdefault((arches[0], nr), []).append(rule)
    return found


def _are_apart(one: SeccompRule, other: SeccompRule) -> bool:
    # Whether an argument plainly keeps them apart: both name its values, and share none.
    return any(
        a.index == b.index and a.op in _NAMING and b.op in _NAMING and not {*a.values} & {*b.values}
        for a in one.comparators
        for b in other.comparators
    )


def shifted_records(profile: Profile, traces: Sequence[Trace]) -> list[DriftRecord]:
    """Return a record for each allowed syscall whose share of the calls changed with at least `MIN_EFFECT`.

    Only syscalls seen on both sides take part: a new one is `new_syscall`, a vanished one `unused_rule`. Left
    out are those with counted rules that may hold of one and the same call: their counts say how often each
    rule held, and add up to more than the calls there were.
    """
    then: Counter[tuple[str, int]] = Counter()
    for (arch, nr), rules in _counted(profile).items():
        if all(_are_apart(one, other) for one, other in combinations(rules, 2)):
            then[arch, nr] = sum(rule.evidence.count or 0 for rule in rules if rule.evidence is not None)
    now = Counter[tuple[str, int]]()
    for trace in traces:
        for o in trace.observations:
            now[o.arch, o.nr] += o.count
    both = sorted(key for key in then if now[key])
    then_total = sum(then[key] for key in both)
    now_total = sum(now[key] for key in both)
    records = []
    for arch, nr in both:
        shift = share_shift(then[arch, nr], then_total, now[arch, nr], now_total)
        if shift is None or shift.cramers_v < MIN_EFFECT or shift.p * len(both) > SIGNIFICANCE:
            continue
        before, after = then[arch, nr] / then_total, now[arch, nr] / now_total
        name = display_name(arch, nr)
        records.append(
            DriftRecord(
                kind="shifted",
                id=record_id("shifted", arch, name, ()),
                severity="info",
                arch=arch,
                syscall=name,
                nr=nr,
                args=(),
                decoded={},
                program=profile.program.path if profile.program else None,
                programs=(),
                count=now[arch, nr],
                why=(
                    f"its share of the calls went from {before:.1%} to {after:.1%} (G-test: G={shift.g:.1f}, "
                    f"p={shift.p:.1e}; effect: Cramér's V={shift.cramers_v:.2f})"
                ),
                edit="",
                witness={
                    "source": "traces",
                    "share_then": round(before, 6),
                    "share_now": round(after, 6),
                    "g": round(shift.g, 3),
                    "p": float(f"{shift.p:.3g}"),
                    "cramers_v": round(shift.cramers_v, 4),
                },
            )
        )
    return records
