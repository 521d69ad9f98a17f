"""Draw calls that matter to a profile, and have the kernel answer them under filters, a million in a minute.

The kernel's answer is read from what a call returns. A guard filter is installed first that refuses every call
with an error number of its own: what the filter under test permits shows as that number and is never carried out,
what it refuses shows as itself, since the more severe answer counts and, of two error numbers, the newer filter's.
"""

from __future__ import annotations

import random
import subprocess
from array import array
from pathlib import Path

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.filter import Filter, Program
from autoprofile.profile import Action, Profile
from tests.unit.filter.calls import U32, U64, interesting

Call = tuple[int, int, tuple[int, ...]]  # audit token, nr, args

PERMITTED = 77
TRAPPED = 1 << 32
X86_64, I386 = ARCHES["x86_64"].audit_arch, ARCHES["i386"].audit_arch
X32_BIT = 0x40000000
# What the guard lets the tracee do (through the 64-bit entry only), and two calls that no filter sees, since the
# kernel lets them pass (seccomp_uprobe_exception()).
OWN = frozenset(
    (X86_64, syscall_nr("x86_64", name))
    for name in ("exit_group", "rt_sigreturn", "seccomp", "uretprobe", "uprobe")
)


def guard() -> Program:
    """Make the filter that keeps what is permitted from happening, and shows it."""
    built = Filter(default=Action.errno(PERMITTED), arch=("x86_64", "i386", "x32"), bad_arch=Action.errno(3))
    for name in ("exit_group", "rt_sigreturn", "seccomp"):
        built.add_rule(name, Action.ALLOW, arch="x86_64")
    return built.compile()


def seen_of(ret: int) -> int:
    """Give what the tracee sees of a filter's answer below the guard."""
    action = Action.from_ret(ret)
    if action.kind == "errno":
        return -action.data
    if action.kind == "trap":
        return TRAPPED + action.data
    assert action.kind in ("allow", "log", "trace", "notify"), action
    return -PERMITTED


def ask_kernel(program: str, filters: list[Program], made: list[Call], folder: Path) -> array[int]:
    """Make calls under the guard and filters (the oldest first); give what each call returned."""
    names = ["guard", *(f"filter{n}" for n in range(len(filters)))]
    for name, one in zip(names, (guard(), *filters), strict=True):
        (folder / name).write_bytes(bytes(one))
    calls = array("Q")
    for token, nr, args in made:
        calls.append(token == I386)
        calls.append(nr)
        calls.extend(args)
    (folder / "calls").write_bytes(calls.tobytes())
    (folder / "results").write_bytes(bytes(8 * len(made)))
    *first, last = (str(folder / name) for name in names)
    command = [program, last, str(folder / "calls"), str(folder / "results"), *first]
    done = subprocess.run(command, timeout=600, check=False)
    assert done.returncode == 0, done.returncode
    results = array("q")
    results.frombytes((folder / "results").read_bytes())
    return results


def drawn_calls(profile: Profile, rng: random.Random, count: int) -> list[Call]:
    """Draw calls: near the edges of rules, satisfying rules but for one argument, and unknown numbers.

    Half of the calls start from a rule's own values, since of joint tuples random values would meet none.
    """
    points: list[tuple[int, int, list[list[int]], list[list[list[int]]]]] = []
    for arch in ("x86_64", "i386", "x32"):
        for syscall in sorted(profile.syscalls(arch), key=str) if arch in profile.arch else ():
            nr = syscall if isinstance(syscall, int) else syscall_nr(arch, syscall)
            if nr is None or (ARCHES[arch].audit_arch, nr) in OWN:
                continue
            edges = [interesting(profile, syscall, index) for index in range(6)]
            rules = profile.rules_for(arch, syscall)
            fitting = [
                [
                    [v for v in edges[i] if all(a.match(v) for a in rule.comparators if a.index == i)]
                    or edges[i]
                    for i in range(6)
                ]
                for rule in rules
            ]
            weight = 8 if any(rule.comparators for rule in rules) else 1
            points += [(ARCHES[arch].audit_arch, nr, edges, fitting)] * weight
    made: list[Call] = []
    while len(made) < count:
        token, nr, edges, fitting = rng.choice(points)
        kind = rng.random()
        if kind < 0.5:
            values = rng.choice(fitting)
            args = [rng.choice(v) for v in values]
            if kind < 0.25:
                at = rng.randrange(6)
                args[at] = rng.choice(edges[at])
        else:
            args = [rng.choice(v) for v in edges]
        if kind > 0.95:
            nr = rng.choice((nr ^ X32_BIT, nr + 1, nr - 1, nr ^ 1 << 31, rng.randrange(1 << 32), U32)) & U32
            token = rng.choice((token, X86_64, I386))
        elif kind > 0.93:
            token = X86_64 + I386 - token
        if (token, nr) in OWN or nr == U32:
            continue  # -1 never reaches a filter: the kernel answers ENOSYS itself
        mask = U32 if token == I386 else U64
        made.append((token, nr, tuple(a & mask for a in args)))
    return made
