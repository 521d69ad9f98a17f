"""Where in a program a syscall was made: an instruction pointer becomes ``libc.so.6+0x10a5d7`` and a symbol.

The memory map is read anew for every question, so that dlopen, exec and a reused pid never leave a stale
answer; only what depends on a file alone (its symbols) is kept, by the identity of the file. Memory without
a file (JIT code, trampolines, vdso) is called so. Answers are evidence for people, never input to a decision:
the target can forge its own map.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprofile.trace.maps import Mapping, open_mapped_file, parse_maps

if TYPE_CHECKING:
    from typing import Any, BinaryIO

__all__ = ["CodeLocation", "CodeLocator", "SymbolTable", "read_symbols"]

# The file is the target's own, so everything read of it is bounded: the supervisor works while others wait.
_TABLE_BYTES_LIMIT = 8 << 20  # some 350,000 symbols; a larger table would hold the target for a second
_STRINGS_BYTES_LIMIT = 64 << 20  # the names of one table
_NAME_BYTES_LIMIT = 4096  # one name; a longer one is no use to a reader
_NAMES_BYTES_LIMIT = 32 << 20  # all names together: they may overlap in the file
_SECTIONS_LIMIT = 4096  # linked files have some dozens
_SEGMENTS_LIMIT = 1170  # what the kernel runs: 64 KiB of program headers (fs/binfmt_elf.c)
_SHF_COMPRESSED = 0x800
_TABLES_KEPT = 64
_SYMBOLS_KEPT = 2_000_000  # in all tables together, some 300 MB
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
    """Return the functions of an open ELF file, None when it is not ELF or damaged. Closes `fd`.

    Work and memory are bounded whatever the file says: a file beyond the limits has no symbols, or fewer.
    """
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile

    with os.fdopen(fd, "rb") as stream:
        try:
            return _symbols_of(ELFFile(stream), stream)
        # What pyelftools and its parts are known to raise on damaged files, and reading them: a damaged or
        # hostile file has no symbols, the offset still says where.
        except (
            ELFError,
            ConstructError,
            zlib.error,
            struct.error,
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            MemoryError,
            OSError,
            RecursionError,
            TypeError,
            ValueError,
        ):
            return None


def _headers(elf: Any, stream: BinaryIO, kind: str, limit: int) -> list[Any]:
    # Not through ELFFile's own iterators: they believe any count, and read the contents of some sections.
    from elftools.common.utils import struct_parse

    at, count, size = (elf[f"e_{kind}{field}"] for field in ("off", "num", "entsize"))
    layout = elf.structs.Elf_Shdr if kind == "sh" else elf.structs.Elf_Phdr
    if count == 0 or at == 0:
        return []
    if count > limit or size < layout.sizeof():
        raise ValueError(f"{count} headers of {size} bytes")
    return [struct_parse(layout, stream, at + index * size) for index in range(count)]


def _contents(stream: BinaryIO, section: Any, limit: int) -> bytes:
    if section["sh_type"] == "SHT_NOBITS" or section["sh_flags"] & _SHF_COMPRESSED:
        return b""  # loaders cannot use a compressed table, and nobody writes one
    if section["sh_size"] > limit:
        return b""
    stream.seek(section["sh_offset"])
    return stream.read(section["sh_size"])


def _symbols_of(elf: Any, stream: BinaryIO) -> SymbolTable:
    segments = tuple(
        (int(s["p_offset"]), int(s["p_filesz"]), int(s["p_vaddr"]))
        for s in _headers(elf, stream, "ph", _SEGMENTS_LIMIT)
        if s["p_type"] == "PT_LOAD"
    )
    sections = _headers(elf, stream, "sh", _SECTIONS_LIMIT)
    found: dict[int, tuple[int, str]] = {}
    left = _NAMES_BYTES_LIMIT
    for kind in ("SHT_DYNSYM", "SHT_SYMTAB"):
        # "Currently, an object file may have only one section of each type" (the System V gABI, chapter 4).
        table = next((s for s in sections if s["sh_type"] == kind), None)
        if table is not None and table["sh_link"] < len(sections):
            names = _contents(stream, sections[table["sh_link"]], _STRINGS_BYTES_LIMIT)
            left = _read_table(elf, _contents(stream, table, _TABLE_BYTES_LIMIT), names, found, left)
    starts = tuple(sorted(found))
    return SymbolTable(
        starts, tuple(found[s][0] for s in starts), tuple(found[s][1] for s in starts), segments
    )


def _read_table(elf: Any, raw: bytes, names: bytes, found: dict[int, tuple[int, str]], left: int) -> int:
    """Add the functions of one table to `found`; return how many bytes of names may still be read."""
    # pyelftools makes an object per symbol (20 µs each, and libc has 3,000): they are unpacked here.
    layout = struct.Struct(
        ("<" if elf.little_endian else ">") + ("IBBHQQ" if elf.elfclass == 64 else "IIIBBH")
    )
    for entry in layout.iter_unpack(raw[: len(raw) - len(raw) % layout.size]):
        if elf.elfclass == 64:
            name_at, info, _, index, value, size = entry
        else:
            name_at, value, size, info, _, index = entry
        if index == 0 or size == 0 or info & 0xF not in (_STT_FUNC, _STT_GNU_IFUNC):
            continue
        end = names.find(b"\0", name_at, name_at + _NAME_BYTES_LIMIT)
        left -= end - name_at if end >= 0 else _NAME_BYTES_LIMIT
        if left < 0:
            break
        if end <= name_at:
            continue
        name = names[name_at:end].decode("utf-8", "replace")
        known = found.get(value)
        if known is None or _plainness(name) < _plainness(known[1]):
            found[value] = (size, name)
    return left


def _plainness(name: str) -> tuple[int, int, str]:
    return (len(name) - len(name.lstrip("_")), len(name), name)


class CodeLocator:
    """Answer where an instruction pointer of a process lies; keeps symbol tables between questions."""

    def __init__(self, *, symbols: bool = True) -> None:
        self._symbols = symbols
        self._tables: dict[tuple[int, int, int, int], SymbolTable | None] = {}
        self._symbols_kept = 0

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
        if len(self._tables) >= _TABLES_KEPT or self._symbols_kept >= _SYMBOLS_KEPT:
            self._tables.clear()
            self._symbols_kept = 0
        table = self._tables[key] = read_symbols(fd)
        self._symbols_kept += len(table.starts) if table is not None else 0
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
    # Not splitlines(): a file's name may hold a carriage return, which the kernel does not escape.
    for line in filter(None, raw.split(b"\n")):
        dash = line.find(b"-")
        if int(line[dash + 1 : line.index(b" ", dash)], 16) > ip:
            if int(line[:dash], 16) > ip:
                return None
            found = parse_maps(os.fsdecode(line))
            return found[0] if found else None
    return None
