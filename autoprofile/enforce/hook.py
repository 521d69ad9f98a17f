"""A Python function of the user's that decides about calls: ``--hook FILE.py:function``.

The function gets a `CallEvent` and returns ``"allow"``, ``"deny"``, ``"kill"``, ``"log"``, an errno's name,
an `Action`, a `Verdict`, or None for no opinion. It fails closed: an exception, or an answer that is none of
these, gives the call what it would get without the hook, and is reported. Answers are remembered for
identical calls unless a `Verdict` says otherwise.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.enforce.judge import verdict_of
from autoprofile.errors import AutoprofileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoprofile.enforce.judge import CallEvent, Verdict

__all__ = ["HookJudge", "load_hook"]


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
    """Ask a function.

    Args:
        function: takes a `CallEvent`; see the module for what it may return.
    """

    by = "hook"

    def __init__(self, function: Callable[[CallEvent], object]) -> None:
        self._function = function

    def judge(self, event: CallEvent, waits: Callable[[], bool]) -> Verdict | None:  # noqa: ARG002
        """Decide one call.

        Raises:
            AutoprofileError: the function raised, or returned what is no answer.
        """
        try:
            answer = self._function(event)
        except KeyboardInterrupt:
            raise
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
        except KeyboardInterrupt:
            raise
        except (
            BaseException
        ) as error:  # its own code, of a class derived from Verdict or str, may have raised
            raise AutoprofileError(
                f"the hook answered {event.syscall or event.nr} with {_text_of(answer, repr)}, "
                "which is no answer",
                hint="return allow, deny, kill, log, the name of an errno, or None",
            ) from error


def _text_of(value: object, convert: Callable[[object], str]) -> str:
    # An object's __repr__ or __str__ is the user's code as well.
    try:
        return convert(value)
    except KeyboardInterrupt:
        raise
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
