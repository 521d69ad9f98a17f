"""Places in code: checked against nm(1) and against processes whose place is known."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
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
