"""YAML text as nodes with line numbers, read strictly: no surprises of YAML 1.1, or errors that say so.

Scalars are read from their text, never through YAML's own types: ``0644`` is octal, ``1:30`` is not ninety,
``on`` is not true, and a key given twice is an error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import yaml

from autoprofile.errors import ProfileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Reader", "number_of", "yaml_lines"]

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
#: Levels of mappings and lists; a profile has six.
_MAX_DEPTH: Final = 256
#: libyaml composes 20,000 levels within the usual stack of 8 MiB; with more brackets the levels are counted.
_MANY_BRACKETS: Final = 2000
_INDENTING: Final = bytes(0x20 if one in b" -?" else 0x78 for one in range(256))
_TAG: Final = "tag:yaml.org,2002:"
_KINDS: Final = {
    "map": "a mapping",
    "seq": "a list",
    "str": "text",
    "int": "a number",
    "float": "a fraction",
    "bool": "a YAML boolean",
    "null": "nothing",
    "timestamp": "a date",
}
_NUMBER: Final = re.compile(
    r"(?P<sign>[-+]?)(?:0[xX](?P<hex>[0-9a-fA-F_]+)|0[bB](?P<bin>[01_]+)|0[oO]?(?P<oct>[0-7_]+)"
    r"|(?P<dec>0|[1-9][0-9_]*))"
)


def _may_be_deep(text: str) -> bool:
    # Cheap upper bounds: no more flow levels than brackets; a block level starts further right than the last,
    # after nothing but spaces and the marks of other blocks.
    if text.count("[") + text.count("{") > _MANY_BRACKETS:
        return True
    return b" " * _MAX_DEPTH in text.encode("utf-8", "replace").translate(_INDENTING)


def yaml_lines(text: str) -> list[str]:
    """Return the lines of a text as YAML counts them; `str.splitlines` breaks in more places."""
    return _BREAK.split(text)


def number_of(text: str) -> int | None:
    """Return the integer a text stands for, or None: decimal, ``0x``, ``0b``, octal ``0644`` or ``0o644``."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    for base, name in ((16, "hex"), (2, "bin"), (8, "oct"), (10, "dec")):
        digits = match[name]
        if digits is not None:
            digits = digits.replace("_", "")
            if not digits:
                return None
            value = int(digits, base)
            return -value if match["sign"] == "-" else value
    return None


class Reader:
    """Read nodes of one text; every complaint is a `ProfileError` with ``where:line``."""

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.text = text

    def root(self) -> yaml.Node:
        """Return the document's root node."""
        try:
            if _may_be_deep(self.text):
                self._check_depth()
            node = yaml.compose(self.text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self.where}:{mark.line + 1}" if mark else self.where
            what = " ".join(part for part in (error.problem, error.context) if part)
            raise ProfileError(f"not YAML: {what}", where=where) from error
        except yaml.YAMLError as error:
            raise ProfileError(f"not YAML: {str(error).splitlines()[0]}", where=self.where) from error
        except RecursionError:
            raise ProfileError("not a profile: nested too deeply", where=self.where) from None
        if node is None:
            raise ProfileError("the profile is empty", where=f"{self.where}:1")
        return node

    def _check_depth(self) -> None:
        # libyaml's events take no stack, its nodes do: composing deep ones ends the process with SIGSEGV.
        depth = 0
        for event in yaml.parse(self.text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _MAX_DEPTH:
                raise ProfileError(
                    f"not a profile: more than {_MAX_DEPTH} levels of nesting",
                    where=f"{self.where}:{event.start_mark.line + 1}" if event.start_mark else self.where,
                )

    def at(self, node: yaml.Node) -> str:
        """Return ``where:line`` of a node."""
        return f"{self.where}:{node.start_mark.line + 1}"

    def error(self, node: yaml.Node, what: str, hint: str | None = None) -> ProfileError:
        """Return an error that points at a node."""
        return ProfileError(what, where=self.at(node), hint=hint)

    def unknown(self, node: yaml.Node, what: str, text: str, known: Iterable[str]) -> ProfileError:
        """Return an error about a word that is not among the known ones, with the nearest of them."""
        import difflib

        names = list(known)
        hint = f"known: {', '.join(names)}" if names else None
        if near := difflib.get_close_matches(text, names, n=3):
            hint = f"did you mean {', '.join(near)}?"
        return self.error(node, f"{what} {text!r}", hint)

    def kind(self, node: yaml.Node) -> str:
        """Return the kind of a node: map seq str int float bool null timestamp, or another tag."""
        return str(node.tag).removeprefix(_TAG)

    def wrong(self, node: yaml.Node, what: str, wanted: str) -> ProfileError:
        """Return an error about a node of the wrong type."""
        kind = self.kind(node)
        hint = None
        if (
            isinstance(node, yaml.ScalarNode)
            and kind in {"bool", "null", "float", "timestamp"}
            and node.value
        ):
            hint = f"YAML reads {node.value} as {_KINDS[kind]}; if you mean the text, quote it"
        return self.error(node, f"{what} is {wanted}, not {_KINDS.get(kind, kind)}", hint)

    def entries(self, node: yaml.Node, what: str) -> Iterator[tuple[yaml.ScalarNode, str, yaml.Node]]:
        """Yield (key node, key, value node) of a mapping; a key that is given twice is an error."""
        if not isinstance(node, yaml.MappingNode) or self.kind(node) != "map":
            raise self.wrong(node, what, "a mapping")
        seen: dict[str, yaml.Node] = {}
        for key, value in node.value:
            # mmap has an argument named off, which YAML 1.1 takes for a boolean: keys are what is written.
            if not isinstance(key, yaml.ScalarNode) or self.kind(key) not in {"str", "int", "bool"}:
                raise self.wrong(key, f"a key of {what}", "a word")
            name = str(key.value)
            if name in seen:
                first = seen[name].start_mark.line + 1
                raise self.error(key, f"{what} has the key {name!r} twice", f"first given on line {first}")
            seen[name] = key
            yield key, name, value

    def items(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        """Return the items of a list."""
        if not isinstance(node, yaml.SequenceNode) or self.kind(node) != "seq":
            raise self.wrong(node, what, "a list")
        return list(node.value)

    def is_null(self, node: yaml.Node) -> bool:
        """Return whether a value is left empty or is ``null``."""
        return self.kind(node) == "null"

    def word(self, node: yaml.Node, what: str) -> str:
        """Return a text scalar."""
        if not isinstance(node, yaml.ScalarNode) or self.kind(node) != "str":
            raise self.wrong(node, what, "text")
        return str(node.value)

    def literal(self, node: yaml.Node, what: str) -> str:
        """Return any scalar as it is written: words of a command line."""
        if not isinstance(node, yaml.ScalarNode) or self.kind(node) not in _KINDS:
            raise self.wrong(node, what, "text")
        return str(node.value)

    def count(self, node: yaml.Node, what: str) -> int:
        """Return a number that is not negative."""
        value = number_of(node.value) if self.kind(node) == "int" else None
        if value is None:
            raise self.wrong(node, what, "a whole number")
        if value < 0:
            raise self.error(node, f"{what} is a whole number, not {value}")
        return value

    def fraction(self, node: yaml.Node, what: str) -> float:
        """Return a number from 0 to 1."""
        if self.kind(node) not in {"int", "float"}:
            raise self.wrong(node, what, "a number from 0 to 1")
        try:
            value = float(node.value)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise self.error(node, f"{what} is a number from 0 to 1, not {node.value}")
        return value

    def truth(self, node: yaml.Node, what: str) -> bool:
        """Return a YAML boolean."""
        if self.kind(node) != "bool":
            raise self.wrong(node, what, "true or false")
        return str(node.value).lower() in {"true", "yes", "on"}
