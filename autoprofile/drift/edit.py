"""The smallest change of a profile that accepts one refused call, as a rule, as YAML and applied.

In: a profile and a call it refuses. Out: the edited profile, which accepts that call, arguments included, and
nothing else that it refused before: a deny rule in the way is divided around it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_name
from autoprofile.drift.record import DENIALS
from autoprofile.drift.risk import unknown_args
from autoprofile.errors import AutoprofileError
from autoprofile.profile.action import Action
from autoprofile.profile.arg import ANY, Arg
from autoprofile.profile.canonical import spec_width
from autoprofile.profile.model import Profile
from autoprofile.profile.region import subtract_all
from autoprofile.profile.rule import Evidence, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoprofile.drift.record import DriftRecord

__all__ = ["accept", "accept_rules", "accepting_rule", "edit_text", "in_the_way", "removing_text"]

_MAX_PIECES = 64
"""More pieces than this of one deny rule are no longer readable; then nothing is changed."""


def accepting_rule(
    profile: Profile, arch: str, nr: int, args: Sequence[int | None], evidence: Evidence | None = None
) -> SeccompRule:
    """Return the allow rule for exactly this tuple of constrained arguments.

    widens: pointers, descriptors, sizes and arguments that the kernel does not read in this call are not
        compared.
    """
    name = syscall_name(arch, nr)
    specs = constrained_args(arch, name) if name else ()
    compared = tuple(Arg(s.index, "eq", v) for s in specs if (v := args[s.index]) is not None)
    limit = None if profile.arch == (arch,) else (arch,)
    rule = SeccompRule(name or nr, Action.ALLOW, compared or ANY, limit, evidence)
    width_of = {s.index: spec_width(s, rule) for s in specs}
    bound = tuple(replace(one, width=width_of[one.index]) for one in compared)
    return replace(rule, args=bound or ANY)


def in_the_way(profile: Profile, arch: str, nr: int, args: Sequence[int | None]) -> list[SeccompRule]:
    """Return the rules that refuse this call and so win over any rule that allows it."""
    if arch not in profile.arch:
        return []
    raw = [a or 0 for a in args]
    # A rule over an argument that is not known may or may not have refused it; it stays. narrows: so may the
    # call stay refused.
    unknown = {spec.index for spec in unknown_args(arch, syscall_name(arch, nr), args)}
    return [
        rule
        for rule in profile.rules_for(arch, nr)
        if not rule.action.is_permitting
        and rule.evaluate(raw)
        and not any(c.index in unknown for c in rule.comparators)
    ]


def accept(profile: Profile, records: Iterable[DriftRecord]) -> Profile:
    """Return the profile with the refused calls of `records` accepted; records of other kinds change nothing.

    A deny rule that refused a call is divided around it: it goes on refusing everything else that it refused.

    Raises:
        AutoprofileError: a deny rule is in the way that cannot be divided, or no profile can hold the arch.
    """
    for record in records:
        if record.kind not in DENIALS or record.arch is None or record.nr is None:
            continue
        if record.arch not in ARCHES:
            raise AutoprofileError(f"{record.id}: no profile can allow calls of the arch {record.arch}")
        rule = record.rule or accepting_rule(profile, record.arch, record.nr, record.args)
        evidence = rule.evidence or Evidence(count=record.count or None)
        profile = accept_rules(profile, record, (replace(rule, evidence=evidence),))
    return profile


def accept_rules(profile: Profile, record: DriftRecord, added: Sequence[SeccompRule]) -> Profile:
    """Return the profile with rules added that accept the call of `record`, and the way to it cleared.

    Raises:
        AutoprofileError: a deny rule is in the way that cannot be divided.
    """
    assert record.arch is not None
    assert record.nr is not None
    arches = list(profile.arch)
    rules = list(profile.rules)
    if record.arch not in arches:
        # A rule without an arch limit holds for every arch of the profile: what was allowed so far must
        # not silently become allowed on the new one.
        rules = [r if r.arch else replace(r, arch=_having(r, arches)) for r in rules]
        arches.append(record.arch)
    for blocked in in_the_way(profile, record.arch, record.nr, record.args):
        rules.remove(blocked)
        rest = _with_exception(profile, blocked, record.arch, added)
        if rest is None:
            raise AutoprofileError(
                f"the deny rule of {blocked.syscall} falls into over {_MAX_PIECES} rules around this call",
                hint="change that rule in the profile by hand",
            )
        rules += rest
    limit = None if arches == [record.arch] else (record.arch,)
    rules += [rule for one in added if (rule := replace(one, arch=limit)) not in rules]
    return replace(profile, arch=tuple(arches), rules=tuple(rules))


def _with_exception(
    profile: Profile, rule: SeccompRule, arch: str, added: Sequence[SeccompRule]
) -> list[SeccompRule] | None:
    """Return the rules that refuse what `rule` refuses, but for the calls that `added` allow on one arch.

    None where that takes too many.
    """
    others = tuple(a for a in rule.arch or _having(rule, profile.arch) if a != arch)
    kept = [replace(rule, arch=others)] if others else []
    pieces = subtract_all(rule.comparators, [one.comparators for one in added], _MAX_PIECES)
    if pieces is None:
        return None
    limit = rule.arch if not others and rule.arch is None else (arch,)
    return [*kept, *(replace(rule, args=piece, arch=limit) for piece in pieces)]


def _having(rule: SeccompRule, arches: Sequence[str]) -> tuple[str, ...]:
    from autoprofile.profile.canonical import arches_with

    return arches_with(rule.syscall, arches)


def edit_text(
    profile: Profile,
    arch: str,
    nr: int,
    args: Sequence[int | None],
    rule: SeccompRule | None = None,
    missing: Sequence[str] = (),
) -> str:
    """Return the YAML to add to the profile so that it accepts this call, with what to remove as comments.

    Args:
        profile: the profile to edit.
        arch: of the call.
        nr: its number.
        args: its arguments.
        rule: the rule to add; the one for exactly this call unless given.
        missing: names of arguments that are not known, which the edit therefore leaves open.
    """
    lines = [f"# widens: with any {', '.join(missing)}, which the evidence does not hold"] if missing else []
    arches = profile.arch
    limit = None if arches == (arch,) else (arch,)
    rule = replace(rule or accepting_rule(profile, arch, nr, args), arch=limit)
    for blocked in in_the_way(profile, arch, nr, args):
        lines.append("# remove, because it wins over every rule that allows:")
        lines += [f"#   {line}" for line in rules_text((blocked,), profile.arch)]
        rest = _with_exception(profile, blocked, arch, (rule,))
        if rest is None:
            lines.append("# and refuse the rest of it in another way: it falls into too many rules")
        elif rest:
            lines.append("# and add, so that the rest of it stays refused:")
            lines += rules_text(rest, profile.arch)
    if arch not in arches:
        arches = (*arches, arch)
        lines.append(f"# move the rules under syscalls to syscalls_by_arch, {', '.join(profile.arch)}; then:")
        lines.append(f"arch: [{', '.join(arches)}]")
    lines += rules_text((rule,), arches)
    return "\n".join(lines) + "\n"


def removing_text(profile: Profile, rule: SeccompRule) -> str:
    """Return the lines of a rule that can be taken out, as a comment that says so."""
    return "\n".join(["# remove:", *(f"#   {line}" for line in rules_text((rule,), profile.arch))]) + "\n"


def rules_text(rules: Sequence[SeccompRule], arches: tuple[str, ...]) -> list[str]:
    """Return the YAML lines of rules as a profile of these arches writes them, without header or evidence."""
    bare = tuple(replace(rule, evidence=None) for rule in rules)
    lines = Profile(arch=arches, rules=bare).dumps().splitlines()
    sections = ("syscalls:", "syscalls_by_arch:", "deny:", "deny_by_arch:")
    start = next(i for i, line in enumerate(lines) if line.startswith(sections))
    return lines[start:]
