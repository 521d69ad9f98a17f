"""Measure what starting costs: ``--help``, and ``enforce`` in front of ``/bin/true``.

Runs are paired (plain, enforced, plain, …) and the median of the differences is printed, because this kind of
number drowns in the noise of a busy machine. Limit: ``enforce`` adds at most 150 ms. Prints; never fails.

    python benchmarks/startup.py [PAIRS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_MS = 150
PROGRAM = Path(sys.executable).with_name("autoprofile")


def milliseconds(argv: list[str]) -> float:
    """Return how long a command takes."""
    start = time.perf_counter()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60)
    return (time.perf_counter() - start) * 1000


def paired(plain: list[str], measured: list[str], pairs: int) -> tuple[float, float]:
    """Return the median time of the plain command and the median of the paired differences."""
    plains, differences = [], []
    for _ in range(pairs):
        before = milliseconds(plain)
        plains.append(before)
        differences.append(milliseconds(measured) - before)
    return statistics.median(plains), statistics.median(differences)


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
            plain, added = paired([true], argv, pairs)
            print(f"  {name:42} +{added:6.1f} ms   ({(plain + added) / plain:5.1f} times {true} alone)")


if __name__ == "__main__":
    main()
