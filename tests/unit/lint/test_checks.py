"""Every check fires on a profile with the weakness and is silent on the near pair without it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from autoprofile.errors import UsageError
from autoprofile.learn import learn
from autoprofile.lint import CHECKS, lint, sarif
from autoprofile.profile import Action, Arg, Evidence, Learned, Profile, SeccompRule
from tests.unit.learn.traces import observed, trace_of

HEAD = "autoprofile: 1\narch: [x86_64]\nlevel: strict\nmode: allowlist\ndefault: kill\n"
I386 = HEAD.replace("[x86_64]", "[i386]")
BOTH = HEAD.replace("[x86_64]", "[x86_64, i386]")
THREADS = "clone: [{clone_flags: CLONE_VM|CLONE_THREAD|CLONE_SIGHAND}]"
READ_WRITE = "mmap: [{prot: [PROT_READ, PROT_READ|PROT_WRITE], flags: any}]"
UNIX = "socket: [{family: AF_UNIX, type: any, protocol: any}]"
READ_ONLY = "openat: [{flags: O_RDONLY|O_CLOEXEC, mode: any}]"


def rules(*lines: str, head: str = HEAD, deny: str = "") -> Profile:
    text = head + "syscalls:\n" + "".join(f"  {line}\n" for line in lines)
    return Profile.loads(text + (f"deny:\n  {deny}\n" if deny else ""))


# id -> (a profile that has the weakness, a near one that has not)
PAIRS: dict[str, tuple[Profile, Profile]] = {
    "clone3-bypass": (rules(THREADS, "clone3: any"), rules(THREADS, deny="clone3: ENOSYS")),
    "unshare-bypass": (
        rules(THREADS, "unshare: any"),
        rules(THREADS, "unshare: [{unshare_flags: CLONE_FILES}]"),
    ),
    "write-execute-bypass": (
        rules(READ_WRITE, "mprotect: any"),
        rules(READ_WRITE, "mprotect: [{prot: [PROT_NONE, PROT_READ]}]"),
    ),
    "io-uring-bypass": (rules(UNIX, "io_uring_setup: any"), rules(UNIX, "io_uring_enter: any")),
    "socketcall-bypass": (
        rules(UNIX, "socketcall: [{call: SYS_SOCKET}]", head=I386),
        rules(UNIX, "socketcall: [{call: SYS_SEND}]", head=I386),
    ),
    "openat-bypass": (rules(READ_ONLY, "openat2: any"), rules(READ_ONLY, deny="openat2: ENOSYS")),
    "foreign-arch-allowed": (
        replace(rules("read: any"), bad_arch=Action.LOG),
        replace(rules("read: any"), bad_arch=Action.errno("ENOSYS")),
    ),
    "compat-wider": (
        Profile.loads(
            BOTH + "syscalls_by_arch:\n  x86_64: {lseek: [{whence: SEEK_SET}]}\n  i386: {lseek: any}\n"
        ),
        Profile.loads(BOTH + "syscalls:\n  lseek: [{whence: SEEK_SET}]\n"),
    ),
    "x32-entry": (
        Profile.loads(BOTH.replace("i386", "x32") + "syscalls:\n  read: any\n"),
        Profile.loads(BOTH + "syscalls:\n  read: any\n"),
    ),
    "contradictory-rules": (
        rules("getpid: any", deny="getpid: EPERM"),
        rules("getpid: any", deny="getppid: EPERM"),
    ),
    "shadowed-rule": (
        rules("lseek: [{whence: SEEK_SET}, {whence: [SEEK_SET, SEEK_CUR]}]"),
        rules("lseek: [{whence: SEEK_SET}, {whence: [SEEK_END, SEEK_CUR]}]"),
    ),
    "pointer-constraint": (
        Profile(rules=(SeccompRule("read", Action.ALLOW, (Arg(1, "lt", 4096),)),)),
        Profile(rules=(SeccompRule("read", Action.ALLOW, (Arg(1, "ne", 0), Arg(2, "lt", 4096))),)),
    ),
    "risky-call-unconstrained": (
        rules("ptrace: any"),
        rules("ptrace: [{request: PTRACE_TRACEME}]"),
    ),
    "risky-rule-unobserved": (
        rules("socket: [{family: AF_PACKET, type: SOCK_RAW, protocol: 0}]"),
        rules(UNIX),
    ),
    "default-allow": (
        Profile(mode="denylist", default=Action.ALLOW),
        Profile(mode="allowlist", default=Action.errno("EPERM")),
    ),
    "redundant-rule": (
        rules("read: any", deny="mount: kill"),
        rules("read: any", deny="mount: EPERM"),
    ),
    "trace-escapable": (
        Profile(default=Action.TRACE, rules=(SeccompRule("ptrace", Action.ALLOW),)),
        Profile(default=Action.NOTIFY, rules=(SeccompRule("ptrace", Action.ALLOW),)),
    ),
    "trace-action": (
        Profile(rules=(SeccompRule("mount", Action.TRACE),)),
        Profile(rules=(SeccompRule("mount", Action.NOTIFY),)),
    ),
    "upper-half-bypass": (
        Profile(rules=(SeccompRule("socket", Action.ALLOW, (Arg(0, "ne", 38, width=64),)),)),
        Profile(rules=(SeccompRule("socket", Action.ALLOW, (Arg(0, "ne", 38),)),)),
    ),
    "unnamed-syscall": (rules("9999: any"), rules("read: any")),
    "default-log": (Profile(default=Action.LOG), Profile(default=Action.NOTIFY)),
    "lost-events": (
        Profile(learned=Learned(1, 1, 10, lost=2)),
        Profile(learned=Learned(1, 1, 10, complete=True)),
    ),
    "unfinished-learning": (
        Profile(learned=Learned(1, 1, 10)),
        Profile(learned=Learned(1, 1, 10, complete=True)),
    ),
    "newer-calls-without-enosys": (
        Profile(learned=Learned(1, 1, 1, kernel="5.10.0", complete=True), default=Action.errno("EPERM")),
        Profile(learned=Learned(1, 1, 1, kernel="5.10.0", complete=True), default=Action.errno("ENOSYS")),
    ),
    "fallback-not-enosys": (
        rules("read: any", deny="clone3: EPERM"),
        rules("read: any", deny="clone3: ENOSYS"),
    ),
}


@pytest.mark.parametrize("check", PAIRS)
def test_the_weak_profile_is_found(check: str) -> None:
    """A profile with the weakness yields a finding with a remedy."""
    found = [f for f in lint(PAIRS[check][0]) if f.id == check]
    assert found
    for finding in found:
        assert finding.detail
        assert finding.remedy
        assert finding.title


@pytest.mark.parametrize("check", PAIRS)
def test_the_near_pair_is_not(check: str) -> None:
    """The same profile without the weakness yields no such finding."""
    assert [f.detail for f in lint(PAIRS[check][1]) if f.id == check] == []


def test_every_sibling_that_makes_memory_executable_is_named() -> None:
    """mprotect, pkey_mprotect and shmat each go around W^X on mmap."""
    report = lint(rules(READ_WRITE, "mprotect: any", "pkey_mprotect: any", "shmat: any", "personality: any"))
    found = [f.syscalls for f in report if f.id == "write-execute-bypass"]
    assert found == [
        ("mmap", "mprotect"),
        ("mmap", "personality"),
        ("mmap", "pkey_mprotect"),
        ("mmap", "shmat"),
    ]
    asks = lint(rules(READ_WRITE, "personality: [{personality: 0xffffffff}]"))
    assert not [f for f in asks if f.id == "write-execute-bypass"]


def test_no_bypass_where_nothing_is_constrained() -> None:
    """A sibling cannot go around a constraint that is not there."""
    report = lint(
        rules("clone: any", "clone3: any", "mmap: any", "mprotect: any", "openat: any", "openat2: any")
    )
    assert not [f for f in report if f.id.endswith("-bypass")]


def test_open_and_creat_go_around_openat_too() -> None:
    """Each older sibling that can write is a way around read-only openat."""
    report = lint(rules(READ_ONLY, "creat: any", "open: [{flags: O_WRONLY, mode: any}]"))
    assert [f.syscalls for f in report if f.id == "openat-bypass"] == [
        ("creat", "openat"),
        ("open", "openat"),
    ]


def test_severity_tells_needed_from_unexplained() -> None:
    """A risky call that was observed is less alarming than one that nothing explains."""
    seen = SeccompRule("ptrace", Action.ALLOW, evidence=Evidence(count=3, processes=1))
    bare = SeccompRule("ptrace", Action.ALLOW)
    for rule, severity in ((seen, "medium"), (bare, "high")):
        (finding,) = lint(Profile(rules=(rule,)), only=["risk"])
        assert finding.severity == severity


def test_the_most_severe_comes_first() -> None:
    """Findings are ordered by severity, and the same profile gives the same order."""
    profile = rules("ptrace: any", READ_ONLY, "openat2: any", "lseek: [{whence: 0}, {whence: [0, 1]}]")
    report = lint(profile)
    order = ["high", "medium", "low", "info"]
    ranks = [order.index(f.severity) for f in report]
    assert ranks == sorted(ranks)
    assert lint(profile) == report
    assert report.counts["high"] == ranks.count(0)


def test_only_the_checks_asked_for_run() -> None:
    """A selection runs these checks; an unknown name is a usage error that lists them."""
    assert lint(rules("ptrace: any"), only=["default"]).findings == ()
    with pytest.raises(UsageError, match="no check 'nonsense'"):
        lint(rules("ptrace: any"), only=["nonsense"])


def test_every_check_has_a_pair() -> None:
    """No check of the registry goes untested."""
    fired = {name for name in CHECKS if any(len(lint(weak, only=[name])) for weak, _ in PAIRS.values())}
    assert fired == set(CHECKS) - {"unused"}  # it needs traces: test_subject.py


def test_fingerprints_do_not_depend_on_wording() -> None:
    """The fingerprint names check, arch and calls."""
    (finding,) = lint(rules("ptrace: any"), only=["risk"])
    assert replace(finding, detail="other words").fingerprint == finding.fingerprint
    assert replace(finding, arch="i386").fingerprint != finding.fingerprint


def test_json_and_sarif_are_plain_documents() -> None:
    """Both renderings are JSON, carry every finding, and SARIF names its version."""
    report = lint(rules("ptrace: any", "openat2: any", READ_ONLY))
    document = json.loads(json.dumps(report.to_dict()))
    assert document["schema_version"] == 1
    assert len(document["findings"]) == len(report)
    log = json.loads(json.dumps(sarif(report, "thing.yaml", version="1")))
    assert log["version"] == "2.1.0"
    assert [r["ruleId"] for r in log["runs"][0]["results"]] == [f.id for f in report]
    assert {r["id"] for r in log["runs"][0]["tool"]["driver"]["rules"]} == {f.id for f in report}


def test_a_learned_profile_with_thread_flags_only_is_quiet_about_clone() -> None:
    """A profile that denies clone3 with ENOSYS has no way around its clone flags."""
    report = lint(rules(THREADS, deny="clone3: ENOSYS"), only=["clone", "fallback"])
    assert len(report) == 0
    # also where it is pasted beside the rule that allows it, as the finding advises
    assert not lint(rules(THREADS, "clone3: any", deny="clone3: ENOSYS"), only=["clone"]).findings


@pytest.mark.parametrize("mode", ["allowlist", "hybrid"])
def test_clone3_is_seen_where_clone_is_not_allowed_at_all(mode: str) -> None:
    """The stricter profile has the same way around: threads of glibc learned at strict allow clone3 whole."""
    learned = learn(trace_of(observed("clone3"), observed("getuid")), mode=mode)
    (found,) = lint(learned, only=["clone"])
    assert (found.id, found.severity, found.syscalls) == ("clone3-bypass", "high", ("clone", "clone3"))
    assert "clone is refused" in found.detail or "clone may not have" in found.detail
    assert "`deny: {clone3: ENOSYS}`" in found.remedy
    without = learn(trace_of(observed("clone3"), observed("getuid")), level="standard", mode=mode)
    assert not len(lint(without, only=["clone"]))
    assert not len(lint(rules("unshare: any"), only=["clone"]))
