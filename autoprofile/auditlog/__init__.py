"""Denials as evidence: the audit log of a supervised run, the kernel's own audit records, an eBPF watch."""

from __future__ import annotations

from autoprofile.auditlog.read import read_audit
from autoprofile.auditlog.record import (
    AUDIT_SCHEMA_VERSION,
    CALL_EVENTS,
    DECIDERS,
    AuditLog,
    AuditProgram,
    AuditRecord,
    AuditSession,
    aggregate,
    audit_schema,
    call_id,
    constrained_values,
    decoded_args,
)

__all__ = [
    "AUDIT_SCHEMA_VERSION",
    "CALL_EVENTS",
    "DECIDERS",
    "AuditLog",
    "AuditProgram",
    "AuditRecord",
    "AuditSession",
    "aggregate",
    "audit_schema",
    "call_id",
    "constrained_values",
    "decoded_args",
    "read_audit",
]
