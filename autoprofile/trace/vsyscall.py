"""Which programs can make calls that a tracer does not see: those through the vsyscall page.

Programs of the time before the vDSO, static ones above all, call ``gettimeofday``, ``time`` and ``getcpu`` at
fixed addresses. The kernel does those calls in the page fault (arch/x86/entry/vsyscall/vsyscall_64.c), where
seccomp decides on them, but there is no stop of ptrace(2), no sys_enter and no sys_exit.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from autoprofile.trace.maps import open_mapped_file, read_maps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.trace.maps import Mapping

__all__ = ["HiddenCalls", "vsyscall_mode"]

# mov $0xffffffffff600000 (sign-extended to a register or to memory, or whole), and the two addresses beside
# it: so compilers load what is called next. Not found: an address that is computed, or kept in data, where
# numbers that only look like it abound.
_CALLS: Final = re.compile(rb"[\x48-\x4b](?:\xc7.{1,6}|[\xb8-\xbf])\x00[\x00\x04\x08]\x60\xff", re.DOTALL)
_TAIL: Final = b"\x60\xff"  # found a hundred times faster than the whole pattern
_BEFORE: Final = 10
_AFTER: Final = 2
_CHUNK: Final = 1 << 20


def vsyscall_mode() -> str:
    """Return the kernel's ``vsyscall=`` as a process sees it: ``none``, ``xonly`` or ``emulate``."""
    try:
        page = next((m for m in read_maps(os.getpid()) if m.path == "[vsyscall]"), None)
    except OSError:
        page = None
    if page is None:
        return "none"
    return "emulate" if page.perms.startswith("r") else "xonly"


class HiddenCalls:
    """Look into what processes have mapped; each file is read once.

    Attributes:
        found: paths of files with instructions that call the vsyscall page.
    """

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self._is_possible = vsyscall_mode() != "none"
        self._known: set[tuple[int, int]] = set()

    def look(self, pid: int) -> None:
        """Look at the files whose instructions a process has mapped now; nothing happens if it is gone."""
        if not self._is_possible:
            return
        try:
            mappings = [m for m in read_maps(pid) if m.is_file and m.is_executable]
        except OSError:
            return
        for mapping in mappings:
            key = (mapping.device, mapping.inode)
            if key in self._known:
                continue
            self._known.add(key)
            if _calls_vsyscall(pid, mapping):
                self.found[mapping.path] = None


def _calls_vsyscall(pid: int, mapping: Mapping) -> bool:
    try:
        fd = open_mapped_file(pid, mapping)
    except OSError:
        return False
    try:
        return any(_holds_call(part) for part in _parts(fd, mapping))
    except OSError:
        return False
    finally:
        os.close(fd)


def _parts(fd: int, mapping: Mapping) -> Iterator[bytes]:
    # What may be cut at the end of one part is whole in the next.
    at, end = mapping.offset, mapping.offset + mapping.end - mapping.start
    while at < end:
        part = os.pread(fd, min(_CHUNK, end - at), at)
        yield part
        if len(part) < _CHUNK:
            return
        at += _CHUNK - (_BEFORE + _AFTER)


def _holds_call(code: bytes) -> bool:
    at = code.find(_TAIL)
    while at >= 0:
        if _CALLS.search(code, max(0, at - _BEFORE), at + _AFTER):
            return True
        at = code.find(_TAIL, at + 1)
    return False
