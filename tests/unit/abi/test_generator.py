"""The generator: the data files are what the sources give, and the sources are what the packages hold."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from autoprofile.abi import constants
from tools.abi import build, extract, headers, places
from tools.abi.constants import parse_curated
from tools.generate_abi import DEB

CACHE = os.environ.get("AUTOPROFILE_ABI_CACHE")


def test_data_files_are_what_the_sources_give() -> None:
    """Building from the distilled sources and the curated files gives every data file byte for byte."""
    built = build.build_all()
    assert sorted(built) == sorted(p.name for p in places.DATA.iterdir())
    for name, text in built.items():
        assert (places.DATA / name).read_text() == text, f"{name} is stale: run tools/generate_abi.py"


def test_sources_name_their_version() -> None:
    """Every distilled source says on line 1 which public source, in which version, it was taken from."""
    for path in places.SOURCES.iterdir():
        first = path.read_text().partition("\n")[0]
        assert first.startswith("# source: "), path
        assert any(c.isdigit() for c in first), path


def test_calls_newer_than_the_described_kernel_are_left_out() -> None:
    """The pinned headers are newer than 6.18; what they add is dropped by its first version."""
    newer = {row[0] for row in places.read(places.CURATED / "history.tsv") if row[1] == "6.19"}
    in_headers = {row[0] for row in places.read(places.SOURCES / "numbers.tsv")[1:]}
    built = {line.split("\t")[0] for line in build.build_all()["syscalls.tsv"].splitlines()[2:]}
    assert newer == in_headers - built == {"listns"}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="compiles headers with gcc")
def test_constants_agree_with_the_installed_headers(tmp_path: Path) -> None:
    """Every constant that the installed linux-libc-dev also defines has the same value there (x86_64)."""
    asm = next(iter(Path("/usr/include").glob("x86_64-linux-gnu/asm")), None)
    if asm is None:
        pytest.skip("kernel headers for x86_64 are not installed (Debian package linux-libc-dev)")
    (tmp_path / "x86-linux-any").mkdir()
    (tmp_path / "x86-linux-any" / "asm").symlink_to(asm)
    (tmp_path / "any-linux-any").mkdir()
    for folder in ("linux", "asm-generic"):
        (tmp_path / "any-linux-any" / folder).symlink_to(f"/usr/include/{folder}")
    groups = parse_curated(places.CURATED / "constants.txt")
    wanted = dict.fromkeys(header for group in groups for header in group.headers)
    present = [
        h for h in wanted if any((tmp_path / f / h).exists() for f in ("any-linux-any", "x86-linux-any"))
    ]
    # All headers in one compilation: a name means the same wherever it is read.
    names = {n for group in groups for n in constants(group.name, "x86_64") if n.isidentifier()}
    theirs = headers.evaluate(tmp_path, Path("/nonexistent"), "x86_64", present, sorted(names))
    assert len(theirs) > 1200
    for group in groups:
        for name, value in constants(group.name, "x86_64").items():
            assert theirs.get(name, value) == value, f"{group.name}: {name}"


@pytest.mark.kernel
def test_tracefs_source_is_what_this_kernel_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The distilled tracefs formats are those of the running kernel, when it is the one they were taken from."""
    stored = (places.SOURCES / "tracefs.tsv").read_text().splitlines()
    release = ".".join(platform.release().split("-")[0].split(".")[:2])
    if f"Linux {release} ({platform.machine()})" not in stored[0] or not extract.TRACEFS.exists():
        pytest.skip("needs a readable tracefs of the kernel the source names")
    monkeypatch.setattr(extract, "SOURCES", tmp_path)
    # Another build of the same version may leave calls out, but what it has looks the same.
    assert set(extract.extract_tracefs().splitlines()[1:]) <= set(stored[1:])


def test_history_source_is_what_the_installed_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The distilled first versions are those of syscalls(2), when the page is installed in that version."""
    page = Path("/usr/share/man/man2/syscalls.2.gz")
    stored = (places.SOURCES / "history.tsv").read_text()
    if not page.exists():
        pytest.skip("syscalls(2) is not installed (Debian package manpages-dev)")
    monkeypatch.setattr(extract, "SOURCES", tmp_path)
    fresh = extract.extract_history(page)
    if fresh.partition("\n")[0] != stored.partition("\n")[0]:
        pytest.skip("another version of syscalls(2) is installed")
    assert fresh == stored


def _package(pattern: str) -> Path:
    if CACHE is None:
        pytest.skip(
            "half a minute of compiling: set AUTOPROFILE_ABI_CACHE to the folder of "
            "`python tools/generate_abi.py extract --cache FOLDER` to run it"
        )
    found = sorted(Path(CACHE).glob(pattern))
    if not found:
        pytest.fail(f"AUTOPROFILE_ABI_CACHE={CACHE} holds no {pattern}")
    return found[-1]


def _unpacked(tmp_path: Path) -> tuple[Path, Path, str]:
    """Return the exported headers, the kernel headers and the latter's version label, from the pinned packages."""
    wheel, deb = _package(f"{places.WHEEL[0]}-{places.WHEEL[1]}-*.whl"), _package(f"{DEB}_*.deb")
    if shutil.which("dpkg-deb") is None:
        pytest.skip("unpacks a Debian package with dpkg-deb")
    include = extract.unpack_wheel(wheel, tmp_path / "wheel")
    subprocess.run(["dpkg-deb", "-x", str(deb), str(tmp_path / "deb")], check=True, timeout=120)
    label = " ".join(deb.name.split("_")[:2])
    return include, tmp_path / "deb" / "usr" / "src" / DEB / "include", label


def test_header_sources_are_what_the_pinned_packages_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distilling the pinned packages again gives the stored numbers and prototypes byte for byte."""
    include, kernel, label = _unpacked(tmp_path)
    monkeypatch.setattr(extract, "SOURCES", tmp_path / "out")
    assert (places.SOURCES / "numbers.tsv").read_text() == extract.extract_numbers(include)
    assert (places.SOURCES / "prototypes.tsv").read_text() == extract.extract_prototypes(kernel, label)


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("gcc") is None, reason="compiles headers with gcc")
def test_constants_source_is_what_the_pinned_packages_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling the constants out of the pinned headers again gives the stored values byte for byte."""
    include, kernel, label = _unpacked(tmp_path)
    monkeypatch.setattr(extract, "SOURCES", tmp_path / "out")
    fresh = extract.extract_constants(include, kernel, label)
    assert (places.SOURCES / "constants.tsv").read_text() == fresh
