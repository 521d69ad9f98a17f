"""The recorder: what is one observation, and what is counted in it."""

from __future__ import annotations

import timeit
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from autoprofile.abi import ARCHES, constrained_args, kernel_value, syscall_nr
from autoprofile.observations import COUNT, OK, RETURN, Recorder, TraceMeta, call_code
from autoprofile.observations.recorder import return_name

META = TraceMeta("test")
X86 = ARCHES["x86_64"].audit_arch << 32
ZERO = (0, 0, 0, 0, 0, 0)


def nr(name: str, arch: str = "x86_64") -> int:
    number = syscall_nr(arch, name)
    assert number is not None
    return number


def test_unconstrained_arguments_do_not_split_observations() -> None:
    """Calls that differ only in pointers, fds and sizes are one observation with no argument kept."""
    recorder = Recorder()
    program = recorder.program("/bin/x")
    for i in range(23):
        recorder.record(program, "x86_64", nr("read"), (i, 0x7F00 + i, i, 9, 9, 9), 1, i)
    (seen,) = recorder.finish(META).observations
    assert (seen.count, seen.first_ns, seen.last_ns) == (23, 0, 22)
    assert seen.args == (None,) * 6


def test_constrained_arguments_are_kept_as_the_kernel_reads_them() -> None:
    """A 32-bit parameter with garbage in its upper half is the same observation as without."""
    recorder = Recorder()
    program = recorder.program("/bin/x")
    for family in (1, 0xDEAD_BEEF_0000_0001):
        recorder.record(program, "x86_64", nr("socket"), (family, 1, 0, 7, 7, 7), 1, 0)
    (seen,) = recorder.finish(META).observations
    assert seen.args == (1, 1, 0, None, None, None)
    assert seen.count == 2


def test_arguments_a_call_does_not_read_do_not_split_observations() -> None:
    """Garbage in an argument that only other commands of the call read is recorded as 0."""
    recorder = Recorder()
    program = recorder.program("/bin/x")
    for i in range(23):
        recorder.record(program, "x86_64", nr("prctl"), (15, 0x7FFF0000 + i, i, 0, 0, 0), 1, 0)  # PR_SET_NAME
        recorder.record(program, "x86_64", nr("openat"), (3, 0, 0o2000000, i, 0, 0), 1, 0)
    recorder.record(program, "x86_64", nr("openat"), (3, 0, 0o100, 0o640, 0, 0), 1, 0)
    assert [(o.args, o.count) for o in recorder.finish(META).observations] == [
        ((15, 0, 0, None, None, None), 23),
        ((None, None, 0o100, 0o640, None, None), 1),
        ((None, None, 0o2000000, 0, None, None), 23),
    ]


def test_joint_tuples_stay_joint() -> None:
    """Two tuples seen do not make a third from their parts."""
    recorder = Recorder()
    program = recorder.program("/bin/x")
    for args in ((1, 1, 0), (2, 2, 0)):
        recorder.record(program, "x86_64", nr("socket"), (*args, 0, 0, 0), 1, 0)
    assert [o.args[:3] for o in recorder.finish(META).observations] == [(1, 1, 0), (2, 2, 0)]


def test_arches_stay_apart() -> None:
    """One number on three arches is three observations, each named by its own table."""
    recorder = Recorder()
    program = recorder.program("/bin/x")
    recorder.counter(program, 1)(ARCHES["x86_64"].audit_arch << 32 | 20, ZERO, 0)
    recorder.counter(program, 1)(ARCHES["i386"].audit_arch << 32 | 20, ZERO, 0)
    recorder.counter(program, 1)(ARCHES["x86_64"].audit_arch << 32 | 0x40000014, ZERO, 0)
    seen = [(o.arch, o.nr) for o in recorder.finish(META).observations]
    assert seen == [("i386", 20), ("x32", 0x40000014), ("x86_64", 20)]


def test_processes_count_thread_groups_not_calls() -> None:
    """An observation says in how many processes it was made; a reused pid is another process once closed."""
    recorder = Recorder()
    program = recorder.program("/bin/x")
    for tgid in (10, 10, 11):
        recorder.record(program, "x86_64", nr("getpid"), ZERO, tgid, 0)
    recorder.close_process(10)
    recorder.record(program, "x86_64", nr("getpid"), ZERO, 10, 0)
    trace = recorder.finish(META)
    assert trace.observations[0].processes == 3
    assert trace.process_count == 3


def test_exec_moves_on_to_another_program() -> None:
    """After exec the same process counts under the new program and remains one process."""
    recorder = Recorder()
    before, after = recorder.program("/bin/sh"), recorder.program("/bin/ls", "abcd")
    recorder.record(before, "x86_64", nr("execve"), ZERO, 5, 1)
    recorder.record(after, "x86_64", nr("getpid"), ZERO, 5, 2)
    trace = recorder.finish(META)
    assert [(o.program.path, o.program.build_id) for o in trace.observations] == [
        ("/bin/ls", "abcd"),
        ("/bin/sh", None),
    ]
    assert trace.process_count == 1


def test_returns_are_counted_by_outcome() -> None:
    """Success, failure and restart are told apart; the last one is named."""
    recorder = Recorder(returns=True)
    program = recorder.program("/bin/x")
    cell = recorder.record(program, "x86_64", nr("read"), ZERO, 1, 0)
    recorder.returned(cell, 0)
    recorder.record(program, "x86_64", nr("read"), ZERO, 1, 1)
    recorder.returned(cell, 2)
    recorder.record(program, "x86_64", nr("read"), ZERO, 1, 2)
    recorder.returned(cell, 512)
    (seen,) = recorder.finish(META).observations
    assert (seen.count, seen.ok, seen.failed, seen.last_return) == (3, 1, 1, "ERESTARTSYS")


def test_sources_without_returns_say_so() -> None:
    """Where returns are not seen they are unknown, not zero."""
    recorder = Recorder()
    recorder.record(recorder.program("/bin/x"), "x86_64", nr("read"), ZERO, 1, 0)
    (seen,) = recorder.finish(META).observations
    assert (seen.ok, seen.failed, seen.last_return) == (None, None, None)


def test_return_names() -> None:
    """A return is named by its errno, or kept as a number when it has no name."""
    assert [return_name(n) for n in (None, 0, 2, 516, 3999)] == [
        None,
        "ok",
        "ENOENT",
        "ERESTART_RESTARTBLOCK",
        "3999",
    ]


def test_the_last_return_is_that_of_the_last_call_in_time() -> None:
    """Folding processes in any order keeps the outcome of the latest call."""
    for order in ((1, 2), (2, 1)):
        recorder = Recorder(returns=True)
        program = recorder.program("/bin/x")
        recorder.returned(recorder.record(program, "x86_64", nr("read"), ZERO, 1, 100), 2)
        recorder.returned(recorder.record(program, "x86_64", nr("read"), ZERO, 2, 50), 0)
        for tgid in order:
            recorder.close_process(tgid)
        (seen,) = recorder.finish(META).observations
        assert seen.last_return == "ENOENT"
        assert (seen.first_ns, seen.last_ns) == (50, 100)


def test_unknown_numbers_and_arches_are_kept() -> None:
    """A call without a name stays a number, one of an unknown arch is kept; both are losses, for no arguments are."""
    recorder = Recorder()
    program = recorder.program("/bin/x")
    recorder.counter(program, 1)(X86 | 1000, (1, 2, 3, 4, 5, 6), 0)
    recorder.counter(program, 1)(0x12345678 << 32 | 3, (1, 2, 3, 4, 5, 6), 0)
    trace = recorder.finish(META)
    assert [(o.arch, o.nr, o.args) for o in trace.observations] == [
        ("0x12345678", 3, (None,) * 6),
        ("x86_64", 1000, (None,) * 6),
    ]
    assert trace.ledger.entries == {"unknown_arch": 1, "unresolved_nr": 1}
    assert trace.ledger.details["unresolved_nr"] == ["x86_64 nr 1000, by /bin/x"]
    assert not trace.is_complete


def test_minus_one_is_a_number_like_any_other() -> None:
    """A call numbered -1, which a tracer may leave behind, is counted under its unsigned 32-bit number."""
    assert call_code("x86_64", -1) == X86 | 0xFFFFFFFF


def test_tally_follows_the_recording() -> None:
    """The progress numbers are those of what has been counted so far, closed processes included."""
    recorder = Recorder()
    program = recorder.program("/bin/x")
    for tgid in (1, 2):
        recorder.record(program, "x86_64", nr("socket"), (1, 1, 0, 0, 0, 0), tgid, 0)
        recorder.record(program, "x86_64", nr("socket"), (2, 1, 0, 0, 0, 0), tgid, 0)
        recorder.close_process(tgid)
    recorder.record(program, "x86_64", nr("read"), ZERO, 3, 0)
    tally = recorder.tally()
    assert (tally.syscalls, tally.observations, tally.events, tally.processes) == (2, 3, 5, 3)


NAMES = ("read", "openat", "socket", "mmap", "clone", "ioctl", "futex", "prctl", "renameat2", "statx")
calls = st.tuples(
    st.sampled_from(NAMES),
    st.tuples(*[st.sampled_from([0, 1, 3, 0x80000, 2**32 + 1])] * 6),
    st.integers(1, 3),
)


@given(st.lists(calls, max_size=40))
def test_counts_add_up(made: list[tuple[str, tuple[int, ...], int]]) -> None:
    """The recorder agrees with counting by hand, call by call, in every shape of key."""
    recorder = Recorder()
    program = recorder.program("/bin/x")
    expected: Counter[tuple[int, tuple[int | None, ...]]] = Counter()
    for ts, (name, args, tgid) in enumerate(made):
        recorder.record(program, "x86_64", nr(name), args, tgid, ts)
        kept: list[int | None] = [None] * 6
        for spec in constrained_args("x86_64", name):
            is_read = spec.used_if is None or spec.used_if.holds(args)
            kept[spec.index] = kernel_value(spec, args[spec.index]) if is_read else 0
        expected[nr(name), tuple(kept)] += 1
    trace = recorder.finish(META)
    assert {(o.nr, o.args): o.count for o in trace.observations} == expected
    assert trace.events == len(made)


def test_the_fast_path_is_fast() -> None:
    """Counting a known call costs a few microseconds at most, whatever its arguments."""
    recorder = Recorder(returns=True)
    count = recorder.counter(recorder.program("/bin/x"), 1)
    code, args = X86 | nr("mmap"), (0, 4096, 3, 0x22, -1 & (2**64 - 1), 0)

    def one_call() -> None:
        cell = count(code, args, 5)
        cell[OK] += 1
        cell[RETURN] = 0

    best_us = min(timeit.repeat(one_call, number=2000, repeat=15)) / 2000 * 1e6
    assert best_us < 5
    assert count(code, args, 5)[COUNT] == 30_001
