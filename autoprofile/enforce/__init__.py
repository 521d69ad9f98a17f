"""Enforce: install a filter in a program at its exec, supervise what it hands over, keep the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.enforce.install import Supervisor, enforce

if TYPE_CHECKING:
    from autoprofile.enforce.judge import CallEvent, Judge, Verdict

__all__ = ["CallEvent", "Judge", "Supervisor", "Verdict", "enforce"]


def __getattr__(name: str) -> object:
    # What hooks are written with; enforcing without a supervisor starts quicker without it.
    if name not in ("CallEvent", "Judge", "Verdict"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from autoprofile.enforce import judge

    return getattr(judge, name)
