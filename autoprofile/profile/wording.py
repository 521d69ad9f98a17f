"""Rules, comparators and calls as one line of text, with the kernel's names and symbols.

For messages only; the profile file has its own, reversible form (see render.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.constants import decode_value
from autoprofile.abi.signatures import ArgSpec, call_signature, constrained_args, signature
from autoprofile.profile.arg import listed_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.profile.arg import Arg
    from autoprofile.profile.rule import SeccompRule

__all__ = ["arg_name", "arg_spec", "comparator_text", "call_text", "call_values", "rule_text", "rule_values",
           "value_text"]  # fmt: skip

_FEW_CALLS = 16  # combinations of listed values that are looked at
_PLAIN = frozenset({"fd", "pid", "size", "time", "enum", "signal", "pointer", "address"})
_FEW_BITS = 16  # so many may be set: said by their names
_SIGNS = {"eq": "=", "ne": "≠", "lt": "<", "le": "≤", "gt": ">", "ge": "≥"}


def arg_spec(arch: str, syscall: str | int, index: int, others: Sequence[Arg] = ()) -> ArgSpec | None:
    """Return the signature of one argument, or None where it is unknown.

    Args:
        arch: of the call.
        syscall: its name or number.
        index: of the argument.
        others: comparators of the same rule: what fcntl's third argument is, its second says.
    """
    known = signature(arch, syscall) if isinstance(syscall, str) else None
    if known is None or index >= len(known.args):
        return None
    found: set[ArgSpec] = set()
    for values in _listed(others):
        exact = call_signature(arch, known.name, values)
        found.add(known.args[index] if exact is None else exact.args[index])
    exact_spec = found.pop() if len(found) == 1 else None
    if exact_spec is None or (exact_spec.constants is None and exact_spec.kind not in _PLAIN):
        return known.args[index]
    return exact_spec


def _listed(others: Sequence[Arg]) -> list[list[int | None]]:
    # The values a rule lists for its arguments, one call each; an argument with several is taken apart once.
    calls: list[list[int | None]] = [[None] * 6]
    for at in {one.index for one in others}:
        values = listed_values(others, at)
        if values and len(values) * len(calls) <= _FEW_CALLS:
            calls = [[*call[:at], value, *call[at + 1 :]] for call in calls for value in sorted(values)]
    return calls


def arg_name(arch: str, syscall: str | int, index: int) -> str:
    """Return the kernel's name of an argument, ``arg0``…``arg5`` where it has none."""
    spec = arg_spec(arch, syscall, index)
    return f"arg{index}" if spec is None else spec.name


def value_text(arch: str, syscall: str | int, index: int, value: int, others: Sequence[Arg] = ()) -> str:
    """Return a value with its symbols, or as a number (hexadecimal when large); see `arg_spec`."""
    spec = arg_spec(arch, syscall, index, others)
    if spec is not None and value >> spec.width == 0:
        return decode_value(arch, spec, value)
    return str(value) if value < 4096 else hex(value)


def comparator_text(arch: str, syscall: str | int, one: Arg, others: Sequence[Arg] = ()) -> str:
    """Return a comparator as a condition: ``family = AF_UNIX``, ``prot & ~(PROT_READ) = 0``.

    With the `others` of its rule, values are named by what the rule's command makes of them.
    """
    name = arg_name(arch, syscall, one.index)

    def text(value: int) -> str:
        return value_text(arch, syscall, one.index, value, others)

    texts = [text(value) for value in one.values]
    if one.op == "any":
        return f"{name} any"
    if one.op == "in":
        return f"{name} in {{{', '.join(texts)}}}"
    if one.mask is not None:
        spare = ~one.mask & ((1 << (one.width or 64)) - 1)
        if not spare:  # the mask covers the whole argument
            return f"{name} = {texts[0]}"
        if spare.bit_count() < one.mask.bit_count():
            return f"{name} & ~({text(spare)}) = {texts[0]}"
        return f"{name} & ({text(one.mask)}) = {texts[0]}"
    return f"{name} {_SIGNS[one.op]} {texts[0]}"


def rule_text(arch: str, rule: SeccompRule) -> str:
    """Return a rule as ``socket(family = AF_UNIX, protocol = 0): allow``."""
    parts = [comparator_text(arch, rule.syscall, one, rule.comparators) for one in rule.comparators]
    return f"{rule.syscall}({', '.join(parts) or 'any'}): {rule.action}"


def rule_values(arch: str, rule: SeccompRule) -> dict[str, str]:
    """Return what a rule asks of each argument it compares: argument name to values, for display."""
    shown: dict[str, str] = {}
    for one in rule.comparators:
        name = arg_name(arch, rule.syscall, one.index)
        spare = 0 if one.mask is None else ~one.mask & ((1 << (one.width or 64)) - 1)
        if spare and one.values == (0,) and spare.bit_count() <= _FEW_BITS:
            text = f"bits of {value_text(arch, rule.syscall, one.index, spare, rule.comparators)}"
        else:
            text = comparator_text(arch, rule.syscall, one, rule.comparators).removeprefix(name).strip()
            text = text.removeprefix("= ").removeprefix("in ")
        # several comparators on one argument are AND'ed
        shown[name] = f"{shown[name]} and {text}" if name in shown else text
    return shown


def call_text(arch: str, syscall: str | int, args: Sequence[int]) -> str:
    """Return a call with the arguments a profile can hold: ``socket(family=AF_INET, type=SOCK_RAW)``."""
    if not isinstance(syscall, str):
        return f"syscall {syscall}"
    shown = call_values(arch, syscall, (*args, 0, 0, 0, 0, 0, 0)[:6])
    return f"{syscall}({', '.join(f'{name}={text}' for name, text in shown.items())})"


def call_values(arch: str, syscall: str, args: Sequence[int | None]) -> dict[str, str]:
    """Return the arguments of a call that a profile can hold, name to value; None is left out."""
    refined = call_signature(arch, syscall, args)
    if refined is None:
        return {}
    named = {spec.index for spec in constrained_args(arch, syscall)}
    return {
        spec.name: decode_value(arch, spec, value)
        for spec in refined.args
        if spec.index in named and (value := args[spec.index]) is not None
    }
