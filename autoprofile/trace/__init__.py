"""Trace sources: run a command and record its syscalls; each source is one module behind `TraceSource`.

Importing this package loads no source; `source_named` does.
"""

from __future__ import annotations

from autoprofile.trace.source import Command, Progress, RunResult, TraceSource, auto_source, source_named

__all__ = ["Command", "Progress", "RunResult", "TraceSource", "auto_source", "source_named"]
