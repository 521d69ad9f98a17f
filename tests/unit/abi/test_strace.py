"""Constants against strace, which decodes the same registers independently (``-X verbose`` prints both forms)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile.abi import call_signature, decode_value, encode_value, signature
from tests.conftest import need_program

# Real calls, refused ones included: what is compared is the decoding of their arguments.
PROGRAM = """
import ctypes, mmap
libc = ctypes.CDLL(None)
def call(nr, *args):
    libc.syscall(ctypes.c_long(nr), *[ctypes.c_long(a) for a in args])
for flags in (0, 1, 2, 0o101, 0o2000000, 0o200000, 0o20200000, 0o4001, 0o10000000, 0o1002, 0o40001):
    call(257, -100, 0, flags, 0o644)
for prot in range(8):
    call(10, 0, 0, prot)
for flags in (0x22, 0x1, 0x32, 0x20022, 0x40022, 0x8002, 0x100022, 0x4022):
    call(9, 0, 0, 3, flags, -1, 0)
for family in (1, 2, 10, 16, 17, 38, 40):
    for kind in (1, 2, 3, 5, 0o2000001, 0o4002):
        call(41, family, kind, 0)
for protocol in (1, 6, 17, 58, 132, 255, 262):
    call(41, 2, 99, protocol)
for protocol in range(0, 17):
    call(41, 16, 99, protocol)
for cmd in (0, 1, 2, 3, 4, 8, 9, 10, 11, 1024, 1025, 1030, 1031, 1032, 1034):
    call(72, 99, cmd, 0)
for flags in (0, 1, 2048, 0o2000):
    call(72, 99, 4, flags)
for cmd in (0x5401, 0x5402, 0x5413, 0x5421, 0x541b, 0x5450, 0x5451, 0x5452, 0x5410, 0x540f, 0x8912, 0x8927):
    call(16, 99, cmd, 0)
for op in (1, 2, 3, 5, 9, 10, 129, 0x89, 0x189, 0x8a):
    call(202, 0, op, 0, 0, 0, 0)
for option in (3, 7, 15, 16, 21, 23, 27, 30, 37, 39):
    call(157, option, 0, 0, 0, 0)
for advice in (0, 1, 2, 3, 4, 8, 9, 10, 12, 14, 15, 16, 17, 18, 20, 21, 22, 23):
    call(28, 1, 0, advice)
for whence in range(5):
    call(8, 99, 0, whence)
for resource in range(16):
    call(302, 999999999, resource, 0, 0)
for which in (0, 1, 4, 7, 8, 9, 11):
    call(228, which, 0)
for how in range(3):
    call(48, 99, how)
for level, names in ((1, (2, 3, 4, 7, 8, 9, 13, 15, 16, 20, 21, 31, 38, 47)), (6, (1, 2, 3, 4, 5, 6, 9, 12, 13, 18, 23)),
                     (0, (1, 2, 3, 8, 10, 11, 15, 32, 33, 35)), (41, (16, 18, 20, 21, 23, 25, 26, 49, 67)),
                     (270, (1, 2, 3, 4, 5, 10, 11, 12))):
    for name in names:
        call(55, 99, level, name, 0, 0)
for flags in (0x1, 0x2, 0x40, 0x4000, 0x8000, 0x4040):
    call(44, 99, 0, 0, flags, 0, 0)
for mode in (0, 1, 2, 4, 6):
    call(269, -100, 0, mode)
for flags in (0x100, 0x200, 0x1000):
    call(439, -100, 0, 4, flags)
for options in (0, 1, 2, 8, 0x40000000, 0x80000000):
    call(61, 999999999, 0, options, 0)
for sig in (1, 2, 9, 15, 17, 31):
    call(62, 999999999, sig)
for flags in (0, 1, 2, 3):
    call(316, -100, 0, -100, 0, flags)
for flags in (0, 1, 2, 3, 4):
    call(318, 0, 0, flags)
for mode in (0, 1, 2, 3, 8, 16, 32, 64):
    call(285, 99, mode, 0, 1)
for flags in (0x1, 0x2, 0x4, 0x100):
    call(166, 0, flags)
for flags in (1, 32, 4096, 0x4000, 0x40000):
    call(165, 0, 0, 0, flags, 0)
for flags in (0x20000, 0x40000000, 0x10000000):
    call(308, 99, flags)
for op in (1, 2, 3):
    call(233, 99, op, 99, 0)
for mode in (0o644, 0o4755, 0o1777):
    call(90, 0, mode)
for flags in (0, 1, 2, 4):
    call(25, 1, 0, 0, flags, 0)
for op in (1, 2, 8, 5, 6):
    call(73, 99, op)
for flags in (0o2000000, 0o4000, 1):
    call(290, 0, flags)
for policy in (0, 1, 2, 3, 5):
    call(146, policy)
"""

# strace's own ways of writing: what is written differently for good reason is named here.
SAME = {"O_NDELAY": "O_NONBLOCK", "SCHED_OTHER": "SCHED_NORMAL", "FUTEX_CLOCK_REALTIME": "FUTEX_CLOCK_REALTIME",
        "SO_TIMESTAMP_OLD": "SO_TIMESTAMP", "WSTOPPED": "WUNTRACED"}  # fmt: skip


def _split(text: str) -> list[str]:
    """Split strace's argument list at the commas outside brackets and comments."""
    parts, depth, comment, current = [], 0, False, ""
    for index, char in enumerate(text):
        pair = text[index : index + 2]
        comment = pair == "/*" or (comment and text[index - 1 : index + 1] != "*/")
        depth += 0 if comment else (char in "([{") - (char in ")]}")
        if char == "," and not depth and not comment:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    return [*parts, current.strip()]


def _symbols(text: str) -> set[str]:
    return {SAME.get(part.strip(), part.strip()) for part in text.split("|")}


@pytest.mark.kernel
@pytest.mark.skipif(
    not Path("/usr/include/x86_64-linux-gnu").exists(), reason="the calls are numbered for x86_64"
)
def test_constants_agree_with_strace() -> None:
    """On real calls, what strace calls an argument is what we call it, and encodes to the same number."""
    strace = need_program("strace")
    done = subprocess.run(
        [strace, "-X", "verbose", "-e", "trace=all", "-o", "/dev/stdout", sys.executable, "-I", "-c", PROGRAM],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    compared, names = 0, set()
    wrong = []
    for line in done.stdout.splitlines():
        found = re.match(r"(\w+)\((.*)\)\s+= ", line)
        plain = found and signature("x86_64", found[1])
        if not found or not plain:
            continue
        pieces = _split(found[2])
        pairs = [re.fullmatch(r"(-?(?:0x)?[0-9a-fA-F]+) /\* ([^*]+) \*/", piece) for piece in pieces]
        plain_numbers = [re.fullmatch(r"-?(?:0x[0-9a-f]+|\d+)", piece) for piece in pieces]
        numbers = [
            int(pair[1], 8 if re.fullmatch(r"0[0-7]+", pair[1]) else 0) if pair
            else int(number[0], 8 if re.fullmatch(r"0[0-7]+", number[0]) else 0) if number
            else 0
            for pair, number in zip(pairs, plain_numbers, strict=True)
        ]  # fmt: skip
        refined = call_signature("x86_64", found[1], [n % 2**64 for n in numbers])
        for spec, pair, number in zip(refined.args, pairs, numbers, strict=False):
            if pair is None or spec.constants is None or "???" in pair[2]:
                continue
            value = number % (1 << spec.width)
            ours = decode_value("x86_64", spec, value)
            # One ioctl number can have two names: "SNDCTL_TMR_START or TCSETS".
            if not any(_symbols(ours) - {"0"} == _symbols(t) - {"0"} for t in pair[2].split(" or ")):
                wrong.append(f"{found[1]}.{spec.name} {pair[1]}: ours {ours}, strace {pair[2]}")
            else:
                assert encode_value("x86_64", spec, ours) == value
            compared += 1
            names |= _symbols(pair[2])
    assert not wrong, "\n".join(sorted(set(wrong)))
    assert compared > 250
    assert len(names) > 150
