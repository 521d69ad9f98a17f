"""The file reads back as written, is the same bytes every time, and says file:line about what is wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprofile.errors import AutoprofileError, ProfileError
from autoprofile.profile import Action, Arg, Evidence, Profile, Program, SeccompRule

from .strategies import EVIDENCE, calls_around, examples, profiles

HEAD = "autoprofile: 1\narch: [x86_64]\ndefault: kill\n"


@examples(40)
@given(profiles())
def test_a_profile_reads_back_as_written(profile: Profile) -> None:
    """parse(render(p)) == p, evidence included up to layout, and rendering is a fixed point."""
    text = profile.dumps()
    again = Profile.loads(text)
    assert again == profile
    assert again.rules == profile.rules
    assert again.dumps() == text
    assert Profile.loads(text).dumps() == text
    for arch, nr, args in calls_around(profile, limit=60):
        assert again.decide_call(arch, nr, args) == profile.decide_call(arch, nr, args)


@examples(15)
@given(profiles(), st.randoms(use_true_random=False))
def test_rendering_is_deterministic(profile: Profile, random: object) -> None:
    """The order rules are given in does not reach the text."""
    shuffled = list(profile.rules)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = Profile(
        profile.program,
        profile.learned,
        profile.arch,
        profile.level,
        profile.mode,
        profile.default,
        profile.bad_arch,
        tuple(shuffled),
    )
    assert again.dumps() == profile.dumps()


@given(EVIDENCE)
def test_evidence_survives_as_a_comment(evidence: Evidence | None) -> None:
    """Counts and times read back exactly, a reason up to its blanks and unprintable characters."""
    profile = Profile(rules=(SeccompRule("read", Action.ALLOW, evidence=evidence),))
    got = Profile.loads(profile.dumps()).rules[0].evidence
    reason = (
        " ".join("".join(c if c.isprintable() else " " for c in (evidence.reason or "")).split())
        if evidence
        else ""
    )
    if evidence is None:
        assert got is None
        return
    wanted = (evidence.count, evidence.processes, evidence.first_s, reason or None)
    if wanted == (None, None, None, None):
        assert got is None
        return
    assert got is not None
    assert (got.count, got.processes, got.first_s, got.reason) == wanted


def test_the_documented_example_means_what_it_says() -> None:
    """Every comparator form of the format does what its comment says."""
    profile = Profile.loads(
        HEAD
        + """\
level: strict
mode: allowlist
syscalls:
  read: any                                              # count=12 processes=3
  openat:
    - {flags: O_RDONLY|O_CLOEXEC, mode: any}
    - {flags: O_CREAT|O_WRONLY, mode: 0644}              # baseline: why not
  socket:
    - {family: AF_UNIX, type: [SOCK_STREAM, SOCK_STREAM|SOCK_CLOEXEC], protocol: 0}
  mprotect:
    - {prot: {mask: [PROT_READ, PROT_WRITE]}}
  mmap:
    - {prot: {masked_eq: [PROT_EXEC, 0]}, flags: any, off: {ge: 4096, le: 0x2000}}
  futex:
    - {op: {ge: 2, le: 9}}
  personality: [{personality: any, action: log}]
  lseek:
    - offset: -1
      whence: any
  900: any
deny:
  clone3: ENOSYS
  socket: [{family: AF_NETLINK, type: any, protocol: any, action: EPERM}]
"""
    )

    def kind(*call: object) -> str:
        return str(profile.decide(*call).action)  # type: ignore[arg-type]

    assert kind("openat", 0, 0, "O_RDONLY|O_CLOEXEC", 0o777) == "allow"
    assert kind("openat", 0, 0, "O_CREAT|O_WRONLY", 0o644) == "allow"
    assert kind("openat", 0, 0, "O_CREAT|O_WRONLY", 644) == "kill"
    assert kind("socket", "AF_UNIX", "SOCK_STREAM") == "allow"
    assert kind("socket", "AF_UNIX", "SOCK_CLOEXEC") == "kill"
    assert kind("socket", "AF_NETLINK") == "EPERM"
    assert kind("mprotect", 0, 0, "PROT_READ|PROT_WRITE") == "allow"
    assert kind("mprotect", 0, 0, "PROT_READ|PROT_EXEC") == "kill"
    assert kind("mmap", 0, 0, "PROT_READ|PROT_WRITE", 0, 0, 0x2000) == "allow"
    assert kind("mmap", 0, 0, "PROT_EXEC", 0, 0, 0x2000) == "kill"
    assert kind("mmap", 0, 0, "PROT_READ", 0, 0, 0x2001) == "kill"
    assert [kind("futex", 0, op) for op in (1, 2, 9, 10)] == ["kill", "allow", "allow", "kill"]
    assert kind("personality", 77) == "log"
    assert kind("lseek", 0, (1 << 64) - 1) == "allow"
    assert kind(900) == "allow"
    assert kind("clone3") == "ENOSYS"
    by_name = {rule.syscall: rule.evidence for rule in profile.rules if rule.evidence}
    assert by_name == {"read": Evidence(12, 3), "openat": Evidence(reason="baseline: why not")}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0644", 0o644),
        ("0o644", 0o644),
        ('"0644"', 0o644),
        ("644", 644),
        ("0x1A4", 0x1A4),
        ("0b110", 6),
        ("1_000", 1000),
        ("-1", (1 << 64) - 1),
        ("0xffffffffffffffff", (1 << 64) - 1),
        ("9223372036854775808", 1 << 63),
        ("18446744073709551615", (1 << 64) - 1),
        ("+5", 5),
        ("0", 0),
    ],
)
def test_numbers(text: str, value: int) -> None:
    """Decimal, hexadecimal, binary and octal as C and chmod write it; negatives are two's complement."""
    profile = Profile.loads(HEAD + f"syscalls:\n  lseek: [{{offset: {text}, whence: any}}]\n")
    assert profile.rules[0].comparators == (Arg(1, "eq", value, None, 64),)


@pytest.mark.parametrize(
    ("rule", "line", "what", "hint"),
    [
        ("  lseek: [{offset: 1:30, whence: 0}]", 5, "'1:30' is no number", "one number"),
        ("  lseek: [{offset: on, whence: 0}]", 5, "not a YAML boolean", "quote it"),
        ("  lseek: [{offset: 1.5, whence: 0}]", 5, "not a fraction", ""),
        ("  lseek: [{offset: 0899, whence: 0}]", 5, "is no number", "octal"),
        ("  lseek: [{offset: , whence: 0}]", 5, "not nothing", ""),
        ("  lseek: [{offset: 2001-01-01, whence: 0}]", 5, "not a date", ""),
        ("  lseek: [{offset: 18446744073709551616, whence: 0}]", 5, "64 bits", ""),
        ("  lseek: [{offset: any|1, whence: 0}]", 5, "any stands alone", ""),
        ("  lseek: [{offset: [any], whence: 0}]", 5, "any stands alone", ""),
        ("  lseek: [{offset: [], whence: 0}]", 5, "empty list", ""),
        ("  lseek: [{offset: {}, whence: 0}]", 5, "no operator", ""),
        ("  lseek: [{offset: {like: 1}, whence: 0}]", 5, "no operator 'like'", ""),
        ("  lseek: [{offset: {masked_eq: [1]}, whence: 0}]", 5, "two values", ""),
        ("  lseek: [{offset: {eq: 1, width: 16}, whence: 0}]", 5, "32 or 64", ""),
        ("  lseek: [{offset: {width: 32}, whence: 0}]", 5, "no operator", ""),
        ("  lseek: [{offset: {all: []}, whence: 0}]", 5, "no comparators", ""),
        ("  lseek: [{offset: {all: [{eq: 1}], ne: 2}, whence: 0}]", 5, "all stands alone", ""),
        ("  lseek: [{offset: {all: [{all: [{eq: 1}]}]}, whence: 0}]", 5, "all inside all", ""),
        (
            "  socket:\n    - {family: AF_UNIX,\n       type: 1, protocol: 4294967296}",
            7,
            "32 bits",
            "width: 64",
        ),
        ("  socket: [{family: AF_UNIXX, type: any, protocol: any}]", 5, "AF_UNIXX", "AF_UNIX"),
        ("  socket: [{famly: 1, type: any, protocol: any}]", 5, "no argument 'famly'", "family"),
        ("  socket: [{family: 1, arg0: 1, type: any, protocol: any}]", 5, "the same argument", ""),
        ("  socket: [{family: 1, type: any}]", 5, "leaves out protocol", "protocol: any"),
        ("  socket: [{family: 1, family: 2, type: 1, protocol: 0}]", 5, "'family' twice", "line 5"),
        ("  read: any\n  read: any", 6, "'read' twice", "line 5"),
        ("  read: any\n  0: any", 6, "syscall read twice", "line 5"),
        ("  opennat: any", 5, "no syscall 'opennat'", "openat"),
        ("  socketcall: any", 5, "no syscall 'socketcall'", "i386"),
        ("  -5: any", 5, "no syscall number", ""),
        ("  read: []", 5, "empty list", ""),
        ("  getpid: {}", 5, "empty", ""),
        ("  read: [[any]]", 5, "a mapping", ""),
        ("  read: yes", 5, "not a YAML boolean", ""),
        ("  read:", 5, "not nothing", ""),
        ("  read: EPERM", 5, "does not belong here", "move this rule to deny"),
        ("  read: maybe", 5, "no action 'maybe'", "actions:"),
        ("  [a]: any", 5, "a key", ""),
        ("  read: !!python/name:os.system any", 5, "not", ""),
    ],
)
def test_mistakes_in_rules_name_their_line(rule: str, line: int, what: str, hint: str) -> None:
    """Each mistake is one ProfileError with file:line, what is wrong, and a hint where there is one."""
    with pytest.raises(ProfileError) as caught:
        Profile.loads(HEAD + "syscalls:\n" + rule + "\n", "p.yaml")
    assert caught.value.where == f"p.yaml:{line}"
    assert what in caught.value.what
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "line", "what", "hint"),
    [
        ("", 1, "empty", ""),
        ("# only a comment\n", 1, "empty", ""),
        ("[1, 2]\n", 1, "a mapping", ""),
        ("arch: [x86_64]\ndefault: kill\n", 1, "no autoprofile", "autoprofile: 1"),
        ("autoprofile: 2\narch: [x86_64]\ndefault: kill\n", 1, "format 2", "format 1"),
        ("autoprofile: 1\ndefault: kill\n", 1, "no arch", ""),
        ("autoprofile: 1\narch: [x86_64]\n", 1, "no default", ""),
        ("autoprofile: 1\narch: x86_64\ndefault: kill\n", 2, "a list", ""),
        ("autoprofile: 1\narch: []\ndefault: kill\n", 2, "at least one arch", ""),
        ("autoprofile: 1\narch: [x86]\ndefault: kill\n", 2, "no arch 'x86'", "x86_64"),
        ("autoprofile: 1\narch: [i386, i386]\ndefault: kill\n", 2, "twice", ""),
        ("autoprofile: 1\narch: [x86_64]\ndefault: allow\n", 3, "contradicts", "denylist"),
        ("autoprofile: 1\narch: [x86_64]\ndefault: no\n", 3, "YAML boolean", "quote it"),
        (HEAD + "sycalls: {}\n", 4, "unknown key 'sycalls'", "syscalls"),
        (HEAD + "level: stricter\n", 4, "no level", "strict"),
        (HEAD + "mode: [allowlist]\n", 4, "text", ""),
        (HEAD + "default: kill\n", 4, "twice", "line 3"),
        (HEAD + "learned: {runs: 1}\n", 4, "no processes, events", ""),
        (HEAD + "learned: {runs: 1, processes: 1, events: -1}\n", 4, "whole number", ""),
        (HEAD + "learned: {runs: 1, processes: 1, events: 1, kernel: 6.18}\n", 4, "text", "quote it"),
        (HEAD + "learned: {runs: 1, processes: 1, events: 1, unseen: 1.5}\n", 4, "0 to 1", ""),
        (
            HEAD + "learned: {runs: 1, processes: 1, events: 1, lost: 2, complete: true}\n",
            4,
            "contradicts",
            "",
        ),
        (HEAD + "program: {pth: /bin/ls}\n", 4, "'pth'", "path"),
        (HEAD + "syscalls_by_arch: {i386: {read: any}}\n", 4, "does not list the arch 'i386'", ""),
        (HEAD + "deny:\n  clone3: allow\n", 5, "does not belong here", "move this rule to syscalls"),
        (HEAD + "deny:\n  clone3: any\n", 5, "no action 'any'", ""),
        (HEAD + "deny:\n  kill: [{pid: 1, sig: 9}]\n", 5, "no action", "action: EPERM"),
        (HEAD + "deny: {read: ENOPE}\n", 4, "ENOPE", ""),
        (
            "autoprofile: 1\narch: [x86_64, i386]\ndefault: kill\nsyscalls: {400: any}\n",
            4,
            "each of",
            "by_arch",
        ),
        (HEAD + "syscalls: {read: any\n", 5, "not YAML", ""),
        (HEAD + "syscalls:\n\tread: any\n", 5, "not YAML", ""),
        (HEAD + "--- \nautoprofile: 1\n", 4, "not YAML", ""),
        (HEAD + "syscalls: *rules\n", 4, "not YAML", ""),
        (HEAD + "program: {path: \x07}\n", None, "not YAML", ""),
    ],
)
def test_mistakes_in_the_header_name_their_line(text: str, line: int | None, what: str, hint: str) -> None:
    """Malformed YAML, missing, unknown and contradicting keys are one ProfileError with file:line."""
    with pytest.raises(ProfileError) as caught:
        Profile.loads(text, "p.yaml")
    assert caught.value.where == ("p.yaml" if line is None else f"p.yaml:{line}")
    assert what in caught.value.what
    assert hint in (caught.value.hint or "")


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    """Three thousand brackets are a ProfileError."""
    with pytest.raises(ProfileError):
        Profile.loads(HEAD + "syscalls: " + "[" * 3000)


def test_symbols_may_mean_other_numbers_on_other_arches() -> None:
    """One line under syscalls becomes one rule per arch where values or widths differ, and one line again."""
    text = """\
autoprofile: 1
arch: [x86_64, aarch64]
level: strict
mode: allowlist
default: kill
syscalls:
  openat:
    - {flags: O_RDONLY|O_DIRECTORY, mode: any}
  read: any
syscalls_by_arch:
  x86_64:
    open:
      - {flags: O_RDONLY, mode: any}
"""
    profile = Profile.loads(
        text.replace("syscalls_by_arch:\n  x86_64:\n    open", "  open").replace(
            "      - {flags: O_RDONLY,", "    - {flags: O_RDONLY,"
        )
    )
    assert profile.decide("openat", 0, 0, 0o200000).action == Action.ALLOW
    assert profile.decide("openat", 0, 0, 0o40000, arch="aarch64").action == Action.ALLOW
    assert profile.decide("openat", 0, 0, 0o200000, arch="aarch64").action == Action.KILL_PROCESS
    assert Profile.loads(profile.dumps()) == profile
    assert profile.dumps().count("openat:") == 1
    assert Profile.loads(text) == profile


def test_arguments_whose_kernel_name_looks_like_a_position() -> None:
    """Prctl's arg2 is its second argument, index 1; a bare number is always a position."""
    for spelling in ("arg2: 5", '"1": 5', "1: 5"):
        profile = Profile.loads(
            HEAD
            + f"syscalls:\n  prctl: [{{option: PR_SET_NAME, {spelling}, arg3: any, arg4: any, arg5: any}}]\n"
        )
        assert profile.rules[0].comparators[1] == Arg(1, "eq", 5, None, 64)
        assert "arg2: 5" in profile.dumps()
        assert Profile.loads(profile.dumps()) == profile
    beyond = Profile(rules=(SeccompRule("prctl", Action.ALLOW, (Arg(5, "eq", 1),)),))
    assert Profile.loads(beyond.dumps()) == beyond


def test_the_argument_named_off_is_no_boolean() -> None:
    """Mmap's off is a key like any other, quoted by us so that YAML 1.1 readers agree."""
    profile = Profile.loads(HEAD + "syscalls:\n  mmap: [{prot: any, flags: any, off: 0}]\n")
    assert profile.rules[0].comparators == (Arg(5, "eq", 0, None, 64),)
    assert '"off": 0' in profile.dumps()
    assert Profile.loads(profile.dumps()) == profile


def test_words_of_the_command_are_taken_as_written() -> None:
    """Argv and build_id keep their text whatever YAML would make of it."""
    profile = Profile.loads(
        HEAD
        + 'program: {path: "/a b", build_id: 1234, argv: [python3, -m, http.server, 8000, on, 1e3, ""]}\n'
    )
    assert profile.program == Program(
        "/a b", "1234", ("python3", "-m", "http.server", "8000", "on", "1e3", "")
    )
    assert Profile.loads(profile.dumps()) == profile


def test_loading_is_quick(tmp_path: Path) -> None:
    """A profile of 100 syscalls loads in 20 ms of processor time (three times that here: machines differ)."""
    from autoprofile.abi.signatures import constrained_args
    from autoprofile.abi.syscalls import syscall_table

    rules = []
    for name in list(syscall_table("x86_64"))[:100]:
        specs = constrained_args("x86_64", name)
        args = tuple(Arg(spec.index, "eq", 1) for spec in specs)
        rules.append(
            SeccompRule(name, Action.ALLOW, args, evidence=Evidence(5, 1))
            if args
            else SeccompRule(name, Action.ALLOW)
        )
    path = tmp_path / "p.yaml"
    Profile(rules=tuple(rules)).save(path)
    spent = []
    for _ in range(7):
        start = time.process_time()
        Profile.load(path)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.060


@pytest.mark.parametrize("raw", [b"\xff\xfe", HEAD.encode() + b"# \xe9\n"])
def test_files_that_are_not_utf8(tmp_path: Path, raw: bytes) -> None:
    """Bytes that are no UTF-8 are a ProfileError with their line."""
    path = tmp_path / "p.yaml"
    path.write_bytes(raw)
    with pytest.raises(ProfileError, match="UTF-8"):
        Profile.load(path)


def test_a_byte_order_mark_and_crlf_are_accepted(tmp_path: Path) -> None:
    """Files from Windows editors load, with the right line in errors."""
    path = tmp_path / "p.yaml"
    path.write_bytes(
        b"\xef\xbb\xbf" + (HEAD + "syscalls:\n  read: any  # count=3\n").replace("\n", "\r\n").encode()
    )
    assert Profile.load(path).rules[0].evidence == Evidence(3)
    path.write_bytes((HEAD + "bad: 1\n").replace("\n", "\r\n").encode())
    with pytest.raises(ProfileError) as caught:
        Profile.load(path)
    assert caught.value.where == f"{path}:4"


def test_a_missing_or_unreadable_file_is_one_error(tmp_path: Path) -> None:
    """Neither a missing file nor a directory is a traceback."""
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(AutoprofileError) as caught:
            Profile.load(path)
        assert caught.value.where == str(path)


def test_the_example_of_the_documentation_is_what_the_tool_writes() -> None:
    """The example in docs/profile-format.md loads and renders to its own bytes."""
    text = (Path(__file__).parents[3] / "docs" / "profile-format.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    assert Profile.loads(example).dumps() == example


def test_masks_written_when_an_argument_counted_as_64_bits_still_load() -> None:
    """A profile of before, whose mask has the upper half of an argument the kernel reads 32 bits of, is read."""
    text = """autoprofile: 1
arch: [x86_64]
default: kill
syscalls:
  mmap:
  - {prot: {masked_eq: [0xfffffffffffffffa, 1]}, flags: any}
  clone:
  - {clone_flags: {mask: [CLONE_VM, CLONE_FS]}}
"""
    profile = Profile.loads(text)
    (rule,) = profile.rules_for("x86_64", "mmap")
    assert rule.comparators == (Arg(2, "masked_eq", 1, mask=0xFFFFFFFA, width=32),)
    assert Profile.loads(profile.dumps()) == profile


def test_the_width_of_an_argument_follows_the_command_of_its_rule() -> None:
    """What fcntl's argument is follows from its command, in files, in rules made by hand, and back."""
    text = """autoprofile: 1
arch: [x86_64]
default: kill
syscalls:
  fcntl:
  - {arg: O_NONBLOCK, cmd: F_SETFL}
  - {cmd: F_SETLK, arg: 0x7fff00001234}
  - {cmd: [F_SETFL, F_SETLK], arg: 7}
"""
    profile = Profile.loads(text)
    widths = {
        rule.comparators[0].values: rule.comparators[1].width for rule in profile.rules_for("x86_64", "fcntl")
    }
    assert widths == {(4,): 32, (6,): 64, (4, 6): 64}
    assert Profile.loads(profile.dumps()) == profile
    assert "width" not in profile.dumps()
    by_hand = SeccompRule("fcntl", Action.errno("EPERM"), (Arg(1, "eq", 10), Arg(2, "eq", 9)))
    (bound,) = Profile(mode="denylist", default=Action.ALLOW, rules=(by_hand,)).rules
    assert [one.width for one in bound.comparators] == [32, 32]


@pytest.mark.parametrize(
    "rule",
    [
        "socket: [{family: AF_UNIX|AF_INET, type: any, protocol: any}]",
        "prctl: [{option: PR_SET_NAME|PR_SET_NO_NEW_PRIVS, arg2: any, arg3: any}]",
        "prctl: [{option: PR_CAP_AMBIENT, arg2: PR_CAP_AMBIENT_IS_SET|PR_CAP_AMBIENT_RAISE, arg3: any}]",
        "fcntl: [{cmd: [F_SETFL, F_SETFD|F_GETFL], arg: any}]",
    ],
)
def test_values_joined_into_another_are_refused_where_they_stand(rule: str) -> None:
    """AF_UNIX|AF_INET is not either but AF_AX25: the profile does not load, and says what to write."""
    text = f"autoprofile: 1\narch: [x86_64]\ndefault: kill\nsyscalls:\n  {rule}\n"
    with pytest.raises(ProfileError, match="stands for neither") as caught:
        Profile.loads(text, "p.yaml")
    assert caught.value.where == "p.yaml:5"


def test_bad_arch_cannot_open_an_allowlist() -> None:
    """Allowing every call of other arches contradicts an allowlist as default: allow does, at its line."""
    text = "autoprofile: 1\narch: [x86_64]\nmode: {}\ndefault: kill\nbad_arch: allow\n"
    with pytest.raises(ProfileError, match="contradicts bad_arch") as caught:
        Profile.loads(text.format("allowlist"), "p.yaml")
    assert caught.value.where == "p.yaml:5"
    assert Profile.loads(text.format("hybrid")).bad_arch == Action.ALLOW


@pytest.mark.parametrize(
    "family",
    ["{ge: 5, le: 2}", "{lt: 0}", "{gt: 0xffffffff}", "{all: [{eq: 1}, {eq: 2}]}", "{in: [1, 2], ge: 3}"],
)
def test_comparators_that_nothing_satisfies_are_refused(family: str) -> None:
    """A rule that can never match is a mistake, as an empty list is; the error names what contradicts."""
    text = f"autoprofile: 1\narch: [x86_64]\ndefault: kill\nsyscalls:\n  socket: [{{family: {family}, "
    with pytest.raises(ProfileError, match="no value of family satisfies") as caught:
        Profile.loads(text + "type: any, protocol: any}]\n", "p.yaml")
    assert caught.value.where == "p.yaml:5"
