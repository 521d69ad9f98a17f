"""What a filter answers for a call: the seccomp return actions, their text and their order of severity.

An `Action` is an immutable value; for every action `Action.parse(str(a)) == a` and
`Action.from_ret(a.ret) == a`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from autoprofile.errors import AutoprofileError

__all__ = ["KINDS", "MAX_ERRNO", "Action"]

# include/uapi/linux/seccomp.h. The kernel compares actions as signed 32-bit numbers, so KILL_PROCESS is the
# smallest and therefore the most severe.
_RET: Final = {
    "kill_process": 0x80000000,
    "kill_thread": 0x00000000,
    "trap": 0x00030000,
    "errno": 0x00050000,
    "notify": 0x7FC00000,
    "trace": 0x7FF00000,
    "log": 0x7FFC0000,
    "allow": 0x7FFF0000,
}
_KIND_OF_RET: Final = {ret: kind for kind, ret in _RET.items()}

#: Kinds of action, least severe first.
KINDS: Final = tuple(reversed(_RET))
_SEVERITY: Final = {kind: rank for rank, kind in enumerate(KINDS)}

#: The largest error number the kernel returns; it caps larger data silently (kernel/seccomp.c, MAX_ERRNO).
MAX_ERRNO: Final = 4095

_MAX_DATA: Final = {"errno": MAX_ERRNO, "trap": 0xFFFF, "trace": 0xFFFF}
_WORDS: Final = {
    "kill": "kill_process",
    "kill_process": "kill_process",
    "kill_thread": "kill_thread",
    "trap": "trap",
    "notify": "notify",
    "trace": "trace",
    "log": "log",
    "allow": "allow",
}
_WITH_DATA: Final = r"(errno|trap|trace)\((0|[1-9][0-9]{0,4})\)"


@dataclass(frozen=True, slots=True, repr=False)
class Action:
    """Answer one call as seccomp(2) does.

    Args:
        kind: one of `KINDS`.
        data: the error number of ``errno``, the value a SIGSYS handler or a tracer reads of ``trap`` and
            ``trace``; 0 for every other kind, whose data the kernel ignores.
    """

    kind: str
    data: int = 0

    ALLOW: ClassVar[Action]
    LOG: ClassVar[Action]
    TRACE: ClassVar[Action]
    NOTIFY: ClassVar[Action]
    TRAP: ClassVar[Action]
    KILL_THREAD: ClassVar[Action]
    KILL_PROCESS: ClassVar[Action]

    def __post_init__(self) -> None:
        if self.kind not in _RET:
            raise AutoprofileError(f"no action kind {self.kind!r}", hint="kinds: " + ", ".join(KINDS))
        limit = _MAX_DATA.get(self.kind, 0)
        if not 0 <= self.data <= limit:
            raise AutoprofileError(f"action {self.kind} carries data from 0 to {limit}, not {self.data}")

    @classmethod
    def errno(cls, error: str | int) -> Action:
        """Refuse the call with an error, by name (``"EPERM"``) or number; 0 returns 0 without running it."""
        if isinstance(error, str):
            from autoprofile.abi.constants import errno_number

            error = errno_number(error)
        return cls("errno", error)

    @classmethod
    def trap(cls, data: int = 0) -> Action:
        """Refuse the call with SIGSYS; the handler reads `data` in ``si_errno``."""
        return cls("trap", data)

    @classmethod
    def trace(cls, data: int = 0) -> Action:
        """Ask the ptrace tracer, which reads `data` with PTRACE_GETEVENTMSG; without tracer: ENOSYS."""
        return cls("trace", data)

    @classmethod
    def from_ret(cls, ret: int) -> Action:
        """Read a filter's 32-bit return value as the kernel does (kernel/seccomp.c, ``__seccomp_filter``)."""
        # An unknown action kills the process; error numbers are capped, ignored data is dropped.
        kind = _KIND_OF_RET.get(ret & 0xFFFF0000, "kill_process")
        return cls(kind, min(ret & 0xFFFF, _MAX_DATA.get(kind, 0)))

    @classmethod
    def parse(cls, text: str) -> Action:
        """Read the text form: ``allow``, ``kill``, ``EPERM``, ``errno(95)``, ``trap(3)``; errno is EPERM."""
        if text == "errno":
            return cls("errno", 1)
        if text in _WORDS:
            return cls(_WORDS[text])
        if match := re.fullmatch(_WITH_DATA, text):
            return cls(match[1], int(match[2]))
        if re.fullmatch(r"E[A-Z0-9]+", text):
            return cls.errno(text)
        raise AutoprofileError(
            f"no action {text!r}",
            hint="actions: allow, log, trace, notify, errno, an error name such as EPERM, trap, "
            "kill_thread, kill",
        )

    @property
    def ret(self) -> int:
        """Return the filter's 32-bit return value, ``SECCOMP_RET_*`` with the data in its low 16 bits."""
        return _RET[self.kind] | self.data

    @property
    def severity(self) -> int:
        """Return the rank of the kind, 0 for allow up to 7 for kill_process, as the kernel orders them."""
        return _SEVERITY[self.kind]

    @property
    def rank(self) -> tuple[int, int]:
        """Return a total order that refines `severity`: of two equal kinds the smaller data ranks higher."""
        return (_SEVERITY[self.kind], -self.data)

    @property
    def is_permitting(self) -> bool:
        """Return whether the kernel runs the call without asking anybody (allow, log)."""
        return self.kind in {"allow", "log"}

    @property
    def is_refusing(self) -> bool:
        """Return whether the kernel never runs the call (errno, trap, kill_thread, kill_process)."""
        return _SEVERITY[self.kind] >= _SEVERITY["errno"]

    def __repr__(self) -> str:
        return f"Action({self.kind!r}, {self.data})" if self.data else f"Action({self.kind!r})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002
        # Printers of notebooks and tests would list the class constants of every action, endlessly nested.
        printer.text(repr(self))

    def __str__(self) -> str:
        if self.kind == "errno":
            from autoprofile.abi.constants import errno_name

            return errno_name(self.data) or f"errno({self.data})"
        if self.kind == "kill_process":
            return "kill"
        return f"{self.kind}({self.data})" if self.data else self.kind


Action.ALLOW = Action("allow")
Action.LOG = Action("log")
Action.TRACE = Action("trace")
Action.NOTIFY = Action("notify")
Action.TRAP = Action("trap")
Action.KILL_THREAD = Action("kill_thread")
Action.KILL_PROCESS = Action("kill_process")
