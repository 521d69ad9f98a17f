"""Which of the two loaders puts the probes into the kernel: the prebuilt object's (core), or bcc's.

Both load the same sources and give the same observations. The prebuilt object needs a kernel that describes
its types (BTF) and libbpf, and is quick; bcc compiles for seconds, against kernel headers, and serves kernels
without BTF.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

from autoprofile import kernel
from autoprofile.errors import MachineError
from autoprofile.trace.ebpf.libbpf import BpfMap, BpfObject, has_libbpf, probe_bpf
from autoprofile.trace.ebpf.records import SIZES
from autoprofile.trace.vsyscall import vsyscall_mode

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BTF",
    "LOADERS",
    "Loaded",
    "Loader",
    "LoadError",
    "choose",
    "is_chosen",
    "is_ready",
    "lacks",
    "load",
    "loader_here",
]

BTF: Final = "/sys/kernel/btf/vmlinux"
# BPF atomics that return the old value: Linux kernel commit 5ffa25502b5a ("bpf: Add instructions for
# atomic_[cmp]xchg") and its series (in v5.12).
_OLDEST: Final = (5, 12)
_FIRST_PID_SPACE: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h

Loader = Literal["auto", "core", "bcc"]
LOADERS: Final[tuple[Loader, ...]] = ("auto", "core", "bcc")

_QUESTION: Final = "ask"
_BOTH_ENDS: Final = ("sys_enter", "sys_exit", "sched_process_exit")
_ONLY_ENTRY: Final = ("sys_enter_only", "sched_process_exit_only")

_chosen: Loader = "auto"


class LoadError(MachineError):
    """The probes cannot be loaded here. The command that was to be watched was not started."""


class Loaded(Protocol):
    """Probes in the kernel, whoever put them there.

    Attributes:
        maps: by name.
        source: what says where the kernel keeps what the probes read, for people.
        is_unsure: that may be wrong, and is to be tried before it is believed.
    """

    maps: dict[str, BpfMap]
    source: str
    is_unsure: bool

    def attach(self) -> None:
        """Attach every program."""

    def ask(self, *numbers: int) -> int:
        """Run the program ``ask`` with these arguments."""

    def detach(self) -> None:
        """Detach every program; the maps stay."""

    def close(self) -> None:
        """Release programs and maps."""


def choose(loader: Loader) -> None:
    """Say which loader this process uses from here on; "auto" is core where the kernel has BTF, else bcc."""
    global _chosen
    _chosen = loader


def is_chosen() -> bool:
    """Tell whether a loader was named: then another source is no answer where it does not work."""
    return _chosen != "auto"


def loader_here() -> Loader:
    """Return the loader that is used: the chosen one, or the automatic choice."""
    if _chosen != "auto":
        return _chosen
    return "core" if os.path.exists(BTF) else "bcc"  # noqa: PTH110


def lacks(loader: Loader | None = None) -> tuple[str, str] | None:
    """Return why a loader (the one that is used) cannot work here, and what would help; None if it can."""
    if os.uname().machine != "x86_64":
        return f"the probes are for x86_64, not {os.uname().machine}", "--backend notify and ptrace work here"
    if os.geteuid() != 0:
        return (
            "tracing with eBPF needs root",
            "run it as root; --backend notify and ptrace need no rights",
        )
    if kernel.kernel_release() < _OLDEST:
        return "the probes need Linux 5.12", "--backend notify needs Linux 5.5, ptrace 5.3"
    if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_SPACE:  # noqa: PTH116
        return (
            "this is not the first pid namespace, by whose numbers the kernel counts",
            "run it on the host: --container watches from there; --backend notify and ptrace work here",
        )
    if (loader or loader_here()) == "bcc":
        return _bcc_lacks()
    if not os.path.exists(BTF):  # noqa: PTH110
        return (
            "this kernel does not describe its types (no BTF), which the prebuilt probes need",
            "--loader bcc; or a kernel built with CONFIG_DEBUG_INFO_BTF",
        )
    return None


def _bcc_lacks() -> tuple[str, str] | None:
    from autoprofile.trace.ebpf.bcc_headers import find_headers
    from autoprofile.trace.ebpf.bcc_loader import find_bcc

    try:
        find_bcc()
        find_headers()
    except MachineError as error:
        return error.what, error.hint or "--backend notify and ptrace do without"
    return None


def is_ready() -> bool:
    """Tell whether the probes can be expected to run: root, what the loader needs, and bpf(2) not refused.

    Only loading them tells for sure, and bcc takes seconds for it.
    """
    if lacks() is not None or not has_libbpf():
        return False
    try:
        probe_bpf()
    except MachineError:
        return False
    return True


def load(entries: Mapping[str, int] | None, *, returns: bool) -> Loaded:
    """Load the probes, attached to nothing yet.

    Args:
        entries: map -> entries, where the usual number does not fit.
        returns: watch the ends of calls, too.

    Raises:
        MachineError: something is missing, or the kernel refuses them.
    """
    if (why := lacks()) is not None:
        raise MachineError(why[0], hint=why[1])
    without = _ONLY_ENTRY if returns else _BOTH_ENDS
    if vsyscall_mode() == "none":  # or the kernel was built without, and has no such tracepoint
        without = (*without, "emulate_vsyscall")
    if loader_here() == "bcc":
        from autoprofile.trace.ebpf.bcc_loader import BccObject

        return BccObject(SIZES, entries, without, question=_QUESTION)
    # Not importlib.resources, whose import takes longer than this object to load.
    image = Path(__file__).with_name("data").joinpath("autoprofile.bpf.o").read_bytes()
    return BpfObject(image, SIZES, entries, without, question=_QUESTION)
