"""Decision graph → instructions: an order in which every jump goes forward, and jumps that reach.

Never changes what the graph decides. A conditional jump reaches 255 instructions; where a target is farther,
a return or a test is repeated nearby (that costs nothing at run time), else it gets a ``ja`` nearby.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.filter import opcodes as op
from autoprofile.filter.graph import Load, Ret, Test
from autoprofile.filter.program import SockFilter

if TYPE_CHECKING:
    from autoprofile.filter.graph import Graph, NodeId

__all__ = ["assemble"]

_REACH = 255


def assemble(graph: Graph, root: NodeId) -> tuple[list[SockFilter], dict[int, str]]:
    """Lay out what is reachable from a root.

    The program is written from its end: whatever a jump leads to has its final place already, so each
    distance is exact when the jump is written, and one pass is enough. (Placing forward and widening jumps
    until nothing changes gives the same programs, in several passes.)

    Returns:
        The instructions, and the graph's notes by instruction index.
    """
    writer = _Writer(graph)
    for node in _placement(graph, root):
        writer.write(node)
    return writer.finish()


def _placement(graph: Graph, root: NodeId) -> list[NodeId]:
    # Successors before the nodes leading to them (the order of writing). Of two successors the smaller part
    # is written last and so comes to stand right behind its test: the jump over it is the shorter one.
    weight: dict[NodeId, int] = {}
    for node in graph.reachable(root):
        weight[node] = min(1 + sum(weight[s] for s in graph.successors(node)), 1 << 40)
    order: list[NodeId] = []
    seen: set[NodeId] = set()
    stack: list[tuple[NodeId, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if node in seen:
            continue
        seen.add(node)
        stack.append((node, True))
        # The stack turns the order around: pushed last is visited, hence written, first.
        stack.extend((s, False) for s in sorted(graph.successors(node), key=lambda s: (weight[s], -s)))
    return order


class _Writer:
    # Holds the program back to front: index 0 is its last instruction.

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._reversed: list[SockFilter] = []
        self._notes: dict[int, str] = {}
        self._home: dict[NodeId, int] = {}  # where the node itself stands
        self._nearest: dict[NodeId, int] = {}  # the node, or its latest copy or trampoline

    def write(self, node: NodeId) -> None:
        content = self._graph.nodes[node]
        if isinstance(content, Ret):
            self._emit(SockFilter(op.RET_K, 0, 0, content.value), node)
        elif isinstance(content, Test):
            self._bring_near((content.yes, content.no))
            jt, jf = self._distance(content.yes), self._distance(content.no)
            self._emit(SockFilter(content.code, jt, jf, content.k), node)
        else:
            if self._home[content.then] != len(self._reversed) - 1:
                self._go(content.then)
            code = op.LD_ABS if isinstance(content, Load) else op.AND_K
            k = content.offset if isinstance(content, Load) else content.k
            self._emit(SockFilter(code, 0, 0, k), node)
        self._home[node] = self._nearest[node] = len(self._reversed) - 1

    def finish(self) -> tuple[list[SockFilter], dict[int, str]]:
        last = len(self._reversed) - 1
        return self._reversed[::-1], {last - i: text for i, text in sorted(self._notes.items(), reverse=True)}

    def _emit(self, instruction: SockFilter, node: NodeId | None = None) -> None:
        if node is not None and node in self._graph.notes:
            self._notes[len(self._reversed)] = self._graph.notes[node]
        self._reversed.append(instruction)

    def _distance(self, node: NodeId) -> int:
        # Of a jump written next.
        return len(self._reversed) - self._nearest[node] - 1

    def _bring_near(self, targets: tuple[NodeId, ...]) -> None:
        # Bringing one near moves the other away by one, hence the loop.
        while far := [t for t in targets if self._distance(t) > _REACH]:
            self._go(far[0])

    def _go(self, node: NodeId) -> None:
        content = self._graph.nodes[node]
        if isinstance(content, Ret):
            self._emit(SockFilter(op.RET_K, 0, 0, content.value), node)
        elif isinstance(content, Test) and max(map(self._distance, (content.yes, content.no))) <= _REACH:
            # A copy of the test is as long as a jump to it, and saves the jump.
            jt, jf = self._distance(content.yes), self._distance(content.no)
            self._emit(SockFilter(content.code, jt, jf, content.k), node)
        else:
            self._emit(SockFilter(op.JA, 0, 0, len(self._reversed) - self._home[node] - 1))
        self._nearest[node] = len(self._reversed) - 1
