"""A call that met several errors is told from one that always met the same, by every source that sees results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoprofile.abi import display_name
from autoprofile.learn import infer
from autoprofile.observations import Trace
from autoprofile.profile import Action
from autoprofile.trace.source import Command, source_named
from autoprofile.trace.strace_log import trace_from_strace_log
from tests.conftest import need_program

pytestmark = pytest.mark.kernel

# link(2): of a directory EPERM, whoever asks; of what is not there ENOENT.
_PROGRAM = """
import contextlib, os, sys
for path in sys.argv[1:]:
    with contextlib.suppress(OSError):
        os.link(path, "none")
"""


def _trace(source: str, tmp: Path, *paths: str) -> Trace:
    command = (sys.executable, "-I", "-S", "-c", _PROGRAM, *paths)
    if source != "strace":
        return source_named(source).run(Command(command)).trace
    log = tmp / "log"
    subprocess.run(
        [need_program("strace"), "-f", "-n", "-X", "raw", "-o", log, *command], timeout=120, check=True
    )
    return trace_from_strace_log(log)


@pytest.mark.parametrize("source", ["ptrace", "strace", pytest.param("ebpf", marks=pytest.mark.ebpf)])
def test_a_call_is_denied_only_with_the_one_error_it_always_met(source: str, tmp_path: Path) -> None:
    """ENOENT and then EPERM is no reason to answer EPERM; EPERM twice is."""
    missing, folder = str(tmp_path / "missing"), str(tmp_path)
    mixed, same = _trace(source, tmp_path, missing, folder), _trace(source, tmp_path, folder, folder)
    for trace, errors, action in (
        (mixed, "ENOENT,EPERM", Action.ALLOW),
        (same, "EPERM", Action.errno("EPERM")),
    ):
        links = [o for o in trace.observations if display_name(o.arch, o.nr) in ("link", "linkat")]
        assert [(o.ok, o.failed, o.errors) for o in links] == [(0, 2, errors)]
        found = infer(trace, level="standard")
        decided = found.profile.decide_call(links[0].arch, links[0].nr, [a or 0 for a in links[0].args])
        assert decided.action == action
        assert any("answered with EPERM" in str(one) for one in found.decided) == (action != Action.ALLOW)
