"""A filter as the kernel takes it: a checked sequence of classic-BPF instructions, and its bytes.

Comes from the compiler, from raw bytes or from instructions; never changes; never touches the kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.arch import arch as arch_named
from autoprofile.errors import AutoprofileError
from autoprofile.filter import opcodes as op
from autoprofile.filter import simulate
from autoprofile.filter.limits import bitmap_size
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from autoprofile.profile import Profile

__all__ = ["Program", "SockFilter"]

# struct sock_filter; every arch we know is little-endian, but filters of others can be read.
_SOCK_FILTER = {"little": struct.Struct("<HBBI"), "big": struct.Struct(">HBBI")}
_SIZE = 8


class SockFilter(NamedTuple):
    """One instruction: ``struct sock_filter`` of ``linux/filter.h``."""

    code: int
    jt: int
    jf: int
    k: int


class Program(Sequence[SockFilter]):
    """A valid seccomp filter; ``bytes(program)`` is the array of ``struct sock_filter`` the kernel takes.

    Args:
        instructions: the instructions, checked as the kernel checks them.
        notes: comments by instruction index, shown by `disassemble`.
        byteorder: of the machine it is for; that says which half of an argument comes first.

    Raises:
        FilterInvalid: the kernel would refuse these instructions.
    """

    __slots__ = ("_instructions", "byteorder", "notes")

    def __init__(
        self,
        instructions: Iterable[SockFilter],
        notes: Mapping[int, str] | None = None,
        byteorder: Literal["little", "big"] = "little",
    ) -> None:
        self._instructions = tuple(SockFilter(*i) for i in instructions)
        self.notes: Mapping[int, str] = dict(notes or {})
        self.byteorder: Literal["little", "big"] = byteorder
        simulate.check(self._instructions)

    @classmethod
    def from_bytes(cls, raw: bytes, byteorder: Literal["little", "big"] | None = "little") -> Program:
        """Read an array of ``struct sock_filter``.

        Args:
            raw: the bytes.
            byteorder: of the machine it is for. None takes the one in which the instructions are valid:
                no program is valid in both, since the bytes of its last opcode, a return, differ.

        Raises:
            AutoprofileError: the length is not a multiple of 8, or the kernel would refuse the instructions.
        """
        if not raw or len(raw) % _SIZE:
            raise AutoprofileError(
                f"{len(raw)} bytes are no filter: struct sock_filter has {_SIZE} bytes",
                hint="expected the raw instructions, without struct sock_fprog around them",
            )
        if byteorder is None:
            is_big = int.from_bytes(raw[-_SIZE : 2 - _SIZE], "big") in (op.RET_K, op.RET_A)
            byteorder = "big" if is_big else "little"
        fields = _SOCK_FILTER[byteorder].iter_unpack(raw)
        return cls((SockFilter(*one) for one in fields), byteorder=byteorder)

    @overload
    def __getitem__(self, index: int) -> SockFilter: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[SockFilter, ...]: ...
    def __getitem__(self, index: int | slice) -> SockFilter | tuple[SockFilter, ...]:
        return self._instructions[index]

    def __len__(self) -> int:
        return len(self._instructions)

    def __iter__(self) -> Iterator[SockFilter]:
        return iter(self._instructions)

    def __bytes__(self) -> bytes:
        pack = _SOCK_FILTER[self.byteorder].pack
        return b"".join(pack(*i) for i in self._instructions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Program):
            return NotImplemented
        return (self._instructions, self.byteorder) == (other._instructions, other.byteorder)

    def __hash__(self) -> int:
        return hash(self._instructions)

    def __repr__(self) -> str:
        return f"<Program of {len(self)} instructions>"

    def simulate(self, arch: str | int, nr: int, args: Sequence[int] = ()) -> Action:
        """Answer one call as the kernel would.

        Args:
            arch: an arch name, or an ``AUDIT_ARCH_*`` token.
            nr: the number in ``seccomp_data.nr``: for x32 it includes the x32 bit.
            args: up to six raw 64-bit arguments; missing ones are 0.
        """
        return Action.from_ret(self.simulate_ret(arch, nr, args))

    def simulate_ret(self, arch: str | int, nr: int, args: Sequence[int] = ()) -> int:
        """Give the raw 32-bit return value for one call (see `simulate`)."""
        token = arch_named(arch).audit_arch if isinstance(arch, str) else arch
        return simulate.run_words(self._instructions, simulate.words_of_call(token, nr, args))

    def simulate_data(self, data: bytes, visited: set[int] | None = None) -> int:
        """Give the raw 32-bit return value for one packed ``struct seccomp_data`` (64 bytes).

        Args:
            data: the structure, little-endian.
            visited: collects the indexes of the executed instructions, when given.
        """
        return simulate.run(self._instructions, data, visited)

    def is_constant_allow(self, arch: str | int, nr: int) -> bool:
        """Say whether Linux ≥ 5.11 answers this call from its bitmap, without running the filter.

        It does not for numbers behind the end of its own table (see `limits.bitmap_size`).
        """
        token = arch_named(arch).audit_arch if isinstance(arch, str) else arch
        known = arch_from_audit(token, nr)
        if known in ARCHES and nr >= bitmap_size(known):
            return False
        return simulate.is_constant_allow(self._instructions, token, nr)

    def disassemble(self, profile: Profile | None = None) -> str:
        """Render the instructions as text, one a line, with names where they are known.

        Args:
            profile: what the program was compiled from; its rules are shown before the code that checks them.
        """
        from autoprofile.filter.disassemble import disassemble

        if profile is None:
            return disassemble(self)
        from autoprofile.profile.wording import rule_text

        return disassemble(
            self, lambda arch, nr: [rule_text(arch, one) for one in profile.rules_for(arch, nr)]
        )
