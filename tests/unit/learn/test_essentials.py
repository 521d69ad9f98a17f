"""The essentials are measured data: complete, sourced and readable on their arch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.constants import encode_value
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.learn import infer, learn
from autoprofile.learn.essentials import essential_rules, essentials, source
from autoprofile.learn.risks import conditions
from autoprofile.lint import lint
from autoprofile.profile import Action, SeccompRule
from tests.unit.learn.traces import observed, trace_of


def test_every_entry_reads_on_the_arch_it_was_measured_on() -> None:
    """Each names a syscall, constrained arguments with known symbols, a reason and the libcs that need it."""
    for entry in essentials():
        assert syscall_nr("x86_64", entry.syscall) is not None
        specs = {s.name: s for s in constrained_args("x86_64", entry.syscall)}
        for name, text in entry.args:
            encode_value("x86_64", specs[name], text)
        assert entry.reason
        assert set(entry.libcs) <= {"glibc", "musl"}
        assert entry.when == "always" or syscall_nr("x86_64", entry.when) is not None


def test_the_data_says_where_it_comes_from() -> None:
    """Line 1 names the tool and the versions."""
    assert "tools/learn/essentials.py" in source()
    assert "glibc" in source()


def test_what_a_rule_decides_already_needs_no_essential() -> None:
    """A call that is allowed or denied on purpose is left as it is."""
    bare = {r.syscall for r in essential_rules("x86_64", ("x86_64",), (), (), "standard")}
    denied = SeccompRule("tgkill", Action.errno("EPERM"))
    assert "tgkill" in bare
    assert "tgkill" not in {
        r.syscall for r in essential_rules("x86_64", ("x86_64",), (), (denied,), "standard")
    }


def test_other_arches_get_what_they_share() -> None:
    """i386 and riscv64 get the entries whose calls and symbols they have."""
    for arch in ("i386", "aarch64", "riscv64"):
        rules = essential_rules(arch, (arch,), ("openat",), (), "standard")
        assert {"tgkill", "writev"} <= {r.syscall for r in rules}
        assert all(syscall_nr(arch, str(r.syscall)) is not None for r in rules)


@pytest.mark.parametrize("level", ["standard", "permissive"])
@pytest.mark.parametrize("mode", ["allowlist", "hybrid"])
def test_i386_keeps_its_old_mmap_shut(level: str, mode: str) -> None:
    """The call whose protection lies behind a pointer is not opened because x86_64's of that name is needed."""
    seen = [
        observed("mmap2", 0, 0, 3, 0x22, arch="i386"),
        observed("openat", 0, 0, 0, arch="i386"),
        observed("poll", arch="i386"),
    ]
    profile = learn(trace_of(*seen), level=level, mode=mode)
    assert profile.decide("mmap2", 0, 0, 3, 0x22).action == Action.ALLOW
    assert profile.decide("mmap", 0x1000).action.is_refusing or mode == "hybrid"
    assert profile.decide("mmap", 0x1000).action != Action.ALLOW
    assert profile.decide("select", 0x1000).action != Action.ALLOW


@pytest.mark.parametrize("arch", list(ARCHES))
def test_no_essential_or_companion_carries_an_unseen_risk(arch: str) -> None:
    """Every rule added without observation, tried with its own values, is of no risk class (routes aside)."""
    triggers = {e.when for e in essentials()} - {"always"}
    for rule in essential_rules(arch, (arch,), triggers, (), "standard"):
        name = str(rule.syscall)
        assert rule.comparators or not constrained_args(arch, name)
        choices = [list(one.values) for one in rule.comparators]
        for values in itertools.product(*choices):
            args = [0] * 6
            for one, value in zip(rule.comparators, values, strict=True):
                args[one.index] = value
            risks = [c.risk for c in conditions(arch, name) if c.holds(dict(enumerate(args)))]
            assert {(r.name_class, r.severity) for r in risks} <= {("netlink", "medium")}, rule


NSCD = ("AF_UNIX", "SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK", 0)


def test_unseen_lookups_are_answered_with_an_error() -> None:
    """A program that never asked for a name is told that there is no socket, instead of being killed."""
    found = infer(trace_of(observed("openat", 0, 0, 0)), level="standard")
    profile = found.profile
    assert profile.decide("socket", *NSCD).action == Action.errno("EAFNOSUPPORT")
    assert profile.decide("socket", "AF_UNIX", "SOCK_STREAM|SOCK_CLOEXEC", 0).action.kind == "errno"
    assert profile.decide("socket", "AF_NETLINK", "SOCK_RAW|SOCK_CLOEXEC", 0).action.kind == "errno"
    assert profile.decide("connect").action == Action.errno("EACCES")
    assert profile.decide("socket", "AF_INET", "SOCK_STREAM", 0).action == Action.KILL_PROCESS
    assert profile.decide("openat", 0, 0, "O_RDONLY|O_CLOEXEC").action == Action.ALLOW
    (told,) = [d for d in found.decided if "lookups" in d.text]
    assert "connect with EACCES" in str(told)
    assert "socket with EAFNOSUPPORT" in str(told)
    part = told.among([rule for rule in profile.rules if rule.syscall != "connect"])
    assert part is not None
    assert "connect" not in str(part)
    assert told.among([]) is None
    assert len(lint(profile, only=["overlap"])) == 0


def test_lookups_of_a_program_that_opens_nothing_find_no_file() -> None:
    """Locale and time zone of a static program that was not seen to open a file are not there."""
    profile = learn(trace_of(observed("write")), level="standard")
    assert profile.decide("open", 0, "O_RDONLY|O_CLOEXEC|O_LARGEFILE", 0).action == Action.errno("EACCES")
    assert profile.decide("openat", 0, 0, "O_RDONLY|O_CLOEXEC", 0).action == Action.errno("EACCES")
    assert profile.decide("openat", 0, 0, "O_WRONLY|O_CLOEXEC", 0).action == Action.KILL_PROCESS


def test_a_server_that_never_connected_may_not_be_killed_by_a_name() -> None:
    """Its sockets stay as they are; connecting, which it was not seen to do, is answered with an error."""
    seen = [observed("socket", 2, 1, 0), observed("listen"), observed("accept")]
    profile = learn(trace_of(*seen), level="standard")
    assert profile.decide("socket", *NSCD).action == Action.ALLOW
    assert profile.decide("connect").action == Action.errno("EACCES")


def test_lookups_that_were_seen_go_on() -> None:
    """A program that connects has sockets for names, and no rule answers them."""
    profile = learn(trace_of(observed("connect"), observed("openat", 0, 0, 0)), level="standard")
    assert profile.decide("connect").action == Action.ALLOW
    assert profile.decide("socket", *NSCD).action == Action.ALLOW


@pytest.mark.parametrize(
    "how",
    [
        {"level": "strict"},
        {"level": "standard", "mode": "denylist"},
        {"level": "standard", "mode": "hybrid"},
        {"level": "standard", "default": Action.LOG},
        {"level": "standard", "deny_lookups": False},
    ],
)
def test_lookups_are_answered_only_where_the_default_refuses(how: dict[str, Any]) -> None:
    """A trial that logs refuses nothing more, a supervisor is asked, and the option turns it off."""
    profile = learn(trace_of(observed("openat", 0, 0, 0)), **how)
    assert profile.decide("connect").action == profile.default
