"""What changed between the provenances of several studies, which then do not compare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any


def differing(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The code files and data that differ between records that have both of them, and the versions of libraries.

    Args:
        records: the studies' provenances, as stored.
    """
    seen: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        measured = _mapping(record.get("measured"))
        for part in ("code", "data", "libraries"):
            for name, value in _mapping(measured.get(part)).items():
                seen.setdefault((part, name), {}).setdefault(_identity(value), None)
        if (source := measured.get("atoll_source")) is not None:
            seen.setdefault(("code", "atoll's own source"), {}).setdefault(str(source), None)
    return [_told(part, name, list(values)) for (part, name), values in seen.items() if len(values) > 1]


def num_measured_with(versions: Iterable[int | None], records: Mapping[int, Mapping[str, Any]]) -> int:
    """The number of different versions of what one study measures: those that differ in the space only are one.

    Args:
        versions: those of some trials; None: from before there were records.
        records: the study's provenances, as stored, by version.
    """
    measured = set()
    for version in versions:
        record = records.get(version, {}) if version is not None else {}
        rest = {name: value for name, value in record.items() if name != "space"}
        measured.add(json.dumps(rest, sort_keys=True) if rest else str(version))
    return len(measured)


def _mapping(value: object) -> Mapping[str, Any]:
    """A part of a record; empty if it is of another type, as in a store that somebody has edited."""
    return value if isinstance(value, Mapping) else {}


def _identity(value: object) -> str:
    """Of a data file its hash if it is known, as it may have been copied since, or else size and time."""
    facts = _mapping(value)
    if not facts:
        return str(value)
    return str(facts.get("sha256") or (facts.get("size"), facts.get("modified"), facts.get("listing")))


def _told(part: str, name: str, values: list[str]) -> str:
    if part == "libraries":
        return f"{name} {' and '.join(values)}"
    return PurePath(name).name if part == "code" else f"data {name}"
