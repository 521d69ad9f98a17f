"""Values and symbols: no loss, no ambiguity, and agreement with Python, the headers and strace."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import termios
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprofile.abi import (
    ARCHES,
    AbiError,
    ArgSpec,
    call_signature,
    constant_sets,
    constants,
    decode_value,
    encode_value,
    errno_name,
    errno_number,
    kernel_value,
    signal_name,
    signal_number,
    signature,
    syscall_table,
)
from autoprofile.abi._tables import read_rows
from autoprofile.abi.constants import encode_mask

ALL_SPECS = sorted(
    {
        (arch, spec.ctype, spec.width, spec.kind, spec.constants or "")
        for arch in ARCHES
        for name in syscall_table(arch)
        for spec in signature(arch, name).args
    }
)


def spec_of(arch: str, call: str, argument: str) -> ArgSpec:
    return next(spec for spec in signature(arch, call).args if spec.name == argument)


def spec_from(key: tuple[str, str, int, str, str]) -> ArgSpec:
    _, ctype, width, kind, names = key
    return ArgSpec(0, "x", ctype, width, kind, names or None, None)


U64 = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 300),
    st.integers(0, 63).map(lambda bit: 1 << bit),
    st.integers(0, 2**32 - 1),
    st.integers(-200, -1).map(lambda n: n % 2**64),
)


@given(key=st.sampled_from(ALL_SPECS), value=U64)
def test_any_value_of_any_argument_reads_back(key: tuple[str, str, int, str, str], value: int) -> None:
    """encode_value(decode_value(v)) is v as the kernel reads it, for every argument and every value."""
    spec = spec_from(key)
    text = decode_value(key[0], spec, value)
    assert encode_value(key[0], spec, text) == kernel_value(spec, value), text


@given(data=st.data(), key=st.sampled_from([k for k in ALL_SPECS if k[4]]))
def test_any_union_of_symbols_reads_back(data: st.DataObject, key: tuple[str, str, int, str, str]) -> None:
    """Symbols joined by | mean the bits of all, or are refused; what they decode to means the same."""
    spec, arch = spec_from(key), key[0]
    known = {n: v for n, v in constants(key[4], arch).items() if v < 1 << spec.width}
    if not known:
        return  # a set of another architecture
    names = data.draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=4))
    expected = 0
    for name in names:
        expected |= known[name]
    try:
        joined = encode_value(arch, spec, "|".join(names))
    except AbiError:
        joined = encode_mask(arch, spec, "|".join(names))
    assert joined == expected
    assert encode_value(arch, spec, decode_value(arch, spec, expected)) == expected


def test_every_symbol_reads_alone() -> None:
    """Every symbol of every set, on every architecture that has it, decodes to a text of the same value."""
    for name in constant_sets():
        for arch in ARCHES:
            spec = ArgSpec(0, "x", "unsigned long", 64, "flags", name, None)
            for symbol, value in constants(name, arch).items():
                assert encode_value(arch, spec, symbol) == value
                assert encode_value(arch, spec, decode_value(arch, spec, value)) == value


@pytest.mark.parametrize(
    ("call", "argument", "value", "text"),
    [
        ("openat", "flags", 0, "O_RDONLY"),
        ("openat", "flags", 0o2000000, "O_RDONLY|O_CLOEXEC"),
        ("openat", "flags", 0o101, "O_WRONLY|O_CREAT"),
        ("openat", "flags", 0o20200000, "O_RDONLY|O_TMPFILE"),
        ("openat", "flags", 0x80000000, "O_RDONLY|0x80000000"),
        ("openat", "mode", 0o644, "0o644"),
        ("openat", "mode", 0, "0"),
        ("mknod", "mode", 0o100644, "S_IFREG|0o644"),
        ("chmod", "mode", 0o4755, "S_ISUID|0o755"),
        ("openat", "dfd", 0xFFFFFF9C, "AT_FDCWD"),
        ("openat", "dfd", 7, "7"),
        ("clone", "clone_flags", 0x1200011, "CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD"),
        ("clone", "clone_flags", 0x11, "SIGCHLD"),
        ("socket", "family", 1, "AF_UNIX"),
        ("socket", "type", 0o2004001, "SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK"),
        ("socket", "protocol", 0, "0"),
        ("mmap", "prot", 0, "PROT_NONE"),
        ("mmap", "prot", 7, "PROT_READ|PROT_WRITE|PROT_EXEC"),
        ("mmap", "flags", 0x22, "MAP_PRIVATE|MAP_ANONYMOUS"),
        ("futex", "op", 0, "FUTEX_WAIT"),
        ("futex", "op", 129, "FUTEX_WAKE_PRIVATE"),
        ("futex", "op", 0x189, "FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME"),
        ("ioctl", "cmd", 0x5401, "TCGETS"),
        ("ioctl", "cmd", 0x1234, "0x1234"),
        ("fcntl", "cmd", 3, "F_GETFL"),
        ("kill", "sig", 15, "SIGTERM"),
        ("kill", "sig", 0, "0"),
        ("kill", "sig", 34, "SIGRT_2"),
        ("prctl", "option", 38, "PR_SET_NO_NEW_PRIVS"),
        ("personality", "personality", 0xFFFFFFFF, "PERSONALITY_QUERY"),
        ("personality", "personality", 0x0040000, "PER_LINUX|ADDR_NO_RANDOMIZE"),
        ("access", "mode", 0, "F_OK"),
        ("access", "mode", 6, "R_OK|W_OK"),
        ("lseek", "whence", 2, "SEEK_END"),
        ("madvise", "behavior", 4, "MADV_DONTNEED"),
        ("wait4", "options", 0, "0"),
        ("wait4", "options", 1, "WNOHANG"),
        ("shmctl", "cmd", 0x102, "IPC_STAT|IPC_64"),
        ("quotactl", "cmd", 0x80000701, "QCMD_GETQUOTA|GRPQUOTA"),
    ],
)
def test_texts_people_read(call: str, argument: str, value: int, text: str) -> None:
    """Values are written with the symbols people know, in the order they know them."""
    spec = spec_of("x86_64", call, argument)
    assert decode_value("x86_64", spec, value) == text
    assert encode_value("x86_64", spec, text) == value


def test_values_differ_by_architecture() -> None:
    """One symbol can have two values: O_DIRECTORY on x86 is O_DIRECT on arm."""
    x86, arm = spec_of("x86_64", "openat", "flags"), spec_of("aarch64", "openat", "flags")
    assert decode_value("x86_64", x86, 0o200000) == "O_RDONLY|O_DIRECTORY"
    assert decode_value("aarch64", arm, 0o200000) == "O_RDONLY|O_DIRECT"
    assert constants("ioctl", "i386")["BLKGETSIZE64"] != constants("ioctl", "x86_64")["BLKGETSIZE64"]


def test_encode_takes_numbers_in_every_dress() -> None:
    """Ints, hexadecimal, octal, negatives and mixtures with symbols are accepted."""
    flags, mode, dfd = (spec_of("x86_64", "openat", n) for n in ("flags", "mode", "dfd"))
    assert encode_value("x86_64", flags, 5) == 5
    assert encode_value("x86_64", flags, "O_WRONLY | 0x80") == 0x81
    assert encode_value("x86_64", mode, "0644") == 0o644
    assert encode_value("x86_64", mode, "0o644") == 0o644
    assert encode_value("x86_64", dfd, -100) == 0xFFFFFF9C
    assert encode_value("x86_64", dfd, "-1") == 0xFFFFFFFF


@pytest.mark.parametrize("text", ["O_WRONG", "", "O_CREAT|", "o_creat", "AF_UNIX"])
def test_unknown_symbols_are_refused_with_a_hint(text: str) -> None:
    """A symbol the argument does not take is an error that offers near names."""
    with pytest.raises(AbiError) as caught:
        encode_value("x86_64", spec_of("x86_64", "openat", "flags"), text)
    assert caught.value.hint
    if text == "o_creat":
        assert "O_CREAT" in caught.value.hint


@pytest.mark.parametrize("number", [1 << 32, -(1 << 31) - 1, 1 << 64])
def test_numbers_that_do_not_fit_are_refused(number: int) -> None:
    """A value the kernel would cut is an error: cutting it here could allow what nobody wrote."""
    with pytest.raises(AbiError, match="does not fit"):
        encode_value("x86_64", spec_of("x86_64", "openat", "flags"), number)


def test_a_symbol_wider_than_the_argument_is_refused() -> None:
    """CLONE_CLEAR_SIGHAND lies above bit 31, which clone(2) never reads: it is refused, not dropped."""
    for arch in ("x86_64", "i386"):
        with pytest.raises(AbiError, match="does not fit"):
            encode_value(arch, spec_of(arch, "clone", "clone_flags"), "CLONE_CLEAR_SIGHAND")


def test_texts_of_a_whole_call_read_back_with_the_plain_signature() -> None:
    """What call_signature makes readable, encode_value understands with the signature alone."""
    cases = [
        ("fcntl", (3, 2, 1), 2, "FD_CLOEXEC"),
        ("fcntl", (3, 4, 0o4002), 2, "O_RDWR|O_NONBLOCK"),
        ("fcntl", (3, 1033, 8), 2, "F_SEAL_WRITE"),
        ("prctl", (47, 2, 21), 1, "PR_CAP_AMBIENT_RAISE"),
        ("prctl", (47, 2, 21), 2, "CAP_SYS_ADMIN"),
        ("prctl", (24, 12), 1, "CAP_NET_ADMIN"),
        ("prctl", (1, 9), 1, "SIGKILL"),
        ("prctl", (4, 0), 1, "SUID_DUMP_DISABLE"),
        ("socket", (2, 1, 6), 2, "IPPROTO_TCP"),
        ("socket", (2, 1, 0), 2, "IPPROTO_IP"),
        ("socket", (16, 3, 6), 2, "NETLINK_XFRM"),
        ("socket", (1, 1, 0), 2, "0"),
        ("setsockopt", (3, 1, 2), 2, "SO_REUSEADDR"),
        ("setsockopt", (3, 6, 1), 2, "TCP_NODELAY"),
        ("setsockopt", (3, 41, 26), 2, "IPV6_V6ONLY"),
    ]
    for call, args, index, text in cases:
        spec = call_signature("x86_64", call, args).args[index]
        assert decode_value("x86_64", spec, args[index]) == text, call
        plain = signature("x86_64", call).args[index]
        assert encode_value("x86_64", plain, text) == args[index]


@given(
    call=st.sampled_from(sorted({row[0] for row in read_rows("variants.tsv")} - {"fcntl64"})),
    args=st.lists(st.one_of(st.integers(0, 300), U64), min_size=6, max_size=6),
)
def test_any_refined_text_reads_back_with_the_plain_signature(call: str, args: list[int]) -> None:
    """No refinement writes a text that the plain signature reads differently."""
    plain = signature("x86_64", call)
    for refined, spec in zip(call_signature("x86_64", call, args).args, plain.args, strict=True):
        text = decode_value("x86_64", refined, args[spec.index])
        assert encode_value("x86_64", spec, text) == kernel_value(spec, args[spec.index])


@pytest.mark.parametrize(
    ("module", "prefix", "set_name"),
    [
        (socket, "AF_", "socket_family"),
        (socket, "SO_", "so_option"),
        (socket, "IPPROTO_", "inet_protocol"),
        (socket, "TCP_", "tcp_option"),
        (socket, "MSG_", "msg_flags"),
        (socket, "SOCK_", "socket_type"),
        (socket, "SOL_", "sockopt_level"),
        (socket, "IPV6_", "ipv6_option"),
        (os, "O_", "open_flags"),
        (os, "SCHED_", "sched_policy"),
        (os, "EFD_", "eventfd_flags"),
        (os, "MFD_", "memfd_flags"),
        (os, "GRND_", "getrandom_flags"),
        (os, "POSIX_FADV_", "fadvise"),
        (os, "RWF_", "rwf_flags"),
        (mmap, "MADV_", "madvise"),
        (mmap, "PROT_", "prot"),
        (mmap, "MAP_", "mmap_flags"),
        (fcntl, "F_", "fcntl"),
        (fcntl, "LOCK_", "flock_op"),
        (resource, "RLIMIT_", "rlimit"),
        (select, "EPOLL_C", "epoll_create_flags"),
        (termios, "TIOC", "ioctl"),
        (termios, "FIO", "ioctl"),
        (termios, "TCGET", "ioctl"),
        (signal, "SIG", "signal"),
    ],
)
def test_values_agree_with_python(module: ModuleType, prefix: str, set_name: str) -> None:
    """Where CPython, compiled against libc, knows a symbol too, it has the same value."""
    ours = constants(set_name, "x86_64")
    shared = [
        n for n in dir(module) if n.startswith(prefix) and n in ours and isinstance(getattr(module, n), int)
    ]
    assert shared
    # libc's own view: O_LARGEFILE is 0 where offsets are 64 bits wide anyway; SIGRTMIN is 34 because libc keeps
    # two signals; F_*LK64 and F_*LK are one on 64-bit.
    libc_own = {"O_LARGEFILE", "SIGRTMIN", "SIGRTMAX", "F_GETLK64", "F_SETLK64", "F_SETLKW64"}
    for name in set(shared) - libc_own:
        assert ours[name] == int(getattr(module, name)) % 2**64, name


def test_errnos_and_signals() -> None:
    """Errno and signal numbers are Linux's own and agree with Python's on this machine."""
    assert errno_number("EPERM") == 1
    assert errno_name(38) == "ENOSYS"
    assert errno_name(11) == "EAGAIN"
    assert errno_number("EWOULDBLOCK") == 11
    assert errno_name(4000) is None
    for number, name in errno.errorcode.items():
        assert errno_number(name) == number
    for member in signal.Signals:
        if member.name not in ("SIGRTMIN", "SIGRTMAX"):
            assert signal_number(member.name) == int(member)
    assert signal_name(9) == "SIGKILL"
    assert signal_name(64) == "SIGRT_32"
    assert signal_name(65) is None
    with pytest.raises(AbiError) as caught:
        errno_number("EPREM")
    assert "EPERM" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("call", "arg", "text"),
    [
        ("socket", "family", "AF_UNIX|AF_INET"),  # AF_AX25
        ("socket", "family", "AF_UNSPEC|AF_INET"),
        ("socket", "family", "AF_UNIX|2"),
        ("socket", "type", "SOCK_STREAM|SOCK_DGRAM"),  # SOCK_RAW
        ("prctl", "option", "PR_SET_NAME|PR_SET_NO_NEW_PRIVS"),  # PR_CAP_AMBIENT
        ("kill", "sig", "SIGHUP|SIGINT"),  # SIGQUIT
        ("mmap", "flags", "MAP_SHARED|MAP_PRIVATE"),  # MAP_SHARED_VALIDATE
        ("openat", "flags", "O_WRONLY|O_RDWR|O_CLOEXEC"),
    ],
)
def test_values_of_one_field_cannot_be_joined(call: str, arg: str, text: str) -> None:
    """Two values joined with | would silently become a third; the error names it and the list that was meant."""
    with pytest.raises(AbiError, match="stands for neither") as caught:
        encode_value("x86_64", spec_of("x86_64", call, arg), text)
    assert caught.value.hint is not None
    assert ", ".join(text.split("|")) in caught.value.hint


@pytest.mark.parametrize(
    ("call", "arg", "text", "value"),
    [
        ("socket", "type", "SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK", 0o2004001),
        ("socket", "family", "AF_UNIX|AF_LOCAL", 1),
        ("openat", "flags", "O_RDONLY|O_WRONLY|O_CLOEXEC", 0o2000001),
        ("mmap", "prot", "PROT_NONE|PROT_READ", 1),
        ("futex", "op", "FUTEX_WAIT_BITSET|FUTEX_PRIVATE_FLAG|FUTEX_CLOCK_REALTIME", 0x189),
        ("clone", "clone_flags", "CLONE_VM|CLONE_VFORK|SIGCHLD", 0x4111),
        ("sched_setscheduler", "policy", "SCHED_FIFO|SCHED_RESET_ON_FORK", 0x40000001),
        ("flock", "cmd", "LOCK_EX|LOCK_NB", 6),
        ("semctl", "cmd", "SETVAL|IPC_64", 0x110),
        ("mknod", "mode", "S_IFREG|0644", 0o100644),
        ("openat", "flags", "O_SYNC|O_DSYNC|O_TMPFILE|O_DIRECTORY", 0o24210000),
    ],
)
def test_flags_and_a_field_can_be_joined(call: str, arg: str, text: str, value: int) -> None:
    """A value beside flags, and flags among each other, are what | is for."""
    assert encode_value("x86_64", spec_of("x86_64", call, arg), text) == value
