"""What people decided about drift, remembered by record id beside the profile.

In and out: the text of a JSON document. A verdict after which the call is still refused (keep, deny) settles
a record: it is reported no more. One that accepted it settles nothing: what is accepted is no drift any more.
It stays here as the answer to "who allowed this, when, and why".
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

from autoprofile.drift.record import KINDS
from autoprofile.drift.triage import VERDICTS
from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprofile.drift.record import DriftRecord

__all__ = ["REVIEW_SCHEMA_VERSION", "Reviewed", "Verdict"]

REVIEW_SCHEMA_VERSION = 1

_SETTLING = ("deny", "keep")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Record one decision.

    Args:
        id: of the drift record: stable over runs, machines and counts.
        verdict: one of `triage.VERDICTS`.
        kind: of the record.
        call: the call as text, for people.
        time: when, ISO 8601 in UTC.
        who: the person.
        why: what they noted, "" when nothing.
    """

    id: str
    verdict: str
    kind: str
    call: str
    time: str
    who: str
    why: str = ""

    @property
    def settles(self) -> bool:
        """Whether the record is not to be reported again."""
        return self.verdict in _SETTLING


@dataclass
class Reviewed:
    """Hold the verdicts of one profile, the latest of each id.

    Args:
        verdicts: by record id.
    """

    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def add(self, verdict: Verdict) -> None:
        """Note a verdict; it replaces an earlier one on the same record."""
        self.verdicts[verdict.id] = verdict

    def open(self, records: Iterable[DriftRecord]) -> tuple[DriftRecord, ...]:
        """Return the records that nobody has settled, in their order."""
        return tuple(r for r in records if not self.is_settled(r))

    def is_settled(self, record: DriftRecord) -> bool:
        """Tell whether somebody decided that this record is not to be reported again."""
        verdict = self.verdicts.get(record.id)
        return verdict is not None and verdict.settles

    def dumps(self) -> str:
        """Return the document, sorted by time, then id, so that a diff shows what was added."""
        ordered = sorted(self.verdicts.values(), key=lambda v: (v.time, v.id))
        document = {"schema_version": REVIEW_SCHEMA_VERSION, "verdicts": [asdict(v) for v in ordered]}
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def loads(cls, text: str, where: str) -> Reviewed:
        """Read a document.

        Raises:
            AutoprofileError: it is none; `where` names the file.
        """
        try:
            document = json.loads(text)
            version = document["schema_version"]
            entries = document["verdicts"]
            if version != REVIEW_SCHEMA_VERSION:
                raise AutoprofileError(
                    f"a review file of version {version}; this release reads {REVIEW_SCHEMA_VERSION}",
                    where=where,
                    hint="a newer release of autoprofile wrote it",
                )
            found = cls()
            for entry in entries:
                found.add(_verdict(entry))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AutoprofileError(
                f"this is no review file: {error}",
                where=where,
                hint="move it away and review again, or take it back from version control",
            ) from error
        return found


def _verdict(entry: dict[str, object]) -> Verdict:
    known = {f.name for f in fields(Verdict)}
    if unknown := sorted(set(entry) - known):
        raise ValueError(f"unknown key {unknown[0]!r}")
    if not all(isinstance(value, str) for value in entry.values()):
        raise ValueError("every value of a verdict is text")
    verdict = Verdict(**entry)  # type: ignore[arg-type]
    if verdict.verdict not in VERDICTS:
        raise ValueError(f"there is no verdict {verdict.verdict!r}")
    if verdict.kind not in KINDS:
        raise ValueError(f"there is no kind of drift {verdict.kind!r}")
    return verdict
