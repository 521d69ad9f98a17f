"""Identity of processes: read from real ones, and from ELF files built here byte by byte."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprofile.trace import program_id
from autoprofile.trace.maps import parse_maps, read_maps


def note(name: bytes, kind: int, desc: bytes) -> bytes:
    padded = name + b"\0"
    return (
        struct.pack("<III", len(padded), len(desc), kind)
        + padded
        + b"\0" * (-len(padded) % 4)
        + desc
        + b"\0" * (-len(desc) % 4)
    )


def elf64(notes: bytes, interpreter: bytes = b"", machine: int = 62) -> bytes:
    """Build an ELF file of headers only: one PT_NOTE, and a PT_INTERP when given."""
    count = 1 + bool(interpreter)
    at = 64 + 56 * count
    head = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 0, 3, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    table = struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(notes), len(notes), 4)
    if interpreter:
        size = len(interpreter) + 1
        table += struct.pack("<IIQQQQQQ", 3, 4, at + len(notes), 0, 0, size, size, 1)
    return head + table + notes + interpreter + b"\0"


@pytest.fixture
def sleeper():
    """A copy of sleep(1) under another name, running; killed afterwards."""
    started = []

    def start(argv, **options):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, **options)
        started.append(process)
        deadline = time.monotonic() + 5
        while program_id.comm_of(process.pid) in ("python", "pytest") and time.monotonic() < deadline:
            time.sleep(0.005)
        return process.pid

    yield start
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


def test_build_id_matches_readelf():
    """The build-id read by hand is the one binutils prints."""
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    checked = 0
    for path in (os.path.realpath(sys.executable), "/bin/sh", "/bin/ls"):
        run = subprocess.run([readelf, "-n", path], capture_output=True, text=True, timeout=30, check=False)
        said = run.stdout
        expected = re.search(r"Build ID: ([0-9a-f]+)", said)
        facts = program_id.elf_facts(path)
        assert facts is not None
        assert facts.build_id == (expected[1] if expected else None)
        checked += 1
    assert checked == 3


def test_headers_built_by_hand_are_understood(tmp_path):
    """Interpreter, GNU build-id, ABI tag and Go build-id are each found."""
    path = tmp_path / "a"
    path.write_bytes(elf64(note(b"GNU", 1, b"\0" * 16) + note(b"GNU", 3, b"\xab\xcd"), b"/lib/ld.so"))
    facts = program_id.elf_facts(str(path))
    assert facts == program_id.ElfFacts(64, 62, "/lib/ld.so", "abcd", has_abi_tag=True, is_go=False)
    go = tmp_path / "go"
    go.write_bytes(elf64(note(b"Go", 4, b"x/y")))
    facts = program_id.elf_facts(str(go))
    assert facts is not None
    assert (facts.build_id, facts.is_go, facts.interpreter) == ("go:x/y", True, None)


def test_a_rebuilt_file_is_read_again(tmp_path):
    """The cache never answers for a file whose contents were replaced."""
    path = tmp_path / "a"
    for build in (b"\x01", b"\x02\x02"):
        path.write_bytes(elf64(note(b"GNU", 3, build)))
        facts = program_id.elf_facts(str(path))
        assert facts is not None
        assert facts.build_id == build.hex()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 200), st.binary(max_size=8))
def test_damaged_files_are_no_exception(tmp_path_factory, tail, cut, poke):
    """A truncated or scribbled file yields facts or None, never an error."""
    whole = bytearray(elf64(note(b"GNU", 3, b"\x11" * 20) + tail, b"/lib/ld.so"))
    whole[cut : cut + len(poke)] = poke
    path = tmp_path_factory.mktemp("elf") / "a"
    path.write_bytes(bytes(whole))
    program_id.elf_facts(str(path))
    path.write_bytes(bytes(whole[: cut + 1]))
    program_id.elf_facts(str(path))


def test_this_process_is_identified():
    """A process is the program the kernel says it runs."""
    mine = program_id.program_of(os.getpid())
    assert mine.path == os.path.realpath(sys.executable)
    assert mine.reason is None
    assert not mine.is_deleted
    assert program_id.thread_group_of(os.getpid()) == os.getpid()


def test_a_deleted_program_keeps_its_name_and_build_id(tmp_path, sleeper):
    """A program removed while it runs is named without "(deleted)" and still has its build-id."""
    copy = tmp_path / "sleep-copy"
    shutil.copy("/bin/sleep", copy)
    pid = sleeper([str(copy), "60"])
    copy.unlink()
    found = program_id.program_of(pid)
    original = program_id.elf_facts("/bin/sleep")
    assert original is not None
    assert (found.path, found.build_id, found.is_deleted) == (str(copy), original.build_id, True)


def test_a_program_truly_called_deleted_is_not_deleted(tmp_path, sleeper):
    """A file whose name ends in "(deleted)" is told apart from a removed one."""
    copy = tmp_path / "odd (deleted)"
    shutil.copy("/bin/sleep", copy)
    found = program_id.program_of(sleeper([str(copy), "60"]))
    assert (found.path, found.is_deleted) == (str(copy), False)


def test_a_missing_process_is_unknown_with_a_reason():
    """A process that is gone is "?" and says so, everywhere."""
    gone = subprocess.Popen(["/bin/true"])
    gone.wait(10)
    found = program_id.program_of(gone.pid)
    assert found.path == "?"
    assert found.reason == "the process is gone or has no program"
    assert program_id.thread_group_of(gone.pid) is None
    assert program_id.comm_of(gone.pid) == "?"
    assert program_id.loaded_objects(gone.pid) == ()
    assert program_id.script_of(gone.pid) is None
    assert program_id.libc_of(gone.pid).kind == "unknown"


def test_loaded_libraries_have_build_ids(sleeper):
    """The program and its libc are listed once each, with the build-ids of their files."""
    pid = sleeper(["/bin/sleep", "60"])
    deadline = time.monotonic() + 5
    while len(objects := program_id.loaded_objects(pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len({o.path for o in objects}) == len(objects) == 3
    for item in objects:
        facts = program_id.elf_facts(item.path)
        assert facts is not None
        assert item.build_id == facts.build_id


def test_libc_is_the_one_confstr_names():
    """The kind and version of libc agree with what it says of itself."""
    try:
        said = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        pytest.skip("this Python does not run on glibc")
    assert said is not None
    assert str(program_id.libc_of(os.getpid())) == said


def test_static_and_musl_programs_are_told_apart(tmp_path, sleeper):
    """A static program has no libc of its own file; a musl program names musl and its version."""
    source = tmp_path / "m.c"
    source.write_text("#include <unistd.h>\nint main(void) { sleep(60); return 0; }\n")
    compilers = [("static", ["gcc", "-static"]), ("musl", ["musl-gcc"])]
    for kind, compiler in compilers:
        if shutil.which(compiler[0]) is None:
            continue
        program = tmp_path / kind
        subprocess.run([*compiler, str(source), "-o", str(program)], check=True, timeout=60)
        libc = program_id.libc_of(sleeper([str(program)]))
        assert libc.kind == kind
        if kind == "musl":
            assert re.fullmatch(r"1\.\d+\.\d+.*", libc.version or "")


def test_a_script_is_named(tmp_path, sleeper):
    """A process started from a #! script names the script; one started from a program does not."""
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\nsleep 60\n:\n")
    script.chmod(0o755)
    pid = sleeper([str(script)], start_new_session=True)
    try:
        assert program_id.script_of(pid) == str(script)
        assert program_id.script_of(sleeper(["/bin/sleep", "60"])) is None
    finally:
        os.killpg(pid, signal.SIGKILL)


def test_maps_of_this_process_are_whole():
    """Every line of a real map is parsed, in order and without overlap."""
    mappings = read_maps(os.getpid())
    assert mappings == sorted(mappings, key=lambda m: m.start)
    assert all(a.end <= b.start for a, b in itertools.pairwise(mappings))
    assert any(m.path == "[vdso]" and m.is_executable for m in mappings)
    assert any(m.is_file and m.is_executable for m in mappings)


def test_odd_map_lines_are_understood():
    """Newlines, blanks and "(deleted)" in a name come out as the name."""
    text = (
        "7f0000000000-7f0000001000 r-xp 00002000 fd:01 42                         /a b\\012c (deleted)\n"
        "7f0000001000-7f0000002000 rw-p 00000000 00:00 0 \n"
    )
    first, second = parse_maps(text)
    assert (first.path, first.is_deleted, first.offset, first.inode) == ("/a b\nc", True, 0x2000, 42)
    assert first.device == os.makedev(0xFD, 1)
    assert (second.path, second.is_file) == ("", False)


def test_identity_of_a_known_program_is_cheap():
    """Asking again costs at most 150 µs (the best of many, since the machine is shared)."""
    pid = os.getpid()
    program_id.program_of(pid)
    best = 1.0
    for _ in range(50):
        start = time.perf_counter()
        program_id.program_of(pid)
        best = min(best, time.perf_counter() - start)
    assert best < 150e-6


def test_a_thousand_headers_over_the_same_notes_cost_what_one_costs(tmp_path):
    """The notes of a file are read up to a total, not up to a limit for each header."""
    count, notes = 1170, b"\0" * 65536  # each note of twelve zero bytes; all of them would take many seconds
    head = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 0, 0, 3, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0),
    )
    at = 64 + 56 * count
    (tmp_path / "notes").write_bytes(
        head + struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(notes), 0, 4) * count + notes
    )
    facts = program_id.elf_facts(str(tmp_path / "notes"))
    assert facts is not None
    assert facts.build_id is None
