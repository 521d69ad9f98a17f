"""Reviewing drift writes the profile that was decided on, keeps what people wrote, and can stop at any time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprofile.learn import learn
from autoprofile.observations import Trace
from autoprofile.profile import Profile
from tests.cli.tool import autoprofile, hand_written, one_error
from tests.unit.learn.traces import observed, trace_of

PROFILE = """\
autoprofile: 1
arch: [x86_64]
level: strict
mode: allowlist
default: kill
# what the web server needs
syscalls:
  read: any  # count=5
  # only Unix sockets: nothing here talks to the network
  socket:
    - {family: AF_UNIX, type: SOCK_STREAM, protocol: 0}
"""


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """A hand-written profile, and a trace with four differences to it."""
    trace: Trace = trace_of(
        observed("read"),
        observed("socket", 1, 1, 0),
        observed("socket", 2, 1, 0, count=3),
        observed("getpid"),
        observed("getuid"),
        observed("ptrace", 16),
    )
    trace.save(tmp_path / "t.parquet")
    return hand_written(tmp_path, PROFILE), tmp_path / "t.parquet"


def ids(profile: Path, trace: Path) -> dict[str, str]:
    done = autoprofile("drift", profile, trace, "--json", cwd=profile.parent)
    return {r["syscall"]: r["id"] for r in json.loads(done.stdout)["records"]}


def test_the_walk_carries_out_each_answer_and_keeps_comments(case: tuple[Path, Path]) -> None:
    """Accept, deny and keep are written at once; comments stay; what is left is asked the next time."""
    profile, trace = case
    with (profile.parent / "answers").open("w+") as answers:
        # ptrace denied, two skipped, socket explained and accepted
        answers.write("?\nd EACCES\ns\ns\ne\na\n")
        answers.seek(0)
        done = autoprofile("review", profile, trace, cwd=profile.parent, stdin=answers)
    assert done.returncode == 3, done.stderr
    assert "1 accept, 1 deny; 2 differences left" in done.stdout
    text = profile.read_text()
    assert "# what the web server needs\n" in text
    assert "# only Unix sockets: nothing here talks to the network\n" in text
    decided = Profile.load(profile)
    assert str(decided.decide("ptrace", 16).action) == "EACCES"
    assert str(decided.decide("socket", "AF_INET", "SOCK_STREAM", 0).action) == "allow"
    assert str(decided.decide("socket", "AF_INET", "SOCK_DGRAM", 0).action) == "kill"
    with (profile.parent / "answers").open("w+") as answers:
        answers.write("k\nk\n")
        answers.seek(0)
        again = autoprofile("review", profile, trace, "--why", "harmless", cwd=profile.parent, stdin=answers)
    assert again.returncode == 0, again.stderr
    assert "ptrace" not in again.stderr, "what was decided is asked only once"
    assert profile.read_text() == text
    verdicts = json.loads((profile.parent / "p.review.json").read_text())["verdicts"]
    assert {v["call"]: (v["verdict"], v["why"]) for v in verdicts} == {
        "ptrace(request=PTRACE_ATTACH)": ("deny", ""),
        "socket(family=AF_INET, type=SOCK_STREAM, protocol=IPPROTO_IP)": ("accept", ""),
        "getpid()": ("keep", "harmless"),
        "getuid()": ("keep", "harmless"),
    }


def test_what_is_settled_stays_settled(case: tuple[Path, Path]) -> None:
    """Drift leaves out what review settled, says so, and shows it with --all."""
    profile, trace = case
    found = ids(profile, trace)
    done = autoprofile(
        "review", profile, trace, "--keep", found["ptrace"], "--accept-below", "high", cwd=profile.parent
    )
    assert done.returncode == 0, done.stderr
    after = autoprofile("drift", profile, trace, cwd=profile.parent)
    assert after.returncode == 0
    assert "1 difference settled by review left out" in after.stderr
    shown = autoprofile("drift", profile, trace, "--all", "--json", cwd=profile.parent)
    assert shown.returncode == 3
    assert [r["id"] for r in json.loads(shown.stdout)["records"]] == [found["ptrace"]]


def test_accepting_below_a_severity_leaves_the_severe_alone(case: tuple[Path, Path]) -> None:
    """--accept-below high accepts low and medium differences, and never a high one."""
    profile, trace = case
    done = autoprofile("review", profile, trace, "--accept-below", "high", "--json", cwd=profile.parent)
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert [r["syscall"] for r in document["open"]] == ["ptrace"]
    assert str(Profile.load(profile).decide("ptrace", 16).action) == "kill"


def test_a_dry_run_writes_nothing(case: tuple[Path, Path]) -> None:
    """--dry-run shows the change and leaves profile and verdicts as they were."""
    profile, trace = case
    done = autoprofile("review", profile, trace, "--accept-below", "high", "--dry-run", cwd=profile.parent)
    assert "widened: syscalls.getpid: added" in done.stdout
    assert profile.read_text() == PROFILE
    assert not (profile.parent / "p.review.json").exists()


def test_an_edit_made_meanwhile_is_kept(case: tuple[Path, Path]) -> None:
    """The profile is read again before a verdict is written into it."""
    profile, trace = case
    found = ids(profile, trace)
    profile.write_text(PROFILE + "  write: any  # by hand\n")
    autoprofile("review", profile, trace, "--accept", found["getpid"], cwd=profile.parent)
    assert "write: any  # by hand" in profile.read_text()
    assert "getpid: any" in profile.read_text()


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--accept", "Dnone"], 2, "no difference has the id Dnone"),
        (["--accept", "D"], 2, "the beginning of 4 ids"),
        (["--deny", "{getpid}=EWRONG"], 2, "EWRONG"),
        (["--accept", "{getpid}", "--keep", "{getpid}"], 2, "two verdicts"),
        (["--accept", "{getpid}", "--deny", "{getuid}=EWRONG"], 2, "EWRONG"),
    ],
)
def test_a_wrong_verdict_changes_nothing(
    words: list[str], status: int, says: str, case: tuple[Path, Path]
) -> None:
    """One error, the status of the table, and both files as they were, even where other verdicts were right."""
    profile, trace = case
    found = ids(profile, trace)
    done = autoprofile("review", profile, trace, *(w.format(**found) for w in words), cwd=profile.parent)
    assert done.returncode == status, done.stderr
    assert says in one_error(done.stderr)
    assert profile.read_text() == PROFILE
    assert not (profile.parent / "p.review.json").exists()


def test_fail_on_decides_the_status_and_not_what_is_shown(case: tuple[Path, Path]) -> None:
    """--fail-on high shows every difference and fails only for a high one."""
    profile, trace = case
    assert autoprofile("drift", profile, trace, "--fail-on", "high", cwd=profile.parent).returncode == 3
    found = ids(profile, trace)
    autoprofile("review", profile, trace, "--keep", found["ptrace"], cwd=profile.parent)
    done = autoprofile("drift", profile, trace, "--fail-on", "high", cwd=profile.parent)
    assert done.returncode == 0
    assert "getpid" in done.stdout


def test_another_profile_is_evidence(case: tuple[Path, Path]) -> None:
    """What another profile allows and this one refuses is drift, with the other file as witness."""
    profile, _ = case
    other = hand_written(profile.parent, PROFILE + "  getpid: any\n", "other.yaml")
    done = autoprofile("drift", profile, other, "--json", cwd=profile.parent)
    assert done.returncode == 3
    (record,) = json.loads(done.stdout)["records"]
    assert (record["syscall"], record["witness"]["profile"]) == ("getpid", str(other))
    assert autoprofile("drift", other, profile, cwd=profile.parent).returncode == 0


def test_unused_days_claims_nothing_that_the_traces_do_not_cover(case: tuple[Path, Path]) -> None:
    """With traces of less than N days no rule is called unused for N days, and that is said."""
    profile, trace = case
    done = autoprofile("drift", profile, trace, "--unused-days", "30", cwd=profile.parent)
    assert done.returncode in (2, 3)
    assert "days" in done.stderr


def test_a_history_that_was_begun_grows_with_each_review(case: tuple[Path, Path]) -> None:
    """Without --record nothing is kept; after it, review adds versions with who, why and what changed."""
    profile, trace = case
    refused = autoprofile("history", profile, cwd=profile.parent)
    assert refused.returncode == 1
    assert "no history is kept" in one_error(refused.stderr)
    assert autoprofile("history", profile, "--record", "start", cwd=profile.parent).returncode == 0
    words = ["--accept-below", "high", "--why", "new release", "--who", "ann"]
    autoprofile("review", profile, trace, *words, cwd=profile.parent)
    document = json.loads(autoprofile("history", profile, "--json", cwd=profile.parent).stdout)
    first, second = document["versions"]
    assert document["is_current"]
    assert (first["why"], first["parent"]) == ("start", None)
    assert (second["why"], second["who"], second["parent"]) == ("new release", "ann", first["version"])
    assert {c["subject"] for c in second["changes"]} == {
        "syscalls.getpid",
        "syscalls.getuid",
        "syscalls.socket",
    }
    shown = autoprofile("history", profile, "--show", first["version"][:8], cwd=profile.parent)
    assert Profile.loads(shown.stdout) == Profile.loads(PROFILE)
    profile.write_text(PROFILE)
    changed = autoprofile("history", profile, cwd=profile.parent)
    assert "changed since its last version" in changed.stderr


@pytest.mark.kernel
def test_merging_and_learning_add_versions_to_a_history_that_was_begun(tmp_path: Path) -> None:
    """`learn --merge` and `merge -o` add a version when they change what the profile means, and else none."""
    profile = hand_written(tmp_path, PROFILE)
    autoprofile("history", profile, "--record", "start", cwd=tmp_path)
    for _ in range(2):
        done = autoprofile(
            "learn", "--backend", "notify", "--merge", "-o", profile, "--", "true", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    wider = hand_written(tmp_path, PROFILE + "  getpid: any\n", "wider.yaml")
    done = autoprofile("merge", profile, wider, "-o", profile, "--force", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(autoprofile("history", profile, "--json", cwd=tmp_path).stdout)
    assert [v["why"] for v in document["versions"]] == ["start", "learn: true", f"merge: {profile}, {wider}"]
    assert document["is_current"]


def killed(*numbers: int) -> str:
    """Return the kernel's records of killed calls, which hold no arguments."""
    return "".join(
        'type=SECCOMP msg=audit(1700000000.123:456): auid=0 uid=0 gid=0 ses=1 pid=7 comm="x" exe="/bin/x" '
        f"sig=31 arch=c000003e syscall={nr} compat=0 ip=0x7f01 code=0x80000000\n"
        for nr in numbers
    )


def test_nothing_that_nobody_saw_is_accepted_by_its_severity(tmp_path: Path) -> None:
    """--accept-below leaves alone what the evidence holds no arguments of, and says so; --accept can open it."""
    profile = hand_written(tmp_path, PROFILE)
    # socket, mmap, lseek (of no risk at all, but with an argument to compare) and getpid (without any)
    (tmp_path / "k.log").write_text(killed(41, 9, 8, 39))
    done = autoprofile("review", profile, "k.log", "--accept-below", "medium", cwd=tmp_path)
    assert "1 accept; 3 differences left" in done.stdout
    assert "1 left alone: the evidence does not hold their arguments" in done.stderr
    changed = Profile.load(profile)
    assert changed.syscalls("x86_64") == {"read", "socket", "getpid"}
    assert str(changed.decide("socket", "AF_PACKET", "SOCK_RAW", 0).action) == "kill"
    (lseek,) = [
        r["id"]
        for r in json.loads(autoprofile("drift", profile, "k.log", "--json", cwd=tmp_path).stdout)["records"]
        if r["syscall"] == "lseek"
    ]
    autoprofile("review", profile, "k.log", "--accept", lseek, cwd=tmp_path)
    assert str(Profile.load(profile).decide("lseek", 0, 0, 2).action) == "allow"


def test_a_call_that_was_killed_fails_the_build_though_its_arguments_are_unknown(tmp_path: Path) -> None:
    """Drift of a killed call exits with 3, and JUnit has a failure."""
    profile = hand_written(tmp_path, PROFILE)
    (tmp_path / "k.log").write_text(killed(41))
    done = autoprofile("drift", profile, "k.log", "--junit", "--fail-on", "high", cwd=tmp_path)
    assert done.returncode == 3
    assert 'failures="1"' in done.stdout
    assert "all allowed" not in done.stdout


def test_a_wide_rule_of_another_profile_is_not_accepted_as_ordinary(tmp_path: Path) -> None:
    """--accept-below and --fail-on look at the whole rule that an edit would add."""
    profile = hand_written(tmp_path, PROFILE)
    other = hand_written(
        tmp_path, PROFILE.replace("family: AF_UNIX", "family: [AF_UNIX, AF_PACKET]"), "o.yaml"
    )
    assert autoprofile("drift", profile, other, "--fail-on", "high", cwd=tmp_path).returncode == 3
    autoprofile("review", profile, other, "--accept-below", "high", cwd=tmp_path)
    assert profile.read_text() == PROFILE


@pytest.mark.parametrize("form", ["--json", "--junit", "--markdown", "--sarif", ""])
def test_no_form_calls_a_settled_refusal_allowed(case: tuple[Path, Path], form: str) -> None:
    """Once everything is settled, each form passes, and none says that all calls were allowed."""
    profile, trace = case
    everything = [word for id_ in ids(profile, trace).values() for word in ("--keep", id_)]
    assert autoprofile("review", profile, trace, *everything, cwd=profile.parent).returncode == 0
    done = autoprofile("drift", profile, trace, *([form] if form else []), cwd=profile.parent)
    assert done.returncode == 0
    assert "all allowed" not in done.stdout
    if form != "--sarif":
        assert "settled" in done.stdout


def test_a_call_denied_stays_settled_when_its_sibling_is_accepted(tmp_path: Path) -> None:
    """A verdict holds whatever other calls of that name are allowed later, and under the id it was given."""
    trace = trace_of(observed("read"), observed("dup3", 1, 2, 0), observed("dup3", 1, 2, 0o2000000))
    trace.save(tmp_path / "t.parquet")
    profile = hand_written(tmp_path, PROFILE)
    records = json.loads(autoprofile("drift", profile, "t.parquet", "--json", cwd=tmp_path).stdout)["records"]
    one, other = [r["id"] for r in records if r["syscall"] == "dup3"]
    autoprofile("review", profile, "t.parquet", "--keep", one, cwd=tmp_path)
    autoprofile("review", profile, "t.parquet", "--accept", other, cwd=tmp_path)
    done = autoprofile("drift", profile, "t.parquet", "--ignore-unused", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    shown = autoprofile("drift", profile, "t.parquet", "--ignore-unused", "--all", "--json", cwd=tmp_path)
    assert [r["id"] for r in json.loads(shown.stdout)["records"]] == [one]


@pytest.mark.parametrize(
    ("libc", "words", "status"),
    [
        ("glibc 2.36", ["--fail-on", "new-behaviour"], 3),
        ("glibc 2.37", ["--fail-on", "new-behaviour"], 0),
        (None, ["--fail-on", "new-behaviour"], 3),
        ("glibc 2.37", ["--fail-on", "new-behaviour", "--fail-on", "low"], 3),
        ("glibc 2.36", ["--fail-on", "high"], 0),
    ],
)
def test_a_build_may_fail_on_what_nothing_explains(
    tmp_path: Path, libc: str | None, words: list[str], status: int
) -> None:
    """A refused call of binaries as they were learned, or of unknown ones, fails; one of rebuilt ones does not."""
    learn(trace_of(observed("read"))).save(tmp_path / "p.yaml")
    trace_of(observed("read"), observed("getpid"), libc=libc).save(tmp_path / "t.parquet")
    done = autoprofile("drift", "p.yaml", "t.parquet", *words, cwd=tmp_path)
    assert done.returncode == status, done.stdout
