"""Real programs, learned with both unprivileged backends and run under what was learned."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile import Profile
from tests.conftest import need_program
from tests.programs.workloads import (
    COMMANDS,
    SERVICES,
    TIMEOUT_S,
    CommandWorkload,
    ServiceWorkload,
    wait_for_port,
)

pytestmark = pytest.mark.kernel

BACKENDS = ("notify", "ptrace")


def autoprofile(*args: object) -> list[str]:
    return [sys.executable, "-m", "autoprofile", *map(str, args)]


def run(argv: list[str], *, cpus: str = "", **options: object) -> subprocess.CompletedProcess[str]:
    if cpus:
        argv = [need_program("taskset", "util-linux"), "-c", cpus, *argv]
    env = os.environ | {"LC_ALL": "C", "GIT_CONFIG_GLOBAL": "/dev/null"}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        argv,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=env,
        stdin=subprocess.DEVNULL,
        check=False,
        **options,
    )


def rules_of(profile: Path) -> set[object]:
    return set(Profile.load(profile).rules)


def learn_until_settled(workload: CommandWorkload, scratch: Path, first: list[Path]) -> Path:
    """Learn on until five runs in a row showed nothing new; a scheduler decides which futex calls a run needs."""
    merged, settled = scratch / "merged.yaml", 0
    assert run(autoprofile("merge", *first, "-o", merged)).returncode == 0
    for _ in range(40):
        before = rules_of(merged)
        command = workload.prepare(scratch)
        learned = run(
            autoprofile("learn", "--merge", "--backend", "notify", "-o", merged, "--", *command),
            cpus=workload.cpus,
        )
        assert learned.returncode == 0, learned.stderr
        settled = settled + 1 if rules_of(merged) == before else 0
        if settled == 5:
            return merged
    raise AssertionError("still learning after 40 runs")


@pytest.mark.parametrize("workload", COMMANDS, ids=lambda w: w.name)
def test_command_is_learned_alike_and_runs_unchanged_under_enforcement(
    workload: CommandWorkload, tmp_path: Path
) -> None:
    """Both backends learn the same strict rules of a deterministic program, which then runs to the same output."""
    plain = run(workload.prepare(tmp_path), cpus=workload.cpus)
    assert plain.returncode == 0, plain.stderr
    profiles = {}
    for backend in BACKENDS:
        profiles[backend] = tmp_path / f"{backend}.yaml"
        command = workload.prepare(tmp_path)
        learned = run(
            autoprofile(
                "learn", "--backend", backend, "-o", profiles[backend], "--level", "strict", "--", *command
            ),
            cpus=workload.cpus,
        )
        assert (learned.returncode, learned.stdout) == (0, plain.stdout), learned.stderr
    if workload.is_deterministic:
        by_notify, by_ptrace = (rules_of(profiles[b]) for b in BACKENDS)
        assert by_notify == by_ptrace, (
            f"only notify: {by_notify - by_ptrace}\nonly ptrace: {by_ptrace - by_notify}"
        )
        enforced_by = BACKENDS
    else:
        profiles["merged"] = learn_until_settled(workload, tmp_path, list(profiles.values()))
        enforced_by = ("merged",)
    for name in enforced_by:
        command = workload.prepare(tmp_path)
        audit = tmp_path / "audit.jsonl"
        enforced = run(
            autoprofile("enforce", profiles[name], *workload.enforce_options, "--", *command),
            cpus=workload.cpus,
        )
        if enforced.returncode != 0:
            run(
                autoprofile(
                    "enforce",
                    profiles[name],
                    "--complain",
                    "--audit",
                    audit,
                    "--",
                    *workload.prepare(tmp_path),
                )
            )
            pytest.fail(f"{enforced}\n{audit.read_text() if audit.exists() else 'no audit log'}")
        assert enforced.stdout == plain.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(workload: ServiceWorkload, scratch: Path, prefix: list[str], *, port: int) -> tuple[int, str, str]:
    """Run the service behind `prefix`, drive it, stop it; return (status, what it answered, stderr)."""
    command = workload.prepare(scratch, port)
    errors = scratch / "stderr.txt"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [*prefix, *command], stdout=subprocess.DEVNULL, stderr=stderr, stdin=subprocess.DEVNULL
        )
        try:
            wait_for_port(port)
            answered = workload.drive(scratch, port)
            workload.stop(scratch, port)
            status = process.wait(timeout=TIMEOUT_S)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            raise AssertionError(f"{error}; the service said: {errors.read_text()[-3000:]}") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(timeout=TIMEOUT_S)
    return status, answered, errors.read_text()


@pytest.mark.parametrize("workload", SERVICES, ids=lambda w: w.name)
def test_service_is_learned_and_serves_the_same_under_enforcement(
    workload: ServiceWorkload, tmp_path: Path
) -> None:
    """A real server, learned under a real client by both backends, answers the same behind its filter."""
    port = free_port()
    status, plain, _ = serve(workload, tmp_path, [], port=port)
    assert status == 0
    profiles = []
    for backend in BACKENDS:
        for attempt in range(2):
            profiles.append(tmp_path / f"{backend}{attempt}.yaml")
            prefix = autoprofile("learn", "--backend", backend, "-o", profiles[-1], "--")
            status, answered, errors = serve(workload, tmp_path, prefix, port=port)
            assert (status, answered) == (0, plain), errors
    merged = tmp_path / "merged.yaml"
    assert run(autoprofile("merge", *profiles, "-o", merged)).returncode == 0
    status, answered, errors = serve(workload, tmp_path, autoprofile("enforce", merged, "--"), port=port)
    assert (status, answered) == (0, plain), errors
