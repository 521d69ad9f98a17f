"""Build small traces by hand: the observations a source would have recorded."""

from __future__ import annotations

from collections.abc import Iterable

from autoprofile.abi.signatures import constrained_args, kernel_value
from autoprofile.abi.syscalls import syscall_name, syscall_nr
from autoprofile.observations import LossLedger, Observation, ProgramId, Trace, TraceMeta

__all__ = ["PROGRAM", "observed", "trace_of"]

PROGRAM = ProgramId("/usr/bin/thing", "aabbccddeeff")


def observed(
    syscall: str | int,
    *args: int,
    arch: str = "x86_64",
    run: int = 0,
    count: int = 1,
    processes: int = 1,
    program: ProgramId = PROGRAM,
    first_ns: int = 0,
    ok: int | None = None,
    failed: int | None = None,
    last_return: str | None = None,
    errors: str | None = None,
) -> Observation:
    """Return the observation of calls with these raw registers, constrained arguments kept, others dropped."""
    nr = syscall_nr(arch, syscall) if isinstance(syscall, str) else syscall
    assert nr is not None, syscall
    name = syscall_name(arch, nr)
    kept: list[int | None] = [None] * 6
    for spec in constrained_args(arch, name) if name else ():
        raw = args[spec.index] if spec.index < len(args) else 0
        kept[spec.index] = kernel_value(spec, raw)
    return Observation(
        run=run,
        program=program,
        arch=arch,
        nr=nr,
        args=tuple(kept),  # type: ignore[arg-type]
        count=count,
        first_ns=first_ns,
        last_ns=first_ns,
        processes=processes,
        ok=ok,
        failed=failed,
        last_return=last_return,
        # a source that sees results notes every error; of calls all alike, that is the last one's
        errors=errors or (last_return if failed and last_return != "ok" else None),
    )


def trace_of(
    *observations: Observation,
    runs: int | None = None,
    lost: dict[str, int] | None = None,
    complete: bool = True,
    kernel: str | None = "6.18.0",
    libc: str | None = "glibc 2.36",
    argv: Iterable[str] = ("thing", "-x"),
) -> Trace:
    """Return a trace of these observations; the number of runs follows from them unless given."""
    found = max((o.run for o in observations), default=0) + 1
    return Trace(
        TraceMeta(
            backend="ptrace",
            argv=tuple(argv),
            kernel=kernel,
            libc=libc,
            runs=found if runs is None else runs,
            exit_status=0,
            complete=complete,
        ),
        observations,
        LossLedger(lost),
        process_count=max((o.processes for o in observations), default=0),
    )
