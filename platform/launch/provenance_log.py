"""The versions of a study's provenance, in its folder: written at its first start, compared at every later one."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.communication import mpi_library
from atoll.platform.launch import mpi_launcher
from atoll.platform.launch.errors import LaunchError
from atoll.platform.study import provenance
from atoll.platform.study.plan import Plan
from atoll.platform.study.provenance_record import Provenance, differences
from atoll.searchspaces.space import SearchSpace
from atoll.storage.events import ProvenanceRecorded
from atoll.storage.files import make_folder, replacing, write_whole
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter
from atoll.storage.launches import launchers_events

log = logging.getLogger("atoll.launch")


@dataclass(frozen=True)
class Version:
    """A version of a study's provenance: `changes` are the differences to the one before.

    `is_measured` tells whether some of them, now, change what is measured.
    """

    number: int
    record: Provenance
    changes: tuple[str, ...] = ()
    is_measured: bool = False


def latest(folder: StudyFolder) -> Version | None:
    """The latest version in a study's folder; None if the study is older than these records.

    Raises:
        LaunchError: if its file cannot be read.
    """
    numbers = [int(path.stem) for path in folder.provenance.glob("*.json") if path.stem.isdecimal()]
    if not numbers:
        return None
    path = folder.provenance_version(max(numbers))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Version(max(numbers), Provenance.model_validate(content["record"]), tuple(content["changes"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LaunchError(
            f"{path} must be a record of what the study searches, as JSON, and cannot be read ({error}); remove it to "
            "go on with the version before, or without a record"
        ) from None


def current(
    plan: Plan, folder: StudyFolder, resuming: bool, accept_changes: bool, *, is_respaced: bool = False
) -> Version:
    """The version with which a start of a study continues: the latest one, or a new one, which is not yet written.

    Args:
        plan: the resolved study.
        folder: its files.
        resuming: whether it was started before.
        accept_changes: whether to go on although something has changed what is measured.
        is_respaced: whether another space was asked for by `atoll change`.

    Raises:
        LaunchError: if something has, and the change is not accepted.
    """
    now = provenance.of(plan, _mpi())
    if now.unread:
        log.warning("what this code imports is unknown, as it cannot be parsed: %s", ", ".join(now.unread))
    before = latest(folder) if resuming else None
    if before is None:
        if resuming:
            log.warning(
                "%s was started without a record of its code, data and versions, so changes since then are unknown; "
                "they are recorded from now on",
                plan.study.name,
            )
        return Version(1, now)
    if is_respaced:
        before = respaced(before, plan.space)
    found = differences(before.record, now)
    if not found:
        return before
    if found.measured and not accept_changes:
        raise LaunchError(refusal(plan.study.name, found.measured))
    for change in (*found.measured, *found.others):
        log.warning("changed since version %d of the study's provenance: %s", before.number, change)
    return Version(before.number + 1, now, (*found.measured, *found.others), is_measured=bool(found.measured))


def respaced(version: Version, space: SearchSpace) -> Version:
    """A version with another search space, as `atoll change` has asked for: the next one, if it differs."""
    plain = json.loads(json.dumps(space.as_dict()))  # as it is read again
    record = version.record.model_copy(update={"space": plain})
    found = differences(version.record, record)
    return Version(version.number + 1, record, tuple(found.measured)) if found else version


def refusal(name: str, changes: Iterable[str], study: str | None = None) -> str:
    """The reason why a study, or a benchmark one of whose studies is `study`, is not resumed."""
    return (
        f"what {name} measures has changed since it was started: {'; '.join(changes)}. Trials from before and after "
        f"would not compare: undo the change, or repeat the command with --accept-changes, which records a new version "
        f"(`atoll studies {study or name}` shows all) and goes on"
    )


def reason(changes: Iterable[str]) -> str:
    """The same for ranks that are not restarted, as a clause."""
    return f"what they measure has changed meanwhile: {'; '.join(changes)}; --resume tells how to go on"


def write(folder: StudyFolder, version: Version, lines: JournalWriter) -> None:
    """Write a version to the study's folder, with the texts of the user's code, and to the launcher's journal.

    The journal gets each version once; what an interrupted start has left out is completed.
    """
    record = version.record
    for path, sha256 in (record.measured.code | record.searching).items():
        copy = folder.source(sha256)
        if Path(path).suffix != ".py" or copy.exists():
            continue
        text = Path(path).read_bytes()
        if hashlib.sha256(text).hexdigest() == sha256:  # otherwise it is being edited, as the restart of a rank notices
            make_folder(copy.parent)
            with replacing(copy) as partial:
                partial.write_bytes(text)
    file = folder.provenance_version(version.number)
    content: dict[str, Any] = {"sha256": record.sha256, "record": record.model_dump(), "changes": list(version.changes)}
    make_folder(file.parent)
    write_whole(file, json.dumps(content, indent=2))
    events = launchers_events(folder.journals)
    if not any(isinstance(event, ProvenanceRecorded) and event.version == version.number for event in events):
        lines.append(ProvenanceRecorded(version=version.number, **content))


def changed_files(folder: StudyFolder, data: str | None) -> list[str]:
    """What has changed in the code and data since the latest start, for a restart of the ranks."""
    version = latest(folder)
    return [] if version is None else provenance.changed_files(version.record, Path(data) if data else None)


def _mpi() -> dict[str, str]:
    """The MPI library: that of this process, if it is a rank, or else the one that ranks will load."""
    name = mpi_library.loaded() or mpi_launcher.library().name
    return {} if name is None else {"MPI library": name}
