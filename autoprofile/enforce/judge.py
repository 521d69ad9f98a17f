"""Who decides at run time about calls that a profile leaves open: what they are told, what they may answer.

A call and its caller in, a `Verdict` out. `RiskPolicy` is the judge of hybrid profiles; hooks and the person
at the terminal are others. Whatever fails in a judge is a refusal. widens: a call let pass runs with whatever
its pointer arguments point to by then, so a verdict must rest on register values and on who calls, nothing
else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from autoprofile.errors import AutoprofileError
from autoprofile.profile.action import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["RISK_LEVELS", "CallEvent", "Judge", "RiskPolicy", "Verdict", "verdict_of"]

#: What `RiskPolicy` can be told to let pass, in rising order; each holds the ones before.
RISK_LEVELS: Final = ("none", "low", "medium")

_POSSIBLE: Final = frozenset({"allow", "log", "errno", "kill_process", "kill_thread"})
_OPAQUE: Final = frozenset({"clone3", "openat2"})  # their flags lie behind a pointer; libc has a sibling


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One call that the profile leaves open, as a judge sees it.

    Args:
        arch: name of the call's architecture (``x86_64``, ``i386``…).
        nr: syscall number of that arch.
        syscall: its name, None for a number without one.
        args: the six raw argument registers; an ``int`` argument may hold garbage above bit 31.
        decoded: the used arguments as symbols, by the kernel's names (``{"family": "AF_INET", …}``).
        program: executable of the caller, "?" when unknown.
        build_id: its ELF build-id.
        pid, tid, comm: process, thread, thread name. comm is the caller's own choice: evidence, no identity.
        location, symbol: the code that made the call; the caller can forge both.
        severity: "high", "medium" or "low" by autoprofile's risk classes; None for an ordinary call.
        risk: why, in a few words; None for an ordinary call.
        otherwise: what the caller gets when the judge has no opinion (``EPERM``, ``kill``).
    """

    arch: str
    nr: int
    syscall: str | None
    args: tuple[int, int, int, int, int, int]
    decoded: Mapping[str, str] = field(hash=False)
    program: str
    build_id: str | None
    pid: int
    tid: int
    comm: str
    location: str | None
    symbol: str | None
    severity: str | None
    risk: str | None
    otherwise: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge decided.

    Args:
        action: allow, log, an errno or kill.
        remember: answer identical calls (same thread and program, place, and raw arguments) the same way
            without asking again.
    """

    action: Action
    remember: bool = True


class Judge(Protocol):
    """Decides about calls that a profile leaves open.

    Attributes:
        by: how the audit log names it, one of `autoprofile.auditlog.DECIDERS`.
    """

    by: str

    def judge(self, event: CallEvent, waits: Callable[[], bool]) -> Verdict | None:
        """Decide; None for no opinion. Called from the serving thread, which holds the caller meanwhile.

        Args:
            event: the call.
            waits: tells whether anybody still waits for the answer: the caller may have been killed, the user
                may have pressed Ctrl-C. Whoever takes his time looks now and then, and has no opinion then.

        Raises:
            AutoprofileError: it cannot decide: the call gets ``event.otherwise``, and the user is told.
        """
        ...


def verdict_of(answer: object) -> Verdict | None:
    """Return the verdict that a plain value stands for.

    Args:
        answer: a `Verdict`; an `Action`; ``"allow"``, ``"log"``, ``"deny"`` (EPERM), ``"kill"``, an errno's
            name; or None.

    Raises:
        ValueError: anything else, True and False among it: which of them means what is not to be guessed; so
            is a `Verdict` that holds something else than an `Action`.
    """
    if answer is None:
        return None
    if isinstance(answer, Verdict):
        verdict = answer
    elif isinstance(answer, Action):
        verdict = Verdict(answer)
    elif isinstance(answer, str):
        try:
            verdict = Verdict(Action.errno("EPERM") if answer == "deny" else Action.parse(answer))
        except AutoprofileError as error:
            raise ValueError("this text is no answer") from error
    else:
        # Not its repr, which may be anybody's code.
        raise ValueError(f"a {type(answer).__name__} is no answer")  # noqa: TRY004
    action, remember = verdict.action, verdict.remember
    # Dataclasses do not look at the types of what they are given.
    if type(action) is not Action or type(action.data) is not int or type(remember) is not bool:
        raise ValueError("a verdict holds an Action and a bool")
    if action.kind not in _POSSIBLE:
        raise ValueError(f"{action} cannot be given from here")
    return Verdict(action, remember)


class RiskPolicy:
    """Decide by the risk classes of `autoprofile.abi`: refuse what is risky, let the rest pass and record it.

    Errs to both sides. narrows: numbers without a name, arches without tables, and calls whose arguments lie
    behind a pointer where libc has a checkable sibling (clone3, openat2) are refused. widens: an ordinary
    call passes with any arguments, and what it reaches through pointers (which file, which address) is not
    looked at.

    Args:
        highest: the riskiest class let pass, one of `RISK_LEVELS`. "none" lets only ordinary calls pass.
    """

    by = "policy"

    def __init__(self, highest: str = "low") -> None:
        if highest not in RISK_LEVELS:
            raise ValueError(f"no risk level {highest!r}; there are {', '.join(RISK_LEVELS)}")
        self._refused = frozenset({"low", "medium", "high"}) - frozenset(
            RISK_LEVELS[: RISK_LEVELS.index(highest) + 1]
        )

    def judge(self, event: CallEvent, waits: Callable[[], bool]) -> Verdict | None:  # noqa: ARG002
        """Decide one call."""
        if event.syscall is None or event.syscall in _OPAQUE:
            return Verdict(Action.errno("ENOSYS"))
        if event.severity in self._refused:
            return None
        return Verdict(Action.ALLOW)
