"""What a supervised program may do to mislead its supervisor: links at the metrics' name, a new file under its own name."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from autoprofile.atomic import write_atomic
from autoprofile.enforce.caller import Callers
from autoprofile.enforce.metrics import Metrics, MetricsTarget
from autoprofile.errors import AutoprofileError


def give_away(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 65534, 65534, follow_symlinks=False)


def test_metrics_follow_no_link_that_appears_later(tmp_path):
    """A link put at the file's name while metrics are published is refused, and what it points to stays as it was."""
    pytest.importorskip("prometheus_client")
    victim, path = tmp_path / "victim", tmp_path / "m.prom"
    victim.write_text("mine")
    metrics = Metrics(MetricsTarget(str(path)))
    metrics.__enter__()
    assert "autoprofile_up 1.0" in path.read_text()
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(AutoprofileError, match="not a regular file"):
        metrics.__exit__()
    assert victim.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.prom", "victim"]


def test_metrics_follow_ones_own_link(tmp_path):
    """A link of the user's own stays, and what it points to is written."""
    pytest.importorskip("prometheus_client")
    (tmp_path / "m.prom").symlink_to("real.prom")
    for _ in range(2):  # a new file, and one that exists
        with Metrics(MetricsTarget(str(tmp_path / "m.prom"))):
            pass
    assert (tmp_path / "m.prom").is_symlink()
    assert "autoprofile_up 0.0" in (tmp_path / "real.prom").read_text()


@pytest.mark.parametrize("whose", ["link", "file", "second link"])
def test_metrics_follow_nobody_elses_link(tmp_path, whose):
    """A link that is another user's, or leads through such a one or to another user's file, is an error, and nothing is written."""
    pytest.importorskip("prometheus_client")
    (tmp_path / "file").write_text("old")
    (tmp_path / "second link").symlink_to("file")
    (tmp_path / "link").symlink_to("second link")
    give_away(tmp_path / whose)
    with pytest.raises(AutoprofileError, match="another user"):
        Metrics(MetricsTarget(str(tmp_path / "link")))
    assert (tmp_path / "file").read_text() == "old"


def test_a_file_can_be_written_without_following_links(tmp_path):
    """write_atomic(follow=False) refuses a link and leaves it and its target alone."""
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("mine")
    link.symlink_to(victim)
    with pytest.raises(AutoprofileError, match="not a regular file"):
        write_atomic(link, "theirs", follow=False)
    assert (link.is_symlink(), victim.read_text()) == (True, "mine")
    write_atomic(tmp_path / "new", "ours", follow=False)
    assert (tmp_path / "new").read_text() == "ours"


@pytest.mark.kernel
def test_a_new_file_under_the_same_name_is_another_program(tmp_path):
    """A process that runs what was put in its program's place is looked at again, though the path is the same."""
    shell = shutil.which("dash") or shutil.which("sh")
    assert shell is not None
    program, new = tmp_path / "program", tmp_path / "new"
    shutil.copy(os.path.realpath(shell), program)
    shutil.copy(os.path.realpath(shell), new)
    script = 'echo first; read x; exec "$0" -c "echo second; read y"'
    callers = Callers()
    with subprocess.Popen(
        [program, "-c", script, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "first\n"
        task = callers._open(child.pid)
        assert task is not None
        assert task.is_same()
        new.rename(program)
        child.stdin.write("go\n")
        assert child.stdout.readline() == "second\n"
        assert os.readlink(f"/proc/{child.pid}/exe") == str(program.resolve())
        assert callers.task_of(child.pid) is None
        child.stdin.close()
    callers.close()
