"""Numbers and names: against libseccomp, the installed kernel headers and this kernel's tracefs."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from pathlib import Path

import pytest

from autoprofile.abi import (
    ARCHES,
    X32_SYSCALL_BIT,
    AbiError,
    arch,
    arch_from_audit,
    arch_from_machine,
    audit_arch_name,
    compat_arches,
    display_name,
    newest_nr,
    since,
    syscall_name,
    syscall_nr,
    syscall_table,
)
from autoprofile.abi._tables import read_rows, source_line

TRACEFS = Path("/sys/kernel/tracing/events/syscalls")
# tracefs names entry points, not calls.
ENTRY_NAMES = {"newstat": "stat", "newfstat": "fstat", "newlstat": "lstat", "newuname": "uname",
               "sendfile64": "sendfile", "umount": "umount2"}  # fmt: skip


@pytest.mark.parametrize("name", ARCHES)
def test_names_and_numbers_are_each_others_inverse(name: str) -> None:
    """Every name has one number and every number leads back to its name, in ascending order."""
    table = syscall_table(name)
    assert list(table.values()) == sorted(set(table.values()))
    for call, nr in table.items():
        assert syscall_name(name, nr) == call
        assert syscall_nr(name, call) == nr
        assert display_name(name, nr) == call


def test_unknown_numbers_stay_numbers() -> None:
    """A number without a name, or an unknown architecture, is shown as it is and raises nothing."""
    assert syscall_name("x86_64", 9999) is None
    assert display_name("x86_64", 9999) == "9999"
    assert syscall_name("0xdeadbeef", 1) is None
    assert syscall_nr("0xdeadbeef", "read") is None
    assert syscall_table("0xdeadbeef") == {}
    assert display_name("0xdeadbeef", 1) == "1"


def test_x32_numbers_carry_the_bit() -> None:
    """On x32 every number is what seccomp_data.nr holds: bit 30 set."""
    assert all(nr & X32_SYSCALL_BIT for nr in syscall_table("x32").values())
    assert syscall_nr("x32", "ioctl") == X32_SYSCALL_BIT + 514
    assert syscall_nr("x32", "read") == X32_SYSCALL_BIT
    assert syscall_name("x32", 514) is None


def test_newest_call_of_linux_6_18_is_the_last() -> None:
    """The tables end with file_setattr (6.17, the newest common call of 6.18) and hold nothing newer."""
    for name, info in ARCHES.items():
        assert newest_nr(name) & ~info.nr_bit == (547 if name == "x32" else 469)
        assert syscall_nr(name, "listns") is None  # 6.19
    assert syscall_nr("x86_64", "file_setattr") == 469
    assert syscall_nr("x86_64", "uprobe") == 336


def test_audit_tokens_tell_architectures_apart() -> None:
    """A seccomp_data pair names its ABI; x32 is told from x86_64 by the number, unknown tokens stay hexadecimal."""
    assert arch_from_audit(0xC000003E, 1) == "x86_64"
    assert arch_from_audit(0xC000003E, X32_SYSCALL_BIT | 1) == "x32"
    assert arch_from_audit(0xC000003E, 0xFFFFFFFF) == "x86_64"
    assert arch_from_audit(0xC000003E, -1) == "x86_64"
    assert arch_from_audit(0x40000003, 0x40000001) == "i386"
    assert arch_from_audit(0xC00000B7, 64) == "aarch64"
    assert arch_from_audit(0x80000016, 4) == "0x80000016"
    assert audit_arch_name(0xC00000F3) == "AUDIT_ARCH_RISCV64"
    assert audit_arch_name(0x16) == "0x00000016"


def test_machines_and_compat() -> None:
    """`uname -m` leads to the native ABI, and the native ABI to the others a process can enter."""
    assert arch_from_machine("i686") == "i386"
    assert arch_from_machine("aarch64") == "aarch64"
    assert compat_arches("x86_64") == ("i386", "x32")
    assert compat_arches("riscv64") == ()
    with pytest.raises(AbiError, match="unknown machine"):
        arch_from_machine("vax")
    with pytest.raises(AbiError, match="unknown architecture") as caught:
        arch("amd64")
    assert "x86_64" in (caught.value.hint or "")


def test_audit_tokens_agree_with_the_installed_header() -> None:
    """AUDIT_ARCH tokens are ELF machine numbers with the 64-bit and little-endian bits of linux/audit.h."""
    elf = {"x86_64": 62, "i386": 3, "x32": 62, "aarch64": 183, "arm": 40, "riscv64": 243}
    for name, info in ARCHES.items():
        wide = 0 if name in ("i386", "arm") else 0x80000000
        assert info.audit_arch == elf[name] | wide | 0x40000000


def _libseccomp() -> ctypes.CDLL:
    found = ctypes.util.find_library("seccomp")
    if found is None:
        pytest.skip("libseccomp is not installed (Debian package libseccomp2)")
    return ctypes.CDLL(found)


@pytest.mark.parametrize("name", ARCHES)
def test_numbers_agree_with_libseccomp(name: str) -> None:
    """Where libseccomp knows a name on an architecture, it knows it by the same number."""
    lib = _libseccomp()
    lib.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    token = {"i386": b"x86"}.get(name, name.encode())
    number = lib.seccomp_arch_resolve_name(token)
    assert number, f"libseccomp does not know {token!r}"
    compared = 0
    for call, nr in syscall_table(name).items():
        theirs = lib.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(number), call.encode())
        if theirs >= 0:
            # libseccomp gives x32 numbers with the bit, and arm's private block at 0x0f0000, as we do.
            assert theirs == nr, call
            compared += 1
    assert compared > 300


@pytest.mark.parametrize(
    ("name", "header"), [("x86_64", "unistd_64.h"), ("i386", "unistd_32.h"), ("x32", "unistd_x32.h")]
)
def test_numbers_agree_with_the_installed_headers(name: str, header: str) -> None:
    """Every __NR_ of the installed linux-libc-dev is in our table with that number."""
    path = next(iter(Path("/usr/include").glob(f"*/asm/{header}")), None)
    if path is None:
        pytest.skip("kernel headers are not installed (Debian package linux-libc-dev)")
    found = re.findall(
        r"^#define __NR_(\w+) \(?(?:__X32_SYSCALL_BIT \+ )?(\d+)", path.read_text(), re.MULTILINE
    )
    assert len(found) > 300
    for call, number in found:
        assert syscall_nr(name, call) == int(number) | ARCHES[name].nr_bit, call


def test_generic_numbers_agree_with_the_installed_headers() -> None:
    """aarch64 and riscv64 follow asm-generic/unistd.h, of which linux-libc-dev installs a copy."""
    path = Path("/usr/include/asm-generic/unistd.h")
    if not path.exists():
        pytest.skip("kernel headers are not installed (Debian package linux-libc-dev)")
    found = re.findall(r"^#define __NR_(\w+) (\d+)$", path.read_text(), re.MULTILINE)
    for call, number in found:
        if call in ("arch_specific_syscall", "syscalls"):
            continue
        if (ours := syscall_nr("aarch64", call)) is not None:
            assert ours == int(number), call
            assert syscall_nr("riscv64", call) in (ours, None), call


@pytest.mark.kernel
def test_every_call_this_kernel_traces_is_known() -> None:
    """The running kernel has no native call that the x86_64 table lacks."""
    try:
        traced = [p.name.removeprefix("sys_enter_") for p in TRACEFS.glob("sys_enter_*")]
    except OSError:
        traced = []
    if not traced:
        pytest.skip("tracefs is not mounted or not readable (needs root)")
    unknown = [n for n in traced if syscall_nr("x86_64", ENTRY_NAMES.get(n, n)) is None]
    assert not unknown


def test_first_versions_are_known_and_plausible() -> None:
    """Every call has a first version, none later than 6.18."""
    for row in read_rows("syscalls.tsv")[1:]:
        version = since(row[0])
        assert version is not None
        assert tuple(int(p) for p in version.split(".")) <= (6, 18), row[0]
    assert since("clone3") == "5.3"
    assert since("openat2") == "5.6"
    assert since("mseal") == "6.10"
    assert since("no_such_call") is None


def test_data_files_name_their_source() -> None:
    """Line 1 of every data file names where it came from and in which version."""
    folder = Path(__file__).parents[3] / "autoprofile" / "abi" / "data"
    files = sorted(p.name for p in folder.iterdir())
    assert len(files) >= 6
    for name in files:
        line = source_line(name)
        assert line.startswith("source: "), name
        assert re.search(r"\d+\.\d+", line), name
