"""strace's logs: every way of writing one gives the same trace, and nothing is dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprofile.abi import AbiError, constrained_args, display_name
from autoprofile.errors import AutoprofileError
from autoprofile.observations import Observation, Trace
from autoprofile.trace.strace_files import runs_of
from autoprofile.trace.strace_line import argument_value, parse_line, split_call, unquote
from autoprofile.trace.strace_log import trace_from_strace_log
from tests.conftest import TESTS

VARIED = TESTS / "data" / "traces" / "varied"
WAYS = ("numbered", "raw", "symbolic", "verbose", "terminal", "quiet", "files")


def read(tmp_path: Path, text: str, **options: object) -> Trace:
    path = tmp_path / "log"
    path.write_text(text)
    return trace_from_strace_log(path, **options)  # type: ignore[arg-type]


def by_name(trace: Trace) -> dict[str, list[Observation]]:
    found: dict[str, list[Observation]] = {}
    for o in trace.observations:
        found.setdefault(display_name(o.arch, o.nr), []).append(o)
    return found


def varied(way: str) -> Trace:
    return trace_from_strace_log(
        sorted(VARIED.glob("files.log.*")) if way == "files" else VARIED / f"{way}.log"
    )


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_says_the_same(way: str) -> None:
    """Raw, symbolic, verbose, terminal, numbered and per-thread logs of one program give equal observations."""

    def content(trace: Trace) -> set[tuple[object, ...]]:
        return {
            (o.program, o.arch, o.nr, o.args, o.count, o.processes, o.ok, o.failed, o.last_return)
            for o in trace.observations
        }

    trace = varied(way)
    assert content(trace) == content(varied("numbered"))
    assert trace.ledger.entries == {"unresolved_nr": 1}  # its call 4000
    assert trace.meta.complete
    assert trace.process_count == 3
    assert (trace.meta.backend, trace.meta.argv, trace.meta.exit_status) == ("strace_log", ("./varied",), 7)


def test_the_recorded_log_holds_what_the_program_did() -> None:
    """Arguments, programs, failures and numbers of the recorded program are those of its source."""
    calls = by_name(varied("symbolic"))
    assert {o.args[:3] for o in calls["socket"]} == {(1, 0x80001, 0), (2, 2, 17), (77, 3, 3)}
    assert {o.program.path for o in calls["exit_group"]} == {"./varied", "/bin/true"}
    assert [o.last_return for o in calls["4000"]] == ["ENOSYS"]
    assert calls["mkdir"][0].args[1] == 0o755
    assert calls["rt_sigreturn"][0].count == 2
    # strace's own execve, which started the program, is not the program's.
    assert [(o.program.path, o.count) for o in calls["execve"]] == [("./varied", 1)]


def test_times_are_those_of_the_log() -> None:
    """Time stamps of every kind become nanoseconds from the first line; without any they are zero."""
    for way, lasts in (
        ("raw", True),
        ("symbolic", True),
        ("verbose", True),
        ("files", True),
        ("numbered", False),
    ):
        trace = varied(way)
        last = max(o.last_ns for o in trace.observations)
        assert (0 < last <= trace.meta.duration_ns < 10**9) == lasts, way
        assert all(0 <= o.first_ns <= o.last_ns for o in trace.observations)
    assert varied("raw").meta.start_time_s == pytest.approx(1.79e9, rel=0.1)
    assert varied("symbolic").meta.start_time_s is None


def test_midnight_does_not_turn_time_back(tmp_path: Path) -> None:
    """Times of day go on after midnight."""
    trace = read(
        tmp_path,
        '5 23:59:59.500000 execve("/bin/x", ["x"], 0x1 /* 1 var */) = 0\n'
        "5 23:59:59.900000 getpid() = 5\n"
        "5 00:00:01.000000 getppid() = 4\n",
    )
    assert [(o.nr, o.first_ns) for o in trace.observations] == [(39, 400_000_000), (110, 1_500_000_000)]


START = '7 execve("/bin/x", ["x"], 0x1 /* 1 var */) = 0\n'


def test_what_is_not_understood_is_a_loss_with_its_line(tmp_path: Path) -> None:
    """Foreign lines, unknown names and unreadable arguments are counted in the ledger and located."""
    trace = read(
        tmp_path,
        START
        + "the program's own words\n"
        + "7 no_such_call(1) = 0\n"
        + "7 socket(AF_NOSUCH, SOCK_STREAM, 0) = -1 EAFNOSUPPORT (Address family not supported)\n"
        + "7 socket(AF_UNIX) = 3\n"
        + "7 <... read resumed>) = 0\n"
        + "7 getpid()\n"
        + "7 getpid() = 7\n",
    )
    assert trace.ledger.entries == {"log_incomplete": 6}
    details = sorted(trace.ledger.details["log_incomplete"])
    assert [d.split(": ")[0].rpartition(":")[2] for d in details] == ["2", "3", "4", "5", "6", "7"]
    assert all(d.startswith(str(tmp_path / "log")) for d in details)
    assert "'family' is not understood: 'AF_NOSUCH'" in details[2]
    assert "'type' is not in the log" in details[3]
    assert [(o.nr, o.count) for o in trace.observations] == [(39, 1)]
    assert not trace.is_complete


def test_no_log_is_an_error(tmp_path: Path) -> None:
    """A missing file and a file without one line of strace's are each one clear error."""
    with pytest.raises(AutoprofileError, match="cannot read the log"):
        trace_from_strace_log(tmp_path / "none")
    with pytest.raises(AutoprofileError, match="not a single line"):
        read(tmp_path, "autoprofile: 1\nsyscalls: {}\n")


def test_an_unprinted_argument_is_one_the_call_does_not_use(tmp_path: Path) -> None:
    """A call to openat without O_CREAT is printed without mode; with O_CREAT the mode must be there."""
    trace = read(
        tmp_path,
        START
        + '7 openat(AT_FDCWD, "/a", O_RDONLY|O_CLOEXEC) = 3\n'
        + '7 openat(AT_FDCWD, "/a", O_WRONLY|O_CREAT, 0640) = 3\n'
        + '7 openat(AT_FDCWD, "/a", O_WRONLY|O_CREAT) = 3\n',
    )
    assert [o.args for o in trace.observations] == [
        (None, None, 0o101, 0o640, None, None),
        (None, None, 0o2000000, 0, None, None),
    ]
    assert trace.ledger.entries == {"log_incomplete": 1}


def test_threads_belong_to_their_process(tmp_path: Path) -> None:
    """CLONE_THREAD makes a thread, and a child that writes before its birth is reported gets its program."""
    trace = read(
        tmp_path,
        START
        + "7 clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0}, 88 <unfinished ...>\n"
        + "8 getpid() = 7\n"
        + "7 <... clone3 resumed> => {parent_tid=[8]}, 88) = 8\n"
        + "7 clone(child_stack=NULL, flags=0x1200000|17, child_tidptr=0x1 <unfinished ...>\n"
        + "9 getpid( <unfinished ...>\n"
        + "7 <... clone resumed>) = 9\n"
        + "9 <... getpid resumed>) = 9\n"
        + "7 getpid() = 7\n",
    )
    (getpid,) = by_name(trace)["getpid"]
    assert (getpid.program.path, getpid.count, getpid.processes) == ("/bin/x", 3, 2)
    assert trace.process_count == 2
    assert trace.ledger.total == 0
    (clone,) = by_name(trace)["clone"]
    assert clone.args[0] == 0x1200011


def test_a_thread_that_execs_takes_over(tmp_path: Path) -> None:
    """The unfinished execve of a thread is finished by the leader, whose program it becomes."""
    trace = read(
        tmp_path,
        START
        + "7 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD) = 8\n"
        + '8 execve("/bin/true", ["true"], 0x1 /* 2 vars */ <unfinished ...>\n'
        + "7 pause( <unfinished ...>\n"
        + "7 <... pause resumed>) = ?\n"
        + "7 +++ superseded by execve in pid 8 +++\n"
        + "7 <... execve resumed>) = 0\n"
        + "7 getpid() = 7\n"
        + "7 exit_group(0) = ?\n"
        + "7 +++ exited with 0 +++\n",
    )
    calls = by_name(trace)
    assert [(o.program.path, o.ok) for o in calls["execve"]] == [("/bin/x", 1)]
    assert [o.program.path for o in calls["getpid"]] == ["/bin/true"]
    assert trace.process_count == 1
    assert trace.is_complete


def test_calls_that_never_returned_are_counted(tmp_path: Path) -> None:
    """A call cut off by a signal was made: it counts, with no outcome."""
    trace = read(
        tmp_path,
        START
        + "7 futex(0x7f01, FUTEX_WAIT_PRIVATE, 2, NULL <unfinished ...>\n"
        + "7 <... futex resumed>) = ?\n"
        + "7 wait4(-1,  <unfinished ...>\n"
        + "7 +++ killed by SIGKILL (core dumped) +++\n",
    )
    calls = by_name(trace)
    assert [(o.count, o.ok, o.failed, o.last_return) for o in calls["futex"]] == [(1, 0, 0, None)]
    assert trace.meta.exit_status == 137
    # What wait4 was given after its out-parameter was never written, so that this call is a loss.
    assert trace.ledger.entries == {"log_incomplete": 1}


def test_restarted_calls_have_no_outcome(tmp_path: Path) -> None:
    """The kernel's restart codes are neither success nor failure."""
    trace = read(tmp_path, START + "7 pause() = ? ERESTARTNOHAND (To be restarted if no handler)\n")
    (pause,) = trace.observations
    assert (pause.ok, pause.failed, pause.last_return) == (0, 0, "ERESTARTNOHAND")


def test_numbers_decide_the_arch(tmp_path: Path) -> None:
    """With -n a call is filed under the arch it was made through, multiplexed calls under the multiplexer."""
    trace = read(
        tmp_path,
        '7 [  59] execve("./x", ["x"], 0x1 /* 1 var */) = 0\n'
        "7 [  39] getpid() = 7\n"
        "7 [  20] getpid() = 7\n"
        "7 [1073741863] getpid() = -1 ENOSYS (Function not implemented)\n"
        "7 [ 102] socket(0x1, 0x1, 0) = 3\n"
        "7 [ 359] socket(0x1, 0x2, 0) = 4\n"
        "7 [ 117] semget(0x1, 1, 000) = -1 ENOENT (No such file or directory)\n"
        "7 [???] syscall_0xffffffffffffffff(0x2, 0x1, 0, 0, 0, 0) = -1 ENOSYS (Function not implemented)\n",
    )
    assert trace.ledger.entries == {"unresolved_nr": 1}
    assert [(o.arch, o.nr, o.args[:2]) for o in trace.observations] == [
        ("i386", 20, (None, None)),
        ("i386", 102, (1, None)),
        ("i386", 117, (2, None)),
        ("i386", 359, (1, 2)),
        ("x32", 0x40000027, (None, None)),
        ("x86_64", 39, (None, None)),
        ("x86_64", 0xFFFFFFFF, (None, None)),
    ]


def test_names_tell_the_arch_where_nothing_else_does(tmp_path: Path) -> None:
    """A program that makes a call only i386 has is an i386 program, from its first call on."""
    i386 = read(
        tmp_path, START + "7 brk(NULL) = 0x1\n7 mmap2(NULL, 8192, 0x3, 0x22, -1, 0) = 0xf7\n7 close(3) = 0\n"
    )
    assert {(o.arch, o.nr) for o in i386.observations} == {("i386", 45), ("i386", 192), ("i386", 6)}
    native = read(tmp_path, START + '7 brk(NULL) = 0x1\n7 newfstatat(3, "", {}, 0x1000) = 0\n')
    assert {o.arch for o in native.observations} == {"x86_64"}


def test_personality_messages_tell_the_arch(tmp_path: Path) -> None:
    """The messages of strace about 32-bit mode are believed, for programs and for single calls."""
    trace = read(
        tmp_path,
        START
        + "7 [ Process PID=7 runs in 32 bit mode. ]\n"
        + "7 getpid() = 7\n"
        + "7 [ Process PID=7 runs in 64 bit mode. ]\n"
        + "7 getpid() = 7\n",
    )
    assert [(o.arch, o.nr) for o in trace.observations] == [("i386", 20), ("x86_64", 39)]


def test_ambiguous_i386_calls_are_not_guessed(tmp_path: Path) -> None:
    """A socket call in an i386 log may be socketcall: without -n it is a loss, not a guess."""
    trace = read(tmp_path, START + "7 mmap2(NULL, 1, 0, 0, -1, 0) = 0x1\n7 socket(0x1, 0x1, 0) = 3\n")
    assert trace.ledger.entries == {"log_incomplete": 1}
    assert "strace -n tells" in trace.ledger.details["log_incomplete"][0]


def test_register_pairs_are_taken_apart(tmp_path: Path) -> None:
    """64-bit numbers that i386 passes in two registers do not shift the arguments behind them."""
    trace = read(
        tmp_path,
        START
        + "7 _llseek(5, 8589934592, [8589934592], SEEK_END) = 0\n"
        + "7 fadvise64_64(5, 0, 10, POSIX_FADV_WILLNEED) = 0\n"
        + "7 sync_file_range(5, 0, 5, SYNC_FILE_RANGE_WRITE) = 0\n",
    )
    calls = by_name(trace)
    assert calls["_llseek"][0].args[4] == 2
    assert calls["fadvise64_64"][0].args[5] == 3
    assert calls["sync_file_range"][0].args[5] == 2


END = "7 exit_group(0) = ?\n7 +++ exited with 0 +++\n"


@pytest.mark.parametrize("pid", ["7 ", ""])
def test_a_log_without_its_beginning_is_not_complete(tmp_path: Path, pid: str) -> None:
    """A log of a process that ran before has calls but no program, and says that it is not whole."""
    trace = read(tmp_path, ("7 getpid() = 7\n7 getpid() = 7\n" + END).replace("7 ", pid))
    assert {o.program.path for o in trace.observations} == {"?"}
    assert [o.count for o in by_name(trace)["getpid"]] == [2]
    assert trace.meta.complete  # it was followed to its end
    assert trace.ledger.entries == {"log_incomplete": 1}
    assert "does not begin with the start of a program" in trace.ledger.details["log_incomplete"][0]


@pytest.mark.parametrize(
    "text",
    [
        "7 socket(0x1, 0x1, 0) = 3\n7 +++ exited with 0 +++\n",  # -e trace=network
        "7 +++ exited with 0 +++\n",  # -e trace=network, nothing of that made
        START + "7 socket(0x1, 0x1, 0) = 3\n7 +++ exited with 0 +++\n",  # -e trace=network,execve
        START + "7 fork() = 8\n8 getpid() = 8\n8 +++ exited with 0 +++\n" + END,  # -z leaves out exits
    ],
)
def test_a_filtered_log_is_not_complete(tmp_path: Path, text: str) -> None:
    """A process that ends by itself without having called exit shows that its log leaves calls out."""
    trace = read(tmp_path, text)
    assert "log_incomplete" in trace.ledger.entries
    assert "written with" in " ".join(trace.ledger.details["log_incomplete"])


@pytest.mark.parametrize("end", ["exit_group", "execve"])
def test_threads_that_another_ends_hide_nothing(tmp_path: Path, end: str) -> None:
    """Threads end without a call of their own when another calls exit_group or execve, whoever writes first."""
    text = (
        START
        + "7 clone(child_stack=0x1, flags=CLONE_VM|CLONE_THREAD) = 8\n"
        + "8 pause( <unfinished ...>\n"
        + (
            "7 exit_group(0) = ?\n8 <... pause resumed>) = ?\n8 +++ exited with 0 +++\n"
            if end == "exit_group"
            else '7 execve("/bin/y", ["y"], 0x1 /* 0 vars */ <unfinished ...>\n'
            "8 <... pause resumed>) = ?\n8 +++ exited with 0 +++\n7 <... execve resumed>) = 0\n"
            "7 exit_group(0) = ?\n"
        )
        + "7 +++ exited with 0 +++\n"
    )
    trace = read(tmp_path, text)
    assert trace.ledger.total == 0
    assert trace.is_complete


def test_the_files_of_one_log_are_one_run(tmp_path: Path) -> None:
    """Files of -ff are grouped by who bore whom; logs that only look like them each are a run."""
    files = sorted(VARIED.glob("files.log.*"))
    assert runs_of([VARIED / "raw.log", *reversed(files)]) == [[VARIED / "raw.log"], [*reversed(files)]]
    numbered = [tmp_path / "log.1", tmp_path / "log.2"]
    for path in numbered:
        path.write_text(START + "7 fork() = 2\n" + END)
    assert runs_of(numbered) == [[path] for path in numbered]
    alone = [tmp_path / "other.1", tmp_path / "other.2"]
    for path in alone:
        path.write_text((START + END).replace("7 ", ""))
    assert runs_of(alone) == [[path] for path in alone]


@pytest.mark.parametrize(
    ("text", "args", "rest"),
    [
        ("", [], None),
        (") = 0", [], " = 0"),
        ('3, "a, (b\\")", 5) = 5', ["3", '"a, (b\\")"', "5"], " = 5"),
        ('{a=1, b=[1, 2]}, "x"..., 3) = ?', ["{a=1, b=[1, 2]}", '"x"...', "3"], " = ?"),
        ("3</tmp/a, (b)>, 4) = 0", ["3</tmp/a, (b)>", "4"], " = 0"),
        ("3<TCP:[1.2.3.4:5->6.7.8.9:10]>, [128 => 16]) = 4", ["3<TCP:[1.2.3.4:5->6.7.8.9:10]>", "[128 => 16]"], " = 4"),
        ("1</dev/pts/0<char 136:0>>, 0x5401 /* TCGETS, (x) */) = 0", ["1</dev/pts/0<char 136:0>>", "0x5401 /* TCGETS, (x) */"], " = 0"),
        ("{effective=1<<CAP_CHOWN|1<<CAP_KILL}, 2) = 0", ["{effective=1<<CAP_CHOWN|1<<CAP_KILL}", "2"], " = 0"),
        ("<... resuming interrupted nanosleep ...>) = 0", ["<... resuming interrupted nanosleep ...>"], " = 0"),
        ("0x1, FUTEX_WAIT", ["0x1", "FUTEX_WAIT"], None),
    ],
)  # fmt: skip
def test_calls_are_split_at_their_own_commas(text: str, args: list[str], rest: str | None) -> None:
    """Commas and parentheses inside strings, structs, decorations and comments divide nothing."""
    assert split_call(text) == (args, rest)


@pytest.mark.parametrize(
    ("name", "index", "text", "value"),
    [
        ("openat", 2, "O_RDONLY|O_CLOEXEC", 0o2000000),
        ("openat", 2, "0x80000 /* O_RDONLY|O_CLOEXEC */", 0o2000000),
        ("openat", 3, "0640", 0o640),
        ("openat", 3, "000", 0),
        ("mmap", 3, "MAP_PRIVATE|0x5000 /* MAP_??? */", 0x5002),
        ("statx", 2, "|0x1800", 0x1800),
        ("kill", 1, "SIGRT_8", 40),
        ("kill", 1, "9 /* SIGKILL */", 9),
        ("ioctl", 1, "SNDCTL_TMR_TIMEBASE or TCGETS", 0x5401),
        ("ioctl", 1, "_IOC(_IOC_READ|_IOC_WRITE, 0x54, 0x30, 0x4)", 0xC0045430),
        ("socket", 2, "htons(ETH_P_ALL)", None),
        ("socket", 2, "htons(3)", 0x300),
        ("rt_sigprocmask", 0, "NULL", 0),
        ("socket", 0, "?", None),
        ("socket", 0, "{x}", None),
    ],
)
def test_values_of_every_spelling(name: str, index: int, text: str, value: int | None) -> None:
    """Symbols, numbers, both, octal modes and strace's own macros become the number the kernel was given."""
    (spec,) = (s for s in constrained_args("x86_64", name) if s.index == index)
    found = argument_value("x86_64", spec, text)
    if name == "socket" and "ETH_P" in text:
        assert found in (None, 0x300)  # None where the symbol is not in the set of this argument
    else:
        assert found == value


@given(st.text(max_size=60))
def test_no_line_breaks_the_parser(text: str) -> None:
    """Whatever stands in a line, reading it gives a line or None, and splitting it ends."""
    line = parse_line(text)
    split_call(line.text if line else text)


@given(st.binary(max_size=20))
def test_quoted_paths_come_back(raw: bytes) -> None:
    """A path in strace's octal escapes is the path it was."""
    quoted = '"' + "".join(f"\\{byte:03o}" for byte in raw) + '"'
    path = unquote(quoted)
    assert path is not None
    assert path.encode("utf-8", "surrogateescape") == raw


def test_paths_cut_short_are_no_paths() -> None:
    """A string that strace cut is not taken for a path."""
    assert unquote('"/bin/tru"...') is None
    assert unquote("0x7f00") is None


def test_an_unknown_native_arch_is_refused(tmp_path: Path) -> None:
    """The arch given for a log must be one that is known."""
    with pytest.raises(AbiError):
        read(tmp_path, START, arch="vax")
