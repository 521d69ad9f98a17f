"""What is exported means in libseccomp, which runtimes use, what the profile means."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile import Action, Arg, Profile, SeccompRule
from autoprofile.errors import ProfileError
from autoprofile.formats import export_profile, import_profile
from autoprofile.formats.oci_export import MAX_SIZE, document
from autoprofile.profile.rule import Evidence
from tests.unit.formats.runtime import build

ALLOW, EACCES, KILL = Action.ALLOW, Action.errno("EACCES"), Action.KILL_PROCESS
LSEEK = 8
WORDS = st.sampled_from([0, 1, 2, 3, 9, 0x80001, 0xFFFFFFFF])
ARGS = st.builds(
    lambda index, op, value, mask, width: Arg(
        index, op, {value, 7, 41} if op == "in" else value, mask if op == "masked_eq" else None, width
    ),
    st.integers(0, 2), st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "masked_eq", "in"]), WORDS,
    st.sampled_from([0xF, 1, 6, 0xFFFFFFF0, 0x80001]), st.sampled_from([32, 64]),
)  # fmt: skip
RULES = st.builds(
    lambda action, args: SeccompRule("lseek", action, tuple(args)),
    st.sampled_from([ALLOW, ALLOW, EACCES, KILL]), st.lists(ARGS, min_size=1, max_size=3),
)  # fmt: skip


@settings(max_examples=12)
@given(
    st.lists(RULES, min_size=1, max_size=4),
    st.sampled_from([KILL, Action.errno("EPERM"), ALLOW]),
    st.randoms(use_true_random=False),
)
def test_an_export_decides_as_the_profile_does(
    rules: list[SeccompRule], default: Action, rng: random.Random
) -> None:
    """Mixed answers, widths and operators included; what is not exact is said to be wider."""
    mode = "denylist" if default == ALLOW else "allowlist"
    profile = Profile(default=default, mode=mode, rules=tuple(rules))
    content, notes = document(profile)
    program = build(content)
    if program is None or any(note.effect == "widened" for note in notes):
        return
    assert len(program) <= MAX_SIZE
    values = sorted(
        {value for rule in rules for one in rule.comparators for value in one.interesting_values()}
    )
    for _ in range(60):
        call = [rng.choice(values) for _ in range(3)]
        assert program.simulate("x86_64", LSEEK, call) == profile.decide_call("x86_64", LSEEK, call).action


CONDITIONS = st.fixed_dictionaries(
    {
        "index": st.integers(0, 2),
        "op": st.sampled_from([f"SCMP_CMP_{op}" for op in ("EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ")]),
        "value": WORDS,
        "valueTwo": WORDS,
    }
)
ENTRIES = st.builds(
    lambda action, args: {"names": ["lseek"], "action": action, **({"args": args} if args else {})},
    st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"]),
    st.lists(CONDITIONS, max_size=3),
)


@settings(max_examples=40)
@given(st.lists(ENTRIES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_import_and_export_again_widen_nothing_in_silence(
    entries: list[dict[str, object]], rng: random.Random
) -> None:
    """A call that the source refuses and the export of its import allows needs a note that says so."""
    source = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": entries,
    }
    read = import_profile(json.dumps(source), "oci")
    content, notes = document(read.profile)
    if any(note.effect in {"widened", "impossible"} for note in (*read.notes, *notes)):
        return
    before, after = build(source), build(content)
    if before is None or after is None:
        return
    values = [v + d for v in (0, 1, 2, 3, 9, 0x80001, 0xFFFFFFFF) for d in (0, 1, 1 << 32)]
    for _ in range(60):
        call = [rng.choice(values) for _ in range(3)]
        if after.simulate("x86_64", LSEEK, call) == ALLOW:
            assert before.simulate("x86_64", LSEEK, call) == ALLOW, (call, content["syscalls"])


def test_conditions_on_one_argument_are_imported_with_a_word() -> None:
    """Runtimes OR them, so a range that reads as two borders allows everything: said as widened."""
    text = json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                {
                    "names": ["lseek"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [
                        {"index": 2, "value": 1, "op": "SCMP_CMP_GE"},
                        {"index": 2, "value": 2, "op": "SCMP_CMP_LE"},
                    ],
                }
            ],
        }
    )
    made = import_profile(text, "oci")
    assert any(note.effect == "widened" and "any one of the conditions" in note.detail for note in made.notes)


def test_a_refusal_apart_from_the_allow_rules_costs_nothing() -> None:
    """W^X with an error of its own stays beside what mmap may do; minijail keeps the allow rules, too."""
    rules = (
        SeccompRule("mmap", ALLOW, (Arg(2, "masked_eq", 0, 4, 64),)),
        SeccompRule("mmap", ALLOW, (Arg(2, "masked_eq", 0, 2, 64),)),
        SeccompRule("mmap", EACCES, (Arg(2, "masked_eq", 6, 6, 64),)),
    )
    made = export_profile(Profile(rules=rules), "oci")
    assert {note.effect for note in made.notes if note.subject.startswith("mmap")} == {"kept"}
    program = build(json.loads(made.content))
    assert program is not None
    answers = [program.simulate("x86_64", 9, (0, 1, prot)) for prot in (1, 3, 5, 7)]
    assert answers == [ALLOW, ALLOW, ALLOW, EACCES]
    policy = export_profile(Profile(rules=rules), "minijail").content.decode()
    assert "mmap: arg2 in " in policy
    assert "; return 13" in policy


def test_mixed_widths_on_one_argument_are_exported_exactly() -> None:
    """A 64-bit border AND a set of 32-bit values: a dirty upper half does not pass."""
    both = (Arg(0, "le", 9, width=64), Arg(0, "in", {1, 2}, width=32))
    program = build(document(Profile(rules=(SeccompRule("lseek", ALLOW, both),)))[0])
    assert program is not None
    assert [program.simulate("x86_64", LSEEK, (v,)) for v in (1, 1 | 1 << 32)] == [ALLOW, Action.KILL_PROCESS]


def test_the_machines_own_arch_is_taken_in_and_said() -> None:
    """A profile for i386 only lets x86_64 calls of the same names pass in a container."""
    made = export_profile(Profile(arch=("i386",), rules=(SeccompRule("read", ALLOW),)), "oci")
    assert [note.subject for note in made.notes if note.effect == "widened"] == ["arch x86_64"]


def test_a_profile_that_refuses_what_a_runtime_needs_is_one_error() -> None:
    """What a person refuses stands; a rule of learn that only softens the default makes way."""
    refused = SeccompRule("execve", EACCES)
    with pytest.raises(ProfileError, match=r"no container can start.*execve.*EACCES"):
        export_profile(Profile(rules=(refused,)), "oci")
    why = Evidence(reason="standard: an error instead of the default, for an unseen locale")
    soft = SeccompRule("openat", EACCES, evidence=why)
    program = build(document(Profile(rules=(soft,)))[0])
    assert program is not None
    assert [program.simulate("x86_64", 257, (0, 0, flags)) for flags in (0x80000, 0)] == [ALLOW, EACCES]


def test_nobody_asks_in_a_container() -> None:
    """Runc loads no profile that asks without a listener: ENOSYS, as the kernel answers, and it is said."""
    profile = Profile(mode="hybrid", default=Action.NOTIFY, rules=(SeccompRule("read", ALLOW),))
    made = export_profile(profile, "oci")
    assert json.loads(made.content)["defaultErrnoRet"] == 38
    assert [note.effect for note in made.notes if note.subject.startswith("default")] == ["narrowed"]


def test_what_libseccomp_adds_on_i386_is_said() -> None:
    """A constrained socket lets socketcall(SYS_SOCKET) pass with any arguments there."""
    rule = SeccompRule("socket", ALLOW, (Arg(0, "eq", 1, width=32),))
    content, notes = document(Profile(arch=("x86_64", "i386"), rules=(rule,)))
    program = build(content)
    assert program is not None
    assert program.simulate("i386", 102, (1, 0)) == ALLOW
    assert [note.subject for note in notes if note.effect == "widened"] == ["socket"]
