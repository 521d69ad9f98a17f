"""What a denylist refuses by arguments it refuses by every door, and lint sees the doors left open."""

from __future__ import annotations

import pytest

from autoprofile.abi.syscalls import syscall_nr
from autoprofile.learn import learn
from autoprofile.lint import lint
from autoprofile.profile import Action, Profile
from tests.unit.learn.traces import observed, trace_of

ENOSYS = Action.errno("ENOSYS")


@pytest.mark.parametrize(
    ("arch", "name", "args"),
    [
        ("x86_64", "clone3", (0x1000, 88)),
        ("i386", "clone3", (0x1000, 88)),
        ("i386", "mmap", (0x1000,)),
        ("i386", "socketcall", (1, 0x1000)),
    ],
)
def test_a_denylist_refuses_what_hides_its_arguments(arch: str, name: str, args: tuple[int, ...]) -> None:
    """Denying clone, mmap2 or socket by arguments means nothing while a sibling takes them by pointer."""
    profile = learn(trace_of(observed("getuid", arch=arch)), mode="denylist")
    nr = syscall_nr(arch, name)
    assert nr is not None
    assert profile.decide_call(arch, nr, args).action == ENOSYS


def test_a_denylist_lets_be_what_was_seen() -> None:
    """A program that was seen to call clone3 may go on, and other socketcalls than SYS_SOCKET are none of this."""
    profile = learn(trace_of(observed("clone3")), mode="denylist")
    assert profile.decide("clone3").action == Action.ALLOW
    i386 = learn(trace_of(observed("getuid", arch="i386")), mode="denylist")
    assert i386.decide_call("i386", 102, (9, 0)).action == Action.ALLOW
    assert i386.decide_call("i386", 192, (0, 4096, 3, 0x22)).action == Action.ALLOW


def test_lint_sees_clone3_beside_clone_in_a_denylist() -> None:
    """A default that allows opens the sibling as a rule does."""
    profile = Profile.loads(
        "autoprofile: 1\narch: [x86_64]\nmode: denylist\ndefault: allow\n"
        "deny: {clone: [{clone_flags: {masked_eq: [CLONE_NEWUSER, CLONE_NEWUSER]}, action: EPERM}],"
        " unshare: EPERM, mmap: [{prot: {masked_eq: [6, 6]}, flags: any, action: EPERM}]}\n"
    )
    found = {finding.id for finding in lint(profile).findings}
    assert {"clone3-bypass", "write-execute-bypass"} <= found
