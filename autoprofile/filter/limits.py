"""What the kernel makes of classic filters when it installs them, and the limits of that.

Pure arithmetic on instructions: the counterpart of bpf_convert_filter() (net/core/filter.c), which turns a
filter into eBPF, and of seccomp_attach_filter() (kernel/seccomp.c), which counts the result.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import newest_nr
from autoprofile.filter import opcodes as op

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoprofile.filter.program import SockFilter

__all__ = ["MOST_CONVERTED", "bitmap_size", "converted_length", "stacked_length"]

#: MAX_INSNS_PER_PATH: converted instructions of all filters a process is under, each with a surcharge of 4.
MOST_CONVERTED = 32_768
_SURCHARGE = 4
_PROLOGUE = 3  # A = 0, X = 0, and where struct seccomp_data is


@cache
def bitmap_size(arch: str) -> int:
    """Return how many numbers the kernel's bitmap of constant allows has: the numbers below this one.

    SECCOMP_ARCH_NATIVE_NR and SECCOMP_ARCH_COMPAT_NR (kernel/seccomp.c) are the ends of the kernel's own
    tables; autoprofile's are those of Linux 6.18. x32's numbers, which have bit 30, lie outside x86_64's.
    """
    return 0 if ARCHES[arch].nr_bit else newest_nr(arch) + 1


def converted_length(program: Sequence[SockFilter]) -> int:
    """Return how many eBPF instructions the kernel makes of a filter.

    With ``net.core.bpf_jit_harden`` set it makes more of them (constants are blinded).
    """
    return _PROLOGUE + sum(_converted(one) for one in program)


def _converted(one: SockFilter) -> int:
    code, jt, jf, k = one
    if code == op.RET_K:
        return 2  # load the value, exit
    if code == op.DIV_X:
        return 5  # look at X, return 0 when it is 0
    if code not in op.JUMP_NAMES:
        return 1
    constant = 1 if not code & 8 and k >> 31 else 0  # eBPF would extend its sign
    falls_through = jf == 0 or (jt == 0 and code & 0xF0 != op.JSET_K & 0xF0)
    return constant + (1 if falls_through else 2)


def stacked_length(programs: Iterable[Sequence[SockFilter]]) -> int:
    """Return what several filters count together against `MOST_CONVERTED`; those of others come on top."""
    return sum(converted_length(program) + _SURCHARGE for program in programs) - _SURCHARGE
