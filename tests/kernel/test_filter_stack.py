"""A profile too large for one filter, enforced on the kernel: every call gets what Profile.decide says."""

from __future__ import annotations

import errno
import random
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from autoprofile.abi.syscalls import syscall_nr
from autoprofile.filter import Program, SockFilter
from autoprofile.filter import opcodes as op
from autoprofile.filter.limits import MOST_CONVERTED, stacked_length
from autoprofile.profile import Action, Arg, Profile, SeccompRule
from tests.cli.tool import autoprofile
from tests.kernel.tool import ALLOW, start_tool
from tests.unit.filter.calls import U64, interesting

pytestmark = pytest.mark.kernel

HARDENED = Path("/proc/sys/net/core/bpf_jit_harden")
# They ignore their arguments and do nothing, so that a profile may constrain them at will and allow them.
HARMLESS = ("getuid", "geteuid", "getgid", "getegid", "getpid", "getppid", "getpgrp", "gettid")


def large_profile() -> Profile:
    """Make a profile of some 9000 instructions over calls that do no harm; libc's own calls are allowed."""
    rng = random.Random(6)
    rules = [
        SeccompRule(name, Action.errno(200 + at), (Arg(3, "masked_eq", 5, 7, 64),))
        for at, name in enumerate(HARMLESS)
    ]
    for at, name in enumerate(HARMLESS):
        values = [rng.randrange(1 << 40) for _ in range(260)]
        rules.append(SeccompRule(name, Action.ALLOW, (Arg(at % 3, "in", values, width=64),)))
        rules.append(SeccompRule(name, Action.errno(300 + at), (Arg(at % 3, "ge", 1 << 63, width=64),)))
    free = "access arch_prctl brk close exit_group fstat futex getrandom madvise mmap mprotect munmap newfstatat "
    free += "openat pread64 prctl prlimit64 read readlink readlinkat rseq rt_sigaction rt_sigprocmask rt_sigreturn "
    free += "set_robust_list set_tid_address write"
    rules += [SeccompRule(name, Action.ALLOW) for name in free.split()]
    return Profile(default=Action.errno("EACCES"), rules=tuple(rules))


def drawn(profile: Profile, count: int) -> list[tuple[int, tuple[int, ...]]]:
    """Draw calls of the harmless syscalls on both sides of their rules' edges."""
    rng = random.Random(7)
    values = {name: [interesting(profile, name, index) for index in range(6)] for name in HARMLESS}
    calls = []
    for _ in range(count):
        name = rng.choice(HARMLESS)
        nr = syscall_nr("x86_64", name)
        assert nr is not None
        calls.append((nr, tuple(rng.choice(v) for v in values[name])))
    return calls


def run_under(profile: Profile, folder: Path, program: str, count: int, *options: str) -> str:
    """Enforce a profile on the tracee that makes the calls, compare each result with the decision; give stderr."""
    made = drawn(profile, count)
    (folder / "calls").write_bytes(b"".join(struct.pack("<8Q", 0, nr, *args) for nr, args in made))
    (folder / "results").write_bytes(bytes(8 * count))
    done = autoprofile("enforce", "big.yaml", *options, "--", program, "-", "calls", "results", cwd=folder)
    assert done.returncode == 0, done.stderr
    results = [r for (r,) in struct.iter_unpack("<q", (folder / "results").read_bytes())]
    allowed = 0
    for (nr, args), result in zip(made, results, strict=True):
        action = profile.decide_call("x86_64", nr, args).action
        allowed += action == Action.ALLOW
        assert result >= 0 if action == Action.ALLOW else result == -action.data, (nr, [hex(a) for a in args])
    assert count // 20 < allowed < count
    return done.stderr


def test_a_stack_is_enforced_call_for_call(tracee, tmp_path):
    """Without supervisor several filters are installed; twenty thousand calls get what the profile decides."""
    profile = large_profile()
    profile.save(tmp_path / "big.yaml")
    said = run_under(profile, tmp_path, tracee("filter_calls", "-static"), 20_000, "-v")
    assert "are stacked, which mean the same together" in said


def test_a_supervised_profile_too_large_for_the_listeners_filter_is_enforced(tracee, tmp_path):
    """With a supervisor one filter asks it about some calls whole, and it decides them as the profile."""
    profile = large_profile()
    profile = replace(profile, rules=tuple(r for r in profile.rules if r.action == Action.ALLOW))
    profile.save(tmp_path / "big.yaml")
    program = tracee("filter_calls", "-static")
    said = run_under(profile, tmp_path, program, 1500, "--audit", "a.jsonl")
    assert "is decided by the supervisor, as the profile says" in said


def filler(loads: int) -> Program:
    """Make a filter of so many loads and a return."""
    return Program([SockFilter(op.LD_ABS, 0, 0, 0)] * loads + [SockFilter(op.RET_K, 0, 0, ALLOW)])


def any_program(rng: random.Random, size: int) -> Program:
    """Make a filter of all kinds of instructions that allows everything."""
    code = [SockFilter(op.LDX_IMM, 0, 0, 1)]
    for _ in range(size):
        k, jt, jf = rng.choice([5, 0x80000001]), rng.randrange(2), rng.randrange(2)
        jump = rng.choice(list(op.JUMP_NAMES))
        one = rng.choice([0x04, 0x54, 0x0C, op.NEG, op.LD_ABS, op.LD_LEN, op.LD_IMM, op.JA])
        code += rng.choice(
            [
                [SockFilter(jump, jt, jf, 0 if jump & 8 else k)],
                [SockFilter(jump, jt, jf, 0 if jump & 8 else k)],
                [SockFilter(one, 0, 0, {op.LD_ABS: 16, op.JA: 0}.get(one, k))],
                # Twice, so that none is jumped over: X must not be 0 when A is divided by it.
                [SockFilter(op.LDX_IMM, 0, 0, 1)] * 2 + [SockFilter(op.DIV_X, 0, 0, 0)],
                [SockFilter(op.ST, 0, 0, 3)] * 2,
            ]
        )
    return Program(code + [SockFilter(op.RET_K, 0, 0, ALLOW)] * 2)


@pytest.mark.skipif(
    HARDENED.exists() and HARDENED.read_text().strip() != "0",
    reason="constants are blinded here (net.core.bpf_jit_harden), which makes programs longer",
)
@pytest.mark.parametrize("seed", range(4))
def test_the_kernels_limit_is_where_we_say_it_is(seed):
    """A stack of exactly 32768 converted instructions of all kinds is installed; with one more it is refused."""
    code = """
for one in sys.stdin.read().split():
    kernel.set_no_new_privs()
    try: seccomp.seccomp_set_mode_filter(bytes.fromhex(one))
    except kernel.KernelError as error: print(error.errno)
"""
    stack = [*[filler(4000)] * 7, any_program(random.Random(seed), 500)]
    left = MOST_CONVERTED - stacked_length([*stack, filler(0)])
    assert 0 < left < 4095
    for more, answer in ((0, ""), (1, f"{errno.ENOMEM}\n")):
        process = start_tool(code)
        given = " ".join(bytes(one).hex() for one in (*stack, filler(left + more)))
        assert process.communicate(given, timeout=60) == (answer, "")


def test_values_of_64_bits_are_needed():
    """The profile of these tests constrains values that do not fit a word, or it would test less."""
    profile = large_profile()
    values = interesting(profile, "getuid", 0)
    assert sum(value > 1 << 32 for value in values) > 100
    assert max(values) == U64
