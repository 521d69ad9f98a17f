"""Saving: whole or not at all, never over a file unasked, and with everything people wrote still there."""

from __future__ import annotations

import difflib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autoprofile.errors import AutoprofileError, ProfileError
from autoprofile.profile import Action, Arg, Evidence, Profile, SeccompRule
from autoprofile.profile.edit import edit_profile
from autoprofile.profile.merge import merge

from .strategies import examples, profiles

WRITTEN = """\
# nginx on the front machines; ask ops before widening
autoprofile: 1
program: {path: /usr/sbin/nginx, argv: [nginx]}   # Debian's
learned: {runs: 1, processes: 3, events: 1203}
arch: [x86_64]
default: kill   # fail closed

syscalls:
  # --- files ---
  read: any                 # count=12 processes=3

  # configuration only
  openat:
    # read-only
    - {flags: O_RDONLY|O_CLOEXEC,   mode: any}   # count=3
    # the log
    - flags: O_WRONLY|O_APPEND   # opened once
      mode: any                  # count=1; rotated by cron

  # --- network ---
  socket: [{family: AF_UNIX, type: SOCK_STREAM, protocol: 0}, {family: AF_INET, type: SOCK_STREAM, protocol: 0}]
  write: any   # the answer
deny: {clone3: ENOSYS}
# the end
"""


def changed_lines(old: str, new: str) -> list[str]:
    """Return the lines that differ, as +line and -line."""
    return [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[:2] in {"+ ", "- "}]


def test_saving_an_unchanged_profile_changes_no_byte(tmp_path: Path) -> None:
    """Load and save leave a hand-written file exactly as it is."""
    path = tmp_path / "p.yaml"
    path.write_text(WRITTEN)
    profile = Profile.load(path)
    profile.save(path, overwrite=True)
    assert path.read_text() == WRITTEN


def allow(syscall: str, *args: Arg, **kwargs: object) -> SeccompRule:
    """Return an allow rule."""
    return SeccompRule(syscall, Action.ALLOW, args or SeccompRule("read", Action.ALLOW).args, **kwargs)  # type: ignore[arg-type]


def test_an_edit_touches_only_what_changed() -> None:
    """Added, widened, removed and recounted rules change their own lines and no others."""
    old = Profile.loads(WRITTEN)
    kept = [
        replace(rule, evidence=Evidence(99, 4)) if rule.syscall == "read" else rule
        for rule in old.rules
        if rule.syscall != "write"
        and not (rule.syscall == "openat" and rule.evidence and rule.evidence.count == 3)
    ]
    new = replace(
        old,
        default=Action.errno("EPERM"),
        rules=(
            *kept,
            allow("close", evidence=Evidence(1, 1)),
            allow("openat", Arg(2, "eq", 0), evidence=Evidence(2, 1)),
        ),
    )
    text = edit_profile(WRITTEN, new)
    assert Profile.loads(text) == new
    assert sorted(changed_lines(WRITTEN, text)) == sorted(
        [
            "- default: kill   # fail closed",
            "+ default: EPERM  # fail closed",
            "+   close: any  # count=1 processes=1",
            "-   read: any                 # count=12 processes=3",
            "+   read: any                 # count=99 processes=4",
            "-     - {flags: O_RDONLY|O_CLOEXEC,   mode: any}   # count=3",
            "+     - {flags: O_RDONLY, mode: any}  # count=2 processes=1",
            "-   write: any   # the answer",
            "+   # the answer",
        ]
    )


def test_a_rule_keeps_its_note_when_its_counts_change() -> None:
    """A person's note beside a rule survives a merge that recounts it."""
    merged = merge(Profile.loads(WRITTEN), Profile.loads(WRITTEN))
    text = edit_profile(WRITTEN, merged)
    assert "# count=2; rotated by cron" in text
    assert "# the answer" in text
    assert "# read-only" in text
    assert Profile.loads(text) == merged


def comments_of(text: str) -> list[str]:
    """Return the comment lines of a text in order."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("#")]


def decorated(text: str, random: object) -> str:
    """Return a rendered profile with a comment line put between some of its lines."""
    lines = []
    for number, line in enumerate(text.splitlines()):
        if random.random() < 0.4:  # type: ignore[attr-defined]
            lines.append(f"{' ' * random.choice([0, 2, 4])}# note {number}")  # type: ignore[attr-defined]
        lines.append(line)
    return "\n".join([*lines, "# end"]) + "\n"


@examples(40)
@given(profiles(), profiles(), st.randoms(use_true_random=False), st.booleans())
def test_any_edit_gives_the_new_profile_and_keeps_every_comment_line(
    old: Profile, new: Profile, random: object, small: bool
) -> None:
    """Whatever changes, the text means the new profile, and no comment line is lost or doubled."""
    if small and old.rules:
        new = replace(
            old, rules=(*old.rules[1:], *[r for r in new.rules if r.arch is None and r.syscall == "read"])
        )
    text = decorated(old.dumps(), random)
    assert Profile.loads(text) == old
    edited = edit_profile(text, new)
    assert Profile.loads(edited) == new
    notes = [line for line in comments_of(edited) if line.startswith("# note") or line == "# end"]
    assert sorted(notes) == sorted(comments_of(text))


@examples(15)
@given(profiles(), st.randoms(use_true_random=False))
def test_saving_what_was_loaded_changes_nothing(profile: Profile, random: object) -> None:
    """An edit without a difference returns the same bytes, whatever stands around the rules."""
    text = decorated(profile.dumps(), random)
    assert edit_profile(text, Profile.loads(text)) == text


@examples(20)
@given(profiles(), profiles(), st.booleans(), st.sampled_from([None, True, False]))
def test_other_layouts_are_edited_as_well(old: Profile, new: Profile, sort: bool, flow: bool | None) -> None:
    """Files laid out by another YAML tool, in braces throughout or not at all, take edits too."""
    data = yaml.safe_load(old.dumps())
    text = "# mine\n" + yaml.safe_dump(data, sort_keys=sort, default_flow_style=flow)
    assert Profile.loads(text) == old
    edited = edit_profile(text, new)
    assert Profile.loads(edited) == new
    assert "# mine" in edited
    assert edit_profile(text, Profile.loads(text)) == text


def test_saving_refuses_to_overwrite_unless_told(tmp_path: Path) -> None:
    """An existing file stays as it is, with one error that says what to do."""
    path = tmp_path / "p.yaml"
    path.write_text("precious")
    with pytest.raises(AutoprofileError) as caught:
        Profile().save(path)
    assert caught.value.where == str(path)
    assert "force" in (caught.value.hint or "")
    assert path.read_text() == "precious"
    Profile().save(path, overwrite=True)
    assert Profile.load(path) == Profile()
    assert [p.name for p in tmp_path.iterdir()] == ["p.yaml"]


def test_saving_into_a_missing_directory_is_one_error(tmp_path: Path) -> None:
    """The error names the file and the cause."""
    with pytest.raises(AutoprofileError, match="cannot write"):
        Profile().save(tmp_path / "none" / "p.yaml")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "a:\n" + "".join(" " * n + "-\n" for n in range(1, 2000)),
     "[[], " * 100_000, "['], '," * 100_000],
    ids=["lists", "mappings", "dashes", "indented", "closed-between", "closed-in-quotes"],
)  # fmt: skip
def test_deep_nesting_is_one_error_and_no_crash(text: str, tmp_path: Path) -> None:
    """Nesting that would run libyaml out of stack is refused with file and line, and the process lives."""
    (tmp_path / "deep.yaml").write_text("# deep\n" + text)
    done = subprocess.run(
        [sys.executable, "-m", "autoprofile", "enforce", "deep.yaml", "--", "true"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 125, done.returncode
    assert "nesting" in done.stderr  # in our words, or in those of a libyaml that has a limit of its own
    assert "deep.yaml:" in done.stderr


def test_brackets_in_words_are_no_nesting() -> None:
    """Brackets in the command a profile was learned from, however many, are no levels."""
    argv = ", ".join(['"["'] * 9000 + [f'"{"-" * 5000}"'])
    text = f"autoprofile: 1\nprogram: {{argv: [{argv}]}}\narch: [x86_64]\ndefault: kill\n"
    assert len(Profile.loads(text).program.argv) == 9001


def test_an_endless_file_is_refused(tmp_path: Path) -> None:
    """A device is read up to a limit no profile reaches."""
    with pytest.raises(ProfileError, match="MiB"):
        Profile.load("/dev/zero")
