"""Instructions → text, for filters from anyone: what A holds is followed along every path, to print names.

Takes a valid program; gives one line an instruction. Meant for people and stable, not meant to be parsed
back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from autoprofile.abi.arch import arch_from_audit, audit_arch_name
from autoprofile.abi.syscalls import syscall_name
from autoprofile.filter import opcodes as op
from autoprofile.profile import Action

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprofile.filter.program import Program, SockFilter

__all__ = ["disassemble"]


class _State(NamedTuple):
    # What every path to an instruction agrees on: the name of what A holds, and the audit token of the call.
    a: str | None
    token: int | None


_START = _State("0", None)
_MINUS_ONE = 0xFFFFFFFF  # the number of a call that a tracer has taken away


def disassemble(program: Program) -> str:
    """Render a program, one instruction a line: index, operation, jump targets, and what it is about."""
    states = _states(program, program.byteorder)
    width = len(str(len(program) - 1))
    lines = []
    for index, instruction in enumerate(program):
        state = states[index]
        text, comment = _render(index, instruction, state, program.byteorder)
        remark = "; ".join(t for t in (comment, program.notes.get(index, "")) if t)
        if state is None:
            remark = f"{remark}; never reached" if remark else "never reached"
        line = f"{index:>{width}}  {text}"
        lines.append(f"{line:<56}  ; {remark}" if remark else line.rstrip())
    return "\n".join(lines) + "\n"


def _states(program: Sequence[SockFilter], byteorder: str) -> list[_State | None]:
    # Jumps only go forward, so one pass suffices. None: no path leads here.
    states: list[_State | None] = [None] * (len(program) + 1)
    states[0] = _START

    def reach(index: int, state: _State) -> None:
        old = states[index]
        if old is None:
            states[index] = state
        else:
            states[index] = _State(
                old.a if old.a == state.a else None, old.token if old.token == state.token else None
            )

    for index, (code, jt, jf, k) in enumerate(program):
        state = states[index]
        if state is None or code in (op.RET_K, op.RET_A):
            continue
        if code == op.JA:
            reach(index + 1 + k, state)
        elif code in op.JUMP_NAMES:
            known = _State(state.a, k) if code == op.JEQ_K and state.a == "arch" else state
            reach(index + 1 + jt, known)
            reach(index + 1 + jf, state)
        else:
            reach(index + 1, _State(_held(code, k, state.a, byteorder), state.token))
    return states[: len(program)]


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


def _render(index: int, instruction: SockFilter, state: _State | None, byteorder: str) -> tuple[str, str]:
    code, jt, jf, k = instruction
    if code in (op.RET_K, op.RET_A):
        return _render_return(code, k)
    if code == op.JA:
        return f"ja    {index + 1 + k}", ""
    if code in op.JUMP_NAMES:
        operand = "x" if code & 8 else f"{k:#x}"
        text = f"{op.JUMP_NAMES[code]:<5} {operand:<11} jt {index + 1 + jt:<5} jf {index + 1 + jf}"
        return text, "" if code & 8 or state is None else _meaning(code, k, state)
    if code == op.LD_ABS:
        return f"ld    [{k}]", op.word_name(k, byteorder)
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
        name = None if state.token is None else syscall_name(arch_from_audit(state.token, k), k)
        value = f"{name} ({k})" if name else "-1" if k == _MINUS_ONE else str(k)
    if code == op.JSET_K:
        return f"{a} & {value}"
    return f"{a} {({op.JEQ_K: '==', op.JGT_K: '>', op.JGE_K: '>='})[code]} {value}"
