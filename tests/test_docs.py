"""The documentation is true: pages are what the tool prints, examples run, every verb and option is described."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from autoprofile.cli.app import app, verb_names
from autoprofile.cli.exit import TABLE

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CLI_PAGE = ROOT / "docs" / "cli.md"
PAGES = sorted([README, *(ROOT / "docs").glob("*.md")])


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


EXAMPLES = [(page, n, code) for page in PAGES for n, code in enumerate(python_blocks(page), 1)]


@pytest.mark.kernel
@pytest.mark.parametrize(
    "code", [code for _, _, code in EXAMPLES], ids=[f"{p.name}:{n}" for p, n, _ in EXAMPLES]
)
def test_python_examples_run(code: str, tmp_path: Path) -> None:
    """Every Python example of the documentation runs as it stands, beside the recorded example files."""
    examples = ROOT / "docs" / "examples"
    shutil.copytree(examples, tmp_path, dirs_exist_ok=True)
    # The examples speak of files of the reader's own; the recorded ones stand in for whatever they open.
    for name in re.findall(r"""(?:load|read_audit)\("([\w-]+\.\w+)"\)""", code):
        if not (tmp_path / name).exists():
            shutil.copy(examples / f"cat{Path(name).suffix}", tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_there_are_examples() -> None:
    """The README does show the library at work."""
    assert len(python_blocks(README)) >= 4


@pytest.mark.kernel
def test_pages_are_what_the_tool_prints() -> None:
    """README.md and docs/cli.md are what rendering their templates gives now, numbers aside."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "render_docs.py", "--check"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", verb_names())
def test_every_verb_is_documented_and_has_help(name: str) -> None:
    """Each verb has a section in docs/cli.md and a row in the README, a help text, and help for every option."""
    verb = app.get_command(click.Context(app), name)
    assert verb is not None
    assert verb.help
    assert verb.name == name
    assert f"\n## {name}\n" in CLI_PAGE.read_text()
    assert f"[`{name}`]" in README.read_text()
    for parameter in verb.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"


def test_the_exit_statuses_are_documented() -> None:
    """Both pages hold the whole table of exit statuses."""
    for page in (README, CLI_PAGE):
        for status, meaning in TABLE:
            assert f"| {status} | {meaning} |" in page.read_text()


def test_the_readme_begins_with_the_two_commands() -> None:
    """The first thing to read is how to see it work and how to test it; the searched-for word appears once."""
    text = README.read_text()
    assert text.splitlines()[2].strip().startswith("make demo")
    assert text.splitlines()[3].strip().startswith("make test")
    assert text.count("whitelist") == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file of the repository."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_index() -> None:
    """docs/README.md names every page of the documentation."""
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, f"{page.name} is not in docs/README.md"


def test_make_targets_explain_themselves() -> None:
    """Bare make prints every target with what it does."""
    done = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "demo", "test", "check", "bench", "help", "lint", "format"} <= set(targets)
    for target in targets:
        assert re.search(rf"^\s*make {target}\s+\S", done.stdout, re.MULTILINE), (
            f"make {target} has no ## comment"
        )
