"""The exit statuses of the command line, each under one name.

Verbs return one of these; verbs that run a command return the command's own status instead, as ``env(1)`` and
``timeout(1)`` do: 128+N when signal N ended it, 125, 126 or 127 when it never ran.
"""

from __future__ import annotations

__all__ = [
    "CANNOT",
    "CANNOT_EXECUTE",
    "DONE",
    "FAILED",
    "FINDINGS",
    "INTERRUPTED",
    "NOT_FOUND",
    "NOT_RUN",
    "PIPE_CLOSED",
    "SIGSYS_DEATH",
    "TABLE",
    "USAGE",
]

DONE = 0
FAILED = 1
USAGE = 2
FINDINGS = 3
CANNOT = 4
NOT_RUN = 125
CANNOT_EXECUTE = 126
NOT_FOUND = 127
INTERRUPTED = 130  # 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE
SIGSYS_DEATH = 159  # 128 + SIGSYS: what seccomp's kill and an unhandled trap end a process with

# The table of README.md and docs/cli.md; one test per row.
TABLE: tuple[tuple[str, str], ...] = (
    ("0", "done; nothing drifted, nothing found"),
    ("1", "an operation failed: a file that cannot be read, parsed or written"),
    ("2", "the command line makes no sense"),
    (
        "3",
        "`drift`, `lint`, `watch`, `prove` found something; with `--exit-code` also `diff` and `decide`",
    ),
    ("4", "this machine cannot; the hint says what would make it"),
    ("125", "`learn`, `enforce`: autoprofile failed before the command could run"),
    ("126", "`learn`, `enforce`: the command cannot be executed"),
    ("127", "`learn`, `enforce`: the command was not found"),
    ("130", "interrupted by Ctrl-C (128 + SIGINT)"),
    (
        "other",
        "`learn`, `enforce`: the command's own status; 128 + N when signal N ended it (159: by seccomp)",
    ),
)
