"""What programs need on paths that training rarely takes: errors, signals, locale and name lookups.

In: what was seen on an arch. Out: rules with the reason and where it was measured. The list is data, made by
running small programs (tools/learn/essentials.py); nothing in it is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.abi.arch import AbiError
from autoprofile.abi.constants import encode_value
from autoprofile.abi.families import family
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.learn.compact import boxes
from autoprofile.learn.risks import conditions
from autoprofile.learn.strict import arch_limit, args_from_box
from autoprofile.profile.action import Action
from autoprofile.profile.rule import Evidence, SeccompRule

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from autoprofile.learn.calls import Values

__all__ = ["LOOKUP_ERRORS", "Essential", "essential_rules", "essentials", "lookup_errors", "source"]

_DATA = Path(__file__).with_name("data") / "essentials.tsv"
_MEASURED_ON = "x86_64"

LOOKUP_ERRORS: Mapping[str, str] = {
    "socket": "EAFNOSUPPORT",
    "connect": "EACCES",
    "bind": "EACCES",
    "open": "EACCES",
    "openat": "EACCES",
}
"""The calls with which the C library begins to look something up, and an error that glibc and musl both take
for "not here" (measured with both; musl's nscd client, src/passwd/nscd_query.c, knows just these)."""


@dataclass(frozen=True, slots=True)
class Essential:
    """Name one call with its arguments, the small programs that needed it, and when that concerns a program.

    Args:
        syscall: its name.
        args: constrained arguments by name, as symbols; an argument not named is not read.
        when: ``always``, or a syscall: for programs that were seen to make it or one of its family.
        reason: the paths through the C library that made the call.
        libcs: the libraries that did.
    """

    syscall: str
    args: tuple[tuple[str, str], ...]
    when: str
    reason: str
    libcs: tuple[str, ...]


@cache
def _rows() -> tuple[str, tuple[Essential, ...]]:
    first, *lines = _DATA.read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        name, text, when, reason, libcs = line.split("\t")
        pairs = [] if text == "-" else [word.partition("=") for word in text.split(" ")]
        args = tuple((argument, value) for argument, _, value in pairs)
        found.append(Essential(name, args, when, reason, tuple(libcs.split(","))))
    return first.removeprefix("# source: "), tuple(found)


def essentials() -> tuple[Essential, ...]:
    """Return all essentials, by name; they were measured on x86_64."""
    return _rows()[1]


def source() -> str:
    """Return where and how the data was measured."""
    return _rows()[0]


def essential_rules(
    arch: str, arches: Sequence[str], seen: Collection[str], rules: Sequence[SeccompRule], level: str
) -> list[SeccompRule]:
    """Return rules for the essentials that concern a program and that no rule of it covers yet.

    Args:
        arch: which of the arches; other arches than x86_64 get the calls and symbols that they share with it,
            where the call has the same arguments.
        arches: of the profile.
        seen: names of the syscalls that were seen on this arch.
        rules: of the profile so far; a call that one of them decides stays decided.
        level: for the label.
    """
    concern = [e for e in essentials() if e.when == "always" or family(e.when) & set(seen)]
    needed = {
        name: {v: why for v, why in of_call.items() if not _is_risk(arch, name, v)}
        for name, of_call in _undecided(arch, concern, rules).items()
    }
    return _rules(arch, arches, needed, f"{level}: essential for ")


def lookup_errors(
    arch: str, arches: Sequence[str], seen: Collection[str], rules: Sequence[SeccompRule], level: str
) -> list[SeccompRule]:
    """Return rules that answer the first calls of lookups that do not concern a program with an error.

    Nothing is opened. The C library asks for users, hosts, locale and time zone on its own, takes an error
    for an answer (no nscd, no network, no such file), and goes on; by the default the program would end.
    The arguments are those of `essential_rules`.

    narrows: a program that would have got further with a socket gets an error, and the rule names it.
    """
    foreign = [
        e
        for e in essentials()
        if e.syscall in LOOKUP_ERRORS and e.when != "always" and not family(e.when) & set(seen)
    ]
    needed = _undecided(arch, foreign, rules)
    return [
        replace(rule, action=Action.errno(LOOKUP_ERRORS[str(rule.syscall)]))
        for rule in _rules(arch, arches, needed, f"{level}: an error instead of the default, for an unseen ")
    ]


def _undecided(
    arch: str, entries: Iterable[Essential], rules: Sequence[SeccompRule]
) -> dict[str, dict[Values, set[str]]]:
    # the tuples of each call that no rule decides, with what needs them
    needed: dict[str, dict[Values, set[str]]] = {}
    for entry in entries:
        nr = syscall_nr(arch, entry.syscall)
        values = _values(arch, entry) if nr is not None else None
        if nr is None or values is None:
            continue
        args = _registers(arch, entry.syscall, values)
        own = [r for r in rules if r.syscall == entry.syscall and (r.arch is None or arch in r.arch)]
        if not any(r.evaluate(args) for r in own):
            reasons = needed.setdefault(entry.syscall, {}).setdefault(values, set())
            reasons.update(entry.reason.split(", "))
    return needed


def _rules(
    arch: str, arches: Sequence[str], needed: Mapping[str, Mapping[Values, set[str]]], why: str
) -> list[SeccompRule]:
    found = []
    for name in sorted(needed):
        for box in boxes(needed[name]):
            within = [
                reasons
                for values, reasons in needed[name].items()
                if all(side is None or v in side for side, v in zip(box, values, strict=True))
            ]
            reason = f"{why}{', '.join(sorted(set().union(*within)))}"
            args_of_box = args_from_box(constrained_args(arch, name), box)
            limit = arch_limit(arch, arches)
            found.append(SeccompRule(name, Action.ALLOW, args_of_box, limit, Evidence(reason=reason)))
    return found


def _registers(arch: str, name: str, values: Values) -> list[int]:
    args = [0] * 6
    for spec, value in zip(constrained_args(arch, name), values, strict=True):
        args[spec.index] = value or 0
    return args


def _is_risk(arch: str, name: str, tuple_values: Values) -> bool:
    # What is needed on a rare path must not open a risk that was not seen. One is exempt: getaddrinfo
    # asks for the machine's addresses through NETLINK_ROUTE, the netlink that every program may talk to.
    values = dict(enumerate(_registers(arch, name, tuple_values)))
    return any(
        c.holds(values) and (c.risk.name_class, c.risk.severity) != ("netlink", "medium")
        for c in conditions(arch, name)
    )


def _values(arch: str, entry: Essential) -> Values | None:
    given = dict(entry.args)
    measured = [spec.name for spec in constrained_args(_MEASURED_ON, entry.syscall)]
    if [spec.name for spec in constrained_args(arch, entry.syscall)] != measured:
        return None  # another call of the same name: i386's mmap hides its arguments behind a pointer
    try:
        return tuple(
            encode_value(arch, spec, given[spec.name]) if spec.name in given else None
            for spec in constrained_args(arch, entry.syscall)
        )
    except AbiError:
        return None  # this arch has no such symbol, so libc there goes another way
