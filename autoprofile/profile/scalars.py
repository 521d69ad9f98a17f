"""Words and lists as YAML text that reads back as the same words, whatever they hold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["flow_list", "flow_map", "fraction_text", "quoted"]

# Plain scalars that no YAML version takes for anything but text: they begin with a letter, slash or low line,
# hold nothing that means something in a flow collection, and are no YAML 1.1 boolean or null.
_PLAIN: Final = re.compile(r"[A-Za-z/_][A-Za-z0-9/_.+|@=-]*")
_RESERVED: Final = frozenset({"y", "n", "yes", "no", "true", "false", "on", "off", "null", "any"})


def quoted(text: str) -> str:
    """Return text as a scalar, in double quotes unless it is safe without."""
    if _PLAIN.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in {'"', "\\"}:
        return "\\" + char
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def fraction_text(value: float) -> str:
    """Return a fraction as both YAML versions read it: ``1e-05`` would be text to YAML 1.1."""
    text = repr(float(value))
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}{mark}{exponent}"


def flow_list(items: Iterable[str]) -> str:
    """Return ``[a, b]`` of finished scalars."""
    return f"[{', '.join(items)}]"


def flow_map(items: Iterable[tuple[str, str]]) -> str:
    """Return ``{a: b, c: d}`` of finished scalars."""
    return f"{{{', '.join(f'{key}: {value}' for key, value in items)}}}"
