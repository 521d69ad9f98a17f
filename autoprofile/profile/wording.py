"""Rules, comparators and calls as one line of text, with the kernel's names and symbols.

For messages only; the profile file has its own, reversible form (see render.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.constants import decode_value
from autoprofile.abi.signatures import ArgSpec, call_signature, constrained_args, signature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.profile.arg import Arg
    from autoprofile.profile.rule import SeccompRule

__all__ = ["arg_name", "arg_spec", "comparator_text", "call_text", "rule_text", "rule_values", "value_text"]

_FEW_BITS = 16  # so many may be set: said by their names
_SIGNS = {"eq": "=", "ne": "≠", "lt": "<", "le": "≤", "gt": ">", "ge": "≥"}


def arg_spec(arch: str, syscall: str | int, index: int) -> ArgSpec | None:
    """Return the signature of one argument, or None where it is unknown."""
    known = signature(arch, syscall) if isinstance(syscall, str) else None
    return known.args[index] if known is not None and index < len(known.args) else None


def arg_name(arch: str, syscall: str | int, index: int) -> str:
    """Return the kernel's name of an argument, ``arg0``…``arg5`` where it has none."""
    spec = arg_spec(arch, syscall, index)
    return f"arg{index}" if spec is None else spec.name


def value_text(arch: str, syscall: str | int, index: int, value: int) -> str:
    """Return a value with its symbols, or as a number (hexadecimal when large)."""
    spec = arg_spec(arch, syscall, index)
    if spec is not None and value >> spec.width == 0:
        return decode_value(arch, spec, value)
    return str(value) if value < 4096 else hex(value)


def comparator_text(arch: str, syscall: str | int, one: Arg) -> str:
    """Return a comparator as a condition: ``family = AF_UNIX``, ``prot & ~(PROT_READ) = 0``."""
    name = arg_name(arch, syscall, one.index)
    texts = [value_text(arch, syscall, one.index, value) for value in one.values]
    if one.op == "any":
        return f"{name} any"
    if one.op == "in":
        return f"{name} in {{{', '.join(texts)}}}"
    if one.mask is not None:
        spare = ~one.mask & ((1 << (one.width or 64)) - 1)
        if not spare:  # the mask covers the whole argument
            return f"{name} = {texts[0]}"
        if spare.bit_count() < one.mask.bit_count():
            return f"{name} & ~({value_text(arch, syscall, one.index, spare)}) = {texts[0]}"
        return f"{name} & ({value_text(arch, syscall, one.index, one.mask)}) = {texts[0]}"
    return f"{name} {_SIGNS[one.op]} {texts[0]}"


def rule_text(arch: str, rule: SeccompRule) -> str:
    """Return a rule as ``socket(family = AF_UNIX, protocol = 0): allow``."""
    conditions = ", ".join(comparator_text(arch, rule.syscall, one) for one in rule.comparators) or "any"
    return f"{rule.syscall}({conditions}): {rule.action}"


def rule_values(arch: str, rule: SeccompRule) -> dict[str, str]:
    """Return what a rule asks of each argument it compares: argument name to values, for display."""
    shown: dict[str, str] = {}
    for one in rule.comparators:
        name = arg_name(arch, rule.syscall, one.index)
        spare = 0 if one.mask is None else ~one.mask & ((1 << (one.width or 64)) - 1)
        if spare and one.values == (0,) and spare.bit_count() <= _FEW_BITS:
            text = f"bits of {value_text(arch, rule.syscall, one.index, spare)}"
        else:
            text = comparator_text(arch, rule.syscall, one).removeprefix(name).strip()
            text = text.removeprefix("= ").removeprefix("in ")
        # several comparators on one argument are AND'ed
        shown[name] = f"{shown[name]} and {text}" if name in shown else text
    return shown


def call_text(arch: str, syscall: str | int, args: Sequence[int]) -> str:
    """Return a call with the arguments a profile can hold: ``socket(family=AF_INET, type=SOCK_RAW)``."""
    if not isinstance(syscall, str):
        return f"syscall {syscall}"
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    refined = call_signature(arch, syscall, padded)
    named = {spec.index for spec in constrained_args(arch, syscall)}
    shown = [spec for spec in refined.args if spec.index in named] if refined else []
    return f"{syscall}({', '.join(f'{s.name}={decode_value(arch, s, padded[s.index])}' for s in shown)})"
