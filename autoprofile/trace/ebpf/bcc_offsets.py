"""Where the running kernel keeps the fields that the probes read, from its own description (BTF).

Distribution headers are those of one kernel, often not of the one that runs: where BTF is there, it is right
and they are not asked. libbpf, which bcc is built on, reads it.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

from autoprofile.errors import MachineError
from autoprofile.trace.ebpf.libbpf import bind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprofile.trace.ebpf.sources import Field

__all__ = ["offsets_from_btf"]

# BTF_KIND_* of include/uapi/linux/btf.h.
_STRUCT, _UNION = 4, 5
_NAMED_ONLY: Final = {8, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag


class _Type(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size_or_type", ctypes.c_uint32))

    @property
    def kind(self) -> int:
        return int(self.info) >> 24 & 0x1F


class _Member(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32))


def offsets_from_btf(fields: Iterable[Field]) -> dict[str, int] | None:
    """Return name -> bytes from the beginning of its structure; None on a kernel without BTF.

    Raises:
        MachineError: this kernel has no such field: it is newer or older than the probes know.
    """
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    bpf = bind(
        ("btf__load_vmlinux_btf", pointer, ()),
        ("btf__free", None, (pointer,)),
        ("btf__find_by_name_kind", integer, (pointer, ctypes.c_char_p, ctypes.c_uint32)),
        ("btf__type_by_id", pointer, (pointer, ctypes.c_uint32)),
        ("btf__name_by_offset", ctypes.c_char_p, (pointer, ctypes.c_uint32)),
    )
    btf = bpf.btf__load_vmlinux_btf()
    if not btf:
        return None
    try:
        return {field.name: _Walk(bpf, btf).offset(field) for field in fields}
    finally:
        bpf.btf__free(btf)


class _Walk:
    def __init__(self, bpf: Any, btf: int) -> None:
        self._bpf, self._btf = bpf, btf

    def offset(self, field: Field) -> int:
        struct = self._bpf.btf__find_by_name_kind(self._btf, field.struct.encode(), _STRUCT)
        for path in (field.path, *field.before):
            if (total := self._along(struct, path)) is not None:
                return total
        raise MachineError(
            f"this kernel has no {field.struct}.{field.path}, which the probes read",
            hint="--backend notify and ptrace do without",
        )

    def _along(self, number: int, path: str) -> int | None:
        total = 0
        for name in path.split("."):
            found = self._member(number, name.encode()) if number > 0 else None
            if found is None:
                return None
            at, number = found
            total += at
        return total

    def _member(self, number: int, name: bytes) -> tuple[int, int] | None:
        # Its bytes from the beginning, and its type; members of unnamed structures are the outer one's.
        address = self._bpf.btf__type_by_id(self._btf, number)
        while address and (found := _Type.from_address(address)).kind in _NAMED_ONLY:
            address = self._bpf.btf__type_by_id(self._btf, found.size_or_type)
        if not address or found.kind not in (_STRUCT, _UNION):
            return None
        count, has_bits = found.info & 0xFFFF, found.info >> 31
        for member in (_Member * count).from_address(address + ctypes.sizeof(_Type)):
            at = (member.offset & 0xFFFFFF if has_bits else member.offset) // 8
            called = self._bpf.btf__name_by_offset(self._btf, member.name)
            if called == name:
                return at, int(member.type)
            if not called and (inner := self._member(member.type, name)) is not None:
                return at + inner[0], inner[1]
        return None
