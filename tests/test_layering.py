"""The floor table: a module imports only from lower floors, or from its own package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "autoprofile"

# The table of the design: place -> floor. A place is a module or a package directly under autoprofile/.
FLOORS = {
    "errors": 0,
    "abi": 0,
    "atomic": 0,
    "printable": 0,
    "kernel": 1,
    "profile": 1,
    "observations": 1,
    "auditlog": 1,
    "trace": 2,
    "learn": 2,
    "filter": 2,
    "enforce": 3,
    "drift": 3,
    "lint": 3,
    "formats": 3,
    "report": 4,
    "cli": 5,
    "__main__": 6,  # `python -m autoprofile`, nothing but a call of the cli
}

# Rooms whose result depends on nothing but their input.
PURE = ("profile", "learn", "filter", "drift", "lint", "formats")
IMPURE_MODULES = {"time", "subprocess", "socket", "random", "secrets", "uuid", "platform"}

# Never loaded by importing the package; only inside the functions that need them.
HEAVY = {
    "pandas",
    "pyarrow",
    "bcc",
    "dask",
    "z3",
    "matplotlib",
    "jinja2",
    "rich",
    "elftools",
    "prometheus_client",
}

MODULES = sorted(ROOT.rglob("*.py"))


def place_of(path: Path) -> str:
    """Return the place of the floor table that a module belongs to."""
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imports_of(path: Path, *, top_level_only: bool = False) -> list[tuple[str, int]]:
    """Return (dotted module, line) of every import; those under TYPE_CHECKING are dependencies too."""
    tree = ast.parse(path.read_text())
    found: list[tuple[str, int]] = []
    package = ("autoprofile", *path.relative_to(ROOT).parts[:-1])

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                if not (top_level_only and inside):
                    found.extend((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                if top_level_only and inside:
                    continue
                if child.level:
                    base = ".".join(package[: len(package) - child.level + 1])
                    module = f"{base}.{child.module}" if child.module else base
                else:
                    module = child.module or ""
                if module == "autoprofile":
                    found.extend((f"autoprofile.{alias.name}", child.lineno) for alias in child.names)
                else:
                    found.append((module, child.lineno))
            else:
                deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                    isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                )
                visit(child, inside or deferred)

    visit(tree, False)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_downward(path: Path) -> None:
    """A module imports only lower floors or its own package; `errors` lies under everything."""
    place = place_of(path)
    if place == "__init__":
        return  # the public names, loaded lazily from every floor
    assert place in FLOORS, f"{place} stands on no floor; add it to the table and to the design"
    breaches = []
    for module, line in imports_of(path):
        parts = module.split(".")
        if parts[0] != "autoprofile" or len(parts) < 2:
            continue
        other = parts[1]
        assert other in FLOORS, f"{path}:{line} imports {module}, which stands on no floor"
        if other != place and other != "errors" and FLOORS[other] >= FLOORS[place]:
            breaches.append(f"{path}:{line}: {place} (floor {FLOORS[place]}) imports {module}")
    assert not breaches, "\n".join(breaches)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_imports_are_deferred(path: Path) -> None:
    """Importing any module loads none of the heavy libraries."""
    heavy = [
        f"{path}:{line}: {module}"
        for module, line in imports_of(path, top_level_only=True)
        if module.split(".")[0] in HEAVY
    ]
    assert not heavy, "\n".join(heavy)


@pytest.mark.parametrize(
    "path", [p for p in MODULES if place_of(p) in PURE], ids=lambda p: str(p.relative_to(ROOT))
)
def test_pure_rooms_touch_no_clock_or_process(path: Path) -> None:
    """A pure room imports no module through which the clock, randomness or a subprocess could enter."""
    impure = [f"{path}:{line}: {m}" for m, line in imports_of(path) if m.split(".")[0] in IMPURE_MODULES]
    assert not impure, "\n".join(impure)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_states_its_contract_and_exports(path: Path) -> None:
    """Every module has a docstring and declares __all__."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no module docstring"
    names = {
        t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
    }
    assert "__all__" in names or path.name == "__main__.py", f"{path} declares no __all__"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_stay_small(path: Path) -> None:
    """No module grows beyond 500 lines."""
    lines = len(path.read_text().splitlines())
    assert lines <= 500, f"{path} has {lines} lines: split it by meaning"


@pytest.mark.parametrize("place", sorted(FLOORS))
def test_every_floor_is_inhabited(place: str) -> None:
    """Every place of the floor table exists."""
    assert (ROOT / f"{place}.py").exists() or (ROOT / place / "__init__.py").exists()
