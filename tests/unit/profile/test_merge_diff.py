"""Merging accepts all that either side accepts, exactly; differences say which way they go and prove it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprofile.errors import ProfileError
from autoprofile.profile import ANY, Action, Arg, Evidence, Learned, Profile, Program, SeccompRule
from autoprofile.profile.diff import diff
from autoprofile.profile.merge import merge

from .strategies import calls_around, comparators, examples, profiles

ONE_ARCH = (("x86_64",),)
FEW = st.sampled_from(["socket", "mprotect"])


@st.composite
def crowded(draw: st.DrawFn) -> Profile:
    """Draw a profile whose rules collide: two syscalls, few values, every action."""
    from .strategies import ACTIONS

    drawn = []
    for _ in range(draw(st.integers(0, 6))):
        args = draw(
            st.one_of(
                st.just(ANY), st.lists(comparators(range(2), (None, 32)), min_size=1, max_size=2).map(tuple)
            )
        )
        drawn.append(SeccompRule(draw(FEW), draw(ACTIONS), args))
    default = draw(ACTIONS)
    return Profile(mode="hybrid", default=default, rules=tuple(drawn))


@examples(40)
@given(crowded(), crowded())
def test_a_merge_answers_with_the_milder_of_both(a: Profile, b: Profile) -> None:
    """On the arches both list, the merged action is exactly the milder of the two, and order is irrelevant."""
    merged, other_way = merge(a, b), merge(b, a)
    for arch, nr, args in calls_around(a, b, merged):
        actions = [p.decide_call(arch, nr, args).action for p in (a, b)]
        assert merged.decide_call(arch, nr, args).action == min(actions, key=lambda action: action.rank)
        assert other_way.decide_call(arch, nr, args).action == min(actions, key=lambda action: action.rank)


@examples(25)
@given(profiles(), profiles())
def test_a_merge_allows_all_that_either_allows(a: Profile, b: Profile) -> None:
    """Whatever the arches, defaults and modes: no call is answered more severely than by either side."""
    try:
        merged, other_way = merge(a, b), merge(b, a)
    except ProfileError:
        refused = True
    else:
        refused = False
    if refused:
        assert set(a.arch) != set(b.arch)
        return
    for arch, nr, args in calls_around(a, b):
        actions = [p.decide_call(arch, nr, args).action for p in (a, b)]
        milder = min(actions, key=lambda action: action.rank)
        got = merged.decide_call(arch, nr, args).action
        assert got.rank <= milder.rank
        assert other_way.decide_call(arch, nr, args).action == got
        # Nothing starts to run, or to be run unasked, that neither side let run.
        assert milder.is_permitting or not got.is_permitting
        if set(a.arch) == set(b.arch):
            assert got == milder


@examples(15)
@given(profiles())
def test_merging_with_itself_changes_no_decision(a: Profile) -> None:
    """merge(a, a) decides as a does."""
    merged = merge(a, a)
    for arch, nr, args in calls_around(a):
        assert merged.decide_call(arch, nr, args).action == a.decide_call(arch, nr, args).action


def allow(syscall: str, *args: Arg, evidence: Evidence | None = None) -> SeccompRule:
    """Return an allow rule."""
    return SeccompRule(syscall, Action.ALLOW, args or ANY, evidence=evidence)


def test_a_merge_of_learned_profiles_stays_readable() -> None:
    """Rules both sides have are kept once with summed evidence, and ANY swallows what lies inside it."""
    a = Profile(
        learned=Learned(1, 2, 10, kernel="6.18", unseen=0.1, complete=True),
        rules=(
            allow("read", evidence=Evidence(3, 1)),
            allow("socket", Arg(0, "eq", 1), evidence=Evidence(5, 1)),
            allow("openat", Arg(2, "eq", 0), evidence=Evidence(7, 2)),
        ),
    )
    b = Profile(
        learned=Learned(2, 3, 20, lost=1, kernel="6.18", unseen=0.3),
        level="standard",
        rules=(
            allow("read", evidence=Evidence(4, 2)),
            allow("socket", evidence=Evidence(1, 1)),
            allow("openat", Arg(2, "eq", 1), evidence=Evidence(1, 1)),
        ),
    )
    merged = merge(a, b)
    assert (
        merged.rules
        == Profile(
            rules=(
                allow("read"),
                allow("socket"),
                allow("openat", Arg(2, "eq", 0)),
                allow("openat", Arg(2, "eq", 1)),
            )
        ).rules
    )
    assert merged.rules_for("x86_64", "read")[0].evidence == Evidence(7, 3)
    assert merged.rules_for("x86_64", "socket")[0].evidence == Evidence(6, 2)
    assert merged.level == "standard"
    assert merged.learned == Learned(3, 5, 30, lost=1, kernel="6.18", unseen=0.3, complete=False)


def test_a_refusal_gives_way_only_where_the_other_side_accepts() -> None:
    """A denied family stays denied but for the protocol the other profile allows."""
    a = Profile(rules=(allow("socket"), SeccompRule("socket", Action.errno(1), (Arg(0, "eq", 16),))))
    b = Profile(rules=(allow("socket", Arg(0, "eq", 16), Arg(2, "eq", 0)),))
    merged = merge(a, b)
    assert merged.decide("socket", "AF_NETLINK", "SOCK_RAW", 0).action == Action.ALLOW
    assert merged.decide("socket", "AF_NETLINK", "SOCK_RAW", 15).action == Action.errno(1)
    assert merged.decide("socket", "AF_INET").action == Action.ALLOW


def test_merging_refuses_to_open_an_arch() -> None:
    """A denylist for one arch does not turn the other profile's second arch into allow-all."""
    open_one = Profile(mode="denylist", default=Action.ALLOW)
    both = Profile(arch=("x86_64", "i386"), rules=(allow("read"),))
    with pytest.raises(ProfileError, match="every call on i386"):
        merge(open_one, both)
    same = merge(open_one, Profile(rules=(allow("read"),)))
    assert (same.mode, same.default) == ("denylist", Action.ALLOW)


def stage(action: Action) -> int:
    """Return 0 for a call that runs, 1 for one that somebody is asked about, 2 for one that never runs."""
    return 0 if action.is_permitting else 2 if action.is_refusing else 1


@examples(25)
@given(st.one_of(st.tuples(crowded(), crowded()), st.tuples(profiles(ONE_ARCH), profiles(ONE_ARCH))))
def test_differences_name_their_direction(two: tuple[Profile, Profile]) -> None:
    """Without a widening no call is answered more mildly, without a narrowing none more severely."""
    a, b = two
    changes = diff(a, b)
    kinds = {change.kind for change in changes}
    for arch, nr, args in calls_around(a, b, limit=250):
        old, new = (p.decide_call(arch, nr, args).action for p in (a, b))
        if not changes:
            assert old == new
        if stage(new) < stage(old):
            assert kinds & {"widened", "changed"}
        elif stage(new) > stage(old):
            assert kinds & {"narrowed", "changed"}
        elif new != old:
            assert kinds - {"same"}
    if not changes:
        assert a == b
    assert changes == diff(a, b)
    assert json.dumps([change.to_dict() for change in changes])


@examples(60)
@given(crowded(), crowded())
def test_every_changed_answer_has_a_change_that_proves_its_direction(a: Profile, b: Profile) -> None:
    """With equal headers, each way in which some call is answered otherwise is found, with a call as proof."""
    b = replace(b, default=a.default)
    changes = diff(a, b)
    proven = {change.kind for change in changes if change.proof}
    for arch, nr, args in calls_around(a, b, limit=250):
        old, new = (p.decide_call(arch, nr, args).action for p in (a, b))
        if stage(new) != stage(old):
            assert proven & {"widened" if stage(new) < stage(old) else "narrowed", "changed"}
        elif new != old:
            assert proven
    if not proven:
        assert {change.kind for change in changes} <= {"changed", "same"}


@examples(15)
@given(profiles())
def test_a_profile_does_not_differ_from_itself(a: Profile) -> None:
    """diff(a, a) is empty."""
    assert diff(a, a) == []


@examples(30)
@given(crowded(), crowded())
def test_the_way_back_mirrors_the_way_there(a: Profile, b: Profile) -> None:
    """What widens from a to b narrows from b to a."""
    there = sorted(c.kind for c in diff(a, b))
    back = sorted({"widened": "narrowed", "narrowed": "widened"}.get(c.kind, c.kind) for c in diff(b, a))
    assert set(there) == set(back)


def test_differences_read_well() -> None:
    """A widened rule is one line with both forms and a call that is now answered otherwise."""
    a = Profile(rules=(allow("read"), allow("socket", Arg(0, "eq", 1), Arg(1, "eq", 1), Arg(2, "eq", 0))))
    b = replace(
        a,
        default=Action.errno(1),
        rules=(allow("getpid"), allow("socket", Arg(0, "in", {1, 2}), Arg(1, "eq", 1), Arg(2, "eq", 0))),
    )
    lines = [(change.kind, str(change)) for change in diff(a, b)]
    assert lines[0] == ("changed", "default: kill becomes EPERM")
    assert lines[1][0] == "widened"
    assert lines[1][1].startswith("syscalls.getpid: added any [getpid(): kill before, allow now")
    assert lines[2] == ("narrowed", "syscalls.read: removed any [read(): allow before, EPERM now]")
    assert lines[3][0] == "widened"
    assert "family: AF_UNIX" in lines[3][1]
    assert "family: [AF_UNIX, AF_INET]" in lines[3][1]
    assert "socket(family=AF_INET" in lines[3][1]


def test_a_rule_split_in_two_is_neither_wider_nor_narrower() -> None:
    """The same decisions said with other rules are one change that says so, either way round."""
    a = Profile(rules=(allow("socket", Arg(0, "in", {1, 2})),))
    b = Profile(rules=(allow("socket", Arg(0, "eq", 1)), allow("socket", Arg(0, "eq", 2))))
    for one, other in ((a, b), (b, a)):
        (change,) = diff(one, other)
        assert (change.kind, change.edit, change.proof) == ("same", "replaced", None)
    assert "family: [AF_UNIX, AF_INET]" in str(diff(a, b)[0])


def test_a_split_beside_a_widening_does_not_hide_it() -> None:
    """What is new is one line of its own; the rules that say the old calls are another."""
    a = Profile(rules=(allow("socket", Arg(0, "in", {1, 2})),))
    b = Profile(rules=tuple(allow("socket", Arg(0, "eq", family)) for family in (1, 2, 16)))
    found = [(change.kind, change.edit) for change in diff(a, b)]
    assert sorted(found) == [("same", "replaced"), ("widened", "added")]
    back = [(change.kind, change.edit) for change in diff(b, a)]
    assert sorted(back) == [("narrowed", "removed"), ("same", "replaced")]


def test_one_refusal_for_another_is_neither_wider_nor_narrower() -> None:
    """A call killed before and answered with EPERM now opens nothing, and the line shows both answers."""
    a = Profile(rules=(SeccompRule("clone3", Action.KILL_PROCESS), allow("read")))
    b = Profile(rules=(SeccompRule("clone3", Action.errno(1)), allow("read")))
    (change,) = diff(a, b)
    assert change.kind == "changed"
    assert "kill before, EPERM now" in (change.proof or "")
    asked = diff(a, Profile(rules=(SeccompRule("clone3", Action.NOTIFY), allow("read"))))
    assert {change.kind for change in asked} == {"widened"}


@examples(15)
@given(crowded(), crowded())
def test_what_is_called_the_same_is_answered_the_same(a: Profile, b: Profile) -> None:
    """Where every change of the rules is `same`, no call on earth is answered otherwise."""
    b = replace(b, default=a.default)
    if {change.kind for change in diff(a, b)} <= {"same"}:
        for arch, nr, args in calls_around(a, b, limit=250):
            assert a.decide_call(arch, nr, args).action == b.decide_call(arch, nr, args).action


def _of_runs(
    runs: int, rules: tuple[SeccompRule, ...], left_out: dict[int, tuple[str, ...]] | None
) -> Profile:
    seen = tuple(replace(rule, evidence=Evidence(count=1)) for rule in rules)
    return Profile(
        program=Program("/bin/p", None, ("p", str(runs))),
        learned=Learned(runs, runs, 10, complete=True, left_out=left_out),
        rules=seen,
    )


def test_merged_runs_are_kept_apart_in_what_they_would_have_met() -> None:
    """Runs are numbered on; a single run is judged by what the others refuse it."""
    read, write = allow("read"), allow("write")
    merged = merge(_of_runs(2, (read,), {2: ("read()",)}), _of_runs(1, (read, write), None))
    assert merged.learned is not None
    assert merged.learned.left_out == {2: ("read()",), 3: ("write()",)}
    assert merged.learned.unseen == 0.625
    again = merge(merged, _of_runs(1, (read,), None))
    assert again.learned is not None
    assert again.learned.left_out == {2: ("read()",), 3: ("write()",)}
    assert again.learned.unseen == 0.5


def test_runs_of_which_nothing_is_known_leave_the_estimate_to_the_sides() -> None:
    """Several runs that were not kept apart cannot be counted one by one."""
    merged = merge(_of_runs(2, (allow("read"),), None), _of_runs(1, (allow("read"),), None))
    assert merged.learned is not None
    assert merged.learned.left_out is None
    assert merged.learned.unseen is None


def test_a_single_run_is_not_said_to_miss_what_a_wider_rule_allows() -> None:
    """What the other side refuses is calculated, arguments included."""
    narrow = allow("socket", Arg(0, "eq", 1), Arg(1, "in", {1, 2}))
    wide = allow("socket", Arg(0, "in", {1, 2}))
    merged = merge(_of_runs(1, (narrow,), None), _of_runs(1, (wide,), None))
    assert merged.learned is not None
    assert merged.learned.left_out is not None
    assert set(merged.learned.left_out) == {2}
    assert "AF_INET" in merged.learned.left_out[2][0] or "type" in merged.learned.left_out[2][0]


def test_a_merge_keeps_the_command_of_one_program() -> None:
    """Two commands of one program leave the first; of two programs, none."""
    one = Profile(program=Program("/bin/p", None, ("p", "-a")))
    assert merge(one, Profile(program=Program("/bin/p", None, ("p", "-b")))).program.argv == ("p", "-a")
    assert merge(one, Profile(program=Program("/bin/q", None, ("q",)))).program.argv == ()


def test_a_rule_is_compared_on_the_arches_of_its_own_profile() -> None:
    """One profile's brk for its only arch against another's limited to it: the same there, no crash."""
    a = Profile(rules=(SeccompRule("brk", Action.ALLOW),))
    b = Profile(arch=("x86_64", "i386"), rules=(SeccompRule("brk", Action.ALLOW, arch=("x86_64",)),))
    for old, new in ((a, b), (b, a)):
        found = {change.subject: change.kind for change in diff(old, new)}
        assert found["syscalls.brk"] == "same"


@given(data=st.data())
@examples(60)
def test_any_two_profiles_of_any_arches_compare(data: st.DataObject) -> None:
    """Whatever the arches and limits, each rule is compared only where its profile has it; both ways agree."""
    arches = st.sampled_from([("x86_64",), ("i386", "x86_64"), ("x86_64", "x32", "i386"), ("aarch64",)])
    made = []
    for _ in range(2):
        own = data.draw(arches)
        limits = st.sampled_from([None, *((one,) for one in own)])
        rules = []
        for call in ("brk", "read", "mprotect"):
            if data.draw(st.booleans()):
                action = data.draw(st.sampled_from([Action.ALLOW, Action.LOG, Action.errno("EPERM")]))
                rules.append(SeccompRule(call, action, arch=data.draw(limits)))
        bad_arch = data.draw(st.sampled_from([Action.KILL_PROCESS, Action.errno("EPERM")]))
        made.append(Profile(arch=own, bad_arch=bad_arch, rules=tuple(rules)))
    a, b = made
    swap = {"widened": "narrowed", "narrowed": "widened"}
    assert sorted(c.kind for c in diff(a, b)) == sorted(swap.get(c.kind, c.kind) for c in diff(b, a))
