"""Hypothesis strategies for traces, shared by the tests of this package."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from autoprofile.observations import LossLedger, Observation, ProgramId, Trace, TraceMeta

u64 = st.integers(0, 2**64 - 1)
counts = st.integers(0, 2**63)
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
paths = (
    text
    | st.binary(min_size=1, max_size=6).map(os.fsdecode)
    | st.text("\\x5cf/\udcff", min_size=1, max_size=8)
)

observations = st.builds(
    Observation,
    run=st.integers(0, 3),
    program=st.builds(ProgramId, paths, st.none() | st.sampled_from(["8c1f", "go:xyz"])),
    arch=st.sampled_from(["x86_64", "i386", "x32", "0x12345678"]),
    nr=st.integers(0, 2**32 - 1),
    args=st.tuples(*[st.none() | u64] * 6),
    count=counts,
    first_ns=st.integers(0, 2**62),
    last_ns=st.integers(0, 2**62),
    processes=st.integers(1, 10_000),
    ok=st.none() | counts,
    failed=st.none() | counts,
    last_return=st.none() | st.sampled_from(["ok", "ENOENT", "ERESTARTSYS", "133"]),
    classes=st.none() | st.just('{"a1":"nonnull","a2":{"least":1,"log2":[1],"most":1}}'),
    errors=st.none() | st.sampled_from(["EPERM", "EPERM,ESRCH", "other"]),
)

ledgers = st.builds(
    LossLedger,
    st.dictionaries(st.sampled_from(["missed_fork", "interrupted", "log_incomplete"]), st.integers(1, 2**40)),
)

metas = st.builds(
    TraceMeta,
    backend=st.sampled_from(["ptrace", "notify", "ptrace+strace_log"]),
    argv=st.lists(text, max_size=3).map(tuple),
    kernel=st.none() | st.just("6.18"),
    libc=st.none() | st.sampled_from(["glibc 2.36", "musl 1.2.3"]),
    start_time_s=st.none() | st.floats(0, 2**33),
    duration_ns=st.integers(0, 2**62),
    runs=st.integers(1, 4),
    exit_status=st.none() | st.integers(0, 255),
    complete=st.booleans(),
    libraries=st.dictionaries(text, st.sampled_from(["", "aa11"]), max_size=2),
)

# One row is one distinct call: two of one key are no trace.
rows = st.lists(observations, max_size=6, unique_by=lambda one: one.key)
traces = st.builds(Trace, metas, rows, ledgers, st.integers(0, 1000))
