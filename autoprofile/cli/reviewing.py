"""One review of one profile: what is open, what a verdict does, and the walk that asks for them.

Every verdict is written at once, profile first, so that a review can end at any moment and go on later. The
profile is read again before each change: what somebody wrote into it meanwhile is kept.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import click

from autoprofile.cli.drifting import compared, read_reviewed, review_file, write_reviewed
from autoprofile.cli.histories import record_if_kept, user_name
from autoprofile.cli.inputs import read_profile
from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from autoprofile.cli.drifting import Evidence
    from autoprofile.cli.output import Output
    from autoprofile.drift import DriftRecord, DriftReport
    from autoprofile.profile import Profile, SeccompRule
    from autoprofile.profile.diff import Change

__all__ = ["Session", "walk"]

_KEYS = {"a": "accept", "g": "generalise", "d": "deny", "r": "remove", "k": "keep"}
_MEANING = {
    "accept": "accept exactly this call",
    "generalise": "accept what level standard makes of it",
    "deny": "answer it with an errno (d EPERM), and report it no more",
    "remove": "remove the rule",
    "keep": "leave the profile as it is, and report this no more",
}


class Session:
    """Hold a profile, its evidence, and the verdicts given so far.

    Args:
        output: where to say what was written.
        path: the profile's file.
        evidence: what it is compared with.
        who: who decides; None takes the user's name.
        why: noted beside each verdict.
        dry_run: write nothing.
    """

    def __init__(
        self, output: Output, path: Path, evidence: Evidence, *, who: str | None, why: str, dry_run: bool
    ) -> None:
        if str(path) == "-":
            raise UsageError("review changes the profile: it has to be a file", hint="name the file")
        self.output = output
        self.path = path
        self.dry_run = dry_run
        self.profile = self.before = read_profile(path)
        self._evidence = evidence
        self._who, self._why = who or user_name(), why
        self._reviewed = read_reviewed(review_file(path))
        self._report: DriftReport = compared(output, self.profile, evidence)
        self._given: Counter[str] = Counter()

    def open_records(self) -> tuple[DriftRecord, ...]:
        """Return what nobody has decided, grouped by program, the group with the gravest difference first."""
        groups: dict[str | None, list[DriftRecord]] = {}
        for record in self._reviewed.open(self._report):
            groups.setdefault(record.program, []).append(record)
        return tuple(record for group in groups.values() for record in group)

    def find(self, id_: str) -> DriftRecord:
        """Return the record of an id, or of the beginning of one.

        Raises:
            UsageError: no record, or several, have it.
        """
        ids = [(one, r) for r in self._report for one in (r.id, *r.former_ids) if one.startswith(id_)]
        found = {r.id: r for _, r in ids}
        exact = next((r for one, r in ids if one == id_), None)
        if exact is not None:
            return exact
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise UsageError(f"{id_} is the beginning of {len(found)} ids: {', '.join(sorted(found))}")
        raise UsageError(
            f"no difference has the id {id_}",
            hint="`autoprofile drift --json` prints the ids; what is accepted already is none any more",
        )

    def decide(self, record: DriftRecord, verdict: str, errno: str = "") -> None:
        """Carry out one verdict and write it.

        Raises:
            AutoprofileError: the verdict does not fit, or a file cannot be written; nothing is changed then.
        """
        self.decide_all([(record, verdict, errno)])

    def decide_all(self, wanted: Sequence[tuple[DriftRecord, str, str]]) -> None:
        """Carry out several verdicts and write them together: all or none."""
        from autoprofile.drift.reviewed import Verdict
        from autoprofile.drift.triage import CHANGING, apply, deny_rule

        if not wanted:
            return
        profile = self.profile if self.dry_run else read_profile(self.path)
        for record, verdict, errno in wanted:
            profile = apply(profile, record, verdict, errno=errno or "EPERM")
        changes = any(verdict in CHANGING for _, verdict, _ in wanted)
        if changes and not self.dry_run:
            profile.save(self.path, overwrite=True)
            record_if_kept(self.path, profile, who=self._who, why=self._why or _reason(wanted))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        given = [(record, verdict) for record, verdict, _ in wanted]
        if changes:
            # A call denied whatever its arguments is decided in all its forms.
            denied = [
                deny_rule(self.profile, r, e or "EPERM") for r, verdict, e in wanted if verdict == "deny"
            ]
            self._report = compared(self.output, profile, self._evidence)
            named = {record.id for record, _ in given}
            given += [
                (record, "deny")
                for record in self._reviewed.open(self._report)
                if record.id not in named and _decided_by(profile, record) in denied
            ]
        for record, verdict in given:
            noted = Verdict.of(record, verdict, time=now, who=self._who, why=self._why)
            self._reviewed.add(noted, record.former_ids)
            self._given[verdict] += 1
        if not self.dry_run:
            write_reviewed(review_file(self.path), self._reviewed)
        self.profile = profile

    def summary(self) -> str:
        """Return what was decided and what is left, as text."""
        from autoprofile.report.facts import counted

        given = ", ".join(f"{n} {verdict}" for verdict, n in sorted(self._given.items())) or "nothing"
        left = len(self.open_records())
        lines = [f"decided: {given}; {counted(left, 'difference')} left"]
        if self.dry_run:
            lines += [f"  {change}" for change in self._changes()] + ["nothing was written (--dry-run)"]
        elif self.profile != self.before:
            lines.append(f"wrote {self.path}")
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, object]:
        """Return the document of ``review --json``."""
        return {
            "decided": dict(sorted(self._given.items())),
            "changes": [change.to_dict() for change in self._diff()],
            "open": [record.to_dict() for record in self.open_records()],
            "dry_run": self.dry_run,
        }

    def _changes(self) -> Iterable[str]:
        return (f"{change.kind}: {change}" for change in self._diff())

    def _diff(self) -> list[Change]:
        from autoprofile.profile.diff import diff

        return diff(self.before, self.profile)


def _reason(wanted: Sequence[tuple[DriftRecord, str, str]]) -> str:
    return (
        "review: "
        + ", ".join(f"{verdict} {record.call}" for record, verdict, _ in wanted[:3])
        + (f" and {len(wanted) - 3} more" if len(wanted) > 3 else "")
    )


def _decided_by(profile: Profile, record: DriftRecord) -> SeccompRule | None:
    from autoprofile.drift.decide import decide_known

    if record.arch is None or record.nr is None:
        return None
    decision = decide_known(profile, record.arch, record.nr, record.args)
    return None if decision is None else decision.rule


def walk(session: Session) -> None:
    """Ask about each open record until all are decided, skipped, or the answers end.

    Answers are read from stdin, one a line; the questions are on stderr: stdout holds the result only.
    """
    skipped: set[str] = set()
    program: str | None = None
    first = True
    while True:
        left = [r for r in session.open_records() if r.id not in skipped]
        if not left:
            return
        record = next((r for r in left if r.program == program), left[0])
        if first or record.program != program:
            first, program = False, record.program
            here = sum(r.program == program for r in left)
            _say(f"== {printable(program or 'the evidence as a whole')}: {here} to decide\n")
        if not _ask(session, record, len(left)):
            return
        if any(r.id == record.id for r in session.open_records()):
            skipped.add(record.id)


def _ask(session: Session, record: DriftRecord, left: int) -> bool:
    """Ask about one record; False ends the review."""
    from autoprofile.drift.triage import verdicts_for
    from autoprofile.report.summary import drift_record_text

    possible = verdicts_for(session.profile, record)
    keys = [key for key, verdict in _KEYS.items() if verdict in possible]
    _say("\n" + drift_record_text(record, session.output.style()))
    while True:
        _say(f"[{left} left] {'/'.join([*keys, 's', 'e', 'q', '?'])}: ")
        line = sys.stdin.readline()
        if not line:
            _say("\n")
            return False
        words = line.split()
        key = words[0][:1].lower() if words else "?"
        if key == "q":
            return False
        if key == "s":
            return True
        if key == "e":
            _say(_explanation(session.profile, record))
        elif key in keys:
            try:
                session.decide(record, _KEYS[key], words[1] if len(words) > 1 else "")
            except AutoprofileError as error:
                session.output.error(str(error), error.hint)
                continue
            return True
        else:
            _say(_help(possible))


def _help(possible: Sequence[str]) -> str:
    rows = [(key, _MEANING[verdict]) for key, verdict in _KEYS.items() if verdict in possible]
    rows += [("s", "skip: ask again next time"), ("e", "explain"), ("q", "end; the rest is asked next time")]
    return "".join(f"  {key}  {text}\n" for key, text in rows)


def _explanation(profile: Profile, record: DriftRecord) -> str:
    """Return what bears on a decision: the rules of the call, its risk, and what each verdict would write."""
    from autoprofile.abi.families import fallbacks
    from autoprofile.drift.edit import rules_text
    from autoprofile.drift.triage import generalised_rules

    lines = [f"  {record.why}"]
    if record.risk:
        lines.append(f"  risk class: {record.risk}")
    if record.arch is not None and record.nr is not None:
        rules = profile.rules_for(record.arch, record.nr)
        lines.append(f"  the profile's rules of {record.syscall}:" + ("" if rules else " none"))
        if rules:
            lines += [f"    {line}" for line in rules_text(rules, profile.arch)]
        if record.syscall and (others := fallbacks(record.syscall)):
            lines.append(f"  libc may use {', '.join(others)} for the same")
        wider = generalised_rules(profile, record)
        if wider:
            lines.append("  generalised (widens: also what nobody saw):")
            lines += [f"    {line}" for line in rules_text(wider, profile.arch)]
    if record.edit:
        lines.append("  exactly this:")
        lines += [f"    {line}" for line in record.edit.rstrip().split("\n")]
    for name, value in sorted(record.witness.items()):
        if value is not None:
            lines.append(f"  {name}: {value}")
    return printable("\n".join(lines)) + "\n"


def _say(text: str) -> None:
    # As it is: the differences are coloured; the other parts are made printable where they are made.
    click.echo(text, nl=False, err=True)
