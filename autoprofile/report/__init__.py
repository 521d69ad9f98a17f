"""Profiles, traces, drift, findings and differences as text for people and as one HTML page.

In: the objects of the lower floors. Out: text; nothing here prints, reads a clock or touches a file. rich,
jinja2 and matplotlib are loaded by the functions that draw with them.
"""

from __future__ import annotations

from autoprofile.report.text import Style, TextPage

__all__ = ["Style", "TextPage"]
