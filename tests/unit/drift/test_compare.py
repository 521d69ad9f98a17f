"""Drift names every call a profile refuses, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.auditlog import AuditLog, AuditProgram, AuditRecord
from autoprofile.drift import accept, compare
from autoprofile.drift.record import KINDS, SEVERITIES
from autoprofile.drift.triage import verdicts_for
from autoprofile.errors import AutoprofileError
from autoprofile.learn import learn
from autoprofile.observations import ProgramId, Trace
from autoprofile.profile import ANY, Action, Arg, Learned, Profile, Program, SeccompRule
from autoprofile.report.summary import drift_summary, witness_text
from tests.unit.learn.traces import PROGRAM, observed, trace_of

BASE = trace_of(observed("socket", 1, 1, 0, count=5), observed("getpid", count=3), observed("lseek", 0, 0, 1))


def denial(syscall: str, *args: int, count: int = 1, program: str = PROGRAM.path) -> AuditRecord:
    nr = observed(syscall, *args).nr
    return AuditRecord(
        event="deny",
        session="0" * 16,
        id="1" * 12,
        time="2026-01-01T00:00:00Z",
        last="2026-01-01T00:00:00Z",
        arch="x86_64",
        nr=nr,
        syscall=syscall,
        args=(*args, 0, 0, 0, 0, 0, 0)[:6],
        decoded=MappingProxyType({}),
        program=program,
        build_id=PROGRAM.build_id,
        pid=7,
        tid=7,
        comm="thing",
        ip=0x1234,
        location="libc.so.6+0x1234",
        symbol=None,
        action="EPERM",
        count=count,
    )


def kinds(report: object) -> list[str]:
    return [record.kind for record in report]


def test_the_trace_a_profile_was_learned_from_shows_no_drift() -> None:
    """Replaying the training trace finds nothing."""
    report = compare(learn(BASE), [BASE])
    assert len(report) == 0
    assert report.calls == report.allowed == BASE.events


def test_new_syscall_and_new_argument_are_told_apart() -> None:
    """A call without any rule is new; one with rules that do not match has a new argument."""
    later = trace_of(*BASE.observations, observed("getuid", count=2), observed("socket", 16, 3, 0))
    report = compare(learn(BASE), [later])
    found = {r.kind: r for r in report}
    assert found["new_syscall"].syscall == "getuid"
    assert found["new_syscall"].count == 2
    assert found["new_argument"].syscall == "socket"
    assert found["new_argument"].decoded["family"] == "AF_NETLINK"
    assert found["new_argument"].args == (16, 3, 0, None, None, None)


def test_a_rule_that_nothing_needs_is_unused() -> None:
    """An observed rule without any matching observation is reported, the baseline never is."""
    report = compare(learn(BASE), [trace_of(observed("socket", 1, 1, 0), observed("lseek", 0, 0, 1))])
    assert kinds(report) == ["unused_rule"]
    (record,) = report
    assert record.syscall == "getpid"
    assert record.severity == "info"
    assert record.edit.startswith("# remove:")


def test_an_audit_log_claims_no_unused_rule() -> None:
    """A log of denials shows nothing of what was allowed."""
    report = compare(learn(BASE), [], [AuditLog((denial("getuid", count=4),))])
    assert kinds(report) == ["new_syscall"]
    (record,) = report
    assert record.count == 4
    assert record.witness["location"] == "libc.so.6+0x1234"


def test_an_audit_record_of_an_accepted_call_is_no_drift() -> None:
    """What was denied once and has been accepted since is settled."""
    report = compare(learn(BASE), [], [AuditLog((denial("getpid"),))])
    assert len(report) == 0


@pytest.mark.parametrize(("lost", "complete"), [({"map_full": 3}, True), ({}, False)])
def test_losses_are_drift(lost: dict[str, int], complete: bool) -> None:
    """Incomplete evidence is reported as such, because silence then proves nothing."""
    later = trace_of(*BASE.observations, lost=lost, complete=complete)
    assert kinds(compare(learn(BASE), [later])) == ["lost"]


def test_losses_of_an_audit_log_are_drift() -> None:
    """A torn audit log is incomplete evidence too."""
    (record,) = compare(learn(BASE), [], [AuditLog((), losses={"broken_line": 2})])
    assert (record.kind, record.count, record.decoded) == ("lost", 2, {"reason": "broken_line"})


def test_ids_name_what_not_how_often() -> None:
    """The id of a difference stays when counts, programs and processes change, and differs between calls."""
    profile = learn(BASE)
    one = compare(profile, [trace_of(*BASE.observations, observed("getuid", count=2))])
    two = compare(
        profile,
        [
            trace_of(
                *BASE.observations, observed("getuid", count=9, processes=3, program=ProgramId("/bin/sh"))
            )
        ],
    )
    three = compare(profile, [trace_of(*BASE.observations, observed("getgid"))])
    assert one.records[0].id == two.records[0].id
    assert one.records[0].id != three.records[0].id


def test_unread_arguments_do_not_multiply_records() -> None:
    """Refused openat calls that differ in a mode the kernel does not read are one difference."""
    later = trace_of(
        *BASE.observations, observed("openat", 0, 0, 0, 1), observed("openat", 0, 0, 0, 2, run=0, processes=2)
    )
    records = [r for r in compare(learn(BASE), [later]) if r.syscall == "openat"]
    assert len(records) == 1
    assert records[0].count == 2


def test_the_most_important_comes_first() -> None:
    """Severity orders the report, then the kind; equal evidence in another order gives the same report."""
    later = [
        trace_of(*BASE.observations, observed("getuid", count=50)),
        trace_of(*BASE.observations, observed("ptrace", 16, 1)),
    ]
    report = compare(learn(BASE), later)
    assert report.records[0].syscall == "ptrace"
    assert report.records[0].severity == "high"
    ranks = [(SEVERITIES.index(r.severity), KINDS.index(r.kind)) for r in report]
    assert ranks == sorted(ranks)
    assert [r.id for r in compare(learn(BASE), later[::-1])] == [r.id for r in report]


def test_a_foreign_arch_is_a_high_alarm() -> None:
    """A call through an ABI that the profile does not list is the classic way around a filter."""
    later = trace_of(*BASE.observations, observed("getpid", arch="i386"))
    record = compare(learn(BASE), [later]).records[0]
    assert (record.severity, record.kind, record.arch) == ("high", "new_syscall", "i386")


def test_unknown_numbers_are_reported_as_numbers() -> None:
    """A number without a name is no reason to be silent."""
    record = compare(learn(BASE), [trace_of(*BASE.observations, observed(4242))]).records[0]
    assert (record.syscall, record.nr, record.severity) == ("4242", 4242, "medium")


def test_explicit_rules_that_log_are_accepted_defaults_are_not() -> None:
    """A log rule is a decision somebody took; a default of log lets calls pass that nobody has accepted."""
    rule = SeccompRule("getuid", Action.LOG)
    profile = Profile(default=Action.LOG, rules=(rule,))
    report = compare(profile, [trace_of(observed("getuid"), observed("getgid"))])
    assert [r.syscall for r in report if r.kind == "new_syscall"] == ["getgid"]


def test_a_denylist_reports_only_what_it_denies() -> None:
    """With a default of allow, only calls that a rule refuses are drift."""
    profile = Profile(
        mode="denylist", default=Action.ALLOW, rules=(SeccompRule("ptrace", Action.errno("EPERM")),)
    )
    report = compare(profile, [trace_of(observed("getuid"), observed("ptrace", 0))])
    assert [r.syscall for r in report] == ["ptrace"]


def test_a_rule_over_an_unrecorded_argument_decides_nothing() -> None:
    """Where a rule compares what the trace does not hold, the calls are counted as undecided."""
    profile = Profile(rules=(SeccompRule("write", Action.ALLOW, (Arg(0, "le", 2),)),))
    report = compare(profile, [trace_of(observed("write", 7, 0, 3, count=6))])
    assert report.undecided == 6
    assert len(report) == 0


def attributed(profile: Profile, trace: Trace) -> object:
    return next(r for r in compare(profile, [trace]) if r.kind == "new_syscall")


def test_same_binaries_new_behaviour_is_said() -> None:
    """When program, libc and kernel are the same, nothing excuses the new call."""
    record = attributed(learn(BASE), trace_of(*BASE.observations, observed("getuid")))
    assert record.attribution == "same"
    assert "same binaries, new behaviour" in record.why


@pytest.mark.parametrize(
    ("later", "word"),
    [
        ({"libc": "glibc 2.41"}, "libc glibc 2.36 → glibc 2.41"),
        ({"kernel": "6.19.1"}, "kernel 6.18.0 → 6.19.1"),
    ],
)
def test_changed_libc_or_kernel_is_the_explanation(later: dict[str, str], word: str) -> None:
    """A known difference between the two sides is named with both versions."""
    record = attributed(learn(BASE), trace_of(*BASE.observations, observed("getuid"), **later))
    assert record.attribution == "changed"
    assert word in record.why


def test_a_rebuilt_program_is_the_explanation() -> None:
    """A program with another build-id is another program."""
    rebuilt = ProgramId(PROGRAM.path, "0123456789abcdef")
    record = attributed(learn(BASE), trace_of(*BASE.observations, observed("getuid", program=rebuilt)))
    assert record.attribution == "changed"
    assert "rebuilt" in record.why


def test_what_one_side_does_not_know_is_not_guessed() -> None:
    """Without a libc on one side nothing is attributed."""
    record = attributed(learn(BASE), trace_of(*BASE.observations, observed("getuid"), libc=None))
    assert record.attribution == "unknown"
    assert "libc is not known" in record.why


def test_json_document_is_plain_and_versioned() -> None:
    """to_dict holds JSON values only, raw arguments as hexadecimal text."""
    import json

    later = trace_of(*BASE.observations, observed("socket", 16, 3, 0), lost={"map_full": 1})
    document = json.loads(json.dumps(compare(learn(BASE), [later]).to_dict()))
    assert document["schema_version"] == 1
    record = next(r for r in document["records"] if r["kind"] == "new_argument")
    assert record["args"][:3] == ["0x10", "0x3", "0x0"]
    assert set(document["counts"]) == set(KINDS)


CALLS = st.sampled_from(["socket", "openat", "mprotect", "getuid", "fcntl", "clone", "mmap"])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(CALLS, st.lists(st.integers(0, 70), min_size=6, max_size=6)), min_size=1, max_size=6),
    st.sampled_from(["x86_64", "i386"]),
)
def test_every_refused_call_is_reported_and_its_edit_accepts_exactly_it(
    calls: list[tuple[str, list[int]]], arch: str
) -> None:
    """Records and refused observations are the same set; applying one edit accepts one of them and no other."""
    profile = learn(BASE)
    later = [observed(name, *args, arch=arch) for name, args in calls]
    report = compare(profile, [trace_of(*BASE.observations, *later)])
    refused = {o.key for o in later if not allows(profile, o)}
    assert bool(refused) == bool(report.denials)
    for record in report.denials:
        edited = accept(profile, [record])
        for o in later:
            same = (o.arch, o.nr) == (record.arch, record.nr) and allows_exactly(record, o)
            assert allows(edited, o) == (same or allows(profile, o))
        left = {call_of(r) for r in compare(edited, [trace_of(*later)]).denials}
        assert left == {call_of(r) for r in report.denials} - {call_of(record)}
    assert all(allows(accept(profile, report), o) for o in later)


def allows(profile: Profile, o: object) -> bool:
    return profile.decide_call(o.arch, o.nr, [a or 0 for a in o.args]).action == Action.ALLOW


def call_of(record: object) -> tuple[object, ...]:
    return (record.arch, record.nr, record.args)


def allows_exactly(record: object, o: object) -> bool:
    return all(a is None or a == b for a, b in zip(record.args, o.args, strict=True))


def test_the_yaml_of_an_edit_is_the_rule() -> None:
    """The text to add reads back as the rule that is applied."""
    profile = learn(BASE)
    report = compare(
        profile, [trace_of(*BASE.observations, observed("socket", 16, 3, 0), observed("getuid"))]
    )
    for record in report.denials:
        head = "autoprofile: 1\narch: [x86_64]\nlevel: strict\nmode: allowlist\ndefault: kill\n"
        assert Profile.loads(head + record.edit).rules == (replace(record.rule, evidence=None),)
    assert {r.edit for r in report.denials if r.kind == "new_syscall"} == {"syscalls:\n  getuid: any\n"}


def test_an_edit_says_when_a_deny_rule_is_in_the_way() -> None:
    """A refused call whose deny rule wins needs that rule gone; the edit says so and applying it works."""
    profile = replace(
        learn(BASE), rules=(*learn(BASE).rules, SeccompRule("getuid", Action.errno("EACCES"), ANY))
    )
    report = compare(profile, [trace_of(*BASE.observations, observed("getuid"))])
    (record,) = report.denials
    assert "remove, because it wins" in record.edit
    assert "getuid: EACCES" in record.edit
    assert accept(profile, [record]).decide("getuid").action == Action.ALLOW


def test_a_deny_rule_that_answers_as_meant_is_no_drift() -> None:
    """A call that met that very error anyway, and clone3 sent to clone, are counted as answered."""
    rules = (SeccompRule("clone3", Action.errno("ENOSYS")), SeccompRule("keyctl", Action.errno("EPERM")))
    profile = replace(learn(BASE), rules=(*learn(BASE).rules, *rules))
    refused = observed("keyctl", 0, ok=0, failed=2, last_return="EPERM", count=2)
    report = compare(
        profile,
        [trace_of(*BASE.observations, observed("clone3"), refused)],
        [AuditLog((denial("clone3", count=3),))],
    )
    assert len(report) == 0
    assert report.answered == 6
    worked = observed("keyctl", 0, ok=2, failed=0, last_return="ok", count=2)
    assert [r.syscall for r in compare(profile, [trace_of(*BASE.observations, worked)])] == ["keyctl"]


def test_accepting_another_arch_leaves_the_old_rules_where_they_were() -> None:
    """Adding an arch for one call does not open the other rules on it."""
    profile = learn(BASE)
    report = compare(profile, [trace_of(*BASE.observations, observed("getuid", arch="i386"))])
    edited = accept(profile, report)
    assert edited.decide("getuid", arch="i386").action == Action.ALLOW
    assert edited.decide("getpid", arch="i386").action == Action.KILL_PROCESS
    assert edited.decide("getpid").action == Action.ALLOW


def test_different_answers_to_one_call_are_all_told() -> None:
    """Logs of complain mode, errno and kill, in any order, give one record with every answer."""
    seen = [
        denial("getuid"),
        replace(denial("getuid"), event="kill", action="kill"),
        replace(denial("getuid"), event="complain", action="kill"),
    ]
    for records in (seen, seen[::-1]):
        (found,) = compare(learn(BASE), [], [AuditLog((one,)) for one in records])
        assert found.count == 3
        assert "answered EPERM, kill, let pass" in witness_text(found.witness)


def unseen(syscall: str, event: str = "kill") -> AuditRecord:
    """Return what the kernel's own audit says of a call: no arguments."""
    return replace(denial(syscall), event=event, action=event, args=(None,) * 6, build_id=None)


def test_a_kill_without_arguments_is_drift_by_the_worst_it_may_have_been() -> None:
    """A refused call whose arguments nobody knows is a difference, as grave as its gravest form."""
    report = compare(learn(BASE), audits=[AuditLog((unseen("socket"), unseen("mmap"), unseen("getuid")))])
    found = {r.syscall: r for r in report}
    assert (found["socket"].kind, found["socket"].severity) == ("new_argument", "high")
    assert (found["mmap"].kind, found["mmap"].severity) == ("new_syscall", "high")
    assert found["socket"].unknown == ("family", "type", "protocol")
    assert found["socket"].call == "socket(family=?, type=?, protocol=?)"
    assert found["socket"].edit.startswith("# widens: with any family, type, protocol")
    assert (found["getuid"].severity, found["getuid"].unknown) == ("low", ())


def test_accepting_a_kill_without_arguments_settles_it() -> None:
    """Once every argument is allowed, the same record is no drift, though narrower rules stand beside."""
    profile, log = learn(BASE), AuditLog((unseen("socket"),))
    accepted = accept(profile, compare(profile, audits=[log]).denials)
    assert accepted.decide("socket", "AF_PACKET", "SOCK_RAW", 0).action == Action.ALLOW
    assert compare(accepted, audits=[log]).records == ()


def test_what_is_not_known_is_not_denied_with_what_is_allowed() -> None:
    """A call without arguments cannot be denied where the profile allows some of its forms, nor generalised."""
    profile = learn(BASE)
    report = compare(profile, audits=[AuditLog((unseen("socket"), unseen("mmap")))])
    offered = {r.syscall: verdicts_for(profile, r) for r in report}
    assert offered == {"socket": ("accept", "keep"), "mmap": ("accept", "deny", "keep")}


def test_a_hand_written_rule_over_a_descriptor_makes_a_kill_a_guess_too() -> None:
    """Where a rule compares an argument that the kernel did not write down, the record names it."""
    profile = Profile(rules=(SeccompRule("write", Action.ALLOW, (Arg(0, "le", 2),)),))
    (record,) = compare(profile, audits=[AuditLog((unseen("write"),))])
    assert record.unknown == ("fd",)


def test_an_arch_that_nobody_knows_is_a_high_alarm_that_cannot_be_accepted() -> None:
    """A call of an arch outside the tables is reported with the rest, and has no edit."""
    strange = replace(unseen("socket"), arch="0xdeadbeef", nr=7, syscall=None)
    (record,) = compare(learn(BASE), audits=[AuditLog((strange,))])
    assert (record.severity, record.arch, record.edit) == ("high", "0xdeadbeef", "")
    assert "no profile can allow it" in record.why
    assert verdicts_for(learn(BASE), record) == ("keep",)
    with pytest.raises(AutoprofileError, match="no profile can allow"):
        accept(learn(BASE), [record])


def test_a_call_from_a_library_never_seen_is_not_called_same_binaries() -> None:
    """A preloaded library is named as the cause, where it calls itself and where libc calls for it."""
    libc, evil = "/lib/libc.so.6", "/tmp/pre.so"
    learned = Learned(1, 1, 1, libc="glibc 2.36", binaries={PROGRAM.path: PROGRAM.build_id or "", libc: "11"})
    profile = Profile(program=Program(PROGRAM.path, PROGRAM.build_id), learned=learned)
    record = denial("socket", 2, 1, 0)
    mapped = {PROGRAM.path: PROGRAM.build_id or "", libc: "11"}

    def cause(record: AuditRecord, binaries: dict[str, str]) -> tuple[str, bool]:
        parts = AuditProgram(record.session, record.program, record.build_id, "glibc 2.36", binaries)
        (found,) = compare(profile, audits=[AuditLog((record,), programs=(parts,))])
        assert ("pre.so" in found.why) == (found.attribution != "same")
        return found.attribution, found.is_new_behaviour

    assert cause(record, mapped) == ("same", True)
    assert cause(record, {**mapped, evil: "66"}) == ("changed", True)
    assert cause(replace(record, file=evil, file_build_id="66"), mapped) == ("changed", True)
    assert cause(replace(record, file=evil), mapped) == ("unknown", False)


def test_evidence_of_another_program_is_said_to_be_that() -> None:
    """A profile compared with what another program did says so, in every form; known programs pass without."""
    profile = learn(BASE)
    other, child = ProgramId("/bin/other", "77"), ProgramId("/bin/child", "78")

    def said(*programs: ProgramId) -> tuple[str, ...]:
        report = compare(profile, [trace_of(*(observed("getpid", program=one) for one in programs))])
        assert report.to_dict()["other_programs"] == list(report.strangers)
        sentence = f"the profile was learned from {PROGRAM.path}, not from /bin/"
        assert (sentence in drift_summary(report)) == bool(report.strangers)
        return report.strangers

    assert said(other) == ("/bin/other",)
    assert said(other, child) == ("/bin/child", "/bin/other")
    assert said(PROGRAM) == said(PROGRAM, child) == said(ProgramId("?")) == ()
    assert said(ProgramId("/usr/local/bin/thing", PROGRAM.build_id)) == (), "the same file by another name"
    log = AuditLog((denial("getuid", program="/bin/other"),))
    assert compare(profile, audits=[log]).strangers == (), "the same build"
    foreign = replace(log.records[0], build_id="77")
    assert compare(profile, audits=[AuditLog((foreign,))]).strangers == ("/bin/other",)
    assert compare(profile, profiles={"o": Profile(program=Program("/bin/o"))}).strangers == ("/bin/o",)


@pytest.mark.parametrize(
    "call", [("prctl", 26, 1 << 40 | 1), ("fcntl", 3, 4, 1 << 40 | 2048), ("prctl", 4, 1)]
)
def test_what_the_kernel_does_not_read_makes_no_call_of_its_own(call: tuple[str | int, ...]) -> None:
    """Garbage above the bits that a command's argument has is neither in the record nor in its edit."""
    syscall, *args = call
    clean = [value & 0xFFFFFFFF for value in args]
    profile = learn(BASE)
    log = AuditLog((denial(str(syscall), *args), denial(str(syscall), *clean)))
    (record,) = compare(profile, audits=[log])
    accepted = accept(profile, [record])
    assert compare(accepted, audits=[log]).records == ()
    assert Profile.loads(accepted.dumps()) == accepted
