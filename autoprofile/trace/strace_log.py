"""Traces from strace's logs: ``strace -f -X raw -o LOG``, and most other ways of writing one.

In: log files. Out: a `Trace`; every line that could not be understood is a loss with its line number. Nothing
is guessed from this machine. Logs carry no arch unless written with ``-n`` (the number then tells)
or with strace's messages about personalities; without both it is inferred from each program's call names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoprofile.abi.arch import ARCHES, arch_from_audit, compat_arches
from autoprofile.abi.arch import arch as known_arch
from autoprofile.abi.constants import errno_number, signal_number
from autoprofile.errors import AutoprofileError
from autoprofile.observations import OK, RETURN, Cell, Counter, Recorder, Trace, TraceMeta
from autoprofile.trace.strace_call import CallReader, UnreadableError, is_new_thread
from autoprofile.trace.strace_files import in_order_of_birth, lines_of
from autoprofile.trace.strace_line import Line, parse_line, split_call, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["trace_from_strace_log"]

_SPAWNS: Final = frozenset({"clone", "clone3", "fork", "vfork"})
_EXECS: Final = frozenset({"execve", "execveat"})
_INFERENCE_LINES: Final = 64  # a program names a call of its own arch long before

# Restart errors as strace prints them behind "?" (include/linux/errno.h); the call has not returned.
_RESTARTS: Final = {
    "ERESTARTSYS": 512,
    "ERESTARTNOINTR": 513,
    "ERESTARTNOHAND": 514,
    "ERESTART_RESTARTBLOCK": 516,
}
_FAILED: Final = re.compile(r"-1 (E[A-Z0-9]+)\b")
_RETURNED: Final = re.compile(r"\s*=\s+(.*)", re.DOTALL)
_PID: Final = re.compile(r"\d+")
_ATTACHED_INSIDE: Final = re.compile(r"strace: Process \d+ attached$")
_DAY_S: Final = 86_400.0
_MODES: Final = {"64 bit": 64, "32 bit": 32}


def trace_from_strace_log(
    paths: str | Path | Sequence[str | Path], *, arch: str = "x86_64", argv: Sequence[str] = ()
) -> Trace:
    """Import what strace wrote about one run.

    Args:
        paths: one log, or all files of a ``-ff`` log (``NAME.PID``).
        arch: the native arch of the machine the log was written on.
        argv: the command; by default that of the log's first execve.

    Raises:
        AutoprofileError: a log cannot be read, or holds no line of strace's.
    """
    files = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    if not files:
        raise AutoprofileError("no strace log given")
    log = _Log(known_arch(arch).name)
    for path, tid in in_order_of_birth(files):
        log.read(path, tid)
    return log.finish(tuple(argv), files)


@dataclass(slots=True)
class _Where:
    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"


@dataclass(slots=True)
class _Task:
    # One thread of the traced program.
    tid: int
    tgid: int
    program: int
    arch: str | None  # None: not known yet, its calls wait in `undecided`
    counter: Counter
    pending: tuple[Line, _Where, int] | None = None  # an unfinished call
    undecided: list[tuple[Line, _Where, int]] = field(default_factory=list)
    has_exited: bool = False


class _Log:
    # Everything known so far about the processes of one log.

    def __init__(self, native: str) -> None:
        self.native = native
        compat = compat_arches(native)
        self.compat = compat[0] if compat else None
        self.recorder = Recorder(returns=True)
        self.calls = CallReader(native)
        self.argv: tuple[str, ...] = ()
        self.has_calls = False
        self.status: int | None = None
        self.understood = 0
        self.tasks: dict[int, _Task] = {}
        self.groups: dict[int, set[int]] = {}
        self.root: int | None = None
        # Lines of threads whose birth has not been reported yet: the child may well write first.
        self.orphans: dict[int, list[tuple[Line, _Where, int]]] = {}
        # Thread groups that called exit_group, and execve; and who ended without having called exit.
        self.ending: set[int] = set()
        self.executed: set[int] = set()
        self.silent: list[tuple[_Task, bool, _Where]] = []
        self.announced: set[int] = set()
        self.modes: dict[int, str] = {}
        self.has_modes = False
        self.first_s: float | None = None
        self.now_s = 0.0
        self.end_ns = 0

    # ------------------------------------------------------------------ reading

    def read(self, path: Path, file_tid: int | None) -> None:
        carried = ""
        if file_tid is not None:
            self.now_s = 0.0  # -r counts from the start of each file
        for number, raw in enumerate(lines_of(path), 1):
            where = _Where(path, number)
            text = carried + raw.rstrip("\n")
            carried = ""
            if (match := _ATTACHED_INSIDE.search(text)) and match.start():
                # On a terminal strace breaks a line to say that a process appeared; the rest follows.
                carried = text[: match.start()]
                text = text[match.start() :]
            self._line(text, where, file_tid)
        if carried:
            self._line(carried, _Where(path, number), file_tid)

    def _line(self, text: str, where: _Where, file_tid: int | None) -> None:
        line = parse_line(text)
        if line is None:
            self._lost(where, f"not understood: {text[:60]!r}")
            return
        self.understood += 1
        if line.kind == "mode":
            self._mode(line)
            return
        if line.kind == "attached":
            self.announced.add(line.tid or 0)
            return
        ts_ns = self._time(line)
        tid = line.tid if line.tid is not None else file_tid
        if tid is None:
            tid = self._only_task()
        elif self.root == 0 and tid not in self.tasks and not self._may_be_child(tid):
            # The first process has no pid in a terminal's log until it has company: this is it.
            self._rename_root(tid)
        if self.root is None:
            self._begin(tid)
        task = self.tasks.get(tid)
        if task is None:
            self.orphans.setdefault(tid, []).append((line, where, ts_ns))
        else:
            self._take(task, line, where, ts_ns)

    def _time(self, line: Line) -> int:
        if line.time_s is None:
            return 0
        if line.is_delta:
            self.now_s += line.time_s
        else:
            time_s = line.time_s
            if self.first_s is None:
                self.first_s = time_s
            # Times of day start again at midnight.
            if time_s < self.first_s and self.first_s - time_s > _DAY_S / 2:
                time_s += _DAY_S
            self.now_s = max(time_s - self.first_s, 0.0)
        ts_ns = round(self.now_s * 1e9)
        self.end_ns = max(self.end_ns, ts_ns)
        return ts_ns

    def _mode(self, line: Line) -> None:
        self.has_modes = True
        bits = _MODES.get(line.name)
        if line.name == "x32" and self.native == "x86_64":
            arch = "x32"
        elif bits == ARCHES[self.native].bits:
            arch = self.native
        else:
            arch = self.compat or self.native
        tid = line.tid if line.tid is not None else 0
        task = self.tasks.get(tid) or (self.tasks.get(0) if self.root == 0 else None)
        if task is None:
            self.modes[tid] = arch
        else:
            self._decide(task, arch)

    # ---------------------------------------------------------------- processes

    def _only_task(self) -> int:
        if self.root is None:
            return 0
        return next(iter(self.tasks)) if len(self.tasks) == 1 else self.root

    def _begin(self, tid: int) -> None:
        self.root = tid
        self._new_task(tid, tid, self.recorder.program("?"), self.native)

    def _may_be_child(self, tid: int) -> bool:
        # Without an announcement (-q) only an unfinished clone of the first process makes a child possible.
        task = self.tasks.get(0)
        is_spawning = task is not None and task.pending is not None and task.pending[0].name in _SPAWNS
        return tid in self.announced or is_spawning

    def _rename_root(self, tid: int) -> None:
        task = self.tasks.pop(0)
        task.tid = tid
        self.root = tid
        self.tasks[tid] = task
        # Its thread group keeps the number 0, which nobody else can have.
        self.groups[task.tgid] = {tid if t == 0 else t for t in self.groups[task.tgid]}

    def _new_task(self, tid: int, tgid: int, program: int, arch: str | None) -> _Task:
        counter = self.recorder.counter(program, tgid)
        task = self.tasks[tid] = _Task(tid, tgid, program, self.modes.pop(tid, arch), counter)
        self.groups.setdefault(tgid, set()).add(tid)
        return task

    def _born(self, parent: _Task, tid: int, *, is_thread: bool) -> None:
        if tid in self.tasks:
            return
        task = self._new_task(tid, parent.tgid if is_thread else tid, parent.program, parent.arch)
        for line, where, ts_ns in self.orphans.pop(tid, []):
            self._take(task, line, where, ts_ns)

    def _gone(self, task: _Task) -> None:
        if task.arch is None:
            self._decide(task, self.native)
        if task.pending is not None:
            line, where, ts_ns = task.pending
            task.pending = None
            self._call(task, line, where, ts_ns)
        self.tasks.pop(task.tid, None)
        threads = self.groups.get(task.tgid, set())
        threads.discard(task.tid)
        if not threads:
            self.groups.pop(task.tgid, None)
            self.recorder.close_process(task.tgid)

    def _take(self, task: _Task, line: Line, where: _Where, ts_ns: int) -> None:
        if line.kind == "call":
            if line.is_unfinished:
                task.pending = (line, where, ts_ns)
            else:
                self._arrived(task, line, where, ts_ns)
        elif line.kind == "resumed":
            self._resumed(task, line, where)
        elif line.kind in ("exited", "killed"):
            if task.tid == self.root:
                code = int(line.name) if line.kind == "exited" else 128 + _signal(line.name)
                self.status = code
            self._gone(task)
            if line.kind == "exited" and not task.has_exited:
                self.silent.append((task, task.tid in (task.tgid, self.root), where))
        elif line.kind == "superseded":
            # The thread that called execve takes over the leader's number, its unfinished call with it.
            former = self.tasks.get(int(line.name))
            task.pending = None
            if former is not None:
                task.pending, former.pending = former.pending, None
                self._gone(former)

    def _resumed(self, task: _Task, line: Line, where: _Where) -> None:
        if task.pending is None:
            self._lost(where, f"{line.name} is resumed, but its beginning is not in the log")
            return
        begun, begun_where, ts_ns = task.pending
        task.pending = None
        whole = Line(
            "call", begun.tid, begun.time_s, begun.is_delta, begun.nr, begun.name, begun.text + line.text
        )
        self._arrived(task, whole, begun_where, ts_ns)

    # -------------------------------------------------------------------- calls

    def _arrived(self, task: _Task, line: Line, where: _Where, ts_ns: int) -> None:
        if task.arch is None and line.nr is None:
            decided = self._arch_of(line.name)
            task.undecided.append((line, where, ts_ns))
            if decided is not None or line.name in _EXECS | _SPAWNS:
                self._decide(task, decided or self.native)
            elif len(task.undecided) >= _INFERENCE_LINES:
                self._decide(task, self.native)
            return
        self._call(task, line, where, ts_ns)

    def _arch_of(self, name: str) -> str | None:
        # The arch that alone has a call of this name.
        if self.compat is None:
            return self.native
        here, there = self.calls.exists(self.native, name), self.calls.exists(self.compat, name)
        if here == there:
            return None
        return self.native if here else self.compat

    def _decide(self, task: _Task, arch: str) -> None:
        task.arch = arch
        waiting, task.undecided = task.undecided, []
        for line, where, ts_ns in waiting:
            self._call(task, line, where, ts_ns)

    def _call(self, task: _Task, line: Line, where: _Where, ts_ns: int) -> None:
        args, rest = split_call(line.text)
        returned = _RETURNED.match(rest) if rest is not None else None
        if rest is not None and returned is None:
            self._lost(where, f"{line.name} has no return value")
            return
        result = returned[1] if returned else "?"
        # The execve that strace itself makes to start the program is not the program's.
        is_first = not self.has_calls and line.name in _EXECS and result.startswith("0")
        if not self.has_calls and not is_first:
            self._lost(
                where, "the log does not begin with the start of a program: written with -p, or with a filter"
            )
        self.has_calls = True
        if not is_first:
            self._count(task, line, args, result, where, ts_ns)
        if line.name in ("exit", "exit_group"):
            self._exited(task, line.name, args)
        elif line.name in _EXECS and result.startswith("0"):
            self._executed(task, line.name, args)
        elif line.name in _SPAWNS and (match := _PID.match(result)) and int(match[0]) > 0:
            self._born(task, int(match[0]), is_thread=is_new_thread(line.name, line.text))

    def _count(
        self, task: _Task, line: Line, args: list[str], result: str, where: _Where, ts_ns: int
    ) -> None:
        try:
            code, values = self.calls.read(task.arch or self.native, line.name, line.nr, args)
        except UnreadableError as error:
            self._lost(where, str(error))
            return
        if task.arch is None and self.calls.is_telling(line.name, line.nr):
            task.arch = arch_from_audit(code >> 32, code & 0xFFFFFFFF)
        _note_return(task.counter(code, values, ts_ns), result)

    def _exited(self, task: _Task, name: str, args: list[str]) -> None:
        # Under -qq the log ends here: strace's own lines about exits are missing.
        task.has_exited = True
        if name == "exit_group":
            self.ending.add(task.tgid)
            for tid in self.groups.get(task.tgid, ()):
                self.tasks[tid].has_exited = True
            if (
                self.root in self.tasks
                and self.tasks[self.root].tgid == task.tgid
                and args
                and args[0].isdigit()
            ):
                self.status = int(args[0]) & 0xFF

    def _executed(self, task: _Task, name: str, args: list[str]) -> None:
        path = unquote(args[0 if name == "execve" else 1]) if len(args) > 1 else None
        if not self.argv and task.tid == self.root and len(args) > 1:
            self.argv = _argv(args[1 if name == "execve" else 2])
        self.executed.add(task.tgid)
        for tid in self.groups.get(task.tgid, set()) - {task.tid}:
            if (thread := self.tasks.get(tid)) is not None:
                self._gone(thread)
        task.program = self.recorder.program(path or "?")
        task.counter = self.recorder.counter(task.program, task.tgid)
        # A new program may be of another arch; strace's own messages, when there are any, will say so.
        task.arch = task.arch if self.has_modes else None

    # ---------------------------------------------------------------------- end

    def _lost(self, where: _Where, why: str) -> None:
        self.recorder.ledger.add("log_incomplete", detail=f"{where}: {why}")

    def _note_filter(self) -> None:
        # Nobody ends by itself without a call, but for the threads of which another's exit_group or execve
        # makes an end: then calls are missing. Not all filters are found so: `-e trace=process` shows exits.
        for task, is_leader, where in self.silent:
            if task.tgid not in self.ending and (is_leader or task.tgid not in self.executed):
                self._lost(where, f"the call that ended {task.tid} is missing: written with a filter (-e)")
                return

    def finish(self, argv: tuple[str, ...], files: Iterable[Path]) -> Trace:
        if not self.understood:
            names = ", ".join(str(f) for f in files)
            raise AutoprofileError(
                "no strace log: not a single line is one of strace's",
                where=names,
                hint="write one with: strace -f -n -X raw -o LOG COMMAND",
            )
        for tid in list(self.orphans):
            lines = self.orphans.pop(tid, [])
            if not lines:
                continue
            if self.root == 0:
                self._rename_root(tid)
                task = self.tasks[tid]
            else:
                first, where, _ = lines[0]
                if first.name not in _EXECS:
                    self._lost(where, f"process {tid}: the log does not say who started it")
                task = self._new_task(tid, tid, self.recorder.program("?"), None)
            for line, where, ts_ns in lines:
                self._take(task, line, where, ts_ns)
        self._note_filter()
        is_whole = self.status is not None and all(task.has_exited for task in self.tasks.values())
        for task in list(self.tasks.values()):
            self._gone(task)
        return self.recorder.finish(
            TraceMeta(
                backend="strace_log",
                argv=argv or self.argv,
                start_time_s=self.first_s if self.first_s and self.first_s > _DAY_S else None,
                duration_ns=self.end_ns,
                exit_status=self.status,
                complete=is_whole,
            )
        )


def _note_return(cell: Cell, result: str) -> None:
    if match := _FAILED.match(result):
        try:
            Recorder.returned(cell, errno_number(match[1]))
        except AutoprofileError:
            Recorder.returned(cell, 4095)  # MAX_ERRNO: an error whose name this table lacks
    elif result.startswith("?"):
        for name, number in _RESTARTS.items():
            if name in result:
                Recorder.returned(cell, number)
    else:
        cell[OK] += 1
        cell[RETURN] = 0


def _signal(name: str) -> int:
    try:
        return signal_number(name)
    except AutoprofileError:
        return 0


def _argv(text: str) -> tuple[str, ...]:
    # ["ls", "-l"]; strace cuts long words short ("abc"...), which shows.
    if not text.startswith("["):
        return ()
    words, _ = split_call(text[1:])
    return tuple(
        plain + "…" if word.endswith('"...') else plain
        for word in words
        if (plain := unquote(word.removesuffix("..."))) is not None
    )
