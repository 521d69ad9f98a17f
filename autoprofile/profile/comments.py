"""The evidence of a rule as the comment that ends its line, and back.

``# count=812 processes=12`` for observed calls, ``# baseline: …`` for a reason, ``# count=3; a note`` for
both. Any comment a person writes there is a reason too, so it stays with the rule.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from autoprofile.profile.rule import Evidence

if TYPE_CHECKING:
    import yaml

__all__ = ["end_of", "evidence_after", "evidence_from_comment", "evidence_text"]

_COUNTS: Final = re.compile(
    r"(?:count=(?P<count>[0-9]{1,20})(?:\s+|$|(?=;)))?"
    r"(?:processes=(?P<processes>[0-9]{1,20})(?:\s+|$|(?=;)))?"
    r"(?:first=(?P<first>[0-9]{1,20}(?:\.[0-9]{1,20})?)s(?:\s+|$|(?=;)))?"
    r"(?:;\s*)?(?P<reason>.*)"
)
_LOOKS_COUNTED: Final = r"count=|processes=|first=|;|\s"


def evidence_from_comment(comment: str) -> Evidence | None:
    """Return the evidence a comment holds (its text after the ``#``), None when it is empty."""
    match = _COUNTS.fullmatch(comment.strip())
    if match is None:
        return None
    count, processes, first, reason = match.group("count", "processes", "first", "reason")
    if not (count or processes or first or reason):
        return None
    return Evidence(
        None if count is None else int(count),
        None if processes is None else int(processes),
        None if first is None else float(first),
        reason.strip() or None,
    )


def evidence_text(evidence: Evidence | None) -> str:
    """Return evidence as the text of a comment, empty when there is nothing to say."""
    if evidence is None:
        return ""
    parts = []
    if evidence.count is not None:
        parts.append(f"count={evidence.count}")
    if evidence.processes is not None:
        parts.append(f"processes={evidence.processes}")
    if evidence.first_s is not None:
        parts.append(f"first={evidence.first_s:.6f}".rstrip("0").rstrip(".") + "s")
    counted = " ".join(parts)
    # A comment is one line of printable text.
    reason = " ".join("".join(c if c.isprintable() else " " for c in evidence.reason or "").split())
    if reason and (counted or re.match(_LOOKS_COUNTED, reason)):
        return f"{counted}; {reason}"
    return counted or reason


def end_of(node: yaml.Node) -> tuple[int, int]:
    """Return (line, column) just after a node's last character, both from 0.

    The end mark of a block collection lies behind the blank lines and comments that follow it, so the end of
    its last scalar or flow collection counts.
    """
    last: yaml.Node = node
    while not isinstance(last.value, str) and last.value and not getattr(last, "flow_style", None):
        last = last.value[-1]
        if isinstance(last, tuple):
            last = last[1]
    mark = last.end_mark
    return mark.line, mark.column


def evidence_after(node: yaml.Node, lines: list[str], closing: str = "") -> Evidence | None:
    """Return the evidence in the comment that ends the line on which a node ends.

    Args:
        node: the rule.
        lines: of the text.
        closing: what may stand between the node and its comment besides blanks (the end of a flow list).
    """
    line, column = end_of(node)
    rest = lines[line][column:] if line < len(lines) else ""
    text = rest.strip()
    if closing and text.startswith(closing):
        text = text.removeprefix(closing).lstrip()
    return evidence_from_comment(text[1:]) if text.startswith("#") and text != rest else None
