"""Actions, comparators and rules are exactly what the kernel evaluates."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given

from autoprofile.errors import AutoprofileError
from autoprofile.profile import ANY, Action, Arg, Evidence, SeccompRule

from .strategies import ACTIONS, EVIDENCE, VALUES64, comparators


@given(ACTIONS)
def test_an_action_survives_its_text_and_its_return_value(action: Action) -> None:
    """Text and SECCOMP_RET value each read back as the same action."""
    assert Action.parse(str(action)) == action
    assert Action.from_ret(action.ret) == action


@pytest.mark.parametrize(
    ("text", "action", "ret"),
    [
        ("kill", Action.KILL_PROCESS, 0x80000000),
        ("kill_process", Action.KILL_PROCESS, 0x80000000),
        ("kill_thread", Action.KILL_THREAD, 0),
        ("trap", Action.TRAP, 0x30000),
        ("trap(5)", Action.trap(5), 0x30005),
        ("errno", Action.errno("EPERM"), 0x50001),
        ("ENOSYS", Action.errno(38), 0x50026),
        ("errno(95)", Action.errno("EOPNOTSUPP"), 0x5005F),
        ("errno(0)", Action.errno(0), 0x50000),
        ("notify", Action.NOTIFY, 0x7FC00000),
        ("trace", Action.TRACE, 0x7FF00000),
        ("log", Action.LOG, 0x7FFC0000),
        ("allow", Action.ALLOW, 0x7FFF0000),
    ],
)
def test_action_words(text: str, action: Action, ret: int) -> None:
    """Every documented word stands for its SECCOMP_RET value of linux/seccomp.h."""
    assert Action.parse(text) == action
    assert action.ret == ret


@pytest.mark.parametrize(
    "text", ["", "die", "errno(4096)", "errno(-1)", "allow(1)", "EPREM", "errno(08)", "Kill"]
)
def test_unknown_action_words_are_errors(text: str) -> None:
    """A word that is no action is refused with a hint."""
    with pytest.raises(AutoprofileError) as caught:
        Action.parse(text)
    assert caught.value.hint or "carries data" in caught.value.what


def test_severity_is_the_kernels() -> None:
    """Actions are ordered as the kernel orders their signed return values, killing the process first."""
    kinds = [
        Action.KILL_PROCESS,
        Action.KILL_THREAD,
        Action.TRAP,
        Action.errno(1),
        Action.NOTIFY,
        Action.TRACE,
    ]
    kinds += [Action.LOG, Action.ALLOW]
    assert sorted(kinds, key=lambda a: -a.severity) == kinds
    signed = [a.ret - (1 << 32) if a.ret >> 31 else a.ret for a in kinds]
    assert signed == sorted(signed)


def test_return_values_are_read_as_the_kernel_reads_them() -> None:
    """Unknown actions kill the process, error numbers are capped at 4095, ignored data is dropped."""
    assert Action.from_ret(0x12340000) == Action.KILL_PROCESS
    assert Action.from_ret(0x5FFFF) == Action.KILL_PROCESS or Action.from_ret(0x0005FFFF) == Action.errno(
        4095
    )
    assert Action.from_ret(0x0005FFFF) == Action.errno(4095)
    assert Action.from_ret(0x7FFF0009) == Action.ALLOW


def naive(one: Arg, raw: int) -> bool:
    """Evaluate a comparator bit by bit, from its definition."""
    bits = 32 if one.width == 32 else 64
    number = [raw >> i & 1 for i in range(bits)]

    def sign(value: int) -> int:
        for i in reversed(range(bits)):
            if number[i] != value >> i & 1:
                return 1 if number[i] else -1
        return 0

    if one.op == "masked_eq":
        assert one.mask is not None
        return all(not one.mask >> i & 1 or number[i] == one.values[0] >> i & 1 for i in range(bits))
    if one.op == "in":
        return any(sign(v) == 0 for v in one.values)
    order = sign(one.values[0])
    return {
        "any": True,
        "eq": order == 0,
        "ne": order != 0,
        "lt": order < 0,
        "le": order <= 0,
        "gt": order > 0,
        "ge": order >= 0,
    }[one.op]


@given(comparators(), VALUES64)
def test_match_agrees_with_the_bitwise_definition(one: Arg, raw: int) -> None:
    """Comparators are unsigned and look at as many bits as their width, and no others."""
    for value in {raw, *one.interesting_values()}:
        assert one.match(value) == naive(one, value)


@given(comparators(widths=(32,)), VALUES64, VALUES64)
def test_width_32_ignores_the_upper_half(one: Arg, raw: int, noise: int) -> None:
    """A 32-bit comparator answers the same whatever the upper half of the register holds."""
    assert one.match(raw & 0xFFFFFFFF) == one.match(raw & 0xFFFFFFFF | (noise >> 32) << 32)


@given(VALUES64, VALUES64, VALUES64)
def test_masked_eq_masks_both_sides(raw: int, value: int, mask: int) -> None:
    """masked_eq compares (arg & mask) with (value & mask), as libseccomp and the OCI runtimes do."""
    one = Arg(0, "masked_eq", value, mask)
    assert one.match(raw) == (raw & mask == value & mask)
    assert one == Arg(0, "masked_eq", value & mask, mask)


def test_negative_values_are_twos_complement() -> None:
    """-100 is the AT_FDCWD an int register holds, sign-extended or not."""
    assert Arg(0, "eq", -100).match(0xFFFFFFFFFFFFFF9C)
    assert Arg(0, "eq", -100, width=32).match(0x1234_FFFFFF9C)
    assert Arg(0, "eq", -100).bind(32).values == (0xFFFFFF9C,)
    assert Arg(0, "eq", 1 << 63).match(1 << 63)
    assert Arg(0, "in", {-1}) == Arg(0, "in", {(1 << 64) - 1})


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Arg(6, "eq", 1),
        lambda: Arg(-1, "eq", 1),
        lambda: Arg(0, "like", 1),
        lambda: Arg(0, "eq", {1}),
        lambda: Arg(0, "in", 1),
        lambda: Arg(0, "in", ()),
        lambda: Arg(0, "eq", 1, 3),
        lambda: Arg(0, "masked_eq", 1),
        lambda: Arg(0, "eq", 1 << 64),
        lambda: Arg(0, "eq", -(1 << 63) - 1),
        lambda: Arg(0, "eq", 1 << 32, width=32),
        lambda: Arg(0, "eq", 1, width=16),
        lambda: Arg(0, "eq", "1"),
        lambda: Arg(0, "eq", True),
        lambda: SeccompRule("read", Action.ALLOW, ()),
        lambda: SeccompRule("read", Action.ALLOW, (1,)),
        lambda: SeccompRule("read", Action.ALLOW, ANY, ()),
        lambda: Action("errno", 4096),
        lambda: Action("allow", 1),
        lambda: Action("maybe"),
    ],
)
def test_nonsense_cannot_be_built(bad: object) -> None:
    """A comparator, rule or action that means nothing is refused when it is made."""
    with pytest.raises(AutoprofileError):
        bad()  # type: ignore[operator]


def test_any_is_said_and_not_an_empty_list() -> None:
    """ANY matches every call, is one object even through pickle, and no comparators is an error."""
    assert SeccompRule("read", Action.ALLOW).evaluate((1, 2, 3))
    assert SeccompRule("read", Action.ALLOW).args is ANY
    assert pickle.loads(pickle.dumps(ANY)) is ANY
    with pytest.raises(AutoprofileError, match="no comparators"):
        SeccompRule("read", Action.ALLOW, ())


def test_comparators_of_a_rule_are_anded() -> None:
    """Several comparators, also on one index, all have to hold; registers not given are 0."""
    rule = SeccompRule("futex", Action.ALLOW, (Arg(1, "ge", 2), Arg(1, "le", 9), Arg(2, "eq", 0)))
    assert [v for v in range(12) if rule.evaluate((0, v))] == list(range(2, 10))
    assert not rule.evaluate((0, 5, 1))


def test_evidence_is_not_compared() -> None:
    """Two rules that differ only in their evidence are equal."""
    one = SeccompRule("read", Action.ALLOW, evidence=Evidence(1, 1))
    assert one == SeccompRule("read", Action.ALLOW)
    assert hash(one) == hash(SeccompRule("read", Action.ALLOW))


@given(EVIDENCE.filter(bool), EVIDENCE.filter(bool))
def test_joining_evidence_is_commutative(one: Evidence, other: Evidence) -> None:
    """Counts add up and reasons are kept once, in either order."""
    assert one.joined(other) == other.joined(one)
