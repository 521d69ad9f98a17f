"""`autoprofile compile`, `disassemble`, `decide` and `prove` on filters: forms, files, stacks, newer numbers."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from autoprofile import Action, Arg, Profile, SeccompRule
from autoprofile.abi.syscalls import syscall_table
from autoprofile.filter import Program
from autoprofile.filter.simulate import most_severe
from autoprofile.profile import Learned
from tests.cli.tool import autoprofile, hand_written, one_error
from tests.unit.filter.calls import calls, expected
from tests.unit.filter.test_stack import large_profile


@pytest.mark.parametrize(
    ("name", "options", "starts"),
    [
        ("p.bpf", (), b"\x20\x00\x00\x00\x04"),
        ("p.bin", (), b"\x20\x00\x00\x00\x04"),
        ("p.c", (), b"#include <linux/filter.h>"),
        ("p.txt", (), b" 0  ld    [4]"),
        ("p.filter", (), b" 0  ld    [4]"),
        ("p.filter", ("--as", "raw"), b"\x20\x00\x00\x00\x04"),
        ("p.bpf", ("--as", "asm"), b" 0  ld    [4]"),
    ],
)
def test_the_name_of_the_file_says_the_form_and_the_message_names_it(
    name: str, options: tuple[str, ...], starts: bytes, tmp_path: Path
) -> None:
    """The suffix decides unless --as does; what was written is said, and what else there is."""
    done = autoprofile("compile", hand_written(tmp_path), "-o", name, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).read_bytes().startswith(starts)
    assert (" as text" in done.stderr) == starts.startswith(b" 0")
    assert ("--as raw" in done.stderr) == (name == "p.filter" and not options)


def test_raw_filters_are_read_back_and_damaged_ones_refused(tmp_path: Path) -> None:
    """Disassemble shows what compile wrote, from a file or stdin; odd sizes and wrong opcodes are one clear error."""
    assert autoprofile("compile", hand_written(tmp_path), "-o", "p.bpf", cwd=tmp_path).returncode == 0
    raw = (tmp_path / "p.bpf").read_bytes()
    text = autoprofile("disassemble", "p.bpf", cwd=tmp_path).stdout
    assert "nr == read (0)" in text
    with (tmp_path / "p.bpf").open() as file:
        assert autoprofile("disassemble", "-", cwd=tmp_path, stdin=file).stdout == text
    document = json.loads(autoprofile("disassemble", "p.bpf", "--json", cwd=tmp_path).stdout)
    assert document["filters"][0]["length"] == len(raw) // 8
    damaged = {
        "odd": (raw[:-3], "are no filter"),
        "empty": (b"", "are no filter"),
        "opcode": (b"\x94" + raw[1:], "opcode 0x94"),
        "jump": (raw[:8] + b"\x15\x00\xff\xff" + raw[12:], "jump beyond the end"),
        "text": (b"autoprofile: 1\n\n", "opcode"),
    }
    for name, (content, why) in damaged.items():
        (tmp_path / name).write_bytes(content)
        done = autoprofile("disassemble", name, cwd=tmp_path)
        assert done.returncode == 1
        assert why in one_error(done.stderr)
        assert name in done.stderr
    big = Program(list(Program.from_bytes(raw)), byteorder="big")
    (tmp_path / "s390x.bpf").write_bytes(bytes(big))
    shown = autoprofile("disassemble", "s390x.bpf", cwd=tmp_path)
    assert "big-endian" in shown.stderr
    assert shown.stdout.splitlines()[0] == text.splitlines()[0]


def test_a_profile_too_large_for_one_filter_is_written_as_several_that_are_proven(tmp_path: Path) -> None:
    """Raw files are numbered in the order of installation; prove takes them back, and refutes one alone."""
    profile = large_profile()
    profile.save(tmp_path / "big.yaml")
    done = autoprofile("compile", "big.yaml", "-o", "big.bpf", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in tmp_path.glob("*.bpf"))
    assert names == [f"big.{n}.bpf" for n in range(1, len(names) + 1)]
    assert len(names) > 1
    stack = [Program.from_bytes((tmp_path / name).read_bytes()) for name in names]
    for token, nr, args in calls(profile, seed=1, each=2):
        if nr < 450:
            answers = [program.simulate_ret(token, nr, args) for program in stack]
            assert most_severe(answers) == expected(profile, token, nr, args)
    refused = autoprofile("compile", "big.yaml", "-o", "big.bpf", cwd=tmp_path)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert autoprofile("compile", "big.yaml", "--as", "raw", cwd=tmp_path).returncode == 2
    decided = autoprofile("decide", "big.yaml", "read", cwd=tmp_path)
    assert decided.stdout.startswith("allow")
    pytest.importorskip("z3")
    one = autoprofile("prove", "big.yaml", "--filter", names[-1], "--json", cwd=tmp_path)
    assert one.returncode == 3
    assert json.loads(one.stdout)["counterexample"]["program"] == "allow"


def test_numbers_newer_than_the_profile(tmp_path: Path) -> None:
    """A profile learned on 6.1 answers cachestat (6.5) with ENOSYS, unless --beyond default; prove knows both."""
    profile = Profile(learned=Learned(1, 1, 1, kernel="6.1.0"), rules=(SeccompRule("read", Action.ALLOW),))
    profile.save(tmp_path / "p.yaml")
    for options, answer in (((), "ENOSYS"), (("--beyond", "default"), "kill")):
        done = autoprofile("compile", "p.yaml", "-o", "p.bpf", "--force", *options, cwd=tmp_path)
        assert done.returncode == 0
        program = Program.from_bytes((tmp_path / "p.bpf").read_bytes())
        assert str(program.simulate("x86_64", 451)) == answer
        assert str(program.simulate("x86_64", 450)) == "kill"
        for call in ("cachestat", "9999"):
            decided = autoprofile("decide", "p.yaml", call, *options, cwd=tmp_path)
            assert decided.stdout.startswith(f"{answer}: "), decided.stderr
    pytest.importorskip("z3")
    assert autoprofile("prove", "p.yaml", cwd=tmp_path).returncode == 0
    assert autoprofile("prove", "p.yaml", "--filter", "p.bpf", cwd=tmp_path).returncode == 3
    proven = autoprofile("prove", "p.yaml", "--filter", "p.bpf", "--beyond", "default", cwd=tmp_path)
    assert proven.returncode == 0, proven.stdout


def test_filters_for_older_kernels_weigh_all_calls(tmp_path: Path) -> None:
    """--kernel older orders the tests otherwise and means the same."""
    corpus = Path(__file__).parent.parent / "data" / "profiles" / "sort.yaml"
    for kernel in ("newer", "older"):
        done = autoprofile("compile", corpus, "--kernel", kernel, "-o", f"{kernel}.bpf", cwd=tmp_path)
        assert done.returncode == 0
    newer, older = (Program.from_bytes((tmp_path / f"{k}.bpf").read_bytes()) for k in ("newer", "older"))
    assert newer != older
    for nr in range(600):
        assert newer.simulate("x86_64", nr) == older.simulate("x86_64", nr)


def test_calls_with_an_older_way_get_the_same_from_every_verb(tmp_path: Path) -> None:
    """What enforce answers clone3 under an errno default is what compile writes, decide says and prove proves."""
    left_out = {"clone3", "faccessat2", "setns"}
    rules = [SeccompRule(name, Action.ALLOW) for name in syscall_table("x86_64") if name not in left_out]
    Profile(default=Action.errno("EPERM"), rules=tuple(rules)).save(tmp_path / "p.yaml")
    ask = (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.syscall({}, 0, 0); print(ctypes.get_errno())"
    )
    for name, nr, answer in (("clone3", 435, "ENOSYS"), ("setns", 308, "EPERM")):
        ran = autoprofile("enforce", "p.yaml", "--", sys.executable, "-c", ask.format(nr), cwd=tmp_path)
        assert ran.stdout.strip() == str(getattr(errno, answer)), ran.stderr
        decided = autoprofile("decide", "p.yaml", name, cwd=tmp_path)
        assert decided.stdout.startswith(f"{answer}: "), decided.stderr
    for options, answer in (((), "ENOSYS"), (("--fallback", "default"), "EPERM")):
        done = autoprofile("compile", "p.yaml", "-o", "p.bpf", "--force", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        program = Program.from_bytes((tmp_path / "p.bpf").read_bytes())
        assert str(program.simulate("x86_64", 439)) == answer
        decided = autoprofile("decide", "p.yaml", "faccessat2", *options, cwd=tmp_path)
        assert decided.stdout.startswith(f"{answer}: "), decided.stderr
        assert (
            autoprofile("export", "p.yaml", "--to", "raw", "-o", "e.bpf", "--force", cwd=tmp_path).returncode
            == 0
        )
        assert ((tmp_path / "e.bpf").read_bytes() == bytes(program)) == (not options)
    pytest.importorskip("z3")
    assert autoprofile("prove", "p.yaml", cwd=tmp_path).returncode == 0
    assert autoprofile("prove", "p.yaml", "--filter", "p.bpf", cwd=tmp_path).returncode == 3
    literal = autoprofile("prove", "p.yaml", "--filter", "p.bpf", "--fallback", "default", cwd=tmp_path)
    assert literal.returncode == 0, literal.stdout


def test_no_older_filter_is_left_under_a_name_that_is_written(tmp_path: Path) -> None:
    """Whether one filter became several or several one, what is read under the name afterwards is the new one."""
    large_profile().save(tmp_path / "big.yaml")
    hand_written(tmp_path)
    for name in ("f.1.txt", "f.9.bpf", "f.x.bpf"):
        (tmp_path / name).write_text("no filter")

    def filters() -> list[str]:
        return sorted(p.name for p in tmp_path.glob("f.*bpf") if p.read_bytes() != b"no filter")

    assert autoprofile("compile", "p.yaml", "-o", "f.bpf", cwd=tmp_path).returncode == 0
    small = (tmp_path / "f.bpf").read_bytes()
    refused = autoprofile("compile", "big.yaml", "-o", "f.bpf", cwd=tmp_path)
    assert (refused.returncode, filters()) == (1, ["f.bpf"])
    assert one_error(refused.stderr).startswith("f.bpf: an older filter")
    assert "--force" in refused.stderr
    done = autoprofile("compile", "big.yaml", "-o", "f.bpf", "--force", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "removed f.bpf" in done.stderr
    stack = filters()
    assert len(stack) > 1
    assert stack == [f"f.{n}.bpf" for n in range(1, len(stack) + 1)]
    refused = autoprofile("compile", "p.yaml", "-o", "f.bpf", cwd=tmp_path)
    assert (refused.returncode, filters()) == (1, stack)
    assert autoprofile("compile", "p.yaml", "-o", "f.bpf", "--force", cwd=tmp_path).returncode == 0
    assert filters() == ["f.bpf"]
    assert (tmp_path / "f.bpf").read_bytes() == small
    assert (tmp_path / "f.9.bpf").read_text() == "no filter"
    (tmp_path / "f.bpf").unlink()
    (tmp_path / "f.bpf").symlink_to("p.yaml")
    refused = autoprofile("compile", "big.yaml", "-o", "f.bpf", "--force", cwd=tmp_path)
    assert refused.returncode == 1
    assert "no regular file" in one_error(refused.stderr)
    assert (tmp_path / "p.yaml").exists()


def test_json_and_a_file_for_the_filter_exclude_each_other(tmp_path: Path) -> None:
    """--json -o F would write no file: it is a usage error, not ignored."""
    hand_written(tmp_path)
    for words in (("compile", "p.yaml"), ("dump", "--pid", os.getpid())):
        done = autoprofile(*words, "--json", "-o", "f.bpf", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert "--json" in one_error(done.stderr)
    assert autoprofile("compile", "p.yaml", "--json", "-o", "-", cwd=tmp_path).returncode == 0


def test_names_of_files_are_shown_without_their_control_characters(tmp_path: Path) -> None:
    """A file whose name repaints the terminal, or ends the comment it is named in, is shown escaped."""
    hand_written(tmp_path)
    name = "a\x1b[31m\nb.bpf"
    assert autoprofile("compile", "p.yaml", "-o", name, cwd=tmp_path).returncode == 0
    shown = autoprofile("disassemble", name, name, cwd=tmp_path).stdout
    assert shown.startswith("; a\\x1b[31m\\nb.bpf: ")
    assert "\x1b" not in shown


def test_an_empty_filter_is_said_to_be_empty(tmp_path: Path) -> None:
    """Nothing is not called text."""
    (tmp_path / "empty.bpf").write_bytes(b"")
    done = autoprofile("disassemble", "empty.bpf", cwd=tmp_path)
    assert done.returncode == 1
    assert "the file is empty" in done.stderr


def test_a_rule_of_thousands_of_values_does_not_fill_the_screen(tmp_path: Path) -> None:
    """Decide shows the beginning and the end of a long explanation; its document has all of it."""
    values = frozenset(range(1, 9000, 3))
    Profile(rules=(SeccompRule("ioctl", Action.ALLOW, (Arg(1, "in", values),)),)).save(tmp_path / "p.yaml")
    for value, answer in ((4, "allow"), (5, "kill")):
        shown = autoprofile("decide", "p.yaml", "ioctl", 0, value, cwd=tmp_path).stdout
        assert shown.startswith(f"{answer}: ")
        assert len(shown) < 1000
        assert answer in shown[-20:]
        document = autoprofile("decide", "p.yaml", "ioctl", 0, value, "--json", cwd=tmp_path).stdout
        assert len(json.loads(document)["why"]) > 10_000
