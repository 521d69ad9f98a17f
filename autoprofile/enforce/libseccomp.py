"""The filter that libseccomp makes of a profile, to compare with; libseccomp is loaded when it is there.

In: a profile. Out: its program, and what libseccomp could not be told. Comparators of 32 bits become ones of
64, as libseccomp knows no others: such a filter is for measuring, nobody should install it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

from autoprofile.abi.arch import arch_from_machine
from autoprofile.errors import AutoprofileError
from autoprofile.filter import Program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.profile import Arg, Profile, SeccompRule

__all__ = ["LibseccompFilter", "compile_with_libseccomp", "libseccomp_version"]

_OPERATORS: Final = {"ne": 1, "lt": 2, "le": 3, "eq": 4, "ge": 5, "gt": 6, "masked_eq": 7}  # scmp_compare
_TOKENS: Final = {  # SCMP_ARCH_*: AUDIT_ARCH_*, but x32 has one of its own
    "x86_64": 0xC000003E,
    "i386": 0x40000003,
    "x32": 0x4000003E,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
    "riscv64": 0xC00000F3,
}
_BADARCH, _OPTIMIZE = 2, 8  # enum scmp_filter_attr
_EEXIST: Final = -17
_LIMIT_S: Final = 10
_MOST_ARRAYS: Final = 4096


class _ArgCmp(ctypes.Structure):
    # struct scmp_arg_cmp
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _Version(ctypes.Structure):
    # struct scmp_version
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


@dataclass(frozen=True)
class LibseccompFilter:
    """What libseccomp made.

    Attributes:
        program: its filter.
        left_out: rules it cannot express, does not know the syscall of, or refuses.
    """

    program: Program
    left_out: tuple[SeccompRule, ...]


def _library() -> ctypes.CDLL | None:
    try:
        lib = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    context, number = ctypes.c_void_p, ctypes.c_uint32
    lib.seccomp_version.restype = ctypes.POINTER(_Version)
    lib.seccomp_init.restype = context
    lib.seccomp_init.argtypes = (number,)
    lib.seccomp_release.argtypes = (context,)
    lib.seccomp_arch_add.argtypes = lib.seccomp_arch_remove.argtypes = (context, number)
    lib.seccomp_attr_set.argtypes = (context, ctypes.c_int, number)
    lib.seccomp_export_bpf.argtypes = (context, ctypes.c_int)
    lib.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    lib.seccomp_rule_add_array.argtypes = (
        context,
        number,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_ArgCmp),
    )
    return lib


def libseccomp_version() -> str | None:
    """Return the version of the libseccomp that is installed, None when there is none."""
    lib = _library()
    if lib is None:
        return None
    version = lib.seccomp_version().contents
    return f"{version.major}.{version.minor}.{version.micro}"


def compile_with_libseccomp(profile: Profile, *, optimize: int = 1) -> LibseccompFilter:
    """Make a profile's filter with libseccomp.

    A child does it, for ten seconds at most: libseccomp 2.5.4 never returns for some overlapping rules.

    Args:
        profile: the rules; a set of values becomes one rule for each.
        optimize: SCMP_FLTATR_CTL_OPTIMIZE: 1 by priority and size of rules, 2 a binary tree (libseccomp 2.5).

    Raises:
        AutoprofileError: libseccomp is missing, refuses what is not one rule, or does not finish.
    """
    lib = _library()
    if lib is None:
        raise AutoprofileError(
            "libseccomp is not installed", hint="Debian and Ubuntu: apt install libseccomp2"
        )
    left_out = {at for at, rule in enumerate(profile.rules) if not _is_expressible(lib, profile, rule)}
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_LIMIT_S)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(_answer(lib, profile, left_out, optimize))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    status = -1
    try:
        with os.fdopen(reader, "rb") as pipe:
            head, _, raw = pipe.read().partition(b"\n")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        if status == -1:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    if status or not head:
        what = f"does not finish within {_LIMIT_S} s" if status == -signal.SIGALRM else f"ended with {status}"
        raise AutoprofileError(f"libseccomp {what} (optimise {optimize})")
    told = json.loads(head)
    if "fault" in told:
        raise AutoprofileError(f"libseccomp refuses {told['fault']} (optimise {optimize})")
    left_out.update(told["refused"])
    return LibseccompFilter(Program.from_bytes(raw), tuple(profile.rules[at] for at in sorted(left_out)))


def _answer(lib: ctypes.CDLL, profile: Profile, left_out: set[int], optimize: int) -> bytes:
    # What the child says: a line of JSON, and the filter.
    try:
        raw, refused = _export(lib, profile, left_out, optimize)
    except (AutoprofileError, OSError) as error:
        return json.dumps({"fault": str(error)}).encode() + b"\n"
    return json.dumps({"refused": sorted(refused)}).encode() + b"\n" + raw


def _is_expressible(lib: ctypes.CDLL, profile: Profile, rule: SeccompRule) -> bool:
    # A rule with the default's action is refused, as are two comparators on one argument. Rules limited to
    # some of the arches would need a filter for each.
    if rule.action == profile.default or (rule.arch and set(rule.arch) != set(profile.arch)):
        return False
    indexes = [arg.index for arg in rule.comparators if arg.op != "any"]
    if len(indexes) != len(set(indexes)):
        return False
    if isinstance(rule.syscall, str) and lib.seccomp_syscall_resolve_name(rule.syscall.encode()) == -1:
        return False
    return sum(1 for _ in _value_tuples(rule)) <= _MOST_ARRAYS


def _export(lib: ctypes.CDLL, profile: Profile, left_out: set[int], optimize: int) -> tuple[bytes, set[int]]:
    # The filter, and the rules that libseccomp refused: a number it does not take, an action with data, the
    # same comparisons with two actions.
    refused: set[int] = set()
    context = None
    while context is None:
        context = _context(lib, profile, optimize)
        for at, rule in enumerate(profile.rules):
            if at in left_out or at in refused:
                continue
            accepted = _add_rule(lib, context, rule)
            if accepted is not None:
                refused.add(at)
            if accepted:  # some of its values are in already: again without all of them
                lib.seccomp_release(context)
                context = None
                break
    fd = os.memfd_create("filter")
    _done(lib.seccomp_export_bpf(context, fd), "the export")
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read(), refused


def _context(lib: ctypes.CDLL, profile: Profile, optimize: int) -> int:
    native = arch_from_machine(os.uname().machine)
    context = lib.seccomp_init(profile.default.ret)
    if not context:
        raise AutoprofileError(f"the default {profile.default}")
    for arch in profile.arch:
        _done(lib.seccomp_arch_add(context, _TOKENS[arch]), f"the arch {arch}", _EEXIST)
    if native not in profile.arch:
        _done(lib.seccomp_arch_remove(context, _TOKENS[native]), f"to do without {native}")
    _done(lib.seccomp_attr_set(context, _BADARCH, profile.bad_arch.ret), f"bad_arch {profile.bad_arch}")
    _done(lib.seccomp_attr_set(context, _OPTIMIZE, optimize), f"optimise {optimize}")
    return int(context)


def _add_rule(lib: ctypes.CDLL, context: int, rule: SeccompRule) -> int | None:
    # None when all of the rule's values are accepted, else how many were before the first that was not.
    named = isinstance(rule.syscall, str)
    nr = lib.seccomp_syscall_resolve_name(str(rule.syscall).encode()) if named else rule.syscall
    for number, array in enumerate(_value_tuples(rule)):
        given = (_ArgCmp * max(1, len(array)))(*array)
        if lib.seccomp_rule_add_array(context, rule.action.ret, nr, len(array), given):
            return number
    return None


def _done(result: int, what: str, *also: int) -> None:
    if result != 0 and result not in also:
        raise AutoprofileError(f"{what}: {os.strerror(-result)}")


def _value_tuples(rule: SeccompRule) -> Iterator[tuple[_ArgCmp, ...]]:
    return product(*(_comparisons(arg) for arg in rule.comparators if arg.op != "any"))


def _comparisons(arg: Arg) -> list[_ArgCmp]:
    if isinstance(arg.value, frozenset):
        return [_ArgCmp(arg.index, _OPERATORS["eq"], value, 0) for value in sorted(arg.value)]
    if arg.op == "masked_eq":
        return [_ArgCmp(arg.index, _OPERATORS["masked_eq"], arg.mask, arg.value)]
    return [_ArgCmp(arg.index, _OPERATORS[arg.op], arg.value, 0)]
