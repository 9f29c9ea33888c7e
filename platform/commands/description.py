"""Describes one study: what it searches, and the versions of code, data and libraries that it has measured with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from rich.table import Table

from atoll.analysis.formatting import counted, number, size
from atoll.platform.commands.display import table
from atoll.platform.study.provenance_record import DataFiles, Provenance
from atoll.storage.folder import StudyFolder
from atoll.storage.models import ChangeRow, ProvenanceRow, StudyRow


def describe(
    study: StudyRow,
    provenances: Sequence[ProvenanceRow],
    num_measured: Mapping[int | None, int],
    changes: Sequence[ChangeRow] = (),
) -> dict[str, Any]:
    """The study's changes and provenance as plain data.

    Args:
        study: the study.
        changes: its changes by `atoll change`.
        provenances: its versions.
        num_measured: the number of ended trials of each version; None: of those from before there were records.
    """
    sources = StudyFolder(study.folder).source("").parent
    return {
        "sources": str(sources) if sources.is_dir() and not study.is_imported else None,
        "changes": [
            {
                "number": row.number,
                "requested": row.requested,
                "since": row.time,
                "first_trial": row.first_trial,
                "settings": row.settings,
                "outside": row.outside,
            }
            for row in changes
        ],
        "num_without_provenance": num_measured.get(None, 0),
        "provenance": [
            {
                "version": row.version,
                "since": row.time,
                "sha256": row.sha256,
                "num_trials": num_measured.get(row.version, 0),
                "changes": row.changes,
                "record": row.record,
            }
            for row in provenances
        ],
    }


def show(study: StudyRow, described: Mapping[str, Any], print_table: Callable[[Table], None]) -> None:
    """Print a description: the space and settings of the latest version, then the changes of every version."""
    versions = described["provenance"]
    for line in change_lines(described["changes"]):
        print(line)
    if not versions:
        print(f"{study.name} has no record of its code, data and versions: it is older than these records")
        return
    try:
        latest = Provenance.model_validate(versions[-1]["record"])
        search = _space_table(latest), _search_lines(study, latest)
    except (ValidationError, KeyError, TypeError, AttributeError):  # in a store that somebody has edited
        print("the record of the latest version cannot be read; --json shows it")
    else:
        print_table(search[0])
        for line in (*search[1], *_measured_lines(latest, described["sources"])):
            print(line)
    if described["num_without_provenance"]:
        print(f"before there were records: {counted(described['num_without_provenance'], 'ended trial')}")
    for version in versions:
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(version["since"]))
        print(f"provenance {version['version']}, since {since}: {counted(version['num_trials'], 'ended trial')}")
        for change in version["changes"]:
            print(f"    {change}")


def change_lines(changes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The changes by `atoll change` in words."""
    for one in changes:
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(one["since"]))
        yield f"change {one['number']}, since {since}, from trial {one['first_trial']} on:"
        yield from (f"    {setting['said']}" for setting in one["settings"])
        if num_outside := sum(one["outside"].values()):
            reasons = ", ".join(f"{count} {reason}" for reason, count in one["outside"].items())
            yield f"    {num_outside} earlier results outside of the space, which samplers are not told: {reasons}"


def _space_table(record: Provenance) -> Table:
    parameters = record.space.get("parameters", [])
    rows = [[one["name"], one["domain"], number(one["default"]), one["source"]] for one in parameters]
    return table("search space", ["hyperparameter", "range", "default", "source of the range"], rows)


def _search_lines(study: StudyRow, record: Provenance) -> list[str]:
    """What else defines the search."""
    fixed = record.space.get("fixed", {})
    lines = {
        "fixed": ", ".join(f"{name} = {value}" for name, value in fixed.items()),
        "constraints": "; ".join(record.space.get("constraints", [])),
        "objectives": ", ".join(f"{one['name']} ({one['direction']})" for one in record.objectives),
        "sampler": "; ".join(dict.fromkeys(map(sampler, record.samplers))),
        "method": study.method,
        "workload": study.workload,
    }
    return [f"{label}: {text}" for label, text in lines.items() if text]


def sampler(settings: Mapping[str, Any]) -> str:
    """A sampler's name, with its options and members in brackets."""
    options = {name: value for name, value in settings.items() if name not in ("name", "samplers")}
    parts = [f"{name} {value}" for name, value in options.items() if value is not None]
    parts += [sampler(member) for member in settings.get("samplers") or ()]
    return f"{settings['name']} ({', '.join(parts)})" if parts else str(settings["name"])


def _measured_lines(record: Provenance, sources: str | None) -> list[str]:
    """The code, data, libraries and environment of a version."""
    measured = record.measured
    lines = [f"code: {path} (sha256 {sha256[:12]}…)" for path, sha256 in measured.code.items()]
    lines += [f"code that searches: {path} (sha256 {sha256[:12]}…)" for path, sha256 in record.searching.items()]
    lines += [f"copies of the code: {sources}"] if sources and (measured.code or record.searching) else []
    for folder, repository in record.repositories.items():
        changed = f", with uncommitted changes in {', '.join(repository.changed)}" if repository.changed else ""
        lines.append(f"repository: {folder} at commit {repository.commit[:12]}{changed}")
    lines += [f"data: {path} ({_data(files)})" for path, files in measured.data.items()]
    lines.append("libraries: " + ", ".join(f"{name} {version}" for name, version in measured.libraries.items()))
    lines.append("environment: " + ", ".join(f"{name} {version}" for name, version in record.environment.items()))
    return lines


def _data(files: DataFiles) -> str:
    """A data file's size, and its hash or time."""
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(files.modified))
    known = f"sha256 {files.sha256[:12]}…" if files.sha256 else f"written {written}, too large to hash"
    count = f"{files.num_files} files, " if files.num_files > 1 else ""
    return f"{count}{size(files.size)}, {known}"
