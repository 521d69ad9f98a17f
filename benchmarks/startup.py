"""Measure what starting costs: ``--help``, and ``enforce`` in front of ``/bin/true``.

Runs are paired (plain, enforced, plain, …) and the median of the differences is printed, because this kind of
number drowns in the noise of a busy machine; processor time suffers less from it than wall-clock time, and
the bare interpreter in the first row tells how slow the machine is. Limit: ``enforce`` adds at most 150 ms.
Prints; never fails.

    python benchmarks/startup.py [PAIRS]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_MS = 150
PROGRAM = Path(sys.executable).with_name("autoprofile")


def milliseconds(argv: list[str]) -> tuple[float, float]:
    """Return how long a command takes, on the wall clock and of the processor."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return wall * 1000, (used.ru_utime + used.ru_stime) * 1000


def added(plain: list[str], measured: list[str], pairs: int) -> tuple[float, float]:
    """Return the medians of the paired differences: wall clock, processor."""
    walls, processors = [], []
    for _ in range(pairs):
        wall, processor = milliseconds(plain)
        measured_wall, measured_processor = milliseconds(measured)
        walls.append(measured_wall - wall)
        processors.append(measured_processor - processor)
    return statistics.median(walls), statistics.median(processors)


def main() -> None:
    """Measure and print."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    true = "/bin/true"
    with tempfile.TemporaryDirectory() as folder:
        profile = str(Path(folder) / "true.yaml")
        subprocess.run([PROGRAM, "-q", "learn", "-o", profile, "--", true], check=True, timeout=60)
        rows = [
            ("python -c pass", [sys.executable, "-c", "pass"]),
            ("autoprofile --help", [str(PROGRAM), "--help"]),
            ("autoprofile enforce -- /bin/true", [str(PROGRAM), "enforce", profile, "--", true]),
            (
                "autoprofile enforce --audit -- /bin/true",
                [str(PROGRAM), "enforce", profile, "--audit", f"{folder}/a.jsonl", "--", true],
            ),
        ]
        print(f"added to {true}, median of {pairs} pairs (limit for enforce: {LIMIT_MS} ms)")
        for name, argv in rows:
            wall, processor = added([true], argv, pairs)
            print(f"  {name:42} +{wall:6.1f} ms wall clock   +{processor:6.1f} ms processor")


if __name__ == "__main__":
    main()
