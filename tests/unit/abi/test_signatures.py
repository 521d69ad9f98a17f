"""Argument signatures: complete, the kernel's own, and right where architectures differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprofile.abi import (
    ARCHES,
    CONSTRAINED_KINDS,
    KINDS,
    ArgSpec,
    UsedIf,
    call_signature,
    constant_sets,
    constrained_args,
    kernel_value,
    signature,
    syscall_nr,
    syscall_table,
    width_in_rule,
)
from tests.unit.abi.test_syscalls import ENTRY_NAMES, TRACEFS

CALLS = [(arch, name) for arch in ARCHES for name in syscall_table(arch)]


def names(arch: str, call: str) -> list[str]:
    return [spec.name for spec in signature(arch, call).args]


def kinds(arch: str, call: str) -> list[str]:
    return [spec.kind for spec in signature(arch, call).args]


def test_every_call_of_every_architecture_has_a_signature() -> None:
    """No call is without a signature, and no argument without a kind, a width and a name of its own."""
    sets = constant_sets()
    for arch, call in CALLS:
        found = signature(arch, call)
        assert found is not None, (arch, call)
        assert len(found.args) <= 6
        shown = [spec.name for spec in found.args if spec.kind != "unused"]
        assert len(set(shown)) == len(shown), (arch, call)
        for index, spec in enumerate(found.args):
            assert spec.index == index
            assert spec.kind in KINDS, (arch, call, spec)
            assert spec.width in ((32,) if ARCHES[arch].bits == 32 else (32, 64))
            assert spec.constants is None or spec.constants in sets, (arch, call, spec)
            assert spec.used_if is None or spec.used_if.index < len(found.args)
            assert not spec.used_if or spec.used_if.index != index


def test_pointers_are_pointers() -> None:
    """Whatever the kernel declares as a pointer is one here: nothing behind it is ever compared."""
    for arch, call in CALLS:
        for spec in signature(arch, call).args:
            if "*" in spec.ctype:
                assert spec.kind == "pointer", (arch, call, spec)


def test_constrained_arguments_are_those_of_constrained_kinds() -> None:
    """constrained_args gives exactly the arguments whose kind a profile can hold, and nothing for unknown calls."""
    for arch, call in CALLS:
        assert constrained_args(arch, call) == tuple(
            spec for spec in signature(arch, call).args if spec.kind in CONSTRAINED_KINDS
        )
    assert constrained_args("x86_64", "no_such_call") == ()
    assert constrained_args("0x123", "openat") == ()
    assert signature("x86_64", "no_such_call") is None
    assert signature("x86_64", "socketcall") is None  # i386 has it
    assert [s.name for s in constrained_args("x86_64", "socket")] == ["family", "type", "protocol"]
    assert [s.name for s in constrained_args("x86_64", "openat")] == ["flags", "mode"]
    assert constrained_args("x86_64", "read") == ()


@pytest.mark.kernel
def test_x86_64_signatures_are_those_of_this_kernel() -> None:
    """Names and C types of the native calls are what the running kernel's tracefs says (Linux 6.18)."""
    try:
        folders = sorted(TRACEFS.glob("sys_enter_*"))
    except OSError:
        folders = []
    release = Path("/proc/sys/kernel/osrelease").read_text()
    if not folders or not release.startswith("6.18"):
        pytest.skip("needs a readable tracefs of Linux 6.18, the version the tables describe")
    compared = 0
    for folder in folders:
        entry = folder.name.removeprefix("sys_enter_")
        call = ENTRY_NAMES.get(entry, entry)
        if syscall_nr("x86_64", call) is None or entry in ("uprobe", "uretprobe"):
            continue
        lines = (folder / "format").read_text().splitlines()
        fields = [
            ln.split(";")[0].strip().removeprefix("field:") for ln in lines if ln.startswith("\tfield:")
        ]
        theirs = [f for f in fields if " common_" not in f and "__syscall_nr" not in f]
        ours = [f"{spec.ctype} {spec.name}" for spec in signature("x86_64", call).args]
        assert len(ours) == len(theirs), call
        for mine, field in zip(ours, theirs, strict=True):
            assert field in (mine, f"const {mine}") or field.replace("const ", "") == mine.replace(
                "const ", ""
            )
        compared += 1
    assert compared > 350


@pytest.mark.parametrize(
    ("arch", "call", "expected"),
    [
        ("x86_64", "clone", ["clone_flags", "newsp", "parent_tidptr", "child_tidptr", "tls"]),
        ("x32", "clone", ["clone_flags", "newsp", "parent_tidptr", "child_tidptr", "tls"]),
        ("i386", "clone", ["clone_flags", "newsp", "parent_tidptr", "tls", "child_tidptr"]),
        ("arm", "clone", ["clone_flags", "newsp", "parent_tidptr", "tls", "child_tidptr"]),
        ("aarch64", "clone", ["clone_flags", "newsp", "parent_tidptr", "tls", "child_tidptr"]),
        ("riscv64", "clone", ["clone_flags", "newsp", "parent_tidptr", "tls", "child_tidptr"]),
        ("i386", "mmap", ["arg"]),
        ("i386", "mmap2", ["addr", "len", "prot", "flags", "fd", "pgoff"]),
        ("i386", "select", ["arg"]),
        ("i386", "_newselect", ["n", "inp", "outp", "exp", "tvp"]),
        ("i386", "socketcall", ["call", "args"]),
        ("i386", "ipc", ["call", "first", "second", "third", "ptr", "fifth"]),
        ("i386", "_llseek", ["fd", "offset_high", "offset_low", "result", "whence"]),
        ("i386", "fcntl64", ["fd", "cmd", "arg"]),
        ("i386", "stat64", ["filename", "statbuf"]),
        ("i386", "umount", ["name"]),
        ("i386", "umount2", ["name", "flags"]),
        ("x86_64", "umount2", ["name", "flags"]),
        ("i386", "pread64", ["fd", "buf", "count", "pos_lo", "pos_hi"]),
        ("arm", "pread64", ["fd", "buf", "count", "pad", "pos_lo", "pos_hi"]),
        ("x86_64", "pread64", ["fd", "buf", "count", "pos"]),
        ("arm", "arm_fadvise64_64", ["fd", "advice", "offset_lo", "offset_hi", "len_lo", "len_hi"]),
        ("i386", "fadvise64_64", ["fd", "offset_lo", "offset_hi", "len_lo", "len_hi", "advice"]),
        ("i386", "fanotify_mark", ["fanotify_fd", "flags", "mask_lo", "mask_hi", "dfd", "pathname"]),
        ("i386", "futex_time64", ["uaddr", "op", "val", "utime", "uaddr2", "val3"]),
        ("x32", "preadv", ["fd", "vec", "vlen", "pos"]),
        ("riscv64", "riscv_flush_icache", ["start", "end", "flags"]),
        ("x86_64", "init_module", ["umod", "len", "uargs"]),
    ],
)
def test_shapes_that_differ_by_architecture(arch: str, call: str, expected: list[str]) -> None:
    """The order and splitting of arguments is each architecture's own (CONFIG_CLONE_BACKWARDS, register pairs)."""
    assert names(arch, call) == expected


def test_widths_follow_the_kernel_types() -> None:
    """Int arguments are 32 bits wide, longs 64 on 64-bit ABIs; all are 32 on i386 and arm; x32 compat calls too."""
    assert [s.width for s in signature("x86_64", "mremap").args] == [64] * 5
    assert [s.width for s in signature("x86_64", "socket").args] == [32] * 3
    assert [s.width for s in signature("x86_64", "ioctl").args] == [32, 32, 64]
    assert [s.width for s in signature("x32", "ioctl").args] == [32, 32, 32]
    assert [s.width for s in signature("x32", "mremap").args] == [64] * 5
    assert [s.width for s in signature("i386", "mmap2").args] == [32] * 6
    assert signature("x86_64", "clone").args[1].width == 64


@pytest.mark.parametrize(
    ("call", "values", "index", "width"),
    [
        ("clone", (), 0, 32),  # lower_32_bits(clone_flags)
        ("mmap", (), 2, 32),
        ("mmap", (), 3, 32),
        ("mprotect", (), 2, 64),  # refuses unknown bits, the upper ones too
        ("unshare", (), 0, 64),
        ("fcntl", (0, 4), 2, 32),  # F_SETFL: int argi = (int)arg
        ("fcntl", (0, 10), 2, 32),  # F_SETSIG
        ("fcntl", (0, 6), 2, 64),  # F_SETLK: a pointer
        ("prctl", (4,), 1, 64),  # PR_SET_DUMPABLE compares the whole register
        ("prctl", (35,), 1, 32),  # PR_SET_MM: int opt
        ("keyctl", (0, 0), 1, 32),
        ("keyctl", (1, 0), 1, 64),  # KEYCTL_JOIN_SESSION_KEYRING: a pointer
        ("semctl", (0, 0, 16), 3, 32),  # SETVAL
        ("semctl", (0, 0, 13), 3, 64),  # GETALL
    ],
)
def test_widths_follow_what_the_kernel_does_with_the_value(
    call: str, values: tuple[int, ...], index: int, width: int
) -> None:
    """An unsigned long that the kernel narrows counts as 32 bits, by command where that decides."""
    assert call_signature("x86_64", call, values).args[index].width == width
    for arch in ("i386", "arm"):
        assert signature(arch, call) is None or {s.width for s in signature(arch, call).args} == {32}


def test_a_rule_over_calls_of_both_widths_errs_to_refusing() -> None:
    """Where no width is right for all calls of a rule, one that refuses compares 32 bits, one that allows 64."""
    arg = signature("x86_64", "fcntl").args[2]
    for deciding in (None, {4, 6}):
        assert width_in_rule(arg, deciding, is_refusing=True) == 32
        assert width_in_rule(arg, deciding, is_refusing=False) == 64
    assert width_in_rule(arg, {4, 2}, is_refusing=False) == 32
    assert width_in_rule(arg, {6}, is_refusing=True) == 64


@given(value=st.integers(0, 2**64 - 1))
def test_kernel_value_cuts_to_the_width(value: int) -> None:
    """A 32-bit argument's upper half is never seen by the kernel, a 64-bit argument's is."""
    narrow = ArgSpec(0, "x", "int", 32, "data", None, None)
    wide = ArgSpec(0, "x", "long", 64, "data", None, None)
    assert kernel_value(narrow, value) == value % 2**32
    assert kernel_value(wide, value) == value


def test_optional_arguments_know_when_they_count() -> None:
    """Openat's mode counts only when a file may be made, mremap's new address only when it is fixed."""
    for arch in ARCHES:
        mode = signature(arch, "openat").args[3]
        assert mode.used_if is not None
        assert not mode.used_if.holds((0, 0, 0o2000000, 0o7777, 0, 0))
        assert mode.used_if.holds((0, 0, 0o100, 0o644, 0, 0))
        assert mode.used_if.holds((0, 0, 0o20000000 | 0o200000, 0o600, 0, 0))
        # O_DIRECTORY is part of O_TMPFILE but makes no file.
        assert not mode.used_if.holds((0, 0, 0o200000, 0o600, 0, 0))
        assert not mode.used_if.holds((0, 0, 0o40000, 0o600, 0, 0))
    new_addr = signature("x86_64", "mremap").args[4]
    assert new_addr.used_if is not None
    assert new_addr.used_if.holds((0, 0, 0, 3, 0, 0))
    assert not new_addr.used_if.holds((0, 0, 0, 1, 0, 0))
    setfl = signature("x86_64", "fcntl").args[2]
    assert setfl.used_if is not None
    assert setfl.used_if.holds((3, 4, 2048, 0, 0, 0))
    assert not setfl.used_if.holds((3, 6, 0x7FFC0000, 0, 0, 0))  # F_SETLK: a pointer
    arg2 = signature("x86_64", "prctl").args[1]
    assert arg2.used_if is not None
    assert arg2.used_if.holds((38, 1, 0, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    assert not arg2.used_if.holds((15, 0x7FFC0000, 0, 0, 0, 0))  # PR_SET_NAME: a pointer


def test_garbage_above_a_32_bit_deciding_argument_decides_nothing() -> None:
    """Conditions look at a deciding argument as the kernel does: its upper half may hold garbage."""
    setfl = signature("x86_64", "fcntl").args[2]
    assert setfl.used_if.holds((3, 4 | 0xDEAD << 32, 2048, 0, 0, 0))
    mode = signature("x86_64", "openat").args[3]
    assert not mode.used_if.holds((0, 0, 0o100 << 32, 0o644, 0, 0))
    assert UsedIf(0, None, (1,), 0x7F).holds((0x81,))
    assert not UsedIf(0, None, None).holds((1,))


def test_call_signature_refines_only_what_it_may() -> None:
    """A call with its values keeps names and number of arguments; unknown values refine nothing."""
    for call, values in [("fcntl", (3, 1, 0)), ("prctl", (15, 99)), ("socket", (16, 3, 9)), ("read", (3,))]:
        plain, refined = signature("x86_64", call), call_signature("x86_64", call, values)
        assert [(s.name, s.index) for s in plain.args] == [(s.name, s.index) for s in refined.args]
    assert call_signature("x86_64", "fcntl", ()) == signature("x86_64", "fcntl")
    assert call_signature("x86_64", "fcntl", (None, None, 1)) == signature("x86_64", "fcntl")
    assert call_signature("x86_64", "fcntl", (None, 2, None)).args[2].constants == "fcntl_setfd"
    assert call_signature("x86_64", "no_such_call", ()) is None
    assert call_signature("x86_64", "fcntl", (3, 0, 10)).args[2].kind == "fd"
    assert call_signature("x86_64", "prctl", (15, 0x7FFC0000)).args[1].kind == "pointer"


START = """
import sys
from autoprofile import abi
abi.syscall_nr("x86_64", "openat")
spec = abi.signature("x86_64", "openat").args[2]
abi.decode_value("x86_64", spec, 0o2000000)
for name in list(abi.syscall_table("x86_64"))[:60]:
    abi.constrained_args("x86_64", name)
print(*sorted(sys.modules))
"""


def test_start_up_is_light() -> None:
    """Importing the package and using x86_64 loads nothing heavy."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", START], capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"yaml", "pandas", "difflib", "subprocess", "json"} & set(done.stdout.split())
