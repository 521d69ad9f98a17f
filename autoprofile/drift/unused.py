"""Which allow rules nothing used: the other direction of drift, from traces only.

In: a profile and the observations it was compared with. Out: one record per rule that no observation needed.
Rules that were never observed (the baseline) are there for rare events and are not reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.risk import syscall_risk
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.drift.edit import removing_text
from autoprofile.drift.record import DriftRecord, record_id
from autoprofile.profile.wording import rule_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.observations import Observation, Trace
    from autoprofile.profile.model import Profile
    from autoprofile.profile.rule import SeccompRule

__all__ = ["RuleUse", "unused_records"]


class RuleUse:
    """Mark the rules of a profile that observations need."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._used: set[int] = set()
        self._by_call: dict[tuple[str, int], list[tuple[int, SeccompRule]]] = {}

    def mark(self, o: Observation) -> None:
        """Mark every allow rule that matches an observation, or may where arguments are not recorded."""
        key = (o.arch, o.nr)
        candidates = self._by_call.get(key)
        if candidates is None:
            matching = self.profile.rules_for(o.arch, o.nr)
            candidates = self._by_call[key] = [
                (i, rule) for i, rule in enumerate(self.profile.rules) if any(rule is m for m in matching)
            ]
        for i, rule in candidates:
            if i not in self._used and all(
                o.args[a.index] is None or a.match(o.args[a.index] or 0) for a in rule.comparators
            ):
                self._used.add(i)

    def unused(self) -> list[SeccompRule]:
        """Return the observed or hand-written allow rules that nothing needed."""
        return [
            rule
            for i, rule in enumerate(self.profile.rules)
            if i not in self._used and rule.action.is_permitting and not _is_unobserved(rule)
        ]


def _is_unobserved(rule: SeccompRule) -> bool:
    e = rule.evidence
    return e is not None and e.reason is not None and e.count is None


def unused_records(use: RuleUse, traces: Sequence[Trace]) -> list[DriftRecord]:
    """Return a record for each unused rule.

    Args:
        use: with all observations of `traces` marked.
        traces: what was compared; rules of arches that none of them ran are left alone.
    """
    arches = {o.arch for t in traces for o in t.observations}
    runs = sum(t.meta.runs for t in traces)
    lost = sum(t.ledger.total for t in traces)
    records = []
    for rule in use.unused():
        arch = next((a for a in rule.arch or use.profile.arch if a in arches), None)
        if arch is None:
            continue
        nr = syscall_nr(arch, rule.syscall) if isinstance(rule.syscall, str) else rule.syscall
        if nr is None:
            continue
        count = rule.evidence.count if rule.evidence else None
        risk = syscall_risk(rule.syscall) if isinstance(rule.syscall, str) else None
        why = f"none of the {runs} runs compared needed this rule"
        if count is not None:
            why += f"; when it was learned, {count} calls did"
        if lost:
            why += f" (but {lost} events were lost, one of which may have)"
        if risk:
            why += f"; removing it shuts out: {risk.reason}"
        records.append(
            DriftRecord(
                kind="unused_rule",
                id=record_id("unused_rule", arch, rule.syscall, _signature(rule)),
                # removing what is dangerous is worth a look, removing what is ordinary is tidiness
                severity="low" if risk else "info",
                arch=arch,
                syscall=str(rule.syscall),
                nr=nr,
                args=(),
                decoded=rule_values(arch, rule),
                program=use.profile.program.path if use.profile.program else None,
                programs=(),
                count=count or 0,
                why=why,
                edit=removing_text(use.profile, rule),
                witness={"source": "traces", "runs": runs, "lost": lost},
                risk=risk.name_class if risk else None,
                rule=rule,
            )
        )
    return records


def _signature(rule: SeccompRule) -> tuple[object, ...]:
    return tuple((a.index, a.op, a.values, a.mask) for a in rule.comparators)
