"""Places in code: checked against nm(1) and against processes whose place is known."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from autoprofile.trace.code_location import CodeLocation, CodeLocator, SymbolTable, read_symbols
from autoprofile.trace.maps import read_maps


def here(name: str) -> int:
    """Return the address of a libc function in this process."""
    address = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    assert address is not None
    return address


def test_an_address_in_libc_is_named():
    """An address in a libc function is libc, the offset in the file, and that function plus the distance."""
    place = CodeLocator().locate(os.getpid(), here("getppid") + 5)
    mapping = next(m for m in read_maps(os.getpid()) if m.start <= here("getppid") < m.end)
    assert place.path == mapping.path
    assert place.offset == here("getppid") + 5 - mapping.start + mapping.offset
    assert place.symbol == "getppid+0x5"
    assert str(place) == f"{os.path.basename(mapping.path)}+{place.offset:#x}"
    assert place.symbolic == f"{os.path.basename(mapping.path)}:getppid+0x5"
    assert CodeLocator(symbols=False).locate(os.getpid(), here("getppid") + 5).symbol is None


def test_memory_without_a_file_is_said_to_be_so():
    """JIT-like memory, the vdso and unmapped addresses have names of their own; only the vdso has offsets."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    locator = CodeLocator()
    assert locator.locate(os.getpid(), address + 8) == CodeLocation("[anonymous]")
    assert locator.locate(os.getpid(), 1) == CodeLocation("[unmapped]")
    assert locator.locate(os.getpid(), 2**64 - 1).offset is None
    stack = next(m for m in read_maps(os.getpid()) if m.path == "[stack]")
    assert str(locator.locate(os.getpid(), stack.start + 16)) == "[stack]"


def test_a_process_that_is_gone_is_unreadable():
    """A dead process gives [unreadable], reaped or not."""
    process = subprocess.Popen(["/bin/true"])
    deadline = time.monotonic() + 10
    while Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert CodeLocator().locate(process.pid, 0x1000) == CodeLocation("[unreadable]")
    process.wait(10)
    assert CodeLocator().locate(process.pid, 0x1000) == CodeLocation("[unreadable]")


def test_symbols_agree_with_nm():
    """Every sized function that nm lists for libc is found by its address, under one of its names."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed (Debian package binutils)")
    libc = next(m.path for m in read_maps(os.getpid()) if os.path.basename(m.path).startswith("libc.so"))
    listed = subprocess.run(
        ["nm", "-D", "-S", "--defined-only", libc], capture_output=True, text=True, timeout=60, check=True
    )
    table = read_symbols(os.open(libc, os.O_RDONLY))
    assert table is not None
    names: dict[int, set[str]] = {}
    for line in listed.stdout.splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[2] in "TtWi" and int(fields[1], 16):
            names.setdefault(int(fields[0], 16), set()).add(fields[3].split("@")[0])
    assert len(names) > 1000
    for address, expected in names.items():
        start, _, base = next(s for s in table.segments if s[2] <= address < s[2] + s[1])
        found = table.at_offset(address - base + start + 1)
        assert found is not None
        assert found.split("+")[0] in expected
        assert found.endswith("+0x1")


def test_gaps_between_functions_have_no_name():
    """Bytes beyond a function's size belong to nobody; the byte after its last instruction still to it."""
    table = SymbolTable((0x1000, 0x1100), (0x20, 0x10), ("a", "b"), ((0x0, 0x2000, 0x0),))
    assert table.at_offset(0x1020) == "a+0x20"  # a call that never returns ends there
    assert table.at_offset(0x1021) is None
    assert table.at_offset(0x1000) is None
    assert table.at_offset(0x1101) == "b+0x1"
    assert table.at_offset(0x3000) is None


@pytest.mark.parametrize("cut", [0, 3, 17, 64, 1000, 5000])
def test_damaged_files_have_no_symbols(tmp_path, cut):
    """A truncated or overwritten ELF file is no error."""
    raw = bytearray(Path("/bin/true").read_bytes())
    path = tmp_path / "cut"
    path.write_bytes(raw[:cut])
    assert not (found := read_symbols(os.open(path, os.O_RDONLY))) or not found.starts
    raw[40:64] = b"\xff" * 24
    path.write_bytes(raw)
    assert not (found := read_symbols(os.open(path, os.O_RDONLY))) or not found.starts


def crafted(sections: list[tuple[int, int, int, int, int]], data: bytes) -> bytes:
    """Build an ELF file of sections alone: (type, flags, offset into `data`, size, link)."""
    at = 64 + len(data)
    head = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 0, 0, 3, 62, 1, 0, 0, at, 0, 64, 0, 0, 64, len(sections), 0),
    )
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", 0, kind, flags, 0, 64 + offset, size, link, 0, 8, 24)
        for kind, flags, offset, size, link in sections
    )
    return head + data + table


def symbols_of(tmp_path: Path, raw: bytes) -> SymbolTable | None:
    path = tmp_path / "crafted"
    path.write_bytes(raw)
    return read_symbols(os.open(path, os.O_RDONLY))


SYMBOL = struct.pack("<IBBHQQ", 1, 2, 0, 1, 0x1000, 16)
STRTAB, SYMTAB, DYNSYM, GNU_HASH = 3, 2, 11, 0x6FFFFFF6


def test_a_crafted_file_has_a_symbol(tmp_path):
    """The file builder of these tests makes what is read when nothing is wrong with it."""
    table = symbols_of(
        tmp_path, crafted([(STRTAB, 0, 0, 8, 0), (SYMTAB, 0, 8, 24, 0)], b"\0hello\0\0" + SYMBOL)
    )
    assert table is not None
    assert (table.names, table.starts) == (("hello",), (0x1000,))


@pytest.mark.parametrize("count", [4000, 60_000])
def test_many_sections_over_one_table_cost_what_one_costs(tmp_path, count):
    """Only one table of each kind is read, and a file with absurdly many sections not at all: nobody waits."""
    data = b"\0hello\0\0" + SYMBOL * 20_000
    raw = crafted([(STRTAB, 0, 0, 8, 0), *[(SYMTAB, 0, 8, len(data) - 8, 0)] * count], data)
    table = symbols_of(tmp_path, raw)  # reading them all would take many minutes
    assert (table is None) == (count > 4096)


def test_names_that_never_end_are_not_searched_for(tmp_path):
    """Strings without an end, and long ones that overlap, are read up to a total."""
    size = 4 << 20
    data = b"x" * size + SYMBOL * 100_000  # searching each to the end would read 400 GB
    table = symbols_of(tmp_path, crafted([(STRTAB, 0, 0, size, 0), (SYMTAB, 0, size, 2_400_000, 0)], data))
    assert table is not None
    assert table.names == ()


def test_hostile_sections_are_passed_over(tmp_path):
    """Compressed, endless, absent and dangling tables have no symbols, and never raise."""
    junk = b"\xff" * 256
    for kind, flags, size, link in [
        (DYNSYM, 0x800, 240, 0),  # SHF_COMPRESSED
        (DYNSYM, 0, 1 << 62, 0),
        (SYMTAB, 0, 240, 99),
        (SYMTAB, 0, 240, 1),
        (GNU_HASH, 0, 240, 0),
    ]:
        table = symbols_of(tmp_path, crafted([(8, 0, 0, 1 << 62, 0), (kind, flags, 0, size, link)], junk))
        assert table is None or table.names == ()


def test_a_carriage_return_in_a_file_name_is_no_line_of_the_map(tmp_path):
    """The kernel writes it into the map as it is; places are still found."""
    path = tmp_path / "a\rb\x0bc"
    path.write_bytes(b"\xc3" * 4096)
    with path.open("rb") as file:
        page = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)
    mapping = next(m for m in read_maps(os.getpid()) if m.path == str(path))
    # The lines after it are reached too: the scan passes over this name for any higher address.
    for at in (mapping.start + 4, here("getppid") + 5):
        assert CodeLocator(symbols=False).locate(os.getpid(), at).path is not None
    page.close()
