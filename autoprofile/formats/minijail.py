"""minijail policy text (minijail0 -S; ChromeOS, Android): one line a call, arguments included.

Grammar: google/minijail, minijail0(5) and the parser's own comments. Comparisons are of whole registers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.formats.conditions import Condition, conditions_of
from autoprofile.formats.cover import Call
from autoprofile.formats.fidelity import Exported, Note
from autoprofile.profile.region import intersection
from autoprofile.profile.wording import rule_text

if TYPE_CHECKING:
    from autoprofile.profile import Profile, SeccompRule

__all__ = ["export_minijail"]

_SIGNS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF


def export_minijail(profile: Profile) -> Exported:
    """Return a profile as a minijail policy for its first arch."""
    arch = profile.arch[0]
    notes: list[Note] = [
        Note("narrowed", f"arch {other}", "a policy is for one arch: killed") for other in profile.arch[1:]
    ]
    if profile.default.kind == "kill_process":
        notes.append(Note("kept", "default kill"))
    else:
        notes.append(Note("narrowed", f"default {profile.default}", "minijail0 kills, or logs with -L"))
    lines = [f"# {profile.program.path or 'a program'}, {arch}: made by autoprofile"]
    by_call: dict[str, list[SeccompRule]] = {}
    for rule in profile.rules:
        subject = rule_text(arch, rule)
        if rule.arch is not None and arch not in rule.arch:
            continue
        if isinstance(rule.syscall, int):
            notes.append(Note("narrowed", subject, "policies name calls: refused"))
        else:
            by_call.setdefault(rule.syscall, []).append(rule)
    for name, rules in by_call.items():
        line = _line(arch, profile, rules, notes)
        if line is not None:
            lines.append(f"{name}: {line}")
    return Exported(("\n".join(lines) + "\n").encode(), tuple(notes))


def _line(arch: str, profile: Profile, rules: list[SeccompRule], notes: list[Note]) -> str | None:
    refusing = [rule for rule in rules if not rule.action.is_permitting]
    passing = [rule for rule in rules if rule.action.is_permitting]
    call = Call(rules, profile.default)
    apart = refusing and all(
        intersection(one.comparators, other.comparators) is None for one in passing for other in refusing
    )
    if refusing and passing and apart:
        # A line allows what matches; where every other call is refused with one error, it says that as well.
        worst = {rule.action for rule in refusing}
        line = _line(arch, profile, passing, notes)
        whole = call.answers == worst | {rule.action for rule in passing} and len(worst) == 1
        answer = next(iter(worst))
        if whole and answer.kind == "errno" and line is not None:
            notes += [Note("kept", rule_text(arch, rule)) for rule in refusing]
            return f"{line}; return {answer.data}"
        detail = "left out, the calls it refuses are killed with all others that the line does not allow"
        notes += [Note("narrowed", rule_text(arch, rule), detail) for rule in refusing]
        return line
    if refusing:
        worst_rule = max(refusing, key=lambda rule: rule.action.rank)
        if passing or worst_rule.comparators:
            detail = "to every call, allow rules beside it included: a line allows or refuses"
            notes.append(Note("narrowed", rule_text(arch, worst_rule), detail))
            notes += [
                Note("narrowed", rule_text(arch, rule), f"refused: {worst_rule.action} overlaps it")
                for rule in passing
            ]
        else:
            notes.append(Note("kept", rule_text(arch, worst_rule)))
        return f"return {worst_rule.action.data}" if worst_rule.action.kind == "errno" else None
    terms: list[str] = []
    for rule in rules:
        subject = rule_text(arch, rule)
        if rule.action.kind != "allow":
            notes.append(Note("impossible", subject, f"a policy cannot {rule.action}: allowed"))
        made = conditions_of(rule)
        widened, narrowed = list(made.widened), list(made.narrowed)
        for alternative in made.alternatives:
            parts = [_condition(one, widened, narrowed) for one in alternative]
            terms.append(" && ".join(part for part in parts if part) or "1")
        notes += [Note("widened", subject, text) for text in dict.fromkeys(widened)]
        notes += [Note("narrowed", subject, text) for text in dict.fromkeys(narrowed)]
        if not widened and not narrowed:
            notes.append(Note("kept", subject))
    return "1" if "1" in terms else " || ".join(dict.fromkeys(terms))


def _condition(one: Condition, widened: list[str], narrowed: list[str]) -> str:
    if one.op != "masked_eq":
        return f"arg{one.index} {_SIGNS[one.op]} {one.value:#x}"
    assert one.mask is not None
    if one.mask == _U32:
        narrowed.append(f"argument {one.index}: compared whole, a dirty upper half no longer passes")
        return f"arg{one.index} == {one.value:#x}"
    if one.value == 0:
        spare = ~one.mask & (_U32 if one.mask <= _U32 else _U64)
        if one.mask <= _U32:
            narrowed.append(f"argument {one.index}: compared whole, a dirty upper half no longer passes")
        return f"arg{one.index} in {spare:#x}"
    widened.append(f"argument {one.index}: a policy has no masked comparison, dropped")
    return ""
