"""Build the same filter with libseccomp, through ctypes, for comparison."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import signal
import traceback

import pytest

from autoprofile.filter import Program
from autoprofile.filter import opcodes as op
from autoprofile.profile import Action, Profile

OPERATORS = {"ne": 1, "lt": 2, "le": 3, "eq": 4, "ge": 5, "gt": 6, "masked_eq": 7}  # enum scmp_compare
TOKENS = {
    "x86_64": 0xC000003E,
    "i386": 0x40000003,
    "x32": 0x4000003E,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
}
BADARCH, OPTIMIZE = 2, 8  # enum scmp_filter_attr


class ArgCmp(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def library() -> ctypes.CDLL:
    """Load libseccomp, or skip the test."""
    try:
        lib = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not installed (Debian package libseccomp2)")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = (ctypes.c_uint32,)
    lib.seccomp_release.argtypes = (ctypes.c_void_p,)
    lib.seccomp_arch_add.argtypes = lib.seccomp_arch_remove.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    lib.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    lib.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    lib.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    lib.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(ArgCmp),
    )
    return lib


def action_of(action: Action) -> int:
    """Give the ``SCMP_ACT_*`` of an action: SECCOMP_RET_* but for KILL_THREAD, which is 0 in both."""
    return action.ret


def compile_with_libseccomp(profile: Profile, *, optimize: int = 1) -> Program | None:
    """Build a profile's filter with libseccomp; every rule has to be one it can express.

    A set (`in`) becomes one rule for each value; a comparator of width 32 is not expressible. libseccomp 2.5.4 never
    returns for some overlapping rules, so a child builds the filter and is given two seconds of processor time; None
    when it needs more.
    """
    library()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, 2)  # of processor time: a busy machine is no reason to give up
        try:
            os.write(writer, _exported(profile, optimize))
        except AssertionError:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        raw = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        return None
    assert status == 0
    assert raw, "the child's traceback is on stderr"
    return Program.from_bytes(raw)


def _exported(profile: Profile, optimize: int) -> bytes:
    lib = library()
    context = lib.seccomp_init(action_of(profile.default))
    assert context
    try:
        if "x86_64" not in profile.arch:
            assert lib.seccomp_arch_remove(context, TOKENS["x86_64"]) == 0
        for arch in profile.arch:
            assert lib.seccomp_arch_add(context, TOKENS[arch]) in (0, -17)  # EEXIST: the native one
        assert lib.seccomp_attr_set(context, BADARCH, action_of(profile.bad_arch)) == 0
        assert lib.seccomp_attr_set(context, OPTIMIZE, optimize) == 0
        for rule in profile.rules:
            assert isinstance(rule.syscall, str)
            nr = lib.seccomp_syscall_resolve_name(rule.syscall.encode())
            for array in _arrays(rule.comparators):
                result = lib.seccomp_rule_add_array(
                    context, action_of(rule.action), nr, len(array), (ArgCmp * max(len(array), 1))(*array)
                )
                assert result == 0, (rule, os.strerror(-result))
        fd = os.memfd_create("filter")
        try:
            assert lib.seccomp_export_bpf(context, fd) == 0
            os.lseek(fd, 0, os.SEEK_SET)
            return os.read(fd, 1 << 20)
        finally:
            os.close(fd)
    finally:
        lib.seccomp_release(context)


def _arrays(comparators: tuple) -> list[list[ArgCmp]]:
    arrays: list[list[ArgCmp]] = [[]]
    for arg in comparators:
        if arg.op == "any":
            continue
        assert arg.width == 64, arg
        if arg.op == "in":
            one_each = [ArgCmp(arg.index, OPERATORS["eq"], value, 0) for value in sorted(arg.value)]
        elif arg.op == "masked_eq":
            one_each = [ArgCmp(arg.index, OPERATORS["masked_eq"], arg.mask, arg.value)]
        else:
            one_each = [ArgCmp(arg.index, OPERATORS[arg.op], arg.value, 0)]
        arrays = [[*array, one] for array in arrays for one in one_each]
    return arrays


def compares_different_words(program: Program) -> bool:
    """Say whether some test of a filter looks at one word on one path and at another on the next.

    Nothing is wrong with sharing a test of two high halves against 0. But libseccomp 2.5.4 at optimize=2 shares the end of
    one syscall's tests with another's where A holds the wrong argument by then: ``lseek: a2 in {0, 1}; openat: a2 in
    {0, 0x800, 0x80000}, or a2 in {0x242, 0x441} and a3 == 0644`` lets openat(…, 0x242, 0) through. Where such a filter
    disagrees, it is no witness.
    """
    held: dict[int, set[int | None]] = {0: {None}}
    for pc, (code, jt, jf, k) in enumerate(program):
        words = held.get(pc, set())
        if code in op.JUMP_NAMES:
            if len(words) > 1:
                return True
            targets = [pc + 1 + jt, pc + 1 + jf]
        elif code in (op.RET_K, op.RET_A):
            continue
        else:
            targets = [pc + 1 + (k if code == op.JA else 0)]
            words = {k} if code == op.LD_ABS else words
        for target in targets:
            held.setdefault(target, set()).update(words)
    return False
