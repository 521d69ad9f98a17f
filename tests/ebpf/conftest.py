"""The C programs of the kernel tests, for the eBPF tests."""

from __future__ import annotations

from tests.kernel.conftest import tracee

__all__ = ["tracee"]
