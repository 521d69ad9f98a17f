"""Risk classes in a form that inference can calculate with: conditions over arguments, and weights.

In: the conditions of `abi.risk` as text. Out: clauses that can be tested on values and turned into
comparators. It judges nothing; what is a risk, and why, is data of the ABI room.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from autoprofile.abi.constants import constants, encode_mask, encode_value
from autoprofile.abi.risk import Risk, risk_conditions
from autoprofile.abi.signatures import signature
from autoprofile.profile.arg import Arg

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WEIGHT", "Clause", "RiskCondition", "conditions"]

WEIGHT: Mapping[str, float] = {"high": 100.0, "medium": 10.0, "low": 1.0}
"""What shutting out one risk class is worth, by severity. One unit pays for 1 ns on the mean call."""


_WHOLE = ((1 << 32) - 1, (1 << 64) - 1)


@dataclass(frozen=True, slots=True)
class Clause:
    """Test one argument.

    Args:
        index: of the argument.
        op: ``in`` (the masked value is one of `values`), ``any`` (some bit of `mask` is set), ``all``,
            ``none``.
        mask: the bits looked at.
        values: for ``in``.
    """

    index: int
    op: str
    mask: int
    values: frozenset[int] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether the whole argument is compared, not some of its bits."""
        return self.mask in _WHOLE

    def holds(self, value: int) -> bool:
        """Tell whether a value, as the kernel reads it, meets the clause."""
        bits = value & self.mask
        if self.op == "in":
            return bits in self.values
        if self.op == "any":
            return bits != 0
        return bits == self.mask if self.op == "all" else bits == 0


@dataclass(frozen=True, slots=True)
class RiskCondition:
    """Hold a risk and the clauses that must all hold for a call to carry it."""

    text: str
    risk: Risk
    clauses: tuple[Clause, ...]

    def holds(self, values: Mapping[int, int | None]) -> bool:
        """Tell whether a call carries the risk; an argument that is not read or not known carries none."""
        return all((v := values.get(c.index)) is not None and c.holds(v) for c in self.clauses)

    def comparators(self) -> list[tuple[Arg, ...]]:
        """Return the alternatives, each an AND of comparators, that together describe exactly these calls."""
        return [tuple(one) for one in product(*(_alternatives(clause) for clause in self.clauses))]


def _alternatives(clause: Clause) -> list[Arg]:
    if clause.op == "in":
        return [Arg(clause.index, "masked_eq", v, mask=clause.mask) for v in sorted(clause.values)]
    if clause.op == "any":
        bits = [1 << i for i in range(64) if clause.mask >> i & 1]
        return [Arg(clause.index, "masked_eq", b, mask=b) for b in bits]
    return [Arg(clause.index, "masked_eq", clause.mask if clause.op == "all" else 0, mask=clause.mask)]


_cache: dict[tuple[str, str], tuple[RiskCondition, ...]] = {}


def conditions(arch: str, name: str) -> tuple[RiskCondition, ...]:
    """Return the argument-level risks of a call that this arch's form of the call can carry."""
    key = (arch, name)
    if key not in _cache:
        found = []
        for text, risk in risk_conditions().get(name, ()):
            clauses = _parse(arch, name, text)
            if clauses is not None:
                found.append(RiskCondition(text, risk, clauses))
        _cache[key] = tuple(found)
    return _cache[key]


def _parse(arch: str, name: str, text: str) -> tuple[Clause, ...] | None:
    known = signature(arch, name)
    by_name = {spec.name: spec for spec in known.args} if known else {}
    words = text.split(" ")
    clauses = []
    for argument, operator, operand in zip(words[0::3], words[1::3], words[2::3], strict=True):
        spec = by_name.get(argument)
        if spec is None:
            return None
        whole = (1 << spec.width) - 1
        if operator.startswith("in"):
            mask = int(operator[3:], 0) if operator.startswith("in/") else whole
            # A symbol that this arch does not have (KVM on arm) has no value that a call could carry there.
            known_here = constants(spec.constants, arch) if spec.constants else {}
            items = [item for item in operand.split(",") if item in known_here or item[0].isdigit()]
            if not items:
                return None
            values = frozenset(encode_value(arch, spec, item) for item in items)
            clauses.append(Clause(spec.index, "in", mask, values))
        else:
            clauses.append(Clause(spec.index, operator, encode_mask(arch, spec, operand)))
    return tuple(clauses)
