"""The grammar of one line of strace's output, and of the values in it.

In: a line of text. Out: what kind of line it is, with the call's name, argument texts and return text.
Nothing here knows processes or keeps state; what is no line of strace is None, never a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from autoprofile.abi.arch import AbiError
from autoprofile.abi.constants import encode_value

if TYPE_CHECKING:
    from autoprofile.abi.signatures import ArgSpec

__all__ = ["Line", "argument_value", "flags_value", "parse_line", "split_call", "unquote"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log.

    Args:
        kind: ``call`` (whole or unfinished), ``resumed``, ``exited``, ``killed``, ``superseded``, ``mode``,
            ``attached``, or ``other`` (signals, stops, stack frames, blank lines).
        tid: the thread the line belongs to, None when the log does not say.
        time_s: seconds, from whatever the log's clock starts at; None without timestamps.
        is_delta: `time_s` counts from the line before (``-r``).
        nr: the syscall number, from ``-n``.
        name: syscall name; exit code, signal name, pid or mode of the other kinds.
        text: the text after the opening parenthesis (``call``), after ``resumed>`` (``resumed``).
        is_unfinished: the call goes on in a later ``resumed`` line.
    """

    kind: str
    tid: int | None = None
    time_s: float | None = None
    is_delta: bool = False
    nr: int | None = None
    name: str = ""
    text: str = ""
    is_unfinished: bool = False


# pid (from -f), with the command's name under -Y; never followed by "." or ":" which would make it a time.
_PID: Final = re.compile(r"(?:\[pid\s+(\d+)(?:<[^>]*>)?\] |(\d{1,7})(?:<[^>]*>)?\s+)")
# -t -tt: time of day; -ttt: seconds since the epoch; -r: seconds since the line before; -r -t: both.
_TIME: Final = re.compile(
    r"\s*(?:(?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d(?:\.\d+)?)|(?P<seconds>\d+\.\d+|\d{8,}))"
    r"(?: \(\+\s*\d+\.\d+\))?\s+"
)
_NR: Final = re.compile(r"\[\s*(\d{1,10}|\?\?\?)\] ")  # -n
_IP: Final = re.compile(r"\[(?:[0-9a-f]{8}|[0-9a-f]{16}|\?{8}|\?{16})\] ")  # -i
_CALL: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*(?:#\d+)?)\(")
_RESUMED: Final = re.compile(r"<\.\.\. ([A-Za-z_][A-Za-z0-9_]*(?:#\d+)?) resumed>\s?")
_EXITED: Final = re.compile(r"\+\+\+ exited with (\d+) \+\+\+")
_KILLED: Final = re.compile(r"\+\+\+ killed by (SIG\w+)")
_SUPERSEDED: Final = re.compile(r"\+\+\+ superseded by execve in pid (\d+) \+\+\+")
_MODE: Final = re.compile(r"\[ Process PID=(\d+) runs in (.+) mode\. \]")
_ATTACHED: Final = re.compile(r"strace: Process (\d+) (?:attached|detached)")
_UNFINISHED: Final = re.compile(r"\s*<unfinished \.\.\.>\s*$")
_OTHER: Final = re.compile(r"--- .* ---$|\+\+\+ .*|> .*|$")
_RELATIVE_BELOW: Final = (
    100_000_000  # seconds: no log was written before 1973, no two lines are 3 years apart
)


def parse_line(line: str) -> Line | None:
    """Return what a line says, None when it is no line of strace's."""
    if match := _ATTACHED.match(line):
        return Line("attached", int(match[1]))
    tid: int | None = None
    at = 0
    if match := _PID.match(line):
        tid, at = int(match[1] or match[2]), match.end()
    time_s, is_delta = None, False
    if match := _TIME.match(line, at):
        at = match.end()
        if match["seconds"]:
            time_s = float(match["seconds"])
            is_delta = time_s < _RELATIVE_BELOW
        else:
            time_s = int(match["h"]) * 3600 + int(match["m"]) * 60 + float(match["s"])
    nr = None
    if match := _NR.match(line, at):
        nr, at = (int(match[1]) if match[1] != "???" else None), match.end()
    if match := _IP.match(line, at):
        at = match.end()
    stamp = (tid, time_s, is_delta, nr)
    body = line[at:].strip("\n")
    if match := _CALL.match(body):
        text = body[match.end() :]
        cut = _UNFINISHED.sub("", text)
        return Line("call", *stamp, match[1], cut, cut != text)
    if match := _RESUMED.match(body):
        return Line("resumed", *stamp, match[1], body[match.end() :])
    body = body.strip()
    for kind, pattern in (("exited", _EXITED), ("killed", _KILLED), ("superseded", _SUPERSEDED)):
        if match := pattern.match(body):
            return Line(kind, *stamp, match[1])
    if match := _MODE.match(body):
        return Line("mode", int(match[1]), time_s, is_delta, None, match[2])
    if _OTHER.match(body):
        return Line("other", *stamp)
    return None


# What may hide a comma or a parenthesis, and the brackets themselves.
_MARK: Final = re.compile(r'"(?:[^"\\]|\\.)*"|/\*.*?\*/|[()\[\]{},<]')
_DECORATED: Final = frozenset("0123456789D")  # a number or AT_FDCWD, before the <…> that -y and -Y add


def split_call(text: str) -> tuple[list[str], str | None]:
    """Split what follows a call's opening parenthesis.

    Returns:
        The argument texts, and the text after the closing parenthesis, None when the call has no end here.
    """
    args: list[str] = []
    depth = 0
    start = at = 0
    while match := _MARK.search(text, at):
        mark, at = match[0], match.end()
        if mark == ",":
            if depth == 0:
                args.append(text[start : match.start()].strip())
                start = at
        elif mark in "([{":
            depth += 1
        elif mark in ")]}":
            if depth == 0:
                if last := text[start : match.start()].strip():
                    args.append(last)
                return args, text[at:]
            depth -= 1
        elif mark == "<" and match.start() and text[match.start() - 1] in _DECORATED:
            at = _end_of_decoration(text, at)
    if last := text[start:].strip():
        args.append(last)
    return args, None


def _end_of_decoration(text: str, at: int) -> int:
    # Descriptors may be decorated twice (/dev/pts/0<char 136:0>), and sockets hold an arrow (1.2.3.4:5->6).
    depth, begin = 1, at
    while at < len(text):
        char = text[at]
        at += 1
        if char == "<":
            depth += 1
        elif char == ">" and text[at - 2] != "-":
            depth -= 1
            if depth == 0:
                return at
    return begin  # a lone "<": no decoration after all


_COMMENT: Final = re.compile(r"\s*/\*.*?\*/")
_DECORATION: Final = re.compile(r"^(-?\d+|AT_FDCWD)<.*>$")
_OCTAL: Final = re.compile(r"0[0-7]+")
_RT_SIGNAL: Final = re.compile(r"SIGRT_(\d+)")
_IOC: Final = re.compile(r"_IOC\(([A-Z_|0-9x]+), (0x[0-9a-f]+|\d+), (0x[0-9a-f]+|\d+), (0x[0-9a-f]+|\d+)\)")
_IOC_DIRECTIONS: Final = {"_IOC_NONE": 0, "_IOC_WRITE": 1, "_IOC_READ": 2}  # asm-generic/ioctl.h
_HTONS: Final = re.compile(r"htons\((.*)\)")
_RT_MIN: Final = 32  # the kernel's SIGRTMIN, which strace counts from


def argument_value(arch: str, spec: ArgSpec, text: str) -> int | None:
    """Return the number an argument's text stands for, None when it cannot be told (structs, ``?``).

    Raw numbers (``-X raw``), symbols, and both at once (``-X verbose``) are understood.
    """
    text = _COMMENT.sub("", text).strip()
    if match := _DECORATION.match(text):
        text = match[1]
    if text == "NULL":
        return 0
    if match := _HTONS.fullmatch(text):
        inner = argument_value(arch, spec, match[1])
        return None if inner is None else (inner & 0xFF) << 8 | inner >> 8 & 0xFF
    if match := _IOC.fullmatch(text):
        directions = match[1].split("|")
        direction = 0
        for word in directions:
            if (bits := _IOC_DIRECTIONS.get(word)) is None:
                return None
            direction |= bits
        return direction << 30 | int(match[4], 0) << 16 | int(match[2], 0) << 8 | int(match[3], 0)
    # One number may have several names: "SNDCTL_TMR_TIMEBASE or TCGETS".
    for candidate in text.split(" or "):
        value = 0
        for word in candidate.split("|"):
            part = _word_value(arch, spec, word.strip())
            if part is None:
                break
            value |= part
        else:
            return value
    return None


def _word_value(arch: str, spec: ArgSpec, word: str) -> int | None:
    if not word:
        return 0  # strace leaves a value of 0 out between bars ("|0x1800")
    if _OCTAL.fullmatch(word):
        return int(word, 8)
    if match := _RT_SIGNAL.fullmatch(word):
        return _RT_MIN + int(match[1])
    try:
        return encode_value(arch, spec, word)
    except AbiError:
        return None


_FLAGS: Final = re.compile(r"\bflags=([^,})]*)")


def flags_value(text: str) -> str | None:
    """Return the text of the ``flags=`` field of a clone or clone3 call."""
    match = _FLAGS.search(text)
    return _COMMENT.sub("", match[1]).strip() if match else None


_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-f]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_ESCAPED: Final = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"v": b"\v", b"f": b"\f"}


def unquote(text: str) -> str | None:
    """Return the path in a quoted string, None when it is not one or was cut short."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return None

    def plain(match: re.Match[bytes]) -> bytes:
        if match[1]:
            return bytes([int(match[1], 16)])
        if match[2]:
            return bytes([int(match[2], 8) & 0xFF])
        return _ESCAPED.get(match[3], match[3])

    raw = _ESCAPE.sub(plain, text[1:-1].encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")
