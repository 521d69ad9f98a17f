"""The proof can fail: every instruction of several filters is changed, and each change is refuted or explained.

AUTOPROFILE_MUTANTS=all changes every instruction of all learned profiles' filters in every way (some minutes); without it
every instruction of four small filters is changed in every other way there is for it, and of a learned profile's in one.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from autoprofile.abi.arch import arch_from_audit
from autoprofile.filter import FilterInvalid, Program, SockFilter, compile_profile
from autoprofile.filter.prove import prove
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule

from .calls import calls
from .mutants import mutants, reason_of_equality
from .test_corpus import CORPUS

pytest.importorskip("z3")

ALLOW = Action.ALLOW
ALL = os.environ.get("AUTOPROFILE_MUTANTS") == "all"

FILTERS = {
    "masks": Profile(
        rules=(
            SeccompRule("read", ALLOW),
            SeccompRule("socket", ALLOW, (Arg(0, "eq", 1), Arg(1, "in", {1, 0x80001}))),
            SeccompRule("mprotect", ALLOW, (Arg(2, "masked_eq", 0, mask=0xFFFFFFFC),)),
            SeccompRule("clone3", Action.errno("ENOSYS")),
        )
    ),
    "ranges": Profile(
        arch=("x86_64", "i386"),
        default=Action.errno("EPERM"),
        rules=(
            SeccompRule("futex", ALLOW, (Arg(1, "ge", 2), Arg(1, "lt", 9)), ("x86_64",)),
            SeccompRule("lseek", ALLOW, (Arg(1, "gt", 1 << 33, width=64),), ("x86_64",)),
            SeccompRule("getpid", ALLOW, ANY),
        ),
    ),
    "three arches": Profile(
        arch=("x86_64", "i386", "x32"),
        rules=(
            SeccompRule("ioctl", ALLOW, (Arg(1, "in", {0x5401, 0x5421}),)),
            SeccompRule("kill", Action.errno("ESRCH"), (Arg(1, "ne", 0),), ("x32",)),
            SeccompRule("write", ALLOW, ANY, ("x86_64", "i386")),
        ),
    ),
    "joint": Profile(
        arch=("aarch64", "arm"),
        default=Action.TRAP,
        rules=(
            SeccompRule("openat", ALLOW, (Arg(2, "masked_eq", 0, 0x3), Arg(3, "eq", 0))),
            SeccompRule("openat", Action.LOG, (Arg(2, "eq", 0x41), Arg(3, "in", {0o600, 0o644}))),
            SeccompRule("mmap", ALLOW, (Arg(2, "le", 3, width=64),), ("aarch64",)),
        ),
    ),
}


def by_instruction(program: Program) -> list[list[tuple[int, SockFilter]]]:
    """Give the changes of each instruction."""
    found: dict[int, list[tuple[int, SockFilter]]] = {}
    for one in mutants(program):
        found.setdefault(one[0], []).append(one)
    return list(found.values())


def refute_or_explain(profile: Profile, changes: list[tuple[int, SockFilter]]) -> Counter[str]:
    """Prove each mutant; a refutation has to show it, and an equal one has to be equal for a reason found otherwise."""
    program = compile_profile(profile)
    outcomes: Counter[str] = Counter()
    for index, changed in changes:
        instructions = list(program)
        instructions[index] = changed
        try:
            mutant = Program(instructions)
        except FilterInvalid:
            outcomes["invalid"] += 1
            continue
        found = prove(profile, mutant).counterexample
        if found is None:
            reason = reason_of_equality(program, mutant, index)
            assert reason is not None, f"{index}: {changed} was proven, but it shows"
            outcomes[reason] += 1
            for token, nr, args in calls(profile, seed=index, each=3):
                said = profile.decide_call(arch_from_audit(token, nr), nr, args).action.ret
                assert mutant.simulate_ret(token, nr, args) == said
            continue
        token = int(found.arch, 16) if found.arch.startswith("0x") else found.arch
        assert mutant.simulate(token, found.nr, found.args) == found.program != found.profile
        arch = found.arch
        assert profile.decide_call(arch, found.nr, found.args).action == found.profile
        outcomes["refuted"] += 1
    return outcomes


@pytest.mark.parametrize("name", FILTERS)
def test_every_change_of_a_small_filter_is_refuted_or_explained(name: str) -> None:
    """All instructions, changed in several ways: nearly all are refuted, the others are equal for a reason."""
    profile = FILTERS[name]
    program = compile_profile(profile)
    changes = [one for ways in by_instruction(program) for one in (ways if ALL else ways[::2])]
    assert {index for index, _ in changes} == set(range(len(program)))
    outcomes = refute_or_explain(profile, changes)
    print(name, dict(outcomes))
    others = outcomes.total() - outcomes["refuted"] - outcomes["invalid"]
    assert outcomes["refuted"] > 5 * others, outcomes


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", CORPUS if ALL else CORPUS[:1], ids=lambda p: p.stem)
def test_every_instruction_of_a_learned_filter_is_needed(path) -> None:
    """Each instruction, changed, is refuted or explained."""
    profile = Profile.load(path)
    rng, program = random.Random(path.stem), compile_profile(profile)
    changes = [one for ways in by_instruction(program) for one in (ways if ALL else [rng.choice(ways)])]
    assert {index for index, _ in changes} == set(range(len(program)))
    outcomes = refute_or_explain(profile, changes)
    print(path.stem, dict(outcomes))
    others = outcomes.total() - outcomes["refuted"] - outcomes["invalid"]
    assert outcomes["refuted"] > 2 * others, outcomes


def test_the_explanation_is_none_where_there_is_a_difference() -> None:
    """What tells why mutants are equal does not call those equal that the solver refutes."""
    checked = 0
    for name in ("masks", "ranges") if ALL else ("masks",):
        program = compile_profile(FILTERS[name])
        for index, changed in mutants(program):
            instructions = [*program[:index], changed, *program[index + 1 :]]
            try:
                mutant = Program(instructions)
            except FilterInvalid:
                continue
            equal = prove(FILTERS[name], mutant).holds
            assert (reason_of_equality(program, mutant, index) is not None) == equal, (index, changed)
            checked += 1
    assert checked > 50
