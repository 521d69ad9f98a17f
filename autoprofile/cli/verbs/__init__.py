"""The verbs, one module each, named after the verb and defining `command`.

Adding a verb is adding a module here: the group finds it by its file name and imports it when it is
asked for. A verb module imports at its top level only `click`, `autoprofile.cli` and light modules of
the standard library.
"""

from __future__ import annotations

__all__ = ()
