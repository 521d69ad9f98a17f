"""Measure what learning a loop of getppid calls costs, against ``strace -f -o /dev/null`` on the same loop.

Whole commands are timed, start-up and writing the profile (a third of a second) included. Rounds are
interleaved (strace, notify, ptrace, strace, …). Two ratios are printed: of the best times, which a busy
machine disturbs least, and the median of the ratios within a round. Limits for the former: notify 0.4,
ptrace 1.8; ``--check`` fails beyond. Most of what notify costs is the kernel's own round trip to the tool.

    python benchmarks/learn_overhead.py [--calls N] [--rounds N] [--check]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = {"notify": 0.4, "ptrace": 1.8}
SOURCE = Path(__file__).parent.parent / "tests" / "tracees" / "syscall_loop.c"
ROOT = Path(__file__).parent.parent


def seconds(argv: list[str]) -> float:
    """Return how long a command takes on the wall clock."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, env=environment, timeout=600)
    return time.perf_counter() - start


def main() -> int:
    """Measure, print, and say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    missing = [tool for tool in ("gcc", "strace") if shutil.which(tool) is None]
    if missing:
        print(f"not measured: {' and '.join(missing)} not installed")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        loop = str(Path(folder) / "syscall_loop")
        subprocess.run(["gcc", "-O2", "-o", loop, str(SOURCE)], check=True, timeout=60)
        command = [loop, str(options.calls)]
        learn = [sys.executable, "-m", "autoprofile", "learn", "-q", "--force", "-o", f"{folder}/p.yaml"]
        commands = {
            "untraced": command,
            "strace": ["strace", "-f", "-o", "/dev/null", *command],
            **{name: [*learn, "--backend", name, "--", *command] for name in LIMITS},
        }
        rounds = [{name: seconds(argv) for name, argv in commands.items()} for _ in range(options.rounds)]
    best = {name: min(r[name] for r in rounds) for name in commands}
    print(f"{options.calls} getppid calls, {options.rounds} rounds")
    print(f"{'':10} {'us/call':>8} {'x strace':>9} {'(median)':>9} {'limit':>6}")
    has_failed = False
    for name in commands:
        ratio = best[name] / best["strace"]
        median = statistics.median(r[name] / r["strace"] for r in rounds)
        limit = LIMITS.get(name)
        line = f"{name:10} {best[name] / options.calls * 1e6:8.2f} {ratio:9.2f} {median:9.2f}"
        print(line if limit is None else f"{line} {limit:6.1f}")
        has_failed |= limit is not None and ratio > limit
    if has_failed:
        print("beyond the limit")
    return int(has_failed and options.check)


if __name__ == "__main__":
    sys.exit(main())
