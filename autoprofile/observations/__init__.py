"""Counted observations of a run, the ledger of what was lost, and their Parquet file.

Sources feed a `Recorder`; what it finishes is a `Trace`, which everything above reads. Importing this
package loads neither pandas nor pyarrow; `Trace.frame`, `Trace.save` and `Trace.load` do when called.
"""

from __future__ import annotations

from autoprofile.observations.columns import TRACE_SCHEMA_VERSION
from autoprofile.observations.model import OTHER_ERROR, LossLedger, Observation, ProgramId, TraceMeta
from autoprofile.observations.recorder import (
    COUNT,
    ERRORS,
    FAILED,
    FIRST,
    LAST,
    OK,
    RETURN,
    Cell,
    Counter,
    Recorder,
    Tally,
    add_untyped,
    call_code,
)
from autoprofile.observations.trace import Trace

__all__ = [
    "Trace",
    "TraceMeta",
    "Observation",
    "OTHER_ERROR",
    "ProgramId",
    "LossLedger",
    "Recorder",
    "Counter",
    "Cell",
    "Tally",
    "add_untyped",
    "call_code",
    "COUNT",
    "FIRST",
    "LAST",
    "OK",
    "FAILED",
    "ERRORS",
    "RETURN",
    "TRACE_SCHEMA_VERSION",
]
