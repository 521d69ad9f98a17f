"""Profiles in other tools' formats and back, each with a report of what was kept, widened or impossible.

Pure: text or bytes in and out. A format is one module and one line in the tables here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from autoprofile.formats.c import export_c
from autoprofile.formats.fidelity import EFFECTS, Exported, Imported, Note, no_format
from autoprofile.formats.kubernetes import export_kubernetes, import_kubernetes
from autoprofile.formats.minijail import export_minijail
from autoprofile.formats.oci import import_oci
from autoprofile.formats.oci_export import export_oci
from autoprofile.formats.raw import export_raw
from autoprofile.formats.systemd import export_systemd

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoprofile.profile import Profile

__all__ = [
    "EFFECTS",
    "EXPORTERS",
    "IMPORTERS",
    "Exported",
    "Imported",
    "Note",
    "export_profile",
    "import_profile",
]

#: Format name to the function that writes it.
EXPORTERS: Final[dict[str, Callable[[Profile], Exported]]] = {
    "oci": export_oci,
    "kubernetes": export_kubernetes,
    "systemd": export_systemd,
    "minijail": export_minijail,
    "raw": export_raw,
    "c": export_c,
}
#: Format name to the function that reads it.
IMPORTERS: Final[dict[str, Callable[[str, str], Imported]]] = {
    "oci": import_oci,
    "kubernetes": import_kubernetes,
}


def export_profile(profile: Profile, to: str) -> Exported:
    """Return a profile in another format.

    Raises:
        UsageError: there is no such format.
    """
    if to not in EXPORTERS:
        raise no_format(to, EXPORTERS)
    return EXPORTERS[to](profile)


def import_profile(text: str, source: str, where: str = "<string>") -> Imported:
    """Read a profile from another format.

    Raises:
        UsageError: there is no such format.
        ProfileError: the text is not in it.
    """
    if source not in IMPORTERS:
        raise no_format(source, IMPORTERS)
    return IMPORTERS[source](text, where)
