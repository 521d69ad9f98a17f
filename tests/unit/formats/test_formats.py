"""Other tools' formats: what is kept means the same, what is not is said."""

from __future__ import annotations

import json
import random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile import ANY, Action, Arg, Profile, SeccompRule
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.errors import ProfileError, UsageError
from autoprofile.formats import EXPORTERS, Note, export_profile, import_profile
from autoprofile.formats.fidelity import grouped
from autoprofile.formats.oci import import_oci
from autoprofile.formats.oci_export import RUNTIME_RULES
from autoprofile.formats.oci_schema import check_document

ALLOW = Action.ALLOW
SOCKET = SeccompRule("socket", ALLOW, (Arg(0, "eq", 1), Arg(1, "in", {1, 2, 0x80001}), Arg(2, "eq", 0)))
RANGE = SeccompRule("futex", ALLOW, (Arg(1, "ge", 2), Arg(1, "le", 9)))

CALLS = st.sampled_from(["socket", "futex", "mprotect", "lseek", "ioctl", "kill"])
WORDS = st.sampled_from([0, 1, 2, 3, 9, 0x80001, 0xFFFFFFFF])
ARGS = st.builds(
    lambda index, op, value: Arg(index, op, {value, 7} if op == "in" else value, 0xF if op == "masked_eq" else None),
    st.integers(0, 2), st.sampled_from(["eq", "in", "masked_eq"]), WORDS,
)  # fmt: skip
RULES = st.builds(
    lambda call, args: SeccompRule(call, ALLOW, tuple({one.index: one for one in args}.values()) or ANY),
    CALLS, st.lists(ARGS, max_size=3),
)  # fmt: skip


@settings(max_examples=40)
@given(st.lists(RULES, max_size=5), CALLS, st.lists(WORDS, min_size=3, max_size=3), st.booleans())
def test_what_oci_keeps_comes_back_meaning_the_same(
    rules: list[SeccompRule], call: str, args: list[int], dirty: bool
) -> None:
    """An exact export decides every call as the profile did, garbage in upper halves included."""
    profile = Profile(rules=(*rules, *RUNTIME_RULES))
    made = export_profile(profile, "oci")
    assert made.is_exact
    back = import_oci(made.content.decode()).profile
    if dirty:
        args = [value | 0xBAD << 32 for value in args]
    nr = syscall_nr("x86_64", call)
    assert nr is not None
    assert back.decide_call("x86_64", nr, args).action == profile.decide_call("x86_64", nr, args).action


COMPARED = st.builds(
    lambda index, op, value, mask, width: Arg(
        index, op, {value, 7} if op == "in" else value, mask if op == "masked_eq" else None, width
    ),
    st.integers(0, 1), st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "masked_eq", "in"]), WORDS,
    st.sampled_from([0xF, 0xFFFFFFF0, 0x80001]), st.sampled_from([32, 32, 64]),
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(COMPARED, min_size=1, max_size=4), st.lists(WORDS, min_size=2, max_size=2), st.booleans())
def test_no_exported_entry_compares_an_argument_twice(args: list[Arg], call: list[int], dirty: bool) -> None:
    """Runtimes OR such conditions; what is exact means the same, and what is not errs as its notes say."""
    profile = Profile(rules=(SeccompRule("socket", ALLOW, tuple(args)), *RUNTIME_RULES))
    made = export_profile(profile, "oci")
    assert check_document(json.loads(made.content), "exported") == []
    for entry in json.loads(made.content)["syscalls"]:
        indexes = [one["index"] for one in entry.get("args", ())]
        assert len(indexes) == len(set(indexes))
    if dirty:
        call = [value | 0xBAD << 32 for value in call]
    here = profile.decide("socket", *call).action == ALLOW
    there = import_oci(made.content.decode()).profile.decide("socket", *call).action == ALLOW
    effects = {note.effect for note in made.notes}
    assert here == there or ("widened" if there else "narrowed") in effects


def test_a_range_is_exported_as_the_blocks_that_make_it_up() -> None:
    """2 to 9 is 2-3, 4-7 and 8-9: three masked entries, with nothing lost."""
    at = SeccompRule("mlockall", ALLOW, (Arg(0, "ge", 2), Arg(0, "le", 9)))
    made = export_profile(Profile(rules=(at, SOCKET, *RUNTIME_RULES)), "oci")
    assert made.is_exact
    blocks = [
        entry["args"][0] for entry in json.loads(made.content)["syscalls"] if entry["names"] == ["mlockall"]
    ]
    assert [(one["value"], one["valueTwo"]) for one in blocks] == [
        (0xFFFFFFFE, 2),
        (0xFFFFFFFC, 4),
        (0xFFFFFFFE, 8),
    ]


def test_what_makes_a_filter_too_long_is_widened_and_said_to_be() -> None:
    """A call whose entries would not fit into one filter loses an argument, and the note names it."""
    rng = random.Random(7)
    wide = SeccompRule(
        "mmap", ALLOW, tuple(Arg(at, "in", {rng.getrandbits(32) for _ in range(99)}) for at in (1, 2))
    )
    made = export_profile(Profile(rules=(wide,)), "oci")
    notes = [note for note in made.notes if note.effect == "widened"]
    assert [note.subject for note in notes] == ["mmap"]
    assert notes[0].detail.startswith(("len is not checked", "prot is not checked"))


def test_two_conditions_on_one_index_are_read_as_runtimes_do() -> None:
    """An imported range accepts what runc would accept: either side of it."""
    condition = [
        {"index": 0, "value": 5, "op": "SCMP_CMP_GE"},
        {"index": 0, "value": 9, "op": "SCMP_CMP_LE"},
    ]
    content = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": condition}],
    }
    profile = import_profile(json.dumps(content), "oci").profile
    assert profile.decide("personality", 1).action == ALLOW
    assert profile.decide("personality", 100).action == ALLOW


def test_a_kill_beside_an_unconditional_allow_is_lost_and_said() -> None:
    """Libseccomp loses it, so the import means the weaker thing and warns."""
    content = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW"},
            {
                "names": ["ptrace"],
                "action": "SCMP_ACT_KILL_PROCESS",
                "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}],
            },
        ],
    }
    made = import_profile(json.dumps(content), "oci")
    assert made.profile.decide("ptrace", 16).action == ALLOW
    assert [note.effect for note in made.notes] == ["widened"]


def test_docker_conditions_on_capabilities_are_followed() -> None:
    """An entry for a capability applies to containers that have it, and to no others."""
    content = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}
        ],
    }
    text = json.dumps(content)
    assert import_oci(text).profile.decide("mount").action == Action.errno("EPERM")
    assert import_oci(text, caps=["CAP_SYS_ADMIN"]).profile.decide("mount").action == ALLOW
    assert import_oci(text).profile.arch == ("x86_64", "i386")


def test_kubernetes_resource_reads_back() -> None:
    """A SeccompProfile resource holds what the OCI object holds."""
    profile = Profile(rules=(SOCKET,), default=Action.errno("EPERM"))
    made = export_profile(profile, "kubernetes")
    assert yaml.safe_load(made.content)["kind"] == "SeccompProfile"
    back = import_profile(made.content.decode(), "kubernetes").profile
    assert back.decide("socket", 1, 2, 0).action == ALLOW
    assert back.decide("socket", 2, 2, 0).action == Action.errno("EPERM")


def test_systemd_keeps_families_and_says_what_it_widens() -> None:
    """Argument constraints are widened one by one; the address families survive."""
    made = export_profile(Profile(rules=(SOCKET, SeccompRule("read", ALLOW))), "systemd")
    text = made.content.decode()
    assert "RestrictAddressFamilies=AF_UNIX\n" in text
    assert "SystemCallFilter=read\n" in text
    assert not made.is_exact
    assert {note.subject.partition("(")[0] for note in made.notes if note.effect == "widened"} == {"socket"}


def test_systemd_has_one_answer_beside_a_list_of_allowed_calls() -> None:
    """The error of a refused call is not kept there, and a denylist stays one: both are said as they are."""
    refused = SeccompRule("clone3", Action.errno("ENOSYS"))
    made = export_profile(Profile(rules=(refused, SeccompRule("read", ALLOW))), "systemd")
    assert [note.effect for note in made.notes if note.subject.startswith("clone3")] == ["narrowed"]
    made = export_profile(Profile(mode="denylist", default=ALLOW, rules=(refused,)), "systemd")
    assert made.is_exact
    assert b"SystemCallFilter=~clone3:ENOSYS" in made.content


def test_minijail_policy_lists_joint_tuples() -> None:
    """Sets multiply out into alternatives of one line."""
    text = export_profile(
        Profile(rules=(SOCKET, SeccompRule("clone3", Action.errno("ENOSYS")))), "minijail"
    ).content.decode()
    assert "socket: arg0 == 0x1 && arg1 == 0x1 && arg2 == 0x0 || arg0 == 0x1 && arg1 == 0x2" in text
    assert "clone3: return 38\n" in text


@pytest.mark.parametrize("form", sorted(EXPORTERS))
def test_export_is_deterministic_and_every_rule_is_accounted_for(form: str) -> None:
    """The same profile gives the same bytes, and no rule goes without a note."""
    profile = Profile(rules=(SOCKET, RANGE, SeccompRule("read", ALLOW), SeccompRule(9999, ALLOW)))
    one, two = export_profile(profile, form), export_profile(profile, form)
    assert one == two
    if form not in {"raw", "c"}:
        subjects = " ".join(note.subject for note in one.notes)
        assert all(word in subjects for word in ("socket", "futex", "read", "9999"))


def test_bad_documents_are_refused_with_their_place() -> None:
    """What is no document of the format is one clear error."""
    with pytest.raises(ProfileError, match=r"x\.json:2"):
        import_profile('{\n"defaultAction": }', "oci", "x.json")
    with pytest.raises(ProfileError, match="defaultAction"):
        import_profile("{}", "oci")
    with pytest.raises(ProfileError, match="SeccompProfile"):
        import_profile("kind: Pod", "kubernetes")
    with pytest.raises(UsageError, match="no format"):
        export_profile(Profile(), "selinux")


def test_notes_of_one_effect_and_reason_make_one_line_and_lose_none() -> None:
    """Thirty rules that lose their arguments are one line; each keeps its own note, and different reasons stay apart."""
    calls = "accept4 access dup3 fcntl futex ioctl kill lseek madvise mkdir mprotect prctl recvfrom recvmsg"
    calls += " rseq sendmsg shutdown wait4"
    rules = tuple(
        SeccompRule(name, ALLOW, (Arg(1, "eq", value),)) for name in calls.split() for value in (1, 2)
    )
    notes = export_profile(Profile(rules=rules), "systemd").notes
    lost = [note for note in notes if note.effect != "kept"]
    groups = grouped(lost)
    assert [note for _, _, members in groups for note in members] == lost
    effect, line, members = groups[0]
    assert (effect, len(members)) == ("widened", len(rules))
    assert line.startswith("36 rules: accept4, access, dup3,")
    assert line.endswith(" and 2 more calls: to every call: systemd has no rule by argument")
    notes = export_profile(Profile(rules=(SOCKET, RANGE)), "minijail").notes
    narrowed = [note for note in notes if note.effect == "narrowed"]
    assert len({note.detail.partition(": ")[0] for note in narrowed}) > 1  # of several arguments
    reason = "compared whole, a dirty upper half no longer passes"
    assert [line for _, line, _ in grouped(narrowed)] == [f"socket: {reason}"]
    alone = Note("narrowed", "arch x32", "a policy is for one arch: killed")
    assert grouped([alone]) == [("narrowed", "arch x32: a policy is for one arch: killed", [alone])]


@pytest.mark.parametrize("form", ["raw", "c"])
def test_a_filter_that_refuses_execve_says_that_launchers_need_it(form: str) -> None:
    """Whatever refuses every execve is noted, nothing else is, and the export stays exact."""
    some = (Arg(2, "eq", 1),)
    refusing = [
        Profile(rules=(SOCKET,)),
        Profile(rules=(SOCKET, SeccompRule("execve", Action.errno("EPERM"))), default=ALLOW, mode="denylist"),
        Profile(rules=(SeccompRule("execve", ALLOW, some), SeccompRule("execve", Action.errno("EPERM")))),
    ]
    allowing = [
        Profile(rules=(SOCKET, SeccompRule("execve", ALLOW))),
        Profile(rules=(SeccompRule("execve", Action.errno("EPERM"), some),), default=ALLOW, mode="denylist"),
        Profile(rules=(SOCKET,), default=Action("log")),
    ]
    for profile, expected in [*((one, True) for one in refusing), *((one, False) for one in allowing)]:
        made = export_profile(profile, form)
        assert any(note.subject == "execve is not allowed" for note in made.notes) == expected, profile
        assert made.is_exact
