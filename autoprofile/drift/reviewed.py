"""What people decided about drift, remembered by record id beside the profile.

In and out: the text of a JSON document. A verdict after which the call is still refused (keep, deny) settles
a record: it is reported no more, as far as it was looked at: for these programs, for so much loss, for such a
shift. One that accepted it settles nothing: what is accepted is no drift any more. It stays here as the
answer to "who allowed this, when, and why".
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

from autoprofile.drift.record import DENIALS, KINDS
from autoprofile.drift.shift import MIN_EFFECT
from autoprofile.drift.triage import VERDICTS
from autoprofile.errors import AutoprofileError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprofile.drift.record import DriftRecord, DriftReport

__all__ = ["REVIEW_SCHEMA_VERSION", "Reviewed", "Verdict"]

REVIEW_SCHEMA_VERSION = 2
"""2 added `programs` and `size`; version 1 is read, too."""

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
        programs: of a refused call those that had made it, ``?`` for those that could not be told; None where
            an earlier release did not note them: then all.
        size: of `lost` how many were lost, of `shifted` the share of the calls (0 to 1); else None, and None
            where an earlier release did not note it: then any.
    """

    id: str
    verdict: str
    kind: str
    call: str
    time: str
    who: str
    why: str = ""
    programs: tuple[str, ...] | None = None
    size: float | None = None

    @classmethod
    def of(cls, record: DriftRecord, verdict: str, *, time: str, who: str, why: str = "") -> Verdict:
        """Return the verdict on a record, for what the record shows and no more."""
        programs = tuple(sorted(record.programs)) if record.kind in DENIALS else None
        return cls(record.id, verdict, record.kind, record.call, time, who, why, programs, _size(record))

    @property
    def settles(self) -> bool:
        """Whether the record is not to be reported again."""
        return self.verdict in _SETTLING

    def exceeded_by(self, record: DriftRecord) -> str | None:
        """Return what a record shows beyond what was decided about; None when it shows no more."""
        if self.programs is not None and record.kind in DENIALS:
            others = sorted(set(record.programs) - set(self.programs))
            return f"not for {', '.join(others)}" if others else None
        now = _size(record)
        if self.size is None or now is None:
            return None
        if record.kind == "lost":
            return f"when {self.size:g} were lost" if now > self.size else None
        then = record.witness.get("share_then")
        if isinstance(then, float) and _is_between(now, then, self.size):
            return None  # on its way back
        return f"at {self.size:.1%} of the calls" if _effect(self.size, now) >= MIN_EFFECT else None


def _size(record: DriftRecord) -> float | None:
    if record.kind == "lost":
        return record.count
    share = record.witness.get("share_now") if record.kind == "shifted" else None
    return share if isinstance(share, float) else None


def _is_between(value: float, one: float, other: float) -> bool:
    return min(one, other) <= value <= max(one, other)


def _effect(one: float, other: float) -> float:
    """Return Cramér's V of two shares, each of equally many calls."""
    mean = (one + other) / 2
    return 0.0 if mean in (0, 1) else abs(one - other) / 2 / sqrt(mean * (1 - mean))


@dataclass
class Reviewed:
    """Hold the verdicts of one profile, the latest of each id.

    Args:
        verdicts: by record id.
    """

    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def add(self, verdict: Verdict, former_ids: Iterable[str] = ()) -> None:
        """Note a verdict; it replaces an earlier one on the same record.

        Settling the same call for another program keeps it settled for the first.

        Args:
            verdict: it.
            former_ids: other ids of the record (`DriftRecord.former_ids`), whose verdicts it replaces, too.
        """
        earlier = [self.verdicts.pop(id_, None) for id_ in (verdict.id, *former_ids)]
        programs = verdict.programs
        for one in earlier:
            if one is not None and one.verdict == verdict.verdict and one.programs and programs is not None:
                programs = tuple(sorted({*programs, *one.programs}))
        self.verdicts[verdict.id] = replace(verdict, programs=programs)

    def verdict_on(self, record: DriftRecord) -> Verdict | None:
        """Return the verdict on a record, also one given under an id of an earlier release."""
        ids = (record.id, *record.former_ids)
        return next((self.verdicts[id_] for id_ in ids if id_ in self.verdicts), None)

    def open(self, records: Iterable[DriftRecord]) -> tuple[DriftRecord, ...]:
        """Return the records that nobody has settled, in their order.

        One that was settled for less than it shows now says so.
        """
        return tuple(self._told(r) for r in records if not self.is_settled(r))

    def without_settled(self, report: DriftReport) -> DriftReport:
        """Return a report whose settled records are in `DriftReport.settled`."""
        settled = tuple(r for r in report if self.is_settled(r))
        return replace(report, records=self.open(report), settled=settled)

    def is_settled(self, record: DriftRecord) -> bool:
        """Tell whether somebody decided that this record is not to be reported again."""
        verdict = self.verdict_on(record)
        return verdict is not None and verdict.settles and verdict.exceeded_by(record) is None

    def _told(self, record: DriftRecord) -> DriftRecord:
        verdict = self.verdict_on(record)
        if verdict is None or not verdict.settles:
            return record
        done = {"keep": "kept", "deny": "denied"}[verdict.verdict]
        beyond = verdict.exceeded_by(record)
        return replace(record, why=f"{done} by {verdict.who} on {verdict.time}, but {beyond}; {record.why}")

    def dumps(self) -> str:
        """Return the document, sorted by time, then id, so that a diff shows what was added."""
        ordered = sorted(self.verdicts.values(), key=lambda v: (v.time, v.id))
        document = {"schema_version": REVIEW_SCHEMA_VERSION, "verdicts": [_entry(v) for v in ordered]}
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
            if version not in (1, REVIEW_SCHEMA_VERSION):
                raise AutoprofileError(
                    f"a review file of version {version}; this release reads up to {REVIEW_SCHEMA_VERSION}",
                    where=where,
                    hint="a newer release of autoprofile wrote it",
                )
            found = cls()
            for entry in entries:
                verdict = _verdict(entry)
                found.verdicts[verdict.id] = verdict
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AutoprofileError(
                f"this is no review file: {error}",
                where=where,
                hint="move it away and review again, or take it back from version control",
            ) from error
        return found


def _entry(verdict: Verdict) -> dict[str, Any]:
    entry = asdict(verdict)
    return {key: value for key, value in entry.items() if value is not None}


def _verdict(entry: dict[str, Any]) -> Verdict:
    known = {f.name for f in fields(Verdict)}
    if unknown := sorted(set(entry) - known):
        raise ValueError(f"unknown key {unknown[0]!r}")
    programs, size = entry.get("programs"), entry.get("size")
    texts = [value for key, value in entry.items() if key not in ("programs", "size")]
    if programs is not None:
        if not isinstance(programs, list):
            raise ValueError("programs of a verdict is a list")
        texts += programs
        entry = {**entry, "programs": tuple(programs)}
    if not all(isinstance(value, str) for value in texts):
        raise ValueError("every value of a verdict is text")
    if size is not None and (isinstance(size, bool) or not isinstance(size, (int, float))):
        raise ValueError("size of a verdict is a number")
    verdict = Verdict(**entry)
    if verdict.verdict not in VERDICTS:
        raise ValueError(f"there is no verdict {verdict.verdict!r}")
    if verdict.kind not in KINDS:
        raise ValueError(f"there is no kind of drift {verdict.kind!r}")
    return verdict
