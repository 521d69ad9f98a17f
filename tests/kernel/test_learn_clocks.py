"""A program that names clocks by its process and thread numbers runs under the profile learned from it."""

from __future__ import annotations

import pytest

from tests.cli.tool import autoprofile

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("backend", ["notify", "ptrace"])
def test_clocks_of_other_numbers_pass_at_strict(tracee, tmp_path, backend):
    """The next run has other pids, so other ids of its CPU clocks: strict lets them pass and no other kind."""
    program = tracee("clocks")
    learned = autoprofile("learn", "--backend", backend, "-o", "p.yaml", "--", program, cwd=tmp_path)
    assert learned.returncode == 0, learned.stderr
    for _ in range(2):
        done = autoprofile("enforce", "p.yaml", "--", program, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    text = (tmp_path / "p.yaml").read_text()
    assert "masked_eq: [0x80000007, 0x80000006]" in text
