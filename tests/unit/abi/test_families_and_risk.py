"""Families and risks: every name exists, every condition is one the call can meet, reasons are given."""

from __future__ import annotations

import pytest

from autoprofile.abi import (
    ARCHES,
    ENOSYS_FALLBACK,
    call_risk,
    fallbacks,
    families,
    family,
    risk_conditions,
    signature,
    syscall_risk,
    syscall_table,
)
from autoprofile.abi._tables import read_rows
from autoprofile.abi.constants import constants
from autoprofile.abi.risk import _compile

NAMES = {name for arch in ARCHES for name in syscall_table(arch)}


def test_families_hold_real_calls() -> None:
    """Every member of a family and every fallback is a call of some architecture."""
    for name, members in families().items():
        assert members <= NAMES, name
    for kind, name, others in read_rows("families.tsv"):
        if kind == "fallback":
            assert {name, *others.split(" ")} <= NAMES, name


def test_families_are_symmetric() -> None:
    """A call is in its own family, and siblings share it."""
    for name in NAMES:
        mine = family(name)
        assert name in mine
        for other in mine:
            assert name in family(other)
    assert family("no_such_call") == {"no_such_call"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openat", {"open", "openat2"}),
        ("openat2", {"openat"}),
        ("clone3", {"clone"}),
        ("newfstatat", {"statx", "stat"}),
        ("epoll_wait", {"epoll_pwait"}),
        ("faccessat2", {"faccessat"}),
        ("select", {"pselect6"}),
        ("pipe", {"pipe2"}),
        ("dup2", {"dup3"}),
        ("vfork", {"clone", "fork"}),
        ("clock_gettime64", {"clock_gettime"}),
        ("futex_time64", {"futex"}),
    ],
)
def test_well_known_fallbacks(name: str, expected: set[str]) -> None:
    """What libc falls back to is among the fallbacks, and a call is never its own."""
    assert expected <= set(fallbacks(name))
    assert name not in fallbacks(name)


def test_fallbacks_list_the_likeliest_first() -> None:
    """The first fallback is what libc tries first."""
    assert fallbacks("clone3")[0] == "clone"
    assert fallbacks("statx")[0] == "newfstatat"
    assert fallbacks("read") == ()


def test_enosys_calls_are_those_of_the_data() -> None:
    """The constant used at start-up equals the reasoned list in the data, and every call on it exists."""
    rows = {row[1]: row[2] for row in read_rows("families.tsv") if row[0] == "enosys"}
    assert set(rows) == ENOSYS_FALLBACK
    assert set(rows) <= NAMES
    assert all(rows.values())
    for name in ("clone3", "statx", "faccessat2", "openat2", "rseq", "fchmodat2"):
        assert name in ENOSYS_FALLBACK


def test_every_risk_has_a_class_a_severity_and_a_reason() -> None:
    """Risk rows are complete and name real calls."""
    for row in read_rows("risk.tsv"):
        name, _, name_class, severity, reason = row
        assert name in NAMES, row
        assert name_class
        assert severity in ("high", "medium", "low")
        assert len(reason) > 15, row


def test_every_condition_can_be_met_by_the_call() -> None:
    """Each argument-level condition compiles on every architecture whose form of the call has its arguments."""
    compiled = 0
    for name, pairs in risk_conditions().items():
        for condition, _ in pairs:
            wanted = condition.split(" ")[0::3]
            met = False
            for arch in ARCHES:
                found = signature(arch, name)
                if found is None or not set(wanted) <= {spec.name for spec in found.args}:
                    continue
                met = _compile(arch, name, condition) is not None or met
            assert met, (name, condition)
            compiled += 1
    assert compiled > 80


def test_condition_symbols_exist() -> None:
    """Every symbol of an "in" list is one of its argument's, on some architecture."""
    for name, pairs in risk_conditions().items():
        for condition, _ in pairs:
            words = condition.split(" ")
            for argument, operator, operand in zip(words[0::3], words[1::3], words[2::3], strict=True):
                if not operator.startswith("in"):
                    continue
                known: set[str] = set()
                for arch in ARCHES:
                    found = signature(arch, name)
                    for spec in found.args if found else ():
                        if spec.name == argument and spec.constants:
                            known |= set(constants(spec.constants, arch))
                for item in operand.split(","):
                    assert item in known or item[0].isdigit(), (name, condition, item)


@pytest.mark.parametrize(
    ("call", "args", "name_class", "severity"),
    [
        ("socket", (16, 3, 12), "netlink", "high"),
        ("socket", (16, 3, 0), "netlink", "medium"),
        ("socket", (17, 3, 0x300), "raw-socket", "high"),
        ("socket", (2, 3, 1), "raw-socket", "high"),
        ("socket", (2, 3 | 0o2000000, 1), "raw-socket", "high"),
        ("socket", (38, 5, 0), "kernel-crypto", "high"),
        ("socket", (40, 1, 0), "vsock", "high"),
        ("mmap", (0, 4096, 7, 0x22, 0xFFFFFFFF, 0), "write-and-execute", "high"),
        ("mprotect", (0, 4096, 5), "write-and-execute", "medium"),
        ("mprotect", (0, 4096, 7), "write-and-execute", "high"),
        ("clone", (0x10000011, 0, 0, 0, 0), "namespace", "high"),
        ("unshare", (0x10000000,), "namespace", "high"),
        ("ioctl", (0, 0x5412, 0), "terminal-injection", "high"),
        ("ioctl", (0, 0x541C, 0), "terminal-injection", "high"),
        ("ioctl", (0, 0x5412 | 1 << 32, 0), "terminal-injection", "high"),
        ("ptrace", (0, 0, 0, 0), "process-access", "high"),
        ("bpf", (5,), "kernel-code", "high"),
        ("fchmodat", (0, 0, 0o4755), "setuid-file", "high"),
        ("openat", (0, 0, 0o101, 0o4755), "setuid-file", "high"),
        ("io_uring_setup", (8, 0), "filter-bypass", "high"),
        ("userfaultfd", (0,), "exploit-aid", "high"),
        ("personality", (0x0040000,), "exploit-aid", "high"),
        ("keyctl", (0,), "keyring", "medium"),
        ("mknod", (0, 0o20666, 0), "device", "high"),
        ("init_module", (0, 0, 0), "kernel-code", "high"),
        ("openat", (0, 0, 0o101, 0o644), "file-write", "low"),
        ("prctl", (23, 0), None, None),
        ("prctl", (47, 2, 21), "identity", "medium"),
    ],
)
def test_risky_calls_are_told_apart(call: str, args: tuple[int, ...], name_class: str, severity: str) -> None:
    """Arguments decide the risk where the call alone does not."""
    risk = call_risk("x86_64", call, args)
    assert (risk and risk.name_class, risk and risk.severity) == (name_class, severity)


@pytest.mark.parametrize(
    ("call", "args"),
    [
        ("read", (0, 0, 10)),
        ("socket", (1, 1, 0)),
        ("socket", (2, 1, 6)),
        ("mmap", (0, 4096, 3, 0x22, 0xFFFFFFFF, 0)),
        ("mprotect", (0, 4096, 1)),
        ("clone", (0x1200011, 0, 0, 0, 0)),
        ("ioctl", (0, 0x5401, 0)),
        ("openat", (0, 0, 0, 0o4755)),
        ("fcntl", (3, 3)),
        ("prctl", (15, 0x7FFC0000)),
        ("no_such_call", (1, 2)),
    ],
)
def test_ordinary_calls_carry_no_risk(call: str, args: tuple[int, ...]) -> None:
    """What every program does has no risk, whatever garbage unused arguments hold."""
    assert call_risk("x86_64", call, args) is None


def test_asking_for_the_personality_is_no_exploit_aid() -> None:
    """personality(0xffffffff) only asks, and so carries no more than the call's own low risk."""
    assert call_risk("x86_64", "personality", (0xFFFFFFFF,)) == syscall_risk("personality")
    assert syscall_risk("personality").severity == "low"


def test_an_unknown_architecture_leaves_the_calls_own_risk() -> None:
    """Without a signature only the syscall-level risk is known."""
    assert call_risk("0x1234", "ptrace", (1,)) == syscall_risk("ptrace")
    assert call_risk("0x1234", "socket", (17,)) is None


def test_multiplexers_hide_their_arguments() -> None:
    """On i386 socketcall carries its arguments behind a pointer; the risk says so."""
    risk = call_risk("i386", "socketcall", (1, 0))
    assert risk is not None
    assert risk.name_class == "opaque-arguments"
