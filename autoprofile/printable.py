"""Text that others wrote, made safe to print: a program's name must not repaint a terminal.

What a target chooses (its name, its paths, the text of an error) reaches people through terminals, which obey
control characters. Here they become visible; everything else, and line ends and tabs, stay.
"""

from __future__ import annotations

import re

__all__ = ["printable"]

# C0 without \t and \n, DEL and C1 (ECMA-48); line separators; the bidirectional controls of UAX #9, which
# reorder what is read ("Trojan Source", CVE-2021-42574); bytes that were not UTF-8 (PEP 383) and other
# surrogates, which no stream could encode.
_CONTROL = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return the text with controls shown: ``\x1b``, ``\u202e``, and ``\xff`` for a byte not UTF-8."""
    if text.isprintable():  # nothing of the above is; most text is, and needs no regular expression
        return text
    return re.sub(_CONTROL, _shown, text)


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
