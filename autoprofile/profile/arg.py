"""One argument comparator of a rule, exactly as a seccomp filter can evaluate it.

Comparisons are unsigned. A comparator of width 32 looks at the low half only, as the kernel does for `int`
parameters; the upper half of such a register is whatever the caller left there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

from autoprofile.errors import AutoprofileError

__all__ = ["ANY", "OPS", "Arg", "listed_values"]

#: Operators of a comparator.
OPS: Final = ("eq", "ne", "lt", "le", "gt", "ge", "masked_eq", "in", "any")

_U64: Final = (1 << 64) - 1
_U32: Final = (1 << 32) - 1


@final
class _Any:
    """The explicit absence of a constraint; there is one, `ANY`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ANY"

    def __reduce__(self) -> str:
        return "ANY"


#: No constraint on a rule's arguments, said explicitly; never an empty tuple.
ANY: Final = _Any()


def _unsigned(number: int, what: str, width: int | None) -> int:
    # Negative numbers are the two's complement an `int` or `long` parameter holds: -100 is AT_FDCWD.
    if isinstance(number, bool) or not isinstance(number, int):
        raise AutoprofileError(f"a comparator's {what} is an integer, not {number!r}")
    if not -(1 << 63) <= number <= _U64:
        raise AutoprofileError(f"{what} {number} does not fit in 64 bits")
    number &= _U64
    if width == 32 and number > _U32:
        # Accept what sign extension makes of a negative int; anything else could never be equal.
        if number < _U64 - (1 << 31) + 1:
            raise AutoprofileError(
                f"{what} {number:#x} does not fit in the 32 bits the kernel reads of this argument",
                hint="give width=64 to compare the whole register",
            )
        number &= _U32
    return number


@dataclass(frozen=True, slots=True)
class Arg:
    """Compare one syscall argument with a constant.

    Args:
        index: position of the argument, 0 to 5.
        op: one of `OPS`; comparisons are unsigned. ``masked_eq`` masks both sides:
            ``(arg & mask) == (value & mask)``. ``in`` takes a set of values.
        value: an integer, or several for ``in``; negatives mean their two's complement.
        mask: the bits ``masked_eq`` looks at; None for every other operator.
        width: 32 or 64 bits are compared; None leaves it to the kernel's signature, which a `Profile` or a
            filter binds (64 until then).

    Raises:
        AutoprofileError: the parts do not make a comparator.
    """

    index: int
    op: str
    value: int | frozenset[int] = 0
    mask: int | None = None
    width: int | None = None

    def __init__(
        self,
        index: int,
        op: str,
        value: int | Iterable[int] = 0,
        mask: int | None = None,
        width: int | None = None,
    ) -> None:
        if not 0 <= index <= 5:
            raise AutoprofileError(f"a syscall has arguments 0 to 5, not {index}")
        if op not in OPS:
            raise AutoprofileError(f"no operator {op!r}", hint="operators: " + ", ".join(OPS))
        if width not in {None, 32, 64}:
            raise AutoprofileError(f"an argument is 32 or 64 bits wide, not {width}")
        if (mask is None) == (op == "masked_eq"):
            raise AutoprofileError("masked_eq needs a mask" if mask is None else f"{op} takes no mask")
        checked: int | frozenset[int]
        if op == "any":
            checked = 0
        elif op == "in":
            if isinstance(value, int) or not isinstance(value, Iterable):
                raise AutoprofileError(f"in takes a set of integers, not {value!r}")
            checked = frozenset(_unsigned(one, "value", width) for one in value)
            if not checked:
                raise AutoprofileError("in needs at least one value: an empty set matches nothing")
        elif isinstance(value, int):
            checked = _unsigned(value, "value", width)
        else:
            raise AutoprofileError(f"{op} takes one integer, not {value!r}")
        if mask is not None:
            mask = _unsigned(mask, "mask", width)
            # Bits of the value outside the mask are never looked at: one comparator, one spelling.
            assert isinstance(checked, int)
            checked &= mask
        set_field = object.__setattr__
        set_field(self, "index", index)
        set_field(self, "op", op)
        set_field(self, "value", checked)
        set_field(self, "mask", mask)
        set_field(self, "width", width)

    def match(self, raw: int) -> bool:
        """Return whether the raw 64-bit register satisfies this comparator."""
        raw &= _U32 if self.width == 32 else _U64
        value, op = self.value, self.op
        if isinstance(value, frozenset):
            return raw in value
        if op == "eq":
            return raw == value
        if op == "masked_eq":
            assert self.mask is not None
            return raw & self.mask == value
        if op == "ne":
            return raw != value
        if op == "lt":
            return raw < value
        if op == "le":
            return raw <= value
        if op == "gt":
            return raw > value
        if op == "ge":
            return raw >= value
        return True

    def bind(self, width: int) -> Arg:
        """Return this comparator at the given width, unless it has one of its own."""
        if self.width is not None:
            return self
        return Arg(self.index, self.op, self.value, self.mask, width)

    @property
    def values(self) -> tuple[int, ...]:
        """Return the value or values in ascending order."""
        return tuple(sorted(self.value)) if isinstance(self.value, frozenset) else (self.value,)

    @property
    def sort_key(self) -> tuple[int, int, int, tuple[int, ...], int]:
        """Return the key of the stable order comparators are kept and written in."""
        return (self.index, OPS.index(self.op), self.mask or 0, self.values, self.width or 0)

    def interesting_values(self) -> tuple[int, ...]:
        """Return raw registers around every border of this comparator: neighbours, flipped halves, bits."""
        bits = _U32 if self.width == 32 else _U64
        found = {0, 1, bits, _U64}
        for value in self.values:
            near = {value, (value - 1) & bits, (value + 1) & bits}
            if self.mask is not None:
                near |= {value | (~self.mask & bits), value ^ self.mask}
                near.update(value ^ bit for bit in _bits(self.mask))
                near.update(value ^ bit for bit in _bits(~self.mask & bits))
            found |= near
            # The high word alone, and the low word with a foreign high word: the halves a filter compares.
            found |= {value ^ (1 << 32), value ^ (_U32 << 32), value | (1 << 63)}
        return tuple(sorted(found))


def listed_values(args: Iterable[Arg], index: int) -> frozenset[int] | None:
    """Return the values that comparators, all of which hold, list for an argument; None when none lists."""
    found: frozenset[int] | None = None
    for one in args:
        if one.index == index and one.op in {"eq", "in"}:
            found = frozenset(one.values) if found is None else found & frozenset(one.values)
    return found


def _bits(number: int) -> Iterable[int]:
    while number:
        low = number & -number
        yield low
        number ^= low
