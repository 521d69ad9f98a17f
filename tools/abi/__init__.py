"""Generate the kernel facts of ``autoprofile/abi/data`` from public sources."""

from __future__ import annotations

__all__: list[str] = []
