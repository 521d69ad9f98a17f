"""The SeccompProfile resource of the Kubernetes security-profiles-operator (API v1beta1).

Its ``spec`` is the OCI object under YAML; the operator writes it to each node's kubelet seccomp folder.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import yaml

from autoprofile.errors import ProfileError
from autoprofile.formats.fidelity import Exported, Imported, Note
from autoprofile.formats.oci import profile_from_document
from autoprofile.formats.oci_export import document

if TYPE_CHECKING:
    from autoprofile.profile import Profile

__all__ = ["export_kubernetes", "import_kubernetes"]

_API: Final = "security-profiles-operator.x-k8s.io/v1beta1"


def export_kubernetes(profile: Profile) -> Exported:
    """Return a profile as a SeccompProfile resource named after its program."""
    spec, notes = document(profile)
    kept: list[Note] = list(notes)
    default = spec.pop("defaultErrnoRet", 1)
    if default != 1:
        kept.append(Note("narrowed", f"default {profile.default}", "it has no default errno: EPERM"))
    name = PurePosixPath(profile.program.path or "autoprofile").name.lower()
    resource = {
        "apiVersion": _API,
        "kind": "SeccompProfile",
        "metadata": {"name": re.sub(r"[^a-z0-9.-]+", "-", name).strip("-.") or "autoprofile"},
        "spec": spec,
    }
    return Exported(yaml.safe_dump(resource, sort_keys=False).encode(), tuple(kept))


def import_kubernetes(text: str, where: str = "<string>") -> Imported:
    """Read a SeccompProfile resource as a profile.

    Raises:
        ProfileError: it is not such a resource.
    """
    try:
        resource: Any = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ProfileError(f"not YAML: {error.problem}", where=f"{where}:{line}") from None
    if not isinstance(resource, dict) or resource.get("kind") != "SeccompProfile":
        raise ProfileError("no resource of kind SeccompProfile", where=where)
    return profile_from_document(resource.get("spec"), where)
