"""The record of what a study's trials are measured with, and how two records differ, in words."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class DataFiles(_Record):
    """A data file, or a folder of them.

    Attributes:
        size: in bytes, of all files.
        modified: when the newest one was written, in seconds since the epoch.
        sha256: of the content; None if it is too large.
        num_files: how many a folder has, of at most MAX_DATA_FILES.
        listing: SHA-256 of a folder's names and sizes.
    """

    size: int
    modified: float
    sha256: str | None = None
    num_files: int = 1
    listing: str | None = None


class Repository(_Record):
    """A git repository that holds user code.

    Attributes:
        commit: the checked-out commit.
        changed: tracked files that differ from the commit, and code files that it does not have.
    """

    commit: str
    changed: list[str] = []


class Measured(_Record):
    """What the value of a trial depends on, apart from its configuration. If it differs, trials do not compare.

    Attributes:
        code: SHA-256 of each file of user code, by absolute path.
        data: the data files, by their path in the data folder, or else their absolute one.
        libraries: versions of atoll, torch, numpy, and of the packages that workload and method import.
        atoll_source: SHA-256 of the parts of atoll that train and measure.
    """

    code: dict[str, str] = {}
    data: dict[str, DataFiles] = {}
    libraries: dict[str, str] = {}
    atoll_source: str | None = None


class Provenance(_Record):
    """The record of what was searched.

    Attributes:
        measured: what the values of trials depend on.
        searching: SHA-256 of each file of the user's samplers and pruning rule, by absolute path.
        environment: versions of Python, MPI and samplers, which should not change these values.
        repositories: the git repositories of the user's code, by folder.
        space: the resolved search space, with defaults, scales, conditions and constraints.
        samplers: each island's sampler, with its options.
        objectives: the objectives, with their directions.
        unread: user code that cannot be parsed, so that its imports are unknown.
    """

    measured: Measured
    searching: dict[str, str] = {}
    environment: dict[str, str] = {}
    repositories: dict[str, Repository] = {}
    space: dict[str, Any] = {}
    samplers: list[dict[str, Any]] = []
    objectives: list[dict[str, Any]] = []
    unread: list[str] = []

    @property
    def sha256(self) -> str:
        """The hash of the record."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Differences:
    """A phrase for each difference of two records.

    Attributes:
        measured: those that change what is measured or searched.
        others: those that should not.
    """

    measured: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.measured or self.others)


def differences(before: Provenance, now: Provenance) -> Differences:
    """All differences of two records of one study, apart from commits: the hashes of files tell more."""
    of_space = _space_differences(before.space, now.space)
    shared = before.environment.keys() & now.environment.keys()
    others = {name: (before.environment[name], now.environment[name]) for name in sorted(shared)}
    return Differences(
        measured=[
            *measured_differences(before.measured, now.measured),
            *code_differences(before.searching, now.searching),
            *of_space,
        ],
        others=[f"{name} {old} → {new}" for name, (old, new) in others.items() if old != new],
    )


def measured_differences(before: Measured, now: Measured) -> list[str]:
    """A phrase for each difference in what is measured."""
    phrases = code_differences(before.code, now.code)
    phrases += _changes(before.data, now.data, lambda path: f"data {path}", _data_change)
    phrases += _changes(before.libraries, now.libraries, str, lambda old, new: f" {old} → {new}" if old != new else "")
    same_version = before.libraries.get("atoll") == now.libraries.get("atoll")
    if same_version and before.atoll_source and now.atoll_source:
        change = _hash_change(before.atoll_source, now.atoll_source)
        phrases += [f"atoll's own source{change}"] if change else []
    return phrases


def code_differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A phrase for each file of the user's code that differs, by its hash."""
    return _changes(before, now, lambda path: Path(path).name, _hash_change)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], name: Any, change: Any) -> list[str]:
    phrases = []
    for key in sorted({*before, *now}):
        if key not in now:
            phrases.append(f"{name(key)} is no longer used")
        elif key not in before:
            phrases.append(f"{name(key)} is new")
        elif words := change(before[key], now[key]):
            phrases.append(f"{name(key)}{words}")
    return phrases


def _hash_change(old: str, new: str) -> str:
    return "" if old == new else f" changed (sha256 {old[:8]}… → {new[:8]}…)"


def _data_change(old: DataFiles, new: DataFiles) -> str:
    if old.num_files != new.num_files:
        return f" changed ({old.num_files} → {new.num_files} files)"
    if old.size != new.size:
        return f" changed ({old.size} → {new.size} bytes)"
    if old.listing != new.listing:
        return " changed (files have other names or sizes)"
    if old.sha256 and new.sha256:
        return _hash_change(old.sha256, new.sha256)
    if old.modified == new.modified:
        return ""
    written = (time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.modified)) for one in (old, new))
    return f" may have changed (written {' → '.join(written)}; it is too large to compare by hash)"


def _space_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if not before or not now:
        return []
    old, new = ({one["name"]: one for one in space["parameters"]} for space in (before, now))
    phrases = _changes(old, new, lambda name: f"the search space's {name}", _parameter_change)
    fixed = _changes(before["fixed"], now["fixed"], lambda name: f"the fixed {name}", _value_change)
    held, holds = (dict.fromkeys(space["constraints"], True) for space in (before, now))
    return phrases + fixed + _changes(held, holds, lambda name: f"the constraint {name}", lambda *_: "")


def _parameter_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    # Sources and symbols of a range may be worded differently.
    if all(old[part] == new[part] for part in ("distribution", "default", "at_most", "only_if")):
        return ""
    return (
        "".join(
            f": {label}{old[part]} → {new[part]}"
            for part, label in (("domain", ""), ("default", "default "))
            if old[part] != new[part]
        )
        or f" changed ({old['distribution']} → {new['distribution']})"
    )


def _value_change(old: object, new: object) -> str:
    return "" if old == new else f" {old!r} → {new!r}"
