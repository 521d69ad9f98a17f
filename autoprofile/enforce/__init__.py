"""Enforce: install a filter in a program at its exec, supervise what it hands over, keep the audit log."""

from __future__ import annotations

from autoprofile.enforce.install import Supervisor, enforce
from autoprofile.enforce.judge import CallEvent, Judge, Verdict

__all__ = ["CallEvent", "Judge", "Supervisor", "Verdict", "enforce"]
