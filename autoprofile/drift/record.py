"""What drift is made of: one record per difference, and the report that holds them.

Plain immutable data with `to_dict` for ``--json``; how records come about is the business of `compare`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autoprofile.profile.rule import SeccompRule

__all__ = [
    "DENIALS",
    "DRIFT_SCHEMA_VERSION",
    "KINDS",
    "SEVERITIES",
    "DriftRecord",
    "DriftReport",
    "denial_ids",
    "record_id",
]

DRIFT_SCHEMA_VERSION = 1

KINDS = ("new_syscall", "new_argument", "lost", "shifted", "unused_rule")
"""In the order in which they matter at equal severity."""

DENIALS = ("new_syscall", "new_argument")
"""The kinds that are calls which the profile refuses."""

SEVERITIES = ("high", "medium", "low", "info")

Args6: TypeAlias = "tuple[int | None, int | None, int | None, int | None, int | None, int | None]"


def record_id(kind: str, arch: str | None, call: str | int | None, args: object) -> str:
    """Return the stable id of a difference: a hash of what it is, never of how often it was seen."""
    text = repr((kind, arch, call, args))
    return "D" + hashlib.sha256(text.encode()).hexdigest()[:12]


def denial_ids(arch: str, call: str, args: object) -> tuple[str, str]:
    """Return the id of a refused call, and the one that earlier releases gave where the call had rules.

    Whether the profile has other rules of the call is no part of the id: accepting one of two calls must not
    give the other a new one.
    """
    new_syscall, new_argument = (record_id(kind, arch, call, args) for kind in DENIALS)
    return new_syscall, new_argument


@dataclass(frozen=True, slots=True)
class DriftRecord:
    """Describe one difference between a profile and later behaviour.

    Args:
        kind: one of `KINDS`.
        id: stable over runs, machines and counts.
        severity: one of `SEVERITIES`, from the risk class of the call.
        arch: of the call; None for `lost`.
        syscall: its name, or its number as text where it has no name; None for `lost`.
        nr: its number.
        args: the arguments that matter; None where the argument is free or unknown. Of another profile's rule
            one call as proof.
        decoded: these arguments under their names, as text, ``?`` for the unknown; of `unused_rule` and of
            another profile's rule the values of the rule.
        program: the executable that made most of the calls, None when none is known.
        programs: all that made them, most calls first; ``?`` for those that could not be told.
        count: calls (for `unused_rule`, calls when it was learned; for `lost`, entries of the ledger).
        why: why this is a difference and what explains it, in one or two sentences.
        edit: the smallest profile edit that accepts it (YAML); "" where there is none.
        witness: where to look: the evidence it was found in, with time, process and code location when known.
        attribution: ``changed`` (program, library, libc or kernel differ from what was learned, or code was
            not there), ``same`` (same binaries, new behaviour) or ``unknown``.
        risk: the risk class, if any.
        rule: the allow rule that `edit` writes, or the rule that is unused; None where no rule can be
            written.
        is_new_behaviour: of a refused call whether no rebuild explains it: the binaries are those that were
            learned, or those and code that was not there.
        unknown: names of the arguments that the evidence does not hold. `severity` and `risk` are then those
            of the worst values, and the edit widens: it allows all values.
        former_ids: under which earlier releases knew it.
    """

    kind: str
    id: str
    severity: str
    arch: str | None
    syscall: str | None
    nr: int | None
    args: tuple[int | None, ...]
    decoded: Mapping[str, str]
    program: str | None
    programs: tuple[str, ...]
    count: int
    why: str
    edit: str
    witness: Mapping[str, object]
    attribution: str = "unknown"
    risk: str | None = None
    rule: SeccompRule | None = None
    is_new_behaviour: bool = False
    unknown: tuple[str, ...] = ()
    former_ids: tuple[str, ...] = ()

    @property
    def is_whole_rule(self) -> bool:
        """Whether it is a rule of another profile, so many calls, rather than one call."""
        return self.witness.get("source") == "profile"

    @property
    def is_unexplained(self) -> bool:
        """Whether it is a refused call that no rebuilt program or library and no other kernel explains.

        What cannot be attributed is not explained either.
        """
        is_call = self.kind in DENIALS and not self.is_whole_rule
        return is_call and (self.is_new_behaviour or self.attribution != "changed")

    @property
    def is_guess(self) -> bool:
        """Whether nobody knows what was called: accepting it would allow what the evidence does not show."""
        return bool(self.unknown)

    @property
    def call(self) -> str:
        """The call as text: ``socket(family=AF_NETLINK, type=SOCK_RAW, protocol=0)``."""
        if self.syscall is None:
            return self.kind
        return f"{self.syscall}({', '.join(f'{k}={v}' for k, v in self.decoded.items())})"

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values; raw arguments as hexadecimal text, because JSON numbers end at 2^53."""
        return {
            "kind": self.kind,
            "id": self.id,
            "severity": self.severity,
            "arch": self.arch,
            "syscall": self.syscall,
            "nr": self.nr,
            "args": [None if a is None else f"{a:#x}" for a in self.args],
            "decoded": dict(self.decoded),
            "program": self.program,
            "programs": list(self.programs),
            "count": self.count,
            "why": self.why,
            "edit": self.edit,
            "witness": dict(self.witness),
            "attribution": self.attribution,
            "risk": self.risk,
            "new_behaviour": self.is_new_behaviour,
            "unknown": list(self.unknown),
        }


@dataclass(frozen=True, slots=True)
class DriftReport:
    """Hold all differences, the most important first.

    Args:
        records: the differences.
        traces: traces compared.
        audits: audit logs compared.
        profiles: other profiles compared; each of their allow rules counts as one call.
        calls: calls compared, denied and allowed.
        allowed: calls that the profile allows.
        answered: calls that a deny rule answers as was meant: with the error they met anyway, or with ENOSYS
            so that libc takes its other way; they are in no record.
        undecided: calls that went through and about which nothing can be said, because a rule compares an
            argument that the evidence does not hold (a hand-written constraint on an fd, say); they are in no
            record.
        settled: differences left out of `records` because a review has settled them.
        learned_from: the program that the profile was learned from, None when it does not say.
        strangers: the programs of evidence none of whose programs the profile was learned from.
    """

    records: tuple[DriftRecord, ...]
    traces: int = 0
    audits: int = 0
    profiles: int = 0
    calls: int = 0
    allowed: int = 0
    answered: int = 0
    undecided: int = 0
    settled: tuple[DriftRecord, ...] = ()
    learned_from: str | None = None
    strangers: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[DriftRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def counts(self) -> dict[str, int]:
        """The number of records of each kind, all kinds named."""
        found = Counter(r.kind for r in self.records)
        return {kind: found[kind] for kind in KINDS}

    @property
    def denials(self) -> tuple[DriftRecord, ...]:
        """The records of calls that the profile refuses."""
        return tuple(r for r in self.records if r.kind in DENIALS)

    def to_dict(self) -> dict[str, object]:
        """Return the JSON document of ``drift --json``."""
        return {
            "schema_version": DRIFT_SCHEMA_VERSION,
            "traces": self.traces,
            "audits": self.audits,
            "profiles": self.profiles,
            "calls": self.calls,
            "allowed": self.allowed,
            "answered": self.answered,
            "undecided": self.undecided,
            "settled": len(self.settled),
            "learned_from": self.learned_from,
            "other_programs": list(self.strangers),
            "counts": self.counts,
            "records": [r.to_dict() for r in self.records],
        }
