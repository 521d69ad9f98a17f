"""The probes compiled by bcc when they are loaded: for kernels that do not describe their types.

bcc compiles the same sources as the prebuilt object's (probes/); the maps are made here, and loading and
attaching is libbpf's, which bcc is built on. What comes out has the interface of `BpfObject`.
"""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoprofile.errors import MachineError
from autoprofile.trace.ebpf.bcc_headers import Headers, find_headers, one_tree
from autoprofile.trace.ebpf.bcc_offsets import offsets_from_btf
from autoprofile.trace.ebpf.libbpf import BpfMap, ask, attach_raw, create_map, load_raw
from autoprofile.trace.ebpf.sources import MAIN, fields, maps, programs, source_dir

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = ["BccObject", "find_bcc"]

# Where Debian keeps it: for its own interpreter, but pure Python that any can load.
_DEBIAN: Final = Path("/usr/lib/python3/dist-packages/bcc/__init__.py")
_COMPILER: Final = Path(__file__).parent / "bcc_compile.py"
_COMPILE_S: Final = 120.0
_SAID_LINES: Final = 4
# Stands for the descriptor of the first map of maps.h in what is compiled, and so on.
_FIRST_FD: Final = 0x4D415000
# An instruction that loads 64 bits; its source register says that they are a map's descriptor.
_LOAD_64: Final = 0x18
_MAP_FD: Final = 1


def find_bcc() -> Path:
    """Return the module bcc: the distribution's, or the one this interpreter finds.

    Raises:
        MachineError: it is not installed.
    """
    if _DEBIAN.exists():
        return _DEBIAN
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        raise MachineError("bcc is not installed", hint="apt-get install python3-bpfcc")
    return Path(spec.origin)


class BccObject:
    """The probes, compiled and loaded; see `BpfObject`.

    Args:
        sizes: map -> bytes of key and value.
        entries: map -> entries, where not those of the sources.
        without: programs that are not loaded.
        question: the program that is loaded for `ask` alone.
        believe_headers: take the kernel's layout from the headers even where it describes itself.

    Attributes:
        headers: what they were compiled against.
        maps, source, is_unsure: see `loading.Loaded`.

    Raises:
        MachineError: no bcc, no headers, no privilege, or a kernel that refuses the programs.
    """

    def __init__(
        self,
        sizes: Mapping[str, tuple[int, int]],
        entries: Mapping[str, int] | None,
        without: Collection[str],
        *,
        question: str,
        believe_headers: bool = False,
    ) -> None:
        self.headers = find_headers()
        self.source, self.is_unsure = f"the kernel headers of {self.headers.release}", True
        self.maps: dict[str, BpfMap] = {}
        self._programs: dict[str, int] = {}
        self._links: list[int] = []
        self._tracepoints = {name: at for name, at in programs().items() if name not in without}
        self._question = question
        try:
            for spec in maps():
                number = (entries or {}).get(spec.name, spec.entries)
                size = sizes.get(spec.name, (0, 0))
                self.maps[spec.name] = create_map(spec.kind, spec.name, *size, number, spec.flags)
            offsets = None if believe_headers else offsets_from_btf(fields())
            where = None if offsets is None else tuple(offsets.items())
            compiled = _compiled(find_bcc(), self.headers, where)
            fds = [found.fd for found in self.maps.values()]
            for name in self._tracepoints:
                self._programs[name] = load_raw(name, _with_maps(compiled[name], fds))
        except BaseException:
            self.close()
            raise

    def attach(self) -> None:
        """Attach every program."""
        for name, tracepoint in self._tracepoints.items():
            if tracepoint is not None:
                self._links.append(attach_raw(self._programs[name], tracepoint))

    def ask(self, *numbers: int) -> int:
        """Run the question; see `libbpf.ask`."""
        return ask(self._programs[self._question], *numbers)

    def detach(self) -> None:
        """Detach every program; the maps stay."""
        _close(self._links)
        self._links.clear()

    def close(self) -> None:
        """Release programs and maps."""
        self.detach()
        _close(self._programs.values())
        _close(found.fd for found in self.maps.values())
        self._programs.clear()
        self.maps.clear()


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _with_maps(instructions: bytes, fds: list[int]) -> bytes:
    changed = bytearray(instructions)
    for at in range(0, len(changed), 8):
        code, registers = changed[at], changed[at + 1]
        if code == _LOAD_64 and registers >> 4 == _MAP_FD:
            (number,) = struct.unpack_from("=i", changed, at + 4)
            struct.pack_into("=i", changed, at + 4, fds[number - _FIRST_FD])
    return bytes(changed)


@cache
def _compiled(bcc: Path, headers: Headers, offsets: tuple[tuple[str, int], ...] | None) -> dict[str, bytes]:
    # Once for all runs of this process; descriptors are filled in later.
    names = list(programs())
    flags = ["-DAUTOPROFILE_BCC", "-fno-unroll-loops", f"-I{source_dir()}"]
    flags += [f"-DFD_{spec.name}={_FIRST_FD + number}" for number, spec in enumerate(maps())]
    flags += ["-DHEADERS"] if offsets is None else [f"-DAT_{name}={at}" for name, at in offsets]
    with one_tree(headers) as tree:
        try:
            done = subprocess.run(
                [sys.executable, "-I", _COMPILER, bcc, ",".join(names), *flags],
                input=(source_dir() / MAIN).read_bytes(),
                capture_output=True,
                timeout=_COMPILE_S,
                # The only way to tell bcc's library; it would look under /lib/modules else.
                env={**os.environ, "BCC_KERNEL_SOURCE": str(tree)},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"bcc did not compile the probes within {_COMPILE_S:g} s") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if "error" in line.lower()]
        raise MachineError(
            f"bcc cannot compile the probes against the headers of {headers.release}",
            hint="; ".join(said[:_SAID_LINES]) or f"its process ended with status {done.returncode}",
        )
    found, at = {}, 0
    for name in names:
        (size,) = struct.unpack_from("=I", done.stdout, at)
        found[name] = done.stdout[at + 4 : at + 4 + size]
        at += 4 + size
    return found
