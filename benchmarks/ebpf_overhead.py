"""Measure what watching with eBPF costs the watched, as ratios within one run.

A loop of getppid calls, best of many short batches: untraced, under empty probes, counted at entry alone
(as `learn --pid` does) and with returns (as `learn -- CMD` does). Limits for counting at entry: 1.45 x one
empty probe, 2.0 x untraced. Then nginx under wrk and redis under redis-benchmark, watched and not in turn,
median of the paired ratios: at least 0.95 of the untraced throughput. strace and perf trace run once beside.
``--check`` fails beyond the limits. Needs root, gcc, clang; servers that are not installed are left out.

    python benchmarks/ebpf_overhead.py [--rounds N] [--seconds S] [--no-servers] [--check]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from autoprofile.trace.ebpf.libbpf import BpfObject  # noqa: E402
from autoprofile.trace.ebpf.probes import lacks  # noqa: E402
from autoprofile.trace.ebpf.watching import Watch  # noqa: E402
from autoprofile.trace.targets import descendants_of, pid_target  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EMPTY_LIMIT, UNTRACED_LIMIT, THROUGHPUT_LIMIT = 1.45, 2.0, 0.95

LOOP = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    double best = 1e9;
    if (getchar() == EOF) return 1;
    for (int batch = atoi(argv[1]); batch > 0; batch--) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int i = 0; i < 2000; i++) syscall(SYS_getppid);
        clock_gettime(CLOCK_MONOTONIC, &b);
        double ns = ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / 2000;
        if (ns < best) best = ns;
    }
    printf("%.2f\n", best);
    return 0;
}
"""

EMPTY = r"""
#define SEC(name) __attribute__((section(name), used))
char LICENSE[] SEC("license") = "GPL";
SEC("tp_btf/sys_enter") int sys_enter(unsigned long long *ctx) { return 0; }
#ifdef BOTH
SEC("tp_btf/sys_exit") int sys_exit(unsigned long long *ctx) { return 0; }
#endif
"""


class Loop:
    """The loop of calls, compiled, and the empty probes."""

    def __init__(self, folder: Path, batches: int) -> None:
        self.program = folder / "loop"
        self.batches = batches
        (folder / "loop.c").write_text(LOOP)
        (folder / "empty.c").write_text(EMPTY)
        subprocess.run(["gcc", "-O2", "-o", self.program, folder / "loop.c"], check=True, timeout=60)
        self.empty = {}
        for name, flags in (("enter", []), ("both", ["-DBOTH"])):
            made = folder / f"{name}.o"
            clang = ["clang", "-target", "bpf", "-O2", "-g", *flags, "-c", folder / "empty.c", "-o", made]
            subprocess.run(clang, check=True, timeout=60)
            self.empty[name] = made.read_bytes()

    def run(self, attach: Callable[[int], contextlib.AbstractContextManager[object]]) -> float:
        """Return nanoseconds per call while `attach(pid)` is entered."""
        loop = subprocess.Popen(
            [self.program, str(self.batches)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with attach(loop.pid):
            out, _ = loop.communicate("\n", timeout=120)
        return float(out)

    @contextlib.contextmanager
    def empty_probe(self, name: str) -> Iterator[None]:
        """Attach probes that do nothing."""
        probe = BpfObject(self.empty[name], {}, has_events=False)
        try:
            probe.attach()
            yield
        finally:
            probe.close()


def measure_loop(folder: Path, rounds: int) -> dict[str, float]:
    """Return the best nanoseconds per call by what was attached; rounds are interleaved."""
    loop = Loop(folder, 400)
    cases: dict[str, Callable[[int], contextlib.AbstractContextManager[object]]]
    cases = {
        "untraced": lambda _pid: contextlib.nullcontext(),
        "empty probe on sys_enter": lambda _pid: loop.empty_probe("enter"),
        "empty probes on both": lambda _pid: loop.empty_probe("both"),
        "counted at entry": lambda pid: Watch(pid_target(pid), returns=False),
        "counted with returns": lambda pid: Watch(pid_target(pid)),
    }
    results = [{name: loop.run(attach) for name, attach in cases.items()} for _ in range(rounds)]
    return {name: min(result[name] for result in results) for name in cases}


# -- servers ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[tuple[int, list[str], str]]:
    """Start nginx; yield its pid, the load, and what the load prints before its throughput."""
    (folder / "index.html").write_text("x" * 612)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process on; worker_processes 1; pid {folder}/pid; error_log {folder}/log;\n"
        "events { worker_connections 256; }\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:18471; root {folder}; }} }}\n"
    )
    folder.chmod(0o755)
    server = subprocess.Popen([_find("nginx"), "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.7)
        yield server.pid, ["wrk", "-t1", "-c8", "-d{s}s", "http://127.0.0.1:18471/"], r"Requests/sec:\s+"
    finally:
        server.terminate()
        server.wait(timeout=10)


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[tuple[int, list[str], str]]:
    """Start redis; see `nginx`."""
    command = ["redis-server", "--port", "18472", "--save", "", "--dir", folder, "--bind", "127.0.0.1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.7)
        load = ["redis-benchmark", "-p", "18472", "-t", "get", "-n", "{n}", "-c", "8", "-q"]
        yield server.pid, load, r"GET: (?:.*\r)?(?:GET: )?"
    finally:
        server.terminate()
        server.wait(timeout=10)


def _find(program: str) -> str:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin") or program


def throughput(pid: int, load: list[str], before: str, seconds: float) -> tuple[float, float]:
    """Run the load once; return requests per second, and per tick of the server's processor."""
    ticks = _ticks(pid)
    words = [word.format(s=max(1, round(seconds)), n=int(30_000 * seconds)) for word in load]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    rate = float(re.findall(before + r"([0-9.]+)(?: requests per second)?", done.stdout)[-1])
    requests = 30_000 * seconds if "{n}" in load else rate * max(1, round(seconds))
    return rate, requests / max(1, _ticks(pid) - ticks)


def _ticks(pid: int) -> int:
    # utime and stime of the server's processes, proc(5).
    total = 0
    for process in {pid} | descendants_of(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total


@contextlib.contextmanager
def tracer(command: list[str]) -> Iterator[None]:
    """Run another tracer meanwhile."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.7)
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()


def measure_server(
    start: Callable[[Path], contextlib.AbstractContextManager[tuple[int, list[str], str]]],
    folder: Path,
    rounds: int,
    seconds: float,
) -> dict[str, tuple[float, float]]:
    """Return throughput under each tracer as a share of the untraced: by the wall clock, by processor time.

    Medians of paired runs. The former is what users see, the latter does not depend on who else is busy.
    """
    shares: dict[str, list[tuple[float, float]]] = {}
    with start(folder) as (pid, load, before):
        throughput(pid, load, before, seconds)  # warm
        everybody = [str(process) for process in {pid} | descendants_of(pid)]
        strace = ["strace", "-f", "-o", "/dev/null", *(word for one in everybody for word in ("-p", one))]
        perf = ["perf", "trace", "-s", "-o", "/dev/null", "-p", ",".join(everybody)]
        cases: list[tuple[str, int, Callable[[], contextlib.AbstractContextManager[object]]]] = [
            ("counted at entry", rounds, lambda: Watch(pid_target(pid), returns=False)),
            ("counted with returns", rounds, lambda: Watch(pid_target(pid))),
            ("strace -f", 1, lambda: tracer(strace)),
            ("perf trace -s", 1, lambda: tracer(perf)),
        ]
        for turn in range(rounds):
            for name, times, attach in cases:
                if turn >= times or (name.split()[0] != "counted" and shutil.which(name.split()[0]) is None):
                    continue
                untraced = throughput(pid, load, before, seconds)
                with attach():
                    traced = throughput(pid, load, before, seconds)
                share = (traced[0] / untraced[0], traced[1] / untraced[1])
                shares.setdefault(name, []).append(share)
    return {
        name: (statistics.median(wall for wall, _ in pairs), statistics.median(cpu for _, cpu in pairs))
        for name, pairs in shares.items()
    }


def main() -> int:
    """Measure, print, and say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--no-servers", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    missing = [tool for tool in ("gcc", "clang") if shutil.which(tool) is None]
    if (why := lacks()) is not None or missing:
        print(f"not measured: {why[0] if why else ' and '.join(missing) + ' not installed'}")
        return 0
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        best = measure_loop(folder, max(3, options.rounds))
        untraced, empty = best["untraced"], best["empty probe on sys_enter"]
        print(f"{'getppid':26} {'ns/call':>8} {'x untraced':>11} {'x empty':>8}")
        for case, ns in best.items():
            print(f"{case:26} {ns:8.1f} {ns / untraced:11.2f} {ns / empty:8.2f}")
        ours = best["counted at entry"]
        failed |= ours > EMPTY_LIMIT * empty or ours > UNTRACED_LIMIT * untraced
        print(f"{'limits, counted at entry':26} {'':8} {UNTRACED_LIMIT:11.2f} {EMPTY_LIMIT:8.2f}")
        for title, start, needed in (
            ("nginx, wrk", nginx, ("nginx", "wrk")),
            ("redis, redis-benchmark", redis, ("redis-server", "redis-benchmark")),
        ):
            if options.no_servers or any(shutil.which(_find(program)) is None for program in needed):
                continue
            shares = measure_server(start, folder, options.rounds, options.seconds)
            print(f"\n{title}: share of the untraced throughput (limit {THROUGHPUT_LIMIT})")
            print(f"  {'':24} {'by wall clock':>14} {'by processor':>13}")
            for case, (wall, cpu) in shares.items():
                print(f"  {case:24} {wall:14.3f} {cpu:13.3f}")
            failed |= shares["counted at entry"][0] < THROUGHPUT_LIMIT
    if failed:
        print("beyond a limit", file=sys.stderr)
    return int(failed and options.check)


if __name__ == "__main__":
    sys.exit(main())
