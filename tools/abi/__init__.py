"""Generate the kernel facts of ``autoprofile/abi/data`` from public sources (see ``tools/generate_abi.py``)."""

from __future__ import annotations

__all__: list[str] = []
