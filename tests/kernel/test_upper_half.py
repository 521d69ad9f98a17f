"""Widths are what the kernel reads, and what lint says of 64-bit comparisons is what the kernel does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile.abi import call_signature, syscall_nr
from autoprofile.formats.oci import import_oci
from autoprofile.lint import lint
from autoprofile.profile import Profile

pytestmark = pytest.mark.kernel

# socket(2) by number, so that no C library cleans the register
CALLS = """
import ctypes, os
call = ctypes.CDLL(None, use_errno=True).syscall
call.restype = ctypes.c_long
for family in (1, 0x100000001):
    print(call(ctypes.c_long(41), ctypes.c_ulong(family), ctypes.c_ulong(1), ctypes.c_ulong(0)) >= 0)
"""


def test_a_dirty_upper_half_goes_around_a_rule_as_lint_says(tmp_path: Path) -> None:
    """A runtime's rule that refuses AF_UNIX lets it pass with garbage above; ours refuses both."""
    entries = [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
        }
    ]
    text = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries})
    theirs = import_oci(text).profile
    assert [f.id for f in lint(theirs, only=["upper-half"])] == ["upper-half-bypass"]
    theirs.save(tmp_path / "theirs.yaml")
    masked = {"index": 0, "value": 0xFFFFFFFF, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}
    entries[0]["args"] = [masked]
    ours = import_oci(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries})).profile
    assert lint(ours, only=["upper-half"]).findings == ()
    ours.save(tmp_path / "ours.yaml")
    told = {}
    for name in ("theirs", "ours"):
        command = [sys.executable, "-m", "autoprofile", "enforce", f"{name}.yaml", "--"]
        done = subprocess.run(
            [*command, sys.executable, "-I", "-c", CALLS],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        told[name] = done.stdout.split()
    assert told == {"theirs": ["False", "True"], "ours": ["False", "False"]}


DENY = """\
autoprofile: 1
arch: [x86_64]
mode: denylist
default: allow
deny:
  clone: [{clone_flags: CLONE_NEWUSER|SIGCHLD, action: EDOM}]
  fcntl:
  - {cmd: F_SETFL, arg: O_ASYNC, action: EDOM}
  - {cmd: F_SETSIG, arg: SIGUSR1, action: EDOM}
  mmap: [{prot: PROT_READ|PROT_WRITE|PROT_EXEC, flags: any, action: EDOM}]
  prctl: [{option: PR_SET_TSC, arg2: 1, arg3: any, action: EDOM}]
"""
# The number of each call, a first argument that is made there, the others, and which of them gets dirty.
DENIED = """
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
pair = socket.socketpair()
fd = pair[0].fileno()
def call(*args):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_ulong(a & (1 << 64) - 1) for a in args])
    if args[0] == 56 and result == 0:
        os._exit(0)
    return errno.errorcode.get(ctypes.get_errno(), result)
for dirt in (0, 0xdead << 32):
    print(call(56, dirt | 0x10000011, 0, 0, 0, 0), call(72, fd, 4, dirt | 0x2000), call(72, fd, 10, dirt | 10),
          call(9, 0, 4096, dirt | 7, 0x22, -1, 0), call(157, 26, dirt | 1), call(72, fd, 4, dirt | 0x2800))
"""


def test_garbage_above_bit_31_gets_no_call_past_a_deny_rule(tmp_path: Path) -> None:
    """Arguments the kernel casts to int are refused with any upper half, whatever their C type is."""
    (tmp_path / "deny.yaml").write_text(DENY)
    command = [sys.executable, "-m", "autoprofile", "enforce", "deny.yaml", "--"]
    done = subprocess.run(
        [*command, sys.executable, "-I", "-c", DENIED],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [["EDOM", "EDOM", "EDOM", "EDOM", "EDOM", "0"]] * 2, done.stdout


def test_a_rule_told_to_compare_64_bits_is_found() -> None:
    """With width: 64 said by hand a refusal can be dodged; lint says so, for widths by command too."""
    for rule in (
        "clone: [{clone_flags: {eq: CLONE_NEWUSER, width: 64}, action: EPERM}]",
        "fcntl: [{cmd: F_SETSIG, arg: {eq: SIGKILL, width: 64}, action: EPERM}]",
        "prctl: [{option: PR_SET_MM, arg2: {eq: 1, width: 64}, arg3: any, action: EPERM}]",
    ):
        text = f"autoprofile: 1\narch: [x86_64]\nmode: denylist\ndefault: allow\ndeny:\n  {rule}\n"
        assert [f.id for f in lint(Profile.loads(text), only=["upper-half"])] == ["upper-half-bypass"], rule
        safe = Profile.loads(text.replace(", width: 64", ""))
        assert lint(safe, only=["upper-half"]).findings == (), rule


# call, arguments ("sock", "file", "page" and "pid" are made in the child), the argument that gets dirty; each
# clean call succeeds, or fails where said, without privileges and without lasting effect.
TRIED = [
    ("fcntl", ["sock", 4, 0x800], 2),
    ("fcntl", ["sock", 10, 10], 2),
    ("fcntl", ["file", 2, 1], 2),
    ("fcntl", ["file", 0, 20], 2),
    ("mmap", [0, 4096, 3, 0x22, -1, 0], 2),
    ("mmap", [0, 4096, 3, 0x22, -1, 0], 3),
    ("mmap", [0, 4096, 1, 2, "file", 0], 4),
    ("mprotect", ["page", 4096, 3], 2),
    ("mremap", ["page", 4096, 8192, 1], 3),
    ("unshare", [0x200], 0),
    ("readv", ["file", 0, 0], 0),
    ("process_vm_readv", ["pid", 0, 0, 0, 0, 0], 5),
    ("ptrace", [0x4206, "pid", 0, 0], 1),
    ("prctl", [26, 1], 1),
    ("prctl", [4, 1], 1),
    ("prctl", [1, 10], 1),
    ("prctl", [8, 0], 1),
    ("prctl", [38, 1, 0, 0, 0], 1),
]
DIFFER = """
import ctypes, errno, json, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
pair, area = socket.socketpair(), mmap.mmap(-1, 8192)
made = {"sock": pair[0].fileno(), "file": os.open("/", os.O_RDONLY), "pid": os.getpid(),
        "page": ctypes.addressof(ctypes.c_char.from_buffer(area))}
made["file"] = os.open(sys.executable, os.O_RDONLY)
for nr, args, at in json.loads(sys.argv[1]):
    told = []
    for dirt in (0, 0xdead << 48):
        values = [made.get(a, a) for a in args]
        values[at] = values[at] & (1 << 64) - 1 | dirt
        ctypes.set_errno(0)
        result = libc.syscall(ctypes.c_ulong(nr), *[ctypes.c_ulong(v & (1 << 64) - 1) for v in values])
        told.append(errno.errorcode.get(ctypes.get_errno(), "done"))
    print(*told)
"""


def test_widths_are_what_this_kernel_reads() -> None:
    """Where the signature says 32 bits, garbage above changes nothing; where it says 64, the kernel refuses it."""
    plan = [(syscall_nr("x86_64", call), args, at) for call, args, at in TRIED]
    done = subprocess.run(
        [sys.executable, "-I", "-c", DIFFER, json.dumps(plan)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    for (call, args, at), line in zip(TRIED, done.stdout.splitlines(), strict=True):
        signature = call_signature("x86_64", call, [a if isinstance(a, int) else 3 for a in args])
        assert signature is not None
        clean, dirty = line.split()
        if clean == "done":  # mremap cannot grow where the next page is taken, prctl(PR_SET_TSC) is x86's own
            assert (dirty == "done") == (signature.args[at].width == 32), (call, args, at, line)
