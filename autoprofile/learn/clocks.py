"""Clocks whose number holds a process or a descriptor, as classes: no run meets the same one again.

clock_getcpuclockid(3), pthread_getcpuclockid(3) and the descriptors of dynamic clocks give negative clock ids
(include/linux/posix-timers_types.h: ``~pid << 3 | clock``, fd clocks end in 3). A class is "negative, with
these low three bits"; the member that stands for it is the one of process 0, the caller itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from autoprofile.profile.arg import Arg

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.learn.compact import Box

__all__ = ["ANY_OWNER", "apart", "class_arg", "class_of", "has_class"]

#: What is said beside a rule with a class.
ANY_OWNER: Final = "a clock of some process, thread or descriptor, whichever"

_CLASS: Final = 0x80000007
_OWNER: Final = 0x7FFFFFF8


def class_of(spec: ArgSpec, value: int) -> int:
    """Return the value that stands for the class of a clock, any other value as it is.

    widens: a rule then admits such clocks of every process, which the kernel lets a program read only of its
    own threads and of processes that exist (kernel/time/posix-cpu-timers.c, pid_for_clock).
    """
    return value | _OWNER if _is_class(spec, value) else value


def _is_class(spec: ArgSpec, value: int) -> bool:
    return spec.constants == "clock_id" and value >> 31 == 1


def has_class(specs: Sequence[ArgSpec], box: Box) -> bool:
    """Tell whether a box holds a class."""
    return any(_is_class(s, v) for s, side in zip(specs, box, strict=True) if side for v in side)


def apart(specs: Sequence[ArgSpec], boxes: Iterable[Box]) -> list[Box]:
    """Return the boxes with each class in a box of its own: no comparator lists values and classes."""
    found = list(boxes)
    for at, spec in enumerate(specs):
        if spec.constants != "clock_id":
            continue
        split: list[Box] = []
        for box in found:
            values = box[at] or frozenset()
            classes = sorted(v for v in values if _is_class(spec, v))
            plain = values.difference(classes)
            sides = [frozenset({one}) for one in classes] if classes else [box[at]]
            if classes and plain:
                sides.insert(0, plain)
            split += [(*box[:at], side, *box[at + 1 :]) for side in sides]
        found = split
    return found


def class_arg(spec: ArgSpec, side: frozenset[int]) -> Arg | None:
    """Return the comparator of a side that is one class, None of any other side."""
    value = min(side)
    if len(side) != 1 or not _is_class(spec, value):
        return None
    return Arg(spec.index, "masked_eq", value & _CLASS, mask=_CLASS)
