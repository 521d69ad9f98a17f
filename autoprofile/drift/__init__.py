"""Drift: every difference between a profile and later behaviour, why it is there, and what would accept it.

`compare` makes the report, `accept` applies the smallest edit. Pure: no clock, no kernel, no environment.
"""

from __future__ import annotations

from autoprofile.drift.compare import compare
from autoprofile.drift.edit import accept
from autoprofile.drift.record import DRIFT_SCHEMA_VERSION, KINDS, SEVERITIES, DriftRecord, DriftReport

__all__ = ["DRIFT_SCHEMA_VERSION", "KINDS", "SEVERITIES", "DriftRecord", "DriftReport", "accept", "compare"]
