"""Calls as strace prints them, brought back to what the kernel was given: arch, number and raw arguments.

strace prints for people: it merges register pairs, names and reorders arguments, unpacks i386's socketcall,
and leaves out what a call does not use. Each such habit is a row of a table here. What cannot be brought back
is an `UnreadableError` with the reason, never a value made up.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from autoprofile.abi.arch import ARCHES, X32_SYSCALL_BIT, compat_arches
from autoprofile.abi.signatures import ArgSpec, call_signature, constrained_args
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.observations import call_code
from autoprofile.trace.strace_line import argument_value, flags_value

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CallReader", "UnreadableError", "is_new_thread"]

Values = tuple[int, int, int, int, int, int]

_U32: Final = 0xFFFFFFFF
_U64: Final = 0xFFFFFFFFFFFFFFFF
_CLONE_THREAD: Final = 0x00010000  # include/uapi/linux/sched.h
_UNNAMED: Final = re.compile(r"syscall_(0x[0-9a-f]+|\d+)")
_SIGNAL: Final = re.compile(r"SIG[A-Z]")

# Printed arguments that are not one register each, as (low, high) registers; by call and register width.
_PAIRS: Final[dict[tuple[str, int], tuple[tuple[int, ...], ...]]] = {
    ("preadv2", 64): ((0,), (1,), (2,), (3, 4), (5,)),
    ("pwritev2", 64): ((0,), (1,), (2,), (3, 4), (5,)),
    ("preadv2", 32): ((0,), (1,), (2,), (3, 4), (5,)),
    ("pwritev2", 32): ((0,), (1,), (2,), (3, 4), (5,)),
    ("_llseek", 32): ((0,), (2, 1), (3,), (4,)),
    ("fadvise64", 32): ((0,), (1, 2), (3,), (4,)),
    ("fadvise64_64", 32): ((0,), (1, 2), (3, 4), (5,)),
    ("sync_file_range", 32): ((0,), (1, 2), (3, 4), (5,)),
    ("fanotify_mark", 32): ((0,), (1,), (2, 3), (4,), (5,)),
}

# What strace shows in place of the i386 multiplexers; numbers from <linux/net.h> and <linux/ipc.h>.
_SOCKETCALL: Final = {
    name: number
    for number, name in enumerate(
        [
            "socket",
            "bind",
            "connect",
            "listen",
            "accept",
            "getsockname",
            "getpeername",
            "socketpair",
            "send",
            "recv",
            "sendto",
            "recvfrom",
            "shutdown",
            "setsockopt",
            "getsockopt",
            "sendmsg",
            "recvmsg",
            "accept4",
            "recvmmsg",
            "sendmmsg",
        ],
        start=1,
    )
}
_IPC: Final = {
    "semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4,
    "msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14,
    "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24,
}  # fmt: skip


class UnreadableError(ValueError):
    """Say why a printed call cannot be brought back to numbers."""


def is_new_thread(name: str, text: str) -> bool:
    """Tell whether a clone or clone3 call, given its printed arguments, makes a thread of the process."""
    flags = flags_value(text) if name in ("clone", "clone3") else None
    if flags is None:
        return False
    for word in flags.split("|"):
        if word == "CLONE_THREAD":
            return True
        if word[:1].isdigit() and int(word, 0) & _CLONE_THREAD:
            return True
    return False


class CallReader:
    """Bring printed calls back to numbers.

    Args:
        native: arch of the machine that wrote the log.
    """

    def __init__(self, native: str) -> None:
        self._native = native
        self._arches = (native, *compat_arches(native))
        self._known: dict[tuple[str, str, int | None, tuple[str, ...]], tuple[int, Values]] = {}
        self._specs: dict[tuple[str, str], tuple[tuple[int, ...], ...] | None] = {}

    def exists(self, arch: str, name: str) -> bool:
        """Tell whether strace prints a call of this name for this arch."""
        if syscall_nr(arch, name) is not None:
            return True
        return arch == "i386" and (name in _SOCKETCALL or name in _IPC)

    def is_telling(self, name: str, nr: int | None) -> bool:
        """Tell whether a name and number belong together on one arch only."""
        return nr is not None and sum(syscall_nr(arch, name) == nr for arch in self._arches) == 1

    def read(self, arch: str, name: str, nr: int | None, args: Sequence[str]) -> tuple[int, Values]:
        """Return the call's code (`call_code`) and its six raw arguments, 0 for those no profile constrains.

        Args:
            arch: what the process is thought to run as.
            name: as printed.
            nr: the number ``-n`` printed, which decides the arch; None without.
            args: as printed.

        Raises:
            UnreadableError: no such call, or a constrained argument is missing or not understood.
        """
        # Pointers and sizes differ from call to call and are not looked at: the key is what is.
        places = self._places(arch, name) if nr is None or nr == syscall_nr(arch, name) else None
        key = (
            arch,
            name,
            nr,
            tuple(args) if places is None else tuple(args[p] for (p,) in places if p < len(args)),
        )
        known = self._known.get(key)
        if known is None:
            known = self._read(arch, name, nr, args)
            if len(self._known) < 65536:
                self._known[key] = known
        return known

    def _places(self, arch: str, name: str) -> tuple[tuple[int, ...], ...] | None:
        # Positions of the printed arguments that matter, None when the call has a printed order of its own.
        key = (arch, name)
        if key not in self._specs:
            plain = (
                syscall_nr(arch, name) is not None
                and name != "clone"
                and (name, ARCHES[arch].bits) not in _PAIRS
                and not (arch == "i386" and (name in _SOCKETCALL or name in _IPC))
            )
            specs = constrained_args(arch, name)
            decisive = {s.index for s in specs} | {s.used_if.index for s in specs if s.used_if}
            self._specs[key] = tuple((i,) for i in sorted(decisive)) if plain else None
        return self._specs[key]

    def _read(self, arch: str, name: str, nr: int | None, args: Sequence[str]) -> tuple[int, Values]:
        if match := _UNNAMED.fullmatch(name):
            # What strace does not know it prints raw and whole, -1 with the width of the register.
            return call_code(arch, int(match[1], 0) & _U32), _raw(name, args)
        plain, _, marked = name.partition("#")
        if marked:
            # In an x32 process: a call through the 64-bit numbers.
            arch = "x86_64"
        arch, number, call = self._resolve(arch, plain, nr)
        if number != syscall_nr(arch, plain):
            # A multiplexer: its first register is the call, the others are in memory.
            return call_code(arch, number), (call, 0, 0, 0, 0, 0)
        return call_code(arch, number), self._values(arch, plain, args)

    def _resolve(self, arch: str, name: str, nr: int | None) -> tuple[str, int, int]:
        call = _SOCKETCALL.get(name) or _IPC.get(name) or 0
        if nr is None:
            direct = [a for a in (arch, *self._arches) if syscall_nr(a, name) is not None]
            if arch == "i386" and call:
                if syscall_nr(arch, name) is not None:
                    raise UnreadableError(
                        f"{name} on i386 is a call or part of a multiplexer; strace -n tells them apart"
                    )
                return arch, self._multiplexer(arch, name), call
            if not direct:
                raise UnreadableError(f"no call {name!r} on {' or '.join(self._arches)}")
            number = syscall_nr(direct[0], name)
            assert number is not None
            return direct[0], number, 0
        nr &= _U32
        order = [a for a in (arch, *self._arches) if bool(nr & X32_SYSCALL_BIT) == (a == "x32")]
        for candidate in order:
            if syscall_nr(candidate, name) == nr:
                return candidate, nr, 0
        if call and "i386" in self._arches and nr == self._multiplexer("i386", name):
            return "i386", nr, call
        raise UnreadableError(f"number {nr} is not {name!r} on {' or '.join(self._arches)}")

    @staticmethod
    def _multiplexer(arch: str, name: str) -> int:
        number = syscall_nr(arch, "socketcall" if name in _SOCKETCALL else "ipc")
        assert number is not None, "every i386 table has both"
        return number

    def _values(self, arch: str, name: str, args: Sequence[str]) -> Values:
        printed = _printed_by_register(arch, name, args)
        values = [0] * 6
        missing: list[tuple[ArgSpec, str]] = []
        for spec in constrained_args(arch, name):
            text = printed.get(spec.index)
            if text is None:
                missing.append((spec, "is not in the log"))
                continue
            value = _pair_half(arch, name, spec, text)
            if value is None:
                refined = call_signature(arch, name, values)
                value = argument_value(arch, refined.args[spec.index] if refined else spec, text)
            if value is None:
                missing.append((spec, f"is not understood: {text[:40]!r}"))
            else:
                values[spec.index] = value & _U64
        for spec, why in missing:
            # strace does not print what a call does not use, or prints it as what other commands of the call
            # make of it; anything else would be made up.
            if not _is_unused(arch, name, spec, values):
                raise UnreadableError(f"{name}: argument {spec.name!r} {why}")
        a, b, c, d, e, f = values
        return a, b, c, d, e, f


def _raw(name: str, args: Sequence[str]) -> Values:
    try:
        a, b, c, d, e, f = ([int(text, 0) & _U64 for text in args] + [0] * 6)[:6]
    except ValueError:
        raise UnreadableError(f"{name}: its arguments are not plain numbers") from None
    return a, b, c, d, e, f


def _is_unused(arch: str, name: str, spec: ArgSpec, values: Sequence[int]) -> bool:
    if spec.used_if is not None:
        return not spec.used_if.holds(values)
    refined = call_signature(arch, name, values)
    return refined is not None and refined.args[spec.index].kind == "unused"


def _printed_by_register(arch: str, name: str, args: Sequence[str]) -> dict[int, str]:
    if name == "clone":
        # clone(child_stack=NULL, flags=CLONE_VM|SIGCHLD, ...): flags are register 0 on all our arches.
        flags = flags_value(", ".join(args))
        return {} if flags is None else {0: flags}
    pairs = _PAIRS.get((name, ARCHES[arch].bits))
    if pairs is None:
        return dict(enumerate(args))
    return {register: text for registers, text in zip(pairs, args, strict=False) for register in registers}


def _pair_half(arch: str, name: str, spec: ArgSpec, text: str) -> int | None:
    # The half of a printed 64-bit number that one register of the pair holds; None for whole arguments.
    for registers in _PAIRS.get((name, ARCHES[arch].bits), ()):
        if len(registers) == 2 and spec.index in registers:
            whole = argument_value(arch, spec, text)
            if whole is None:
                try:
                    whole = int(text, 0)
                except ValueError:
                    raise UnreadableError(f"{name}: {text[:40]!r} is not understood") from None
            return whole & _U32 if spec.index == registers[0] else whole >> 32 & _U32
    return None
