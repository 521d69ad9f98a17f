"""Draw profiles and the calls that matter to them; ask the profile what a raw call means."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypothesis import strategies as st

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.filter.simulate import words_of_call
from autoprofile.profile import ANY, Action, Arg, Evidence, Profile, SeccompRule

U32 = 0xFFFFFFFF
U64 = 0xFFFFFFFFFFFFFFFF

# Names with int, long, pointer and mixed parameters; some are not on every arch, one is only a number.
SYSCALLS = ("read", "openat", "ioctl", "socket", "mmap", "futex", "clone", "prctl", "open", "getpid", 999)
ACTIONS = (
    Action.ALLOW,
    Action.ALLOW,
    Action.LOG,
    Action.NOTIFY,
    Action.TRACE,
    Action.errno(1),
    Action.errno(13),
    Action.TRAP,
    Action.KILL_THREAD,
    Action.KILL_PROCESS,
)
EDGES = (0, 1, 2, 3, 5, 7, 8, 16, 64, 128, 129, 255, 256, 0x541B, 0x7FFFFFFF, 0x80000000, U32)
WIDE_EDGES = (1 << 32, (1 << 32) + 1, (1 << 33) - 1, 1 << 33, U32 << 32, U64 - 99, U64)
MASKS = (1, 3, 0x81, 0xF0, 0xFF, 0x7FFFFFFF, 0x80000000, U32 & ~3, U32 & ~0x81, U32)


@st.composite
def comparators(draw: st.DrawFn) -> Arg:
    """Draw one comparator."""
    index, op = (
        draw(st.integers(0, 3)),
        draw(
            st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "masked_eq", "masked_eq", "in", "in", "any"])
        ),
    )
    width = draw(st.sampled_from((32, 32, 64)))
    value = st.sampled_from(EDGES if width == 32 else EDGES + WIDE_EDGES)
    if op == "in":
        return Arg(index, op, draw(st.sets(value, min_size=1, max_size=7)), width=width)
    if op == "masked_eq":
        mask = draw(st.sampled_from(MASKS if width == 32 else (*MASKS, U64 & ~7, U32 << 32, (1 << 40) + 6)))
        return Arg(index, op, draw(value) & mask, mask, width)
    return Arg(index, op, draw(value), width=width)


@st.composite
def rules(draw: st.DrawFn, arches: tuple[str, ...]) -> SeccompRule:
    """Draw one rule that at least one of the arches has."""
    having: list[str | int] = [
        s for s in SYSCALLS if isinstance(s, int) or any(syscall_nr(a, s) is not None for a in arches)
    ]
    args = tuple(draw(st.lists(comparators(), max_size=4)))
    count = draw(st.sampled_from((None, 0, 1, 50, 3000)))
    syscall = draw(st.sampled_from(having))
    only = None
    if isinstance(syscall, int):  # a number means another call on each arch
        only = (draw(st.sampled_from(arches)),)
        syscall |= ARCHES[only[0]].nr_bit
    return SeccompRule(syscall, draw(st.sampled_from(ACTIONS)), args or ANY, only, Evidence(count))


@st.composite
def profiles(draw: st.DrawFn, most: int = 12) -> Profile:
    """Draw a profile of one to three arches."""
    arches = tuple(draw(st.lists(st.sampled_from(list(ARCHES)), min_size=1, max_size=3, unique=True)))
    default = draw(st.sampled_from(ACTIONS))
    return Profile(
        arch=arches,
        mode="denylist" if default.is_permitting else "allowlist",
        default=default,
        bad_arch=draw(st.sampled_from((Action.KILL_PROCESS, Action.errno(38)))),
        rules=tuple(draw(st.lists(rules(arches), max_size=most))),
    )


def expected(profile: Profile, token: int, nr: int, args: tuple[int, ...]) -> int:
    """Ask the profile for the return value of a raw call."""
    return profile.decide_call(arch_from_audit(token, nr), nr, args).action.ret


def interesting(profile: Profile, syscall: str | int, index: int) -> list[int]:
    """Give values of one argument on both sides of every edge: ±1, the high half flipped, mask bits flipped."""
    values = {0, 1, U64}
    for rule in profile.rules:
        if rule.syscall != syscall:
            continue
        for arg in rule.comparators:
            if arg.index != index:
                continue
            for value in arg.value if isinstance(arg.value, frozenset) else (arg.value,):
                values |= {value, value - 1, value + 1, value ^ 1 << 32, value | U32 << 32, value ^ 1 << 63}
                if arg.mask:
                    values |= {value | (U64 & ~arg.mask), value ^ arg.mask}
                    values |= {value ^ 1 << bit for bit in range(64) if arg.mask >> bit & 1}
    return sorted(v & U64 for v in values)


def calls(profile: Profile, seed: int, each: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Yield (audit token, nr, args) around the profile's edges, and calls no rule knows.

    Args:
        profile: what the calls are drawn around.
        seed: of the choice.
        each: calls for each syscall and arch.
    """
    rng = random.Random(seed)
    for arch in (*profile.arch, *(a for a in ARCHES if a not in profile.arch)):
        token, bit = ARCHES[arch].audit_arch, ARCHES[arch].nr_bit
        for syscall in dict.fromkeys(rule.syscall for rule in profile.rules):
            nr = syscall | bit if isinstance(syscall, int) else syscall_nr(arch, syscall)
            if nr is None:
                continue
            values = [interesting(profile, syscall, index) for index in range(6)]
            for _ in range(each if arch in profile.arch else 2):
                yield token, nr, tuple(rng.choice(v) for v in values)
            for near in (nr - 1, nr + 1, nr ^ 0x40000000, nr ^ 0x80000000):
                yield token, near & U32, tuple(rng.choice(v) for v in values)
        for nr in (
            0,
            57,
            4095,
            0x3FFFFFFF,
            0x40000000,
            0x40000FFF,
            0x7FFFFFFF,
            0x80000000,
            0xBFFFFFFF,
            U32 - 1,
            U32,
        ):
            yield token, nr, (0, 1, 2, 3, 4, 5)
    for token in (0, 0xC000003F, 0x80000015, U32):  # among them big-endian ppc64
        yield token, 0, ()


def raw_of(words: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
    """Turn the words of a call back into (audit token, nr, args)."""
    args = tuple(words[i] | words[i + 1] << 32 for i in range(4, 16, 2))
    assert words == (*words_of_call(words[1], words[0], args)[:2], words[2], words[3], *words[4:])
    return words[1], words[0], args
