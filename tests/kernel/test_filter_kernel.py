"""The kernel answers calls under a compiled filter as the simulator says, argument by argument."""

from __future__ import annotations

import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.filter import Filter, Program, compile_profile
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule
from tests.unit.filter.calls import EDGES, MASKS, U32, U64, WIDE_EDGES, calls
from tests.unit.filter.programs import random_program

pytestmark = pytest.mark.kernel

ENOSYS = 38
X86_64, I386 = ARCHES["x86_64"].audit_arch, ARCHES["i386"].audit_arch
# Numbers no kernel has: allowing them is harmless and shows as ENOSYS.
SPARE = range(3000, 3012)
# Calls with int, long and pointer parameters, never allowed here: each rule has an error number of its own.
REAL = ("read", "openat", "ioctl", "socket", "mmap", "futex", "clone", "prctl", "kill", "reboot", "fcntl")


def random_profile(rng: random.Random) -> Profile:
    """Make a profile whose every answer can be told from the others, and that harms nothing."""
    arches = rng.choice((("x86_64",), ("x86_64", "i386"), ("x86_64", "x32"), ("x86_64", "i386", "x32")))
    rules = [
        SeccompRule(name, Action.ALLOW, arch=tuple(a for a in arches if syscall_nr(a, name) is not None))
        for name in ("exit_group", "rt_sigreturn")
    ]
    for at in range(rng.randrange(5, 40)):
        spare = rng.random() < 0.4
        action = rng.choice((Action.errno(200 + at), Action.trap(500 + at)))
        only = None
        syscall: str | int = rng.choice(REAL)
        if spare:
            only = (rng.choice(arches),)
            syscall = rng.choice(SPARE) | ARCHES[only[0]].nr_bit
            action = rng.choice((action, Action.ALLOW, Action.ALLOW))
        args = tuple(random_comparator(rng) for _ in range(rng.randrange(4)))
        rules.append(SeccompRule(syscall, action, args or ANY, only))
    return Profile(arch=arches, default=Action.errno(100), bad_arch=Action.errno(101), rules=tuple(rules))


def random_comparator(rng: random.Random) -> Arg:
    """Make a comparator on the edges of 32 and 64 bits."""
    width = rng.choice((32, 64))
    values = EDGES if width == 32 else EDGES + WIDE_EDGES
    op = rng.choice(["eq", "ne", "lt", "le", "gt", "ge", "masked_eq", "masked_eq", "in", "in"])
    index = rng.randrange(6)
    if op == "in":
        return Arg(index, op, rng.sample(values, rng.randrange(1, 7)), width=width)
    if op == "masked_eq":
        mask = rng.choice(MASKS if width == 32 else (*MASKS, U64 & ~7, (1 << 40) + 6))
        return Arg(index, op, rng.choice(values) & mask, mask, width)
    return Arg(index, op, rng.choice(values), width=width)


def answer(ret: int) -> int:
    """Give what the tracee sees of a filter's return value."""
    action = Action.from_ret(ret)
    if action.kind == "errno":
        return -action.data
    if action.kind == "trap":
        return (1 << 32) + action.data
    assert action == Action.ALLOW
    return -ENOSYS


def make_calls(
    program: str, filter_bytes: bytes, made: list[tuple[int, int, tuple[int, ...]]], folder: Path
) -> list[int]:
    """Let the tracee make calls under a filter; give what each returned."""
    (folder / "filter").write_bytes(filter_bytes)
    (folder / "calls").write_bytes(
        b"".join(struct.pack("<8Q", token == I386, nr, *args) for token, nr, args in made)
    )
    (folder / "results").write_bytes(bytes(8 * len(made)))
    command = [program, *(str(folder / name) for name in ("filter", "calls", "results"))]
    done = subprocess.run(command, timeout=60, check=False)
    assert done.returncode == 0
    return [result for (result,) in struct.iter_unpack("<q", (folder / "results").read_bytes())]


def harmless(token: int, nr: int) -> bool:
    """Leave out what only the tracee itself may call."""
    return token in (X86_64, I386) and nr & ~0x40000000 not in {
        syscall_nr(arch, name) & ~0x40000000  # type: ignore[operator]
        for arch in ("x86_64", "i386", "x32")
        for name in ("exit_group", "rt_sigreturn")
    }


@pytest.mark.parametrize("seed", range(12))
def test_the_kernel_answers_as_the_simulator(seed, tracee, tmp_path) -> None:
    """Thousands of calls around the edges of a random profile return what simulating its filter says."""
    rng = random.Random(seed)
    profile = random_profile(rng)
    program = compile_profile(profile)
    made = [
        (token, nr, tuple(a & U32 for a in args) if token == I386 else args)
        for token, nr, args in calls(profile, seed, each=150)
        if harmless(token, nr)
    ]
    assert len(made) > 1000
    results = make_calls(tracee("filter_calls"), bytes(program), made, tmp_path)
    assert len(set(results)) > 5  # the answers tell the rules apart
    for (token, nr, args), result in zip(made, results, strict=True):
        expected = answer(program.simulate_ret(token, nr, args))
        assert result == expected, f"{token:#x} {nr:#x} {[hex(a) for a in args]}"


def test_a_filter_of_4000_instructions_works(tracee, tmp_path) -> None:
    """Trampolines and repeated returns mean to the kernel what they mean to the simulator."""
    rng = random.Random(1)
    rules = [SeccompRule(n, Action.ALLOW) for n in ("exit_group", "rt_sigreturn")]
    for nr in range(3000, 3290):
        args = (Arg(nr % 6, "in", rng.sample(range(1 << 40), 2), width=64),)
        rules.append(SeccompRule(nr, Action.errno(nr), args))
    profile = Profile(default=Action.errno(100), bad_arch=Action.errno(101), rules=tuple(rules))
    program = compile_profile(profile)
    assert 2000 < len(program) <= 4096
    made = [call for call in calls(profile, 1, each=12) if harmless(call[0], call[1])]
    results = make_calls(tracee("filter_calls"), bytes(program), made, tmp_path)
    assert results == [answer(program.simulate_ret(*call)) for call in made]


@pytest.mark.parametrize("seed", range(25))
def test_the_kernel_runs_every_instruction_as_the_simulator(seed, tracee, tmp_path) -> None:
    """Random programs with arithmetic, scratch memory and X work out the error number that the simulator says."""
    rng = random.Random(seed)
    made: list[tuple[int, int, tuple[int, ...]]] = []
    while len(made) < 100:  # some programs divide by an X of 0 for most calls, which kills the thread
        program = random_program(rng, 80)
        drawn = [
            (X86_64, rng.choice((0, 39, 5000)), tuple(rng.choice(EDGES + WIDE_EDGES) for _ in range(6)))
            for _ in range(300)
        ]
        made = [c for c in drawn if Action.from_ret(program.simulate_ret(*c)).kind == "errno"]
    results = make_calls(tracee("filter_calls"), bytes(program), made, tmp_path)
    assert results == [-Action.from_ret(program.simulate_ret(*call)).data for call in made]


def test_the_kernel_refuses_what_check_refuses(tracee, tmp_path) -> None:
    """Corrupted programs are refused by the kernel exactly when Program refuses them."""
    from autoprofile.filter import FilterInvalid

    built = Filter(default=Action.errno(1))
    built.add_rule("exit_group", Action.ALLOW)
    built.add_rule("ioctl", Action.ALLOW, Arg(1, "in", {1, 5, 9}), Arg(2, "masked_eq", 0, 0xF0, 64))
    good = bytes(built.compile())
    rng = random.Random(2)
    accepted = refused = 0
    for _ in range(300):
        bad = bytearray(good)
        at = rng.randrange(0, len(bad), 8)
        field = rng.randrange(4)
        if field == 0:
            bad[at : at + 2] = struct.pack(
                "<H", rng.choice((0x94, 0x28, 0x30, 0x34, 0x3C, 0x64, 0x60, 0x02, 0x16))
            )
        elif field == 3:
            bad[at + 4 : at + 8] = struct.pack("<I", rng.choice((0, 3, 31, 32, 60, 64)))
        else:
            bad[at + 1 + field] = rng.choice((0, 1, 3, 200))
        try:
            Program.from_bytes(bytes(bad))
            ours = True
        except FilterInvalid:
            ours = False
        (tmp_path / "filter").write_bytes(bytes(bad))
        (tmp_path / "calls").write_bytes(struct.pack("<8Q", 0, 231, 0, 0, 0, 0, 0, 0))
        (tmp_path / "results").write_bytes(bytes(8))
        command = [tracee("filter_calls"), *(str(tmp_path / name) for name in ("filter", "calls", "results"))]
        # 3: the kernel refused; anything else happened under the filter, which may even forbid exiting.
        status = subprocess.run(command, timeout=20, check=False).returncode
        assert (status != 3) == ours, bytes(bad).hex()
        accepted, refused = accepted + ours, refused + (not ours)
    assert accepted > 20
    assert refused > 20


def run_python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_load_installs_in_every_thread_for_ever() -> None:
    """Filter.load binds all threads of the process and its children, and a second filter can only tighten."""
    done = run_python(
        """
import os, threading
from autoprofile import Action, Arg, Filter
go, seen = threading.Event(), []
def other():
    go.wait()
    try: os.sched_getaffinity(0)
    except OSError as e: seen.append(e.errno)
t = threading.Thread(target=other); t.start()
f = Filter(default=Action.ALLOW)
f.add_rule("sched_getaffinity", Action.errno(77))
f.load()
go.set(); t.join()
try: os.sched_getaffinity(0)
except OSError as e: seen.append(e.errno)
g = Filter(default=Action.ALLOW)
g.load()
pid = os.fork()
if pid == 0:
    try: os.sched_getaffinity(0)
    except OSError as e: os._exit(e.errno)
seen.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(seen, open("/proc/self/status").read().split("Seccomp:")[1].split()[0])
"""
    )
    assert done.stdout == "[77, 77, 77] 2\n", done.stderr


def test_load_stacks_what_is_too_large_for_one_filter() -> None:
    """A filter of more than 4096 instructions is installed as several, and they mean it together."""
    done = run_python(
        """
import ctypes
from autoprofile import Action, Arg, Filter
f = Filter(default=Action.ALLOW)
values = [n * 0x1_0000_0007 for n in range(1300)]
f.add_rule("getuid", Action.errno(77), Arg(0, "in", values, width=64))
f.add_rule("getgid", Action.errno(78), Arg(1, "in", values[1:], width=64))
f.load()
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.argtypes = [ctypes.c_long] * 3
def tried(nr, *args):
    return ctypes.get_errno() if libc.syscall(nr, *args) < 0 else 0
print([tried(102, values[n], 0) for n in (0, 700, 1299)], tried(102, values[5] + 1, 0))
print([tried(104, 0, values[n]) for n in (1, 700, 1299)], tried(104, 0, 0), tried(104, values[3], 0))
print(open("/proc/self/status").read().split("Seccomp_filters:")[1].split()[0])
"""
    )
    assert done.stdout.splitlines()[:2] == ["[77, 77, 77] 0", "[78, 78, 78] 0 0"], done.stderr
    assert int(done.stdout.splitlines()[2]) >= 2


def test_the_readme_rule_lets_files_be_read_only() -> None:
    """A masked comparison on open flags refuses writing and keeps reading, as documented."""
    done = run_python(
        """
import os
from autoprofile import Action, Arg, Filter
f = Filter(default=Action.ALLOW)
for mode in (os.O_WRONLY, os.O_RDWR):
    f.add_rule("openat", Action.errno("EPERM"), Arg(2, "masked_eq", value=mode, mask=os.O_ACCMODE))
f.load()
print(len(open("/etc/passwd").read()) > 0)
try: open("/tmp/never-written", "w")
except PermissionError as e: print(e.errno)
"""
    )
    assert done.stdout == "True\n1\n", done.stderr


def test_without_capabilities_load_sets_no_new_privs() -> None:
    """Unprivileged, load sets no_new_privs; with CAP_SYS_ADMIN it leaves it alone."""
    code = """
import os, sys
from autoprofile import Action, Filter
from autoprofile.kernel import has_cap_sys_admin
import autoprofile.kernel.seccomp
f = Filter(default=Action.ALLOW)
f.compile()
if len(sys.argv) > 1: os.setuid(65534)
privileged = has_cap_sys_admin()
f.load()
print(privileged, open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0])
"""
    assert run_python(code).stdout in ("True 0\n", "False 1\n")
    dropped = subprocess.run(
        [sys.executable, "-c", code, "drop"], capture_output=True, text=True, timeout=60, check=False
    )
    if "PermissionError" in dropped.stderr and "setuid" in dropped.stderr:
        pytest.skip("not root: nothing to drop")
    assert dropped.stdout == "False 1\n", dropped.stderr


def test_load_refuses_a_filter_for_another_arch() -> None:
    """A filter whose arches lack this process's own is refused before anything is installed."""
    done = run_python(
        """
from autoprofile import Action, Filter, AutoprofileError
try: Filter(default=Action.ALLOW, arch=["riscv64", "arm"]).load()
except AutoprofileError as e: print(e.hint)
print(open("/proc/self/status").read().split("Seccomp:")[1].split()[0])
"""
    )
    assert done.stdout.startswith("say Filter(arch=['"), done.stderr
    assert done.stdout.endswith("]\n0\n") or done.stdout.endswith(")\n0\n")


@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        ("KILL_PROCESS", -signal.SIGSYS),
        ("KILL_THREAD", -signal.SIGSYS),
        ("TRAP", -signal.SIGSYS),
        ("NOTIFY", 38),
        ("TRACE", 38),
        ("LOG", 0),
        ("errno(0)", 0),
    ],
)
def test_actions_do_what_they_are_said_to(action: str, outcome: int) -> None:
    """Kills and traps end in SIGSYS; without listener or tracer NOTIFY and TRACE fail with ENOSYS."""
    made = f"Action.parse({action!r})" if "(" in action else f"Action.{action}"
    done = run_python(
        f"""
import os
from autoprofile import Action, Filter
f = Filter(default=Action.ALLOW)
f.add_rule("getpriority", {made})
f.load()
try: os.getpriority(os.PRIO_PROCESS, 0)
except OSError as e: os._exit(e.errno)
os._exit(0)
"""
    )
    assert done.returncode == outcome, done.stderr
