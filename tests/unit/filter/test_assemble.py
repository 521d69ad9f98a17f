"""Assembly keeps what the graph decides, whatever the distances."""

from __future__ import annotations

import pytest

from autoprofile.filter import Program
from autoprofile.filter import opcodes as op
from autoprofile.filter.assemble import assemble
from autoprofile.filter.graph import Graph
from autoprofile.filter.simulate import run_words, words_of_call


def chain(graph: Graph, length: int) -> int:
    """Make a chain of tests of nr: number n is answered with n, others with 99999."""
    node = graph.ret(99999)
    for n in reversed(range(length)):
        node = graph.test(op.JEQ_K, n, graph.ret(n), node)
    return graph.load(op.NR_OFFSET, node)


@pytest.mark.parametrize("length", [1, 2, 100, 127, 128, 129, 250, 256, 300, 1500])
def test_a_chain_of_any_length_answers_each_number(length: int) -> None:
    """Returns out of an 8-bit jump's reach are repeated nearby; every number keeps its answer."""
    graph = Graph()
    instructions, _ = assemble(graph, chain(graph, length))
    program = Program(instructions)
    for nr in (*range(length), length, 0xFFFFFFFF):
        assert run_words(program, words_of_call(1, nr, ())) == (nr if nr < length else 99999)


def test_a_far_subtree_is_reached_over_a_trampoline() -> None:
    """A jump to code more than 255 instructions away goes over ja, and one trampoline serves many."""
    graph = Graph()
    far = graph.load(16, graph.test(op.JGE_K, 5, graph.ret(1), graph.ret(2)))
    node = far
    for n in reversed(range(600)):
        # every test may lead to the far part, whose own answers differ from the near ones
        near = graph.load(24, graph.test(op.JEQ_K, n, graph.ret(1000 + n), graph.ret(3)))
        node = graph.test(op.JEQ_K, n, near, graph.test(op.JEQ_K, 10_000 + n, far, node))
    program = Program(assemble(graph, graph.load(op.NR_OFFSET, node))[0])
    assert any(i.code == op.JA for i in program)
    assert sum(i.code == op.JA for i in program) < 200
    for n in range(0, 600, 7):
        assert run_words(program, words_of_call(1, n, (0, n))) == 1000 + n
        assert run_words(program, words_of_call(1, n, (0, n + 1))) == 3
        assert run_words(program, words_of_call(1, 10_000 + n, (5,))) == 1
        assert run_words(program, words_of_call(1, 10_000 + n, (4,))) == 2


def test_a_shared_test_is_repeated_where_a_jump_would_be() -> None:
    """Two words, one test of either: the second load is followed by the test itself, not by a jump to it."""
    graph = Graph()
    shared = graph.test(op.JEQ_K, 5, graph.ret(1), graph.ret(2))
    node = graph.test(op.JEQ_K, 1, graph.load(16, shared), graph.load(24, shared))
    program = Program(assemble(graph, graph.load(0, node))[0])
    assert [i.code for i in program].count(op.JEQ_K) == 3
    assert op.JA not in [i.code for i in program]
    for nr, args, answer in ((1, (5, 0), 1), (1, (0, 5), 2), (2, (0, 5), 1), (2, (5, 0), 2)):
        assert run_words(program, words_of_call(1, nr, args)) == answer


def test_equal_nodes_are_one_instruction() -> None:
    """A shared subgraph is written once."""
    graph = Graph()
    shared = graph.load(16, graph.test(op.JEQ_K, 5, graph.ret(1), graph.ret(2)))
    node = graph.test(op.JEQ_K, 1, shared, graph.test(op.JEQ_K, 3, shared, graph.ret(2)))
    assert len(assemble(graph, graph.load(0, node))[0]) == 7


def test_tests_and_loads_that_decide_nothing_are_left_out() -> None:
    """A test with equal branches, and a load before a return, leave no instruction."""
    graph = Graph()
    assert graph.test(op.JEQ_K, 1, graph.ret(1), graph.ret(1)) == graph.ret(1)
    assert graph.load(16, graph.ret(1)) == graph.ret(1)
    assert graph.test(op.JGE_K, 0, graph.ret(1), graph.ret(2)) == graph.ret(1)


def test_the_program_depends_on_the_graph_alone() -> None:
    """Assembling twice gives the same bytes."""
    first, second = Graph(), Graph()
    assert assemble(first, chain(first, 700)) == assemble(second, chain(second, 700))
