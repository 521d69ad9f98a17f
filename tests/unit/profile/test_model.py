"""Deciding: the most severe matching rule wins, the default answers the rest, and the reason is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprofile.errors import ProfileError, UsageError
from autoprofile.profile import ANY, Action, Arg, Learned, Profile, Program, SeccompRule
from autoprofile.profile.wording import call_values, rule_text

from .strategies import calls_around, examples, profiles


@examples(25)
@given(profiles())
def test_the_most_severe_matching_rule_decides(profile: Profile) -> None:
    """decide_call equals the definition: severest match, else default; bad_arch for other arches."""
    from autoprofile.abi.syscalls import syscall_name

    for arch, nr, args in calls_around(profile, limit=150):
        decision = profile.decide_call(arch, nr, args)
        if arch not in profile.arch:
            assert decision.action == profile.bad_arch
            continue
        name = syscall_name(arch, nr) or nr
        matching = [
            rule.action
            for rule in profile.rules
            if rule.syscall == name and (rule.arch is None or arch in rule.arch) and rule.evaluate(args)
        ]
        assert decision.action == max(matching, key=lambda a: a.rank, default=profile.default)
        assert (decision.rule is None) == (not matching)
        assert decision.why


@examples(25)
@given(profiles(), st.randoms(use_true_random=False))
def test_rules_have_one_canonical_form(profile: Profile, random: object) -> None:
    """Order, duplicates and already bound widths make no difference to a profile."""
    shuffled = [*profile.rules, *profile.rules]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = Profile(
        program=profile.program,
        learned=profile.learned,
        arch=profile.arch,
        level=profile.level,
        mode=profile.mode,
        default=profile.default,
        bad_arch=profile.bad_arch,
        rules=tuple(shuffled),
    )
    assert again == profile
    assert again.rules == profile.rules


def socket_profile() -> Profile:
    """Return a profile with a rule, a refusal and a default."""
    return Profile(
        rules=(
            SeccompRule("socket", Action.ALLOW, (Arg(0, "eq", 1), Arg(1, "in", {1, 2}))),
            SeccompRule("socket", Action.errno("EPERM"), (Arg(0, "eq", 16),)),
            SeccompRule("read", Action.ALLOW),
        )
    )


def test_decide_takes_names_and_symbols_and_says_why() -> None:
    """The library example of the design answers with action, rule and a sentence naming the argument."""
    profile = socket_profile()
    denied = profile.decide("socket", "AF_NETLINK", "SOCK_RAW", 12)
    assert denied.action == Action.errno(1)
    assert denied.rule is not None
    assert "AF_NETLINK" in denied.why
    missed = profile.decide("socket", "AF_INET", "SOCK_STREAM")
    assert missed.action == Action.KILL_PROCESS
    assert missed.rule is None
    assert "family is AF_INET" in missed.why
    assert "AF_UNIX" in missed.why
    assert "default kill" in missed.why
    assert "no rule for ptrace" in profile.decide("ptrace").why
    assert profile.decide("read", arch="x32").action == Action.KILL_PROCESS
    assert "x32 is not among" in profile.decide("read", arch="x32").why
    assert profile.decide(0).action == Action.ALLOW


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("opennat",), {}),
        (("socket", "AF_UNIXX"), {}),
        (("read",), {"arch": "vax"}),
        (("read", 1, 2, 3, 4, 5, 6, 7), {}),
        ((99999, "AF_UNIX"), {}),
    ],
)
def test_decide_refuses_what_it_does_not_know(args: tuple, kwargs: dict) -> None:
    """An unknown syscall, symbol or arch is a usage error, not a decision."""
    with pytest.raises(UsageError):
        socket_profile().decide(*args, **kwargs)


def test_the_upper_half_of_an_int_argument_decides_nothing() -> None:
    """Socket's int family is compared at 32 bits, so a dirty upper half is neither a bypass nor a refusal."""
    profile = socket_profile()
    dirty = 0xDEADBEEF << 32
    assert profile.decide_call("x86_64", 41, (dirty | 16, 1, 0)).action == Action.errno(1)
    assert profile.decide_call("x86_64", 41, (dirty | 1, 1, 0)).action == Action.ALLOW


def test_widths_are_bound_per_arch() -> None:
    """Mmap's prot is 64 bits wide on x86_64 and 32 on i386: the rule splits into one for each."""
    profile = Profile(
        arch=("x86_64", "i386"), rules=(SeccompRule("mprotect", Action.ALLOW, (Arg(2, "eq", 1),)),)
    )
    assert {(rule.arch, rule.comparators[0].width) for rule in profile.rules} == {
        (("x86_64",), 64),
        (("i386",), 32),
    }
    given_width = Profile(rules=(SeccompRule("socket", Action.ALLOW, (Arg(0, "eq", 1, width=64),)),))
    assert given_width.decide_call("x86_64", 41, (1 << 32 | 1,)).action == Action.KILL_PROCESS


def test_numbers_get_their_names() -> None:
    """A rule by number is the rule by name; a number without name stays one."""
    profile = Profile(rules=(SeccompRule(0, Action.ALLOW), SeccompRule(4000, Action.ALLOW)))
    assert profile.syscalls("x86_64") == {"read", 4000}
    assert profile.rules_for("x86_64", 0) == profile.rules_for("x86_64", "read") != ()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Profile(arch=()), "at least one arch"),
        (lambda: Profile(arch=("vax",)), "no arch"),
        (lambda: Profile(arch=("i386", "i386")), "twice"),
        (lambda: Profile(level="lax"), "no level"),
        (lambda: Profile(mode="greylist"), "no mode"),
        (lambda: Profile(default=Action.ALLOW), "contradicts"),
        (lambda: Profile(mode="denylist"), "contradicts"),
        (lambda: Profile(rules=(SeccompRule("opennat", Action.ALLOW),)), "no syscall"),
        (lambda: Profile(rules=(SeccompRule("socketcall", Action.ALLOW),)), "no syscall"),
        (lambda: Profile(rules=(SeccompRule("read", Action.ALLOW, ANY, ("i386",)),)), "does not list"),
        (lambda: Profile(arch=("x86_64", "i386"), rules=(SeccompRule(900, Action.ALLOW),)), "each of"),
        (lambda: Profile(rules=(SeccompRule(-1, Action.ALLOW),)), "syscall number"),
        (lambda: Profile(rules=(SeccompRule("socket", Action.ALLOW, (Arg(0, "eq", 1 << 32),)),)), "32 bits"),
        (lambda: Learned(1, 1, 1, lost=1, complete=True), "contradicts"),
        (lambda: Learned(-1, 1, 1), "less than none"),
        (lambda: Learned(1, 1, 1, unseen=1.5), "probability"),
    ],
)
def test_a_profile_that_contradicts_itself_cannot_be_built(make: object, text: str) -> None:
    """Parts that do not fit together are a ProfileError that names them."""
    with pytest.raises(ProfileError, match=text):
        make()  # type: ignore[operator]


def test_names_that_are_not_utf8_become_replacement_characters() -> None:
    """A path with a stray byte is kept readable, and equal to what its file will say."""
    assert Program("/tmp/\udcff", None, ("a\udc80",)) == Program("/tmp/\ufffd", None, ("a\ufffd",))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (("fcntl", (10, None), (Arg(1, "eq", 10), Arg(2, "eq", 9))), "cmd = F_SETSIG, arg = SIGKILL"),
        (
            ("prctl", (), (Arg(0, "eq", 23), Arg(1, "eq", 21))),
            "option = PR_CAPBSET_READ, arg2 = CAP_SYS_ADMIN",
        ),
        (("prctl", (), (Arg(0, "in", {23, 24}), Arg(1, "eq", 21))), "arg2 = CAP_SYS_ADMIN"),
        (
            ("socket", (), (Arg(0, "eq", 16), Arg(2, "eq", 0))),
            "family = AF_NETLINK, protocol = NETLINK_ROUTE",
        ),
        (("fcntl", (), (Arg(1, "eq", 2), Arg(2, "eq", 1))), "arg = FD_CLOEXEC"),
        (
            ("fcntl", (), (Arg(1, "in", {2, 4}), Arg(2, "eq", 1))),
            "arg = O_WRONLY",
        ),  # no one meaning: as a file has it
    ],
)
def test_a_rule_names_values_by_what_its_command_makes_of_them(rule: tuple, text: str) -> None:
    """SIGKILL under F_SETSIG is not O_WRONLY|0x8, nor a capability a plain number."""
    syscall, _, args = rule
    (bound,) = Profile(rules=(SeccompRule(syscall, Action.ALLOW, args),)).rules
    assert text in rule_text("x86_64", bound)


def test_a_call_names_its_values_by_its_command() -> None:
    """Reports and drift say NETLINK_ROUTE, as the rule that accepts the call does."""
    assert call_values("x86_64", "socket", (16, 3, 0, None, None, None)) == {
        "family": "AF_NETLINK", "type": "SOCK_RAW", "protocol": "NETLINK_ROUTE",
    }  # fmt: skip
