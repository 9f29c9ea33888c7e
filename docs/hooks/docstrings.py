"""Reads atoll's docstrings for the site: their sections have names that griffe's Google style does not know."""

from __future__ import annotations

import re
from typing import Any

import griffe

NAMES = {"Example": "Examples", "Class attributes": "Attributes"}


class Sections(griffe.Extension):
    """Renames the sections."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object that griffe loads."""
        if obj.docstring is not None:
            pattern = rf"^({'|'.join(NAMES)}):$"
            text = re.sub(pattern, lambda found: f"{NAMES[found[1]]}:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = text
