"""Risk classes with their reasons, for whole calls and for calls with particular arguments.

A risk is a fact about the kernel interface (what the call can do to the confinement or to others), not a
judgement on one program. None means ordinary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from autoprofile.abi._tables import read_rows
from autoprofile.abi.constants import constants, encode_mask, encode_value
from autoprofile.abi.signatures import ArgSpec, kernel_value, signature

__all__ = ["Risk", "call_risk", "risk_conditions", "syscall_risk"]

_SEVERITY = {"high": 3, "medium": 2, "low": 1}


class Risk(NamedTuple):
    """Why a call deserves attention.

    Attributes:
        name_class: the class (``namespace``, ``write-and-execute``, ``kernel-code`` …).
        severity: ``high`` (breaks confinement or reaches the kernel's core), ``medium`` or ``low``.
        reason: one sentence for a person who decides whether to allow the call.
    """

    name_class: str
    severity: str
    reason: str


_Test = Callable[[Sequence[int]], bool]

_calls: dict[str, Risk] = {}
_conditions: dict[str, list[tuple[str, Risk]]] = {}
_compiled: dict[tuple[str, str], tuple[tuple[_Test, Risk], ...]] = {}


def _load() -> None:
    for name, condition, name_class, severity, reason in read_rows("risk.tsv"):
        risk = Risk(name_class, severity, reason)
        if condition == "*":
            _calls[name] = risk
        else:
            _conditions.setdefault(name, []).append((condition, risk))


def _values(arch: str, spec: ArgSpec, operand: str) -> frozenset[int]:
    known = constants(spec.constants, arch) if spec.constants else {}
    # A symbol that this architecture does not have (KVM on arm) has no value a call could carry there.
    return frozenset(
        encode_value(arch, spec, item) for item in operand.split(",") if item in known or item[0].isdigit()
    )


def _one_test(arch: str, spec: ArgSpec, operator: str, operand: str) -> _Test | None:
    """Compile ``any`` (some of these bits), ``all`` (all of them), ``none``, ``in`` (one of these values)."""
    index = spec.index
    if operator.startswith("in"):  # in/MASK: one of these values under a mask
        mask = int(operator[3:] or "0xffffffffffffffff", 0)
        values = _values(arch, spec, operand)
        return (lambda args: kernel_value(spec, args[index]) & mask in values) if values else None
    bits = encode_mask(arch, spec, operand)
    if operator == "any":
        return lambda args: args[index] & bits != 0
    if operator == "all":
        return lambda args: args[index] & bits == bits
    if operator == "none":
        return lambda args: args[index] & bits == 0
    raise AssertionError(f"risk.tsv: unknown operator {operator}")


def _compile(arch: str, name: str, condition: str) -> _Test | None:
    found = signature(arch, name)
    if found is None:
        return None
    by_name = {spec.name: spec for spec in found.args}
    words = condition.split(" ")
    tests: list[_Test] = []
    for argument, operator, operand in zip(words[0::3], words[1::3], words[2::3], strict=True):
        # A condition on an argument this architecture's form of the call lacks says nothing about it.
        spec = by_name.get(argument)
        test = _one_test(arch, spec, operator, operand) if spec else None
        if test is None:
            return None
        tests.append(test)
    return lambda args: all(test(args) for test in tests)


def _tests(arch: str, name: str) -> tuple[tuple[_Test, Risk], ...]:
    key = (arch, name)
    if key not in _compiled:
        pairs = []
        for condition, risk in risk_conditions().get(name, ()):
            test = _compile(arch, name, condition)
            if test is not None:
                pairs.append((test, risk))
        _compiled[key] = tuple(pairs)
    return _compiled[key]


def risk_conditions() -> Mapping[str, Sequence[tuple[str, Risk]]]:
    """Return the argument-level risks as written: name to (condition, risk), for documentation and tests."""
    if not _calls:
        _load()
    return _conditions


def syscall_risk(name: str) -> Risk | None:
    """Return the risk of allowing this call with any arguments at all, or None."""
    if not _calls:
        _load()
    return _calls.get(name)


def call_risk(arch: str, name: str, args: tuple[int, ...]) -> Risk | None:
    """Return the most severe risk of one call with these values; the call's own risk included.

    Args:
        arch: an architecture name; an unknown one leaves only the call's own risk.
        name: the syscall name.
        args: raw values; missing ones count as 0.
    """
    worst = syscall_risk(name)
    padded = (*args, 0, 0, 0, 0, 0, 0)
    for test, risk in _tests(arch, name):
        if (worst is None or _SEVERITY[risk.severity] > _SEVERITY[worst.severity]) and test(padded):
            worst = risk
    return worst
