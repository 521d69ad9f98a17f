"""Levels and modes open what they say and keep unseen risks out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.abi.risk import call_risk
from autoprofile.drift import compare
from autoprofile.learn import infer, learn
from autoprofile.learn.calls import call_groups, distinct_runs
from autoprofile.learn.evidence import incidence
from autoprofile.learn.generalise import Policy, generalise, saturated
from autoprofile.learn.modes import deny_rules
from autoprofile.lint import lint
from autoprofile.observations import Observation
from autoprofile.profile import ANY, Action, Profile
from tests.unit.learn.test_strict import decide, observations
from tests.unit.learn.traces import observed, trace_of

R, W, X, SEM = 1, 2, 4, 8
MAP_PRIVATE, MAP_ANONYMOUS = 2, 0x20
THREAD = 0x3D0F00
LEVELS = ("strict", "standard", "permissive")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", ["allowlist", "denylist", "hybrid"])
@settings(deadline=None, max_examples=12)
@given(observations())
def test_everything_seen_is_allowed_at_every_level_and_in_every_mode(
    level: str, mode: str, found: list[Observation]
) -> None:
    """Generalising never loses a call that was seen."""
    profile = learn(trace_of(*found, runs=3), level=level, mode=mode)
    assert all(decide(profile, o) for o in found)


@settings(deadline=None, max_examples=25)
@given(observations(), st.data())
def test_levels_only_widen(found: list[Observation], data: st.DataObject) -> None:
    """What strict allows, standard allows; what standard allows, permissive allows."""
    trace = trace_of(*found, runs=3)
    strict, standard, permissive = (learn(trace, level=level) for level in LEVELS)
    o = data.draw(st.sampled_from(found))
    values = st.one_of(st.integers(0, 70), st.integers(0, (1 << 64) - 1))
    args = data.draw(st.lists(values, min_size=6, max_size=6))
    for narrow, wide in ((strict, standard), (standard, permissive)):
        if narrow.decide_call(o.arch, o.nr, args).action == Action.ALLOW:
            assert wide.decide_call(o.arch, o.nr, args).action == Action.ALLOW


@settings(deadline=None, max_examples=25)
@given(observations(), st.data())
def test_no_unseen_high_risk_is_opened(found: list[Observation], data: st.DataObject) -> None:
    """Whatever standard and permissive add to the calls seen carries no high risk."""
    trace = trace_of(*found, runs=3)
    seen = learn(trace)
    o = data.draw(st.sampled_from(found))
    group = next(g for g in call_groups(found) if (g.arch, g.nr) == (o.arch, o.nr))
    values = st.sampled_from([0, 1, 2, 3, 4, 6, 7, 16, 0x5412, 0x10000000, 0o4755, 0x40, 0x41])
    args = data.draw(st.lists(values, min_size=6, max_size=6))
    for level in ("standard", "permissive"):
        profile = learn(trace, level=level)
        if (
            profile.decide_call(o.arch, o.nr, args).action == Action.ALLOW
            and seen.decide_call(o.arch, o.nr, args).action != Action.ALLOW
        ):
            risk = call_risk(o.arch, group.name, tuple(args))
            assert risk is None or risk.severity != "high"


def allows(profile: Profile, syscall: str, *args: object) -> bool:
    return profile.decide(syscall, *args).action == Action.ALLOW


def test_standard_opens_what_is_of_no_risk() -> None:
    """Socket families without a risk class open up, risky ones and raw sockets stay shut."""
    profile = learn(trace_of(observed("socket", 2, 1, 0)), level="standard")
    assert allows(profile, "socket", "AF_INET6", "SOCK_DGRAM|SOCK_CLOEXEC", 0)
    assert allows(profile, "socket", "AF_UNIX", "SOCK_STREAM", 0)
    for family in ("AF_NETLINK", "AF_PACKET", "AF_ALG", "AF_VSOCK"):
        assert not allows(profile, "socket", family, "SOCK_STREAM", 0)
    assert not allows(profile, "socket", "AF_INET", "SOCK_RAW", 1)
    assert not allows(profile, "socket", "AF_INET", "SOCK_RAW|SOCK_CLOEXEC", 1)


@pytest.mark.parametrize("protocol", ["IPPROTO_SMC", "IPPROTO_L2TP", "IPPROTO_SCTP"])
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_rare_protocols_stay_shut_beside_the_common_ones(protocol: str, family: str) -> None:
    """A module loaded for its protocol number is no other risk than one loaded for its family."""
    for seen in ((2, 1, 0), (10, 2, 0), (2, 1, 6), (2, 0x80802, 17)):
        profile = learn(trace_of(observed("socket", *seen)), level="standard")
        for kind in ("SOCK_STREAM", "SOCK_DGRAM|SOCK_CLOEXEC"):
            assert not allows(profile, "socket", family, kind, protocol)
        assert allows(profile, "socket", family, "SOCK_STREAM", "IPPROTO_TCP")
        assert allows(profile, "socket", family, "SOCK_STREAM", "IPPROTO_MPTCP")


def test_a_medium_risk_that_was_seen_is_allowed_exactly_as_seen() -> None:
    """One netlink protocol does not open the others at standard."""
    profile = learn(trace_of(observed("socket", 16, 3, 0)), level="standard")
    assert allows(profile, "socket", "AF_NETLINK", "SOCK_RAW", 0)
    assert not allows(profile, "socket", "AF_NETLINK", "SOCK_RAW", "NETLINK_NETFILTER")
    assert not allows(profile, "socket", "AF_NETLINK", "SOCK_RAW", "NETLINK_KOBJECT_UEVENT")


def test_of_a_class_that_was_seen_only_the_calls_seen_pass() -> None:
    """One writable and executable mapping does not open other such mappings."""
    seen = observed("mmap", 0, 0, R | W | X, MAP_PRIVATE | MAP_ANONYMOUS)
    profile = learn(trace_of(seen), level="standard")
    assert allows(profile, "mmap", 0, 0, R | W | X, MAP_PRIVATE | MAP_ANONYMOUS)
    assert not allows(profile, "mmap", 0, 0, R | W | X, "MAP_SHARED")
    assert allows(profile, "mmap", 0, 0, R | W, "MAP_SHARED")


def test_write_xor_execute_stays() -> None:
    """Mapping writable and mapping executable, seen apart, do not open both together."""
    seen = [observed("mmap", 0, 0, R | W, MAP_PRIVATE), observed("mmap", 0, 0, R | X, MAP_PRIVATE)]
    for level in ("standard", "permissive"):
        profile = learn(trace_of(*seen), level=level)
        assert allows(profile, "mmap", 0, 0, "PROT_WRITE", "MAP_SHARED")
        assert allows(profile, "mmap", 0, 0, "PROT_EXEC", "MAP_SHARED")
        assert not allows(profile, "mmap", 0, 0, "PROT_READ|PROT_WRITE|PROT_EXEC", "MAP_PRIVATE")


def test_a_reader_stays_a_reader() -> None:
    """A program that opened only for reading may open with other flags, but not for writing."""
    profile = learn(trace_of(observed("openat", 0, 0, 0o2000000)), level="standard")
    assert allows(profile, "openat", 0, 0, "O_RDONLY|O_DIRECTORY", 0)
    assert not allows(profile, "openat", 0, 0, "O_WRONLY", 0)
    assert not allows(profile, "openat", 0, 0, "O_RDONLY|O_CREAT", 0o644)


def test_a_writer_may_write_but_not_make_setuid_files() -> None:
    """Once writing was seen it opens up; setuid modes stay out."""
    profile = learn(trace_of(observed("openat", 0, 0, 0o101, 0o600)), level="standard")
    assert allows(profile, "openat", 0, 0, "O_RDWR|O_CREAT|O_TRUNC", 0o644)
    assert not allows(profile, "openat", 0, 0, "O_WRONLY|O_CREAT", 0o4755)


def test_calls_that_are_a_risk_themselves_stay_exact() -> None:
    """Of ptrace, only the requests seen are allowed at standard."""
    profile = learn(trace_of(observed("ptrace", 0)), level="standard")
    assert allows(profile, "ptrace", "PTRACE_TRACEME")
    assert not allows(profile, "ptrace", "PTRACE_ATTACH")


def test_permissive_constrains_high_risks_only() -> None:
    """A medium risk (making memory executable) opens at permissive and not at standard."""
    trace = trace_of(observed("mprotect", 0, 0, R))
    assert not allows(learn(trace, level="standard"), "mprotect", 0, 0, "PROT_EXEC")
    assert allows(learn(trace, level="permissive"), "mprotect", 0, 0, "PROT_EXEC")
    assert not allows(learn(trace, level="permissive"), "mprotect", 0, 0, "PROT_WRITE|PROT_EXEC")


def test_permissive_adds_a_sibling_that_an_essential_opens_in_part() -> None:
    """Who was seen to write with openat may with open: that libc reads through open is not all of it."""
    profile = learn(trace_of(observed("openat", 0, 0, 0o101, 0o600)), level="permissive")
    assert allows(profile, "open", 0, "O_WRONLY|O_CREAT", 0o644)
    assert not allows(profile, "open", 0, "O_WRONLY|O_CREAT", 0o4755)
    assert not any(f.id == "shadowed-rule" for f in lint(profile, only=["overlap"]))


def test_permissive_adds_siblings_with_reasons() -> None:
    """The fallback families of what was seen are added, each labelled; unreadable ones answer ENOSYS."""
    trace = trace_of(observed("openat", 0, 0, 0), observed("renameat2"))
    profile = learn(trace, level="permissive")
    assert allows(profile, "renameat")
    assert "sibling of renameat2" in profile.rules_for("x86_64", "renameat")[0].evidence.reason
    assert profile.decide("openat2").action == Action.errno("ENOSYS")
    assert not allows(learn(trace, level="standard"), "renameat")


def test_permissive_adds_no_sibling_of_a_greater_risk() -> None:
    """The sibling process_madvise of madvise reaches other processes and stays out."""
    profile = learn(trace_of(observed("madvise", 0, 0, 4)), level="permissive")
    assert not allows(profile, "process_madvise")


def test_every_unobserved_rule_says_why() -> None:
    """A rule without a count has a reason, at every level and in every mode."""
    trace = trace_of(observed("openat", 0, 0, 0), observed("clone3"), observed("socket", 1, 1, 0))
    for level in LEVELS:
        for mode in ("allowlist", "denylist", "hybrid"):
            for rule in learn(trace, level=level, mode=mode).rules:
                assert rule.evidence is not None
                assert rule.evidence.count is not None or rule.evidence.reason


def test_essentials_are_there_at_standard_and_not_at_strict() -> None:
    """Aborting, failing assertions and isatty work although no run showed them."""
    trace = trace_of(observed("getuid"))
    standard, strict = learn(trace, level="standard"), learn(trace)
    for call in (
        ("tgkill", 0, 0, "SIGABRT"),
        ("writev",),
        ("ioctl", 0, "TCGETS"),
        ("rt_sigprocmask", "SIG_BLOCK"),
    ):
        assert allows(standard, *call)
        assert not allows(strict, *call)
    assert not allows(standard, "ioctl", 0, "TIOCSTI")
    assert "essential for" in standard.rules_for("x86_64", "writev")[0].evidence.reason


def test_calls_that_always_failed_are_denied_with_their_error() -> None:
    """A call that met only ENOSYS or EPERM is denied with it at standard, on request not; ENOENT is no verdict."""
    trace = trace_of(
        observed("keyctl", 0, ok=0, failed=3, last_return="EPERM"),
        observed("statx", 0, 0, 0, ok=0, failed=1, last_return="ENOENT"),
        observed("getuid", ok=1, failed=0, last_return="ok"),
    )
    result = infer(trace, level="standard")
    assert result.profile.decide("keyctl").action == Action.errno("EPERM")
    assert any("keyctl is answered with EPERM" in str(one) for one in result.decided)
    assert allows(result.profile, "statx")
    assert allows(learn(trace, level="standard", deny_failed=False), "keyctl")
    assert allows(learn(trace), "keyctl")


def test_clone3_becomes_clone_which_can_be_checked() -> None:
    """At standard clone3 answers ENOSYS and clone is open for everything but namespaces; it can be turned off."""
    trace = trace_of(observed("clone3"))
    profile = learn(trace, level="standard")
    assert profile.decide("clone3").action == Action.errno("ENOSYS")
    assert allows(profile, "clone", THREAD)
    assert not allows(profile, "clone", "CLONE_NEWUSER")
    assert allows(learn(trace, level="standard", deny_opaque=False), "clone3")
    assert allows(learn(trace), "clone3")


def test_a_library_that_can_do_without_fresh_code_is_told_so() -> None:
    """Where libpcre2 was loaded, unseen writable and executable memory is refused by an error; nothing opens."""
    trace = trace_of(observed("mmap", 0, 0, R | W, MAP_PRIVATE | MAP_ANONYMOUS))
    plain = learn(trace, level="standard")
    trace.meta = replace(trace.meta, libraries={"/usr/lib/libpcre2-8.so.0.11.2": "aa"})
    result = infer(trace, level="standard")
    fresh = ("mmap", 0, 0, R | W | X, MAP_PRIVATE | MAP_ANONYMOUS)
    assert plain.decide(*fresh).action == Action.KILL_PROCESS
    assert result.profile.decide(*fresh).action == Action.errno("EACCES")
    (told,) = [
        one for one in result.decided if "memory is refused with EACCES (not seen; libpcre2" in one.text
    ]
    assert told.among(result.profile.rules) == told
    assert told.among(plain.rules) is None
    assert learn(trace, level="standard", deny_jit=False).decide(*fresh).action == Action.KILL_PROCESS
    seen = trace_of(observed(*fresh))
    seen.meta = trace.meta
    assert allows(learn(seen, level="standard"), *fresh)


@pytest.mark.parametrize("level", LEVELS)
def test_a_trace_shows_no_drift_from_its_own_profile(level: str) -> None:
    """Calls denied on purpose are answered as they were, or sent to a sibling: replaying finds nothing."""
    trace = trace_of(
        observed("clone3"),
        observed("keyctl", 0, ok=0, failed=3, last_return="EPERM"),
        observed("socket", 2, 1, 0),
    )
    assert not compare(learn(trace, level=level), [trace]).denials


def test_a_driver_once_used_opens_its_ordinary_requests_only() -> None:
    """Isatty brings the other terminal requests without arguments of their own, but no other driver and no risk."""
    profile = learn(trace_of(observed("ioctl", 0, 0x5401)), level="standard")
    assert allows(profile, "ioctl", 0, "TIOCGWINSZ")
    assert allows(profile, "ioctl", 0, "FIONBIO")
    for refused in ("TIOCSTI", "TIOCLINUX", "TIOCSETD", "TUNSETIFF", "KVM_CREATE_VM", "SIOCGIFCONF", "BLKPG"):
        assert not allows(profile, "ioctl", 0, refused)


def test_socket_options_open_but_for_the_risky_ones() -> None:
    """A long list of options is said by what it leaves out."""
    profile = learn(trace_of(observed("setsockopt", 0, 1, 2)), level="standard")
    assert allows(profile, "setsockopt", 0, "SOL_SOCKET", 9)
    assert allows(profile, "setsockopt", 0, "SOL_TCP", 1)
    assert not allows(profile, "setsockopt", 0, "SOL_SOCKET", 26)
    assert not allows(profile, "setsockopt", 0, "SOL_IP", 64)


def test_denylist_denies_unseen_high_risks_alone() -> None:
    """Everything passes but the high risks that were not seen."""
    profile = learn(trace_of(observed("ptrace", 0)), level="standard", mode="denylist")
    assert profile.default == Action.ALLOW
    assert allows(profile, "ptrace", "PTRACE_TRACEME")
    assert allows(profile, "getuid")
    assert profile.decide("bpf").action == Action.errno("EPERM")
    assert profile.decide("io_uring_setup").action == Action.errno("ENOSYS")
    assert profile.decide("clone", "CLONE_NEWUSER").action == Action.errno("EPERM")
    assert profile.decide("clone", "CLONE_NEWUSER|CLONE_VM").action == Action.errno("EPERM")
    assert allows(profile, "clone", THREAD)


def test_hybrid_lets_the_supervisor_decide_the_rest() -> None:
    """Seen calls pass, unseen high risks are refused, everything else is asked about."""
    profile = learn(trace_of(observed("getuid")), level="standard", mode="hybrid")
    assert allows(profile, "getuid")
    assert profile.decide("bpf").action == Action.errno("EPERM")
    assert profile.decide("inotify_init").action == Action.NOTIFY


def test_deny_rules_compare_at_the_kernels_width() -> None:
    """Garbage in the upper half of an int argument does not slip past a deny rule."""
    profile = learn(trace_of(observed("getuid")), mode="denylist")
    nr = observed("ioctl", 0, 0x5412).nr
    assert profile.decide_call("x86_64", nr, (0, 0xDEAD00005412)).action == Action.errno("EPERM")


def test_deny_rules_spare_what_was_seen() -> None:
    """A risk that a tuple carried is not denied."""
    groups = call_groups([observed("mmap", 0, 0, R | W | X, MAP_PRIVATE | MAP_ANONYMOUS)])
    assert not [r for r in deny_rules(groups, ("x86_64",)) if r.syscall == "mmap"]


def test_saturation_needs_many_units_and_no_singleton() -> None:
    """59 units without a singleton support 95 %, 58 do not, and one singleton spoils it."""
    assert saturated(incidence([{1, 2}] * 59), 0.95)
    assert not saturated(incidence([{1, 2}] * 58), 0.95)
    assert not saturated(incidence([*([{1, 2}] * 59), {3}]), 0.95)


def in_runs(*found: tuple[Observation, int]) -> list[Observation]:
    """Return each observation in that many runs, from the first; and in every run a call that no other has."""
    runs = max(n for _, n in found)
    marks = [observed("fcntl", 0, 5000 + run, run=run) for run in range(runs)]
    return [*(replace(o, run=run) for o, n in found for run in range(n)), *marks]


# every bit was seen in a hundred runs, two combinations of them in one only
BITS = in_runs(
    *(
        (observed("mprotect", 0, 0, prot), n)
        for prot, n in ((R, 100), (W, 100), (SEM, 100), (R | W, 1), (R | SEM, 1))
    )
)


def form(found: list[Observation], **policy: float) -> tuple[str, list[object]]:
    groups = call_groups(found)
    group = next(g for g in groups if g.name != "fcntl")
    rules, constraint = generalise(group, None, distinct_runs(groups), 0.0, Policy(**policy))
    return constraint.form, rules


def test_the_form_follows_the_evidence() -> None:
    """Saturated tuples stay exact; with few runs everything of no risk opens."""
    seen = observed("socket", 2, 1, 0)
    assert form(in_runs((seen, 100)))[0] == "exact"
    assert form(in_runs((seen, 3)))[0] == "open"
    assert form(in_runs((seen, 3)), confidence=0.5)[0] == "exact"
    # two joint tuples were seen in one run only, but every single value in a hundred
    mixed = [(R, 2, 100), (R, 1, 1), (R | W, 2, 1), (R | W, 1, 100)]
    assert (
        form(in_runs(*((observed("mmap", 0, 0, prot, flags), n) for prot, flags, n in mixed)))[0] == "values"
    )
    assert form(BITS)[0] == "bits"


def test_processes_are_no_runs() -> None:
    """A hundred processes of one run, or of three, do not make up for runs."""
    for runs in (1, 3):
        seen = [observed("socket", 2, 1, 0, processes=100, run=run) for run in range(runs)]
        assert form(seen)[0] == "open"


def test_a_repeated_workload_is_no_evidence_about_another() -> None:
    """A hundred runs that made the very same calls count once, and the notes say so; so does a single run."""
    seen = [observed("socket", 2, 1, 0, run=run) for run in range(100)]
    assert form(seen)[0] == "open"
    same, one = infer(trace_of(*seen), level="standard"), infer(trace_of(seen[0]), level="standard")
    assert str(same.decided[0]).startswith("100 runs made the very same calls: arguments stay open")
    assert str(one.decided[0]).startswith("only one run: arguments stay open")
    assert not infer(trace_of(*in_runs((seen[0], 3))), level="standard", deny_lookups=False).decided
    assert not infer(trace_of(seen[0])).decided
    assert not same.notes


def test_futexes_that_lend_priority_stay_out_unless_seen() -> None:
    """Every ordinary futex command opens, private or by the real-time clock; those with a history do not."""
    profile = learn(trace_of(observed("futex", 0, 129), observed("read", count=99)), level="standard")
    for op in (0, 1, 128, 9, 0x109, 0x189, 10, 0x80 | 4):
        assert allows(profile, "futex", 0, op)
    for op in (6, 0x86, 11, 12, 0x8C, 13, 0x18D):
        assert not allows(profile, "futex", 0, op)
    seen = learn(trace_of(observed("futex", 0, 0x86), observed("read", count=99)), level="standard")
    assert allows(seen, "futex", 0, 0x86)
    assert not allows(seen, "futex", 0, 0x8C)


@pytest.mark.parametrize("creates", [False, True])
def test_what_a_call_does_not_read_is_not_constrained(creates: bool) -> None:
    """Without O_CREAT the mode is whatever the register held, in every form; with it the bits seen count."""
    flags = (0x800, 0x80000, 0x10000, 0x20000, 0x400, 0x200000)
    seen = [
        observed("openat", 0, 0, sum(bit for n, bit in enumerate(flags) if run >> n & 1), 0o123, run=run)
        for run in range(64)
    ]
    seen += [observed(("getpid", "getuid")[run % 2], run=run) for run in range(64)]
    if creates:
        seen += [
            observed("openat", 0, 0, 0o101 | (0x800 if run & 1 else 0x80000), 0o600, run=run)
            for run in range(64)
        ]
    found = infer(trace_of(*seen), level="standard")
    assert next(c.form for c in found.constraints if c.syscall == "openat") == "bits"
    for mode in (0, 0o644, 0o4755):
        assert allows(found.profile, "openat", 0, 0, "O_APPEND|O_NONBLOCK|O_NOFOLLOW", mode)
    assert not allows(found.profile, "openat", 0, 0, "O_APPEND|O_SYNC", 0)
    assert allows(found.profile, "openat", 0, 0, "O_WRONLY|O_CREAT|O_APPEND", 0o600) == creates
    assert not allows(found.profile, "openat", 0, 0, "O_WRONLY|O_CREAT|O_APPEND", 0o4755)
    rules = found.profile.rules_for("x86_64", "openat")
    assert len(rules) <= 3
    assert not any(f.id == "shadowed-rule" for f in lint(found.profile, only=["overlap"]))


def test_bits_form_allows_seen_bits_only() -> None:
    """Combinations of flag bits that were seen are allowed, other bits are not."""
    profile = learn(trace_of(*BITS), level="standard")
    assert allows(profile, "mprotect", 0, 0, "PROT_READ|PROT_WRITE")
    assert not allows(profile, "mprotect", 0, 0, "PROT_EXEC")
    assert not allows(profile, "mprotect", 0, 0, "PROT_GROWSDOWN")


def test_constraints_that_gain_nothing_are_dropped_and_listed() -> None:
    """The whence of lseek shuts nothing out: it is any at standard, and the ledger says so."""
    result = infer(trace_of(observed("lseek", 0, 0, 1)), level="standard")
    assert result.profile.rules_for("x86_64", "lseek")[0].args is ANY
    (constraint,) = (c for c in result.constraints if c.syscall == "lseek")
    assert not constraint.kept
    assert constraint.gain == 0


def test_constraints_that_cost_more_than_they_gain_are_dropped_with_both_figures() -> None:
    """A hot call's small gain does not pay; raising or lowering --worth decides."""
    trace = trace_of(observed("arch_prctl", 0x1002, count=1_000_000), observed("getuid"))
    dropped = infer(trace, level="standard")
    (constraint,) = (c for c in dropped.constraints if c.syscall == "arch_prctl")
    assert not constraint.kept
    assert constraint.price_ns == pytest.approx(31, rel=0.01)
    assert constraint.gain == 10
    reason = dropped.profile.rules_for("x86_64", "arch_prctl")[0].evidence.reason
    assert "not worth it: gain 10" in reason
    kept = infer(trace, level="standard", worth=0.1)
    assert next(c for c in kept.constraints if c.syscall == "arch_prctl").kept


def test_the_ledger_is_plain_data() -> None:
    """Every constraint renders as JSON."""
    import json

    result = infer(trace_of(observed("socket", 2, 1, 0), observed("lseek")), level="standard")
    assert json.loads(json.dumps([c.to_dict() for c in result.constraints]))
    assert json.loads(json.dumps(result.completeness.to_dict()))


@pytest.mark.parametrize("level", ["standard", "permissive"])
def test_generalised_profiles_survive_their_file(level: str) -> None:
    """Masks, sets and deny rules read back as the same profile."""
    seen = [
        observed("mmap", 0, 0, R | W, 2),
        observed("socket", 2, 1, 0),
        observed("clone3"),
        observed("openat"),
    ]
    for mode in ("allowlist", "denylist", "hybrid"):
        profile = learn(trace_of(*seen), level=level, mode=mode)
        assert Profile.loads(profile.dumps()) == profile
