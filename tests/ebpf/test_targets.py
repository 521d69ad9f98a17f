"""Watching what runs already: processes, cgroups, containers, units, and what a filter refuses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autoprofile.abi import display_name
from autoprofile.errors import AutoprofileError, UsageError
from autoprofile.observations import Trace
from autoprofile.profile import Profile
from autoprofile.trace.containers import container_target, init_pid_of
from autoprofile.trace.ebpf.watching import Watch
from autoprofile.trace.targets import cgroup2_root, cgroup_target, pid_target, unit_target
from tests.conftest import TESTS, need_program

pytestmark = pytest.mark.ebpf

AUTOPROFILE = (sys.executable, "-m", "autoprofile")
# What a runtime does for a container before its program runs.
SET_UP = {"mount", "pivot_root", "setns", "unshare", "seccomp", "capset", "umount2"}


@pytest.fixture
def patient(tracee):
    """Return a function that starts `patient`, whose calls happen when it is written to."""
    started: list[subprocess.Popen[str]] = []

    def start(*prefix: str, calls: int = 23) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*prefix, tracee("patient"), str(calls)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=TESTS.parent,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=60)


def pid_said_by(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def tell(process: subprocess.Popen[str]) -> str:
    """Let `patient` make its calls; return what it says about them."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def counts(trace: Trace) -> dict[str, int]:
    found: dict[str, int] = {}
    for o in trace.observations:
        name = display_name(o.arch, o.nr)
        found[name] = found.get(name, 0) + o.count
    return found


def test_a_running_process_is_followed_to_its_end(patient):
    """Calls after the attachment are counted exactly, and the watch ends with the process."""
    process = patient()
    target = pid_target(pid_said_by(process))
    with Watch(target) as watch:
        tell(process)
        process.stdin.close()
        watch.follow(timeout_s=60)
        trace = watch.trace()
    assert watch.has_ended
    assert counts(trace)["socket"] == 23
    assert not trace.is_complete  # nobody knows what it did before
    assert trace.meta.argv == target.argv


def test_a_call_that_still_lasts_is_counted(patient):
    """What a process waits in when the watch ends was called, though it has not returned."""
    process = patient()
    with Watch(pid_target(pid_said_by(process))) as watch:
        tell(process)
        watch.follow(timeout_s=1)
        watch.detach()
        trace = watch.trace()
    assert not watch.has_ended
    reads = [o for o in trace.observations if display_name(o.arch, o.nr) == "read"]
    assert [(o.count, o.ok, o.processes) for o in reads] == [(1, 0, 1)]
    assert counts(trace)["socket"] == 23


def test_descendants_and_threads_belong_to_a_process(tracee):
    """Whoever a watched shell starts later is watched, its children too."""
    shell = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        with Watch(pid_target(shell.pid)) as watch:
            assert shell.stdin is not None
            shell.stdin.write(f"{tracee('census')} threads forks=31 daemon\n")
            shell.stdin.close()
            watch.follow(timeout_s=60)
            trace = watch.trace()
    finally:
        shell.kill()
        shell.wait(timeout=60)
    assert counts(trace)["getppid"] == 64 * 101 + 31 + 97


def test_there_must_be_such_a_process():
    """A pid that is not there is an error, not an empty trace."""
    with pytest.raises(AutoprofileError, match="no process"):
        pid_target(2**22 - 1)


@pytest.fixture
def cgroup():
    """Return a new cgroup named like a unit."""
    folder = cgroup2_root() / f"autoprofile-{os.getpid()}.service"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    yield folder
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return


def test_a_cgroup_holds_whoever_is_in_it_or_enters(cgroup, patient, tracee):
    """Processes in the cgroup, those that enter later, and nobody else."""
    inside, outside = patient(), patient(calls=7)
    (cgroup / "cgroup.procs").write_text(str(pid_said_by(inside)))
    pid_said_by(outside)
    with Watch(cgroup_target(cgroup)) as watch:
        tell(inside)
        tell(outside)
        enter = f"echo $$ > {cgroup}/cgroup.procs; exec {tracee('census')} forks=31"
        subprocess.run(["sh", "-c", enter], check=True, timeout=30, stdout=subprocess.DEVNULL)
        watch.follow(timeout_s=0.5)
        watch.detach()
        trace = watch.trace()
    assert counts(trace)["socket"] == 23
    assert counts(trace)["getppid"] == 31


def test_a_unit_is_its_cgroup(cgroup):
    """A unit is found by the cgroup that systemd names after it, with or without its suffix."""
    assert unit_target(cgroup.name).cgroup == cgroup
    assert unit_target(cgroup.name.removesuffix(".service")).cgroup == cgroup
    with pytest.raises(AutoprofileError, match="no cgroup"):
        unit_target("no-such-unit-anywhere")


def test_the_root_cgroup_is_refused():
    """The root cgroup would be the whole machine."""
    with pytest.raises(UsageError, match="everything"):
        cgroup_target(cgroup2_root())


@pytest.fixture
def bundle(rootfs):
    """Return an OCI bundle whose program says when it has made its calls."""
    need_program("runc")
    folder = rootfs.parent
    subprocess.run(["runc", "spec"], cwd=folder, check=True, timeout=60)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    script = "/bin/census forks=31 >&2; echo made; exec /bin/sleep 600"
    config["process"].update(terminal=False, args=["/bin/sh", "-c", script])
    config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith("/sys")]
    file.write_text(json.dumps(config))
    return folder


def test_a_container_is_learned_by_its_id(bundle):
    """From create to kill: the container's own calls, those of `runc exec`, and nothing of runc's."""
    name = f"autoprofile-{os.getpid()}"
    said = bundle / "said"

    def runc(*words: str) -> None:
        with said.open("a") as out:
            done = subprocess.run(
                ["runc", *words], timeout=60, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
            )
        assert done.returncode == 0 or words[0] == "delete", said.read_text()

    runc("create", "--bundle", str(bundle), name)
    try:
        with Watch(container_target(name)) as watch:
            done = threading.Thread(target=watch.follow, kwargs={"timeout_s": 120})
            done.start()
            runc("start", name)
            deadline = time.monotonic() + 60
            while "made" not in said.read_text() and time.monotonic() < deadline:
                time.sleep(0.05)
            runc("exec", name, "/bin/census", "forks=37")
            runc("exec", name, "/bin/uname", "-a")
            runc("kill", name, "KILL")
            done.join()
            trace = watch.trace()
    finally:
        runc("delete", "-f", name)
    assert watch.has_ended
    assert {o.program.path for o in trace.observations} == {"/bin/busybox", "/bin/census"}
    assert all(o.program.build_id for o in trace.observations)
    found = counts(trace)
    by_census = sum(
        o.count
        for o in trace.observations
        if display_name(o.arch, o.nr) == "getppid" and o.program.path == "/bin/census"
    )
    assert by_census == 31 + 37
    assert found["uname"] >= 1
    assert not SET_UP & found.keys()
    assert trace.is_complete  # watched from before its start to its end


def test_containers_are_found_where_runtimes_keep_them(tmp_path):
    """Each runtime's state gives the pid; a shortened id is enough, an ambiguous or stopped one is an error."""
    me, long = os.getpid(), "0123456789abcdef0123"
    for path, text in (
        (f"run/docker/runtime-runc/moby/{long}/state.json", json.dumps({"id": long, "init_process_pid": me})),
        ("run/crun/bread/status", json.dumps({"pid": me})),
        ("run/containerd/io.containerd.runtime.v2.task/k8s.io/pod/init.pid", str(me)),
        ("run/runc/gone/state.json", json.dumps({"id": "gone", "init_process_pid": 2**22 - 1})),
        ("run/runc/broken/state.json", "{"),
    ):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text(text)
    for name in (long, long[:12], "bread", "pod"):
        assert init_pid_of(name, tmp_path) == me
    for name, message in (
        ("gone", "does not run"),
        ("broken", "no runtime knows"),
        (long[:5], "no runtime knows"),
    ):
        with pytest.raises(AutoprofileError, match=message):
            init_pid_of(name, tmp_path)


def learning(pid: int, profile: Path, *options: str | Path) -> subprocess.Popen[str]:
    """Return `learn --pid`, attached."""
    process = subprocess.Popen(
        [*AUTOPROFILE, "learn", "--pid", str(pid), "-o", profile, *options],
        stderr=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
    )
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "learning process" in said, said + process.stderr.read()
    return process


def test_ctrl_c_ends_the_learning_alone(patient, tmp_path):
    """`learn --pid` writes a profile and a trace on Ctrl-C, and leaves the process alone."""
    process = patient()
    profile, trace = tmp_path / "p.yaml", tmp_path / "t.parquet"
    tool = learning(pid_said_by(process), profile, "--trace", trace)
    assert tell(process) == "0"
    tool.send_signal(signal.SIGINT)
    _, err = tool.communicate(timeout=60)
    assert tool.returncode == 0, err
    assert process.poll() is None
    assert Profile.load(profile).decide("socket", "AF_NETLINK", "SOCK_RAW", 12).action.kind == "allow"
    assert counts(Trace.load(trace))["socket"] == 23


def test_a_learning_ends_with_its_time(patient, tmp_path):
    """`learn --timeout` writes what it has seen by then; the process goes on, and nothing else is left."""
    process = patient()
    pid = pid_said_by(process)
    profile = tmp_path / "p.yaml"
    tool = learning(pid, profile, "--timeout", "7")
    tell(process)
    _, err = tool.communicate(timeout=60)
    assert process.poll() is None
    assert tool.returncode == 0, err
    assert Profile.load(profile).learned.complete is False
    assert os.listdir(tmp_path) == ["p.yaml"]


def test_a_killed_learning_loses_seconds(patient, tmp_path):
    """After kill -9 there is a trace to learn from, though none was asked for, and the process goes on."""
    process = patient()
    profile, trace = tmp_path / "p.yaml", tmp_path / "p.unfinished.parquet"
    tool = learning(pid_said_by(process), profile)
    assert tell(process) == "0"
    deadline = time.monotonic() + 60
    while not trace.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    tool.kill()
    tool.communicate(timeout=60)
    assert process.poll() is None
    assert not profile.exists()
    seen = Trace.load(trace)
    assert counts(seen)["socket"] == 23
    assert not seen.is_complete
    done = subprocess.run(
        [*AUTOPROFILE, "learn", "-o", profile, "--from-trace", trace],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=TESTS.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Profile.load(profile).learned.complete is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pid", "1", "--cgroup", "/x"), "exclude each other"),
        (("--pid", "1", "--", "true"), "takes no command"),
        (("--pid", "1", "--backend", "ptrace"), "--backend ebpf"),
    ],
)
def test_targets_are_given_alone(words, message, tmp_path):
    """A target, a command and another backend do not go together: status 2."""
    done = subprocess.run(
        [*AUTOPROFILE, "learn", *words],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=TESTS.parent,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
