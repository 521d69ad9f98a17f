"""`autoprofile bench`: its table, its document, and what it says when something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprofile.enforce.libseccomp import libseccomp_version
from tests.cli.tool import HAND_WRITTEN, autoprofile, hand_written, one_error

needs_libseccomp = pytest.mark.skipif(libseccomp_version() is None, reason="libseccomp is not installed")
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


@needs_libseccomp
def test_a_rule_that_libseccomp_refuses_is_left_out_and_the_rest_compared(tmp_path: Path) -> None:
    """A trap with data, number -1, and equal comparisons with two actions leave both rows, and no traceback."""
    text = HAND_WRITTEN + (
        "  4294967295: any\n"
        "deny:\n  mount: trap(7)\n  kill:\n"
        "    - {sig: 9, action: EPERM}\n    - {sig: 9, action: EACCES}\n    - {sig: [8, 9, 10], action: EBUSY}\n"
    )
    done = autoprofile("bench", hand_written(tmp_path, text), "--no-timing", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert {"libseccomp 1", "libseccomp 2"} <= {one["name"] for one in document["filters"]}
    assert all(one["differs"] is None for one in document["filters"])
    left_out = " ".join(document["libseccomp_left_out"])
    assert "4294967295" in left_out
    assert "mount" in left_out
    assert "kill" in left_out
    assert "socket" not in left_out


@needs_libseccomp
@pytest.mark.skipif(libseccomp_version() != "2.5.4", reason="known of libseccomp 2.5.4")
def test_a_filter_that_does_another_thing_is_marked(tmp_path: Path) -> None:
    """Libseccomp drops a deny rule beside an unconstrained allow: its filter is shown, with what it lets through."""
    text = HAND_WRITTEN + (
        "  prctl: any\ndeny:\n  prctl:\n"
        "    - {option: PR_SET_SECCOMP, arg2: any, arg3: any, arg4: any, arg5: any, action: EPERM}\n"
    )
    profile = hand_written(tmp_path, text)
    document = json.loads(autoprofile("bench", profile, "--no-timing", "--json", cwd=tmp_path).stdout)
    differs = {one["name"]: one["differs"] for one in document["filters"]}
    assert differs["libseccomp 1"] == differs["libseccomp 2"] == "x86_64 prctl(0x16): allow instead of EPERM"
    assert differs["autoprofile"] is None
    shown = autoprofile("bench", profile, "--no-timing", cwd=tmp_path).stdout
    assert "optimise 2 *" in shown
    assert "does another thing: x86_64 prctl(0x16): allow instead of EPERM" in " ".join(shown.split())


def test_numbers_behind_the_kernels_table_are_not_answered_from_the_bitmap(tmp_path: Path) -> None:
    """The bitmap ends where the table does: an allowed number behind it runs the filter, and counts so."""
    text = HAND_WRITTEN + "  600: any\n  0x3fffffff: any\n  4294967295: any\n"
    done = autoprofile("bench", hand_written(tmp_path, text), "--no-timing", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    calls = {call["syscall"]: call["from_bitmap"] for call in json.loads(done.stdout)["calls"]}
    behind = {"600": False, "1073741823": False, "4294967295": False}
    assert calls == {"read": True, "socket": False, **behind}
