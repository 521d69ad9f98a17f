"""Units of a real systemd, which runs as the first process of namespaces of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from autoprofile.abi import display_name
from autoprofile.observations import Trace
from autoprofile.trace.ebpf.watching import Watch
from autoprofile.trace.targets import cgroup2_root, cgroup_target, unit_target

pytestmark = pytest.mark.ebpf

SYSTEMD = Path("/lib/systemd/systemd")
UNIT = f"autoprofile-watched-{os.getpid()}.service"

# systemd sees cgroup v2 alone, from where it stands; its units are in a directory of the test.
START = """
set -e
umount -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mkdir -p /run/systemd/system
mount --bind "$1/units" /run/systemd/system
export container=autoprofile
exec /lib/systemd/systemd --system --unit=autoprofile.target --log-target=console --show-status=no
"""
TARGET = """
[Unit]
DefaultDependencies=no
AllowIsolate=yes
Wants={unit}
"""
SERVICE = """
[Unit]
DefaultDependencies=no
[Service]
Type=exec
ExecStart=/bin/sleep 600
ExecReload={census} forks=37
"""


class System:
    """A systemd that runs one service."""

    def __init__(self, folder: Path, census: str) -> None:
        units = folder / "units"
        units.mkdir()
        (units / "autoprofile.target").write_text(TARGET.format(unit=UNIT))
        (units / UNIT).write_text(SERVICE.format(census=census))
        self.log = folder / "log"
        self.cgroup = cgroup2_root() / f"autoprofile-systemd-{os.getpid()}"
        self.cgroup.mkdir()
        flags = ("--pid", "--mount", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child", "--mount-proc")
        enter = f'echo $$ > {self.cgroup}/cgroup.procs; exec "$@"'
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", enter, "sh", "unshare", *flags, "sh", "-c", START, "sh", folder],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self) -> bool:
        """Tell whether the service came up."""
        procs = self.cgroup / "system.slice" / UNIT / "cgroup.procs"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                for pid in procs.read_text().split():
                    if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                        return True
            time.sleep(0.05)
        return False

    def pid(self) -> int:
        """Return systemd's own pid."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def control(self, *words: str) -> None:
        """Run systemctl beside it."""
        command = ["nsenter", f"--target={self.pid()}", "--mount", "--pid", "systemctl", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (done.stderr, self.log.read_text())

    def end(self) -> None:
        """Kill it and all it started, and remove its cgroups."""
        self.process.kill()  # and with it its child, the first of its pid namespace, and with that all others
        self.process.wait(timeout=60)
        deadline = time.monotonic() + 60
        while self.cgroup.exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(self.cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            time.sleep(0.05)


@pytest.fixture
def system(tmp_path, tracee):
    """Return a running systemd."""
    if not SYSTEMD.exists():
        pytest.skip("no systemd: it is not installed")
    started = System(tmp_path, tracee("census", "-static"))
    try:
        if not started.wait():
            pytest.skip(f"no systemd: it does not start in namespaces here: {started.log.read_text()[-300:]}")
        yield started
    finally:
        started.end()


def programs_of(trace: Trace) -> set[str]:
    return {Path(o.program.path).name for o in trace.observations}


def test_a_unit_is_learned_without_what_systemd_does_for_it(system):
    """A process that enters later is counted from its exec on; its cgroup alone would show systemd's calls, too."""
    target = unit_target(UNIT.removesuffix(".service"))
    assert target.cgroup == system.cgroup / "system.slice" / UNIT
    assert target.argv == ("/bin/sleep", "600")
    with Watch(target) as watch, Watch(cgroup_target(target.cgroup)) as whole:
        system.control("reload", UNIT)
        for one in (watch, whole):
            one.detach()
        trace = watch.trace()
        assert "systemd" in programs_of(whole.trace())
    found: Counter[str] = Counter()
    for o in trace.observations:
        found[display_name(o.arch, o.nr)] += o.count
    assert found["getppid"] == 37
    assert programs_of(trace) == {"census"}
    assert not {"mount", "unshare", "setns", "prctl", "capset", "close_range"} & found.keys()


def test_a_watch_ends_with_the_unit(system):
    """When a unit is started again its cgroup is another one: what was watched has ended."""
    with Watch(unit_target(UNIT)) as watch:
        done = threading.Thread(target=watch.follow, kwargs={"timeout_s": 120})
        done.start()
        system.control("restart", UNIT)
        done.join()
    assert watch.has_ended
