"""What another format keeps of a profile: one note for every constraint, in the order of the profile.

A converter returns its document together with notes; a constraint without a note does not exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from autoprofile.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["EFFECTS", "Exported", "Imported", "Note", "grouped", "no_format"]

#: What became of a constraint, best first. ``kept``: it means the same. ``added``: more calls pass,
#: because the format's runtime needs them. ``narrowed``: fewer calls pass. ``widened``: more calls pass.
#: ``impossible``: it is not there.
EFFECTS: Final = ("kept", "added", "narrowed", "widened", "impossible")

#: How many names a group of notes lists before it only counts them.
_MAX_NAMES: Final = 16
# The argument a detail begins with is one note's own; the reason after it is what notes share.
_ARGUMENT: Final = re.compile(r"argument \d+: ")


@dataclass(frozen=True, slots=True)
class Note:
    """Say what became of one constraint.

    Args:
        effect: one of `EFFECTS`.
        subject: the rule or header field, as a profile words it.
        detail: what it has become and why; empty for kept.
    """

    effect: str
    subject: str
    detail: str = ""

    def __post_init__(self) -> None:
        assert self.effect in EFFECTS, self.effect

    def to_dict(self) -> dict[str, Any]:
        """Return the note as plain values."""
        return {"effect": self.effect, "subject": self.subject, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Exported:
    """A profile in another format.

    Args:
        content: the bytes of the document.
        notes: what became of every constraint.
    """

    content: bytes
    notes: tuple[Note, ...]

    @property
    def is_exact(self) -> bool:
        """Return whether the document means what the profile means, with nothing added for a runtime."""
        return all(note.effect == "kept" for note in self.notes)


@dataclass(frozen=True, slots=True)
class Imported:
    """A profile read from another format.

    Args:
        profile: what it says.
        notes: where the profile means something else than the runtimes of that format make of it, and where
            either lets more pass than the document seems to say.
    """

    profile: Any
    notes: tuple[Note, ...]


def grouped(notes: Iterable[Note]) -> list[tuple[str, str, list[Note]]]:
    """Return notes by effect and reason, in the order of each group's first.

    Returns:
        Of every group its effect, one line without that effect, and its notes, which are not lost: of a group
        of one the line is all the note says, of a larger one it names the calls (at most 16, then how many
        more) and says the reason once.
    """
    groups: dict[tuple[str, str], list[Note]] = {}
    for note in notes:
        groups.setdefault((note.effect, _ARGUMENT.sub("", note.detail, count=1)), []).append(note)
    made = []
    for (effect, reason), members in groups.items():
        if len(members) == 1:
            line = members[0].subject + (f": {members[0].detail}" if members[0].detail else "")
        else:
            subjects = list(dict.fromkeys(note.subject for note in members))
            names = list(dict.fromkeys(subject.partition("(")[0] for subject in subjects))
            head = f"{len(subjects)} rules: " if len(subjects) > len(names) or len(names) > _MAX_NAMES else ""
            left = len(names) - _MAX_NAMES
            listed = ", ".join(names if left <= 1 else names[:_MAX_NAMES])
            line = f"{head}{listed}{f' and {left} more calls' if left > 1 else ''}"
            line += f": {reason}" if reason else ""
        made.append((effect, line, members))
    return made


def no_format(name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a format that does not exist."""
    return UsageError(f"no format {name!r}", hint="formats: " + ", ".join(known))
