"""`watch` of a workload that fills the counters: what it is refused is reported nevertheless, and nothing looks clean."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from autoprofile.abi import display_name
from autoprofile.cli.watching import refusal_text
from autoprofile.trace.ebpf.watching import Watch
from autoprofile.trace.targets import pid_target
from tests.conftest import TESTS
from tests.ebpf.test_watch import AUTOPROFILE, Enforced, Watching, by_call

pytestmark = pytest.mark.ebpf

IOCTLS, REFUSED = 40_000, 50  # more than the 16384 argument tuples for which there is room


@pytest.fixture(scope="module")
def profile(tracee, tmp_path_factory):
    """Return the profile of `flood` doing nothing, which allows all ioctls."""
    file = tmp_path_factory.mktemp("flood") / "flood.yaml"
    done = subprocess.run(
        [*AUTOPROFILE, "learn", "--default", "EPERM", "--level", "strict", "-o", file, "--", tracee("flood")],
        input="\n\n",
        capture_output=True,
        text=True,
        timeout=60,
        cwd=TESTS.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = file.read_text()
    assert "\nsyscalls:\n" in text
    assert "ioctl" not in text
    file.write_text(text.replace("\nsyscalls:\n", "\nsyscalls:\n  ioctl: any\n"))
    return file


@pytest.fixture
def flood(profile, tracee):
    """Return a function that starts `flood` under its profile."""
    started: list[Enforced] = []

    def start(refused: int) -> Enforced:
        command = [*AUTOPROFILE, "-q", "enforce", profile, "--", tracee("flood"), str(IOCTLS), str(refused)]
        started.append(Enforced(command))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait(timeout=60)
        one.process.stdin.close()
        one.process.stdout.close()


def watched(profile: Path, running: Enforced) -> tuple[int, str, str]:
    watching = Watching(profile, running.pid, "--json")
    assert running.go() == "done"
    said = watching.process.stderr.readline()  # while it runs
    running.end()
    out, err = watching.process.communicate(timeout=120)
    return watching.process.returncode, out, said + err


def test_what_is_refused_is_reported_without_room_for_it(profile, flood):
    """Refused calls are counted when their arguments have no room, and the loss is said at once."""
    status, out, err = watched(profile, flood(REFUSED))
    report = json.loads(out)
    assert status == 3, err
    assert report["refused"] == 3 * REFUSED, report["records"]
    assert by_call(report, "refused") == {"socket": REFUSED, "mount": REFUSED, "openat": REFUSED}
    assert report["lost"]["entries"]["map_full"] > IOCTLS - 16384
    assert "lost so far" in err.splitlines()[0]
    assert "without their arguments" in err.splitlines()[0]


def test_a_watch_that_lost_calls_is_not_clean(profile, flood):
    """With losses and nothing found, the status is 1: something may have gone unseen."""
    status, out, err = watched(profile, flood(0))
    report = json.loads(out)
    assert status == 1, err
    assert report["records"] == []
    assert report["calls"] >= IOCTLS


def test_a_path_forges_no_record():
    """A line end in a program's path is shown: a line of the output is a record."""
    record = {
        "kind": "refused",
        "syscall": "mount",
        "decoded": {},
        "args_lost": False,
        "returned": "EPERM",
        "allowed_by_profile": False,
        "program": "/tmp/a\nunlisted fake()  /bin/b",
        "arch": "x86_64",
    }
    assert refusal_text(record) == "refused mount() = EPERM  /tmp/a\\nunlisted fake()  /bin/b\n"


def test_calls_without_room_are_counted_by_number(tracee, loader):
    """With room for eight tuples, the further calls are counted by number, and refused ones as such."""
    running = Enforced([tracee("flood"), "1000", "7"])
    try:
        with Watch(pid_target(running.pid), {"cells": 8}) as watch:
            assert running.go() == "done"
            running.end()
            watch.follow(timeout_s=60)
            watch.detach()
            spilled = {(c.arch, display_name(c.arch, c.nr)): c for c in watch.spilled()}
            whole = [c for c in watch.counts() if display_name(c.arch, c.nr) == "ioctl"]
            trace = watch.trace()
            program = watch.program_of(spilled["x86_64", "ioctl"])
    finally:
        running.process.kill()
        running.process.wait(timeout=60)
    found = spilled["x86_64", "ioctl"]
    assert not found.has_args
    assert found.count + sum(c.count for c in whole) == 1000
    assert program == tracee("flood")
    assert trace.ledger.entries["map_full"] >= found.count
