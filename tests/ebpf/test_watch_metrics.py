"""`watch --metrics`: what an enforced workload is refused, as counters."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.tool import AUTOPROFILE, autoprofile, environment
from tests.kernel.test_faults import profile
from tests.kernel.test_supervise import wait_for

pytestmark = pytest.mark.ebpf

__all__ = ["profile"]


def test_a_watch_publishes_what_it_sees(tracee, profile, tmp_path):
    """The counters of a watched, enforced program are in the file after the watch, and agree with what it prints."""
    pytest.importorskip("prometheus_client")
    out, log = tmp_path / "out", tmp_path / "a.jsonl"
    words = [*AUTOPROFILE, "enforce", profile, "--audit", log, "--", tracee("outlive"), out]
    enforced = subprocess.Popen([os.fspath(word) for word in words], env=environment())
    try:
        wait_for(Path(f"{out}.running"))
        pid = json.loads(log.read_text().splitlines()[0])["pid"]
        words = ["watch", profile, "--pid", pid, "--timeout", 1, "--metrics", "w.prom", "--json"]
        done = autoprofile(*words, cwd=tmp_path)
    finally:
        enforced.kill()
        enforced.wait(60)
    assert done.returncode == 3, done.stderr
    text = (tmp_path / "w.prom").read_text()
    found = re.findall(r"autoprofile_calls_total\{(.*)\} (\S+)", text)
    denied = {labels: float(count) for labels, count in found if 'event="deny"' in labels}
    assert 'action="EACCES",arch="x86_64",by="kernel",event="deny",syscall="getppid"' in denied
    # A call that was in progress when the watch began is a counter of its own: nobody saw what it returned.
    assert sum(denied.values()) == json.loads(done.stdout)["refused"] > 0, (denied, done.stdout)
    assert "autoprofile_lost_records_total 0.0" in text
