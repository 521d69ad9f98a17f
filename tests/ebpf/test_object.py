"""The prebuilt object: made from the sources beside it, loaded quickly, gone when the tool is."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_table
from autoprofile.errors import MachineError
from autoprofile.trace.ebpf import records
from autoprofile.trace.ebpf.libbpf import BpfObject
from autoprofile.trace.ebpf.probes import Probes, lacks
from autoprofile.trace.source import auto_source, source_named
from tests.conftest import TESTS

ROOT = TESTS.parent
OBJECT = ROOT / "autoprofile/trace/ebpf/data/autoprofile.bpf.o"


def instructions(path: Path) -> str:
    """Return the disassembly of every program in an object, without addresses of the file itself."""
    done = subprocess.run(
        ["llvm-objdump", "-d", "--no-show-raw-insn", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split("\n", 2)[2]


def test_the_object_is_what_the_sources_compile_to(tmp_path):
    """Nobody ships probes whose source is another: built again, the instructions are the same."""
    for program in ("clang", "llvm-strip", "llvm-objdump"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} (Debian packages clang, llvm)")
    version = subprocess.run(
        ["clang", "--version"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    if "version 14." not in version:
        pytest.skip("the object was built with clang 14; another one may choose other instructions")
    if not Path("/usr/include/bpf/bpf_helpers.h").exists():
        pytest.skip("no libbpf headers (Debian package libbpf-dev)")
    again = tmp_path / "again.o"
    subprocess.run([ROOT / "tools/build_probes.sh", again], check=True, timeout=120)
    assert instructions(again) == instructions(OBJECT)


def test_every_constrained_argument_is_in_the_layouts():
    """The probes' table is the signatures': each constrained argument of each call, at its width."""
    table, conditions = records.call_tables()
    for number, arch in enumerate(records.ARCHES):
        for name, nr in syscall_table(arch).items():
            at = 4 * (number * records.LAYOUT_NRS + (nr & ~0x40000000 if arch == "x32" else nr))
            layout = int.from_bytes(table[at : at + 4], sys.byteorder)
            found = {i: how for i in range(6) if (how := (layout >> 3 * i) & 7) in (1, 2)}
            specs = constrained_args(arch, name)
            assert found == {s.index: 1 if s.width == 32 else 2 for s in specs}, (arch, name)
            conditional = [s for s in specs if s.used_if is not None]
            assert (layout >> records.LAYOUT_CONDITION != 0) == bool(conditional), (arch, name)
            if conditional:
                condition = conditions[(layout >> records.LAYOUT_CONDITION) - 1]
                assert condition.argument == conditional[0].index
                assert condition.decider == conditional[0].used_if.index


@pytest.mark.ebpf
def test_records_of_another_size_are_refused():
    """An object built from other records is told apart before it counts into the wrong places."""
    sizes = {**records.SIZES, "cells": (records.KEY_BYTES, 8)}
    with pytest.raises(MachineError, match="do not fit"):
        BpfObject(OBJECT.read_bytes(), sizes)


@pytest.mark.ebpf
def test_it_is_the_automatic_choice():
    """As root on a kernel with BTF, eBPF is what `auto` means."""
    assert auto_source() == "ebpf"
    assert source_named("auto").name == "ebpf"


def test_without_privilege_it_says_what_to_do(monkeypatch):
    """An unprivileged user gets status 4 and the names of the sources that work; auto takes one of them."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    why = lacks()
    assert why is not None
    assert "root" in why[0]
    assert "notify" in why[1]
    assert auto_source() in ("notify", "ptrace")
    with pytest.raises(MachineError) as caught:
        Probes()
    assert caught.value.exit_status == 4


@pytest.mark.ebpf
def test_unprivileged_command_line():
    """`learn --backend ebpf` of a user without rights ends with status 4 and a hint."""
    code = (
        "import os, sys\n"
        "from autoprofile.cli import main\n"
        "os.geteuid = lambda: 1000  # the interpreter's own files may be readable for root alone\n"
        "sys.exit(main(['learn', '--backend', 'ebpf', '-o', '/tmp/never.yaml', '--force', '--', 'true']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 4, done.stderr
    assert "needs root" in done.stderr
    assert "hint:" in done.stderr


def _held(pid: int, kind: str) -> set[str]:
    """Return the ids of the BPF programs, links or maps a process holds ("prog", "link", "map")."""
    found = set()
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            fields = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if f"{kind}_id" in fields:
            found.add(fields[f"{kind}_id"].strip())
    return found


def _is_loaded(kind: str, identity: str) -> bool:
    done = subprocess.run(
        ["bpftool", kind, "show", "id", identity], capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode == 0


def _comes_true(condition, timeout_s: float = 120) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.ebpf
def test_nothing_stays_loaded_after_kill_9(loader):
    """The probes live as long as their descriptors: killing the tool takes programs, links and maps away."""
    if shutil.which("bpftool") is None:
        pytest.skip("no bpftool")
    code = (
        "from autoprofile.trace.ebpf.loading import choose\n"
        "from autoprofile.trace.source import Command, source_named\n"
        f"choose({loader!r})\n"
        "source_named('ebpf').run(Command(('sleep', '600')))"
    )
    tool = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    try:
        assert _comes_true(lambda: len(_held(tool.pid, "link")) >= 5)
        held = [(kind, identity) for kind in ("prog", "link", "map") for identity in _held(tool.pid, kind)]
        assert len(held) >= 15
        assert all(_is_loaded(*one) for one in held)
        tool.kill()
        tool.wait(timeout=60)
        assert _comes_true(lambda: not any(_is_loaded(*one) for one in held))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(tool.pid, signal.SIGKILL)
