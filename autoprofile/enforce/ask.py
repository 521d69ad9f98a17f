"""Ask the person at the terminal about a call: once, always, or deny.

A `CallEvent` in, a `Verdict` out, through /dev/tty. The target may use the same terminal and is not trusted:

* the question is put by a helper process in a process group of its own that takes the terminal's foreground
  while it waits, so that the target cannot read the answer away: the kernel stops it if it tries, reads that
  wait already are made to try again, and it is continued afterwards;
* to let a call pass a fresh code has to be typed, which the target cannot know: input that it pushed into the
  terminal beforehand or meanwhile (TIOCSTI) permits nothing. A wrong code refuses the call for good, and
  after three of them nothing is asked any more: guessing has three chances in four thousand million;
* whatever it chose itself (names, paths) is shown with control characters escaped.

Anything but a clear answer refuses.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import termios
import threading
import time
from typing import TYPE_CHECKING, Final

from autoprofile.enforce.judge import Verdict
from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.profile.action import Action

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoprofile.enforce.judge import CallEvent

__all__ = ["TerminalJudge"]

_TTY: Final = "/dev/tty"
_LINE_LIMIT: Final = 256
_LOOK_MS: Final = 200  # how often to see whether the caller still waits for the answer
_STOP_S: Final = 2.0
_READS: Final = frozenset({0, 19, 3, 145, 63, 65})  # read and readv, of x86_64, i386 and the generic table
_ONCE, _ALWAYS, _DENY, _WRONG, _NO_ANSWER = b"o", b"a", b"d", b"w", b"-"
_CODE_BYTES: Final = 4
_WRONG_CODES: Final = 3  # of a run
_EXTPROC: Final = 0o200000  # asm-generic/termbits.h; the line is edited at the other end, not by the kernel
_NONE: Final = b"\0"  # _POSIX_VDISABLE
# The editing characters of a terminal (asm-generic/termbits-common.h, INIT_C_CC).
_CHARACTERS: Final = {
    termios.VINTR: b"\x03",
    termios.VQUIT: b"\x1c",
    termios.VERASE: b"\x7f",
    termios.VKILL: b"\x15",
    termios.VEOF: b"\x04",
    termios.VSTART: b"\x11",
    termios.VSTOP: b"\x13",
    termios.VSUSP: b"\x1a",
    termios.VREPRINT: b"\x12",
    termios.VDISCARD: b"\x0f",
    termios.VWERASE: b"\x17",
    termios.VLNEXT: b"\x16",
    termios.VEOL: _NONE,
    termios.VEOL2: _NONE,
    termios.VSWTC: _NONE,
}


class TerminalJudge:
    """Ask at the terminal.

    An answer "always" or "deny", or a wrong code, holds for the rest of the run and for every call of the
    same program with the same arguments as shown, wherever in its code; "once" for this call alone.

    Args:
        is_ours: tells whether a process group belongs to the supervised program or to this job, so that the
            terminal may be taken from it; another job's terminal is left alone, and the call is refused.

    Raises:
        UsageError: there is no terminal.
    """

    by = "user"

    def __init__(self, is_ours: Callable[[int], bool] | None = None) -> None:
        try:
            fd = os.open(_TTY, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(
                f"--ask needs a terminal, and there is none ({error.strerror})",
                hint="run it from a terminal, or decide with --hook FILE.py:function",
            ) from error
        os.close(fd)
        if threading.current_thread() is threading.main_thread():
            # The stop is for the whole process group, and we may be in it. A handler, not SIG_IGN: that would
            # be inherited by the program.
            signal.signal(signal.SIGTTIN, lambda _signum, _frame: None)
        self._is_ours = is_ours or _descends_from_us
        self._answers: dict[tuple[object, ...], Verdict] = {}
        self._wrong_codes = 0
        self._lock = threading.Lock()  # several supervisors, one for each attached process, share a terminal

    def judge(self, event: CallEvent, waits: Callable[[], bool]) -> Verdict | None:
        """Ask about one call, or give the answer that holds for it; withdraw the question if the caller ends.

        Raises:
            AutoprofileError: the question cannot be put.
        """
        key = (
            event.program,
            event.build_id,
            event.arch,
            event.nr,
            tuple(sorted(event.decoded.items())) if event.decoded else event.args,
        )
        while not self._lock.acquire(timeout=_LOOK_MS / 1000):
            if not waits():
                return None
        try:
            known = self._answers.get(key)
            return known or self._answer(key, _question(event), waits)
        finally:
            self._lock.release()

    def _answer(self, key: tuple[object, ...], question: str, waits: Callable[[], bool]) -> Verdict | None:
        if self._wrong_codes >= _WRONG_CODES:
            raise AutoprofileError(
                f"{_WRONG_CODES} wrong codes came from the terminal, perhaps the program's guesses: "
                "calls are refused unasked"
            )
        answer = self._ask(question, secrets.token_hex(_CODE_BYTES), waits)
        if answer == _WRONG:
            self._wrong_codes += 1
        if answer == _ONCE:
            return Verdict(Action.ALLOW, remember=False)
        if answer == _NO_ANSWER:
            return None
        verdict = Verdict(Action.ALLOW if answer == _ALWAYS else Action.errno("EPERM"))
        self._answers[key] = verdict
        return verdict

    def _ask(self, question: str, code: str, waits: Callable[[], bool]) -> bytes:
        try:
            tty = os.open(_TTY, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise AutoprofileError(
                f"the terminal is gone ({error.strerror}): calls are refused unasked"
            ) from error
        try:
            before = os.tcgetpgrp(tty)
            if not self._is_ours(before):
                raise AutoprofileError("the terminal belongs to another job: calls are refused unasked")
            return _in_foreground(tty, before, question, code, waits)
        except (OSError, termios.error) as error:
            raise AutoprofileError(
                f"cannot ask at the terminal ({os.strerror(error.args[0])}): calls are refused"
            ) from error
        finally:
            os.close(tty)


def _in_foreground(tty: int, before: int, question: str, code: str, waits: Callable[[], bool]) -> bytes:
    attributes = termios.tcgetattr(tty)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # A read of the target's while it is in the background stops its whole process group, and this process
    # may be in it; a change of the foreground from the background would stop us, too.
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP})
    pid = 0
    try:
        pid = os.fork()
        if pid == 0:
            _helper(tty, before, question, code, writer)
        os.close(writer)
        writer = -1
        return _answer_from(reader, pid, waits)
    finally:
        if writer >= 0:
            os.close(writer)
        os.close(reader)  # ends a helper that still asks
        if pid > 0:
            os.waitpid(pid, 0)
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(tty, termios.TCSANOW, attributes)
        with contextlib.suppress(OSError):
            os.tcsetpgrp(tty, before)
        # Whoever was stopped for reading goes on; to the others SIGCONT is nothing. It also takes back a stop
        # that is pending for this process.
        with contextlib.suppress(OSError):
            os.killpg(before, signal.SIGCONT)
        signal.pthread_sigmask(signal.SIG_SETMASK, kept)


def _answer_from(reader: int, pid: int, waits: Callable[[], bool]) -> bytes:
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    while not poller.poll(_LOOK_MS):
        if not waits():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return _NO_ANSWER
    # Nothing to read: Ctrl-C or a hang-up has ended the helper.
    return os.read(reader, 1) or _NO_ANSWER


def _helper(tty: int, before: int, question: str, code: str, writer: int) -> None:
    # The child of the fork: never returns, and calls little but the kernel.
    try:
        for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        # Somebody else who takes the terminal leaves us with EIO instead of stopped, hence without an answer.
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        os.setpgid(0, 0)
        os.tcsetpgrp(tty, os.getpid())
        _interrupt_readers(before)
        _make_sane(tty)
        os.write(writer, _dialogue(tty, question, code, writer))
    finally:
        os._exit(0)


def _interrupt_readers(group: int) -> None:
    # The kernel looks whether a reader is in the foreground when the read begins (n_tty_read()): one that has
    # waited since before would get the answer. Stopped and continued, it begins again, and is stopped.
    for tid in _reading_threads(group):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(tid, signal.SIGSTOP)
            deadline = time.monotonic() + _STOP_S
            while _stat_of(tid)[0] not in ("T", "Z", "") and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(tid, signal.SIGCONT)


def _reading_threads(group: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdecimal() or _stat_of(int(name))[1:] != (group,) or int(name) == os.getppid():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            for tid in os.listdir(f"/proc/{name}/task"):  # noqa: PTH208
                with open(f"/proc/{name}/task/{tid}/syscall", "rb") as file:  # noqa: PTH123
                    words = file.read().split()
                if int(words[0]) in _READS:
                    link = os.readlink(f"/proc/{name}/fd/{int(words[1], 16) & 0xFFFFFFFF}")  # noqa: PTH115
                    if link.startswith(("/dev/pts/", "/dev/tty", "/dev/console")):
                        found.append(int(tid))
    return found


def _stat_of(tid: int) -> tuple[str, int]:
    # State and process group (proc(5), stat); ("", 0) when it is gone.
    try:
        with open(f"/proc/{tid}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[2])
    except (OSError, IndexError, ValueError):
        return "", 0


def _make_sane(tty: int) -> None:
    # The target may have the terminal in raw mode, or let other characters end and edit a line. Flushing
    # drops what was typed or pushed before.
    sane = termios.tcgetattr(tty)
    sane[0] &= ~(termios.INLCR | termios.IGNCR | termios.ISTRIP)
    sane[0] |= termios.ICRNL
    sane[1] |= termios.OPOST | termios.ONLCR
    sane[2] |= termios.CREAD
    sane[3] &= ~_EXTPROC
    sane[3] |= termios.ICANON | termios.ECHO | termios.ECHOE | termios.ISIG | termios.IEXTEN
    for index, character in _CHARACTERS.items():
        sane[6][index] = character
    termios.tcsetattr(tty, termios.TCSAFLUSH, sane)


def _dialogue(tty: int, question: str, code: str, writer: int) -> bytes:
    prompt = f"  Enter or d = deny; o {code} = allow once; a {code} = allow always > "
    _write(tty, f"\n{question}\n{prompt}")
    for _ in range(3):
        line = _read_line(tty, writer)
        if line is None:
            return _NO_ANSWER
        words = line.split()
        if not words or words == ["d"] or words == ["deny"]:
            return _DENY
        if len(words) > 1 and words[0] in ("o", "once", "a", "always"):
            if words[1:] != [code]:
                _write(tty, "  this is not the code: the call is refused\n")
                return _WRONG
            return _ONCE if words[0][0] == "o" else _ALWAYS
        _write(tty, f"  not understood; type the code {code} too to allow it\n{prompt}")
    return _NO_ANSWER


def _read_line(tty: int, writer: int) -> str | None:
    # A line of the terminal's own line discipline; None at the end of the input (Ctrl-D) or a hang-up, when
    # nobody waits for the answer any more, and for what does not end as a line (a target that ignores SIGTTOU
    # may change the terminal even now).
    poller = select.poll()
    poller.register(tty, select.POLLIN)
    poller.register(writer, 0)
    if any(fd == writer for fd, _ in poller.poll()):
        return None
    data = os.read(tty, _LINE_LIMIT)
    return data.decode("ascii", "replace") if data.endswith(b"\n") else None


def _write(tty: int, text: str) -> None:
    data = text.encode("ascii", "backslashreplace")
    while data:
        data = data[os.write(tty, data) :]


def _question(event: CallEvent) -> str:
    name = event.syscall or f"syscall {event.nr}"
    arguments = ", ".join(f"{key}={value}" for key, value in event.decoded.items())
    if not event.decoded:
        arguments = ", ".join(f"{value:#x}" for value in event.args)
    arch = "" if event.arch == "x86_64" else f" [{event.arch}]"
    lines = [f"autoprofile: {_shown(event.program)} (process {event.pid}, {_shown(event.comm)}) wants"]
    lines.append(f"  {name}({_shown(arguments)}){arch}")
    if event.location:
        symbol = f" ({_shown(event.symbol)})" if event.symbol else ""
        lines.append(f"  from {_shown(event.location)}{symbol}")
    if event.severity:
        lines.append(f"  risk: {event.severity}: {event.risk}")
    return "\n".join(lines)


def _shown(text: str) -> str:
    # Escape sequences in a program's name must not paint another question over this one.
    return "".join(c if c.isascii() and c.isprintable() else ascii(c)[1:-1] for c in text)[:300]


def _descends_from_us(group: int) -> bool:
    if group == os.getpgrp():
        return True
    pid = group
    for _ in range(64):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
        if parent == os.getpid():
            return True
        if parent <= 1:
            return False
        pid = parent
    return False
