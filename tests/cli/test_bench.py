"""`autoprofile bench`: its table, its document, and what it says when something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.tool import HAND_WRITTEN, autoprofile, hand_written, one_error

NGINX = Path(__file__).parent.parent / "data" / "profiles" / "nginx.yaml"


def test_instructions_are_counted_without_timing(tmp_path: Path) -> None:
    """--no-timing needs no kernel: the filters' expected instructions, what the bitmap answers, each constraint."""
    done = autoprofile("bench", NGINX, "--no-timing", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "smallest for each call" in done.stdout
    assert "From the bitmap: 30 of 58 calls, 62.6% of all made" in done.stdout
    assert "mmap            prot, flags" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert done.stdout == autoprofile("bench", NGINX, "--no-timing", cwd=tmp_path).stdout


def test_older_kernels_run_the_filter_for_every_call(tmp_path: Path) -> None:
    """--kernel older has no bitmap: all calls cost instructions, and more than with it."""
    documents = {}
    for kernel in ("newer", "older"):
        done = autoprofile("bench", NGINX, "--no-timing", "--json", "--kernel", kernel, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        documents[kernel] = json.loads(done.stdout)
    ours = {
        kernel: next(f for f in document["filters"] if f["name"] == "autoprofile")["instructions"]
        for kernel, document in documents.items()
    }
    assert ours["older"] > ours["newer"]
    assert not any(call["from_bitmap"] for call in documents["older"]["calls"])
    assert {c["syscall"] for c in documents["newer"]["calls"] if c["from_bitmap"]} >= {"read", "write"}
    assert documents["newer"]["reference"] is None


@pytest.mark.kernel
def test_the_document_holds_every_time(tmp_path: Path) -> None:
    """Each call has its added nanoseconds under each filter, its price, and the sums say what was measured."""
    done = autoprofile("bench", hand_written(tmp_path), "--rounds", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr or done.stderr.startswith("warning: the machine was busy")
    document = json.loads(done.stdout)
    assert (document["kind"], document["kernel"]) == ("bench", "newer")
    assert document["rounds"] >= 1
    assert document["noise"] >= 0
    assert document["reference"]["no_filter_ns"] > 0
    calls = {call["syscall"]: call for call in document["calls"]}
    assert calls["read"]["was_called"]
    assert not calls["socket"]["was_called"]
    names = {one["name"] for one in document["filters"]}
    assert set(calls["socket"]["added_ns"]) == names
    assert {"smallest", "autoprofile"} <= names
    text = autoprofile("bench", hand_written(tmp_path), "--rounds", "1", cwd=tmp_path)
    assert text.returncode == 0, text.stderr
    assert "All prices together" in " ".join(text.stdout.split())
    assert all(len(line) <= 80 for line in text.stdout.splitlines())


@pytest.mark.kernel
def test_a_profile_for_another_machine_is_refused_with_a_way_out(tmp_path: Path) -> None:
    """What cannot be timed here is one error with a hint; --no-timing does what can be done."""
    profile = hand_written(tmp_path, HAND_WRITTEN.replace("x86_64", "riscv64"))
    done = autoprofile("bench", profile, cwd=tmp_path)
    assert done.returncode == 1
    assert one_error(done.stderr).startswith("the profile is for riscv64")
    assert "--no-timing" in done.stderr
    assert autoprofile("bench", profile, "--no-timing", cwd=tmp_path).returncode == 0
