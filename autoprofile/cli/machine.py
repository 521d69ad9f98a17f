"""What this machine can do, found out by trying it, and how to get what it cannot.

Feeds `doctor`: a list of `Check` records, in the order they are shown. Probes run in children, so nothing
here changes the process that asks.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Check", "checks"]

_ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
_PROBE_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One thing this machine can or cannot do.

    Args:
        section: the heading it is shown under.
        name: stable, for ``--json``.
        works: whether it can.
        found: what was found, in a few words.
        how: how to get it, when it does not work.
        essential: without it, learning or enforcing is impossible.
    """

    section: str
    name: str
    works: bool
    found: str
    how: str | None = None
    essential: bool = False

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "section": self.section,
            "name": self.name,
            "works": self.works,
            "found": self.found,
            "how": self.how,
            "essential": self.essential,
        }


def checks() -> Iterator[Check]:
    """Yield every check; together they take well below a second or two."""
    yield from _kernel()
    yield from _seccomp()
    yield from _tracing()
    yield from _ebpf()
    yield from _arches()
    yield from _libraries()


# -- the kernel ----------------------------------------------------------------------------------------


def _kernel() -> Iterator[Check]:
    uname = os.uname()
    is_linux = uname.sysname == "Linux"
    yield Check(
        "kernel", "linux", is_linux, f"{uname.sysname} {uname.release}", "autoprofile is for Linux", True
    )
    from autoprofile.abi.arch import arch_from_machine
    from autoprofile.errors import AutoprofileError

    try:
        name, known = arch_from_machine(uname.machine), True
    except AutoprofileError:
        name, known = uname.machine, False
    yield Check("kernel", "arch", known, name, "there are no syscall tables for this arch", True)
    yield Check(
        "kernel",
        "root",
        os.geteuid() == 0,
        f"user id {os.geteuid()}",
        "only eBPF and --allow-new-privs need root",
    )


def _seccomp() -> Iterator[Check]:
    from autoprofile.kernel import KernelError, seccomp

    actions = {
        "kill_process": (0x80000000, "Linux 4.14"),
        "trap": (0x00030000, "Linux 3.5"),
        "errno": (0x00050000, "Linux 3.5"),
        "user_notif": (0x7FC00000, "Linux 5.0"),
        "log": (0x7FFC0000, "Linux 4.14"),
    }
    missing = []
    for name, (ret, _since) in actions.items():
        try:
            available = seccomp.is_action_available(ret)
        except KernelError:
            available = False
        if not available:
            missing.append(name)
    needed = sorted({actions[name][1] for name in missing})
    yield Check(
        "seccomp",
        "actions",
        not missing,
        f"no {', '.join(missing)}" if missing else ", ".join(actions),
        f"needs {', '.join(needed)} built with CONFIG_SECCOMP_FILTER, and no outer filter that hides it",
        True,
    )

    def install(flags: int, then: Callable[[int], bool] = lambda _listener: True) -> bool:
        def child() -> bool:
            from autoprofile.kernel import set_no_new_privs

            set_no_new_privs()
            return then(seccomp.seccomp_set_mode_filter(_ALLOW_ALL, flags=flags))

        return _in_child(child)

    listener = seccomp.FLAG_NEW_LISTENER
    yield Check(
        "seccomp",
        "install",
        install(0),
        "a filter can be installed without root",
        "an outer seccomp filter refuses seccomp(2)",
        True,
    )
    yield Check(
        "seccomp",
        "notify",
        install(listener),
        "a supervisor can answer calls (SECCOMP_RET_USER_NOTIF)",
        "needs Linux 5.5 or newer (notification with CONTINUE)",
    )
    yield Check(
        "seccomp",
        "wait_killable",
        install(listener | seccomp.FLAG_WAIT_KILLABLE_RECV),
        "interrupted calls are notified once (WAIT_KILLABLE_RECV)",
        "Linux 5.19; without it restarted calls may be counted twice",
    )
    yield Check(
        "seccomp",
        "sync_wake_up",
        install(listener, seccomp.set_sync_wake_up),
        "notifications wake the supervisor on the same CPU (SYNC_WAKE_UP)",
        "Linux 6.6; without it `--backend notify` is about half as fast",
    )


# -- tracing -------------------------------------------------------------------------------------------


def _tracing() -> Iterator[Check]:
    scope_file = Path("/proc/sys/kernel/yama/ptrace_scope")
    try:
        scope = int(scope_file.read_text())
    except (OSError, ValueError):
        scope = 0
    meaning = {
        0: "unrestricted",
        1: "children only: enough for everything but --pid",
        2: "only with CAP_SYS_PTRACE",
        3: "switched off until the next boot",
    }
    fine = scope <= 1 or (scope == 2 and os.geteuid() == 0)
    yield Check(
        "tracing",
        "ptrace_scope",
        fine,
        f"yama ptrace_scope {scope}: {meaning.get(scope, 'unknown')}",
        "sysctl kernel.yama.ptrace_scope=1 (3 needs a reboot first); ptrace installs the filters",
        True,
    )
    for name in ("notify", "ptrace"):
        works, found, how = _try_source(name)
        yield Check("tracing", name, works, found, how)
    yield _vsyscall()


def _vsyscall() -> Check:
    # Not a lack either way, but what the sources can be asked for depends on it.
    from autoprofile.trace.vsyscall import vsyscall_mode

    mode = vsyscall_mode()
    found = "no program can call the vsyscall page (vsyscall=none)"
    if mode != "none":
        found = f"old programs can call the vsyscall page (vsyscall={mode}), unseen by ptrace"
    return Check("tracing", "vsyscall", True, found)


def _try_source(name: str) -> tuple[bool, str, str | None]:
    # The only honest probe of a source is a real run. Answers: works, what was found, how to get it.
    from autoprofile.errors import AutoprofileError
    from autoprofile.trace.source import Command, source_named

    try:
        result = source_named(name).run(Command(("true",)))
    except (AutoprofileError, OSError) as error:
        hint = error.hint if isinstance(error, AutoprofileError) else None
        return False, f"tracing `true` failed: {error}", hint or "see the lines above"
    calls = sum(o.count for o in result.trace.observations)
    if result.status != 0 or calls == 0 or not result.trace.is_complete:
        return False, f"tracing `true` gave {calls} calls, status {result.status}", "see the lines above"
    return True, f"traced `true`: {calls} calls", None


def _ebpf() -> Iterator[Check]:
    btf = Path("/sys/kernel/btf/vmlinux").exists()
    found = "the kernel describes its types (BTF)" if btf else "no /sys/kernel/btf/vmlinux"
    yield Check("ebpf", "btf", btf, found, "a kernel built with CONFIG_DEBUG_INFO_BTF")
    yield _libbpf()
    yield from _loaders()


def _loaders() -> Iterator[Check]:
    # Both are tried, so that it is known what --loader can be; one is enough.
    from autoprofile.trace.ebpf.loading import LOADERS, choose, lacks, loader_here

    used = loader_here()
    tried: dict[str, tuple[bool, str, str | None]] = {}
    for loader in LOADERS[1:]:
        if (why := lacks(loader)) is not None:
            tried[loader] = (False, why[0], why[1])
        else:
            choose(loader)
            tried[loader] = _try_source("ebpf")
            choose("auto")
        yield Check("ebpf", loader, *tried[loader])
    works, found, how = tried[used]
    yield Check("ebpf", "ebpf", works, f"--backend ebpf takes the loader {used}: {found}", how)


def _libbpf() -> Check:
    # Loaded, not looked up: what is there may be empty, damaged or of another arch.
    from autoprofile.trace.ebpf.libbpf import has_libbpf

    works = has_libbpf()
    found = "libbpf.so.1" if works else "libbpf.so.1 is missing or cannot be loaded"
    return Check("ebpf", "libbpf", works, found, "apt-get install libbpf1 (--reinstall, if it is there)")


# -- arches and libraries ------------------------------------------------------------------------------


def _arches() -> Iterator[Check]:
    if os.uname().machine != "x86_64":
        return
    # mov eax, 1; xor ebx, ebx; int 0x80
    i386 = _runs(_tiny_elf(3, b"\xb8\x01\x00\x00\x00\x31\xdb\xcd\x80"))
    found = "runs 32-bit programs" if i386 else "cannot run 32-bit programs"
    yield Check("arches", "i386", i386, found, "a kernel with CONFIG_IA32_EMULATION, ia32_emulation not off")
    # mov eax, 0x40000000 + 60; xor edi, edi; syscall
    x32 = _runs(_tiny_elf(62, b"\xb8\x3c\x00\x00\x40\x31\xff\x0f\x05"))
    found = "runs x32 programs" if x32 else "cannot run x32 programs"
    yield Check("arches", "x32", x32, found, "rarely wanted: a kernel with CONFIG_X86_X32_ABI")


def _tiny_elf(machine: int, code: bytes) -> bytes:
    # elf(5): a 32-bit class file (i386 and x32 both are) with one loaded segment and nothing else.
    base, header = 0x10000, 52 + 32
    size = header + len(code)
    ident = b"\x7fELF" + bytes((1, 1, 1)) + bytes(9)
    ehdr = struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, base + header, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    phdr = struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 0x1000)
    return ident + ehdr + phdr + code


def _runs(program: bytes) -> bool:
    fd = os.memfd_create("autoprofile-probe", 0)
    try:
        os.write(fd, program)

        def child() -> bool:
            os.execv(f"/proc/self/fd/{fd}", ["probe"])  # noqa: S606 - the bytes above, no shell

        return _in_child(child)
    finally:
        os.close(fd)


def _in_child(probe: Callable[[], bool]) -> bool:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # A probe that hangs must not hang doctor; a crash of the probe is its answer.
            signal.alarm(_PROBE_TIMEOUT_S)
            status = 0 if probe() else 1
        finally:
            os._exit(status)
    _, wait_status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(wait_status) == 0


def _libraries() -> Iterator[Check]:
    from importlib.metadata import PackageNotFoundError, version

    for name, what, how, essential in (
        ("PyYAML", "profiles", "pip install PyYAML", True),
        ("python-ptrace", "the ptrace source", "pip install python-ptrace", False),
        ("pyelftools", "build-ids and symbols", "pip install pyelftools", False),
        ("pyarrow", "trace files", "pip install pyarrow", False),
        ("pandas", "traces as data frames", "pip install pandas", False),
        ("rich", "tables on terminals", "pip install rich", False),
        ("Jinja2", "the HTML page", "pip install Jinja2", False),
        ("matplotlib", "plots on the HTML page (optional)", "pip install 'autoprofile[notebooks]'", False),
        ("z3-solver", "proofs of filters (optional)", "pip install 'autoprofile[prove]'", False),
        ("dask", "fleets of traces (optional)", "pip install 'autoprofile[fleet]'", False),
    ):
        try:
            number: str | None = version(name)
        except PackageNotFoundError:
            number = None
        yield Check("libraries", name, number is not None, f"{number or 'missing'}: {what}", how, essential)
    import yaml

    quick = hasattr(yaml, "CSafeLoader")
    found = "PyYAML reads through libyaml" if quick else "PyYAML is pure Python here"
    how = "a PyYAML wheel, or libyaml-dev before building it; profiles load slower without"
    yield Check("libraries", "libyaml", quick, found, how)
