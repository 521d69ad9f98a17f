"""Real servers are brought under a profile while real clients use them, and no client notices."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.programs.workloads import SERVICES, TIMEOUT_S, ServiceWorkload, wait_for_port

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(900 if os.environ.get("AUTOPROFILE_LONG") == "1" else 180),
]

LONG = os.environ.get("AUTOPROFILE_LONG") == "1"
NGINX, REDIS = (next(s for s in SERVICES if s.name == name) for name in ("nginx", "redis"))

# Calls that no server makes; each is answered, so that a filter is there and does its work.
PROFILE = """\
autoprofile: 1
arch: [x86_64]
level: strict
mode: denylist
default: allow
deny:
  ptrace: EPERM
  mount: EPERM
  kexec_load: EPERM
  personality: EPERM
"""


def autoprofile(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autoprofile", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(workload: ServiceWorkload, scratch: Path, port: int, prefix: tuple[str, ...] = ()):
    """Run a service, without a tool around it unless asked, and stop it afterwards."""
    errors = scratch / "stderr.txt"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [*prefix, *workload.prepare(scratch, port)],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
        )
    try:
        wait_for_port(port)
        yield process
        workload.stop(scratch, port)
        assert process.wait(TIMEOUT_S) == 0, errors.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(TIMEOUT_S)


def filters_of(pid: int) -> list[str]:
    """Return the filter counts of all threads of a process and of its children."""
    counts = []
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for process in (str(pid), *children):
        for status in Path(f"/proc/{process}/task").glob("*/status"):
            counts += re.findall(r"^Seccomp_filters:\s+(\d+)$", status.read_text(), re.MULTILINE)
    return counts


def wrk(port: int, seconds: int) -> subprocess.Popen[str]:
    command = [need_program("wrk"), "-t2", "-c20", f"-d{seconds}s", "--timeout", "60s"]
    return subprocess.Popen([*command, f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE, text=True)


def requests_of(report: str) -> int:
    """Return how many requests wrk made, after checking that none of them failed."""
    assert "Socket errors" not in report, report
    assert "Non-2xx" not in report, report
    return int(re.search(r"(\d+) requests in", report)[1])


def test_nginx_under_load_is_brought_under_a_profile_whole(tmp_path: Path) -> None:
    """Master and workers are filtered again and again while wrk keeps asking: not one request fails."""
    rounds, seconds = (60, 60) if LONG else (3, 4)
    profile = tmp_path / "p.yaml"
    profile.write_text(PROFILE)
    port = free_port()
    need_program("wrk")
    with serving(NGINX, tmp_path, port) as nginx:
        client = wrk(port, seconds)
        for n in range(rounds):
            done = autoprofile("enforce", profile, "--pid", nginx.pid)
            assert done.returncode == 0, done.stderr
            assert done.stderr.count("filtered") == 3, done.stderr
            assert set(filters_of(nginx.pid)) == {str(n + 1)}
        report, _ = client.communicate(timeout=TIMEOUT_S + seconds)
        assert requests_of(report) > 0
        print(f"{rounds} attaches to 3 processes each, {requests_of(report)} requests, 0 failed")


def test_redis_under_load_is_brought_under_a_profile(tmp_path: Path) -> None:
    """All threads of redis are filtered again and again while clients use it: every answer is right."""
    rounds, requests = (60, 300_000) if LONG else (3, 30_000)
    profile = tmp_path / "p.yaml"
    profile.write_text(PROFILE)
    port = free_port()
    benchmark = need_program("redis-benchmark", "redis-tools")
    with serving(REDIS, tmp_path, port) as redis:
        command = [
            benchmark,
            "-p",
            str(port),
            "-n",
            str(requests),
            "-c",
            "20",
            "-q",
            "-t",
            "set,get,incr",
        ]
        client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for n in range(rounds):
            done = autoprofile("enforce", profile, "--pid", redis.pid)
            assert done.returncode == 0, done.stderr
            assert set(filters_of(redis.pid)) == {str(n + 1)}
        report, _ = client.communicate(timeout=TIMEOUT_S * 5)
        assert client.returncode == 0, report
        assert "rror" not in report, report
        assert report.count("requests per second") == 3, report
        said = subprocess.run(
            [need_program("redis-cli", "redis-tools"), "-p", str(port), "get", "counter:__rand_int__"],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
        )  # fmt: skip
        assert said.stdout == f"{requests}\n"
        print(f"{rounds} attaches, {3 * requests} commands, 0 errors")


if LONG:  # they learn under load first

    def test_nginx_is_brought_under_what_was_learned_of_it(tmp_path: Path) -> None:
        """A profile that kills, learned of nginx under wrk, is put on another nginx under wrk: 0 failed requests."""
        port, profile = free_port(), tmp_path / "learned.yaml"
        learn = (sys.executable, "-m", "autoprofile", "learn", "--backend", "notify", "--level", "standard")
        for _ in range(2):
            with serving(NGINX, tmp_path, port, prefix=(*learn, "--merge", "-o", str(profile), "--")):
                NGINX.drive(tmp_path, port)
                requests_of(wrk(port, 5).communicate(timeout=TIMEOUT_S)[0])
        with serving(NGINX, tmp_path, port) as nginx:
            client = wrk(port, 15)
            time.sleep(3)
            done = autoprofile("enforce", profile, "--pid", nginx.pid)
            assert done.returncode == 0, done.stderr
            report, _ = client.communicate(timeout=TIMEOUT_S)
            assert requests_of(report) > 0
            print(f"learned, attached, {requests_of(report)} requests, 0 failed")

    def test_redis_is_brought_under_what_was_learned_of_it(tmp_path: Path) -> None:
        """A profile that kills, learned of redis, is put on another redis while clients use it: no error."""
        port, profile = free_port(), tmp_path / "learned.yaml"
        learn = (sys.executable, "-m", "autoprofile", "learn", "--backend", "notify", "--level", "standard")
        benchmark = [need_program("redis-benchmark", "redis-tools"), "-p", str(port), "-c", "20", "-q"]
        for _ in range(2):
            with serving(REDIS, tmp_path, port, prefix=(*learn, "--merge", "-o", str(profile), "--")):
                subprocess.run(
                    [*benchmark, "-n", "3000", "-t", "set,get,incr,lpush,lrange_100"],
                    check=True, timeout=TIMEOUT_S, capture_output=True,
                )  # fmt: skip
        with serving(REDIS, tmp_path, port) as redis:
            client = subprocess.Popen(
                [*benchmark, "-n", "500000", "-t", "set,get,incr"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            time.sleep(2)
            done = autoprofile("enforce", profile, "--pid", redis.pid)
            assert done.returncode == 0, done.stderr
            report, _ = client.communicate(timeout=TIMEOUT_S * 3)
            assert client.returncode == 0, report
            assert "rror" not in report, report
