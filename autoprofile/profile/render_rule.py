"""One rule as YAML text that `parse_rule` reads back as the same rule.

A value is written with its symbols only where they read back as that value; otherwise as a number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.constants import decode_value, encode_value
from autoprofile.abi.signatures import call_signature, constrained_args, signature
from autoprofile.profile.action import Action
from autoprofile.profile.canonical import spec_width
from autoprofile.profile.nodes import number_of
from autoprofile.profile.scalars import flow_list, flow_map, quoted

if TYPE_CHECKING:
    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.profile.arg import Arg
    from autoprofile.profile.rule import SeccompRule

__all__ = ["is_deny", "rule_yaml"]

_SYMBOLS: Final = re.compile(r"[A-Za-z_0-9]+(\|[A-Za-z_0-9]+)*")


def is_deny(rule: SeccompRule) -> bool:
    """Return whether a rule belongs under ``deny``: its action never runs the call."""
    return rule.action.is_refusing


def rule_yaml(arch: str, rule: SeccompRule) -> str:
    """Return a rule on one arch as a word (``any``, an action) or as a flow mapping."""
    if not rule.comparators:
        return "any" if rule.action == Action.ALLOW else str(rule.action)
    syscall = rule.syscall
    by_index: dict[int, list[Arg]] = {}
    if isinstance(syscall, str):
        by_index = {spec.index: [] for spec in constrained_args(arch, syscall)}
    for one in rule.comparators:
        by_index.setdefault(one.index, []).append(one)
    specs = _specs(arch, rule, by_index)
    fields = []
    for index in sorted(by_index):
        spec = specs[index] if index < len(specs) else None
        name = quoted(_key(index, specs))
        fields.append((name, _constraint(arch, spec, by_index[index])))
    if rule.action != Action.ALLOW:
        fields.append(("action", str(rule.action)))
    return flow_map(fields)


def _specs(arch: str, rule: SeccompRule, by_index: dict[int, list[Arg]]) -> tuple[ArgSpec, ...]:
    syscall = rule.syscall
    plain = signature(arch, syscall) if isinstance(syscall, str) else None
    if plain is None:
        return ()
    assert isinstance(syscall, str)
    # Where one argument decides the symbols of another (level and optname), the rule's own value settles it.
    values = [_fixed(by_index.get(index, [])) for index in range(6)]
    exact = call_signature(arch, syscall, values)
    assert exact is not None
    return tuple(
        (new if new.constants else old)._replace(width=spec_width(old, rule))
        for old, new in zip(plain.args, exact.args, strict=True)
    )


def _fixed(args: list[Arg]) -> int | None:
    return args[0].values[0] if len(args) == 1 and args[0].op == "eq" and args[0].mask is None else None


def _key(index: int, specs: tuple[ArgSpec, ...]) -> str:
    names = [spec.name for spec in specs]
    shadowed = any(name[:3] == "arg" and name[3:].isdigit() for name in names)
    if index < len(names) and names[index] != "action" and names.count(names[index]) == 1:
        return names[index]
    return str(index) if shadowed else f"arg{index}"


def _constraint(arch: str, spec: ArgSpec | None, args: list[Arg]) -> str:
    natural = spec.width if spec is not None else ARCHES[arch].bits
    if not args:
        return "any"
    if len(args) == 1 and (args[0].width or natural) == natural:
        one = args[0]
        texts = [_value(arch, spec, value, natural) for value in one.values]
        if one.op == "eq":
            return texts[0]
        if one.op == "in":
            return flow_list(texts)
    operators = [one.op for one in args if one.op != "ne"]
    widths = {one.width for one in args}
    if len(operators) == len(set(operators)) and len(widths) == 1:
        return _operators(arch, spec, args, natural)
    return flow_map([("all", flow_list(_operators(arch, spec, [one], natural) for one in args))])


def _operators(arch: str, spec: ArgSpec | None, args: list[Arg], natural: int) -> str:
    width = args[0].width or natural
    fields: list[tuple[str, str]] = []
    unequal = [_value(arch, spec, one.values[0], width) for one in args if one.op == "ne"]
    if unequal:
        fields.append(("ne", unequal[0] if len(unequal) == 1 else flow_list(unequal)))
    for one in sorted(args, key=lambda one: one.op not in {"ge", "gt"}):  # from the lower border up
        if one.op == "ne":
            continue
        if one.mask is not None:
            fields.append(_masked(arch, spec, one.mask, one.values[0], width))
        elif one.op == "in":
            fields.append(("in", flow_list(_value(arch, spec, value, width) for value in one.values)))
        elif one.op == "eq":
            fields.append(("eq", _value(arch, spec, one.values[0], width)))
        else:
            # A border is a quantity: symbols would hide which values lie beyond it.
            fields.append((one.op, _number(one.values[0])))
    if width != natural:
        fields.append(("width", str(width)))
    return flow_map(fields)


def _masked(arch: str, spec: ArgSpec | None, mask: int, value: int, width: int) -> tuple[str, str]:
    allowed = ~mask & ((1 << width) - 1)
    if value == 0 and allowed.bit_count() <= mask.bit_count():
        return "mask", flow_list(_value(arch, spec, allowed, width).split("|") if allowed else [])
    texts = [(one, _value(arch, spec, one, width)) for one in (mask, value)]
    # Bits, not quantities: the sign of a clock id would hide them.
    return "masked_eq", flow_list(_number(one) if text[0] == "-" else text for one, text in texts)


def _value(arch: str, spec: ArgSpec | None, value: int, width: int) -> str:
    if spec is not None and width == spec.width:
        text = decode_value(arch, spec, value)
        number = number_of(text)
        if number is not None:
            if number & ((1 << width) - 1) == value:
                return text
        elif _SYMBOLS.fullmatch(text) and not text[0].isdigit() and encode_value(arch, spec, text) == value:
            return text
    return _number(value)


def _number(value: int) -> str:
    return str(value) if value < 4096 else hex(value)
