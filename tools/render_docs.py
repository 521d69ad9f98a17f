"""Write README.md and docs/cli.md from docs/templates/, making every example by running it.

In a template, a line ``@run COMMAND`` becomes a console block with the command and what it printed;
``@run[3] COMMAND`` insists on that exit status (0 otherwise); ``@file NAME [LINES]`` shows a file of the
examples; ``@exits`` is the table of exit statuses, ``@list`` that of the verbs, ``@verbs`` their help.
Commands run one after the other in a scratch directory that starts as a copy of docs/examples/.

An example that prints nothing or ends otherwise than said aborts the rendering, so a page never shows
a run that did not happen. ``--check`` renders again and fails when a page would change; numbers that
differ from run to run (counts, times, addresses, versions) are not compared.

    python tools/render_docs.py [--check]
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["PAGES", "main", "render"]

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "docs" / "templates"
EXAMPLES = ROOT / "docs" / "examples"
PAGES = {ROOT / "README.md": TEMPLATES / "README.md", ROOT / "docs" / "cli.md": TEMPLATES / "cli.md"}
TIMEOUT_S = 60

_RUN = re.compile(r"@run(?:\[(\d+)\])? (.+)")
_NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}…?|\d+(?:[.,\s]\d+)*")


class ExampleFailedError(Exception):
    """An example of a page did not do what the page says."""


def _environment(scratch: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "HOME": str(scratch),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }


def _run(command: str, expected: int, scratch: Path) -> str:
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=scratch,
        env=_environment(scratch),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != expected:
        raise ExampleFailedError(
            f"{command}\nexit status {done.returncode} instead of {expected}:\n{done.stdout}"
        )
    if not done.stdout.strip():
        raise ExampleFailedError(f"{command}\nprinted nothing")
    status = f"$ echo $?\n{expected}\n" if expected else ""
    return f"```console\n$ {command}\n{done.stdout.rstrip()}\n{status}```"


def _file(scratch: Path, name: str, count: str = "0") -> str:
    lines = (scratch / name).read_text().splitlines()
    if 0 < int(count) < len(lines):
        lines[int(count) :] = ["  # … and so on"]
    return "\n".join(["```yaml", *lines, "```"])


def _exits() -> str:
    from autoprofile.cli.exit import TABLE

    rows = [f"| {status} | {meaning} |" for status, meaning in TABLE]
    return "\n".join(["| status | meaning |", "|---|---|", *rows])


def _list() -> str:
    import click

    from autoprofile.cli.app import app

    context = click.Context(app)
    verbs = [(name, app.get_command(context, name)) for name in app.list_commands(context)]
    rows = [
        f"| [`{name}`](docs/cli.md#{name}) | {verb.get_short_help_str(200)} |" for name, verb in verbs if verb
    ]
    return "\n".join(["| verb | does |", "|---|---|", *rows])


def _verbs(scratch: Path) -> str:
    import click

    from autoprofile.cli.app import app

    names = app.list_commands(click.Context(app))
    parts = []
    for name in names:
        help_text = _run(f"autoprofile {name} --help", 0, scratch)
        parts.append(f"## {name}\n\n{help_text}")
    return "\n\n".join(parts)


def render(template: Path) -> str:
    """Return a page.

    Raises:
        ExampleFailedError: an example printed nothing or ended with another status.
    """
    lines = []
    with tempfile.TemporaryDirectory(prefix="autoprofile-docs-") as name:
        scratch = Path(name)
        shutil.copytree(EXAMPLES, scratch, dirs_exist_ok=True)
        for line in template.read_text().splitlines():
            if run := _RUN.fullmatch(line):
                lines.append(_run(run[2], int(run[1] or 0), scratch).replace(f"{scratch}/", ""))
            elif line.startswith("@file "):
                lines.append(_file(scratch, *line.split()[1:]))
            elif line == "@exits":
                lines.append(_exits())
            elif line == "@list":
                lines.append(_list())
            elif line == "@verbs":
                lines.append(_verbs(scratch))
            else:
                lines.append(line)
    return "\n".join(lines) + "\n"


def comparable(page: str) -> str:
    """Return a page without what differs from run to run, for ``--check``."""
    page = re.sub(
        r"learning (\S+) with \w+;", r"learning \1 with SOURCE;", page
    )  # root has another than users
    return re.sub(r"[ \t]+", " ", _NUMBERS.sub("N", page))


def main() -> int:
    """Render every page, or check that it would not change."""
    is_check = "--check" in sys.argv[1:]
    status = 0
    for page, template in PAGES.items():
        try:
            text = render(template)
        except ExampleFailedError as error:
            print(f"error: {template.relative_to(ROOT)}: {error}", file=sys.stderr)
            return 1
        if not is_check:
            page.write_text(text)
            continue
        old = page.read_text() if page.exists() else ""
        if comparable(old) != comparable(text):
            name = str(page.relative_to(ROOT))
            changes = difflib.unified_diff(
                comparable(old).splitlines(), comparable(text).splitlines(), name, "rendered", lineterm=""
            )
            print("\n".join(changes))
            print(f"error: {name} is out of date: run `make docs`", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
