"""The part of the bcc loader that is a process of its own: C from stdin, instructions to stdout.

The compiler inside bcc's library aborts at some errors, writes to descriptor 2, and takes its settings from
the environment; here that concerns nobody else. Run by path, it needs the standard library and bcc alone.

    python -I bcc_compile.py BCC PROGRAM,PROGRAM... FLAG...
"""

from __future__ import annotations

import ctypes
import importlib.util
import struct
import sys
from pathlib import Path
from typing import Any

__all__ = ["load_bcc", "main"]


def load_bcc(path: Path) -> Any:
    """Return the module bcc from its ``__init__.py``; ``sys.path`` stays as it is.

    Raises:
        ImportError: it is no BPF Compiler Collection, or its library is missing (OSError).
    """
    spec = importlib.util.spec_from_file_location("bcc", path, submodule_search_locations=[str(path.parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no module")
    module = sys.modules["bcc"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "BPF"):
        raise ImportError(f"{path} is another package of that name")
    return module


def main(words: list[str]) -> int:
    """Compile; write each program's number of bytes (32 bits) and its instructions."""
    try:
        lib = load_bcc(Path(words[0])).lib
    except (ImportError, OSError, AttributeError) as error:
        sys.stderr.write(f"error: bcc cannot be loaded: {error}\n")
        return 3
    flags = (ctypes.c_char_p * len(words[2:]))(*(word.encode() for word in words[2:]))
    module = lib.bpf_module_create_c_from_string(sys.stdin.buffer.read(), 0, flags, len(flags), True, None)
    if not module:
        return 1
    for name in words[1].split(","):
        at = lib.bpf_function_start(module, name.encode())
        size = lib.bpf_function_size(module, name.encode())
        sys.stdout.buffer.write(struct.pack("=I", size) + ctypes.string_at(at, size))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
