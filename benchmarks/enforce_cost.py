"""Measure what enforcement costs: allowed calls with and without a supervisor, and denials from the cache.

Pairs run alternately and ratios are printed, best of several rounds, because absolute times drown in the
noise of a busy machine. A loop of getppid (allowed) is timed under no filter, under a filter that refuses
with an errno, and under the same filter with a supervisor; then a loop of a refused getpgrp, which the
supervisor answers and records.
Needs gcc. Targets: allowed calls cost the same with and without the supervisor; 50,000 denials a second.
Prints; never fails.

    python benchmarks/enforce_cost.py [CALLS]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autoprofile.enforce import enforce
from autoprofile.enforce.audit import AuditWriter
from autoprofile.enforce.supervise import NotifySupervisor
from autoprofile.filter import compile_profile
from autoprofile.profile import Action, Profile, SeccompRule
from autoprofile.trace.source import Command

LOOP = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    long calls = atol(argv[1]), nr = atol(argv[2]);
    struct timespec a, b;
    (void)argc;
    syscall(nr, 0, 0, 0, 0, 0, 0);
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (long i = 0; i < calls; i++) syscall(nr, 0, 0, 0, 0, 0, 0);
    clock_gettime(CLOCK_MONOTONIC, &b);
    fprintf(stderr, "%.1f\n", ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / calls);
    return 0;
}
"""
GETPPID, GETPGRP = 110, 111  # x86_64: the first is allowed here, the second is not
ROUNDS = 9


class Bench:
    """The loop, compiled, and ways to run it."""

    def __init__(self, folder: Path) -> None:
        source = folder / "loop.c"
        source.write_text(LOOP)
        self.program = str(folder / "loop")
        self.log = folder / "audit.jsonl"
        subprocess.run(["gcc", "-O2", "-o", self.program, str(source)], check=True, timeout=60)
        rule = SeccompRule("getpgrp", Action.errno("EPERM"))
        base = Profile(mode="denylist", default=Action.ALLOW, rules=(rule,))
        self.refusing = compile_profile(base)
        self.asking = compile_profile(
            Profile(mode="denylist", default=Action.ALLOW, rules=(SeccompRule("getpgrp", Action.NOTIFY),))
        )

    def plain(self, calls: int, nr: int) -> float:
        """Return nanoseconds per call without any filter."""
        done = subprocess.run(
            [self.program, str(calls), str(nr)], capture_output=True, text=True, check=True, timeout=600
        )
        return float(done.stderr)

    def filtered(self, calls: int, nr: int) -> float:
        """Return nanoseconds per call under the filter alone."""
        return self._under(lambda command: enforce(command, self.refusing), calls, nr)

    def supervised(self, calls: int, nr: int) -> float:
        """Return nanoseconds per call under the filter and the supervisor, with a log."""

        def run(command: Command) -> int:
            supervisor = NotifySupervisor(
                lambda _arch, _nr, _args: Action.errno("EPERM"), audit=AuditWriter(self.log), symbols=False
            )
            return enforce(command, self.asking, supervisor=supervisor)

        return self._under(run, calls, nr)

    def _under(self, run: object, calls: int, nr: int) -> float:
        # enforce() passes our stderr on to the program.
        reader, writer = os.pipe()
        kept = os.dup(2)
        os.dup2(writer, 2)
        os.close(writer)
        try:
            status = run(Command((self.program, str(calls), str(nr))))  # type: ignore[operator]
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        with os.fdopen(reader) as file:
            text = file.read()
        assert status == 0, status
        return float(text)


def main() -> None:
    """Measure and print."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    denials = max(1000, calls // 20)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        rows = [
            (bench.plain(calls, GETPPID), bench.filtered(calls, GETPPID), bench.supervised(calls, GETPPID))
            for _ in range(ROUNDS)
        ]
        plain, filtered, supervised = (min(column) for column in zip(*rows, strict=True))
        print(
            f"an allowed call, best of {ROUNDS}, ns: no filter {plain:.0f}, filter {filtered:.0f},", end=" "
        )
        print(f"filter and supervisor {supervised:.0f}")
        ratios = [with_supervisor / alone for _, alone, with_supervisor in rows]
        print(f"  with / without supervisor: {supervised / filtered:.3f} of the best,", end=" ")
        print(f"{statistics.median(ratios):.3f} median of the pairs")
        refused = min(bench.filtered(denials, GETPGRP) for _ in range(ROUNDS))
        print(f"a refused call, best of {ROUNDS}: the filter's errno {refused:.0f} ns;", end=" ")
        start = time.process_time()
        answered = [bench.supervised(denials, GETPGRP) for _ in range(ROUNDS)]
        spent = (time.process_time() - start) / ROUNDS / denials
        print(
            f"recorded by the supervisor {min(answered) / 1000:.1f} µs = {1e9 / min(answered):,.0f} a second"
        )
        print(f"  of which processor time of the supervisor {spent * 1e6:.1f} µs")
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cpus)})
        answered = [bench.supervised(denials, GETPGRP) for _ in range(ROUNDS)]
        os.sched_setaffinity(0, cpus)
        print(f"  both on one processor: {1e9 / min(answered):,.0f} a second")


if __name__ == "__main__":
    main()
