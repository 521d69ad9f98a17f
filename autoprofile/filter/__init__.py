"""Profile → seccomp filter: compile, simulate, assemble and disassemble classic BPF.

Stages: `lower` (rules to constraints on 32-bit words), `layout` and `argdag` (to a decision graph, with
`tree` choosing the tests), `assemble` (to instructions). Pure; only `Filter.load` touches the kernel.
"""

from __future__ import annotations

from autoprofile.filter.compiler import FilterTooLarge, compile_asking, compile_profile, compile_stack
from autoprofile.filter.filter import Filter
from autoprofile.filter.program import Program, SockFilter
from autoprofile.filter.simulate import FilterInvalid

__all__ = [
    "Filter",
    "FilterInvalid",
    "FilterTooLarge",
    "Program",
    "SockFilter",
    "compile_asking",
    "compile_profile",
    "compile_stack",
]
