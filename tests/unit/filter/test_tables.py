"""The golden tables of tests/tables: calls and the answers their profiles give, as libseccomp writes such tables.

``NAME.yaml`` is the profile, ``NAME.tests`` the table: test name, arch (a name or an audit token), syscall (name,
number or range of numbers), six arguments (number, symbol, range ``low-high``; N for one that does not matter) and
the action.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprofile.abi.arch import ARCHES, arch_from_audit
from autoprofile.abi.constants import encode_value
from autoprofile.abi.signatures import signature
from autoprofile.abi.syscalls import syscall_name, syscall_nr
from autoprofile.filter import compile_profile
from autoprofile.profile import Profile

TABLES = sorted((Path(__file__).parent.parent.parent / "tables").glob("*.tests"))
U64 = 0xFFFFFFFFFFFFFFFF


def rows(path: Path) -> list[list[str]]:
    """Read a table."""
    lines = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return [cells for cells in lines if cells]


def numbers(text: str, arch: str, name: str | None, index: int) -> list[int]:
    """Give the values a cell stands for."""
    if text == "N":
        return [0, 7, U64]
    if span := re.fullmatch(r"(0x[0-9a-f]+|\d+)-(0x[0-9a-f]+|\d+)", text):
        return list(range(int(span[1], 0), int(span[2], 0) + 1))
    if re.fullmatch(r"-?\d+|0x[0-9a-f]+", text):
        return [int(text, 0) & U64]
    known = signature(arch, name or "")
    assert known is not None
    return [encode_value(arch, known.args[index], text)]


def calls(cells: list[str]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Give the (audit token, nr, args) of a row."""
    _, arch, syscall, *args, _ = cells
    token = ARCHES[arch].audit_arch if arch in ARCHES else int(arch, 0)
    nr = syscall_nr(arch, syscall)
    for one in [nr] if nr is not None else numbers(syscall, arch, None, 0):
        name = syscall_name(arch, one) if arch in ARCHES else None
        columns = [numbers(text, arch, name, index) for index, text in enumerate(args)]
        for choice in itertools.islice(itertools.product(*columns), 3000):
            yield token, one, choice


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
@pytest.mark.parametrize("bitmap", [True, False])
def test_every_row_holds_for_the_profile_and_its_filter(path: Path, bitmap: bool) -> None:
    """Profile.decide_call and the simulated filter give the action the table says."""
    profile = Profile.load(path.with_suffix(".yaml"))
    program = compile_profile(profile, bitmap=bitmap)
    for cells in rows(path):
        assert len(cells) == 10, cells
        for token, nr, args in calls(cells):
            said = profile.decide_call(arch_from_audit(token, nr), nr, args)
            assert str(said.action) == cells[-1], (cells, said.why)
            assert str(program.simulate(token, nr, args)) == cells[-1], (cells, program.disassemble())


def test_there_are_tables() -> None:
    """Each table has its profile, and no test name is used twice in one."""
    assert len(TABLES) >= 4
    for path in TABLES:
        names = [cells[0] for cells in rows(path)]
        assert len(set(names)) == len(names)
        assert path.with_suffix(".yaml").exists()
