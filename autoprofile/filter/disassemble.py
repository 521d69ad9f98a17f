"""Instructions → text, for filters from anyone: what A holds, and which calls get there, is followed.

Takes a valid program; gives one line an instruction, with the names of arches, calls, arguments and constants
where they are certain, and before each call's checks the rules that it stands for where they are given. Meant
for people and stable, not meant to be parsed back.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from autoprofile.abi.arch import ARCHES, arch_from_audit, audit_arch_name
from autoprofile.abi.constants import decode_value
from autoprofile.abi.signatures import CONSTRAINED_KINDS, signature
from autoprofile.abi.syscalls import display_name, syscall_name, syscall_table
from autoprofile.filter import opcodes as op
from autoprofile.filter.ranges import FULL32, contains, intersect, normal, size
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autoprofile.abi.signatures import ArgSpec
    from autoprofile.filter.program import Program, SockFilter
    from autoprofile.filter.ranges import Ranges

__all__ = ["RulesOf", "disassemble"]

#: Gives the rules of a call as text: (arch, number) → one line for each.
RulesOf: TypeAlias = "Callable[[str, int], Sequence[str]]"


class _State(NamedTuple):
    # What is known at an instruction on the paths that have the same in A: its name, and which calls get
    # there: by audit token (None where it may be any), the numbers they may have.
    a: str | None
    where: tuple[tuple[int | None, Ranges], ...]


_START = _State("0", ((None, FULL32),))
_U32 = 0xFFFFFFFF
_MINUS_ONE = 0xFFFFFFFF  # the number of a call that a tracer has taken away
_HIGH_BIT = 1 << 28  # a test for one bit from here on leaves a few ranges of numbers
_MOST_HELD = 4  # names of what A may hold at one instruction
_MOST_SHARING = 8  # calls that may share an instruction for its values to have names
_MOST_NAMED = 8  # calls listed behind a test that settles them
_MOST_RULES = 8  # rules listed before the checks of a call
_MOST_TEXT = 100  # characters of one of them
_ARGUMENT = re.compile(r"args\[(\d)\]\.(lo|hi)")


def disassemble(program: Program, rules: RulesOf | None = None) -> str:
    """Render a program, one instruction a line: index, operation, jump targets, and what it is about.

    Args:
        program: any valid filter.
        rules: the rules of each call, shown in comments of their own before the code that a note of the
            program says checks them.
    """
    states = _states(program, program.byteorder)
    width = len(str(len(program) - 1))
    lines = []
    for index, instruction in enumerate(program):
        here = states[index]
        note = program.notes.get(index, "")
        if note and rules:
            found = dict.fromkeys(rule for state in here for rule in _rules_at(state, rules))
            lines += [f"{'':{width}}  ; {rule}" for rule in found]
        text, comment = _render(index, instruction, here, program.byteorder)
        settled = [_settled(program, index, state) for state in here]
        remark = "; ".join(t for t in (comment, note, *settled) if t)
        if not here:
            remark = f"{remark}; never reached" if remark else "never reached"
        line = f"{index:>{width}}  {text}"
        lines.append(f"{line:<56}  ; {remark}" if remark else line.rstrip())
    return "\n".join(lines) + "\n"


def _rules_at(state: _State, rules: RulesOf) -> Iterator[str]:
    for arch, nr in _calls(state) or ():
        texts = rules(arch, nr)
        for text in texts[:_MOST_RULES]:
            yield text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"
        if len(texts) > _MOST_RULES:
            yield f"and {len(texts) - _MOST_RULES} more rules of {display_name(arch, nr)}"


def _calls(state: _State) -> list[tuple[str, int]] | None:
    # The calls that get to an instruction, where they are few and known.
    if sum(size(numbers) for _, numbers in state.where) > _MOST_SHARING:
        return None
    found = []
    for token, numbers in state.where:
        if token is None:
            return None
        found += [(arch_from_audit(token, nr), nr) for low, high in numbers for nr in range(low, high + 1)]
    return found


def _states(program: Sequence[SockFilter], byteorder: str) -> list[list[_State]]:
    # Jumps only go forward, so one pass suffices. Without any, no path leads to an instruction; compilers
    # share equal tests of different words, so there may be several.
    states: list[list[_State]] = [[] for _ in range(len(program) + 1)]
    states[0] = [_START]

    def reach(index: int, state: _State) -> None:
        here = states[index]
        for at, old in enumerate(here):
            if old.a == state.a or len(here) == _MOST_HELD:
                a = old.a if old.a == state.a else None
                here[at] = _State(a, _joined(old.where, state.where))
                return
        here.append(state)

    for index, (code, jt, jf, k) in enumerate(program):
        for state in states[index] if code not in (op.RET_K, op.RET_A) else ():
            if code == op.JA:
                reach(index + 1 + k, state)
            elif code in op.JUMP_NAMES:
                yes, no = _branches(code, k, state)
                reach(index + 1 + jt, yes)
                reach(index + 1 + jf, no)
            else:
                reach(index + 1, state._replace(a=_held(code, k, state.a, byteorder)))
    return states[: len(program)]


def _joined(
    one: tuple[tuple[int | None, Ranges], ...], other: tuple[tuple[int | None, Ranges], ...]
) -> tuple[tuple[int | None, Ranges], ...]:
    if one == other:
        return one
    found: dict[int | None, Ranges] = {}
    for token, numbers in (*one, *other):
        found[token] = normal((*found.get(token, ()), *numbers))
    return tuple(found.items())


def _branches(code: int, k: int, state: _State) -> tuple[_State, _State]:
    # What is known where a test holds, and where it does not.
    if state.a == "arch" and code == op.JEQ_K:
        here = [pair for token, numbers in state.where if token in (k, None) for pair in numbers]
        return state._replace(where=((k, normal(here)),)), state
    holding: Ranges | None = None
    if state.a == "nr":
        if code == op.JSET_K and k >= _HIGH_BIT and k.bit_count() == 1:
            holding = tuple((low, low + k - 1) for low in range(k, 1 << 32, 2 * k))
        else:
            low, high = {op.JEQ_K: (k, k), op.JGE_K: (k, _U32), op.JGT_K: (k + 1, _U32)}.get(code, (1, 0))
            holding = normal([(low, high)]) if code != op.JSET_K and not code & 8 else None
    if holding is None:
        return state, state
    return _limited(state, holding), _limited(state, _all_but(holding))


def _limited(state: _State, numbers: Ranges) -> _State:
    where = ((token, intersect(before, numbers)) for token, before in state.where)
    return state._replace(where=tuple(pair for pair in where if pair[1]))


def _all_but(some: Ranges) -> Ranges:
    edges = [-1, *(edge for pair in some for edge in pair), _U32 + 1]
    return normal((low + 1, high - 1) for low, high in zip(edges[::2], edges[1::2], strict=True))


def _settled(program: Program, index: int, state: _State) -> str:
    # Which calls a test of the number lets run whatever their arguments: the rules that need no code.
    code, jt, jf, k = program[index]
    if state.a != "nr" or code not in op.JUMP_NAMES or code & 8:
        return ""
    parts: dict[str, list[str]] = {}
    for target, after in zip((index + 1 + jt, index + 1 + jf), _branches(code, k, state), strict=True):
        while program[target].code == op.JA:
            target += 1 + program[target].k
        if program[target].code == op.RET_K:
            action = Action.from_ret(program[target].k)
            if action.is_permitting:
                parts.setdefault(str(action), []).extend(_named(after))
    return "; ".join(
        f"{action} {', '.join(names[:_MOST_NAMED])}" + (" …" if len(names) > _MOST_NAMED else "")
        for action, names in parts.items()
        if names
    )


def _named(state: _State) -> list[str]:
    found: dict[str, int] = {}
    for token, numbers in state.where:
        if token is None:
            return []
        for arch in sorted({arch_from_audit(token, low) for low, _ in numbers} & ARCHES.keys()):
            found |= {name: nr for name, nr in syscall_table(arch).items() if contains(numbers, nr)}
    return list(islice(sorted(found, key=lambda name: (found[name], name)), _MOST_NAMED + 1))


def _held(code: int, k: int, a: str | None, byteorder: str) -> str | None:
    if code == op.LD_ABS:
        return op.word_name(k, byteorder)
    if code == op.LD_IMM:
        return f"{k:#x}"
    if code == op.LD_LEN:
        return str(op.DATA_SIZE)
    if code in (op.LD_MEM, op.TXA):
        return None
    if code == op.AND_K:
        return f"{a} & {k:#x}" if a else None
    return None if code & 7 == 4 else a


def _render(index: int, instruction: SockFilter, here: Sequence[_State], byteorder: str) -> tuple[str, str]:
    code, jt, jf, k = instruction
    if code in (op.RET_K, op.RET_A):
        return _render_return(code, k)
    if code == op.JA:
        return f"ja    {index + 1 + k}", ""
    if code in op.JUMP_NAMES:
        operand = "x" if code & 8 else f"{k:#x}"
        text = f"{op.JUMP_NAMES[code]:<5} {operand:<11} jt {index + 1 + jt:<5} jf {index + 1 + jf}"
        return text, "" if code & 8 else " or ".join(dict.fromkeys(_meaning(code, k, one) for one in here))
    if code == op.LD_ABS:
        word = op.word_name(k, byteorder)
        names = {spec.name for state in here for spec in _specs(state, word)}
        return f"ld    [{k}]", f"{word} ({'/'.join(sorted(names))})" if names else word
    moves = {
        op.LD_IMM: f"ld    #{k:#x}",
        op.LD_MEM: f"ld    M[{k}]",
        op.LD_LEN: "ld    len",
        op.LDX_IMM: f"ldx   #{k:#x}",
        op.LDX_MEM: f"ldx   M[{k}]",
        op.LDX_LEN: "ldx   len",
        op.ST: f"st    M[{k}]",
        op.STX: f"stx   M[{k}]",
        op.TAX: "tax",
        op.TXA: "txa",
        op.NEG: "neg",
    }
    if code in moves:
        return moves[code], ""
    mnemonic, sign = op.ALU_OPERATIONS[code & 0xF0]
    operand = "x" if code & 8 else f"{k:#x}"
    return f"{mnemonic:<5} {operand}", f"A {sign}= {operand}"


def _render_return(code: int, k: int) -> tuple[str, str]:
    if code == op.RET_A:
        return "ret   a", ""
    action = Action.from_ret(k)
    odd = "" if action.ret == k else f"the kernel reads {k:#x} so"
    return f"ret   {action}", odd


def _meaning(code: int, k: int, state: _State) -> str:
    # The condition in words, with the names of arches and syscalls.
    a = state.a or "A"
    value = f"{k:#x}"
    if a == "arch":
        value = audit_arch_name(k)
    elif a == "nr" and code != op.JSET_K:
        names = {syscall_name(arch_from_audit(t, k), k) if t is not None else None for t, _ in state.where}
        name = names.pop() if len(names) == 1 else None
        value = f"{name} ({k})" if name else "-1" if k == _MINUS_ONE else str(k)
    symbols = _symbols(code, k, state)
    known = f" ({symbols})" if symbols else ""
    if code == op.JSET_K:
        return f"{a} & {value}{known}"
    return f"{a} {_SIGNS[code]} {value}{known}"


_SIGNS = {op.JEQ_K: "==", op.JGT_K: ">", op.JGE_K: ">="}


def _specs(state: _State, word: str) -> list[ArgSpec]:
    # The argument that a word is half of, for all calls that get here; [] where one of them is not known.
    match = _ARGUMENT.match(word)
    calls = _calls(state) if match else None
    found = []
    for arch, nr in calls or ():
        name = syscall_name(arch, nr)
        known = signature(arch, name) if name else None
        if known is None or match is None or int(match[1]) >= len(known.args):
            return []
        found.append(known.args[int(match[1])])
    return found


def _symbols(code: int, k: int, state: _State) -> str:
    # The tested value with the names of its bits, where all calls that get here agree on them.
    match = _ARGUMENT.match(state.a or "")
    if match is None or match[2] == "hi":
        return ""
    texts = set()
    calls = _calls(state) or ()
    for spec, (arch, _) in zip(_specs(state, match[0]), calls, strict=False):
        if spec.kind not in CONSTRAINED_KINDS or spec.constants is None:
            return ""
        if code != op.JSET_K:
            texts.add(f"{spec.name} {_SIGNS[code]} {decode_value(arch, spec, k)}")
        elif (spare := ~k & _U32).bit_count() < k.bit_count():
            texts.add(f"{spec.name} & ~({decode_value(arch, spec, spare) if spare else '0'})")
        else:
            texts.add(f"{spec.name} & ({decode_value(arch, spec, k)})")
    return texts.pop() if len(texts) == 1 else ""
