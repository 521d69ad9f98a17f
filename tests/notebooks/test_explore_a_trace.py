"""The notebook runs as shipped, and its answers are right."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import autoprofile
from autoprofile import Trace
from autoprofile.abi import display_name

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NOTEBOOK = NOTEBOOKS / "explore-a-trace.ipynb"
TRACE = NOTEBOOKS / "data" / "nginx.parquet"

# Asked of the notebook's own variables once it has run.
QUESTIONS = """
import json
print(json.dumps({
    "calls": {name: int(total) for name, total in calls.sum().items()},
    "syscalls": {name: int(total) for name, total in summary["syscalls"].items()},
    "only_nginx": only_nginx,
    "tuples": {name: int(n) for name, n in shapes["seen together"].items()},
    "combinations": {name: int(n) for name, n in shapes["all combinations"].items()},
    "mmap": int(grid.sum().sum()),
    "new": [int(n) for n in new],
    "later": sorted(later["syscall"].unique()),
    "failed": int(failing["failed"].sum()),
}))
"""


@pytest.fixture(scope="module")
def shipped():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(shipped):
    """Run a copy of the notebook where it lies, and ask it about its results."""
    notebook = nbformat.from_dict(json.loads(json.dumps(shipped)))
    notebook.cells.append(nbformat.v4.new_code_cell(QUESTIONS))
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
    )
    return client.execute()


@pytest.fixture(scope="module")
def answers(executed):
    return json.loads(executed.cells[-1].outputs[0].text)


def _sources(notebook) -> str:
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return "\n".join(line for line in code.splitlines() if not line.startswith("%"))


def test_only_the_public_package_is_imported(shipped):
    """The notebook needs nothing of autoprofile but its public names."""
    for node in ast.walk(ast.parse(_sources(shipped))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "autoprofile":
            assert node.module == "autoprofile"
            assert {alias.name for alias in node.names} <= set(autoprofile.__all__)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("autoprofile") for alias in node.names)


def test_it_reads_well_unexecuted(shipped):
    """The stored notebook has the output of every cell that gives one, four plots among them, and no error."""
    code = [cell for cell in shipped.cells if cell.cell_type == "code"]
    assert all(cell.outputs and cell.execution_count for cell in code)
    kinds = [output.output_type for cell in code for output in cell.outputs]
    assert "error" not in kinds
    assert not any(output.get("name") == "stderr" for cell in code for output in cell.outputs)
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) == 4


def test_the_stored_answers_are_what_running_it_gives(shipped, executed):
    """What the notebook prints in the repository is what its code prints on the shipped trace."""

    def printed(notebook):
        # Tables and plots are left out: their looks change with the version of pandas and matplotlib.
        return [
            output.text
            for cell in notebook.cells[: len(shipped.cells)]
            if cell.cell_type == "code"
            for output in cell.outputs
            if output.get("name") == "stdout"
        ]

    assert printed(executed) == printed(shipped)


def test_calls_by_program_are_the_traces(answers):
    """Calls and syscalls of each program add up to what the trace holds."""
    calls, names = defaultdict(int), defaultdict(set)
    for o in Trace.load(TRACE).observations:
        program = o.program.path.rpartition("/")[2]
        calls[program] += o.count
        names[program].add(display_name(o.arch, o.nr))
    assert answers["calls"] == calls
    assert answers["syscalls"] == {program: len(found) for program, found in names.items()}
    others = set().union(*(found for program, found in names.items() if program != "nginx"))
    assert answers["only_nginx"] == sorted(names["nginx"] - others)
    assert {"accept4", "epoll_wait", "sendfile"} <= set(answers["only_nginx"])


def test_joint_tuples_are_fewer_than_combinations(answers):
    """What was seen together is counted right, and is never more than what independence would allow."""
    tuples = defaultdict(set)
    for o in Trace.load(TRACE).observations:
        if o.program.path.endswith("/nginx"):
            tuples[display_name(o.arch, o.nr)].add(o.args)
    assert answers["tuples"] == {name: len(seen) for name, seen in tuples.items() if len(seen) > 1}
    assert all(answers["tuples"][name] <= n for name, n in answers["combinations"].items())
    assert answers["tuples"]["mmap"] < answers["combinations"]["mmap"]


def test_the_discovery_curve_ends_at_what_is_known(answers):
    """New observations per run add up to all distinct ones, and each later run added the calls it was given for."""
    distinct, seen_by_run = set(), []
    for run in range(3):
        before = len(distinct)
        distinct |= {
            (o.program.path, o.arch, o.nr, *(o.args)) for o in Trace.load(TRACE).observations if o.run == run
        }
        seen_by_run.append(len(distinct) - before)
    assert answers["new"] == seen_by_run
    assert {"getdents64", "pwritev"} <= set(answers["later"])  # the listing of run 1, the uploads of run 2


def test_failures_and_mappings_add_up(answers):
    """The failing calls and the mmap table hold every such call of the trace."""
    observations = Trace.load(TRACE).observations
    assert answers["failed"] == sum(o.failed or 0 for o in observations)
    assert answers["mmap"] == sum(
        o.count
        for o in observations
        if display_name(o.arch, o.nr) == "mmap" and o.program.path.endswith("nginx")
    )


def test_the_shipped_trace_is_complete():
    """The data come from the ptrace source, whole, with build-ids and without a workplace's paths."""
    trace = Trace.load(TRACE)
    assert trace.is_complete
    assert (trace.meta.backend, trace.meta.runs, trace.meta.exit_status) == ("ptrace", 3, 0)
    assert {o.program.path for o in trace.observations} == {
        "/usr/bin/dash",
        "/usr/bin/mkdir",
        "/usr/bin/sed",
        "/usr/sbin/nginx",
    }
    assert all(o.program.build_id for o in trace.observations)
