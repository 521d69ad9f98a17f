"""Say which of the public attack primitives of ``data/attack_primitives.tsv`` a profile refuses.

A primitive is refused when no call that would carry it out is permitted, whatever its other arguments: what
is permitted is calculated as regions over the registers, not tried call by call. `measure` gives the outcomes
and the share of all syscalls refused; the command line prints them side by side for profiles, Docker's (any
OCI seccomp JSON) and, for each profile, one that keeps its syscall names only.

    python benchmarks/attack_surface.py [--docker] [--oci FILE.json] [--trace T.parquet] [--names-only] P.yaml

With a trace, primitives that the program uses itself are marked; the share refused of the others is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from autoprofile.abi import encode_value, signature, syscall_name, syscall_table
from autoprofile.errors import AutoprofileError
from autoprofile.formats import import_profile
from autoprofile.observations import Observation, Trace
from autoprofile.profile import ANY, Action, Arg, Profile, SeccompRule
from autoprofile.profile.region import Region, intersection, subtract, witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "PRIMITIVES",
    "Primitive",
    "Share",
    "Step",
    "Surface",
    "load_primitives",
    "measure",
    "names_only",
    "outcome",
    "uses",
]

PRIMITIVES = Path(__file__).parent / "data" / "attack_primitives.tsv"

REFUSED, ASKED, ALLOWED = "refused", "asked", "allowed"
"""What becomes of a primitive: the kernel refuses it, a supervisor or tracer is asked, or it runs."""
_WORST = (REFUSED, ASKED, ALLOWED)


@dataclass(frozen=True, slots=True)
class Step:
    """One call that a primitive makes.

    Args:
        arch: of the call.
        syscall: its name; ``*`` for any call of the arch.
        regions: alternatives of AND'ed comparators; one empty alternative is every call.
    """

    arch: str
    syscall: str
    regions: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class Primitive:
    """One thing an attacker does with system calls.

    Args:
        id: its stable name.
        kind: its class.
        steps: calls it makes, all of them needed.
        gain: what the attacker gets, as a phrase.
        source: where it is published.
    """

    id: str
    kind: str
    steps: tuple[Step, ...]
    gain: str
    source: str


@dataclass(frozen=True, slots=True)
class Share:
    """Count the syscalls of one arch: those wholly refused, those permitted with some arguments only, all."""

    refused: int
    constrained: int
    total: int


@dataclass(frozen=True, slots=True)
class Surface:
    """What a profile leaves to an attacker.

    Args:
        outcomes: primitive id to ``refused``, ``asked`` or ``allowed``.
        used: ids of primitives that the program itself was seen to use; None without a trace.
        share: of the syscalls of the profile's first arch.
    """

    outcomes: dict[str, str]
    used: frozenset[str] | None
    share: Share

    @property
    def refused(self) -> int:
        """Return how many primitives are refused."""
        return sum(what == REFUSED for what in self.outcomes.values())

    @property
    def refused_unused(self) -> float | None:
        """Return the share refused of the primitives that the program does not use; None without a trace."""
        if self.used is None:
            return None
        rest = [what for name, what in self.outcomes.items() if name not in self.used]
        return sum(what == REFUSED for what in rest) / len(rest)

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        share = self.share
        return {
            "outcomes": dict(sorted(self.outcomes.items())),
            "used": None if self.used is None else sorted(self.used),
            "refused": self.refused,
            "refused_unused": self.refused_unused,
            "syscalls": {"refused": share.refused, "constrained": share.constrained, "total": share.total},
        }


def load_primitives(path: Path = PRIMITIVES) -> tuple[Primitive, ...]:
    """Read the list.

    Raises:
        ValueError: a line is not understood; it says which.
    """
    found: dict[str, Primitive] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line or line[0] == "#":
            continue
        try:
            name, kind, calls, gain, source = line.split("\t")
            steps = tuple(_step(text) for text in calls.split(" ; "))
            if name in found or not source:
                raise ValueError("a second line of this id" if source else "no source")
        except (ValueError, KeyError, AutoprofileError) as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        found[name] = Primitive(name, kind, steps, gain, source)
    return tuple(found.values())


def _step(text: str) -> Step:
    call, _, conditions = text.partition("(")
    arch, _, name = call.rpartition(":")
    arch = arch or "x86_64"
    if name == "*":
        return Step(arch, name, ((),))
    known = signature(arch, name)
    if name not in syscall_table(arch) or (conditions and known is None):
        raise ValueError(f"no call {name} on {arch}")
    choices = []
    for condition in conditions.rstrip(")").split():
        left, _, right = condition.partition("=")
        argument, _, mask = left.partition("&")
        assert known is not None
        spec = {one.name: one for one in known.args}[argument]
        values = [encode_value(arch, spec, one) for one in right.split(",")]
        if mask:
            bits = encode_value(arch, spec, mask)
            choices.append([Arg(spec.index, "masked_eq", v, bits, spec.width) for v in values])
        else:
            choices.append([Arg(spec.index, "eq", v, None, spec.width) for v in values])
    return Step(arch, name, tuple(product(*choices)))


def outcome(profile: Profile, primitive: Primitive) -> str:
    """Return what becomes of a primitive under a profile: the best that can happen to any of its steps."""
    return min((_of_step(profile, step) for step in primitive.steps), key=_WORST.index)


def _of_step(profile: Profile, step: Step) -> str:
    if step.arch not in profile.arch:
        return _word(profile.bad_arch)
    names = syscall_table(step.arch) if step.syscall == "*" else (step.syscall,)
    return max((_of_region(profile, step.arch, n, r) for n in names for r in step.regions), key=_WORST.index)


def _of_region(profile: Profile, arch: str, name: str, wanted: Region) -> str:
    # The rules come in the order in which they decide, so what an earlier one takes no later one sees.
    worst, left = REFUSED, [wanted]
    for rule in profile.rules_for(arch, name):
        taken = [both for region in left if (both := intersection(region, rule.comparators)) is not None]
        if any(witness(region) is not None for region in taken):
            worst = max(worst, _word(rule.action), key=_WORST.index)
        left = [] if rule.args is ANY else [r for region in left for r in subtract(region, rule.comparators)]
    if any(witness(region) is not None for region in left):
        worst = max(worst, _word(profile.default), key=_WORST.index)
    return worst


def _word(action: Action) -> str:
    return ALLOWED if action.is_permitting else REFUSED if action.is_refusing else ASKED


def uses(observations: Iterable[Observation], primitive: Primitive) -> bool:
    """Tell whether a program was seen to make every call of a primitive."""
    calls = list(observations)
    return all(any(_is_step(call, step) for call in calls) for step in primitive.steps)


def _is_step(call: Observation, step: Step) -> bool:
    if call.arch != step.arch:
        return False
    if step.syscall == "*":
        return True
    if syscall_name(call.arch, call.nr) != step.syscall:
        return False
    # An argument that was not recorded may have been anything, so it may have been this.
    return any(
        all((value := call.args[one.index]) is None or one.match(value) for one in region)
        for region in step.regions
    )


def names_only(profile: Profile) -> Profile:
    """Return what a recorder of names makes of the same evidence: each permitted syscall, any arguments."""
    permitted = {(rule.syscall, rule.arch) for rule in profile.rules if rule.action.is_permitting}
    rules = (SeccompRule(name, Action.ALLOW, ANY, arch) for name, arch in permitted)
    return replace(profile, rules=tuple(rules))


def syscall_share(profile: Profile) -> Share:
    """Count the syscalls of a profile's first arch that it refuses whatever their arguments."""
    arch = profile.arch[0]
    names = syscall_table(arch)
    refused = [name for name in names if _of_region(profile, arch, name, ()) == REFUSED]
    constrained = [
        name
        for name in set(names) - set(refused)
        if not any(
            rule.action.is_permitting and rule.args is ANY and rule == profile.rules_for(arch, name)[0]
            for rule in profile.rules_for(arch, name)
        )
        and (profile.rules_for(arch, name) or not profile.default.is_permitting)
    ]
    return Share(len(refused), len(constrained), len(names))


def measure(
    profile: Profile,
    primitives: Sequence[Primitive],
    observations: Iterable[Observation] | None = None,
) -> Surface:
    """Return what a profile leaves to an attacker.

    Args:
        profile: the profile.
        primitives: from `load_primitives`.
        observations: of the program, to tell which primitives it uses itself.
    """
    calls = None if observations is None else list(observations)
    return Surface(
        {one.id: outcome(profile, one) for one in primitives},
        None if calls is None else frozenset(one.id for one in primitives if uses(calls, one)),
        syscall_share(profile),
    )


def print_table(
    primitives: Sequence[Primitive], surfaces: dict[str, Surface], write: Callable[[str], object]
) -> None:
    """Write one row a primitive and one column a profile."""
    marks = {REFUSED: ".", ASKED: "?", ALLOWED: "ALLOWED"}
    width = max(map(len, (one.id for one in primitives)))
    widths = {name: max(len(name), 9) for name in surfaces}

    def row(first: str, cells: Sequence[str], last: str = "") -> None:
        columns = (f"{cell:>{wide}}" for cell, wide in zip(cells, widths.values(), strict=True))
        write(f"{first:{width}}  {'  '.join(columns)}  {last}".rstrip() + "\n")

    row("primitive", list(surfaces), "source")
    for one in primitives:
        cells = [
            marks[s.outcomes[one.id]] + ("*" if s.used and one.id in s.used else "")
            for s in surfaces.values()
        ]
        row(one.id, cells, one.source)
    write("\n")
    row("primitives refused", [f"{s.refused}/{len(primitives)}" for s in surfaces.values()])
    if any(s.used is not None for s in surfaces.values()):
        row("of those not used", [f"{s.refused_unused or 0:.1%}" for s in surfaces.values()])
    row("syscalls refused", [f"{s.share.refused}/{s.share.total}" for s in surfaces.values()])
    row("with arguments", [str(s.share.constrained) for s in surfaces.values()])
    write("\n. refused   ? left to a supervisor   * the program uses it itself\n")


def main() -> int:
    """Measure the profiles named on the command line, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("profiles", nargs="*", type=Path, metavar="P.yaml")
    parser.add_argument("--docker", action="store_true", help="add Docker's default (docker_default.py)")
    parser.add_argument("--oci", action="append", default=[], type=Path, metavar="FILE.json")
    parser.add_argument("--trace", type=Path, metavar="T.parquet", help="what the program did")
    parser.add_argument(
        "--names-only", action="store_true", help="add each profile's names without arguments"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    if not options.profiles and not options.oci and not options.docker:
        parser.error("name a profile, an --oci file, or --docker")
    primitives = load_primitives()
    observations = Trace.load(options.trace).observations if options.trace else None
    profiles: dict[str, Profile] = {}
    for path in options.profiles:
        profiles[path.stem] = Profile.load(path)
        if options.names_only:
            profiles[f"{path.stem} names"] = names_only(profiles[path.stem])
    if options.docker:
        import docker_default

        profiles["Docker's default"] = docker_default.profile()
    for path in options.oci:
        profiles[path.stem] = import_profile(path.read_text(), "oci", str(path)).profile
    surfaces = {name: measure(one, primitives, observations) for name, one in profiles.items()}
    if options.json:
        document = {name: one.to_dict() for name, one in surfaces.items()}
        print(json.dumps(document, indent=2, sort_keys=True))
    else:
        print_table(primitives, surfaces, sys.stdout.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
