"""Measure filters: over the corpus of learned profiles, what a call costs; and what compiling costs.

For each profile in tests/data/profiles: the instructions that a call executes on average, under ours, the
smallest filter for each call alone and libseccomp's; nanoseconds that filters add to a call; how many of the
calls allowed with any arguments are seen to be answered from the kernel's bitmap; and how long checked calls
take at worst against the smallest filter that could check them. All is timed in one interleaved run for each
profile, of which the least counts. Compile times are processor time, the least of several. Prints; never
fails.

    python benchmarks/filter_cost.py [ROUNDS]
"""

from __future__ import annotations

import math
import sys
import time
from functools import reduce
from pathlib import Path

from autoprofile.abi.syscalls import syscall_table
from autoprofile.enforce.bench import (
    LIBSECCOMP,
    OURS,
    SMALLEST,
    Comparison,
    Timing,
    compare_filters,
    time_filters,
)
from autoprofile.filter import compile_profile
from autoprofile.profile import Action, Profile, SeccompRule
from autoprofile.profile.merge import merge

CORPUS = sorted((Path(__file__).parent.parent / "tests" / "data" / "profiles").glob("*.yaml"))
LIMIT_FEWER = 1.5  # geometric mean of libseccomp's instructions against ours
LIMIT_RATIO = 1.15  # time of a checked call against that under the smallest filter
LIMIT_TYPICAL_MS, LIMIT_ALL_MS = 30, 300
ARCHES = ("x86_64", "i386", "x32", "aarch64", "arm")
HOT = 0.01  # share of all calls


def cost_of_calls(rounds: int) -> None:
    """Print a row for each profile, and the limits they are held to."""
    best = LIBSECCOMP[2]
    print(
        "         instructions per call              | ns added to a call, any order| from   | time of a call"
    )
    print("profile   least   ours   opt1   opt2  fewer | bitmap   ours   opt1   opt2 | bitmap | checked, hot")
    fewer, hot, every, seen, tried, constant = [], [], [], 0, 0, 0
    for path in CORPUS:
        compared = compare_filters(Profile.load(path))
        timing = time_filters(compared, rounds=rounds)
        counts = [
            compared.instructions.get(name, math.nan) for name in (SMALLEST, OURS, *LIBSECCOMP.values())
        ]
        times = [timing.mixed_ns.get(name, math.nan) for name in (OURS, *LIBSECCOMP.values())]
        bitmap = timing.reference.allow_all - timing.reference.no_filter
        ratios = checked(compared, timing, 0)
        hot_ratios = checked(compared, timing, HOT)
        known = [one.is_bitmap for one in timing.calls if one.is_bitmap is not None]
        fewer.append(counts[3] / counts[1])
        hot.extend(hot_ratios)
        every.extend(ratios)
        seen, tried = seen + sum(known), tried + len(known)
        constant += sum(one.cost.is_constant for one in timing.calls)
        print(
            f"{path.stem:8}{''.join(f'{n:7.2f}' for n in counts)} {fewer[-1]:6.2f} |"
            f"{bitmap:7.1f}{''.join(f'{n:7.1f}' for n in times)} | {sum(known):2}/{len(known):2}  |"
            f" {max(ratios):.3f}, {max(hot_ratios, default=math.nan):.3f}"
        )
    mean = math.prod(fewer) ** (1 / len(fewer))
    print(f"{best} executes {mean:.2f} times as many instructions (geometric mean; limit {LIMIT_FEWER}),")
    print(f"  at least {min(fewer):.2f} times (limit 1)")
    print(f"bitmap: {seen} of {tried} unconstrained calls that were made were answered from it (limit: all),")
    print(f"  of {constant} that should be; the others do harm or are too slow to tell")
    print(
        f"checked calls take {max(hot):.3f} times what they take under the smallest filter that could check"
    )
    print(f"  them, those of at least {HOT:.0%} of all calls (limit {LIMIT_RATIO}); all {max(every):.3f}")


def checked(compared: Comparison, timing: Timing, share: float) -> list[float]:
    """Return the ratios of the calls whose arguments are checked and that are at least that share of all."""
    return [
        one.ratio
        for one in timing.calls
        if not one.cost.is_constant and compared.cost.share(one.cost) >= share
    ]


def typical() -> Profile:
    """Return a profile of eighty syscalls and some: five of the corpus, united."""
    names = ("git", "make", "nginx", "python", "redis")
    return reduce(merge, (Profile.load(path) for path in CORPUS if path.stem in names))


def all_names() -> Profile:
    """Return a profile that allows every call there is, on five arches."""
    names = {name for arch in ARCHES for name in syscall_table(arch)}
    rules = [
        SeccompRule(name, Action.ALLOW, arch=tuple(arch for arch in ARCHES if name in syscall_table(arch)))
        for name in sorted(names)
    ]
    return Profile(arch=ARCHES, default=Action.errno(38), rules=tuple(rules))


def cost_of_compiling() -> None:
    """Print how long compiling takes."""
    for what, profile, limit in (
        ("a typical profile", typical(), LIMIT_TYPICAL_MS),
        ("all names, five arches", all_names(), LIMIT_ALL_MS),
    ):
        least = math.inf
        for _ in range(15):
            start = time.process_time()
            program = compile_profile(profile)
            least = min(least, time.process_time() - start)
        syscalls = len({rule.syscall for rule in profile.rules})
        print(
            f"compiling {what} ({syscalls} syscalls, {len(profile.rules)} rules, {len(program)} long):"
            f" {least * 1000:.1f} ms (limit {limit})"
        )


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    cost_of_calls(rounds)
    cost_of_compiling()


if __name__ == "__main__":
    main()
