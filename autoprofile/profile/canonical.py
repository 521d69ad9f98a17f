"""The one form every profile's rules take: bound widths, names where there are names, a fixed order.

Two profiles with the same rules said in different ways get the same canonical rules, so equality, rendering
and diff know one form only. Nothing here widens or narrows: canonical rules decide as the given ones do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.arch import ARCHES, X32_SYSCALL_BIT, arch_from_audit
from autoprofile.abi.signatures import signature, width_in_rule
from autoprofile.abi.syscalls import syscall_name, syscall_nr, syscall_table
from autoprofile.errors import AutoprofileError, ProfileError
from autoprofile.profile.arg import ANY, Arg, listed_values
from autoprofile.profile.rule import SeccompRule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.profile.rule import Args, Evidence

__all__ = [
    "arches_with",
    "canonical_rules",
    "check_number",
    "joined_evidence",
    "spec_width",
    "unknown_syscall",
]


def arches_with(syscall: str | int, arches: Sequence[str]) -> tuple[str, ...]:
    """Return those of `arches` that have the syscall; a number exists everywhere."""
    if isinstance(syscall, int):
        return tuple(arches)
    return tuple(one for one in arches if syscall_nr(one, syscall) is not None)


def unknown_syscall(name: str, arches: Sequence[str], where: str | None = None) -> ProfileError:
    """Return the error for a name that none of `arches` knows, naming where it exists or what is near."""
    elsewhere = [one for one in ARCHES if syscall_nr(one, name) is not None]
    import difflib

    hint = None
    if elsewhere:
        hint = f"it exists on {', '.join(elsewhere)}"
    else:
        known = sorted({known for one in arches for known in syscall_table(one)})
        if near := difflib.get_close_matches(name, known, n=3):
            hint = f"did you mean {', '.join(near)}?"
    return ProfileError(f"no syscall {name!r} on {', '.join(arches)}", where=where, hint=hint)


def check_number(nr: int, arch: str, where: str | None = None) -> None:
    """Raise `ProfileError` when a syscall number is none of this arch.

    x86_64 and x32 share the audit token, and bit 30 of the number says which of them a call is of: a rule for
    a number on the wrong side would never be asked. -1 has every bit and is one of x86_64.
    """
    if not 0 <= nr <= 0xFFFFFFFF:
        raise ProfileError(f"a syscall number is from 0 to {0xFFFFFFFF}, not {nr}", where=where)
    other = arch_from_audit(ARCHES[arch].audit_arch, nr)
    if other == arch:
        return
    other_bit = nr ^ X32_SYSCALL_BIT
    raise ProfileError(
        f"{nr:#x} ({nr}) is no syscall number of {arch}: "
        + (
            "with bit 30 it is one of x32"
            if other == "x32"
            else "those have bit 30, without it it is one of x86_64"
        ),
        where=where,
        hint=f"give the rule to {other}, or mean {other_bit:#x} of {arch}",
    )


def canonical_rules(rules: Iterable[SeccompRule], arches: tuple[str, ...]) -> tuple[SeccompRule, ...]:
    """Return the canonical form of rules for a profile of these arches.

    * Numbers that have a name become the name; every comparator gets its width; ``any`` comparators go, a
      rule left without comparators is `ANY`; comparators are sorted and kept once.
    * A rule is for one arch, or for every arch of the profile that has the syscall (``arch=None``). A rule
      whose comparators bind differently on different arches is split; rules equal on all of them are joined.
    * Equal rules are kept once, their evidence joined. The order is `SeccompRule.sort_key`.

    Raises:
        ProfileError: an unknown syscall, an arch outside the profile, a number on several arches at once, or
            a value that does not fit its argument.
    """
    found: dict[SeccompRule, dict[str, list[Evidence]]] = {}
    for rule in rules:
        for arch in _arches_of(rule, arches):
            bound = _bind(rule, arch)
            kept = found.setdefault(bound, {}).setdefault(arch, [])
            if rule.evidence is not None and rule.evidence not in kept:
                kept.append(rule.evidence)
    result = []
    for rule, by_arch in found.items():
        if isinstance(rule.syscall, str) and len(arches) > 1:
            everywhere = len(by_arch) == len(arches_with(rule.syscall, arches))
        else:
            everywhere = len(arches) == 1
        if everywhere:
            distinct = dict.fromkeys(one for kept in by_arch.values() for one in kept)
            result.append(_copy(rule, rule.args, None, joined_evidence(distinct)))
        else:
            result.extend(
                _copy(rule, rule.args, (arch,), joined_evidence(kept)) for arch, kept in by_arch.items()
            )
    return tuple(sorted(result, key=lambda rule: rule.sort_key))


def joined_evidence(kept: Iterable[Evidence | None]) -> Evidence | None:
    """Return the evidence of several rules as one, None when none has any."""
    total: Evidence | None = None
    for one in kept:
        if one is not None:
            total = one.joined(total)
    return total


def _arches_of(rule: SeccompRule, arches: tuple[str, ...]) -> tuple[str, ...]:
    if rule.arch is not None:
        for arch in rule.arch:
            if arch not in arches:
                raise ProfileError(
                    f"the rule for {rule.syscall} is limited to {arch}, which the profile does not list",
                    hint=f"its arches: {', '.join(arches)}",
                )
        missing = [one for one in rule.arch if one not in arches_with(rule.syscall, rule.arch)]
        if missing:
            assert isinstance(rule.syscall, str)
            raise unknown_syscall(rule.syscall, missing)
        return rule.arch
    if isinstance(rule.syscall, int):
        if len(arches) > 1:
            raise ProfileError(
                f"syscall number {rule.syscall} means another call on each of {', '.join(arches)}",
                hint="limit the rule to one arch",
            )
        return arches
    having = arches_with(rule.syscall, arches)
    if not having:
        raise unknown_syscall(rule.syscall, arches)
    return having


def _bind(rule: SeccompRule, arch: str) -> SeccompRule:
    syscall = rule.syscall
    if isinstance(syscall, int):
        check_number(syscall, arch)
        syscall = syscall_name(arch, syscall) or syscall
        rule = SeccompRule(syscall, rule.action, rule.args, rule.arch, rule.evidence)
    if not rule.comparators:
        return _copy(rule, ANY, None, rule.evidence)
    specs = signature(arch, syscall) if isinstance(syscall, str) else None
    args: set[Arg] = set()
    for one in rule.comparators:
        if one.op == "any":
            continue
        width = ARCHES[arch].bits
        if specs is not None and one.index < len(specs.args):
            width = spec_width(specs.args[one.index], rule)
        try:
            args.add(one.bind(width))
        except AutoprofileError as error:
            raise ProfileError(f"{syscall}: {error.what}", hint=error.hint) from error
    ordered = tuple(sorted(args, key=lambda one: one.sort_key))
    return _copy(rule, ordered or ANY, None, rule.evidence)


def spec_width(spec: ArgSpec, rule: SeccompRule) -> int:
    """Return the width at which a rule compares an argument unless it says otherwise."""
    if spec.other_width_if is None:
        return spec.width
    deciding = listed_values(rule.comparators, spec.other_width_if.index)
    return width_in_rule(spec, deciding, is_refusing=rule.action.is_refusing)


def _copy(
    rule: SeccompRule, args: Args, arch: tuple[str, ...] | None, evidence: Evidence | None
) -> SeccompRule:
    # Most rules come bound already, and loading a profile is on the way to every enforced program.
    if args == rule.args and arch == rule.arch and evidence == rule.evidence:
        return rule
    return SeccompRule(rule.syscall, rule.action, args, arch, evidence)
