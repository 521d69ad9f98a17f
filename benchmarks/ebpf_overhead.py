"""Measure what watching with eBPF costs the watched, as ratios within one run; three minutes.

A loop of getppid calls, best of many short batches: untraced, under an empty probe, counted at entry alone
(as `learn --pid` does) and with returns (as `learn -- CMD` and `watch` do). Limits for counting at entry:
1.45 x one empty probe, 2.0 x untraced. Then nginx under wrk and redis under redis-benchmark: rounds of
untraced, an empty probe, entry, returns, untraced, every other one backwards, and the median of each round's
share of its own untraced throughput; at least 0.95 counted at entry. strace and perf trace run beside. Server
and load have a processor each, and the share is given twice: by the wall clock, which users see, and by the
server's processor time, which does not depend on who else is busy.
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
from dataclasses import dataclass
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

    Attach = Callable[[int], contextlib.AbstractContextManager[object]]

EMPTY_LIMIT, UNTRACED_LIMIT, THROUGHPUT_LIMIT = 1.45, 2.0, 0.95
ENTRY, RETURNS = "counted at entry", "counted with returns"
EMPTY_ENTRY = "empty probe on sys_enter"  # what any tracer with eBPF costs at least
# The processor of whoever is watched, and that of the load; one for both where there is but one.
WATCHED_CPU, *_, LOAD_CPU = sorted(os.sched_getaffinity(0)) * 2

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


def on_cpu(cpu: int, command: list[str]) -> list[str]:
    """Return a command that runs another on one processor."""
    return ["taskset", "-c", str(cpu), *command]


def strace(pid: int) -> contextlib.AbstractContextManager[object]:
    """Trace a process and its descendants with strace, written away."""
    everybody = [str(process) for process in {pid} | descendants_of(pid)]
    return tracer(["strace", "-f", "-o", "/dev/null", *(word for one in everybody for word in ("-p", one))])


def perf_trace(pid: int) -> contextlib.AbstractContextManager[object]:
    """Trace a process and its descendants with perf, counted."""
    everybody = ",".join(str(process) for process in {pid} | descendants_of(pid))
    return tracer(["perf", "trace", "-s", "-o", "/dev/null", "-p", everybody])


OTHERS: dict[str, Attach] = {"strace -f": strace, "perf trace -s": perf_trace}


@contextlib.contextmanager
def tracer(command: list[str]) -> Iterator[None]:
    """Run another tracer meanwhile."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)  # neither says when it has attached
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()


def others() -> dict[str, Attach]:
    """Return the other tracers that are installed."""
    return {name: attach for name, attach in OTHERS.items() if shutil.which(name.split()[0]) is not None}


# -- a loop of calls -------------------------------------------------------------------------------------


class Loop:
    """The loop of calls, compiled, and the empty probes."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "loop"
        (folder / "loop.c").write_text(LOOP)
        (folder / "empty.c").write_text(EMPTY)
        subprocess.run(["gcc", "-O2", "-o", self.program, folder / "loop.c"], check=True, timeout=60)
        self.empty = {}
        for name, flags in (("enter", []), ("both", ["-DBOTH"])):
            made = folder / f"{name}.o"
            clang = ["clang", "-target", "bpf", "-O2", "-g", *flags, "-c", folder / "empty.c", "-o", made]
            subprocess.run(clang, check=True, timeout=60)
            self.empty[name] = made.read_bytes()

    def run(self, attach: Attach, batches: int) -> float:
        """Return nanoseconds per call while `attach(pid)` is entered."""
        command = on_cpu(WATCHED_CPU, [str(self.program), str(batches)])
        loop = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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


def measure_loop(loop: Loop, rounds: int) -> dict[str, float]:
    """Return the best nanoseconds per call by what was attached; rounds take turns."""
    cases: dict[str, Attach] = {
        "untraced": lambda _pid: contextlib.nullcontext(),
        EMPTY_ENTRY: lambda _pid: loop.empty_probe("enter"),
        "empty probes on both": lambda _pid: loop.empty_probe("both"),
        ENTRY: lambda pid: Watch(pid_target(pid), returns=False),
        RETURNS: lambda pid: Watch(pid_target(pid)),
    }
    best = dict.fromkeys(cases, float("inf"))
    for turn in range(rounds):
        for name in list(cases) if turn % 2 == 0 else reversed(cases):
            best[name] = min(best[name], loop.run(cases[name], 300))
    for name, attach in others().items():
        best[name] = loop.run(attach, 10)
    return best


# -- servers ---------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server that runs, and its load.

    Args:
        pid: the server's first process.
        load: the command, with ``{s}`` for whole seconds or ``{n}`` for requests.
        before: what stands before its throughput, as a regular expression.
    """

    pid: int
    load: list[str]
    before: str

    def throughput(self, seconds: float, rate: float = 20_000) -> tuple[float, float]:
        """Run the load once; return requests per second, and per second of the server's processor."""
        ran_ns = self._ran_ns()
        asked, whole = int(rate * seconds), max(1, round(seconds))
        words = on_cpu(LOAD_CPU, [word.format(s=whole, n=asked) for word in self.load])
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
        found = float(re.findall(self.before + r"([0-9.]+)(?: requests per second)?", done.stdout)[-1])
        requests = asked if "{n}" in self.load else found * whole
        return found, requests * 1e9 / max(1, self._ran_ns() - ran_ns)

    def _ran_ns(self) -> int:
        # The time on the processor of the server's threads, Documentation/scheduler/sched-stats.rst.
        everybody = {self.pid} | descendants_of(self.pid)
        files = (file for process in everybody for file in Path(f"/proc/{process}/task").glob("*/schedstat"))
        return sum(int(file.read_text().split()[0]) for file in files)


@contextlib.contextmanager
def serving(command: list[str], load: list[str], before: str, port: int) -> Iterator[Server]:
    """Run a server until the context ends."""
    process = subprocess.Popen(
        on_cpu(WATCHED_CPU, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        needle = f":{port:04X} "
        for _ in range(200):
            if any(needle in line for line in Path("/proc/net/tcp").read_text().splitlines()):
                break
            time.sleep(0.05)
        time.sleep(0.3)  # workers are started after the port is opened
        yield Server(process.pid, load, before)
    finally:
        process.terminate()
        process.wait(timeout=10)


def nginx(folder: Path) -> contextlib.AbstractContextManager[Server]:
    """Start nginx with a page of the size of its own first page."""
    (folder / "index.html").write_text("x" * 612)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process on; worker_processes 1; pid {folder}/pid; error_log {folder}/log;\n"
        "events { worker_connections 256; }\n"
        "http { access_log off; keepalive_requests 100000000;"
        f" server {{ listen 127.0.0.1:18471; root {folder}; }} }}\n"
    )
    folder.chmod(0o755)
    load = ["wrk", "-t1", "-c8", "-d{s}s", "http://127.0.0.1:18471/"]
    return serving([_find("nginx"), "-c", f"{folder}/nginx.conf"], load, r"Requests/sec:\s+", 18471)


def redis(folder: Path) -> contextlib.AbstractContextManager[Server]:
    """Start redis."""
    command = ["redis-server", "--port", "18472", "--save", "", "--dir", str(folder), "--bind", "127.0.0.1"]
    load = ["redis-benchmark", "-p", "18472", "-t", "get", "-n", "{n}", "-c", "8", "-q"]
    return serving(command, load, r"GET: (?:.*\r)?(?:GET: )?", 18472)


def _find(program: str) -> str:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin") or program


Shares = dict[str, list[tuple[float, float]]]


def measure_server(server: Server, loop: Loop, rounds: int, seconds: float) -> Shares:
    """Return, by tracer, each round's share of its untraced throughput: by wall clock, by processor time."""
    shares: Shares = {}
    rate, _ = server.throughput(seconds)  # warm
    rate, _ = server.throughput(seconds, rate)

    def measured(attach: Attach | None) -> tuple[float, float]:
        with attach(server.pid) if attach is not None else contextlib.nullcontext():
            return server.throughput(seconds, rate)

    ours: dict[str, Attach] = {
        EMPTY_ENTRY: lambda _pid: loop.empty_probe("enter"),
        ENTRY: lambda pid: Watch(pid_target(pid), returns=False),
        RETURNS: lambda pid: Watch(pid_target(pid)),
    }
    for turn in range(rounds):
        before = measured(None)
        traced = {name: measured(ours[name]) for name in (list(ours) if turn % 2 == 0 else reversed(ours))}
        after = measured(None)
        untraced = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
        for name, (wall, processor) in traced.items():
            shares.setdefault(name, []).append((wall / untraced[0], processor / untraced[1]))
    for name, attach in others().items():
        wall, processor = measured(None)
        with attach(server.pid):
            # Fewer requests: they take up to a hundred times as long.
            slow = server.throughput(seconds, rate / 20)
        shares[name] = [(slow[0] / wall, slow[1] / processor)]
    return shares


def print_shares(title: str, shares: Shares) -> None:
    """Print the medians and the spread."""
    print(f"\n{title}: share of the untraced throughput (limit {THROUGHPUT_LIMIT}, {ENTRY})")
    print(f"  {'':24} {'by wall clock':>14} {'by processor':>13} {'rounds':>7} {'least .. most by wall':>22}")
    for case, pairs in shares.items():
        wall, processor = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        walls = sorted(pair[0] for pair in pairs)
        spread = f"{walls[0]:.3f} .. {walls[-1]:.3f}"
        print(f"  {case:24} {wall:14.3f} {processor:13.3f} {len(pairs):7} {spread:>22}")


def main() -> int:
    """Measure, print, and say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--no-servers", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    missing = [tool for tool in ("gcc", "clang", "taskset") if shutil.which(tool) is None]
    if (why := lacks()) is not None or missing:
        print(f"not measured: {why[0] if why else ' and '.join(missing) + ' not installed'}")
        return 0
    failed = False
    began_s = time.monotonic()
    print(f"load average {os.getloadavg()[0]:.1f} of {os.cpu_count()} processors before the start")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loop = Loop(folder)
        best = measure_loop(loop, max(3, options.rounds))
        untraced, empty = best["untraced"], best[EMPTY_ENTRY]
        print(f"{'getppid':26} {'ns/call':>8} {'x untraced':>11} {'x empty':>8}")
        for case, ns in best.items():
            print(f"{case:26} {ns:8.1f} {ns / untraced:11.2f} {ns / empty:8.2f}")
        ours = best[ENTRY]
        failed |= ours > EMPTY_LIMIT * empty or ours > UNTRACED_LIMIT * untraced
        print(f"{f'limits, {ENTRY}':26} {'':8} {UNTRACED_LIMIT:11.2f} {EMPTY_LIMIT:8.2f}")
        for title, start, needed in (
            ("nginx, wrk", nginx, ("nginx", "wrk")),
            ("redis, redis-benchmark", redis, ("redis-server", "redis-benchmark")),
        ):
            if options.no_servers or any(shutil.which(_find(program)) is None for program in needed):
                continue
            with start(folder) as server:
                shares = measure_server(server, loop, options.rounds, options.seconds)
            print_shares(title, shares)
            failed |= statistics.median(wall for wall, _ in shares[ENTRY]) < THROUGHPUT_LIMIT
    print(f"\n{time.monotonic() - began_s:.0f} s")
    if failed:
        print("beyond a limit", file=sys.stderr)
    return int(failed and options.check)


if __name__ == "__main__":
    sys.exit(main())
