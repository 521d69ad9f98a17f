"""Checks that look at more than the rules: the file's comments, the enforcing kernel, later runs."""

from __future__ import annotations

import json

import pytest

from autoprofile.abi import syscall_nr
from autoprofile.errors import UsageError
from autoprofile.learn import BASELINE, LEVELS, MODES, learn
from autoprofile.lint import kernel_version, lint, sarif
from autoprofile.lint.comments import explained_calls, is_of_a_person, lines_of_calls
from autoprofile.observations import Observation, ProgramId, Trace, TraceMeta
from autoprofile.profile import Action, Arg, Evidence, Profile, SeccompRule

HEAD = "autoprofile: 1\narch: [x86_64, i386]\nlevel: strict\nmode: allowlist\ndefault: kill\n"


@pytest.mark.parametrize(
    "entry",
    [
        "  # the debugger attaches with it\n  ptrace: any\n",
        "  ptrace: any  # the debugger attaches with it\n",
        "  ptrace: any  # count=3 processes=1; the debugger attaches with it\n",
        "  ptrace:  # the debugger attaches with it\n    - {request: any, pid: any}\n",
        "  ptrace:\n    # the debugger attaches with it\n    - {request: any, pid: any}\n",
        '  "ptrace": any  # the debugger attaches with it\n',
    ],
)
def test_a_persons_comment_answers_why_a_dangerous_call_is_there(entry):
    """Wherever a person wrote it beside the entry, lint sees it and is quiet about that call."""
    text = HEAD + "syscalls:\n  read: any\n" + entry + "  write: any\n"
    assert {name for arch, name in explained_calls(text)} == {"ptrace"}
    assert not [f for f in lint(Profile.loads(text), text=text) if f.id == "risky-call-unconstrained"]


@pytest.mark.parametrize(
    "entry",
    [
        "  ptrace: any\n",
        "  ptrace: any  # count=3 processes=1 first=0.2s\n",
        "  ptrace: any  # permissive: companion: traces\n",
        "  ptrace: any  # count=3 processes=1; every call failed: EPERM\n",
        "  # about the call before\n  read: any\n  ptrace: any\n",
    ],
)
def test_what_autoprofile_wrote_is_no_answer(entry):
    """Counts, reasons of levels and comments of other calls do not say why a person allows it."""
    text = HEAD + "syscalls:\n" + entry
    found = [f for f in lint(Profile.loads(text), text=text) if f.id == "risky-call-unconstrained"]
    assert {f.syscalls for f in found} == {("ptrace",)}


def test_a_comment_on_one_arch_answers_for_that_arch():
    """Another arch's entry has to be explained by itself."""
    text = HEAD + "syscalls_by_arch:\n  x86_64:\n    ptrace: any  # debugger\n  i386:\n    ptrace: any\n"
    found = [f for f in lint(Profile.loads(text), text=text) if f.id == "risky-call-unconstrained"]
    assert [f.arch for f in found] == ["i386"]


def test_a_risky_rule_with_a_comment_is_left_alone():
    """The remedy that the finding names silences it."""
    text = HEAD + "syscalls:\n  socket:\n    - {family: AF_PACKET, type: SOCK_RAW, protocol: 0}%s\n"
    bare, noted = text % "", text % "  # the sniffer"
    assert [f for f in lint(Profile.loads(bare), text=bare) if f.id == "risky-rule-unobserved"]
    assert not [f for f in lint(Profile.loads(noted), text=noted) if f.id == "risky-rule-unobserved"]
    assert not [f for f in lint(Profile.loads(noted)) if f.id == "risky-rule-unobserved"]


def test_reasons_are_told_apart():
    """A person's words joined to autoprofile's are still a person's."""
    assert is_of_a_person("needed by the debugger")
    assert is_of_a_person("baseline: signals; needed by the debugger")
    assert not is_of_a_person(None)


def test_no_reason_of_learning_is_taken_for_a_persons():
    """What learning writes is known for its own, whatever the level."""
    wrote = _trace(("openat", (None, None, 0, 0)), ("clone3", ()), ("socket", (1, 1, 0)), ("mprotect", ()))
    for level in LEVELS:
        for mode in MODES:
            for rule in learn(wrote, level=level, mode=mode).rules:
                reason = rule.evidence.reason if rule.evidence else None
                assert not is_of_a_person(reason), reason
    assert not any(is_of_a_person(f"baseline: {entry.reason}") for entry in BASELINE)


def test_the_enforcing_kernel_is_asked_whether_it_knows_the_rules():
    """Calls and actions that came later are named, with the version they came with."""
    profile = Profile(
        default=Action.NOTIFY,
        rules=(
            SeccompRule("openat2", Action.ALLOW),
            SeccompRule("statx", Action.errno("ENOSYS")),
            SeccompRule("read", Action.ALLOW),
        ),
    )
    old = {f.id: f for f in lint(profile, kernel=(4, 10), only=["kernel"])}
    assert old["unknown-to-kernel"].syscalls == ("openat2",)
    assert "notify" in " ".join(f.detail for f in lint(profile, kernel=(4, 10)) if f.id.startswith("action"))
    assert lint(profile, kernel=(5, 6), only=["kernel"]).findings == ()
    assert lint(profile, only=["kernel"]).findings == ()


@pytest.mark.parametrize(("text", "version"), [("6.1", (6, 1)), ("5.10.0-8-amd64", (5, 10))])
def test_kernel_versions_are_read_as_uname_writes_them(text, version):
    """Releases of distributions are versions too."""
    assert kernel_version(text) == version


def test_something_else_is_no_kernel_version():
    """It is a usage error that shows how to write one."""
    with pytest.raises(UsageError, match="no kernel version"):
        kernel_version("newest")


def _trace(*calls: tuple[str, tuple[int | None, ...]]) -> Trace:
    observations = []
    for name, args in calls:
        nr = syscall_nr("x86_64", name)
        assert nr is not None
        padded = (*args, *(None,) * (6 - len(args)))
        observations.append(Observation(0, ProgramId("/p"), "x86_64", nr, padded, 1, 0, 0, 1))  # type: ignore[arg-type]
    return Trace(TraceMeta(backend="test", argv=("p",), runs=2), observations)


def test_rules_that_later_runs_did_not_use_are_named():
    """Observed and hand-written rules are; the baseline is there for rare events and is not."""
    profile = Profile(
        rules=(
            SeccompRule("read", Action.ALLOW),
            SeccompRule("socket", Action.ALLOW, (Arg(0, "eq", 1),), evidence=Evidence(count=3)),
            SeccompRule("socket", Action.ALLOW, (Arg(0, "eq", 2),), evidence=Evidence(count=5)),
            SeccompRule("rt_sigreturn", Action.ALLOW, evidence=Evidence(reason="baseline: signals")),
            SeccompRule("mount", Action.ALLOW),
        )
    )
    trace = _trace(("read", ()), ("socket", (1, 1, 0)))
    found = {f.syscalls: f for f in lint(profile, traces=[trace], only=["unused"])}
    assert set(found) == {("mount",), ("socket",)}
    assert "AF_INET" in found[("socket",)].detail
    assert "AF_UNIX" not in found[("socket",)].detail
    assert found[("mount",)].severity == "low"
    assert lint(profile, only=["unused"]).findings == ()


def test_a_rule_that_several_refusals_cover_together_is_a_contradiction():
    """No single rule covers it, the two halves do."""
    low = SeccompRule("lseek", Action.errno("EPERM"), (Arg(2, "lt", 2),))
    high = SeccompRule("lseek", Action.errno("EPERM"), (Arg(2, "ge", 2),))
    both = SeccompRule("lseek", Action.ALLOW, (Arg(2, "in", {1, 2}),))
    found = [f for f in lint(Profile(rules=(low, high, both))) if f.id == "contradictory-rules"]
    assert len(found) == 1
    assert " with " in found[0].detail


def test_overlapping_rules_of_one_action_are_no_finding():
    """What learning generalises overlaps by design."""
    one = SeccompRule("lseek", Action.ALLOW, (Arg(2, "in", {0, 1}),))
    other = SeccompRule("lseek", Action.ALLOW, (Arg(2, "in", {1, 2}),))
    assert lint(Profile(rules=(one, other)), only=["overlap"]).findings == ()


def test_a_masked_deny_that_covers_an_allow_is_a_contradiction():
    """Coverage is calculated, not compared by spelling."""
    allow = SeccompRule("mmap", Action.ALLOW, (Arg(2, "eq", 7),))
    deny = SeccompRule("mmap", Action.errno("EPERM"), (Arg(2, "masked_eq", 6, 6),))
    found = [f.id for f in lint(Profile(rules=(allow, deny)), only=["overlap"])]
    assert found == ["contradictory-rules"]


def test_sarif_points_at_the_line_of_the_call():
    """Code hosts show a finding where it can be mended."""
    text = HEAD + "syscalls:\n  read: any\n  ptrace: any\n"
    report = lint(Profile.loads(text), text=text)
    log = json.loads(json.dumps(sarif(report, "p.yaml", version="1", lines=lines_of_calls(text))))
    regions = {
        result["ruleId"]: result["locations"][0]["physicalLocation"].get("region")
        for result in log["runs"][0]["results"]
    }
    assert regions["risky-call-unconstrained"] == {"startLine": 8}
