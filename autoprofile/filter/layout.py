"""Lowered calls → one decision graph for all arches: arch first, then the number, then arguments.

Calls that are always allowed are reached by tests of arch and nr alone, so that Linux ≥ 5.11 answers them
from its bitmap; the tree over the numbers is built for the calls the kernel cannot answer that way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.arch import ARCHES, X32_SYSCALL_BIT
from autoprofile.abi.syscalls import newest_nr, syscall_table
from autoprofile.filter import opcodes as op
from autoprofile.filter.argdag import ArgumentCompiler, Weighted
from autoprofile.filter.graph import Graph
from autoprofile.filter.limits import bitmap_size
from autoprofile.filter.lower import Call, Decision
from autoprofile.filter.tree import Item, search_tree
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from autoprofile.filter.graph import NodeId

__all__ = ["Layout", "lay_out"]

_U32 = 0xFFFFFFFF
_MINUS_ONE = _U32  # seccomp_data.nr of a call whose number a tracer set to -1 to skip it
_X32_GATE = "x32 gate"


class Layout:
    """The decision graph of a filter.

    Attributes:
        graph: all nodes.
        root: where every call starts.
        calls: the node that decides each call, by (arch, nr).
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.root: NodeId = 0
        self.calls: dict[tuple[str, int], NodeId] = {}


def lay_out(
    arches: Mapping[str, Mapping[int, Call]],
    default: int,
    bad_arch: int,
    *,
    beyond: int | None = None,
    bitmap: bool = True,
) -> Layout:
    """Build the graph.

    Args:
        arches: by arch name, the calls that are not always answered with `default`.
        default: the answer for other calls of these arches.
        bad_arch: the answer for calls of any other arch.
        beyond: the answer, in place of the default, for numbers above the newest call known.
        bitmap: whether the kernel answers constant allows from its bitmap (Linux ≥ 5.11); without, every call
            counts in the expected number of instructions.
    """
    layout = Layout(Graph())
    beyond = default if beyond is None else beyond
    builder = _Builder(layout, arches, default, bad_arch, beyond, bitmap=bitmap)
    by_token: dict[int, list[str]] = {}
    for name in arches:
        by_token.setdefault(ARCHES[name].audit_arch, []).append(name)
    order = sorted(by_token, key=lambda token: -sum(builder.arch_weight(n) for n in by_token[token]))
    graph = layout.graph
    root = graph.ret(bad_arch)
    for token in reversed(order):  # the arch seen most is tested first; in doubt the profile's order
        root = graph.test(op.JEQ_K, token, graph.load(op.NR_OFFSET, builder.token(by_token[token])), root)
    layout.root = graph.load(op.ARCH_OFFSET, root)
    return layout


class _Builder:
    def __init__(
        self,
        layout: Layout,
        arches: Mapping[str, Mapping[int, Call]],
        default: int,
        bad_arch: int,
        beyond: int,
        *,
        bitmap: bool,
    ) -> None:
        self._layout = layout
        self._graph = layout.graph
        self._arches = arches
        self._default = default
        self._bad_arch = bad_arch
        self._beyond = beyond
        self._bitmap = bitmap
        self._arguments = ArgumentCompiler(layout.graph)

    def _runs_filter(self, arch: str, nr: int, call: Call) -> bool:
        constant_allow = not call.decision.cases and call.decision.final == Action.ALLOW.ret
        return not (constant_allow and self._bitmap and nr < bitmap_size(arch))

    def weight(self, arch: str, nr: int, call: Call) -> float:
        """Give how often the filter runs for a call."""
        return call.weight if self._runs_filter(arch, nr, call) else 0.0

    def arch_weight(self, arch: str) -> float:
        return sum(self.weight(arch, nr, call) for nr, call in self._arches[arch].items())

    def token(self, names: Sequence[str]) -> NodeId:
        """Make the node that decides by number for the arches of one audit token; A holds nr."""
        first = next((n for n in names if not ARCHES[n].nr_bit), None)
        if first is not None and first != "x86_64":
            return self._line(first, {}, self._default, self._beyond)
        # x86_64 and x32 share a token; bit 30 of the number tells them apart (in_x32_syscall() in the
        # kernel), but -1, which has every bit, is what a tracer leaves behind to skip a call: no x32 call,
        # and an unknown number of x86_64. The kernel answers it with ENOSYS whatever the filter allows.
        known, above = (self._default, self._beyond) if first else (self._bad_arch, self._bad_arch)
        x32_known, x32_above = (self._default, self._beyond) if "x32" in names else (self._bad_arch,) * 2
        minus_one = {} if _MINUS_ONE in self._arches.get("x86_64", {}) else {_MINUS_ONE: Decision((), above)}
        x32 = self._line("x32", minus_one, x32_known, x32_above)
        gate = self._graph.test(op.JSET_K, X32_SYSCALL_BIT, x32, self._graph.ret(above))
        gate_weight = self.arch_weight("x32") if "x32" in names else 0.0
        return self._line("x86_64", {}, known, above, gate, gate_weight)

    def _line(
        self,
        arch: str,
        extra: Mapping[int, Decision],
        otherwise: int,
        above: int,
        gate: NodeId | None = None,
        gate_weight: float = 0.0,
    ) -> NodeId:
        # The tree over all numbers; `gate` decides those with bit 30 and those next to them: it looks at the
        # bit itself. Rules for numbers above (-1, which a program may well call) leave it in its place.
        calls = self._arches.get(arch, {})
        points: dict[int, tuple[Hashable, float]] = {nr: (d, 0.0) for nr, d in extra.items()}
        weighted: dict[Decision, Weighted] = {}
        unseen = self.arch_weight(arch) == 0 if calls else False
        for nr, call in calls.items():
            weight = self.weight(arch, nr, call)
            if unseen and self._runs_filter(arch, nr, call):
                weight = 1.0  # nothing was measured: all calls that run the filter weigh alike
            points[nr] = (call.decision, weight)
            weighted.setdefault(call.decision, Weighted(call.decision, call.weights, call.final_weight))
        items: list[Item] = []
        numbers: dict[Hashable, int] = {}  # of the outcomes, which are too large to be compared often

        def put(low: int, high: int, outcome: Hashable, weight: float) -> None:
            items.append(Item(low, high, numbers.setdefault(outcome, len(numbers)), weight))

        rest, new = Decision((), otherwise), Decision((), above)
        newest = newest_nr(arch)
        if above != otherwise:  # arm has calls of its own far above the others
            for nr in syscall_table(arch).values():
                if nr > newest:
                    points.setdefault(nr, (rest, 0.0))

        def between(low: int, high: int) -> None:
            if low <= newest < high and above != otherwise:
                between(low, newest)
                low = newest + 1
            if low > high:
                return
            if gate is None or high < X32_SYSCALL_BIT:
                put(low, high, rest if high <= newest else new, 0.0)
            else:
                put(low, high, _X32_GATE, gate_weight if low <= X32_SYSCALL_BIT else 0.0)

        low = 0
        for nr, (outcome, weight) in sorted(points.items()):
            between(low, nr - 1)
            put(nr, nr, outcome, weight)
            low = nr + 1
        between(low, _U32)

        def leaf(outcome: object) -> NodeId:
            if outcome == _X32_GATE:
                assert gate is not None
                return gate
            assert isinstance(outcome, Decision)
            return self._arguments.build(weighted.get(outcome) or Weighted(outcome, (), 0.0))

        outcomes = list(numbers)

        def numbered(outcome: object) -> NodeId:
            assert isinstance(outcome, int)
            return leaf(outcomes[outcome])

        node = self._arguments.plant(search_tree(items), numbered)
        for nr, call in calls.items():
            root = leaf(call.decision)
            self._layout.calls[arch, nr] = root
            if call.decision.cases:
                self._graph.note(root, f"{arch} {call.name}" if len(self._arches) > 1 else call.name)
        return node
