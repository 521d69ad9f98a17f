"""What a workload in a container does to look like something else, and what others do to be taken for one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from autoprofile.abi import display_name
from autoprofile.errors import AutoprofileError
from autoprofile.trace.containers import container_target, init_pid_of
from autoprofile.trace.ebpf.watching import Watch
from autoprofile.trace.targets import processes_of
from tests.conftest import need_program

pytestmark = pytest.mark.ebpf

NOBODY = 65534


class Container:
    """A container of runc: created, then perhaps started."""

    def __init__(self, folder: Path, rootfs: Path) -> None:
        self.name = f"autoprofile-hiding-{os.getpid()}"
        self.rootfs = rootfs
        self._said = folder / "said"
        subprocess.run(["runc", "spec"], cwd=folder, check=True, timeout=60)
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config["process"].update(terminal=False, args=["/bin/sleep", "600"])
        config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith("/sys")]
        file.write_text(json.dumps(config))
        self.runc("create", "--bundle", str(folder), self.name)

    def runc(self, *words: str) -> None:
        """Run a command of runc, its streams those of the container."""
        with self._said.open("a") as out:
            done = subprocess.run(
                ["runc", *words], timeout=60, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
            )
        assert done.returncode == 0 or words[0] == "delete", self._said.read_text()

    def enter(self, *words: str) -> None:
        """Start a process inside that stays."""
        self.runc("exec", "--detach", self.name, *words)

    def pid(self) -> int:
        """Return its first process."""
        return int(json.loads(Path(f"/run/runc/{self.name}/state.json").read_text())["init_process_pid"])


@pytest.fixture
def container(rootfs):
    """Return a container of runc that was created and not started."""
    need_program("runc")
    made = Container(rootfs.parent, rootfs)
    yield made
    made.runc("delete", "-f", made.name)


def swappers(watch: Watch) -> set[str]:
    """Return which programs have called swapon."""
    return {watch.program_of(c) for c in watch.counts() if display_name(c.arch, c.nr) == "swapon" and c.count}


def comes_true(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nobody_hides_by_a_name_or_a_namespace(container, tracee):
    """Names of a runtime, a copy in memory as runtimes make it, a mount namespace of its own: all are watched."""
    for name in ("named", "crun", "memory", "roams"):
        shutil.copy(tracee("hidden", "-static"), container.rootfs / "bin" / name)
    container.runc("start", container.name)
    container.enter("/bin/named", "named", "runc:[2:INIT]")
    container.enter("/bin/crun", "plain")
    container.enter("/bin/memory", "memory", "runc:[1:CHILD]")
    container.enter("/bin/roams", "roams")
    wanted = {"/bin/named", "/bin/crun", "/memfd:runc_cloned:/proc/self/exe", "/bin/roams"}
    space = os.stat(f"/proc/{container.pid()}/ns/mnt").st_ino

    def have_all_hidden() -> bool:
        paths, spaces = set(), set()
        for pid in processes_of(container_target(container.name)):
            try:
                paths.add(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
                spaces.add(os.stat(f"/proc/{pid}/ns/mnt").st_ino)
            except OSError:
                continue
        return wanted <= paths and bool(spaces - {space})

    comes_true(have_all_hidden)
    with Watch(container_target(container.name), returns=False) as watch:
        watch.follow(timeout_s=60, on_tick=lambda: watch.stop() if swappers(watch) == wanted else None)
        assert swappers(watch) == wanted


def test_a_runtime_is_told_from_the_workload(container):
    """Until a container is started its first process is the runtime; from then on it is the workload."""
    pid = container.pid()
    assert pid not in processes_of(container_target(container.name))
    container.runc("start", container.name)
    comes_true(lambda: os.readlink(f"/proc/{pid}/exe") == "/bin/busybox")
    assert pid in processes_of(container_target(container.name))


@pytest.fixture
def of_nobody():
    """Return the pid of a process of another user, in a user and a mount namespace of its own."""
    process = subprocess.Popen(
        ["unshare", "-U", "-r", "-m", "sh", "-c", "echo; exec sleep 600"],
        user=NOBODY,
        group=NOBODY,
        extra_groups=(),
        stdout=subprocess.PIPE,
        cwd="/",
    )
    assert process.stdout is not None
    if process.stdout.readline() != b"\n":
        pytest.skip("users may make no user namespaces here")
    yield process.pid
    process.kill()
    process.wait(timeout=60)
    process.stdout.close()


def write_state(root: Path, folder: str, name: str, pid: int) -> None:
    file = root / folder / name / "state.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"id": name, "init_process_pid": pid}))


def test_a_users_state_file_speaks_for_that_user_alone(tmp_path, of_nobody):
    """What any user can write is believed of the user's own processes, not of others'."""
    users = f"run/user/{NOBODY}/runc"
    write_state(tmp_path, users, "own", of_nobody)
    write_state(tmp_path, users, "others", os.getpid())
    assert init_pid_of("own", tmp_path) == of_nobody
    with pytest.raises(AutoprofileError, match="no runtime knows"):
        init_pid_of("others", tmp_path)


@pytest.mark.parametrize("pid", [2**22 - 1, os.getpid()], ids=["stopped", "running"])
def test_nobody_takes_the_name_of_roots_container(tmp_path, of_nobody, pid):
    """Where root's runtime knows a container of that name or id, another user's is an error, not an answer."""
    long = "0123456789abcdef0123"
    for ours, theirs in (("web", "web"), (long, long[:12])):
        write_state(tmp_path, f"run/user/{NOBODY}/runc", theirs, of_nobody)
        write_state(tmp_path, "run/runc", ours, pid)
        with pytest.raises(AutoprofileError, match="several containers answer"):
            init_pid_of(theirs, tmp_path)


def test_a_users_container_is_named_as_such(of_nobody):
    """A target that only another user's files know says whose it is."""
    folder = Path(f"/run/user/{NOBODY}")
    name = f"autoprofile-of-nobody-{os.getpid()}"
    is_new = not folder.exists()
    try:
        write_state(Path("/"), f"run/user/{NOBODY}/runc", name, of_nobody)
        assert container_target(name).name == f"container {name} of user {NOBODY}"
    finally:
        shutil.rmtree(folder / "runc" / name, ignore_errors=True)
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
