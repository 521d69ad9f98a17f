"""What a filter costs is counted on calls that its rules match, against a bound that no filter beats."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprofile import Action, Arg, Profile, SeccompRule
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.filter import compile_profile
from autoprofile.filter.cost import example_calls, filter_cost, smallest_filter, smallest_length
from autoprofile.filter.simulate import run_words, words_of_call
from autoprofile.profile import Evidence

CORPUS = sorted((Path(__file__).parent.parent.parent / "data" / "profiles").glob("*.yaml"))
X86_64 = 0xC000003E
FCNTL = 72


@pytest.mark.parametrize("words", [0, 1, 2, 5, 12])
def test_the_smallest_filter_checks_one_call(words: int) -> None:
    """It allows one number of one arch with so many words 0, and executes what smallest_length says."""
    program = smallest_filter("x86_64", FCNTL, words)
    visited: set[int] = set()
    assert run_words(program, words_of_call(X86_64, FCNTL, ()), visited) == Action.ALLOW.ret
    assert len(visited) == smallest_length(words)
    assert program.simulate("x86_64", FCNTL + 1) == Action.KILL_PROCESS
    assert program.simulate("aarch64", FCNTL) == Action.KILL_PROCESS
    for word in range(12):
        args = [0] * 6
        args[word // 2] = 1 << 32 * (word % 2)
        expected = Action.KILL_PROCESS if word < words else Action.ALLOW
        assert program.simulate("x86_64", FCNTL, args) == expected


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.stem)
def test_no_filter_executes_less_than_the_smallest(path: Path) -> None:
    """The bound holds for every call of every profile, for both layouts."""
    profile = Profile.load(path)
    for bitmap in (True, False):
        cost = filter_cost(profile, compile_profile(profile, bitmap=bitmap))
        for call in cost.calls:
            assert 5 <= call.smallest <= call.instructions
        assert cost.smallest(bitmap=bitmap) <= cost.expected(bitmap=bitmap)
        assert sum(cost.share(call) for call in cost.calls) == pytest.approx(1)


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.stem)
def test_example_calls_are_matched_by_rules(path: Path) -> None:
    """Every example is a call that the profile decides by one of the syscall's rules, however few are asked for."""
    profile = Profile.load(path)
    for syscall in profile.syscalls("x86_64"):
        rules = profile.rules_for("x86_64", syscall)
        for most in (1, 3, 256):
            examples = example_calls(profile, "x86_64", syscall, most=most)
            assert len(examples) <= most * len(rules)
            assert all(any(rule.evaluate(e.args) for rule in rules) for e in examples)
            counts = sum((rule.evidence.count or 0) if rule.evidence else 0 for rule in rules)
            assert sum(e.weight for e in examples) == pytest.approx(counts or len(examples))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((Arg(0, "eq", 3, width=32),), 1),
        ((Arg(0, "eq", 3, width=64),), 2),
        ((Arg(0, "eq", 3, width=64), Arg(2, "in", {1, 9}, width=32)), 3),
        ((Arg(0, "masked_eq", 0, mask=3, width=64),), 1),
        ((Arg(0, "lt", 1 << 40, width=64),), 1),  # a high half below 256 says it all
        ((Arg(0, "any", 0, width=64),), 0),
    ],
)
def test_words_that_must_be_looked_at(args: tuple[Arg, ...], words: int) -> None:
    """A word counts when the rule says something of it."""
    profile = Profile(rules=(SeccompRule("prctl", Action.ALLOW, args),))
    assert {e.words for e in example_calls(profile, "x86_64", "prctl")} == {words}


def test_without_counts_all_examples_weigh_alike() -> None:
    """Calls never seen weigh nothing beside those that were; where nothing was counted, all weigh the same."""
    seen = SeccompRule("fcntl", Action.ALLOW, (Arg(1, "in", {1, 3}),), evidence=Evidence(count=10))
    never = SeccompRule("prctl", Action.ALLOW, (Arg(0, "in", {1, 2, 3, 4}),))
    measured = Profile(rules=(seen, never))
    assert [e.weight for e in example_calls(measured, "x86_64", "fcntl")] == [5, 5]
    cost = filter_cost(measured, compile_profile(measured))
    assert {call.name: cost.share(call) for call in cost.calls} == {"fcntl": 1, "prctl": 0}
    unmeasured = Profile(rules=(never, SeccompRule("read", Action.ALLOW)))
    cost = filter_cost(unmeasured, compile_profile(unmeasured))
    assert {call.name: cost.share(call) for call in cost.calls} == {"prctl": 0.5, "read": 0.5}
    assert not cost.is_measured


def test_without_counts_refusals_weigh_like_checks() -> None:
    """Nothing measured, three calls that run the filter: none of them stands at the end of the others."""
    rules = [SeccompRule(name, Action.errno(38)) for name in ("clone3", "statx", "openat2")]
    program = compile_profile(Profile(rules=(*rules, SeccompRule("read", Action.ALLOW))))
    executed = []
    for name in ("clone3", "statx", "openat2"):
        visited: set[int] = set()
        nr = syscall_nr("x86_64", name)
        assert nr is not None
        run_words(program, words_of_call(X86_64, nr, ()), visited)
        executed.append(len(visited))
    assert sum(executed) <= 18
