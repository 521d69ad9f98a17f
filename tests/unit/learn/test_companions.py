"""What comes with a program at standard although no run showed it, and what never does."""

from __future__ import annotations

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.constants import encode_value
from autoprofile.abi.risk import call_risk, risk_conditions, syscall_risk
from autoprofile.abi.signatures import constrained_args, signature
from autoprofile.abi.syscalls import syscall_nr, syscall_table
from autoprofile.learn import learn
from autoprofile.learn.baseline import BASELINE
from autoprofile.learn.companions import companions
from autoprofile.learn.essentials import essentials
from autoprofile.profile import Action, Profile
from tests.unit.learn.traces import observed, trace_of

THREAD = 0x3D0F00


def allows(profile: Profile, syscall: str, *args: object) -> bool:
    return profile.decide(syscall, *args).action == Action.ALLOW


def test_companions_come_with_what_they_follow_from() -> None:
    """A program that writes files may rename them; one that only reads may not."""
    reader = learn(trace_of(observed("openat", 0, 0, 0)), level="standard")
    writer = learn(trace_of(observed("openat", 0, 0, 0o101, 0o600)), level="standard")
    for call in (("rename",), ("ftruncate",), ("mkdir", 0, 0o755)):
        assert allows(writer, *call)
        assert not allows(reader, *call)
    assert allows(reader, "lseek", 0, 0, "SEEK_SET")
    assert not allows(writer, "chmod", 0, 0o4755)
    assert "companion: changes files" in writer.rules_for("x86_64", "rename")[0].evidence.reason
    server = learn(trace_of(observed("socket", 2, 1, 0), observed("bind")), level="standard")
    assert allows(server, "setsockopt", 0, "SOL_SOCKET", 9)
    assert not allows(server, "connect")
    assert not allows(learn(trace_of(observed("openat", 0, 0, 0))), "lseek", 0, 0, "SEEK_SET")


def test_no_companion_is_a_risk_itself() -> None:
    """The curated list names known calls of no medium or high risk, and each trigger exists."""
    for line in companions():
        assert line.reason
        for call in line.calls:
            assert any(syscall_nr(arch, call.syscall) is not None for arch in ARCHES), call
            kind, _, what = line.trigger.partition(":")
            risk = syscall_risk(call.syscall)
            assert risk is None or risk.severity == "low" or kind == "never", call
            if call.argument:
                spec = {s.name: s for s in constrained_args("x86_64", call.syscall)}[call.argument]
                for value in call.values:
                    args = [0] * 6
                    args[spec.index] = encode_value("x86_64", spec, value)
                    assert call_risk("x86_64", call.syscall, tuple(args)) is None, (call, value)
        if kind == "call":
            assert all(any(syscall_nr(a, n) is not None for a in ARCHES) for n in what.split(","))
        elif kind == "risk":
            assert what in {r.name_class for _, r in all_risks()}
        else:
            assert line.trigger in {"always", "never"}


def test_every_call_was_judged() -> None:
    """Each x86_64 call is a risk, an essential, in the baseline, a trigger, or in the list of companions."""
    judged = {call.syscall for line in companions() for call in line.calls}
    judged |= {entry.syscall for entry in essentials()} | {entry.syscall for entry in BASELINE}
    judged |= {name for line in companions() for name in line.trigger.partition(":")[2].split(",")}
    assert {n for n in syscall_table("x86_64") if n not in judged and syscall_risk(n) is None} == set()


def test_no_risk_rests_on_a_size() -> None:
    """A range of sizes or offsets would shut out no risk class, which is why none is learned."""
    for name, pairs in risk_conditions().items():
        for condition, _ in pairs:
            for arch in ARCHES:
                found = signature(arch, name)
                kinds = {spec.name: spec.kind for spec in found.args} if found else {}
                for argument in condition.split(" ")[0::3]:
                    assert kinds.get(argument) not in {"size", "offset", "count", "data"}, (name, condition)


def test_a_companion_with_an_argument_opens_only_that() -> None:
    """A program may name itself by prctl, and ask a file for its extents; no other option comes with it."""
    profile = learn(trace_of(observed("openat", 0, 0, 0)), level="standard")
    assert allows(profile, "prctl", "PR_SET_NAME")
    assert allows(profile, "ioctl", 0, "FS_IOC_FIEMAP")
    assert not allows(profile, "prctl", "PR_SET_DUMPABLE", 1)
    assert not allows(profile, "prctl", "PR_SET_PTRACER")
    assert not allows(profile, "ioctl", 0, "FICLONE")
    assert not allows(learn(trace_of(observed("openat", 0, 0, 0))), "prctl", "PR_SET_NAME")


def all_risks() -> list[tuple[str, object]]:
    return [pair for pairs in risk_conditions().values() for pair in pairs]


def test_threads_come_with_every_program_and_processes_do_not() -> None:
    """A thread reaches nothing new, so any program may start one; children, and namespaces, have to be seen."""
    profile = learn(trace_of(observed("getuid")), level="standard")
    assert allows(profile, "clone", THREAD)
    assert profile.decide("clone3").action == Action.errno("ENOSYS")
    assert allows(profile, "tgkill", 0, 0, "SIGURG")
    for flags in (17, "CLONE_NEWUSER", "CLONE_VM|CLONE_VFORK|SIGCHLD"):
        assert not allows(profile, "clone", flags)
    for name in ("fork", "vfork", "wait4", "kill", "execve"):
        assert not allows(profile, name)
    parent = learn(trace_of(observed("clone", 17)), level="standard")
    assert allows(parent, "clone", "CLONE_VM|CLONE_VFORK|SIGCHLD")
    assert not allows(parent, "clone", "CLONE_NEWUSER")
    assert allows(parent, "kill", 0, "SIGTERM")


def test_essentials_of_paths_a_program_has_not_are_left_out() -> None:
    """A program that never connected gets no sockets for host lookups; one that did gets them."""
    without = learn(trace_of(observed("getuid")), level="standard")
    client = learn(trace_of(observed("socket", 2, 1, 0), observed("connect")), level="standard")
    assert not allows(without, "socket", "AF_NETLINK", "SOCK_RAW|SOCK_CLOEXEC", "NETLINK_ROUTE")
    assert allows(client, "socket", "AF_NETLINK", "SOCK_RAW|SOCK_CLOEXEC", "NETLINK_ROUTE")
