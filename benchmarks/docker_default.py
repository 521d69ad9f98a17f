"""Docker's default seccomp profile, made of the facts in ``data/docker_default.tsv``.

`document` gives it as the JSON that Docker itself reads, conditions on capabilities, machines and kernels
included; `profile` as a profile of ours. The command line prints the JSON.

    python benchmarks/docker_default.py > docker-default.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprofile.formats.oci import import_oci

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprofile.profile import Profile

__all__ = ["FACTS", "document", "profile"]

FACTS = Path(__file__).parent / "data" / "docker_default.tsv"

# The machine's own arch first, then those it runs besides (archMap of the same source).
_ARCHES = {
    "SCMP_ARCH_X86_64": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "SCMP_ARCH_AARCH64": ["SCMP_ARCH_ARM"],
    "SCMP_ARCH_RISCV64": [],
}
_OPERATORS = {"lt": "SCMP_CMP_LT", "eq": "SCMP_CMP_EQ", "gt": "SCMP_CMP_GT", "mask": "SCMP_CMP_MASKED_EQ"}
_FILTERS = {
    "caps": ("includes", "caps"),
    "arches": ("includes", "arches"),
    "kernel": ("includes", "minKernel"),
    "nocaps": ("excludes", "caps"),
    "noarches": ("excludes", "arches"),
}


def document(path: Path = FACTS) -> dict[str, Any]:
    """Return the profile as Docker reads it."""
    entries = []
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            continue
        answer, conditions, names = line.split("\t")
        entry: dict[str, Any] = {"names": names.split(" "), "action": "SCMP_ACT_ALLOW"}
        if answer != "allow":
            entry |= {"action": "SCMP_ACT_ERRNO", "errnoRet": int(answer)}
        for word in conditions.split(" "):
            key, *rest = word.split(":")
            if key.startswith("arg"):
                condition = {"index": int(key[3:]), "value": int(rest[1]), "op": _OPERATORS[rest[0]]}
                entry.setdefault("args", []).append(condition)
            elif key in _FILTERS:
                side, what = _FILTERS[key]
                entry.setdefault(side, {})[what] = rest[0] if what == "minKernel" else rest[0].split(",")
        entries.append(entry)
    groups = [{"architecture": own, "subArchitectures": others} for own, others in _ARCHES.items()]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": groups,
        "syscalls": entries,
    }


def profile(caps: Iterable[str] = ()) -> Profile:
    """Return it as a profile for an x86_64 machine and a container with these added capabilities."""
    made: Profile = import_oci(json.dumps(document()), FACTS.name, caps=caps).profile
    return made


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=2)
    print()
