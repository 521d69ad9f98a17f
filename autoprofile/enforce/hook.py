"""A Python function of the user's that decides about calls: ``--hook FILE.py:function``.

The function gets a `CallEvent` and returns ``"allow"``, ``"deny"``, ``"kill"``, ``"log"``, an errno's name,
an `Action`, a `Verdict`, or None for no opinion. It fails closed: an exception, or an answer that is none of
these, gives the call what it would get without the hook, and is reported; so does a function that takes too
long, and it is not called again before it returns. Answers are remembered for identical calls unless a
`Verdict` says otherwise.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoprofile.enforce.judge import verdict_of
from autoprofile.errors import AutoprofileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoprofile.enforce.judge import CallEvent, Verdict

__all__ = ["HOOK_TIMEOUT_S", "HookJudge", "load_hook"]

#: How long a hook may take to answer, in seconds, unless its function has an attribute ``timeout_s``.
HOOK_TIMEOUT_S: Final = 60.0

_LOOK_S: Final = 0.1  # how often to see whether the caller still waits for the answer


def load_hook(spec: str) -> Callable[[CallEvent], object]:
    """Load a function from ``FILE.py:function``; the file's own folder is not put on the import path.

    Raises:
        UsageError: the text is not of that form, the file cannot be read or run, or holds no such function.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise UsageError(f"{spec!r} names no hook", hint="give FILE.py:function")
    path = Path(file)
    if not path.is_file():
        raise UsageError("there is no such file", where=file)
    module_spec = importlib.util.spec_from_file_location("autoprofile_hook", path)
    if module_spec is None or module_spec.loader is None:
        raise UsageError("a hook is a Python file, named *.py", where=file)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses look their module up there
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # no __pycache__ beside the user's file
    try:
        module_spec.loader.exec_module(module)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UsageError(
            f"the hook cannot be loaded ({type(error).__name__}: {error})", where=_line_of(error, path)
        ) from error
    finally:
        sys.dont_write_bytecode = before
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"there is no function {name} in it", where=file)
    return function  # type: ignore[no-any-return]


class HookJudge:
    """Ask a function, one call at a time, in a thread of its own: whoever serves must not hang with it.

    Args:
        function: takes a `CallEvent`; see the module for what it may return.

    Raises:
        UsageError: its ``timeout_s`` is no time.
    """

    by = "hook"

    def __init__(self, function: Callable[[CallEvent], object]) -> None:
        timeout_s = getattr(function, "timeout_s", HOOK_TIMEOUT_S)
        if type(timeout_s) not in (int, float) or not 0 < timeout_s < math.inf:
            raise UsageError("the hook's timeout_s is no number of seconds above 0")
        self._function = function
        self._timeout_s = float(timeout_s)
        self._is_free = threading.Lock()  # held while the function runs, whoever has stopped waiting for it
        self._late_at = 0.0

    def judge(self, event: CallEvent, waits: Callable[[], bool]) -> Verdict | None:
        """Decide one call; None as soon as its caller does not wait any more.

        Raises:
            AutoprofileError: the function raised, returned what is no answer, or does not return in time.
        """
        while not self._is_free.acquire(timeout=_LOOK_S):
            if not waits():
                return None
            if time.monotonic() > self._late_at:
                raise AutoprofileError(
                    "the hook has not answered an earlier call yet; calls are decided without it until then"
                )
        found: list[Verdict | BaseException | None] = []
        is_done = threading.Event()

        def run() -> None:
            try:
                found.append(self._answer(event))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
                found.append(error)
            finally:
                self._is_free.release()
                is_done.set()

        self._late_at = time.monotonic() + self._timeout_s
        threading.Thread(target=run, name="hook", daemon=True).start()
        while not is_done.wait(_LOOK_S):
            if not waits():
                return None
            if time.monotonic() > self._late_at:
                raise AutoprofileError(
                    f"the hook did not answer {event.syscall or event.nr} within {self._timeout_s:g} s",
                    hint="give its function an attribute timeout_s if it needs longer",
                )
        (answer,) = found
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _answer(self, event: CallEvent) -> Verdict | None:
        try:
            answer = self._function(event)
        except BaseException as error:
            # Whatever the user's code raises, SystemExit too, is its failure and never a pass.
            where = _line_of(error, Path(str(getattr(self._function, "__module__", "hook"))))
            raise AutoprofileError(
                f"the hook failed on {event.syscall or event.nr} "
                f"({type(error).__name__}: {_text_of(error, str)})",
                where=where,
            ) from error
        try:
            return verdict_of(answer)
        except BaseException as error:
            # Its own code, of a class derived from Verdict or str, may have raised.
            raise AutoprofileError(
                f"the hook answered {event.syscall or event.nr} with {_text_of(answer, repr)}, "
                "which is no answer",
                hint="return allow, deny, kill, log, the name of an errno, or None",
            ) from error


def _text_of(value: object, convert: Callable[[object], str]) -> str:
    # An object's __repr__ or __str__ is the user's code as well.
    try:
        return convert(value)
    except BaseException:  # noqa: BLE001 - whatever it raises
        return f"<{type(value).__name__}>"


def _line_of(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{error.filename or path}:{error.lineno}"
    frame = error.__traceback__
    last = None
    while frame is not None:
        last = frame
        frame = frame.tb_next
    if last is None:
        return str(path)
    return f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"
