"""The eBPF source: calls counted in the kernel, for commands and for what runs already.

Needs root. Observations come out as from the other sources; nothing is lost without being in the ledger, and
nothing stays loaded when the tool ends, however it ends.
"""

from __future__ import annotations

from autoprofile.trace.ebpf.source import EbpfSource

__all__ = ["EbpfSource"]
