"""The decision graph between rules and instructions: loads, masks, tests and returns, each distinct one once.

Nodes are numbers; a node is made after the nodes it leads to, so the graph has no cycles and a larger number
never follows from a smaller one. Equal subgraphs are one node, tests that decide nothing vanish as they are
made.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from autoprofile.filter import opcodes as op

__all__ = ["Graph", "Load", "Mask", "Node", "NodeId", "Ret", "Test"]

NodeId: TypeAlias = int


class Ret(NamedTuple):
    """Answer the call with this 32-bit value."""

    value: int


class Load(NamedTuple):
    """Put the word at this byte offset of ``struct seccomp_data`` in A."""

    offset: int
    then: NodeId


class Mask(NamedTuple):
    """Keep these bits of A."""

    k: int
    then: NodeId


class Test(NamedTuple):
    """Compare A with k: `code` is one of JEQ_K, JGT_K, JGE_K, JSET_K."""

    code: int
    k: int
    yes: NodeId
    no: NodeId


Node: TypeAlias = Ret | Load | Mask | Test


class Graph:
    """A growing set of shared nodes."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.notes: dict[NodeId, str] = {}
        self._known: dict[tuple[type[Node], Node], NodeId] = {}

    def _intern(self, node: Node) -> NodeId:
        key = (type(node), node)  # a Load and a Mask of equal fields are equal tuples
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = len(self.nodes)
            self.nodes.append(node)
        return known

    def ret(self, value: int) -> NodeId:
        """Make a return."""
        return self._intern(Ret(value))

    def load(self, offset: int, then: NodeId) -> NodeId:
        """Make a load; it is left out where nothing would read it."""
        if isinstance(self.nodes[then], Ret | Load):
            return then
        return self._intern(Load(offset, then))

    def mask(self, k: int, then: NodeId) -> NodeId:
        """Make an AND of A; it is left out where nothing would read it."""
        if isinstance(self.nodes[then], Ret | Load):
            return then
        return self._intern(Mask(k, then))

    def test(self, code: int, k: int, yes: NodeId, no: NodeId) -> NodeId:
        """Make a test; one whose branches agree is left out."""
        if yes == no:
            return yes
        if code == op.JGE_K and k == 0:
            return yes
        return self._intern(Test(code, k, yes, no))

    def note(self, node: NodeId, text: str) -> None:
        """Remember a comment for the instruction of a node; several are joined."""
        old = self.notes.get(node)
        if old is None:
            self.notes[node] = text
        elif text not in old.split(", "):
            self.notes[node] = f"{old}, {text}"

    def successors(self, node: NodeId) -> tuple[NodeId, ...]:
        """Give the nodes a node leads to."""
        content = self.nodes[node]
        if isinstance(content, Ret):
            return ()
        if isinstance(content, Test):
            return (content.yes, content.no)
        return (content.then,)

    def reachable(self, root: NodeId) -> list[NodeId]:
        """List the nodes reachable from a root, successors before the nodes leading to them."""
        seen = {root}
        stack = [root]
        while stack:
            for successor in self.successors(stack.pop()):
                if successor not in seen:
                    seen.add(successor)
                    stack.append(successor)
        return sorted(seen)
