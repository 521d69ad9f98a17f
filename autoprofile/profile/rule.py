"""Rules: what to answer when every comparator of one syscall holds, and the evidence for having the rule.

A rule is the AND of its comparators; the rules of one syscall are OR'ed. `ANY` stands for no constraint.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoprofile.errors import AutoprofileError
from autoprofile.profile.arg import ANY, Arg, _Any

if TYPE_CHECKING:
    from autoprofile.profile.action import Action

__all__ = ["Args", "Evidence", "SeccompRule"]

#: The arguments of a rule: comparators that all hold, or `ANY`.
Args = tuple[Arg, ...] | _Any


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a rule is in the profile; written beside it as a comment.

    Args:
        count: how many calls were seen, when it was learned from calls.
        processes: how many processes made them.
        first_s: seconds after the start of the run at which the first was seen.
        reason: why else the rule is there ("baseline: …"), or what a person noted beside it.
    """

    count: int | None = None
    processes: int | None = None
    first_s: float | None = None
    reason: str | None = None

    def joined(self, other: Evidence | None) -> Evidence:
        """Return the evidence of both: counts add up, the earliest first time, every reason once."""
        if other is None:
            return self
        first = [s for s in (self.first_s, other.first_s) if s is not None]
        reasons = sorted({r for r in (self.reason, other.reason) if r is not None})
        return Evidence(
            _total(self.count, other.count),
            _total(self.processes, other.processes),
            min(first, default=None),
            "; ".join(reasons) or None,
        )

    @property
    def is_observed(self) -> bool:
        """Return whether the rule allows calls that were seen, whatever else speaks for it."""
        return self.count is not None or self.reason is None


def _total(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


@dataclass(frozen=True, slots=True)
class SeccompRule:
    """Answer a syscall whose arguments satisfy every comparator.

    Args:
        syscall: its name, or its number where it has no name.
        action: what the filter answers.
        args: comparators, several on one index are AND'ed, or `ANY`. An empty tuple is refused: say `ANY`.
        arch: arches the rule is limited to; None for every arch of the profile that has the syscall.
        evidence: why the rule is there; two rules that differ only here are equal.

    Raises:
        AutoprofileError: the parts do not make a rule.
    """

    syscall: str | int
    action: Action
    args: Args = ANY
    arch: tuple[str, ...] | None = None
    evidence: Evidence | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.args, _Any):
            # Callers may hand over a list or a bare comparator in spite of the types.
            given: object = self.args
            if not isinstance(given, Iterable):
                raise AutoprofileError(f"a rule's args are Arg comparators or ANY, not {given!r}")
            args = tuple(given)
            if not args:
                raise AutoprofileError(
                    f"the rule for {self.syscall} has no comparators", hint="say ANY when every call matches"
                )
            if not all(isinstance(one, Arg) for one in args):
                raise AutoprofileError(f"a rule's args are Arg comparators or ANY, not {given!r}")
            object.__setattr__(self, "args", args)
        if self.arch is not None:
            if isinstance(self.arch, str):
                object.__setattr__(self, "arch", (self.arch,))
            elif not self.arch:
                raise AutoprofileError(f"the rule for {self.syscall} is limited to no arch at all")
            else:
                object.__setattr__(self, "arch", tuple(self.arch))

    def evaluate(self, args: Sequence[int]) -> bool:
        """Return whether the raw registers satisfy every comparator; registers not given are 0."""
        return all(one.match(args[one.index] if one.index < len(args) else 0) for one in self.comparators)

    @property
    def comparators(self) -> tuple[Arg, ...]:
        """Return the comparators, none for `ANY`."""
        return () if isinstance(self.args, _Any) else self.args

    @property
    def sort_key(self) -> tuple[object, ...]:
        """Return the key of the stable order of a profile's rules.

        Within a syscall the most severe action comes first, so that the first matching rule is the one that
        decides: a compiler may emit the rules in this order and stop at the first match.
        """
        severity, data = self.action.rank
        return (
            (1, self.syscall, "") if isinstance(self.syscall, int) else (0, 0, self.syscall),
            (-severity, -data),
            tuple(one.sort_key for one in self.comparators),
            self.arch or (),
        )
