"""The versions of one profile: what it meant, which version it came from, who changed it and why.

In and out: JSON Lines, one version a line, oldest first. Only appended to, so that a torn last line loses one
entry and never the rest. Pure: the clock and the user are given.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from autoprofile.errors import AutoprofileError
from autoprofile.profile.model import Program

if TYPE_CHECKING:
    from autoprofile.profile.model import Profile

__all__ = ["HISTORY_SCHEMA_VERSION", "History", "Version", "content_hash"]

HISTORY_SCHEMA_VERSION = 1


def content_hash(profile: Profile) -> str:
    """Return the name of what a profile means: 16 hexadecimal digits of SHA-256.

    Rules, arches, default, level and mode count; evidence, comments, and what it was learned from do not, so
    that learning the same again gives the same version.
    """
    meaning = replace(
        profile,
        program=Program(),
        learned=None,
        rules=tuple(replace(rule, evidence=None) for rule in profile.rules),
    )
    return hashlib.sha256(meaning.dumps().encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Version:
    """Record one version.

    Args:
        version: its `content_hash`.
        parent: the version before it, None for the first.
        time: when it was recorded, ISO 8601 in UTC.
        who: by whom.
        why: for what reason, "" when none was given.
        text: the profile as YAML, without the comments of people.
    """

    version: str
    parent: str | None
    time: str
    who: str
    why: str
    text: str

    def to_line(self) -> str:
        """Return the line of the file."""
        entry = {"schema_version": HISTORY_SCHEMA_VERSION, **asdict(self)}
        return json.dumps(entry, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class History:
    """Hold the versions of one profile, oldest first."""

    versions: tuple[Version, ...] = ()

    @property
    def newest(self) -> Version | None:
        """The version recorded last."""
        return self.versions[-1] if self.versions else None

    def next(self, profile: Profile, *, time: str, who: str, why: str) -> Version | None:
        """Return the version that a profile is now; None when it still is the newest one."""
        version = content_hash(profile)
        parent = self.newest.version if self.newest else None
        if version == parent:
            return None
        return Version(version, parent, time, who, why, profile.dumps())

    def find(self, version: str) -> Version:
        """Return the version of this name, or of a name that begins so; of equal ones the latest.

        Raises:
            AutoprofileError: there is none, or there are several.
        """
        found = {v.version: v for v in self.versions if v.version.startswith(version)}
        if len(found) == 1:
            return next(iter(found.values()))
        known = ", ".join(dict.fromkeys(v.version for v in self.versions)) or "none"
        several = "several versions begin with" if found else "no version"
        raise AutoprofileError(f"{several} {version!r}", hint=f"the versions are {known}")

    @classmethod
    def loads(cls, text: str, where: str) -> History:
        """Read a history.

        A last line without its end was torn by a crash while it was written: it is left out.

        Raises:
            AutoprofileError: a line is no version; `where` is ``file:line``.
        """
        versions = []
        lines = text.split("\n")
        for number, line in enumerate(lines[:-1], 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                if entry.pop("schema_version") != HISTORY_SCHEMA_VERSION:
                    raise ValueError("it is of another schema version")
                if set(entry) != {f.name for f in fields(Version)}:
                    raise ValueError("its keys are not those of a version")
                versions.append(Version(**entry))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise AutoprofileError(
                    f"this is no version of a profile: {error}",
                    where=f"{where}:{number}",
                    hint="take the file back from version control, or move it away to begin anew",
                ) from error
        return cls(tuple(versions))
