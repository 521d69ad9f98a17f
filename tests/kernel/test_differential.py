"""No two witnesses disagree: the profile, our filter simulated, the kernel under it, the kernel under libseccomp's.

AUTOPROFILE_DIFFERENTIAL_CALLS is how many calls are drawn in all (a million takes a minute or two).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from autoprofile.abi.arch import arch_from_audit
from autoprofile.filter import Program, compile_profile, compile_stack
from autoprofile.filter.simulate import most_severe
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule
from tests.kernel.differential import Call, ask_kernel, drawn_calls, seen_of
from tests.kernel.test_filter_kernel import random_profile
from tests.unit.filter.calls import EDGES, MASKS, U64, WIDE_EDGES
from tests.unit.filter.libseccomp import compares_different_words, compile_with_libseccomp
from tests.unit.filter.test_corpus import CORPUS, for_libseccomp
from tests.unit.filter.test_libseccomp import strange
from tests.unit.filter.test_stack import large_profile

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(3600)]

CALLS = int(os.environ.get("AUTOPROFILE_DIFFERENTIAL_CALLS", "30000"))
RANDOM_PROFILES = max(4, CALLS // 20_000)
TRAP = Action.trap(511)


def visible(profile: Profile, default: Action = TRAP) -> Profile:
    """Give a profile whose every refusal can be seen by the refused: nothing is killed for."""
    kills = [rule for rule in profile.rules if rule.action.rank > Action.TRAP.rank]
    assert not kills
    return replace(profile, mode="allowlist", default=default, bad_arch=Action.errno(101))


def compare(
    profile: Profile, stack: tuple[Program, ...], made: list[Call], tracee: str, folder: Path
) -> Counter[str]:
    """Let profile, simulation and kernel answer the calls; fail on the first disagreement, count the answers."""
    results = ask_kernel(tracee, list(stack), made, folder)
    counts: Counter[str] = Counter()
    for (token, nr, args), result in zip(made, results, strict=True):
        said = profile.decide_call(arch_from_audit(token, nr), nr, args).action
        simulated = most_severe([program.simulate_ret(token, nr, args) for program in stack])
        shown = f"{token:#x} {nr:#x} {[hex(a) for a in args]}: {said}, {simulated:#x}, {result}"
        assert simulated == said.ret, shown
        assert result == seen_of(said.ret), shown
        counts[said.kind] += 1
    return counts


def share(part: float, profiles: int) -> int:
    """Give how many calls of the whole each of so many profiles gets."""
    return max(200, int(CALLS * part / profiles))


def test_learned_profiles(tracee, tmp_path):
    """The sixteen learned profiles, as learned: a third of the calls."""
    total: Counter[str] = Counter()
    for seed, path in enumerate(CORPUS):
        profile = visible(Profile.load(path))
        made = drawn_calls(profile, random.Random(seed), share(0.33, len(CORPUS)))
        total += compare(profile, (compile_profile(profile),), made, tracee("filter_calls"), tmp_path)
    assert min(total["allow"], total["trap"]) > total.total() // 10, total
    print(f"learned profiles: {total.total()} calls, {dict(total)}")


def test_random_profiles(tracee, tmp_path):
    """Random profiles of up to three arches with every operator and several actions: a third of the calls."""
    total: Counter[str] = Counter()
    for seed in range(RANDOM_PROFILES):
        rng = random.Random(seed)
        profile = random_profile(rng)
        program = compile_profile(profile, bitmap=seed % 2 == 0)
        made = drawn_calls(profile, rng, share(0.33, RANDOM_PROFILES))
        total += compare(profile, (program,), made, tracee("filter_calls"), tmp_path)
    assert min(total["allow"], total["trap"], total["errno"]) > total.total() // 100, total
    print(f"random profiles: {total.total()} calls, {dict(total)}")


def test_a_stack(tracee, tmp_path):
    """A profile that takes several filters: a tenth of the calls."""
    profile = visible(large_profile())
    rules = (*profile.rules, SeccompRule("rt_sigreturn", Action.ALLOW))
    profile = replace(profile, rules=rules)
    stack = compile_stack(profile)
    assert len(stack) > 1
    made = drawn_calls(profile, random.Random(5), share(0.1, 1))
    total = compare(profile, stack, made, tracee("filter_calls"), tmp_path)
    assert min(total["allow"], total["trap"]) > total.total() // 100, total
    print(f"a stack of {len(stack)}: {total.total()} calls, {dict(total)}")


def expressible(rng: random.Random) -> Profile:
    """Draw rules that libseccomp 2.5 can express, without the shape of GHSA-4q85-33p6-j5g6 (see test_libseccomp)."""
    rules = [SeccompRule(name, Action.ALLOW) for name in ("rt_sigreturn", "exit_group")]
    names = ("read", "openat", "ioctl", "socket", "mmap", "futex", "clone", "prctl", "getpid", "fcntl")
    for at, name in enumerate(rng.sample(names, rng.randrange(1, 8))):
        action = rng.choice((Action.ALLOW, Action.errno(200 + at)))
        count = rng.randrange(1, 4)
        operators = ("eq", "in") if count > 1 else ("eq", "ne", "lt", "le", "gt", "ge", "masked_eq")
        for _ in range(count):
            args = []
            for index in rng.sample(range(3), rng.randrange(3)):
                op, values = rng.choice(operators), EDGES + WIDE_EDGES
                if op == "in":
                    args.append(Arg(index, op, rng.sample(values, rng.randrange(1, 4)), width=64))
                elif op == "masked_eq":
                    mask = rng.choice((*MASKS, U64 & ~7, (1 << 40) + 6))
                    args.append(Arg(index, op, rng.choice(values) & mask, mask, 64))
                else:
                    args.append(Arg(index, op, rng.choice(values), width=64))
            rules.append(SeccompRule(name, action, tuple(args) or ANY))
    return Profile(rules=tuple(rules))


def test_libseccomps_filters(tracee, tmp_path):
    """Learned and random profiles as libseccomp compiles them, by the kernel: a quarter of the calls."""
    total: Counter[str] = Counter()
    profiles = [for_libseccomp(Profile.load(path)) for path in CORPUS]
    profiles += [expressible(random.Random(seed)) for seed in range(RANDOM_PROFILES)]
    given_up = wrong = calls_wrong = 0
    for seed, given in enumerate(profiles):
        profile = visible(given, Action.TRAP)  # libseccomp's trap carries no data
        made = drawn_calls(profile, random.Random(seed), share(0.24, len(profiles)))
        # Numbers from 0x40000000 on are x32 to libseccomp, to the kernel those with bit 30.
        made = [call for call in made if not strange(profile, call[1])]
        theirs = compile_with_libseccomp(profile, optimize=1 + seed % 2)
        if theirs is None:
            given_up += 1  # 2.5 never returns for some overlapping rules
            continue
        total += compare(profile, (compile_profile(profile),), made, tracee("filter_calls"), tmp_path)
        disagreeing = 0
        for (token, nr, args), result in zip(
            made, ask_kernel(tracee("filter_calls"), [theirs], made, tmp_path), strict=True
        ):
            said = profile.decide_call(arch_from_audit(token, nr), nr, args).action
            simulated = theirs.simulate_ret(token, nr, args)
            shown = f"{token:#x} {nr:#x} {[hex(a) for a in args]}: {said}, {simulated:#x}, {result}"
            assert result == seen_of(simulated), shown
            disagreeing += simulated != said.ret
            assert simulated == said.ret or compares_different_words(theirs), shown
        wrong += disagreeing > 0
        calls_wrong += disagreeing
    assert given_up + wrong <= len(profiles) // 4
    assert min(total["allow"], total["trap"]) > total.total() // 20, total
    print(
        f"libseccomp: {total.total()} calls, {dict(total)}; it gave up on {given_up} profiles, and "
        f"answered {calls_wrong} calls wrongly with {wrong} filters that test the wrong word"
    )
