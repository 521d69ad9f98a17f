"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile import atomic
from autoprofile.atomic import write_atomic
from autoprofile.errors import AutoprofileError


def listing(directory: Path) -> list[str]:
    """Return the names in a directory."""
    return sorted(path.name for path in directory.iterdir())


def test_content_may_be_text_bytes_or_a_writer(tmp_path: Path) -> None:
    """All three forms end up in the file, and nothing beside it."""
    for content in ("grüße", "grüße".encode(), lambda file: file.write("grüße".encode())):
        write_atomic(tmp_path / "f", content)
        assert (tmp_path / "f").read_text() == "grüße"
    assert listing(tmp_path) == ["f"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """ENOSPC at any step: the old content stays, no temporary file remains, one error says it."""
    path = tmp_path / "f"
    path.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    content: object = "new"
    if call == "write":
        content = full
    else:
        monkeypatch.setattr(atomic.os, call, full)
    with pytest.raises(AutoprofileError, match="No space left") as caught:
        write_atomic(path, content)  # type: ignore[arg-type]
    assert "disk is full" in (caught.value.hint or "")
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["f"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_is_not_replaced() -> None:
    """Something that is no regular file is left alone."""
    with pytest.raises(AutoprofileError, match="not a regular file"):
        write_atomic("/dev/full", "x")


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path) -> None:
    """A KeyboardInterrupt while writing passes through and leaves nothing behind."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "f", interrupted)
    assert listing(tmp_path) == []


def test_mode_and_links_are_kept(tmp_path: Path) -> None:
    """Permission bits of the old file stay, a new file follows the umask, a symbolic link stays one."""
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to("f")
    write_atomic(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    mask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "g", "new")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "g").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    """Root replacing a user's file leaves it the user's."""
    path = tmp_path / "f"
    path.write_text("old")
    os.chown(path, 1234, 2345)
    write_atomic(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_an_existing_file_is_refused_without_overwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the file appears only after the first look."""
    path = tmp_path / "f"
    write_atomic(path, "first", overwrite=False)
    with pytest.raises(AutoprofileError, match="exists"):
        write_atomic(path, "second", overwrite=False)

    late = tmp_path / "late"
    with pytest.raises(AutoprofileError, match="exists"):
        write_atomic(late, lambda _: late.write_text("other's"), overwrite=False)
    assert late.read_text() == "other's"
    assert path.read_text() == "first"
    assert listing(tmp_path) == ["f", "late"]


FULL_DISK = """
import os, sys
from autoprofile.errors import AutoprofileError
from autoprofile.profile import Profile
os.chdir(sys.argv[1])
Profile().save("p.yaml")
old = open("p.yaml").read()
with open("filler", "wb", buffering=0) as file:
    try:
        while file.write(b"x" * 4096):
            pass
    except OSError:
        pass
try:
    Profile(level="permissive").save("p.yaml", overwrite=True)
except AutoprofileError as error:
    print(error, "|", error.hint)
assert open("p.yaml").read() == old
assert sorted(os.listdir()) == ["filler", "p.yaml"], os.listdir()
"""


def test_a_really_full_file_system(tmp_path: Path) -> None:
    """On a tmpfs without a free block the old profile stays, alone, and the error says why."""
    script = 'mount -t tmpfs -o size=32k tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL_DISK]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare(1)")
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no private mounts here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "p.yaml: cannot write: No space left on device | the disk is full; free some space and try again\n"
    )
