"""The errors autoprofile raises: each says what went wrong, where, and what to do.

Everything a caller may want to catch derives from `AutoprofileError`; nothing here prints or exits.
The exit status each class carries is the one the command line answers with (table in README.md).
"""

from __future__ import annotations

__all__ = ["AutoprofileError", "LaunchError", "MachineError", "ProfileError", "UsageError"]


class AutoprofileError(Exception):
    """Report an operational failure.

    Args:
        what: one sentence that names the failure and the thing it happened to.
        where: the file, ``file:line`` or object concerned, when there is one.
        hint: what the reader can do about it, when that is known.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class UsageError(AutoprofileError):
    """Report arguments that make no sense together (exit status 2, as click's own)."""

    exit_status = 2


class MachineError(AutoprofileError):
    """Report that this machine cannot do what was asked; the hint says what would make it (exit status 4)."""

    exit_status = 4


class ProfileError(AutoprofileError):
    """Report a profile that does not parse or contradicts itself; `where` is ``file:line``."""


class LaunchError(AutoprofileError):
    """Report that a command was not run under our control.

    Args:
        exit_status: 127 when it was not found, 126 when it cannot be executed, 125 when autoprofile itself
            failed: the convention of ``env(1)`` and ``timeout(1)``.
    """

    def __init__(
        self, what: str, *, exit_status: int, where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.exit_status = exit_status
