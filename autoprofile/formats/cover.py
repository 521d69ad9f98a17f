"""One syscall's rules as entries that libseccomp takes: the smallest exact form found, and its size there.

libseccomp compares whole registers, holds one condition an argument, and turns every entry into instructions
of one filter, of which the kernel takes 4,096 (``BPF_MAXINSNS``). Sizes are instructions.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final, TypeAlias

from autoprofile.formats.conditions import Condition, direct_conditions
from autoprofile.formats.diagram import OPPOSITE, Diagram, TooMany
from autoprofile.profile import ANY, Arg, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.profile import Action

__all__ = ["MAX_PATHS", "TOO_LARGE", "Call", "Entry", "instructions"]

#: AND'ed conditions, at most one an argument, and the answer.
Entry: TypeAlias = "tuple[tuple[Condition, ...], Action]"

#: More entries for one syscall than this are not looked for: they could not be loaded.
MAX_PATHS: Final = 1500
#: The size of what takes more.
TOO_LARGE: Final = 1 << 20

# What one comparison takes in libseccomp 2.5.4 (src/gen_bpf.c): load, mask and test either half of a
# register. Counted by exporting filters; jumps over more than 255 instructions come on top.
#: A syscall takes besides: the test of its number, and a jump to its tests where those are far.
_CALL: Final = 3
_WORD: Final = (1 << 32) - 1
_FEW: Final = 8  # entries, which are not worth a search for fewer
_LARGE: Final = 1500  # nodes of a diagram, in which looking for what holds always takes too long


def instructions(entries: Sequence[tuple[Sequence[Condition], object]]) -> int:
    """Estimate how many instructions libseccomp makes of a syscall's entries, never too few.

    It shares what begins alike, and what is loaded and masked for the tests that follow each other.
    """
    following: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
    for conditions, _ in entries:
        path: tuple[object, ...] = ()
        for one in sorted(conditions, key=lambda one: one.index):
            for test in _tests(one):
                following.setdefault(path, set()).add(test)
                path = (*path, test)
    total = _CALL
    for tests in following.values():
        loaded = {test[:3] for test in tests}  # argument, half, mask
        total += sum(1 + (mask != _WORD) for _, _, mask in loaded)
        total += sum(1 if test[3] in {"masked_eq", "eq", "ne"} else 5 for test in tests)
    return total


def _tests(one: Condition) -> list[tuple[object, ...]]:
    # One half of the register after the other; what is masked out is loaded and compared all the same.
    if one.op not in {"masked_eq", "eq", "ne"}:
        return [(one.index, 1, _WORD, one.op, one.value)]
    mask = (1 << 64) - 1 if one.mask is None else one.mask
    return [
        (one.index, at, mask >> shift & _WORD, one.op, one.value >> shift & _WORD)
        for at, shift in enumerate((32, 0))
    ]


class Call:
    """What is answered to one syscall.

    Args:
        rules: in the order they decide: the first match wins.
        default: the answer where none matches.
    """

    def __init__(self, rules: Sequence[SeccompRule], default: Action) -> None:
        self._rules = tuple(rules)
        self._added: list[SeccompRule] = []
        self._dropped: list[int] = []
        self._default = default
        self._actions = list(dict.fromkeys((default, *(rule.action for rule in rules))))
        self._best: tuple[int, tuple[Entry, ...]] | None = None

    @property
    def entries(self) -> tuple[Entry, ...] | None:
        """Return the entries, none of which gives the default; None when there are more than `MAX_PATHS`."""
        return self._solved()[1] if self._solved()[0] < TOO_LARGE else None

    @property
    def size(self) -> int:
        """Return how many instructions the entries take; `TOO_LARGE` where there are too many."""
        return self._solved()[0]

    @property
    def indexes(self) -> tuple[int, ...]:
        """Return the arguments that matter."""
        diagram, root = self._built()
        return diagram.indexes(root)

    @property
    def answers(self) -> frozenset[Action]:
        """Return every answer that some call gets."""
        diagram, root = self._built()
        return frozenset(self._actions[number] for number in diagram.answers(root))

    def means_the_same(self, rules: Sequence[SeccompRule]) -> bool:
        """Return whether other rules, with the same default and actions, answer every call alike."""
        diagram, root = self._built()
        return self._of_rules(diagram, rules) == root

    def answers_to(self, rule: SeccompRule) -> frozenset[Action]:
        """Return every answer that a call gets which matches a rule."""
        diagram = Diagram(_whole((*self._rules, *self._added, rule)))
        root = self._of_rules(diagram, self._rules, self._added)
        unmatched = len(self._actions)
        inside = diagram.put(diagram.inverse(diagram.rule(rule)), unmatched, root)
        return frozenset(self._actions[number] for number in diagram.answers(inside) - {unmatched})

    def best_to_drop(self, room: int) -> int:
        """Return the argument to drop: the one that leaves most of what fits, or else the fewest entries.

        Args:
            room: the size that is left for this call.
        """

        def rank(index: int) -> tuple[bool, int, int]:
            other = Call(self._rules, self._default)
            other._actions, other._added = self._actions, self._added
            other._dropped = [*self._dropped, index]
            return (other.size > room, -other.size if other.size <= room else other.size, index)

        return min(self.indexes, key=rank)

    def add(self, rule: SeccompRule) -> bool:
        """Let a rule answer the calls that got the default; return whether that is a difference."""
        if rule.action not in self._actions:
            self._actions.append(rule.action)
        diagram = Diagram(_whole((*self._rules, *self._added, rule)))
        before = self._of_rules(diagram, self._rules, self._added)
        if self._of_rules(diagram, self._rules, (*self._added, rule)) == before:
            return False
        self._added.append(rule)
        self._best = None
        return True

    def drop(self, index: int) -> None:
        """Look at an argument no more: each call gets the least severe answer that any value of it had."""
        self._dropped.append(index)
        self._best = None

    def _built(self, *, low_first: bool = False) -> tuple[Diagram, int]:
        diagram = Diagram(_whole((*self._rules, *self._added)), low_first=low_first)
        root = self._of_rules(diagram, self._rules, self._added)
        for index in self._dropped:
            root = diagram.without(root, index, self._milder)
        return diagram, root

    def _of_rules(
        self, diagram: Diagram, rules: Sequence[SeccompRule], added: Sequence[SeccompRule] = ()
    ) -> int:
        # Where a rule says what the default says, it stands against what is added.
        said = len(self._actions)
        root = 0
        for action, same in groupby(reversed(rules), key=lambda rule: rule.action):
            where = diagram.union([diagram.rule(rule) for rule in _joined(list(same))])
            root = diagram.put(where, self._actions.index(action) or said, root)
        for rule in added:
            root = diagram.fill(diagram.rule(rule), self._actions.index(rule.action), root)
        return diagram.put(diagram.those(root, said), 0, root)

    def _milder(self, one: int, other: int) -> int:
        return min(one, other, key=lambda number: (self._actions[number].rank, number))

    def _solved(self) -> tuple[int, tuple[Entry, ...]]:
        if self._best is None:
            found = [self._direct()] if not self._dropped else []
            for low_first in (False, True):
                diagram, root = self._built(low_first=low_first)
                is_mixed = len(diagram.answers(root) - {0}) > 1
                alone = is_mixed or diagram.size(root) > _LARGE
                for overlapping in (False,) if alone else (False, True):
                    if any(entries is not None and len(entries) <= _FEW for entries in found):
                        continue
                    try:
                        paths = diagram.paths(root, MAX_PATHS, overlapping=overlapping)
                    except TooMany:
                        continue
                    found.append(tuple((path, self._actions[answer]) for path, answer in paths))
            sized = [(instructions(entries), entries) for entries in found if entries is not None]
            self._best = min(sized, key=lambda one: one[0], default=(TOO_LARGE, ()))
        return self._best

    def _direct(self) -> tuple[Entry, ...] | None:
        # The rules one by one, where every one says what libseccomp can say and none stands before another.
        rules = [*self._rules, *self._added]
        if any(rule.action != rules[0].action or rule.action == self._default for rule in rules):
            return None
        entries: list[Entry] = []
        for rule in rules:
            made = direct_conditions(rule)
            if made is None or len(entries) + len(made) > MAX_PATHS:
                return None
            entries += [(conditions, rule.action) for conditions in made]
        return tuple(dict.fromkeys(entries))


def _joined(rules: Sequence[SeccompRule]) -> Sequence[SeccompRule]:
    # Rules of one action that differ in the values of one argument only, as one: imported documents spell a
    # set out in thousands of entries, each of which would be a diagram of its own.
    for index in range(6):
        groups: dict[object, list[SeccompRule]] = {}
        for rule in rules:
            mine = [one for one in rule.comparators if one.index == index]
            rest = tuple(one for one in rule.comparators if one.index != index)
            is_set = len(mine) == 1 and mine[0].op in {"eq", "in"}
            key = (rest, mine[0].width) if is_set else (rest, tuple(mine), "whole")
            groups.setdefault(key, []).append(rule)
        rules = [_with_values(same, index) for same in groups.values()]
    return rules


def _with_values(rules: Sequence[SeccompRule], index: int) -> SeccompRule:
    if len(rules) == 1:
        return rules[0]
    first = rules[0]
    args = {one for rule in rules for one in rule.comparators if one.index == index}
    rest = tuple(one for one in first.comparators if one.index != index)
    width = next((one.width for one in args), None)
    values = {value for one in args for value in one.values}
    mine = (Arg(index, "in", values, width=width),) if len(args) > 1 else tuple(args)
    return SeccompRule(first.syscall, first.action, (*rest, *mine) or ANY)


def _whole(rules: Sequence[SeccompRule]) -> dict[int, Arg]:
    # Arguments of which every rule that looks at all says the same one thing, or the opposite.
    said: dict[int, set[Arg]] = {}
    for rule in rules:
        for one in rule.comparators:
            said.setdefault(one.index, set()).add(one)
    whole = {}
    for index, all_ in said.items():
        first = max(all_, key=lambda one: one.op)  # ne before eq, which needs no such thing
        opposite = OPPOSITE.get(first.op, "eq")
        if first.width == 64 and first.op in OPPOSITE and first.op != "eq":
            same = {first, Arg(index, opposite, first.value, width=64)}
            if all_ <= same:
                whole[index] = first
    return whole
