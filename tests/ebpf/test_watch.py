"""`watch`: what an enforced workload is refused, seen from outside, whatever its filter answers with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from autoprofile.auditlog import read_audit
from autoprofile.drift import compare
from autoprofile.profile import Profile
from tests.conftest import TESTS

pytestmark = pytest.mark.ebpf

AUTOPROFILE = (sys.executable, "-m", "autoprofile")
CALLS = 23
THREADS = 4
# What first_refused asks for, by call.
ASKED = {"socket": 8, "unshare": 5, "personality": 4, "memfd_create": 6}


@pytest.fixture(scope="module")
def profile(tracee, tmp_path_factory):
    """Return the profile of `first_refused` making none of its calls."""
    file = tmp_path_factory.mktemp("watch") / "first_refused.yaml"
    words = ("learn", "--default", "EPERM", "-o", file, "--", tracee("first_refused"), "none", "handle")
    done = subprocess.run(
        [*AUTOPROFILE, *words],
        input="\n\n",
        capture_output=True,
        text=True,
        timeout=60,
        cwd=TESTS.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return file


class Enforced:
    """`first_refused` under its profile, or under none, waiting to make its calls."""

    def __init__(self, command: list[str | Path]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=TESTS.parent,
        )
        assert self.process.stdout is not None
        self.pid = int(self.process.stdout.readline())

    def go(self) -> str:
        """Let it make its calls; return what it says of them, nothing when they ended it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """Let it end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


class Watching:
    """`autoprofile watch`, attached."""

    def __init__(self, profile: Path, pid: int, *options: str) -> None:
        self.process = subprocess.Popen(
            [*AUTOPROFILE, "watch", profile, "--pid", str(pid), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=TESTS.parent,
        )
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        assert "watching process" in said, said + self.process.stderr.read()

    def report(self, status: int = 3) -> dict[str, object]:
        """Return what it reports once the process has ended."""
        out, err = self.process.communicate(timeout=120)
        assert self.process.returncode == status, err
        return json.loads(out)


@pytest.fixture
def enforce(profile, tracee):
    """Return a function that starts `first_refused` under a profile."""
    started: list[Enforced] = []

    def start(*words: str, options: tuple[str, ...] = (), file: Path = profile) -> Enforced:
        prefix = [*AUTOPROFILE, "-q", "enforce", file, *options, "--"]
        started.append(Enforced([*prefix, tracee("first_refused"), *words]))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait(timeout=60)
        one.process.stdin.close()
        one.process.stdout.close()


def by_call(report: dict[str, object], kind: str) -> Counter[str]:
    """Return how many calls of one kind were reported, by syscall."""
    found: Counter[str] = Counter()
    for record in report["records"]:
        if record["kind"] == kind:
            found[record["syscall"]] += record["count"]
    return found


def causes(profile: Path, report: dict[str, object]) -> set[str]:
    """Return what drift gives as the causes of the differences that a watch found."""
    file = profile.with_name("watch.json")
    file.write_text(json.dumps(report))
    return {r.attribution for r in compare(Profile.load(profile), audits=[read_audit(file)])}


@pytest.mark.parametrize(
    ("violation", "returned"), [("errno", {"EPERM", "ENOSYS"}), ("trap", {"SIGSYS"})], ids=["errno", "trap"]
)
def test_all_of_23_refused_calls_are_reported(profile, enforce, violation, returned):
    """23 different calls are 23 records with their arguments, a thread's first one since the attachment, too."""
    running = enforce("calls", "handle", options=("--on-violation", violation))
    watching = Watching(profile, running.pid, "--json")
    assert running.go() == str(CALLS)
    running.end()
    report = watching.report()
    assert (report["refused"], report["unlisted"]) == (CALLS, 0)
    assert by_call(report, "refused") == ASKED
    assert len(report["records"]) == CALLS
    assert causes(profile, report) == {"same"}
    assert all(record["count"] == 1 for record in report["records"])
    assert {record["returned"] for record in report["records"]} == returned
    assert not any(record["allowed_by_profile"] for record in report["records"])
    asked = {
        tuple(record["decoded"][name] for name in ("family", "type", "protocol"))
        for record in report["records"]
        if record["syscall"] == "socket"
    }
    assert {("AF_NETLINK", "SOCK_RAW", "NETLINK_NETFILTER"), ("AF_VSOCK", "SOCK_STREAM", "0")} <= asked


def test_the_call_that_kills_a_process_is_reported(profile, enforce):
    """A process that its filter kills has one last record: which call, with which arguments, and SIGSYS."""
    running = enforce("die", options=("--on-violation", "kill"))
    watching = Watching(profile, running.pid, "--json")
    running.go()
    report = watching.report()
    # The other threads may come to their first call before the signal ends them all.
    assert 1 <= report["refused"] <= THREADS
    assert report["unlisted"] == 0
    for record in report["records"]:
        assert (record["kind"], record["syscall"], record["returned"]) == ("refused", "socket", "SIGSYS")
        assert record["decoded"]["family"] == "AF_NETLINK"


def test_calls_that_kill_their_thread_are_reported(profile, enforce, tmp_path):
    """kill_thread ends each of four threads at its first call: four records, the process goes on."""
    file = tmp_path / "kill_thread.yaml"
    text = profile.read_text()
    assert "\ndefault: EPERM\n" in text
    file.write_text(text.replace("\ndefault: EPERM\n", "\ndefault: kill_thread\n"))
    running = enforce("die", file=file)
    watching = Watching(file, running.pid, "--json")
    running.go()
    deadline = time.monotonic() + 60
    while len(os.listdir(f"/proc/{running.pid}/task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.end()
    report = watching.report()
    assert (report["refused"], report["unlisted"]) == (THREADS, 0)
    assert by_call(report, "refused") == {"socket": THREADS}
    assert {record["returned"] for record in report["records"]} == {"SIGSYS"}
    assert len({json.dumps(record["decoded"]) for record in report["records"]}) == THREADS


def test_what_is_only_logged_is_drift_nevertheless(profile, enforce, tmp_path):
    """Where violations are logged, calls go through; those the profile does not allow are reported."""
    file = tmp_path / "log.yaml"
    file.write_text(profile.read_text().replace("\ndefault: EPERM\n", "\ndefault: log\n"))
    running = enforce("calls", file=file)
    watching = Watching(file, running.pid, "--json")
    running.go()
    running.end()
    report = watching.report()
    logged = by_call(report, "unlisted")
    assert {name: logged[name] for name in ("socket", "unshare", "personality")} == {
        name: ASKED[name] for name in ("socket", "unshare", "personality")
    }


def test_a_workload_within_its_profile_is_no_drift(profile, enforce):
    """A watch that sees nothing but allowed calls reports nothing and ends with status 0."""
    running = enforce("none")
    watching = Watching(profile, running.pid)
    running.go()
    running.end()
    out, err = watching.process.communicate(timeout=120)
    assert (watching.process.returncode, out) == (0, ""), err


def test_what_cannot_be_judged_is_said(profile, enforce, tmp_path):
    """A rule over an argument that is not counted decides nothing: no drift is made up, the number is given."""
    file = tmp_path / "fd.yaml"
    text = re.sub(r"\n  read: any\b.*", "\n  read: [{fd: {ge: 0}}]", profile.read_text())
    assert "read: [{fd" in text
    file.write_text(text)
    running = enforce("none", file=file)
    watching = Watching(file, running.pid, "--json")
    running.go()
    running.end()
    report = watching.report(status=0)
    assert report["records"] == []
    assert report["undecided"] >= 1


def test_an_unenforced_workload_outside_its_profile_is_drift(profile, tracee):
    """Calls that went through although the profile does not allow them are reported as such, as they happen."""
    running = Enforced([tracee("first_refused"), "calls"])
    try:
        watching = Watching(profile, running.pid)
        running.go()
        assert watching.process.stdout is not None
        first = watching.process.stdout.readline()
        assert first.startswith("unlisted "), first
        running.end()
        said = first + watching.process.stdout.read()
        assert watching.process.wait(timeout=120) == 3
    finally:
        running.process.kill()
        running.process.wait(timeout=60)
    assert "unlisted socket(family=AF_NETLINK" in said
    assert not any(line.startswith("refused") for line in said.splitlines())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_watch_alone(profile, enforce, signum):
    """Ctrl-C and SIGTERM end the watch, which reports all it has seen; the workload goes on."""
    running = enforce("calls", "handle")
    watching = Watching(profile, running.pid, "--json")
    assert running.go() == str(CALLS)
    watching.process.send_signal(signum)
    assert watching.report()["refused"] == CALLS
    assert running.process.poll() is None


def test_a_watch_ends_with_its_time(profile, enforce):
    """After --timeout a watch of a quiet workload reports nothing, and the workload goes on."""
    running = enforce("none")
    watching = Watching(profile, running.pid, "--json", "--timeout", "0.5")
    assert watching.report(status=0)["records"] == []
    assert running.process.poll() is None
