"""Level strict accepts what was seen and no unobserved constrained tuple."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.abi.constants import encode_value
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.learn import infer, learn
from autoprofile.learn.calls import call_groups, canonical
from autoprofile.observations import Observation, ProgramId
from autoprofile.profile import ANY, Action, Profile, Program
from tests.unit.learn.traces import observed, trace_of

# Calls with one to four constrained arguments, 32 and 64 bits wide, conditional ones among them.
CALLS = (
    "socket",
    "openat",
    "mmap",
    "mprotect",
    "clone",
    "fcntl",
    "lseek",
    "read",
    "futex",
    "kill",
    "accept4",
)
O_CREAT = 0o100


@st.composite
def observations(draw: st.DrawFn) -> list[Observation]:
    arches = draw(st.sampled_from([("x86_64",), ("i386",), ("x86_64", "i386"), ("x86_64", "x32")]))
    value = st.one_of(
        st.integers(0, 4),
        st.sampled_from([O_CREAT, O_CREAT | 1, 1 << 31, 1 << 40, (1 << 64) - 1]),
        st.integers(0, (1 << 64) - 1),
    )
    return draw(
        st.lists(
            st.builds(
                lambda call, arch, args, count, run: observed(call, *args, arch=arch, count=count, run=run),
                st.sampled_from(CALLS),
                st.sampled_from(arches),
                st.lists(value, min_size=6, max_size=6),
                st.integers(1, 100),
                st.integers(0, 2),
            ).filter(lambda o: o is not None),
            min_size=1,
            max_size=12,
        )
    )


def decide(profile: Profile, o: Observation) -> bool:
    return profile.decide_call(o.arch, o.nr, [a or 0 for a in o.args]).action == Action.ALLOW


@settings(deadline=None, max_examples=60)
@given(observations())
def test_every_observation_is_allowed(found: list[Observation]) -> None:
    """The profile accepts every call of the trace it was learned from."""
    profile = learn(trace_of(*found))
    assert all(decide(profile, o) for o in found)


@settings(deadline=None, max_examples=60)
@given(observations(), st.data())
def test_garbage_in_free_registers_changes_nothing(found: list[Observation], data: st.DataObject) -> None:
    """Pointers, descriptors, unread arguments and the upper half of 32-bit arguments may hold anything."""
    profile = learn(trace_of(*found))
    o = data.draw(st.sampled_from(found))
    group = next(g for g in call_groups(found) if (g.arch, g.nr) == (o.arch, o.nr))
    values = dict(zip((s.index for s in group.specs), canonical(group.specs, o.args), strict=True))
    wide = {s.index for s in group.specs if s.width == 64}
    noise = data.draw(st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6))
    args = []
    for i in range(6):
        value = values.get(i)
        if value is None:
            args.append(noise[i])
        else:
            args.append(value if i in wide else value | (noise[i] >> 32 << 32))
    assert profile.decide_call(o.arch, o.nr, args).action == Action.ALLOW


@settings(deadline=None, max_examples=60)
@given(observations())
def test_every_neighbour_of_an_observation_is_denied(found: list[Observation]) -> None:
    """Changing one compared value by one, or flipping its highest compared bit, leaves the profile."""
    profile = learn(trace_of(*found))
    groups = call_groups(found)
    for group in groups:
        seen = {t.values for t in group.tuples}
        for values in seen:
            for at, spec in enumerate(group.specs):
                if values[at] is None:
                    continue
                top = (1 << spec.width) - 1
                for near in {
                    (values[at] + 1) & top,
                    (values[at] - 1) & top,
                    values[at] ^ 1 << (spec.width - 1),
                }:
                    check_denied(profile, group, seen, (*values[:at], near, *values[at + 1 :]))


@settings(deadline=None, max_examples=60)
@given(observations())
def test_values_seen_apart_are_not_allowed_together(found: list[Observation]) -> None:
    """The cross product of seen values is allowed only where the tuple itself was seen."""
    profile = learn(trace_of(*found))
    for group in call_groups(found):
        seen = {t.values for t in group.tuples}
        sides = [sorted({v for t in seen if (v := t[at]) is not None}) for at in range(len(group.specs))]
        if all(sides):
            for values in list(product(*sides))[:300]:
                check_denied(profile, group, seen, values)


def check_denied(profile: Profile, group: object, seen: set[object], values: tuple[int | None, ...]) -> None:
    args = [0] * 6
    for spec, value in zip(group.specs, values, strict=True):
        args[spec.index] = value or 0
    if canonical(group.specs, args) in seen:
        return  # this neighbour was observed itself (or differs only in an argument that is not read)
    assert profile.decide_call(group.arch, group.nr, args).action == Action.KILL_PROCESS


@settings(deadline=None, max_examples=60)
@given(observations(), st.randoms(use_true_random=False))
def test_same_trace_same_profile(found: list[Observation], random: object) -> None:
    """The order of the observations does not matter, not even to the evidence."""
    shuffled = list(found)
    random.shuffle(shuffled)
    one, two = learn(trace_of(*found, runs=3)), learn(trace_of(*shuffled, runs=3))
    assert one == two
    assert [r.evidence for r in one.rules] == [r.evidence for r in two.rules]


def test_joint_tuples_do_not_mix() -> None:
    """socket(AF_UNIX, SOCK_STREAM) and socket(AF_INET, SOCK_DGRAM) do not imply socket(AF_UNIX, SOCK_DGRAM)."""
    profile = learn(trace_of(observed("socket", 1, 1, 0), observed("socket", 2, 2, 0)))
    assert profile.decide("socket", "AF_UNIX", "SOCK_STREAM", 0).action == Action.ALLOW
    assert profile.decide("socket", "AF_UNIX", "SOCK_DGRAM", 0).action == Action.KILL_PROCESS


def test_mode_of_openat_is_free_without_o_creat() -> None:
    """The mode register of openat holds garbage unless O_CREAT says that it is read."""
    profile = learn(
        trace_of(observed("openat", 0, 0, 0, 0xDEAD), observed("openat", 0, 0, O_CREAT | 1, 0o644))
    )
    assert profile.decide("openat", 0, 0, "O_RDONLY", 0xBEEF).action == Action.ALLOW
    assert profile.decide("openat", 0, 0, "O_WRONLY|O_CREAT", 0o644).action == Action.ALLOW
    assert profile.decide("openat", 0, 0, "O_WRONLY|O_CREAT", 0o666).action == Action.KILL_PROCESS


def test_tuples_that_differ_in_one_argument_share_a_rule() -> None:
    """A family with two types is written as one rule with a set."""
    profile = learn(trace_of(observed("socket", 1, 1, 0), observed("socket", 1, 2, 0)))
    rules = profile.rules_for("x86_64", "socket")
    assert len(rules) == 1
    assert rules[0].evidence.count == 2


def test_a_call_without_constrained_arguments_is_any() -> None:
    """Descriptors, pointers and sizes are never constrained."""
    profile = learn(trace_of(observed("read", 3, 0x7FFF0000, 512)))
    assert profile.rules_for("x86_64", "read")[0].args is ANY


def test_rules_of_several_arches_are_limited_to_theirs() -> None:
    """What was seen on i386 is not allowed on x86_64."""
    profile = learn(trace_of(observed("getpid"), observed("getuid", arch="i386")))
    assert profile.arch == ("x86_64", "i386")
    assert profile.decide("getpid").action == Action.ALLOW
    assert profile.decide("getpid", arch="i386").action == Action.KILL_PROCESS
    assert profile.decide("getuid", arch="i386").action == Action.ALLOW
    assert profile.decide("getuid").action == Action.KILL_PROCESS


def test_programs_of_one_tree_share_the_profile() -> None:
    """The profile is the union over the programs; equal calls add up their calls and processes."""
    sh, tar = ProgramId("/bin/sh"), ProgramId("/bin/tar")
    profile = learn(
        trace_of(
            observed("lseek", 0, 0, 1, program=sh, count=2, processes=1),
            observed("lseek", 0, 0, 1, program=tar, count=5, processes=2),
        )
    )
    evidence = profile.rules_for("x86_64", "lseek")[0].evidence
    assert (evidence.count, evidence.processes) == (7, 3)


def test_processes_are_not_counted_twice() -> None:
    """Two tuples of one rule may come from the same processes: the evidence says how many there were at least."""
    profile = learn(
        trace_of(observed("socket", 1, 1, 0, processes=3), observed("socket", 1, 2, 0, processes=2))
    )
    assert profile.rules_for("x86_64", "socket")[0].evidence.processes == 3


def test_unknown_numbers_stay_numeric_and_are_reported() -> None:
    """A number without a name is allowed as a number, and said."""
    result = infer(trace_of(observed(4242), observed("getpid")))
    assert result.profile.decide_call("x86_64", 4242, ()).action == Action.ALLOW
    assert any("4242" in note for note in result.notes)


def test_calls_of_unknown_arches_are_left_out_and_reported() -> None:
    """A call of an arch without tables cannot be allowed; the reader is told."""
    odd = Observation(0, ProgramId("/bin/x"), "0xdeadbeef", 7, (None,) * 6, 3, 0, 0, 1)
    result = infer(trace_of(odd, observed("getpid"), lost={"unknown_arch": 1}))
    assert result.profile.arch == ("x86_64",)
    assert any("0xdeadbeef" in note and note.startswith("3 calls") for note in result.notes)


def test_calls_that_only_failed_are_allowed_and_labelled() -> None:
    """At strict a program keeps the errors it knows; the evidence says that every call failed."""
    profile = learn(
        trace_of(
            observed("socket", 10, 1, 0, count=2, ok=0, failed=2, last_return="EAFNOSUPPORT"),
            observed("socket", 1, 2, 0, ok=1, failed=0, last_return="ok"),
        )
    )
    assert profile.decide("socket", "AF_INET6", "SOCK_STREAM", 0).action == Action.ALLOW
    reasons = {r.evidence.reason for r in profile.rules_for("x86_64", "socket")}
    assert reasons == {None, "every call failed: EAFNOSUPPORT"}


def test_arguments_that_were_not_recorded_are_free_and_said() -> None:
    """A source that could not read an argument cannot constrain it; the rule and the notes say so."""
    blind = observed("lseek", 0, 0, 1)
    blind = Observation(0, blind.program, "x86_64", blind.nr, (None,) * 6, 1, 0, 0, 1)
    result = infer(trace_of(blind))
    rule = result.profile.rules_for("x86_64", "lseek")[0]
    assert rule.args is ANY
    assert "not recorded" in rule.evidence.reason
    assert any("not recorded" in note for note in result.notes)


def test_learned_block_says_what_was_seen() -> None:
    """Runs, processes, events, kernel, libc, backend and program come from the trace."""
    trace = trace_of(observed("getpid", count=4, processes=2), observed("getuid", run=1))
    profile = learn(trace)
    learned = profile.learned
    assert (learned.runs, learned.processes, learned.events, learned.lost) == (2, 2, 5, 0)
    assert (learned.kernel, learned.libc, learned.backend) == ("6.18.0", "glibc 2.36", "ptrace")
    assert learned.complete
    assert profile.program == Program("/usr/bin/thing", "aabbccddeeff", ("thing", "-x"))


@pytest.mark.parametrize(("lost", "complete"), [({"map_full": 3}, True), ({}, False)])
def test_a_trace_with_gaps_is_never_complete(lost: dict[str, int], complete: bool) -> None:
    """Anything in the loss ledger, or a run not followed to its end, makes the profile incomplete and is noted."""
    result = infer(trace_of(observed("getpid"), lost=lost, complete=complete))
    assert not result.profile.learned.complete
    assert result.profile.learned.lost == sum(lost.values())
    assert "incomplete" in result.notes[0]


def test_one_run_supports_no_estimate_of_the_unseen() -> None:
    """With one run the probability that the next one needs something new is absent, not small."""
    assert learn(trace_of(observed("getpid", processes=9))).learned.unseen is None


def test_an_empty_trace_is_an_error() -> None:
    """A profile that allows nothing but the baseline would only look like a success."""
    with pytest.raises(AutoprofileError, match="no call to learn from"):
        learn(trace_of())


@pytest.mark.parametrize("wrong", [{"level": "loose"}, {"mode": "greylist"}])
def test_unknown_levels_and_modes_are_usage_errors(wrong: dict[str, str]) -> None:
    """A level or mode that does not exist is named, with those that do."""
    with pytest.raises(UsageError):
        learn(trace_of(observed("getpid")), **wrong)


def test_the_profile_survives_its_file() -> None:
    """What was learned reads back from YAML as the same profile."""
    profile = learn(
        trace_of(
            observed("openat", 0, 0, O_CREAT | 1, 0o644),
            observed("openat", 0, 0, 0, 0),
            observed("socket", 1, 1, 0, arch="i386"),
            observed(4242),
        )
    )
    assert Profile.loads(profile.dumps()) == profile


def test_values_are_symbols_of_their_arch() -> None:
    """A tuple learned from raw numbers answers to the kernel's symbols."""
    spec = constrained_args("x86_64", "madvise")[0]
    value = encode_value("x86_64", spec, "MADV_DONTNEED")
    profile = learn(trace_of(observed("madvise", 0, 4096, value)))
    assert profile.decide("madvise", 0, 4096, "MADV_DONTNEED").action == Action.ALLOW
    assert profile.decide("madvise", 0, 4096, "MADV_FREE").action == Action.KILL_PROCESS
    assert syscall_nr("x86_64", "madvise") == 28


def test_a_clock_that_holds_a_pid_is_kept_as_its_class() -> None:
    """CPU clocks of other processes of the same kind pass, other kinds and plain clocks do not; it is said."""

    def cpu(pid: int, kind: int) -> int:
        return (~pid << 3 | kind) & 0xFFFFFFFF

    seen = [observed("clock_gettime", clock) for clock in (1, cpu(4711, 6), cpu(4712, 6), cpu(4711, 2))]
    seen.append(observed("timer_create", cpu(99, 2)))
    for level in ("strict", "standard"):
        profile = learn(trace_of(*seen), level=level)
        assert profile.decide("clock_gettime", cpu(31337, 6)).action == Action.ALLOW
        assert profile.decide("timer_create", cpu(31337, 2)).action == Action.ALLOW
    profile = learn(trace_of(*seen), level="strict")
    for refused in (0, 2, cpu(4711, 3), cpu(4711, 0), 6):
        assert profile.decide("clock_gettime", refused).action != Action.ALLOW, refused
    rules = profile.rules_for("x86_64", "clock_gettime")
    assert len(rules) == 3
    assert sum("whichever" in (rule.evidence.reason or "") for rule in rules if rule.evidence) == 2
    assert Profile.loads(profile.dumps()) == profile
