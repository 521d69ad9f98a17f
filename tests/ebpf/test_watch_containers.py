"""Containers of crun, podman, containerd and docker, learned from outside by id and by name.

Each is left out where its program is not installed, or its daemon does not run; runc, which all tests need, is in
test_targets.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from autoprofile.abi import display_name
from autoprofile.errors import AutoprofileError
from autoprofile.trace.containers import container_target, init_pid_of
from autoprofile.trace.ebpf.watching import Watch
from autoprofile.trace.targets import cgroup2_root

pytestmark = pytest.mark.ebpf

NAME = f"autoprofile-{os.getpid()}"
SLEEP = ("/bin/sleep", "600")
# What a runtime does for a container before its program runs.
SET_UP = {"mount", "pivot_root", "setns", "unshare", "seccomp", "capset", "umount2"}


@dataclass
class Box:
    """A running container: what it answers to, and the commands that enter and kill it."""

    names: list[str]
    enter: list[str]
    kill: list[str]


def run(*words: str | Path) -> str:
    """Run a command of an engine; return what it printed."""
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"
    return done.stdout.strip()


def need(program: str) -> str:
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        pytest.skip(f"no container engine: {program} is not installed")
    return path


def need_daemon(*question: str) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if subprocess.run(question, capture_output=True, timeout=60, check=False).returncode == 0:
            return
    pytest.skip(f"no container engine: the daemon behind {question[0]} does not run")


@contextlib.contextmanager
def removed(*words: str | Path):
    """Run a command at the end, whatever it says."""
    try:
        yield
    finally:
        subprocess.run(words, capture_output=True, timeout=120, check=False)


@contextlib.contextmanager
def crun(rootfs: Path):
    """Yield a container of crun, which refuses cgroups of both versions at once: it sees but version 2."""
    need("crun")
    folder = rootfs.parent
    run("crun", "spec", f"--bundle={folder}")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["process"].update(terminal=False, args=list(SLEEP))
    config["process"].pop("rlimits", None)
    config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith("/sys")]
    file.write_text(json.dumps(config))
    only_2 = 'umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
    prefix = [] if cgroup2_root() == Path("/sys/fs/cgroup") else ["unshare", "-m", "sh", "-c", only_2, "sh"]
    crun = ["crun", "--cgroup-manager=disabled"]
    with removed("crun", "delete", "-f", NAME):
        # Its streams stay open in the container: files, so that nobody waits for their end.
        with (folder / "said").open("w") as said:
            done = subprocess.run(
                [*prefix, *crun, "run", "--detach", f"--bundle={folder}", NAME],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=120,
                check=False,
            )
        assert done.returncode == 0, (folder / "said").read_text()
        yield Box([NAME], [*crun, "exec", NAME], [*crun, "kill", NAME, "KILL"])


@contextlib.contextmanager
def podman(rootfs: Path):
    """Yield a container of podman over runc, with its storage in the test's folder."""
    need("podman")
    need("runc")
    folder = rootfs.parent
    conf = folder / "storage.conf"
    conf.write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{folder}/run"\ngraphroot = "{folder}/storage"\n', "utf-8"
    )
    run("tar", "-C", rootfs, "-cf", folder / "root.tar", ".")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_STORAGE_CONF", os.fspath(conf))  # for whoever asks podman by name, too
        podman = ["podman", "--cgroup-manager=cgroupfs", "--events-backend=file", "--runtime=runc"]
        run(*podman, "import", folder / "root.tar", "localhost/autoprofile")
        with removed(*podman, "rm", "--force", "--time=0", NAME):
            limits = [
                "--ulimit=nofile=1024:1024",
                "--ulimit=nproc=1024:1024",
            ]  # not raised: that needs rights
            identity = run(
                *podman, "run", "--detach", f"--name={NAME}", "--network=none", *limits, "localhost/autoprofile", *SLEEP
            )  # fmt: skip
            names = [NAME, identity, identity[:12]]
            yield Box(names, [*podman, "exec", NAME], [*podman, "kill", "--signal=KILL", NAME])


@contextlib.contextmanager
def docker(rootfs: Path):
    """Yield a container of the docker engine that runs here."""
    need("docker")
    need_daemon("docker", "info", "--format", "{{.ServerVersion}}")
    run("tar", "-C", rootfs, "-cf", rootfs.parent / "root.tar", ".")
    image = run("docker", "import", rootfs.parent / "root.tar")
    with removed("docker", "rmi", "--force", image), removed("docker", "rm", "--force", NAME):
        identity = run("docker", "run", "--detach", f"--name={NAME}", "--network=none", image, *SLEEP)
        yield Box([NAME, identity, identity[:12]], ["docker", "exec", NAME], ["docker", "kill", NAME])


@contextlib.contextmanager
def containerd(rootfs: Path):
    """Yield a container of the containerd that runs here, from a root directory without an image."""
    need("ctr")
    need_daemon("ctr", "version")
    with removed("ctr", "container", "rm", NAME), removed("ctr", "task", "kill", "--signal=KILL", NAME):
        run("ctr", "run", "--detach", "--rootfs", rootfs, NAME, *SLEEP)
        yield Box(
            [NAME],
            ["ctr", "task", "exec", "--exec-id", "later", NAME],
            ["ctr", "task", "kill", "--signal=KILL", NAME],
        )


@pytest.mark.parametrize("engine", [crun, podman, docker, containerd], ids=lambda engine: engine.__name__)
def test_a_container_is_watched_from_outside(engine, rootfs):
    """Found by every name, processes that enter later are counted exactly, none of the runtime's calls are."""
    with engine(rootfs) as box:
        pids = {init_pid_of(name) for name in box.names}
        assert len(pids) == 1
        with Watch(container_target(box.names[0])) as watch:
            done = threading.Thread(target=watch.follow, kwargs={"timeout_s": 120})
            done.start()
            run(*box.enter, "/bin/census", "forks=37")
            run(*box.enter, "/bin/uname")
            run(*box.kill)
            done.join()
            trace = watch.trace()
        deadline = time.monotonic() + 60
        while Path(f"/proc/{min(pids)}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(AutoprofileError, match=r"does not run|no runtime knows"):
            init_pid_of(box.names[-1])
    assert watch.has_ended
    assert {o.program.path for o in trace.observations} == {"/bin/busybox", "/bin/census"}
    found: Counter[str] = Counter()
    for o in trace.observations:
        found[display_name(o.arch, o.nr)] += o.count
    assert found["getppid"] == 37
    assert found["uname"] == 1
    assert trace.process_count == 1 + 1 + 37 + 1
    assert not SET_UP & found.keys()
    assert not trace.is_complete  # nobody saw its start
