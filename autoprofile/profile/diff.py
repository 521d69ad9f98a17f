"""What changed between two profiles, and which way: every rule and header field, with a call as proof.

Pure and deterministic; no change means equal profiles. Evidence beside rules is not compared.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from autoprofile.abi.syscalls import syscall_nr
from autoprofile.profile.canonical import arches_with
from autoprofile.profile.region import intersection, is_subset, subtract_all, witness
from autoprofile.profile.render import header_values, syscall_order
from autoprofile.profile.render_rule import is_deny, rule_yaml
from autoprofile.profile.wording import call_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autoprofile.profile.action import Action
    from autoprofile.profile.model import Profile
    from autoprofile.profile.region import Region
    from autoprofile.profile.rule import SeccompRule

__all__ = ["Change", "diff"]

# Pieces a region may fall into before its direction counts as not worked out.
_LIMIT: Final = 512


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between an old and a new profile.

    Args:
        kind: ``widened`` when the new profile lets a call run that the old one did not, or asks about one it
            refused; ``narrowed`` the other way round; ``changed`` when both, neither (a call refused before
            and now, by another action), or too complex to tell; ``same`` when rules say in another way what
            rules said before: every call is answered as it was.
        edit: ``added``, ``removed`` or ``replaced``.
        subject: the header field (``default``, ``program.path``) or the rule's place (``syscalls.socket``).
        syscall: of a rule, None for header fields.
        arch: the arch a rule is limited to, None for all.
        before: the old form as in the file, None when added.
        after: the new form, None when removed.
        proof: one call that is answered differently, with both answers; None where there is none.
    """

    kind: str
    edit: str
    subject: str
    syscall: str | int | None = None
    arch: str | None = None
    before: str | None = None
    after: str | None = None
    proof: str | None = None

    def to_dict(self) -> dict[str, str | int | None]:
        """Return the change as plain data."""
        return {
            "kind": self.kind,
            "edit": self.edit,
            "subject": self.subject,
            "syscall": self.syscall,
            "arch": self.arch,
            "before": self.before,
            "after": self.after,
            "proof": self.proof,
        }

    def __str__(self) -> str:
        where = self.subject if self.arch is None else f"{self.subject} on {self.arch}"
        if self.edit == "replaced":
            text = f"{where}: {self.before} becomes {self.after}"
        else:
            text = f"{where}: {self.edit} {self.after if self.before is None else self.before}"
        return f"{text} [{self.proof}]" if self.proof else text


def diff(a: Profile, b: Profile) -> list[Change]:
    """Return how the new profile `b` differs from the old `a`: header fields first, then the rules."""
    return [*_header(a, b), *_rules(a, b)]


def _header(a: Profile, b: Profile) -> Iterator[Change]:
    def changed(subject: str, old: object, new: object, kind: str = "changed") -> Iterator[Change]:
        if old != new:
            edit = "added" if old is None else "removed" if new is None else "replaced"
            yield Change(kind, edit, subject, before=_text(old), after=_text(new))

    for name in ("path", "build_id", "argv"):
        yield from changed(
            f"program.{name}", getattr(a.program, name) or None, getattr(b.program, name) or None
        )
    for name in ("runs", "processes", "events", "lost", "kernel", "libc", "unseen", "backend", "complete"):
        yield from changed(f"learned.{name}", getattr(a.learned, name, None), getattr(b.learned, name, None))
    missed = [_left_out(p.learned.left_out if p.learned else None) for p in (a, b)]
    yield from changed("learned.left_out", missed[0], missed[1])
    before, now = (dict(p.learned.binaries) if p.learned else {} for p in (a, b))
    for path in sorted(before.keys() | now.keys()):
        yield from changed(f"learned.binaries {path}", before.get(path), now.get(path))
    old, new = header_values(a), header_values(b)
    more, fewer = set(b.arch) - set(a.arch), set(a.arch) - set(b.arch)
    kind = "changed"
    if bool(more) != bool(fewer) and not (a.bad_arch.is_permitting or b.bad_arch.is_permitting):
        kind = "widened" if more else "narrowed"
    yield from changed("arch", old["arch"], new["arch"], kind)
    yield from changed("level", a.level, b.level)
    yield from changed("mode", a.mode, b.mode)
    yield from changed("default", a.default, b.default, _direction(a.default, b.default))
    yield from changed("bad_arch", a.bad_arch, b.bad_arch, _direction(a.bad_arch, b.bad_arch))


def _left_out(runs: Mapping[int, tuple[str, ...]] | None) -> str | None:
    if runs is None:
        return None
    return "; ".join(f"run {run}: {', '.join(calls)}" for run, calls in sorted(runs.items())) or "none"


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return shlex.join(value) if isinstance(value, tuple) else str(value)


def _direction(old: Action, new: Action) -> str:
    """Return which way an answer went; one refusal for another opens nothing and shuts nothing."""
    before, now = _stage(old), _stage(new)
    return "changed" if before == now else "widened" if now < before else "narrowed"


def _stage(action: Action) -> int:
    # it runs; somebody is asked (notify, trace); it never runs
    return 0 if action.is_permitting else 2 if action.is_refusing else 1


def _rules(a: Profile, b: Profile) -> Iterator[Change]:
    old_rules, new_rules = set(a.rules), set(b.rules)
    removed = [rule for rule in a.rules if rule not in new_rules]
    added = [rule for rule in b.rules if rule not in old_rules]
    effects = {rule: _effect(rule, b, a, is_new=False) for rule in removed}
    effects |= {rule: _effect(rule, a, b, is_new=True) for rule in added}
    pairs: list[tuple[SeccompRule | None, SeccompRule | None]] = []
    # The order of the candidates is the same on the way back.
    for old, new in sorted(
        _candidates(removed, added, effects), key=lambda two: sorted((two[0].sort_key, two[1].sort_key))
    ):
        if old in removed and new in added:
            removed.remove(old)
            added.remove(new)
            pairs.append((old, new))
    idle: dict[tuple[str | int, bool], list[list[SeccompRule]]] = {}
    for at, rules in enumerate((removed, added)):
        for rule in rules:
            if effects[rule].is_none:
                # The others decide its calls as it did: it was divided, joined, or superfluous.
                idle.setdefault((rule.syscall, is_deny(rule)), [[], []])[at].append(rule)
            else:
                pairs.append((None, rule) if at else (rule, None))
    # "Severest rule first" is the order of deciding; readers look for the syscall.
    pairs.sort(key=lambda pair: _place(pair[1] or pair[0]))
    changes = [(_place(new or old), _change(a, b, old, new, effects)) for old, new in pairs]
    changes += [(_place((olds + news)[0]), _reworded(a, b, olds, news)) for olds, news in idle.values()]
    changes.sort(key=lambda entry: entry[0][:1])
    for _, change in changes:
        yield change


@dataclass(slots=True)
class _Effect:
    """What is answered otherwise on account of one rule: a proof of each kind; `is_known`: that is all."""

    proofs: dict[str, str]
    is_known: bool = True

    @property
    def is_none(self) -> bool:
        return self.is_known and not self.proofs


def _candidates(
    removed: Sequence[SeccompRule], added: Sequence[SeccompRule], effects: Mapping[SeccompRule, _Effect]
) -> Iterator[tuple[SeccompRule, SeccompRule]]:
    by_place: dict[tuple[str | int, tuple[str, ...] | None], list[SeccompRule]] = {}
    for rule in added:
        by_place.setdefault((rule.syscall, rule.arch), []).append(rule)
    for old in removed:
        for new in by_place.get((old.syscall, old.arch), ()):
            if not _is_successor(old, new):
                continue
            # A rule whose calls others decide now has become a wider one, or none.
            if effects[old].is_none and not is_subset(old.comparators, new.comparators):
                continue
            if effects[new].is_none and not is_subset(new.comparators, old.comparators):
                continue
            if not (effects[old].is_none and effects[new].is_none):
                yield old, new


def _place(rule: SeccompRule | None) -> tuple[object, ...]:
    assert rule is not None
    return (syscall_order(rule.syscall), rule.sort_key)


def _is_successor(old: SeccompRule, new: SeccompRule) -> bool:
    if (old.syscall, old.arch) != (new.syscall, new.arch):
        return False
    if old.comparators == new.comparators:
        return is_deny(old) == is_deny(new)
    if old.action != new.action:
        return False
    mine, its = old.comparators, new.comparators
    if len({one.index for one in {*mine} ^ {*its}}) == 1:
        return True
    return intersection(mine, its) is not None and (is_subset(mine, its) or is_subset(its, mine))


def _effect(rule: SeccompRule, other: Profile, own: Profile, *, is_new: bool) -> _Effect:
    effect = _Effect({})
    a, b = (other, own) if is_new else (own, other)
    # A rule without arch says nothing of an arch that its own profile does not list.
    for arch in _arches(rule, own):
        for region in _differences(rule, arch, other, own):
            if region is None:
                effect.is_known = False
            elif found := _proof(a, b, arch, rule.syscall, region):
                effect.proofs.setdefault(*found)
    return effect


def _arches(rule: SeccompRule, own: Profile) -> tuple[str, ...]:
    return rule.arch or arches_with(rule.syscall, own.arch)


def _change(
    a: Profile,
    b: Profile,
    old: SeccompRule | None,
    new: SeccompRule | None,
    effects: Mapping[SeccompRule, _Effect],
) -> Change:
    rule = new or old
    assert rule is not None
    found: dict[str, str] = {}
    for one in (new, old):
        if one is not None:
            found = {**effects[one].proofs, **found}
    is_known = all(effects[one].is_known for one in (old, new) if one is not None)
    ways = [kind for kind in found if kind != "changed"]
    kind = ways[0] if len(ways) == 1 and is_known else "changed"
    edit = "added" if old is None else "removed" if new is None else "replaced"
    return Change(
        kind,
        edit,
        f"{'deny' if is_deny(rule) else 'syscalls'}.{rule.syscall}",
        rule.syscall,
        rule.arch[0] if rule.arch else None,
        None if old is None else rule_yaml(_arches(old, a)[0], old),
        None if new is None else rule_yaml(_arches(new, b)[0], new),
        found.get(kind) or next(iter(found.values()), None),
    )


def _reworded(a: Profile, b: Profile, olds: Sequence[SeccompRule], news: Sequence[SeccompRule]) -> Change:
    arches = {rule.arch for rule in (*olds, *news)}
    limit = arches.pop() if len(arches) == 1 else None
    rule = (*olds, *news)[0]

    def text(rules: Sequence[SeccompRule], own: Profile) -> str | None:
        texts = []
        for one in rules:
            on = _arches(one, own)
            where = f"{one.arch[0]}: " if one.arch and limit is None else ""
            texts.append(where + rule_yaml(on[0], one))
        return ", ".join(texts) or None

    return Change(
        "same",
        "replaced" if olds and news else "removed" if olds else "added",
        f"{'deny' if is_deny(rule) else 'syscalls'}.{rule.syscall}",
        rule.syscall,
        limit[0] if limit else None,
        text(olds, a),
        text(news, b),
    )


def _differences(rule: SeccompRule, arch: str, other: Profile, own: Profile) -> Iterator[Region | None]:
    """Yield where `own`, which has the rule, answers otherwise than `other` on its account.

    None stands for a region too complex to tell.
    """
    rank = rule.action.rank
    theirs = other.rules_for(arch, rule.syscall)
    fallback = other.default if arch in other.arch else other.bad_arch
    # own is milder: the rule decides there (nothing severer of its own matches), and other is severer.
    severer = [one.comparators for one in own.rules_for(arch, rule.syscall) if one.action.rank > rank]
    for one in theirs:
        if one.action.rank > rank:
            yield from _without(intersection(rule.comparators, one.comparators), severer)
    regions = [one.comparators for one in theirs]
    if fallback.rank > rank:
        yield from _without(rule.comparators, [*severer, *regions])
    # own is severer, whatever else of it matches: other lets milder rules or its milder default decide.
    for one in theirs:
        if one.action.rank < rank:
            above = [two.comparators for two in theirs if two.action.rank > one.action.rank]
            yield from _without(intersection(rule.comparators, one.comparators), above)
    if fallback.rank < rank:
        yield from _without(rule.comparators, regions)


def _without(region: Region | None, others: Sequence[Region]) -> Iterator[Region | None]:
    if region is not None:
        pieces = subtract_all(region, others, _LIMIT)
        yield from [None] if pieces is None else pieces


def _proof(a: Profile, b: Profile, arch: str, syscall: str | int, region: Region) -> tuple[str, str] | None:
    """Return the way in which a call in a region is answered otherwise, and the call with both answers."""
    call = witness(region)
    nr = syscall_nr(arch, syscall) if isinstance(syscall, str) else syscall
    if call is None or nr is None:
        return None
    before, after = a.decide_call(arch, nr, call).action, b.decide_call(arch, nr, call).action
    # The regions say so already; a proof that does not hold would be worse than none.
    assert before != after
    kind = _direction(before, after)
    return kind, f"{call_text(arch, syscall, call)}: {before} before, {after} now"
