"""A profile's compiled filter as the bytes the kernel takes: what ``bwrap --seccomp FD`` reads.

Also crun's annotation ``run.oci.seccomp_bpf_data``, in base64. Exact: one ``struct sock_filter`` after the
other, in the byte order of this machine's arch (little endian).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.filter import compile_profile
from autoprofile.filter.newer import answer_beyond, with_fallbacks
from autoprofile.formats.fidelity import Exported, Note
from autoprofile.formats.launcher import launcher_note

if TYPE_CHECKING:
    from autoprofile.profile import Profile

__all__ = ["export_raw"]


def export_raw(profile: Profile) -> Exported:
    """Return the bytes of a profile's filter."""
    launch = launcher_note(profile)
    return Exported(
        bytes(compile_profile(with_fallbacks(profile), beyond=answer_beyond(profile))),
        (Note("kept", f"{len(profile.rules)} rules, all of them"), *([launch] if launch else [])),
    )
