"""The JSON Schema of the profile file, for editors and other tools.

It describes what `parse_profile` accepts as far as a schema can; which syscalls, arguments and symbols exist
is checked against the kernel tables when a profile is loaded.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

__all__ = ["profile_schema"]


def profile_schema() -> dict[str, Any]:
    """Return the schema as plain data; it is shipped as ``autoprofile/profile/schema.json``."""
    schema: dict[str, Any] = json.loads(
        files("autoprofile.profile").joinpath("schema.json").read_text("utf-8")
    )
    return schema
