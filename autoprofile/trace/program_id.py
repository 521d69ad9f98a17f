"""Who a process is: program path, ELF build-id, loaded libraries, libc, and the script it runs.

Everything is read through ``/proc/PID``, so programs in containers and deleted ones are identified too; what
cannot be read is "?" with the reason, never an exception. Answers about files are cached by (device, inode,
mtime, size). A pid may be reused at any time: the caller holds the process (ptrace stop, unanswered
notification) while it asks.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass

from autoprofile.trace.maps import Mapping, open_mapped_file, read_maps

__all__ = [
    "UNKNOWN_PROGRAM",
    "ElfFacts",
    "Libc",
    "LoadedObject",
    "ProgramIdentity",
    "comm_of",
    "elf_facts",
    "libc_of",
    "loaded_objects",
    "program_of",
    "script_of",
    "thread_group_of",
]

UNKNOWN_PROGRAM = "?"

_CACHE_LIMIT = (
    4096  # distinct files; a fleet of programs fits, a hostile one cannot grow the table without end
)

# elf(5) and <elf.h>
_PT_INTERP = 3
_PT_NOTE = 4
_NT_GNU_ABI_TAG = 1
_NT_GNU_BUILD_ID = 3
_NT_GO_BUILD_ID = 4
_AT_EXECFN = 31
_PHDR_BYTES_LIMIT = 65536  # binfmt_elf refuses more (fs/binfmt_elf.c: load_elf_phdrs)
_NOTE_BYTES_LIMIT = 65536  # of all notes together: a thousand headers may point at the same ones
_DELETED = " (deleted)"

_FileKey = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class ElfFacts:
    """What the program headers of an ELF file say.

    Args:
        bits: 32 or 64.
        machine: ``e_machine``, for instance 62 for x86-64.
        interpreter: path of the dynamic loader; None for a static program and for most libraries.
        build_id: GNU build-id in hex, or ``go:`` and the Go build-id of a program without one, or None.
        has_abi_tag: whether glibc's start files are in it (``.note.ABI-tag``); musl's and Go's have none.
        is_go: whether the Go linker made it.
    """

    bits: int
    machine: int
    interpreter: str | None
    build_id: str | None
    has_abi_tag: bool
    is_go: bool


@dataclass(frozen=True, slots=True)
class ProgramIdentity:
    """The program a process runs.

    Args:
        path: as its own mount namespace names it, "?" when unreadable.
        build_id: see `ElfFacts`; None when the file has none or cannot be read.
        is_deleted: whether the file was removed or replaced since it was started.
        reason: why `path` or `build_id` is unknown; None when nothing went wrong.
        elf: the facts of the file, None when they cannot be read.
    """

    path: str
    build_id: str | None
    is_deleted: bool = False
    reason: str | None = None
    elf: ElfFacts | None = None


@dataclass(frozen=True, slots=True)
class LoadedObject:
    """A file with mapped instructions: the program, its loader, a shared library, a plugin."""

    path: str
    build_id: str | None
    is_deleted: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Libc:
    """The C library a process runs on.

    Args:
        kind: "glibc", "musl", "static" (linked in, or none at all: Go and hand-made programs) or "unknown".
        version: "2.36", "1.2.3"; None when the file does not tell.
        build_id: of the library file, or of its loader while the library is not loaded yet.
        path: that file.
    """

    kind: str
    version: str | None = None
    build_id: str | None = None
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.version}" if self.version else self.kind


_facts_cache: dict[_FileKey, ElfFacts | None] = {}
_version_cache: dict[tuple[_FileKey, str], str | None] = {}


def _key(status: os.stat_result) -> _FileKey:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def _why(error: OSError) -> str:
    match error:
        case ProcessLookupError() | FileNotFoundError():
            return "the process is gone or has no program"
        case PermissionError():
            return "not permitted to look at the process"
        case _:
            return error.strerror or "unreadable"


# ---------------------------------------------------------------- ELF headers


def _read_notes(raw: bytes, order: str, alignment: int) -> list[tuple[bytes, int, bytes]]:
    notes = []
    at = 0
    while at + 12 <= len(raw):
        name_size, desc_size, kind = struct.unpack_from(order + "III", raw, at)
        name_at = at + 12
        desc_at = name_at + name_size
        desc_at += -desc_at % alignment
        end = desc_at + desc_size
        if end > len(raw):
            break
        notes.append((raw[name_at : name_at + name_size].rstrip(b"\0"), kind, raw[desc_at:end]))
        at = end + -end % alignment
    return notes


def _parse_elf(fd: int) -> ElfFacts | None:
    # By hand, for the program headers alone: importing pyelftools takes 80 ms, and a process waits for us.
    head = os.pread(fd, 4096, 0)
    if len(head) < 52 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    is_64 = head[4] == 2
    order = "<" if head[5] == 1 else ">"
    if is_64 and len(head) < 64:
        return None
    (machine,) = struct.unpack_from(order + "H", head, 18)
    (table_at,) = struct.unpack_from(order + ("Q" if is_64 else "I"), head, 32 if is_64 else 28)
    entry_size, entries = struct.unpack_from(order + "HH", head, 54 if is_64 else 42)
    if entry_size != (56 if is_64 else 32) or entry_size * entries > _PHDR_BYTES_LIMIT:
        return None
    if table_at >= 1 << 63:  # pread(2) takes a signed offset; such a header is damage or malice
        return None
    size = entry_size * entries
    table = head[table_at : table_at + size] if table_at + size <= len(head) else os.pread(fd, size, table_at)
    interpreter = build_id = go_id = None
    has_abi_tag = False
    left = _NOTE_BYTES_LIMIT
    for at in range(0, len(table) - entry_size + 1, entry_size):
        if is_64:
            kind, _, offset, _, _, length, _, alignment = struct.unpack_from(order + "IIQQQQQQ", table, at)
        else:
            kind, offset, _, _, length, _, _, alignment = struct.unpack_from(order + "IIIIIIII", table, at)
        if kind not in (_PT_INTERP, _PT_NOTE) or offset >= 1 << 63:
            continue
        length = min(length, left)
        left -= length
        raw = head[offset : offset + length] if offset + length <= len(head) else os.pread(fd, length, offset)
        if kind == _PT_INTERP:
            interpreter = os.fsdecode(raw.split(b"\0")[0])
            continue
        for name, note, desc in _read_notes(raw, order, 8 if alignment == 8 else 4):
            if name == b"GNU" and note == _NT_GNU_BUILD_ID and desc:
                build_id = desc.hex()
            elif name == b"GNU" and note == _NT_GNU_ABI_TAG:
                has_abi_tag = True
            elif name == b"Go" and note == _NT_GO_BUILD_ID:
                go_id = "go:" + desc.decode("ascii", "replace")
    return ElfFacts(
        bits=64 if is_64 else 32,
        machine=machine,
        interpreter=interpreter,
        build_id=build_id or go_id,
        has_abi_tag=has_abi_tag,
        is_go=go_id is not None,
    )


def _facts_of_fd(fd: int) -> ElfFacts | None:
    key = _key(os.fstat(fd))
    if key in _facts_cache:
        return _facts_cache[key]
    if len(_facts_cache) >= _CACHE_LIMIT:
        _facts_cache.clear()
    facts = _facts_cache[key] = _parse_elf(fd)
    return facts


def elf_facts(path: str) -> ElfFacts | None:
    """Return what the program headers of a file say, None when it is no ELF file (cached).

    Raises:
        OSError: the file cannot be read.
    """
    cached = _key(os.stat(path))  # noqa: PTH116  (a Path object costs as much as the whole cached answer)
    if cached in _facts_cache:
        return _facts_cache[cached]
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return _facts_of_fd(fd)
    finally:
        os.close(fd)


# ------------------------------------------------------------------ processes


def program_of(pid: int) -> ProgramIdentity:
    """Return the program a process runs; "?" with a reason when it cannot be read.

    About 15 µs when the program is known already, 60 µs for a new one.
    """
    link = f"/proc/{pid}/exe"
    try:
        path = os.readlink(link)  # noqa: PTH115
        status = os.stat(link)  # noqa: PTH116
    except OSError as error:
        return ProgramIdentity(UNKNOWN_PROGRAM, None, reason=_why(error))
    is_deleted = path.endswith(_DELETED) and not _is_same_file(path, status)
    if is_deleted:
        path = path.removesuffix(_DELETED)
    key = _key(status)
    try:
        facts = _facts_cache[key] if key in _facts_cache else elf_facts(link)
    except OSError as error:
        return ProgramIdentity(path, None, is_deleted, reason=f"its file is unreadable: {error.strerror}")
    if facts is None:
        return ProgramIdentity(path, None, is_deleted, reason="its file is not ELF")
    return ProgramIdentity(path, facts.build_id, is_deleted, elf=facts)


def _is_same_file(path: str, status: os.stat_result) -> bool:
    # A file may truly be called "x (deleted)".
    try:
        other = os.stat(path)  # noqa: PTH116
    except OSError:
        return False
    return (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)


def thread_group_of(tid: int) -> int | None:
    """Return the process (thread group) a thread belongs to, None when it is gone."""
    try:
        fd = os.open(f"/proc/{tid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw = os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError:
        return None
    at = raw.find(b"\nTgid:")
    return int(raw[at + 6 : raw.index(b"\n", at + 1)]) if at >= 0 else None


def comm_of(tid: int) -> str:
    """Return the name of a thread (``comm``), "?" when it is gone."""
    try:
        with open(f"/proc/{tid}/comm", "rb") as file:  # noqa: PTH123
            return os.fsdecode(file.read().removesuffix(b"\n"))
    except OSError:
        return UNKNOWN_PROGRAM


def loaded_objects(pid: int) -> tuple[LoadedObject, ...]:
    """Return the files whose instructions a process has mapped, in address order, each once.

    Right after exec that is the program and its loader only. Empty when the process cannot be read.
    """
    objects: dict[tuple[int, int], LoadedObject] = {}
    for mapping in _code_mappings(pid):
        if (mapping.device, mapping.inode) not in objects:
            objects[(mapping.device, mapping.inode)] = _identify(pid, mapping)
    return tuple(objects.values())


def _code_mappings(pid: int) -> list[Mapping]:
    try:
        return [m for m in read_maps(pid) if m.is_file and m.is_executable]
    except OSError:
        return []


def _identify(pid: int, mapping: Mapping) -> LoadedObject:
    try:
        fd = open_mapped_file(pid, mapping)
    except OSError as error:
        reason = "replaced since it was mapped" if error.strerror is None else error.strerror
        return LoadedObject(mapping.path, None, mapping.is_deleted, reason)
    try:
        facts = _facts_of_fd(fd)
    except OSError as error:
        return LoadedObject(mapping.path, None, mapping.is_deleted, error.strerror)
    finally:
        os.close(fd)
    if facts is None:
        return LoadedObject(mapping.path, None, mapping.is_deleted, "not ELF")
    return LoadedObject(mapping.path, facts.build_id, mapping.is_deleted)


# ----------------------------------------------------------------------- libc

# glibc says its version in the library and in the loader; musl's one file is both.
_GLIBC_FILE = re.compile(
    r"(?:libc\.so\.6|libc-2\.\d+\.so|ld-linux[^/]*\.so\.\d+|ld64?\.so\.\d+|ld-2\.\d+\.so)"
)
_MUSL_FILE = re.compile(r"(?:ld-musl-[^/]*\.so\.1|libc\.musl-[^/]*\.so\.1)")
_GLIBC_VERSION = re.compile(rb"(?:release|development) version (\d+\.\d+(?:\.\d+)?)")
_MUSL_VERSION = re.compile(rb"\0(1\.\d+\.\d+(?:-git-[0-9]+-g[0-9a-f]+)?)\0")
_LIBC_BYTES_LIMIT = 16 << 20


def libc_of(pid: int) -> Libc:
    """Return the C library of a process; works from the first instruction on, through the loader."""
    best: tuple[Mapping, str] | None = None
    for mapping in _code_mappings(pid):
        name = mapping.path.rpartition("/")[2]
        kind = "glibc" if _GLIBC_FILE.fullmatch(name) else "musl" if _MUSL_FILE.fullmatch(name) else None
        if kind is None and name == "libc.so":  # musl installed without its usual symlink name
            kind = "musl"
        if kind and (best is None or not name.startswith("ld")):
            best = (mapping, kind)
    if best is not None:
        return _libc_from_file(pid, *best)
    program = program_of(pid)
    if program.elf is None or program.elf.interpreter is not None:
        return Libc("unknown")
    return Libc("static", None, program.build_id, program.path)


def _libc_from_file(pid: int, mapping: Mapping, kind: str) -> Libc:
    try:
        fd = open_mapped_file(pid, mapping)
    except OSError:
        return Libc(kind, path=mapping.path)
    try:
        facts = _facts_of_fd(fd)
        key = (_key(os.fstat(fd)), kind)
        if key not in _version_cache:
            raw = b"".join(iter(lambda: os.read(fd, 1 << 20), b"")) if key[0][3] <= _LIBC_BYTES_LIMIT else b""
            match = (_GLIBC_VERSION if kind == "glibc" else _MUSL_VERSION).search(raw)
            _version_cache[key] = match[1].decode() if match else None
        return Libc(kind, _version_cache[key], facts.build_id if facts else None, mapping.path)
    except OSError:
        return Libc(kind, path=mapping.path)
    finally:
        os.close(fd)


# -------------------------------------------------------------------- scripts


def script_of(pid: int) -> str | None:
    """Return the ``#!`` script a process was started from, None when it was started from a program.

    The kernel leaves the name given to execve(2) in the auxiliary vector (AT_EXECFN): for a script that is
    the script, while ``/proc/PID/exe`` is its interpreter. ``python3 x.py`` is not a script in this sense.
    """
    program = program_of(pid)
    if program.elf is None:
        return None
    word = 8 if program.elf.bits == 64 else 4
    try:
        with open(f"/proc/{pid}/auxv", "rb") as file:  # noqa: PTH123
            raw = file.read()
        entries = list(
            struct.iter_unpack("=QQ" if word == 8 else "=II", raw[: len(raw) - len(raw) % (2 * word)])
        )
        address = next((value for kind, value in entries if kind == _AT_EXECFN), None)
        if address is None:
            return None
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # The string lies at the very end of the stack, so that a read may stop short there.
            name = os.pread(fd, 4096, address).split(b"\0")[0]
        finally:
            os.close(fd)
        seen = os.fsdecode(name)
        base = f"/proc/{pid}/root" if seen.startswith("/") else f"/proc/{pid}/cwd/"
        fd = os.open(base + seen, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            return seen if os.pread(fd, 2, 0) == b"#!" else None
        finally:
            os.close(fd)
    except (OSError, OverflowError):
        return None
