"""Programs of others, with every instruction there is: the text, the simulator and the prover understand them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from autoprofile.filter import Program
from autoprofile.filter.simulate import run_words
from autoprofile.filter.symbolic import SymbolicPrograms
from autoprofile.profile import Action

from .programs import CONSTANTS, random_program


@pytest.mark.parametrize("seed", range(30))
def test_text_and_bytes_of_any_program(seed: int) -> None:
    """Each instruction has its line, and both byte orders are read back as what they are."""
    program = random_program(random.Random(seed), 60)
    assert len(program.disassemble().splitlines()) == len(program)
    for byteorder in ("little", "big"):
        turned = Program(list(program), byteorder=byteorder)  # type: ignore[arg-type]
        again = Program.from_bytes(bytes(turned), None)
        assert again == turned
        assert again.byteorder == byteorder
        assert len(again.disassemble().splitlines()) == len(program)


@pytest.mark.parametrize("seed", range(40))
def test_the_prover_runs_programs_as_the_simulator(seed: int) -> None:
    """With known words, and with unknown ones put in afterwards, the prover's answer is the simulator's."""
    z3 = pytest.importorskip("z3")
    rng = random.Random(seed)
    program = random_program(rng, 25)
    unknown: list[Any] = [z3.BitVec(f"word{i}", 32) for i in range(16)]
    prover = SymbolicPrograms(z3, (program,), unknown)
    symbolic = prover.run(unknown)
    for _ in range(5):
        words = [rng.choice((*CONSTANTS, rng.randrange(1 << 32))) for _ in range(16)]
        answer = Action.from_ret(run_words(program, words)).ret
        concrete = prover.run(words)
        assert (concrete if isinstance(concrete, int) else z3.simplify(concrete).as_long()) == answer
        known = [(one, z3.BitVecVal(value, 32)) for one, value in zip(unknown, words, strict=True)]
        assert z3.simplify(z3.substitute(symbolic, *known)).as_long() == answer
