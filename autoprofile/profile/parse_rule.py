"""One entry under ``syscalls`` or ``deny``: from nodes to rules, for each arch it applies to."""

from __future__ import annotations

from typing import Final

import yaml

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.constants import check_joined, encode_value
from autoprofile.abi.signatures import (
    ArgSpec,
    call_signature,
    constrained_args,
    signature,
    width_in_rule,
)
from autoprofile.abi.syscalls import syscall_name
from autoprofile.errors import AutoprofileError, ProfileError
from autoprofile.profile.action import Action
from autoprofile.profile.arg import ANY, Arg, listed_values
from autoprofile.profile.nodes import Reader, number_of
from autoprofile.profile.rule import SeccompRule

__all__ = ["ParsedRule", "RuleParser"]

_ORDERED: Final = ("lt", "le", "gt", "ge")
_OPERATORS: Final = ("eq", "ne", *_ORDERED, "in", "mask", "masked_eq")
_U32: Final = 0xFFFFFFFF
_COMPARATOR_KEYS: Final = (*_OPERATORS, "all", "width")


class ParsedRule:
    """One rule of the text: its node, what closes the list around it on the same line, its form per arch."""

    __slots__ = ("by_arch", "closing", "node")

    def __init__(self, node: yaml.Node, closing: str, by_arch: dict[str, SeccompRule]) -> None:
        self.node = node
        self.closing = closing
        self.by_arch = by_arch


class RuleParser:
    """Read the entries of one section; complaints go through its `Reader`."""

    def __init__(self, reader: Reader, *, is_deny: bool) -> None:
        self.reader = reader
        self.is_deny = is_deny

    def syscall_of(self, key: yaml.ScalarNode, text: str, arches: tuple[str, ...]) -> str | int:
        """Return the syscall a key names: a name, or a number that has no name."""
        if not text[:1].isdigit() and text[:1] not in {"-", "+"}:
            return text
        number = number_of(text)
        if number is None or not 0 <= number <= 0xFFFFFFFF:
            raise self.reader.error(key, f"{text!r} is no syscall number")
        if len(arches) > 1:
            raise self.reader.error(
                key,
                f"syscall number {number} means another call on each of {', '.join(arches)}",
                "put it under syscalls_by_arch or deny_by_arch",
            )
        return syscall_name(arches[0], number) or number

    def rules_of(self, node: yaml.Node, syscall: str | int, arches: tuple[str, ...]) -> list[ParsedRule]:
        """Return the rules of one entry: a word, a mapping, or a list of either."""
        if not isinstance(node, yaml.SequenceNode):
            return [self._rule(node, syscall, arches, "")]
        items = self.reader.items(node, str(syscall))
        if not items:
            raise self.reader.error(node, f"{syscall} has an empty list of rules", "say any, or remove it")
        closing = "]" if node.flow_style and len(items) == 1 else ""
        return [self._rule(item, syscall, arches, closing) for item in items]

    def _rule(self, node: yaml.Node, syscall: str | int, arches: tuple[str, ...], closing: str) -> ParsedRule:
        if isinstance(node, yaml.ScalarNode):
            rule = SeccompRule(syscall, self._word(node, syscall))
            return ParsedRule(node, closing, dict.fromkeys(arches, rule))
        fields: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        for key, name, value in self.reader.entries(node, f"a rule of {syscall}"):
            fields[name] = (key, value)
        action = Action.ALLOW
        if "action" in fields:
            action = self._action(fields.pop("action")[1], syscall)
        elif self.is_deny:
            raise self.reader.error(
                node, f"a deny rule of {syscall} has no action", "for example action: EPERM"
            )
        elif not fields:
            raise self.reader.error(node, f"a rule of {syscall} is empty", "say any when every call may pass")
        by_arch = {}
        for arch in arches:
            args = self._args(node, fields, syscall, arch, action)
            by_arch[arch] = SeccompRule(syscall, action, args or ANY)
        return ParsedRule(node, closing, by_arch)

    def _word(self, node: yaml.ScalarNode, syscall: str | int) -> Action:
        if not self.is_deny and self.reader.kind(node) == "str" and node.value == "any":
            return Action.ALLOW
        if self.reader.kind(node) != "str":
            wanted = "an action or a list of rules" if self.is_deny else "any, an action or a list of rules"
            raise self.reader.wrong(node, str(syscall), wanted)
        return self._action(node, syscall)

    def _action(self, node: yaml.Node, syscall: str | int) -> Action:
        try:
            action = Action.parse(self.reader.word(node, f"the action of {syscall}"))
        except ProfileError:
            raise
        except AutoprofileError as error:
            raise self.reader.error(node, f"{syscall}: {error.what}", error.hint) from None
        if action.is_refusing != self.is_deny:
            raise self.reader.error(
                node,
                f"{syscall}: action {action} does not belong here",
                f"under syscalls: allow, log, notify, trace; under deny: errors, trap, kill_thread, kill"
                f" (move this rule to {'syscalls' if self.is_deny else 'deny'})",
            )
        return action

    def _args(
        self,
        node: yaml.Node,
        fields: dict[str, tuple[yaml.ScalarNode, yaml.Node]],
        syscall: str | int,
        arch: str,
        action: Action,
    ) -> tuple[Arg, ...]:
        known = signature(arch, syscall) if isinstance(syscall, str) else None
        specs = known.args if known is not None else ()
        by_name = {spec.name: spec.index for spec in specs}
        args: list[Arg] = []
        named: dict[int, str] = {}
        later: list[tuple[_ArgParser, yaml.Node]] = []
        for name, (key, value) in fields.items():
            index = by_name.get(name)
            if index is None:
                index = self._position(key, name, syscall, arch, by_name)
            if index in named:
                raise self.reader.error(key, f"{syscall}: {named[index]} and {name} are the same argument")
            named[index] = name
            spec = specs[index] if index < len(specs) else None
            parser = _ArgParser(self.reader, f"{syscall}.{name}", arch, index, spec)
            if spec is not None and spec.other_width_if is not None:
                later.append((parser, value))
            else:
                args += parser.parse(value)
        for parser, value in later:  # what these are, and how wide, another argument of the rule decides
            parser.settle(str(syscall), args, is_refusing=action.is_refusing)
            args += parser.parse(value)
        if impossible := _impossible(args):
            raise self.reader.error(
                node,
                f"{syscall}: no value of {named[impossible[0].index]} satisfies "
                + " and ".join(f"{one.op} {one.values[0]}" for one in impossible),
                "all comparators of an argument hold together; alternatives are rules of their own",
            )
        needed = constrained_args(arch, syscall) if isinstance(syscall, str) else ()
        missing = [spec.name for spec in needed if spec.index not in named]
        if missing:
            raise self.reader.error(
                node,
                f"the rule of {syscall} leaves out {', '.join(missing)}" + _on(arch),
                "every argument that can be constrained is named; say "
                + ", ".join(f"{name}: any" for name in missing)
                + " when its value does not matter",
            )
        return tuple(args)

    def _position(
        self, key: yaml.ScalarNode, name: str, syscall: str | int, arch: str, by_name: dict[str, int]
    ) -> int:
        # prctl's own names are arg2 to arg5 and mean positions 1 to 4; there only bare numbers are positions.
        shadowed = any(own[:3] == "arg" and own[3:].isdigit() for own in by_name)
        digits = name.removeprefix("arg") if not shadowed else name
        if len(digits) == 1 and digits in "012345":
            return int(digits)
        known = list(by_name)
        if not shadowed:
            known += [f"arg{index}" for index in range(6) if index >= len(known)]
        raise self.reader.unknown(key, f"{syscall}{_on(arch)} has no argument", name, [*known, "action"])


def _impossible(args: list[Arg]) -> list[Arg]:
    # The comparators of an argument that no value satisfies: a rule that can never match is a mistake.
    for index in {one.index for one in args}:
        mine = [one for one in args if one.index == index]
        # What learners write needs no look (and no import on the way to a program): single values and masks.
        if any(one.op in _ORDERED for one in mine) or (
            len(mine) > 1 and any(one.op in {"eq", "in"} for one in mine)
        ):
            from autoprofile.profile.region import is_empty

            if is_empty(tuple(mine)):
                return mine
    return []


def _on(arch: str) -> str:
    return f" on {arch}"


class _ArgParser:
    __slots__ = ("arch", "exact", "index", "reader", "spec", "what")

    def __init__(self, reader: Reader, what: str, arch: str, index: int, spec: ArgSpec | None) -> None:
        self.reader = reader
        self.what = what
        self.arch = arch
        self.index = index
        self.spec = spec
        self.exact = spec  # with the symbols of the rule's command

    def settle(self, syscall: str, others: list[Arg], *, is_refusing: bool) -> None:
        """Make use of what the rule says of the argument that decides what this one is."""
        spec = self.spec
        assert spec is not None
        assert spec.other_width_if is not None
        at = spec.other_width_if.index
        deciding = listed_values(others, at)
        width = width_in_rule(spec, deciding, is_refusing=is_refusing)
        self.spec = self.exact = spec._replace(width=width, other_width_if=None)
        if deciding is not None and len(deciding) == 1:
            values: list[int | None] = [None] * 6
            values[at] = min(deciding)
            exact = call_signature(self.arch, syscall, values)
            if exact is not None and exact.args[self.index].constants is not None:
                self.exact = exact.args[self.index]

    def parse(self, node: yaml.Node) -> list[Arg]:
        natural = self.spec.width if self.spec is not None else ARCHES[self.arch].bits
        if isinstance(node, yaml.ScalarNode):
            if self.reader.kind(node) == "str" and node.value == "any":
                return []
            return [self._arg("eq", self._value(node, natural), None, natural)]
        if isinstance(node, yaml.SequenceNode):
            return [self._arg("in", self._values(node, natural), None, natural)]
        return self._comparators(node, natural)

    def _arg(self, op: str, value: int | list[int], mask: int | None, width: int) -> Arg:
        return Arg(self.index, op, value, mask, width)

    def _comparators(self, node: yaml.Node, natural: int) -> list[Arg]:
        reader = self.reader
        fields: dict[str, yaml.Node] = {}
        for key, name, value in reader.entries(node, self.what):
            if name not in _COMPARATOR_KEYS:
                raise reader.unknown(key, f"{self.what} has no operator", name, _COMPARATOR_KEYS)
            fields[name] = value
        if "all" in fields:
            if len(fields) > 1:
                raise reader.error(node, f"{self.what}: all stands alone", "move the rest into its list")
            items = reader.items(fields["all"], f"{self.what}.all")
            if not items:
                raise reader.error(fields["all"], f"{self.what}: all has no comparators")
            found = []
            for item in items:
                if isinstance(item, yaml.MappingNode) and any(k.value == "all" for k, _ in item.value):
                    raise reader.error(item, f"{self.what}: all inside all")
                found += self._comparators(item, natural)
            return found
        width = self._width(fields.pop("width", None), natural)
        if not fields:
            raise reader.error(node, f"{self.what} has no operator", "operators: " + ", ".join(_OPERATORS))
        return [arg for op, value in fields.items() for arg in self._operator(op, value, width)]

    def _operator(self, op: str, node: yaml.Node, width: int) -> list[Arg]:
        if op == "in":
            return [self._arg("in", self._values(node, width), None, width)]
        if op == "ne" and isinstance(node, yaml.SequenceNode):
            return [self._arg("ne", value, None, width) for value in self._values(node, width)]
        if op == "mask":
            bits = 0
            for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
                bits |= self._value(item, width, is_mask=True)
            return [self._arg("masked_eq", 0, ~bits & ((1 << width) - 1), width)]
        if op == "masked_eq":
            pair = self.reader.items(node, f"{self.what}.masked_eq")
            if len(pair) != 2:
                raise self.reader.error(node, f"{self.what}: masked_eq takes two values", "[mask, value]")
            mask, value = self._value(pair[0], width, is_mask=True), self._value(pair[1], width)
            return [self._arg("masked_eq", value, mask, width)]
        return [self._arg(op, self._value(node, width), None, width)]

    def _width(self, node: yaml.Node | None, natural: int) -> int:
        if node is None:
            return natural
        width = number_of(node.value) if self.reader.kind(node) == "int" else None
        if width not in {32, 64}:
            raise self.reader.error(node, f"{self.what}: width is 32 or 64")
        return width

    def _values(self, node: yaml.Node, width: int) -> list[int]:
        values = [self._value(item, width) for item in self.reader.items(node, self.what)]
        if not values:
            raise self.reader.error(node, f"{self.what} has an empty list of values", "it matches nothing")
        return values

    def _value(self, node: yaml.Node, width: int, *, is_mask: bool = False) -> int:
        reader = self.reader
        if not isinstance(node, yaml.ScalarNode) or reader.kind(node) not in {"str", "int"}:
            raise reader.wrong(node, self.what, "a symbol or a number")
        value = 0
        parts: list[tuple[str, int]] = []
        for part in node.value.split("|"):
            word = part.strip(" ")
            number = number_of(word)
            if number is None:
                number = self._symbol(node, word)
            if is_mask and width == 32 and number >> 32 == _U32:
                number &= _U32  # ~bits of a 64-bit C type; profiles were written so before widths were exact
            if not -(1 << (width - 1)) <= number < 1 << width:
                raise reader.error(
                    node,
                    f"{self.what}: {word} does not fit in the {width} bits compared{_on(self.arch)}",
                    "the kernel reads only 32 bits of it; width: 64 compares all" if width == 32 else None,
                )
            parts.append((word, number & ((1 << width) - 1)))
            value |= parts[-1][1]
        if len(parts) > 1 and self.exact is not None and not is_mask:
            try:
                check_joined(self.arch, self.exact, parts)
            except AutoprofileError as error:
                raise reader.error(node, f"{self.what}: {error.what}", error.hint) from None
        return value

    def _symbol(self, node: yaml.Node, word: str) -> int:
        reader = self.reader
        if not word or not (word[0].isalpha() or word[0] == "_"):
            hint = "write seconds as one number" if ":" in word else "decimal, 0x1f, or octal as 0644"
            raise reader.error(node, f"{self.what}: {word!r} is no number", hint)
        if word == "any":
            raise reader.error(node, f"{self.what}: any stands alone, without other values")
        if self.spec is None:
            raise reader.error(node, f"{self.what} takes numbers, not {word!r}", "its meaning is not known")
        try:
            return encode_value(self.arch, self.spec, word)
        except AutoprofileError as error:
            raise reader.error(node, f"{self.what}: {error.what}", error.hint) from None
