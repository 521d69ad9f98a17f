"""libbpf through ctypes: open an object from memory, load it, attach its programs, reach its maps and events.

Nothing here knows what the programs do. Errors become `MachineError` with what libbpf or the verifier said
last; everything made is released by `close`, or by the kernel when the process ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Any, Final

from autoprofile.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

__all__ = [
    "BpfMap",
    "BpfObject",
    "EventRing",
    "ask",
    "attach_raw",
    "bind",
    "create_map",
    "has_libbpf",
    "load_raw",
    "probe_bpf",
]

_SONAME: Final = "libbpf.so.1"
_BATCH: Final = 4096
_LOG_LINES: Final = 200
_VERIFIER_BYTES: Final = 1 << 20
_RAW_TRACEPOINT: Final = 17  # BPF_PROG_TYPE_RAW_TRACEPOINT

_Print = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_Sample = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

_library: Any = None
_log: list[str] = []


def _bpf() -> Any:
    global _library
    if _library is None:
        try:
            library = ctypes.CDLL(_SONAME, use_errno=True)
        except OSError as error:
            raise MachineError(
                f"there is no {_SONAME}",
                hint="apt-get install libbpf1; --backend notify and ptrace need neither it nor root",
            ) from error
        pointer, integer, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
        _declare(
            library,
            ("libbpf_set_print", pointer, (_Print,)),
            ("bpf_object__open_mem", pointer, (ctypes.c_char_p, size, pointer)),
            ("bpf_object__load", integer, (pointer,)),
            ("bpf_object__close", None, (pointer,)),
            ("bpf_object__find_map_by_name", pointer, (pointer, ctypes.c_char_p)),
            ("bpf_object__next_program", pointer, (pointer, pointer)),
            ("bpf_program__attach", pointer, (pointer,)),
            ("bpf_program__autoload", ctypes.c_bool, (pointer,)),
            ("bpf_program__set_autoload", integer, (pointer, ctypes.c_bool)),
            ("bpf_program__name", ctypes.c_char_p, (pointer,)),
            ("bpf_program__fd", integer, (pointer,)),
            ("bpf_prog_test_run_opts", integer, (integer, pointer)),
            ("bpf_link__destroy", integer, (pointer,)),
            ("bpf_map__fd", integer, (pointer,)),
            ("bpf_map__key_size", ctypes.c_uint32, (pointer,)),
            ("bpf_map__value_size", ctypes.c_uint32, (pointer,)),
            ("bpf_map__max_entries", ctypes.c_uint32, (pointer,)),
            ("bpf_map__set_max_entries", integer, (pointer, ctypes.c_uint32)),
            ("bpf_prog_load", integer, (integer, *[ctypes.c_char_p] * 3, size, pointer)),
            ("bpf_raw_tracepoint_open", integer, (ctypes.c_char_p, integer)),
            ("bpf_map_create", integer, (integer, ctypes.c_char_p, *[ctypes.c_uint32] * 3, pointer)),
            ("bpf_map_lookup_elem", integer, (integer, pointer, pointer)),
            ("bpf_map_update_elem", integer, (integer, pointer, pointer, ctypes.c_uint64)),
            ("bpf_map_delete_elem", integer, (integer, pointer)),
            ("bpf_map_get_next_key", integer, (integer, pointer, pointer)),
            ("bpf_map_lookup_batch", integer, (integer, *[pointer] * 5, pointer)),
            ("ring_buffer__new", pointer, (integer, _Sample, pointer, pointer)),
            ("ring_buffer__consume", integer, (pointer,)),
            ("ring_buffer__epoll_fd", integer, (pointer,)),
            ("ring_buffer__free", None, (pointer,)),
        )
        library.libbpf_set_print(_print)
        _library = library
    return _library


def bind(*functions: tuple[str, Any, tuple[Any, ...]]) -> Any:
    """Return the library with further functions declared: name, type of the result, types of the arguments.

    Raises:
        MachineError: there is no libbpf.
    """
    library = _bpf()
    _declare(library, *functions)
    return library


def _declare(library: Any, *functions: tuple[str, Any, tuple[Any, ...]]) -> None:
    for name, result, arguments in functions:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


_libc: Final = ctypes.CDLL(None)


def _keep(_level: int, form: bytes, arguments: int) -> int:
    buffer = ctypes.create_string_buffer(4096)
    _libc.vsnprintf(buffer, ctypes.c_size_t(len(buffer)), form, ctypes.c_void_p(arguments))
    _log.append(buffer.value.decode(errors="replace").rstrip())
    del _log[:-_LOG_LINES]
    return 0


_print: Final = _Print(_keep)


def _fail(what: str, number: int | None = None) -> MachineError:
    number = ctypes.get_errno() if number is None else number
    why = os.strerror(number) if number else "unknown error"
    said = next((line for line in reversed(_log) if line and "libbpf: failed" not in line), "")
    hint: str | None = "tracing with eBPF needs root (CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE); others do not"
    if number != errno.EPERM and (number != errno.EACCES or os.geteuid() == 0):  # the verifier's, too
        hint = f"{said[:300]}; --backend notify and ptrace do without" if said else None
    return MachineError(f"{what}: {why}", hint=hint)


def has_libbpf() -> bool:
    """Tell whether the library is there."""
    try:
        _bpf()
    except MachineError:
        return False
    return True


def probe_bpf() -> None:
    """Make a map and close it again.

    Raises:
        MachineError: bpf(2) is refused here (a container without CAP_BPF, lockdown), or there is no libbpf.
    """
    fd = _bpf().bpf_map_create(2, b"autoprofile", 4, 4, 1, None)  # BPF_MAP_TYPE_ARRAY
    if fd < 0:
        raise _fail("bpf(2) is refused")
    os.close(fd)


class _RunOptions(ctypes.Structure):
    # struct bpf_test_run_opts, tools/lib/bpf/bpf.h
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


def ask(program_fd: int, *numbers: int) -> int:
    """Run a raw tracepoint program once in this thread, with up to 12 numbers as its arguments.

    Returns:
        What the program returned (Linux 5.10 and later).

    Raises:
        MachineError: the kernel refuses.
    """
    context = (ctypes.c_uint64 * 12)(*numbers)
    options = _RunOptions(sz=ctypes.sizeof(_RunOptions))
    options.ctx_in = ctypes.addressof(context)
    options.ctx_size_in = ctypes.sizeof(context)
    if _bpf().bpf_prog_test_run_opts(program_fd, ctypes.byref(options)) != 0:
        raise _fail("a question to the probes failed")
    return int(options.retval)


def create_map(kind: int, name: str, key_size: int, value_size: int, entries: int, flags: int) -> BpfMap:
    """Make a map of a BPF_MAP_TYPE_*; its descriptor is the caller's to close.

    Raises:
        MachineError: the kernel refuses.
    """
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=flags)
    fd = _bpf().bpf_map_create(kind, name.encode(), key_size, value_size, entries, ctypes.byref(options))
    if fd < 0:
        raise _fail(f"map {name} cannot be made")
    return BpfMap(fd, key_size, value_size, entries)


def load_raw(name: str, instructions: bytes) -> int:
    """Load a raw tracepoint program; return its descriptor, which is the caller's to close.

    Raises:
        MachineError: the kernel refuses; the hint is the end of what the verifier said.
    """
    bpf, options = _bpf(), _LoadOptions(sz=ctypes.sizeof(_LoadOptions))
    arguments = (_RAW_TRACEPOINT, name.encode(), b"GPL", instructions, len(instructions) // 8)
    fd = int(bpf.bpf_prog_load(*arguments, ctypes.byref(options)))
    if fd >= 0:
        return fd
    number = ctypes.get_errno()
    if number != errno.EPERM:
        said = ctypes.create_string_buffer(_VERIFIER_BYTES)
        options.log_level, options.log_size, options.log_buf = 1, len(said), ctypes.addressof(said)
        bpf.bpf_prog_load(*arguments, ctypes.byref(options))
        lines = said.value.decode(errors="replace").splitlines()
        _log.extend([*lines, " | ".join(lines[-4:])])
    raise _fail(f"probe {name} cannot be loaded", number)


def attach_raw(program_fd: int, tracepoint: str) -> int:
    """Attach a raw tracepoint program; closing the descriptor returned detaches it.

    Raises:
        MachineError: the kernel refuses.
    """
    fd = int(_bpf().bpf_raw_tracepoint_open(tracepoint.encode(), program_fd))
    if fd < 0:
        raise _fail(f"a probe cannot be attached to {tracepoint}")
    return fd


class _LoadOptions(ctypes.Structure):
    # struct bpf_prog_load_opts, tools/lib/bpf/bpf.h
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    )


class _MapOptions(ctypes.Structure):
    # struct bpf_map_create_opts, tools/lib/bpf/bpf.h: its beginning, as libbpf allows
    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


class BpfMap:
    """A map of a loaded object; keys and values are bytes."""

    def __init__(self, fd: int, key_size: int, value_size: int, entries: int) -> None:
        self.fd = fd
        self.key_size, self.value_size, self.entries = key_size, value_size, entries

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, None without one."""
        value = ctypes.create_string_buffer(self.value_size)
        if _bpf().bpf_map_lookup_elem(self.fd, key, value) != 0:
            if ctypes.get_errno() == errno.ENOENT:
                return None
            raise _fail("a map cannot be read")
        return value.raw

    def put(self, key: bytes, value: bytes, *, only_new: bool = False) -> bool:
        """Set a value; False when `only_new` and the key is there.

        Raises:
            MachineError: the map is full, or the kernel refuses.
        """
        if _bpf().bpf_map_update_elem(self.fd, key, value, 1 if only_new else 0) != 0:
            if only_new and ctypes.get_errno() == errno.EEXIST:
                return False
            raise _fail("a map cannot be written")
        return True

    def remove(self, key: bytes) -> bool:
        """Remove a key; False when it is not there."""
        return bool(_bpf().bpf_map_delete_elem(self.fd, key) == 0)

    def keys(self) -> list[bytes]:
        """Return all keys; those that come and go meanwhile may be missing or be there twice."""
        found: list[bytes] = []
        key, following = None, ctypes.create_string_buffer(self.key_size)
        while len(found) <= 2 * self.entries and _bpf().bpf_map_get_next_key(self.fd, key, following) == 0:
            found.append(following.raw)
            key = following.raw
        return found

    def items(self) -> tuple[bytes, bytes, int]:
        """Return all keys, all values, each run together, and their number."""
        keys, values, total = bytearray(), bytearray(), 0
        batch = _BATCH
        while True:
            some = self._batches(batch, keys, values)
            if some is not None:
                return bytes(keys), bytes(values), total + some
            # A bucket held more than a batch (ENOSPC): begin again with room for everything.
            keys.clear()
            values.clear()
            batch = max(batch * 4, self.entries)

    def _batches(self, batch: int, keys: bytearray, values: bytearray) -> int | None:
        key_buffer = ctypes.create_string_buffer(batch * self.key_size)
        value_buffer = ctypes.create_string_buffer(batch * self.value_size)
        token = ctypes.create_string_buffer(max(8, self.key_size))
        before, total = None, 0
        while True:
            count = ctypes.c_uint32(batch)
            result = _bpf().bpf_map_lookup_batch(
                self.fd, before, token, key_buffer, value_buffer, ctypes.byref(count), None
            )
            number = ctypes.get_errno()
            if result != 0 and number == errno.ENOSPC:
                return None
            if result != 0 and number != errno.ENOENT:
                raise _fail("a map cannot be read", number)
            total += count.value
            keys += key_buffer.raw[: count.value * self.key_size]
            values += value_buffer.raw[: count.value * self.value_size]
            if result != 0:
                return total
            before = token


class EventRing:
    """The consumer of a ring buffer; `fileno` is readable when there is something."""

    def __init__(self, events: BpfMap, take: Callable[[bytes], None]) -> None:
        def sample(_context: int, data: int, size: int) -> int:
            take(ctypes.string_at(data, size))
            return 0

        self._sample = _Sample(sample)  # must live as long as the ring
        self._ring = _bpf().ring_buffer__new(events.fd, self._sample, None, None)
        if not self._ring:
            raise _fail("the ring of events cannot be mapped")

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return int(_bpf().ring_buffer__epoll_fd(self._ring))

    def consume(self) -> None:
        """Take all events there are."""
        _bpf().ring_buffer__consume(self._ring)

    def close(self) -> None:
        """Unmap the ring."""
        if self._ring:
            _bpf().ring_buffer__free(self._ring)
            self._ring = None


class BpfObject:
    """A loaded object.

    Args:
        image: the ELF file.
        sizes: map -> bytes of key and value; an object with others was built from other sources.
        entries: map -> entries, where not those the object says.
        without: programs that are not loaded.
        question: a program that is loaded for `ask` alone, and not attached.
        has_events: it has a ring buffer named events.

    Raises:
        MachineError: no libbpf, no privilege, or a kernel that refuses the programs.
    """

    source, is_unsure = "the kernel's types", False

    def __init__(
        self,
        image: bytes,
        sizes: Mapping[str, tuple[int, int]],
        entries: Mapping[str, int] | None = None,
        without: Collection[str] = (),
        *,
        question: str | None = None,
        has_events: bool = True,
    ) -> None:
        bpf = _bpf()
        self._question = question
        self._links: list[int] = []
        self.maps: dict[str, BpfMap] = {}
        self._object = bpf.bpf_object__open_mem(image, len(image), None)
        if not self._object:
            raise _fail("the probes cannot be opened")
        try:
            for name, number in (entries or {}).items():
                if bpf.bpf_map__set_max_entries(self._find(name), number) != 0:
                    raise _fail(f"map {name} cannot have {number} entries")
            for program in self._programs():
                wanted = bpf.bpf_program__name(program).decode() not in without
                bpf.bpf_program__set_autoload(program, wanted)
            if (result := bpf.bpf_object__load(self._object)) != 0:
                raise _fail("the probes cannot be loaded", -result)
            for name, size in {**sizes, **({"events": (0, 0)} if has_events else {})}.items():
                found = self._find(name)
                has = (bpf.bpf_map__key_size(found), bpf.bpf_map__value_size(found))
                if has != size:
                    raise MachineError(
                        f"the probes do not fit this program: {name} has records of {has} bytes, not {size}",
                        hint="make probes builds them again",
                    )
                self.maps[name] = BpfMap(bpf.bpf_map__fd(found), *has, bpf.bpf_map__max_entries(found))
        except BaseException:
            self.close()
            raise

    def attach(self) -> None:
        """Attach every program."""
        bpf = _bpf()
        for program in self._programs():
            name = bpf.bpf_program__name(program).decode()
            if not bpf.bpf_program__autoload(program) or name == self._question:
                continue
            link = bpf.bpf_program__attach(program)
            if not link:
                raise _fail(f"probe {name} cannot be attached")
            self._links.append(link)

    def ask(self, *numbers: int) -> int:
        """Run the question; see `ask`."""
        bpf = _bpf()
        for program in self._programs():
            if bpf.bpf_program__name(program).decode() == self._question:
                return ask(bpf.bpf_program__fd(program), *numbers)
        raise MachineError("the probes have no question", hint="make probes builds them again")

    def detach(self) -> None:
        """Detach every program; the maps stay."""
        for link in self._links:
            _bpf().bpf_link__destroy(link)
        self._links.clear()

    def close(self) -> None:
        """Release programs and maps."""
        self.detach()
        if self._object:
            _bpf().bpf_object__close(self._object)
            self._object = None

    def _programs(self) -> Iterator[int]:
        program = None
        while program := _bpf().bpf_object__next_program(self._object, program):
            yield program

    def _find(self, name: str) -> int:
        found = _bpf().bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise MachineError(f"the probes have no map {name}", hint="make probes builds them again")
        return int(found)
