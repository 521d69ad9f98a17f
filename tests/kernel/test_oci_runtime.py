"""A profile learned here, exported, and enforced by a real container runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile import Action, Arg, Profile, SeccompRule
from autoprofile.formats import export_profile
from tests.conftest import need_program

pytestmark = pytest.mark.kernel

SCRIPT = "busybox echo inside; busybox mkdir /tmp/x && echo made || echo refused"


def contained(
    tmp_path: Path, seccomp: dict[str, object], name: str, script: str = SCRIPT
) -> subprocess.CompletedProcess[str]:
    bundle = tmp_path / name
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    for folder in ("tmp", "proc", "dev"):
        (bundle / "rootfs" / folder).mkdir()
    shutil.copy(need_program("busybox", "busybox-static"), bundle / "rootfs" / "bin" / "busybox")
    subprocess.run([need_program("runc"), "spec"], cwd=bundle, check=True, timeout=30)
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/busybox", "sh", "-c", script]
    config["process"]["terminal"] = False
    config["process"]["env"] = ["PATH=/bin"]
    config["root"]["readonly"] = False
    config["linux"]["seccomp"] = seccomp
    (bundle / "config.json").write_text(json.dumps(config))
    command = [need_program("runc"), "--root", str(tmp_path / "state"), "run", name]
    return subprocess.run(
        command, cwd=bundle, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="running a container with runc needs root")
def test_runc_enforces_what_was_exported(tmp_path: Path) -> None:
    """The runtime runs the learned container unchanged, and refuses the call that was not learned."""
    busybox = need_program("busybox", "busybox-static")
    need_program("runc")
    profile = tmp_path / "p.yaml"
    autoprofile = [sys.executable, "-m", "autoprofile"]
    subprocess.run(
        [*autoprofile, "learn", "--default", "errno", "-o", str(profile), "--", busybox, "sh", "-c", f"cd {tmp_path}; {SCRIPT.replace('/tmp/x', 'x')}"],
        check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    exported = subprocess.run(
        [*autoprofile, "export", str(profile), "--to", "oci"],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    seccomp = json.loads(exported.stdout)
    ran = contained(tmp_path, seccomp, "learned")
    assert ran.stdout == "inside\nmade\n", ran.stderr
    for entry in seccomp["syscalls"]:
        entry["names"] = [name for name in entry["names"] if name not in {"mkdir", "mkdirat"}]
    seccomp["syscalls"] = [entry for entry in seccomp["syscalls"] if entry["names"]]
    ran = contained(tmp_path, seccomp, "tighter")
    assert ran.stdout == "inside\nrefused\n", ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="running a container with runc needs root")
def test_runc_enforces_a_range_that_was_exported_as_blocks(tmp_path: Path) -> None:
    """A runtime would OR the borders of a range; its masked blocks mean the range."""
    high = (Arg(1, "ge", 0o1000), Arg(1, "ne", 0o2700))
    at = tuple(Arg(2, one.op, one.value) for one in high)
    refused = Action.errno("EPERM")
    profile = Profile(
        mode="denylist",
        default=Action.ALLOW,
        rules=(
            *(SeccompRule(name, refused, high) for name in ("chmod", "fchmod")),
            *(SeccompRule(name, refused, at) for name in ("fchmodat", "fchmodat2")),
        ),
    )
    made = export_profile(profile, "oci")
    assert made.is_exact
    script = "".join(
        f"busybox chmod {mode} /bin/busybox 2>/dev/null && echo {mode} || echo refused; "
        for mode in ("0755", "0777", "1755", "2700", "4755")
    )
    ran = contained(tmp_path, json.loads(made.content), "range", script)
    assert ran.stdout.split() == ["0755", "0777", "refused", "2700", "refused"], ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="running a container with runc needs root")
@pytest.mark.parametrize("level", ["strict", "standard", "permissive"])
def test_runc_starts_a_program_under_a_default_that_kills(tmp_path: Path, level: str) -> None:
    """The runtime's own calls are in the export, and the filter fits into the kernel's limit."""
    busybox = need_program("busybox", "busybox-static")
    need_program("runc")
    profile = tmp_path / "p.yaml"
    autoprofile = [sys.executable, "-m", "autoprofile"]
    subprocess.run(
        [*autoprofile, "learn", "--level", level, "-o", str(profile), "--", busybox, "sh", "-c", "busybox echo inside"],
        check=True, timeout=120, capture_output=True, env={**os.environ, "PWD": ""},
    )  # fmt: skip
    made = export_profile(Profile.load(profile), "oci")
    seccomp = json.loads(made.content)
    assert seccomp["defaultAction"] == "SCMP_ACT_KILL_PROCESS"
    ran = contained(tmp_path, seccomp, level, "busybox echo inside")
    assert (ran.returncode, ran.stdout) == (0, "inside\n"), ran.stderr
