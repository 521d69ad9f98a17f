"""The published schema and the parser accept the same files."""

from __future__ import annotations

import copy
import re
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.constants import constants
from autoprofile.errors import ProfileError
from autoprofile.profile import LEVELS, MODES, Profile
from autoprofile.profile.schema import profile_schema

from .strategies import examples, profiles

VALIDATOR = jsonschema.Draft202012Validator(profile_schema())


def as_json(data: Any) -> Any:
    """Return YAML data as JSON has it: keys are text."""
    if isinstance(data, dict):
        return {str(key): as_json(value) for key, value in data.items()}
    return [as_json(value) for value in data] if isinstance(data, list) else data


def schema_accepts(text: str) -> bool:
    """Return whether the schema accepts a text."""
    return VALIDATOR.is_valid(as_json(yaml.safe_load(text)))


def parser_accepts(text: str) -> bool:
    """Return whether the parser accepts a text."""
    try:
        Profile.loads(text)
    except ProfileError:
        return False
    return True


def test_the_schema_is_one() -> None:
    """It is a valid schema and lists the arches, levels, modes and errors the code knows."""
    schema = profile_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$defs"]["arch"]["enum"] == list(ARCHES)
    assert sorted(schema["$defs"]["error_name"]["enum"]) == sorted(constants("errno", "x86_64"))
    assert schema["properties"]["level"]["enum"] == list(LEVELS)
    assert schema["properties"]["mode"]["enum"] == list(MODES)


@examples(15)
@given(profiles())
def test_every_rendered_profile_is_valid(profile: Profile) -> None:
    """What the tool writes satisfies the schema it ships."""
    VALIDATOR.validate(as_json(yaml.safe_load(profile.dumps())))


# A file with every kind of node, of calls whose arguments may all be left out, so that any part can go.
WHOLE: dict[str, Any] = {
    "autoprofile": 1,
    "program": {"path": "/bin/x", "build_id": "ab12", "argv": ["x", 1]},
    "learned": {
        "runs": 1, "processes": 2, "events": 3, "lost": 0, "kernel": "6.18", "libc": None, "unseen": 0.5,
        "backend": "notify", "complete": True,
    },
    "arch": ["x86_64", "i386"],
    "level": "strict",
    "mode": "allowlist",
    "default": "kill",
    "bad_arch": "EPERM",
    "syscalls": {
        "getpid": "any",
        "getuid": ["log", "notify"],
        "write": {"fd": 1, "action": "trace(5)"},
        "read": [
            {"fd": 3, "count": [1, "2|0x10"]},
            {"fd": {"ge": 1, "le": 5, "ne": [2, 3]}, "arg1": "any", "action": "log"},
            {"fd": {"all": [{"masked_eq": [1, 0]}, {"masked_eq": [2, "0x2"], "width": 64}]}},
            {"fd": {"mask": [1, 2]}, "count": {"in": [1], "lt": 3}},
        ],
    },
    "syscalls_by_arch": {"i386": {"900": "any", "getppid": "any"}},
    "deny": {"getgid": "ENOSYS", "close": [{"fd": 1, "action": "errno(7)"}, "trap(1)"]},
    "deny_by_arch": {"x86_64": {"dup": "kill_thread"}},
}  # fmt: skip

REPLACEMENTS = [
    None, True, False, 0, 1, -1, 1.5, "", "any", "allow", "log", "kill", "EPERM", "ENOPE", "errno", "errno(95)",
    "errno(4096)", "errno(01)", "trap(65535)", "trap(65536)", "trace", "trace(1)", "1:30", "0644", "0x1F", "08",
    "1|2", "1||2", "1|any", " 1 | 2 ", "_", "kill|1", [], {}, [1], ["any"], [[1]], {"eq": 1}, {"mask": []}, {"eq": []},
    {"width": 32}, {"width": 32, "eq": 1}, {"all": []}, {"all": [{"eq": 1}]}, {"all": [{"eq": 1}], "eq": 1},
    {"all": [{"all": [{"eq": 1}]}]}, {"action": "EPERM"}, {"action": "log"}, {"fd": 1}, {"in": []}, {"in": 1},
    {"masked_eq": [1]}, {"masked_eq": [1, 2]}, {"ne": [1, 2]}, {"ne": []}, {"lt": [1]}, "strict", "permissive",
    "denylist", "hybrid", "x86_64", ["x86_64"], "i386", 32, 64, 1 << 64,
]  # fmt: skip
NEW_KEYS = [
    "extra",
    "fd",
    "action",
    "width",
    "eq",
    "all",
    "in",
    "lost",
    "default",
    "getpid",
    "900",
    "arg5",
    "bad key",
]


def paths_of(data: Any, path: tuple = ()) -> list[tuple]:
    """Return the paths of all nodes below the root."""
    found = [path] if path else []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += paths_of(value, (*path, key))
    return found


def is_semantic(error: ProfileError) -> bool:
    """Return whether an error is about kernel facts or about two places that have to agree."""
    return bool(
        re.search(
            r"no syscall|has no argument|takes numbers, not|does not list the arch|means another call"
            r"|the same argument|has the syscall|does not fit in the|is no value of argument",
            error.what,
        )
    )


@examples(100)
@given(st.data())
def test_schema_and_parser_agree_on_mutated_files(data: st.DataObject) -> None:
    """After removing, replacing or adding any node, both accept or both refuse the file."""
    document = copy.deepcopy(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths_of(document) or [()]))
        if not path:
            break
        parent: Any = document
        for key in path[:-1]:
            parent = parent[key]
        match data.draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "nest"])):
            case "replace":
                parent[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(REPLACEMENTS)))
            case "remove":
                del parent[path[-1]]
            case "nest":
                parent[path[-1]] = [parent[path[-1]]]
            case "add":
                value = copy.deepcopy(data.draw(st.sampled_from(REPLACEMENTS)))
                if isinstance(parent, dict):
                    parent[data.draw(st.sampled_from(NEW_KEYS))] = value
                else:
                    parent.append(value)
    text = yaml.safe_dump(document)
    accepted = schema_accepts(text)
    try:
        Profile.loads(text)
    except ProfileError as error:
        parsed = error
    else:
        parsed = None
    if parsed is None:
        assert accepted, text
    elif not is_semantic(parsed):
        assert not accepted, f"{parsed}\n{text}"


def test_the_whole_sample_is_valid() -> None:
    """The file the mutations start from is accepted by both."""
    text = yaml.safe_dump(WHOLE)
    VALIDATOR.validate(as_json(yaml.safe_load(text)))
    Profile.loads(text)


HEAD = "autoprofile: 1\narch: [x86_64]\ndefault: kill\n"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (HEAD, True),
        (HEAD + "syscalls:\ndeny:\n", True),
        (HEAD + "syscalls: {read: any, 900: any}\n", True),
        (HEAD + "syscalls: {openat: {flags: O_RDONLY, mode: 0644}}\n", True),
        (HEAD + "program:\nlearned:\n", True),
        ("autoprofile: 1\narch: [x86_64]\ndefault: allow\nmode: denylist\n", True),
        ("autoprofile: 1\narch: [x86_64]\ndefault: allow\n", False),
        ("autoprofile: 1\narch: [x86_64]\ndefault: kill\nmode: denylist\n", False),
        ("autoprofile: 1\narch: [x86_64]\ndefault: kill\nmode: hybrid\n", True),
        (HEAD + "syscalls: {read: {action: log}}\n", True),
        (HEAD + "syscalls: {read: EPERM}\n", False),
        (HEAD + "deny: {read: any}\n", False),
        (HEAD + "deny: {read: {fd: 1}}\n", False),
        (HEAD + "deny: {read: {action: allow}}\n", False),
        (HEAD + "syscall: {}\n", False),
        (HEAD + "syscalls: [read]\n", False),
        (HEAD + "learned: {runs: 1, processes: 1, events: 1, lost: 1, complete: true}\n", False),
    ],
)
def test_samples(text: str, valid: bool) -> None:
    """Schema and parser agree on samples of both kinds."""
    assert schema_accepts(text) is valid
    assert parser_accepts(text) is valid
