"""Who called the code that made a call: return addresses found on the stack of a waiting thread.

A thread in a notification keeps its registers to itself (reading them takes a ptrace stop, which would cancel
the call), but /proc shows its stack pointer. So the stack is scanned for words that follow a call instruction
in mapped code, and a direct call counts only where its target is the function of the frame within. Bounded in
words and frames. It is evidence for people: a frame that has returned may show, and one may be missing.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from autoprofile.trace.maps import Mapping, read_maps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.trace.code_location import CodeLocation, CodeLocator

__all__ = ["FRAMES_LIMIT", "Unwinder"]

#: Frames given, and words of the stack looked at (32 KiB on 64-bit programs).
FRAMES_LIMIT = 16
_WORDS_LIMIT = 4096

# Longest call instruction looked for before a return address: FF /2 with SIB and 32-bit displacement.
_CALL_BYTES = 7


class Unwinder:
    """Find the callers of threads that wait in notifications (x86 only: elsewhere there are none).

    Args:
        locator: names the places.
    """

    def __init__(self, locator: CodeLocator) -> None:
        self._locator = locator

    def backtrace(self, tid: int, ip: int) -> tuple[str, ...]:
        """Return the places that led to `ip`, the innermost first, itself left out; empty when unreadable.

        Takes about 100 µs for each frame. The thread must wait in a notification.
        """
        if os.uname().machine not in ("x86_64", "i686"):
            return ()
        try:
            with open(f"/proc/{tid}/syscall", "rb") as file:  # noqa: PTH123
                stack = int(file.read().split()[7], 16)
            code = [m for m in read_maps(tid) if m.is_file and m.is_executable]
            memory = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError, IndexError):
            return ()
        try:
            return tuple(self._frames(tid, ip, stack, code, memory))
        except OSError:
            return ()
        finally:
            os.close(memory)

    def _frames(self, tid: int, ip: int, stack: int, code: list[Mapping], memory: int) -> Iterator[str]:
        word = 4 if stack < 1 << 32 else 8
        data = os.pread(memory, _WORDS_LIMIT * word, stack)
        inner = self._locator.locate(tid, ip)
        frames = 0
        low, high = (code[0].start, code[-1].end) if code else (0, 0)
        for (value,) in struct.iter_unpack("=I" if word == 4 else "=Q", data[: len(data) - len(data) % word]):
            if not low < value < high or not any(m.start < value < m.end for m in code):
                continue
            before = os.pread(memory, _CALL_BYTES, value - _CALL_BYTES)
            if not _ends_with_call(before):
                continue
            if before[-5] == 0xE8 and not self._leads_to(tid, value, before, inner):
                continue
            inner = self._locator.locate(tid, value)
            yield inner.symbolic
            frames += 1
            if frames >= FRAMES_LIMIT:
                return

    def _leads_to(self, tid: int, value: int, before: bytes, inner: CodeLocation) -> bool:
        # A direct call reaches another file through the PLT, which has no symbols: that, and a call of any
        # other place without a symbol, is believed. A named function has to be that of the frame within.
        target = value + int.from_bytes(before[-4:], "little", signed=True)
        called = self._locator.locate(tid, target + 1)
        if called.symbol is None or (called.path == inner.path and inner.symbol is None):
            return called.path is not None
        return (called.path, _function(called)) == (inner.path, _function(inner))


def _function(place: CodeLocation) -> str | None:
    return place.symbol.rpartition("+")[0] if place.symbol else None


def _ends_with_call(before: bytes) -> bool:
    """Tell whether bytes end with a near call (Intel SDM vol. 2, CALL: E8 rel32 and FF /2)."""
    if len(before) < _CALL_BYTES:
        return False
    if before[-5] == 0xE8:
        return True
    # FF /2: ModRM has 010 in its middle; the length follows from mod and rm.
    for length in (2, 3, 4, 6, 7):
        if before[-length] != 0xFF:
            continue
        modrm = before[-length + 1]
        if modrm >> 3 & 7 != 2:
            continue
        mod, rm = modrm >> 6, modrm & 7
        if mod == 3:
            size = 2
        else:
            size = 2 + (rm == 4) + (4 if mod == 2 or (mod == 0 and rm == 5) else 1 if mod == 1 else 0)
        if size == length:
            return True
    return False
