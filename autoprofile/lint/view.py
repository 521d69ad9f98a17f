"""Ask a profile what it lets through: find witness calls, each confirmed by the profile's own decision.

A witness proves that a call is allowed. No witness is no proof that none exists: the search tries the values
that the rules name, so a check built on it may miss a finding but never invents one.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice, product
from typing import TYPE_CHECKING, TypeAlias

from autoprofile.abi.signatures import signature
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.profile.wording import call_text

if TYPE_CHECKING:
    from autoprofile.profile.model import Profile
    from autoprofile.profile.rule import SeccompRule

__all__ = ["Want", "allowed", "permitting", "witness", "witness_text"]

Want: TypeAlias = Mapping[int, tuple[int, int]]
"""Argument index to (mask, value): the bits the call must have there."""

_TRIES = 4096
_ALL = (1 << 64) - 1


def permitting(profile: Profile, arch: str, name: str) -> list[SeccompRule]:
    """Return the rules that let some call of this syscall through."""
    if arch not in profile.arch:
        return []
    return [rule for rule in profile.rules_for(arch, name) if rule.action.is_permitting]


def witness(profile: Profile, arch: str, name: str, want: Want | None = None) -> tuple[int, ...] | None:
    """Return arguments with the wanted bits with which the profile lets the call through, or None."""
    nr = syscall_nr(arch, name)
    if nr is None or arch not in profile.arch:
        return None
    want = want or {}
    rules = permitting(profile, arch, name)
    bases = [{a.index: list(a.values) for a in rule.comparators} for rule in rules]
    if profile.default.is_permitting:
        bases.append({})
    for base in bases:
        choices = [_choices(base.get(index, [0]), want.get(index, (0, 0))) for index in range(6)]
        for args in islice(product(*choices), _TRIES):
            if profile.decide_call(arch, nr, args).action.is_permitting:
                return args
    return None


def _choices(values: list[int], want: tuple[int, int]) -> list[int]:
    mask, value = want
    # the values a rule names and their neighbours (for lt, gt, ne), each with the wanted bits put in
    near = [v + d for v in values for d in (0, 1, -1) if 0 <= v + d <= _ALL]
    return list(dict.fromkeys((v & ~mask) | value for v in near))


def allowed(profile: Profile, arch: str, name: str, want: Want | None = None) -> bool:
    """Tell whether a witness exists."""
    return witness(profile, arch, name, want) is not None


def witness_text(arch: str, name: str, args: tuple[int, ...]) -> str:
    """Return a call as text for a message."""
    return call_text(arch, name, args) if signature(arch, name) else name
