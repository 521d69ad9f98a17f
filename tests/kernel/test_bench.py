"""Timing calls under filters: what runs and what does not, and what the measurement is made of.

Nothing here asks how fast anything is: that is for benchmarks/filter_cost.py, on a quiet machine.
"""

from __future__ import annotations

import errno
import math
import os
import signal
from pathlib import Path

import pytest

from autoprofile import Action, Arg, Profile, SeccompRule
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.enforce.bench import LIBSECCOMP, OURS, SMALLEST, compare_filters, time_filters
from autoprofile.enforce.harmless import HARMLESS
from autoprofile.enforce.timing import (
    REFUSED,
    SCRATCH,
    ZEROS,
    Clock,
    TimedCall,
    refusing,
    time_calls,
    time_mix,
)
from autoprofile.errors import AutoprofileError
from autoprofile.filter import Program, SockFilter, compile_profile
from autoprofile.filter import opcodes as op
from autoprofile.profile import Evidence

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        os.uname().machine not in ("x86_64", "aarch64"), reason="no timing loops for this machine"
    ),
]

MACHINE = os.uname().machine
U64 = 0xFFFFFFFFFFFFFFFF
QUESTIONS = """
    brk clock_getres clock_gettime get_robust_list getcpu getegid geteuid getgid getgroups getpgid getpgrp getpid getppid
    getpriority getrandom getresgid getresuid getrlimit getrusage getsid gettid gettimeofday getuid mlock munlock
    personality poll ppoll prlimit64 rt_sigpending rt_sigprocmask sched_get_priority_max sched_get_priority_min
    sched_getscheduler set_tid_address setfsgid setfsuid setregid setresgid setresuid setreuid sigaltstack splice
    sysinfo tee time times umask uname
"""


def number(name: str) -> int:
    nr = syscall_nr(MACHINE, name)
    assert nr is not None
    return nr


def small_profile(default: Action = Action.KILL_PROCESS) -> Profile:
    return Profile(
        arch=(MACHINE,),
        default=default,
        rules=(
            SeccompRule("getpid", Action.ALLOW, evidence=Evidence(count=60)),
            SeccompRule("read", Action.ALLOW, evidence=Evidence(count=20)),
            SeccompRule("exit_group", Action.ALLOW, evidence=Evidence(count=1)),
            SeccompRule("fcntl", Action.ALLOW, (Arg(1, "in", {1, 3}),), evidence=Evidence(count=19)),
        ),
    )


def test_calls_are_made_and_their_results_seen() -> None:
    """Without a filter the calls run, with their arguments, in a child of ours."""
    calls = [
        TimedCall(number("getppid"), ()),
        TimedCall(number("close"), (U64,)),
        TimedCall(number("getpgid"), (1 << 30,)),
    ]
    results = [result for _, result in time_calls(None, calls)]
    assert results == [os.getpid(), -errno.EBADF, -errno.ESRCH]


def test_addresses_stand_for_memory_of_the_child() -> None:
    """ZEROS is an empty path that stays empty, SCRATCH can be written to."""
    calls = [
        TimedCall(number("getcwd"), (SCRATCH, 1024)),
        TimedCall(number("faccessat"), (0xFFFFFFFFFFFFFF9C, ZEROS)),
        TimedCall(number("faccessat"), (0xFFFFFFFFFFFFFF9C, SCRATCH)),  # the directory, by its name
    ]
    results = [result for _, result in time_calls(None, calls)]
    assert results == [len(os.fsencode(os.getcwd())) + 1, -errno.ENOENT, 0]


@pytest.mark.skipif(MACHINE != "x86_64", reason="poll, which takes its time as a number, is a call of x86_64")
def test_ticks_are_a_time() -> None:
    """Calls that sleep for a millisecond are timed at no less, whatever the clock's tick is."""
    clock = Clock()
    ticks = time_mix(None, [TimedCall(number("poll"), (0, 0, 1))] * 8)
    assert ticks * clock.ns_per_tick() > 1_000_000


def test_refused_calls_never_run(tmp_path: Path) -> None:
    """Under a refusing filter nothing runs, neither what the profile allows nor what it kills for."""
    program = refusing(compile_profile(small_profile()))
    calls = [
        TimedCall(number("getpid"), ()),
        TimedCall(number("exit_group"), (3,)),
        TimedCall(number("kill"), (os.getpid(), signal.SIGKILL)),
        TimedCall(number("fcntl"), (0, 1)),
    ]
    assert [result for _, result in time_calls(program, calls)] == [REFUSED] * 4
    assert time_mix(program, calls) > 0


def test_a_refusing_filter_executes_the_same_instructions() -> None:
    """Only the answers differ: every call takes the same way through both."""
    program = compile_profile(small_profile())
    same = refusing(program)
    assert len(same) == len(program)
    for nr in [*range(400), 0x40000000, U64 >> 32]:
        for args in ((0, 1), (0, 3), (0, 4), (0, 1 << 32 | 1)):
            data = b"".join(
                n.to_bytes(size, "little")
                for n, size in ((nr, 4), (0xC000003E, 4), (0, 8), *((a, 8) for a in (*args, 0, 0, 0, 0)))
            )
            ways: list[set[int]] = [set(), set()]
            program.simulate_data(data, ways[0])
            assert same.simulate_data(data, ways[1]) == Action.errno(-REFUSED).ret
            assert ways[0] == ways[1]


def test_a_filter_that_computes_its_answer_is_not_timed() -> None:
    """A filter ending in `ret A` could allow anything, so it is refused."""
    program = Program([SockFilter(op.LD_ABS, 0, 0, op.NR_OFFSET), SockFilter(op.RET_A, 0, 0, 0)])
    with pytest.raises(AutoprofileError, match="computes"):
        refusing(program)


def test_a_child_that_is_killed_is_reported() -> None:
    """A call that the filter kills for ends in an error, not in a number, and leaves no child behind."""
    with pytest.raises(AutoprofileError, match="ended with -31"):
        time_calls(compile_profile(small_profile()), [TimedCall(number("getppid"), ())])
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_harmless_calls_do_nothing() -> None:
    """Each fails, or answers a question; none creates, waits, or ends the child."""
    # setre[su]*id are asked to change nothing.
    questions = set(QUESTIONS.split())
    known = {name: syscall_nr(MACHINE, name) for name in HARMLESS}
    calls = {name: TimedCall(nr, HARMLESS[name]) for name, nr in known.items() if nr is not None}
    results = dict(zip(calls, time_calls(None, list(calls.values())), strict=True))
    assert {name for name, (_, result) in results.items() if result >= 0} <= questions


def test_all_unconstrained_allows_are_timed_where_they_can_be() -> None:
    """The measurement covers every call and every filter, and knows which calls the bitmap should answer."""
    compared = compare_filters(small_profile())
    timing = time_filters(compared, rounds=1)
    assert timing.rounds >= 1
    calls = {one.cost.name: one for one in timing.calls}
    assert {name for name, one in calls.items() if one.cost.is_constant} == {"getpid", "read", "exit_group"}
    assert {name for name, one in calls.items() if one.was_called} == {"getpid", "read"}
    assert calls["fcntl"].is_bitmap is None
    assert calls["exit_group"].is_bitmap is None
    assert math.isclose(sum(one.share for one in timing.calls), 1)
    assert calls["fcntl"].share == 0.19
    names = {SMALLEST, *compared.filters}
    assert {OURS} <= set(compared.filters) <= {OURS, *LIBSECCOMP.values()}
    assert all(set(one.ns) == names for one in timing.calls)
    assert set(timing.ns) == names
    assert set(timing.mixed_ns) == set(compared.filters)
    assert all(one.ratio > 0 for one in timing.calls)


def test_nothing_is_timed_for_another_arch() -> None:
    """A profile for other arches than this machine's has instructions, but no times."""
    other = "aarch64" if MACHINE == "x86_64" else "x86_64"
    compared = compare_filters(Profile(arch=(other,), rules=(SeccompRule("read", Action.ALLOW),)))
    assert compared.instructions[OURS] == 0
    with pytest.raises(AutoprofileError, match="cannot be timed"):
        time_filters(compared, rounds=1)
