"""Measure what starting costs: ``--help``, ``enforce``, and ``learn`` before the program's first instruction.

Runs are paired (plain, measured, plain, …) and the median of the differences is printed, because this kind of
number drowns in the noise of a busy machine; processor time suffers less from it than wall-clock time, and
the bare interpreter in the first row tells how slow the machine is. Limits: ``enforce`` adds at most 150 ms,
``learn`` with eBPF reaches the program's first instruction within 300 ms. Byte code is kept, as it is where
the package was installed. Prints; never fails.

    python benchmarks/startup.py [PAIRS]
"""

from __future__ import annotations

import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from autoprofile.trace.ebpf.probes import lacks  # noqa: E402

ENFORCE_LIMIT_MS, LEARN_LIMIT_MS = 150, 300
PROGRAM = Path(sys.executable).with_name("autoprofile")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def milliseconds(argv: list[str]) -> tuple[float, float]:
    """Return how long a command takes, on the wall clock and of the processor."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
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


def until_it_runs(prefix: list[str]) -> float:
    """Return the milliseconds from the start of a command until the program behind it reads the clock."""
    start = time.time_ns()
    done = subprocess.run(
        [*prefix, "date", "+%s%N"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    return (int(done.stdout) - start) / 1e6


def first_instruction(prefix: list[str], pairs: int) -> list[float]:
    """Return how much later a program runs behind a command than by itself, sorted."""
    return sorted(-until_it_runs([]) + until_it_runs(prefix) for _ in range(pairs))


def main() -> None:
    """Measure and print."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    compileall.compile_dir(ROOT / "autoprofile", quiet=2)
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
        print(f"added to {true}, median of {pairs} pairs (limit for enforce: {ENFORCE_LIMIT_MS} ms)")
        for name, argv in rows:
            wall, processor = added([true], argv, pairs)
            print(f"  {name:42} +{wall:6.1f} ms wall clock   +{processor:6.1f} ms processor")
        print(f"to the program's first instruction, {pairs} pairs (limit for ebpf: {LEARN_LIMIT_MS} ms)")
        for backend in ("ebpf", "notify", "ptrace"):
            if backend == "ebpf" and (why := lacks()) is not None:
                print(f"  learn --backend ebpf: not measured: {why[0]}")
                continue
            command = [
                str(PROGRAM),
                "-q",
                "learn",
                "--force",
                "-o",
                f"{folder}/date.yaml",
                "--backend",
                backend,
            ]
            times = first_instruction([*command, "--"], pairs)
            print(
                f"  learn --backend {backend:26} +{statistics.median(times):6.1f} ms median   "
                f"+{times[0]:6.1f} ms least"
            )


if __name__ == "__main__":
    main()
