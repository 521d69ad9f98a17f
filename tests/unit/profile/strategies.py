"""Hypothesis strategies for comparators, rules, profiles and the calls that probe their borders."""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st

from autoprofile.abi.signatures import signature
from autoprofile.profile import ANY, Action, Arg, Evidence, Learned, Profile, Program, SeccompRule
from autoprofile.profile.region import is_empty


def examples(count: int) -> settings:
    """Return settings for so many examples, times AUTOPROFILE_EXAMPLES where it is set (for long runs)."""
    return settings(max_examples=count * int(os.environ.get("AUTOPROFILE_EXAMPLES", "1")), deadline=None)


SMALL = st.integers(0, 9)
VALUES32 = st.one_of(
    SMALL, st.sampled_from([0x40, 0x80000, 0x80001, 1 << 31, (1 << 32) - 1]), st.integers(0, (1 << 32) - 1)
)
VALUES64 = st.one_of(
    VALUES32, st.sampled_from([1 << 32, 1 << 63, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1)
)

# Calls that differ in width, kind, position of their arguments and in what their names look like.
SYSCALLS = (
    "read", "openat", "socket", "mprotect", "mmap", "futex", "prctl", "personality", "ioctl", "getpid", "clone",
    "kill", "fcntl", "ptrace", "waitid",
)  # fmt: skip

REFUSING = st.sampled_from(
    [
        Action.errno(1),
        Action.errno(38),
        Action.errno(0),
        Action.errno(4000),
        Action.TRAP,
        Action.trap(7),
        Action.KILL_THREAD,
        Action.KILL_PROCESS,
    ]
)
ACTIONS = st.one_of(
    st.just(Action.ALLOW),
    st.sampled_from([Action.ALLOW, Action.LOG, Action.NOTIFY, Action.TRACE, Action.trace(3)]),
    REFUSING,
)


@st.composite
def comparators(draw: st.DrawFn, indexes: range = range(6), widths: tuple = (None, 32, 64)) -> Arg:
    """Draw one comparator."""
    index = draw(st.sampled_from(indexes))
    width = draw(st.sampled_from(widths))
    values = VALUES32 if width != 64 else VALUES64
    op = draw(st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "in", "masked_eq", "any"]))
    if op == "in":
        return Arg(index, op, draw(st.sets(values, min_size=1, max_size=4)), None, width)
    if op == "masked_eq":
        mask = draw(st.one_of(values, values.map(lambda v: v ^ ((1 << (64 if width == 64 else 32)) - 1))))
        return Arg(index, op, draw(values), mask, width)
    return Arg(index, op, draw(values), None, width)


@st.composite
def rules(draw: st.DrawFn, arches: tuple[str, ...] = ("x86_64",), widths: tuple = (None,)) -> SeccompRule:
    """Draw one rule for arches of a profile."""
    syscall: str | int = draw(st.sampled_from(SYSCALLS))
    arch = draw(st.one_of(st.none(), st.sampled_from(arches).map(lambda a: (a,))))
    if draw(st.integers(0, 9)) == 0:
        syscall = draw(st.sampled_from([0, 39, 900, 5000]))
        arch = (arches[0],)
    known = signature(arches[0], syscall) if isinstance(syscall, str) else None
    count = len(known.args) if known else 6
    args: object = ANY
    if count and draw(st.integers(0, 4)):
        drawn = draw(st.lists(comparators(range(count), widths), min_size=1, max_size=4))
        args = tuple(drawn)
    return SeccompRule(syscall, draw(ACTIONS), args, arch, draw(EVIDENCE))


# Everything that means something to YAML, to a comment, or to a line.
LINE = st.text(
    st.sampled_from("abno10=;:#,.'\"{}[]&*!|>%@`~?\\ -/\n\r\t\x00\x07\x85\u2028\ufeff\u00e9\U0001f600"),
    max_size=12,
)
EVIDENCE = st.one_of(
    st.none(),
    st.builds(
        Evidence,
        count=st.one_of(st.none(), st.integers(0, 10**12)),
        processes=st.one_of(st.none(), st.integers(0, 1000)),
        first_s=st.one_of(st.none(), st.integers(0, 10**6).map(lambda n: n / 64)),
        reason=st.one_of(st.none(), LINE),
    ),
)
PROGRAMS = st.builds(
    Program,
    path=st.one_of(st.none(), LINE),
    build_id=st.one_of(st.none(), st.text("0123456789abcdef", min_size=1, max_size=12)),
    argv=st.lists(LINE, max_size=3).map(tuple),
)


@st.composite
def learned(draw: st.DrawFn) -> Learned:
    """Draw the provenance of a profile."""
    lost, runs = draw(SMALL), draw(SMALL)
    missed = st.dictionaries(
        st.integers(1, max(runs, 1)),
        st.lists(LINE, min_size=1, max_size=2).map(tuple),
        max_size=2 * bool(runs),
    )
    return Learned(
        runs,
        *(draw(SMALL) for _ in range(2)),
        lost,
        *(draw(st.one_of(st.none(), st.sampled_from(["6.18", "2.36", "6.1.0-13-amd64"]))) for _ in range(2)),
        draw(st.one_of(st.none(), st.floats(0, 1))),
        draw(st.one_of(st.none(), st.sampled_from(["notify", "ptrace", "ebpf"]))),
        lost == 0 and draw(st.booleans()),
        draw(
            st.dictionaries(
                st.sampled_from(["/bin/x", "/lib/a b.so", '/"q']),
                st.sampled_from(["", "12", "ab12"]),
                max_size=2,
            )
        ),
        draw(st.one_of(st.none(), missed)),
    )


@st.composite
def profiles(
    draw: st.DrawFn,
    arches: tuple[tuple[str, ...], ...] = (
        ("x86_64",),
        ("i386",),
        ("aarch64",),
        ("x86_64", "i386"),
        ("x86_64", "x32", "i386"),
        ("aarch64", "x86_64"),
    ),
    widths: tuple = (None, None, None, 32, 64),
    max_rules: int = 8,
) -> Profile:
    """Draw a profile."""
    arch = draw(st.sampled_from(arches))
    mode = draw(st.sampled_from(["allowlist", "denylist", "hybrid"]))
    default = draw(
        {
            "allowlist": st.one_of(REFUSING, st.sampled_from([Action.LOG, Action.NOTIFY])),
            "denylist": st.sampled_from([Action.ALLOW, Action.LOG]),
            "hybrid": ACTIONS,
        }[mode]
    )
    drawn = draw(st.lists(rules(arch, widths), max_size=max_rules))
    # A syscall drawn for an arch without it is no rule of that profile.
    kept = []
    for rule in drawn:
        try:
            bound = Profile(arch=arch, rules=(rule,)).rules
        except Exception:  # noqa: BLE001
            continue
        if any(is_empty(one.comparators) for one in bound):
            continue  # matches nothing: no file says that
        kept.append(rule)
    return Profile(
        program=draw(PROGRAMS),
        learned=draw(st.one_of(st.none(), learned())),
        arch=arch,
        level=draw(st.sampled_from(["strict", "standard", "permissive"])),
        mode=mode,
        default=default,
        bad_arch=draw(st.one_of(st.just(Action.KILL_PROCESS), REFUSING)),
        rules=tuple(kept),
    )


def calls_around(*many: Profile, limit: int = 400) -> list[tuple[str, int, tuple[int, ...]]]:
    """Return calls at the borders of every comparator of some profiles, on their arches and one more."""
    from autoprofile.abi.syscalls import syscall_nr

    arches = dict.fromkeys([*(arch for p in many for arch in p.arch), "riscv64"])
    found: dict[tuple[str, int, tuple[int, ...]], None] = {}
    syscalls = {rule.syscall for p in many for rule in p.rules} | {"uname"}
    for syscall in sorted(syscalls, key=str):
        borders: dict[int, set[int]] = {index: {0} for index in range(6)}
        bases: list[list[int]] = [[0] * 6]
        for rule in (rule for p in many for rule in p.rules if rule.syscall == syscall):
            base = [0] * 6
            for one in rule.comparators:
                borders[one.index].update(one.interesting_values())
                base[one.index] = next(
                    (
                        v
                        for v in one.interesting_values()
                        if all(o.match(v) for o in rule.comparators if o.index == one.index)
                    ),
                    one.values[0],
                )
            bases.append(base)
        for arch in arches:
            nr = syscall_nr(arch, syscall) if isinstance(syscall, str) else syscall
            if nr is None:
                continue
            for base in bases:
                found[(arch, nr, tuple(base))] = None
                for index, values in borders.items():
                    for value in sorted(values)[:: max(1, len(values) // 24)]:
                        call = list(base)
                        call[index] = value
                        found[(arch, nr, tuple(call))] = None
    calls = list(found)
    return calls[:: max(1, len(calls) // limit)]
