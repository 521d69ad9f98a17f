"""Show what inference is worth on real programs: replays, another workload, attack surface, calibration.

For each program: learn from several passes of workload A; at strict replay A under the filter (with a
supervisor that counts what is refused and answers as the profile says); at standard run another workload B
(once traced, once in complain mode, once under the filter alone) and count what is refused; compare the
attack surface with Docker's default profile and with a profile of names only. Then learn from random subsets
of the tasks of A and B and compare what completeness predicts of the others with what they do.

    python benchmarks/inference_study.py [--programs git,nginx] [--set tuning|held-out] [--passes 6]
                                [--replays 20] [--quick] [--json FILE] [--page docs/inference-study.md]

Programs that are not installed are left out by name. Nothing is written without --json or --page; a page gets
the tables between its marks, and the plot beside it. Ten to fifteen minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import docker_default
from study.built import BUILT
from study.measure import Calibration, Result, Study, calibrate
from study.report import document, into_page, plot, tables
from study.running import Runner, adopt_orphans
from study.servers import SERVERS
from study.tools import TOOLS

from autoprofile.errors import AutoprofileError
from autoprofile.trace.source import auto_source

if TYPE_CHECKING:
    from study.workload import Program

    from autoprofile.profile import Profile

PROGRAMS = (*SERVERS, *TOOLS, *BUILT)
TIME_LIMIT_S = 20 * 60
"""Programs that have not begun by then are left out, and said to be."""


def main() -> int:
    """Run the study; exit status 1 when a replay at strict was refused something, or a program failed."""
    options = _options()
    chosen = [p for p in PROGRAMS if options.programs is None or p.name in options.programs]
    if options.set != "all":
        chosen = [p for p in chosen if p.is_held_out == (options.set == "held-out")]
    adopt_orphans()
    start = time.monotonic()
    docker = docker_default.profile()
    results: list[Result] = []
    calibration: list[Calibration] = []
    has_failed = False
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        for program in chosen:
            result = Result(program.name, program.kind, program.is_held_out)
            missing = [name for name in program.needs if shutil.which(name) is None]
            if missing:
                result.error = f"{', '.join(missing)} not installed"
            elif time.monotonic() - start > TIME_LIMIT_S:
                result.error = "out of time"
            else:
                try:
                    result, points = _measure(program, Path(folder), docker, options)
                    calibration += points
                except (AutoprofileError, OSError, RuntimeError) as error:
                    result.error = f"{type(error).__name__}: {error}"
                    has_failed = True
            results.append(result)
            print(_line(result), flush=True)
    facts: dict[str, object] = {
        "Linux": platform.release(),
        "backend": " and ".join(options.backends),
        "passes of A:": options.passes,
        "replays:": options.replays,
        "seconds:": round(time.monotonic() - start),
    }
    text = tables(results, calibration, facts)
    if options.json:
        options.json.write_text(document(results, calibration, facts))
    if options.page:
        into_page(options.page, text)
        plot(calibration, options.page.with_name("inference-calibration.svg"))
    print(text)
    return int(has_failed or any(r.replays_refused for r in results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--programs", type=lambda text: frozenset(text.split(",")), metavar="NAME,NAME")
    parser.add_argument("--set", choices=["all", "tuning", "held-out"], default="all")
    parser.add_argument("--passes", "--runs", type=int, default=6, help="passes of A to learn from")
    parser.add_argument("--replays", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="2 passes, 2 replays, few programs")
    parser.add_argument(
        "--backend", default="auto", help="notify, ebpf, ptrace; auto: in turn all but ptrace"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--page", type=Path, metavar="PAGE.md")
    options = parser.parse_args()
    if options.quick:
        options.passes, options.replays = 2, 2
        options.programs = options.programs or frozenset({"git", "sqlite3", "grep", "python", "nginx"})
    unknown = (options.programs or frozenset()) - {p.name for p in PROGRAMS}
    if unknown:
        parser.error(
            f"no program {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in PROGRAMS)}"
        )
    found = auto_source()
    turns = [found, "notify"] if found == "ebpf" else [found]
    options.backends = turns if options.backend == "auto" else [options.backend]
    return options


def _measure(
    program: Program, folder: Path, docker: Profile, options: argparse.Namespace
) -> tuple[Result, list[Calibration]]:
    study = Study(program, Runner(program, folder, options.backends), docker)
    study.record(options.passes)
    result = study.evaluate(options.replays)
    # one pass with each source: more passes of a task tell nothing new about the others
    passes = study.a[: len(options.backends)]
    tasks = [list(task) for task in zip(*passes, strict=True)] + [[trace] for trace in study.b]
    return result, calibrate(program.name, tasks)


def _line(result: Result) -> str:
    if result.error:
        return f"{result.name:10} not measured: {result.error}"
    strict = f"strict: {result.replays_refused} of {result.replays} replays refused something"
    calls = {**result.b_traced, **result.b_denials}
    standard = "standard: B holds" if result.b_holds else f"standard: B refused {list(calls)[:4]}"
    alike = "" if result.b_statuses[0] == result.b_statuses[1] else f"; statuses {result.b_statuses}"
    refused = f"primitives refused {result.surface['standard']['refused_unused']:.1%}"
    more = f"; {list(result.replay_denials)[:4]}" if result.replay_denials else ""
    return f"{result.name:10} {strict}{more}; {standard}{alike}; {refused}"


if __name__ == "__main__":
    sys.exit(main())
