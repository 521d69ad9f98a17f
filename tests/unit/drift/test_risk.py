"""A rule is rated by the worst call it lets in, and what is not known is never taken for harmless."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.abi import call_risk, constrained_args, risk_conditions, syscall_nr, syscall_risk
from autoprofile.drift.decide import decide_known, passes
from autoprofile.drift.edit import accepting_rule
from autoprofile.drift.risk import region_risk, unknown_args
from autoprofile.learn.risks import conditions
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule

syscall_risk("read")  # reads the table that the next line lists
RISKY = sorted(name for name in risk_conditions() if syscall_nr("x86_64", name) is not None)
PROFILE = Profile(arch=("x86_64",))


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, tuple[int, ...]]:
    # values at and around what the conditions look for
    name = draw(st.sampled_from(RISKY))
    values = [0] * 6
    for condition in conditions("x86_64", name):
        for one in draw(st.sampled_from(condition.comparators())):
            values[one.index] = draw(st.sampled_from([one.values[0], one.values[0] | 1, 0]))
    return name, tuple(values)


@given(calls())
@settings(deadline=None)
def test_a_rule_for_one_call_is_rated_as_that_call(case: tuple[str, tuple[int, ...]]) -> None:
    """Where every argument is known and compared, the rule's risk is the call's."""
    name, args = case
    specs = constrained_args("x86_64", name)
    if not {c.index for k in conditions("x86_64", name) for c in k.clauses} <= {s.index for s in specs}:
        return
    known = [args[i] if any(s.index == i for s in specs) else None for i in range(6)]
    rule = accepting_rule(PROFILE, "x86_64", syscall_nr("x86_64", name) or 0, known)
    mine, its = region_risk("x86_64", name, [rule.comparators]).risk, call_risk("x86_64", name, args)
    assert (mine and mine.severity) == (its and its.severity)


@pytest.mark.parametrize("name", ["socket", "mmap", "mprotect", "ioctl", "clone", "openat", "prctl", "chmod"])
def test_any_argument_is_the_worst_argument(name: str) -> None:
    """A rule without comparators carries the gravest condition of its call."""
    order = ("high", "medium", "low")
    worst = min((c.risk.severity for c in conditions("x86_64", name)), key=order.index)
    found = region_risk("x86_64", name, [()])
    assert found.risk is not None
    assert found.risk.severity == worst


def test_an_argument_the_kernel_does_not_read_is_not_missing() -> None:
    """The mode of an open that creates nothing is not unknown; that of one that may is."""
    read_only = (None, None, 0, None, None, None)
    creates = (None, None, 0o100, None, None, None)
    assert unknown_args("x86_64", "openat", read_only) == ()
    assert [s.name for s in unknown_args("x86_64", "openat", creates)] == ["mode"]
    assert [s.name for s in unknown_args("x86_64", "openat", (None,) * 6)] == ["flags", "mode"]


VALUES = st.integers(0, 3)
RULES = st.lists(
    st.builds(
        SeccompRule,
        st.just("socket"),
        st.sampled_from([Action.ALLOW, Action.ALLOW, Action.LOG, Action.errno("EPERM"), Action.NOTIFY]),
        st.one_of(
            st.just(ANY),
            st.builds(lambda v: (Arg(0, "eq", v),), VALUES),
            st.builds(lambda v, w: (Arg(0, "le", v), Arg(1, "eq", w)), VALUES, VALUES),
        ),
    ),
    max_size=4,
)


@given(RULES, st.sampled_from(["allow", "kill"]), st.tuples(*[st.none() | VALUES] * 2))
@settings(deadline=None, max_examples=300)
def test_a_decision_holds_for_every_value_of_what_is_not_known(
    rules: list[SeccompRule], default: str, args: tuple[int | None, int | None]
) -> None:
    """A call is decided just where every completion of its arguments has the same outcome."""
    profile = Profile(
        arch=("x86_64",),
        mode="denylist" if default == "allow" else "allowlist",
        default=Action.parse(default),
        rules=tuple(rules),
    )
    found = {
        passes(profile.decide_call("x86_64", 41, (a, b, 0, 0, 0, 0)))
        for a in (range(5) if args[0] is None else [args[0]])
        for b in (range(5) if args[1] is None else [args[1]])
    }
    decision = decide_known(profile, "x86_64", 41, (*args, None, None, None, None))
    if decision is not None:
        assert found == {passes(decision)}
    else:
        # several rules together may cover every value; that is not looked for, which decides less, not more
        assert len(found) == 2 or len(profile.rules) > 1
