"""Where in a program a syscall was made: an instruction pointer becomes ``libc.so.6+0x10a5d7`` and a symbol.

The memory map is read anew for every question, so that dlopen, exec and a reused pid never leave a stale
answer; only what depends on a file alone (its symbols) is kept, by the identity of the file. Memory without
a file (JIT code, trampolines, vdso) is called so. Answers are evidence for people, never input to a decision:
the target can forge its own map.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprofile.trace.maps import Mapping, open_mapped_file, parse_maps

if TYPE_CHECKING:
    from typing import Any

__all__ = ["CodeLocation", "CodeLocator", "SymbolTable", "read_symbols"]

_TABLE_BYTES_LIMIT = (
    8 << 20
)  # some 350,000 symbols; reading a larger table would hold the target for a second
_TABLES_KEPT = 64
_STT_FUNC = 2
_STT_GNU_IFUNC = 10
_STACK_WORDS = 32


@dataclass(frozen=True, slots=True)
class CodeLocation:
    """A place in mapped code.

    Args:
        name: file name (``libc.so.6``), or ``[vdso]``, ``[heap]``, ``[stack]``, ``[anonymous]``,
            ``[unmapped]``, ``[unreadable]``.
        offset: byte in the file (not the link-time address), or in the vdso; None in memory without a file,
            where it would differ from run to run.
        path: the file in its own mount namespace; None without a file.
        symbol: the function there and the distance in bytes, for instance ``socket+0x7``; None when unknown.
        via: ``[vdso]`` when the call itself was made there and this is the caller, taken from the stack.
    """

    name: str
    offset: int | None = None
    path: str | None = None
    symbol: str | None = None
    via: str | None = None

    def __str__(self) -> str:
        return self.name if self.offset is None else f"{self.name}+{self.offset:#x}"

    @property
    def symbolic(self) -> str:
        """Return the symbol form ``libc.so.6:socket+0x7`` when the symbol is known, else the offset form."""
        return f"{self.name}:{self.symbol}" if self.symbol else str(self)


@dataclass(frozen=True, slots=True)
class SymbolTable:
    """The functions of one ELF file, by address, and its segments.

    Args:
        starts: link-time addresses in ascending order, each once.
        sizes: length in bytes of each function.
        names: the least decorated name at each address.
        segments: (file offset, length, link-time address) of the loaded parts.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    segments: tuple[tuple[int, int, int], ...]

    def at_offset(self, offset: int) -> str | None:
        """Return ``name+0xdistance`` of the function that holds the instruction before a file offset.

        The instruction pointer of a syscall is that of the next instruction, which may belong to the next
        function when the call never returns.
        """
        for start, length, address in self.segments:
            if start <= offset - 1 < start + length:
                target = address + offset - start
                break
        else:
            return None
        index = bisect_right(self.starts, target - 1) - 1
        if index < 0:
            return None
        distance = target - self.starts[index]
        # A library's internal functions have no symbols, and hand-written assembly has no sizes: reaching on
        # to the next symbol would name the wrong function, so nothing is said there.
        if distance > self.sizes[index]:
            return None
        return f"{self.names[index]}+{distance:#x}"


def read_symbols(fd: int) -> SymbolTable | None:
    """Return the functions of an open ELF file, None when it is not ELF or damaged. Closes `fd`."""
    from elftools.common.exceptions import ELFError, ELFParseError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile

    with os.fdopen(fd, "rb") as stream:
        try:
            return _symbols_of(ELFFile(stream))
        except (
            ELFError,
            ELFParseError,
            ConstructError,
            struct.error,
            ValueError,
            OverflowError,
            MemoryError,
        ):
            return None  # a damaged or hostile file has no symbols; the offset still says where


def _symbols_of(elf: Any) -> SymbolTable:
    segments = tuple(
        (int(s["p_offset"]), int(s["p_filesz"]), int(s["p_vaddr"])) for s in elf.iter_segments("PT_LOAD")
    )
    order = "<" if elf.little_endian else ">"
    found: dict[int, tuple[int, str]] = {}
    for section in elf.iter_sections():
        if section["sh_type"] not in ("SHT_DYNSYM", "SHT_SYMTAB") or section["sh_size"] > _TABLE_BYTES_LIMIT:
            continue
        names = elf.get_section(section["sh_link"]).data()
        raw = section.data()
        # pyelftools makes an object per symbol (20 µs each, and libc has 3,000): they are unpacked here.
        layout = struct.Struct(order + ("IBBHQQ" if elf.elfclass == 64 else "IIIBBH"))
        for entry in layout.iter_unpack(raw[: len(raw) - len(raw) % layout.size]):
            if elf.elfclass == 64:
                name_at, info, _, index, value, size = entry
            else:
                name_at, value, size, info, _, index = entry
            if index == 0 or size == 0 or info & 0xF not in (_STT_FUNC, _STT_GNU_IFUNC):
                continue
            end = names.find(b"\0", name_at)
            name = names[name_at:end].decode("utf-8", "replace")
            known = found.get(value)
            if name and (known is None or _plainness(name) < _plainness(known[1])):
                found[value] = (size, name)
    starts = tuple(sorted(found))
    return SymbolTable(
        starts, tuple(found[s][0] for s in starts), tuple(found[s][1] for s in starts), segments
    )


def _plainness(name: str) -> tuple[int, int, str]:
    return (len(name) - len(name.lstrip("_")), len(name), name)


class CodeLocator:
    """Answer where an instruction pointer of a process lies; keeps symbol tables between questions."""

    def __init__(self, *, symbols: bool = True) -> None:
        self._symbols = symbols
        self._tables: dict[tuple[int, int, int, int], SymbolTable | None] = {}

    def locate(self, tid: int, ip: int) -> CodeLocation:
        """Return the place of an instruction pointer.

        The thread must be held (stopped, or waiting for its notification) and the caller checks afterwards
        that it still was. A process that is gone or not ours gives ``[unreadable]``.
        """
        try:
            with open(f"/proc/{tid}/maps", "rb") as file:  # noqa: PTH123
                raw = file.read()
        except OSError:
            return CodeLocation("[unreadable]")
        mapping = _mapping_at(raw, ip)
        if mapping is None:
            # A zombie's map is empty, a live one's never.
            return CodeLocation("[unmapped]" if raw else "[unreadable]")
        if mapping.path == "[vdso]":
            caller = self._caller_through_vdso(tid, raw)
            if caller is not None:
                return caller
            return CodeLocation("[vdso]", ip - mapping.start)
        return self._place(tid, mapping, ip)

    def _place(self, tid: int, mapping: Mapping, ip: int, via: str | None = None) -> CodeLocation:
        if not mapping.is_file:
            return CodeLocation(mapping.path or "[anonymous]", via=via)
        offset = ip - mapping.start + mapping.offset
        symbol = None
        if self._symbols and (table := self._table_for(tid, mapping)) is not None:
            symbol = table.at_offset(offset)
        return CodeLocation(mapping.path.rpartition("/")[2], offset, mapping.path, symbol, via)

    def _table_for(self, tid: int, mapping: Mapping) -> SymbolTable | None:
        try:
            fd = open_mapped_file(tid, mapping)
        except OSError:
            return None
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        if key in self._tables:
            os.close(fd)
            return self._tables[key]
        if len(self._tables) >= _TABLES_KEPT:
            self._tables.clear()
        table = self._tables[key] = read_symbols(fd)
        return table

    def _caller_through_vdso(self, tid: int, raw_maps: bytes) -> CodeLocation | None:
        # i386 programs enter the kernel through the vdso's __kernel_vsyscall, which pushes three registers
        # and leaves its return address above them; other vdso functions have frames of their own. The
        # nearest word on the stack that points into a mapped file's code is the caller.
        try:
            with open(f"/proc/{tid}/syscall", "rb") as file:  # noqa: PTH123
                fields = file.read().split()
            if len(fields) < 9:
                return None
            stack = int(fields[7], 16)
            fd = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            try:
                word = 4 if stack < 1 << 32 else 8
                data = os.pread(fd, _STACK_WORDS * word, stack)
            finally:
                os.close(fd)
        except (OSError, ValueError, OverflowError):
            return None
        code = [m for m in parse_maps(os.fsdecode(raw_maps)) if m.is_file and m.is_executable]
        for (value,) in struct.iter_unpack("=I" if word == 4 else "=Q", data[: len(data) - len(data) % word]):
            for mapping in code:
                if mapping.start < value < mapping.end:
                    return self._place(tid, mapping, value, "[vdso]")
        return None


def _mapping_at(raw: bytes, ip: int) -> Mapping | None:
    # Only the line that matters is parsed: maps of real programs have hundreds.
    for line in raw.splitlines():
        dash = line.find(b"-")
        if int(line[dash + 1 : line.index(b" ", dash)], 16) > ip:
            if int(line[:dash], 16) > ip:
                return None
            found = parse_maps(os.fsdecode(line))
            return found[0] if found else None
    return None
