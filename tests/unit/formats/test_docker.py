"""Docker's and Podman's profiles: read as the runtimes mean them, decided, linted and compared."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from autoprofile import Action, Profile
from autoprofile.errors import ProfileError
from autoprofile.formats import export_profile
from autoprofile.formats.oci import import_oci
from autoprofile.lint import lint
from autoprofile.profile.diff import diff

_SOURCE = Path(__file__).parents[3] / "benchmarks" / "docker_default.py"
_spec = importlib.util.spec_from_file_location("docker_default", _SOURCE)
assert _spec is not None
assert _spec.loader is not None
docker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(docker)

ALLOW, EPERM, ENOSYS = Action.ALLOW, Action.errno("EPERM"), Action.errno("ENOSYS")


@pytest.fixture(scope="module")
def default() -> Profile:
    made: Profile = docker.profile()
    return made


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("read",), ALLOW),
        (("mount",), EPERM),
        (("keyctl",), EPERM),
        (("clone3",), ENOSYS),
        (("clone", "CLONE_VM|CLONE_THREAD|CLONE_SIGHAND"), ALLOW),
        (("clone", "CLONE_NEWUSER"), EPERM),
        (("socket", "AF_UNIX", "SOCK_STREAM", 0), ALLOW),
        (("socket", "AF_NFC", "SOCK_RAW", 0), ALLOW),
        (("socket", "AF_ALG", "SOCK_SEQPACKET", 0), EPERM),
        (("socket", "AF_VSOCK", "SOCK_STREAM", 0), EPERM),
        (("personality", 0), ALLOW),
        (("personality", "ADDR_NO_RANDOMIZE"), EPERM),
        (("ptrace", "PTRACE_ATTACH"), ALLOW),
        (("modify_ldt", 1), ALLOW),
    ],
)
def test_docker_default_is_decided_as_docker_documents_it(default, call, answer):
    """Each fact of Docker's documentation is a decision."""
    assert default.decide(*call).action == answer


def test_capabilities_arch_and_kernel_choose_entries():
    """Entries apply to the machine and container they are for, and to no other."""
    text = json.dumps(docker.document())
    assert import_oci(text, caps=["CAP_SYS_ADMIN"]).profile.decide("mount").action == ALLOW
    assert import_oci(text, caps=["CAP_SYS_ADMIN"]).profile.decide("clone3").action == ALLOW
    assert import_oci(text, kernel=(4, 4)).profile.decide("ptrace").action == EPERM
    assert import_oci(text, kernel=(4, 8)).profile.decide("ptrace").action == ALLOW
    arm = import_oci(text, arch="aarch64").profile
    assert arm.arch == ("aarch64", "arm")
    assert arm.rules_for("arm", "arm_fadvise64_64")
    assert not default_has(docker.profile(), "arm_fadvise64_64")


def default_has(profile: Profile, name: str) -> bool:
    return any(profile.rules_for(arch, name) for arch in profile.arch)


def test_docker_default_can_be_linted_and_its_socket_rule_is_bypassed(default):
    """Compared as 64 bits, a family with a dirty upper half is none of those refused."""
    found = {f.id: f for f in lint(default) if f.arch in {None, "x86_64"}}
    assert "upper-half-bypass" in found
    assert "AF_ALG" in found["upper-half-bypass"].detail or "AF_VSOCK" in found["upper-half-bypass"].detail
    dirty = default.decide_call("x86_64", 41, (0x100000026, 5, 0)).action
    assert dirty == ALLOW
    assert default.decide_call("x86_64", 41, (38, 5, 0)).action == EPERM


def test_docker_default_can_be_compared(default):
    """A learned profile narrows it; the difference names calls that prove it."""
    small = Profile.loads(
        "autoprofile: 1\narch: [x86_64, i386, x32]\nlevel: permissive\nmode: allowlist\ndefault: EPERM\n"
        "syscalls:\n  read: any\n"
    )
    changes = diff(default, small)
    kinds = {change.syscall: change.kind for change in changes if change.syscall is not None}
    assert kinds.pop("clone3") == "changed"  # ENOSYS before, EPERM now: refused either way
    assert set(kinds.values()) == {"narrowed"}
    assert all(change.proof for change in changes if change.syscall == "mmap")


def test_docker_default_exported_again_means_the_same(default):
    """Import and export are inverse on it, and no entry compares an argument twice."""
    made = export_profile(default, "oci")
    for entry in json.loads(made.content)["syscalls"]:
        indexes = [one["index"] for one in entry.get("args", ())]
        assert len(indexes) == len(set(indexes))
    back = import_oci(made.content.decode()).profile
    assert [str(c) for c in diff(default, back) if c.kind == "narrowed"] == []
    # what a runtime needs to start a program may be added, and is noted
    added = {n.subject.partition("(")[0].split()[0] for n in made.notes if n.effect == "added"}
    assert {str(c.syscall) for c in diff(default, back) if c.kind == "widened"} <= added


def test_error_names_decide_as_podman_reads_them():
    """Podman writes names beside numbers; the name counts."""
    text = json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "defaultErrno": "ENOSYS",
            "syscalls": [
                {
                    "names": ["socket"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 1,
                    "errno": "EINVAL",
                    "args": [{"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
                    "comment": "",
                    "includes": {},
                    "excludes": {"caps": ["CAP_AUDIT_WRITE"]},
                }
            ],
        }
    )
    made = import_oci(text).profile
    assert made.default == ENOSYS
    assert made.decide("socket", "AF_NETLINK").action == Action.errno("EINVAL")
    assert import_oci(text, caps=["CAP_AUDIT_WRITE"]).profile.decide("socket", "AF_NETLINK").action == ENOSYS


def _document(**changes: Any) -> str:
    entry = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": []} | changes.pop("entry", {})
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [entry]} | changes)


CONDITION = {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        (_document(defaultAction="ALLOW"), "defaultAction", "no action 'ALLOW'"),
        (_document(defaultErrnoRet=-1), "defaultErrnoRet", "not an error number"),
        (_document(defaultErrnoRet=5000), "defaultErrnoRet", "end at 4095"),
        (_document(syscalls={}), "syscalls", "not a list"),
        (_document(syscalls=[7]), r"syscalls\[0\]", "not an object"),
        (_document(architectures=["SCMP_ARCH_X86_64"], archMap=[{"architecture": "SCMP_ARCH_X86"}]), "archMap", "exclude"),
        (_document(archMap=[{}]), r"archMap\[0\].architecture", "missing"),
        (_document(entry={"names": []}), r"syscalls\[0\]", "has names"),
        (_document(entry={"names": "read"}), r"syscalls\[0\].names", "not a list"),
        (_document(entry={"action": "SCMP_ACT_ALOW"}), r"syscalls\[0\].action", "no action"),
        (_document(entry={"action": "SCMP_ACT_ERRNO", "errno": "EWHAT"}), r"syscalls\[0\].errno", "unknown errno"),
        (_document(entry={"args": [CONDITION | {"index": 6}]}), r"syscalls\[0\].args\[0\].index", "from 0 to 5"),
        (_document(entry={"args": [CONDITION | {"value": "1"}]}), r"args\[0\].value", "not an integer"),
        (_document(entry={"args": [CONDITION | {"value": -1}]}), r"args\[0\].value", "not an integer"),
        (_document(entry={"args": [CONDITION | {"op": "EQ"}]}), r"args\[0\].op", "no operator"),
        (_document(entry={"includes": {"minKernel": "new"}}), "includes.minKernel", "no kernel version"),
        ('{"defaultAction": 1, "defaultAction": 2}', "x.json", "twice"),
        ('{"ociVersion": "1.0", "linux": {}}', "linux.seccomp", "no seccomp profile"),
        ("[]", "x.json", "no defaultAction"),
    ],
)  # fmt: skip
def test_an_error_names_its_place_in_the_document(text, place, what):
    """A wrong document is one clear error: where in it, and what is wrong there."""
    with pytest.raises(ProfileError, match=what) as caught:
        import_oci(text, "x.json")
    assert caught.value.where is not None
    import re

    assert re.search(place, caught.value.where)


def test_a_misspelt_condition_does_not_vanish_in_silence():
    """Runtimes ignore keys they do not know; the import says so, and what may have been meant."""
    made = import_oci(_document(entry={"arg": [CONDITION]}))
    assert ("widened", "syscalls[0].arg") in {(n.effect, n.subject) for n in made.notes}
    assert any("args is meant perhaps" in n.detail for n in made.notes)


def test_overlapping_conditions_of_different_answers_are_said():
    """Which of them a runtime takes is its own affair, so the reading is noted."""
    text = json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [CONDITION]},
                {
                    "names": ["socket"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 22,
                    "args": [CONDITION | {"index": 1}],
                },
            ],
        }
    )
    # beside it, that the errno rule looks at more bits than the kernel
    assert [n.effect for n in import_oci(text).notes] == ["narrowed", "widened"]


def _noted(default: str, *entries: dict[str, Any], arches: tuple[str, ...] = ("SCMP_ARCH_X86_64",)) -> Any:
    return import_oci(
        json.dumps({"defaultAction": default, "architectures": list(arches), "syscalls": list(entries)})
    )


@pytest.mark.parametrize(
    ("default", "action", "call", "condition", "effects"),
    [
        ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "socket", ("SCMP_CMP_EQ", 16, 0), ["widened"]),
        ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "socket", ("SCMP_CMP_MASKED_EQ", 0xFFFFFFFF, 16), []),
        ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "socket", ("SCMP_CMP_GE", 16, 0), []),
        ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "mmap", ("SCMP_CMP_EQ", 16, 0), []),
        ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "socket", ("SCMP_CMP_EQ", 16, 0), []),
        ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "socket", ("SCMP_CMP_NE", 40, 0), ["widened"]),
        ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "socket", ("SCMP_CMP_EQ", 1, 0), []),
    ],
)
def test_a_rule_that_the_high_half_of_a_register_gets_past_is_said(default, action, call, condition, effects):
    """The import compares whole registers as runtimes do, and names what the kernel does not read so."""
    op, value, second = condition
    args = [{"index": 0, "op": op, "value": value, "valueTwo": second}]
    made = _noted(default, {"names": [call], "action": action, "args": args})
    assert [note.effect for note in made.notes] == effects
    if effects:
        dirty = made.profile.decide_call("x86_64", 41, (1 << 32 | value, 0, 0, 0, 0, 0))
        assert dirty.action == ALLOW


def test_a_refused_call_that_does_not_exist_is_said():
    """A mistyped name in a denylist refuses nothing; what cannot be refused for other reasons is no news."""
    entry = {"names": ["ptrcae", "arm_fadvise64_64"], "action": "SCMP_ACT_ERRNO"}
    notes = _noted("SCMP_ACT_ALLOW", entry).notes
    assert [(note.effect, note.subject) for note in notes] == [
        ("impossible", "ptrcae"),
        ("kept", "arm_fadvise64_64"),
    ]
    assert "ptrace is meant perhaps" in notes[0].detail
    allowed = _noted("SCMP_ACT_ERRNO", {"names": ["ptrcae"], "action": "SCMP_ACT_ALLOW"}).notes
    assert [note.effect for note in allowed] == ["kept"]


def test_the_arch_of_the_machine_is_missed():
    """Runtimes take the arch of the machine in although only its 32-bit one is listed; we say that we do not."""
    made = _noted("SCMP_ACT_ERRNO", arches=("SCMP_ARCH_X86",))
    assert made.profile.arch == ("i386",)
    assert [(note.effect, note.subject) for note in made.notes] == [("narrowed", "SCMP_ARCH_X86_64")]


def test_a_number_without_end_is_one_error():
    """More digits than Python reads are an error of the document."""
    with pytest.raises(ProfileError, match="digits"):
        import_oci('{"defaultAction": ' + "1" * 5000 + "}", "x.json")
