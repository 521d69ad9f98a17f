"""Comments that people wrote beside the rules of a profile file.

In: the file's text. Out: the calls they explain. What autoprofile itself writes there (counts, and reasons
that begin with a level or a mode's words) explains nothing to a reader who asks why the call is needed.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

from autoprofile.abi import ARCHES, risk_conditions, syscall_risk, syscall_table
from autoprofile.learn.baseline import BASELINE
from autoprofile.profile.comments import end_of, evidence_from_comment
from autoprofile.profile.nodes import Reader, yaml_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    import yaml

__all__ = ["explained_calls", "is_of_a_person", "lines_of_calls"]

# How the reasons begin that learning writes (learn/), and merging joins with "; ".
_OURS: Final = re.compile(
    r"(baseline|strict|standard|permissive|not seen|every call failed|every call fails|not recorded, so any)"
    r"(:|$)|its (flags|arguments) lie behind a pointer|libc falls back to |widens: |narrows: "
)


@cache
def _tails() -> frozenset[str]:
    # Parts that stand behind a "; " inside our own sentences.
    names = {name for arch in ARCHES for name in syscall_table(arch)}
    risks = [risk for name in names if (risk := syscall_risk(name)) is not None]
    risks += [risk for of_call in risk_conditions().values() for _, risk in of_call]
    texts = [*(risk.reason for risk in risks), *(entry.reason for entry in BASELINE)]
    return frozenset(part.strip() for text in texts for part in text.split(";")[1:])


def is_of_a_person(reason: str | None) -> bool:
    """Tell whether a rule's reason holds something that autoprofile did not write."""
    parts = (part.strip() for part in (reason or "").split(";"))
    return any(part and not _OURS.match(part) and part not in _tails() for part in parts)


def explained_calls(text: str) -> frozenset[tuple[str | None, str]]:
    """Return the calls with a person's comment: above the entry, on its line, or among its rules.

    Args:
        text: of a profile file that was read without error.
    """
    reader, lines = Reader(text, ""), yaml_lines(text)
    found: set[tuple[str | None, str]] = set()
    for key, name, value in reader.entries(reader.root(), "the profile"):
        if reader.is_null(value):
            continue
        if name in {"syscalls", "deny"}:
            found |= {(None, call) for call in _explained(reader, value, lines)}
        elif name in {"syscalls_by_arch", "deny_by_arch"}:
            for _, arch, section in reader.entries(value, key.value):
                if not reader.is_null(section):
                    found |= {(arch, call) for call in _explained(reader, section, lines)}
    return frozenset(found)


def lines_of_calls(text: str) -> dict[str, int]:
    """Return the line, from 1, on which the entry of each call begins in a file; the first of several."""
    reader = Reader(text, "")
    found: dict[str, int] = {}

    def take(section: yaml.Node) -> None:
        for key, name, _ in reader.entries(section, "a section"):
            found.setdefault(name, key.start_mark.line + 1)

    for _, name, value in reader.entries(reader.root(), "the profile"):
        if name in {"syscalls", "deny"} and not reader.is_null(value):
            take(value)
        elif name in {"syscalls_by_arch", "deny_by_arch"} and not reader.is_null(value):
            for _, _, section in reader.entries(value, name):
                if not reader.is_null(section):
                    take(section)
    return found


def _explained(reader: Reader, section: yaml.Node, lines: list[str]) -> Iterator[str]:
    for key, name, value in reader.entries(section, "a section"):
        first, last = key.start_mark.line, end_of(value)[0]
        above = first - 1
        while above >= 0 and lines[above].lstrip().startswith("#"):
            above -= 1
        for line in lines[above + 1 : last + 1]:
            evidence = evidence_from_comment(_comment_of(line))
            if evidence is not None and is_of_a_person(evidence.reason):
                yield name
                break


def _comment_of(line: str) -> str:
    # A "#" begins a comment at the start of a line or after a blank, outside of quotes.
    quote = ""
    for at, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == "#" and (at == 0 or line[at - 1] in " \t"):
            return line[at + 1 :]
    return ""
