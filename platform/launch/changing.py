"""Changes of a study that has begun: `atoll change` writes them, and the next start of its ranks takes them up.

A change is a numbered file in the study's folder, `changes/00001.json`, which is validated as a whole before it is
written. `study.json` has the definition that is searched, and the number of the last change in it; changes with higher
numbers wait. They take effect when a stopped study is continued, or when the launchers of a running one have noticed
them, and have started their ranks again (`Membership.next_launch`).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atoll.platform.launch.errors import LaunchError
from atoll.platform.search import fitting, resume
from atoll.platform.study import changes, registry
from atoll.platform.study.changes import Definition, Setting
from atoll.platform.study.learning import learns
from atoll.platform.study.plan import Plan
from atoll.platform.study.samplers import Grid, members
from atoll.platform.study.study import Study
from atoll.storage import launches, yamlfile
from atoll.storage.events import StudyChanged
from atoll.storage.files import FILE_MODE, make_folder, rights, sync_folder, write_whole
from atoll.storage.folder import StudyFolder
from atoll.storage.names import NOTEBOOK

log = logging.getLogger("atoll.launch")

# Neither compared nor stored: URLs may have passwords, and nothing in a study's folder names code to be run.
NOT_STORED = frozenset({"store", "folder", "on_trial", "launcher"})
MOST_REASONS = 6


@dataclass(frozen=True)
class Change:
    """A change that was asked for.

    Attributes:
        number: counts the study's changes from 1.
        requested: when; seconds since the epoch.
        settings: what it changes.
    """

    number: int
    requested: float
    settings: tuple[Setting, ...]

    @property
    def said(self) -> str:
        """The change in words."""
        return "; ".join(one.said for one in self.settings)


# Reading.


def newest(folder: StudyFolder) -> int:
    """The number of the last change that was asked for; 0 if there is none."""
    try:
        names = os.listdir(folder.changes)
    except FileNotFoundError:
        return 0
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return max((int(stem) for stem in stems if stem.isdecimal()), default=0)


def asked(folder: StudyFolder) -> list[Change]:
    """The changes that were asked for.

    Raises:
        LaunchError: if one cannot be read.
    """
    return [_read(folder.change(number)) for number in range(1, newest(folder) + 1)]


def _read(path: Path) -> Change:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = tuple(Setting(**one) for one in content["settings"])
        return Change(content["number"], content["requested"], settings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LaunchError(f"{path} must be a change of the study, as JSON, and cannot be read: {error}") from None


@dataclass(frozen=True)
class InForce:
    """What is in force in a study, or will be at the next start of its ranks.

    Attributes:
        definition: the study's.
        searched: the number of the last change of those that are searched.
        asked: all changes.
        former: the definition that is searched.
    """

    definition: Definition
    searched: int
    asked: tuple[Change, ...]
    former: Definition

    @classmethod
    def read(cls, folder: StudyFolder) -> InForce:
        """That of a folder.

        Raises:
            LaunchError: if a change cannot be read.
        """
        content = json.loads(folder.definition.read_text())
        former, searched = content["definition"], content.get("changes", 0)
        definition, all_changes = former, asked(folder)
        for change in all_changes[searched:]:
            definition = changes.applied(definition, change.settings)
        return cls(definition, searched, tuple(all_changes), former)

    @property
    def waiting(self) -> tuple[Change, ...]:
        """The changes that wait."""
        return self.asked[self.searched :]

    @property
    def number(self) -> int:
        """The number of the last change."""
        return self.waiting[-1].number if self.waiting else self.searched

    def study(self) -> Study:
        """The study; raises LaunchError if the definition is not valid any more."""
        return validated(self.definition)

    def breeds(self, past: resume.Past) -> bool:
        """Whether a change that the journals do not have yet is one of the space or the sampler."""
        return any(one.breeds for change in self.asked if change.number not in past.changes for one in change.settings)


def validated(definition: Definition) -> Study:
    """The study of a stored definition; raises LaunchError if it is not valid any more."""
    try:
        return Study.model_validate(definition)
    except ValidationError as error:
        raise LaunchError(f"the stored study is not valid any more: {error.errors()[0]['msg']}") from None


# A study's own file, which says what was true at first.


def up_to_date(study: Study, folder: StudyFolder) -> tuple[Study, list[str]]:
    """A study as a user gives it, with what `atoll change` has changed since, and a line on each difference.

    Where the user's value is one that a change has replaced, the change stands; any other value stays, and is compared
    with what is in force.
    """
    found = InForce.read(folder)
    given, now = study.model_dump(mode="json", exclude=set(NOT_STORED)), found.study()
    replaced: dict[str, list[Any]] = {}
    said: dict[str, str] = {}
    for change in found.asked:
        for one in change.settings:
            replaced.setdefault(one.setting, []).append(one.before)
            said[one.setting] = f"{one.said} (change {change.number})"
    in_force = now.model_dump(mode="json", exclude=set(NOT_STORED))
    told = []
    for setting, earlier in replaced.items():
        value, current = (changes.value_of(definition, setting) for definition in (given, in_force))
        if value == current or value not in earlier:
            continue
        study = _with(study, now, setting)
        told.append(said[setting])
    return study, told


def _with(study: Study, other: Study, setting: str) -> Study:
    """A study with a setting of another one."""
    key, _, part = setting.partition(".")
    if key == "space":
        entries = {**study.space, part: other.space[part]}
        return study.model_copy(update={"space": entries})
    if part:
        topology = study.topology.model_copy(update={part: getattr(other.topology, part)})
        return study.model_copy(update={"topology": topology})
    return study.model_copy(update={key: getattr(other, key)})


# Asking for a change.


@dataclass(frozen=True)
class Asked:
    """A change that is written.

    Attributes:
        change: the change.
        notes: sentences on what follows from it.
    """

    change: Change
    notes: tuple[str, ...]


def ask(
    folder: StudyFolder, wanted: Mapping[str, Any], check: Callable[[Study], Plan], *, num_launchers: int = 0
) -> Asked:
    """Validate a change of a study as a whole, and write it.

    Args:
        folder: the study's files.
        wanted: values by the names of settings; see `changes.changed`.
        check: checks the changed study, as before a search, and resolves it.
        num_launchers: how many launchers search the study.

    Raises:
        LaunchError: if the study cannot change, or nothing would.
        ValueError: if a setting cannot change, or has an invalid value.
    """
    row = json.loads(folder.definition.read_text())
    if row.get("benchmark") is not None:
        raise LaunchError(f"{row['name']} belongs to a benchmark, whose studies cannot change: they are compared")
    while True:
        found = InForce.read(folder)
        before = _resolved(found.study())
        now = before.study.model_dump(mode="json", exclude=set(NOT_STORED))
        if before.study.confirm is not None:
            raise LaunchError(f"{before.study.name} cannot change: it trains given configurations (confirm)")
        content = changes.changed(now, wanted, before.space)
        content["folder"] = str(folder.path)
        study = yamlfile.validate(content, Study, source="change", folder=Path.cwd())
        plan = check(study)
        after = plan.study.model_dump(mode="json", exclude=set(NOT_STORED))
        settings = changes.differences(now, after, (before.space, plan.space))
        if not settings:
            raise LaunchError(f"nothing changes: {before.study.name} is as asked for; see `atoll studies NAME`")
        _check(before.study, plan.study, settings, num_launchers)
        change = Change(found.number + 1, time.time(), tuple(settings))
        if _write(folder, change):
            return Asked(change, tuple(_notes(folder, before, plan, settings)))


def _resolved(study: Study) -> Plan:
    if study.calls_function and study.workload.startswith(NOTEBOOK) and not registry.is_given(study.workload):
        registry.give(study.workload, _elsewhere)
    return Plan.of(study)


def _elsewhere(_: object) -> float:
    raise RuntimeError("this function is in another process")  # only the process that searches calls it


def _check(before: Study, after: Study, settings: Sequence[Setting], num_launchers: int) -> None:
    """What is valid for a new study and not for one that has begun."""
    if any(isinstance(sampler, Grid) for sampler in after.samplers()) and any(one.breeds for one in settings):
        raise ValueError(
            "the sampler grid evaluates its point n in trial n, so a study can neither begin with it later nor change "
            "its space: start another study, or name another sampler"
        )
    if any(study.population_based is not None for study in (before, after)) and any(one.breeds for one in settings):
        raise ValueError(
            "the members of pbt train on with the space and the settings of their start, so a study can neither begin "
            "with pbt later nor change its space or sampler: start another study, or change its budget or `stop` only"
        )
    if before.pauses_trials != after.pauses_trials:
        raise ValueError(
            "pruning.promotion cannot change in a study that has begun, as trials have paused, or not, since its start"
        )
    if num_launchers > 1 and before.topology != after.topology:
        raise ValueError(
            f"islands and workers can change while one launcher searches the study, and {num_launchers} do: stop the "
            "others first, or let launchers join and leave (`atoll join`)"
        )


def _write(folder: StudyFolder, change: Change) -> bool:
    """Write a change's file; false if there is one of its number, as somebody else was faster."""
    make_folder(folder.changes)
    path = folder.change(change.number)
    settings = [one.as_dict() for one in change.settings]
    content = {"number": change.number, "requested": change.requested, "settings": settings}
    partial = path.with_name(f".{os.getpid()}.{time.monotonic_ns()}.partial")
    try:
        write_whole(partial, json.dumps(content, indent=2), FILE_MODE & rights())
        os.link(partial, path)  # unlike a rename, it replaces nothing
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(folder.changes)
    return True


def _notes(folder: StudyFolder, before: Plan, after: Plan, settings: Sequence[Setting]) -> Iterator[str]:
    if not any(one.breeds for one in settings):
        return
    results = resume.read(launches.replay(folder.journals)).results().values()
    yield told_of(fitting.outside(results, after.space), sum(trial.state in fitting.TOLD for trial in results))
    samplers = [member for sampler in after.study.samplers() for member in members(sampler)]
    if deaf := list(dict.fromkeys(sampler.name for sampler in samplers if not learns(sampler))):
        yield f"the sampler {', '.join(deaf)} learns nothing from earlier results"


def told_of(outside: Mapping[str, int], num_results: int) -> str:
    """How many earlier results samplers are told."""
    left_out = sum(outside.values())
    said = f"the sampler is told {num_results - left_out} of {num_results} earlier results"
    if not left_out:
        return said
    reasons = [f"{count} {reason}" for reason, count in Counter(outside).most_common(MOST_REASONS)]
    return f"{said}; {left_out} stay results and lie outside of the space: {', '.join(reasons)}"


# Taking up changes.


def take_up(found: InForce, plan: Plan, past: resume.Past, provenance: int | None) -> Iterator[StudyChanged]:
    """The lines of the changes that take effect now, and of those whose lines a killed launcher has left out.

    The journals get each change once.

    Args:
        found: what is in force.
        plan: the resolved study with all of them.
        past: what was searched.
        provenance: the version of the study's provenance from now on.
    """
    definition, first = found.former, 1 + max(past.started(), default=-1)
    results = list(past.results().values())
    for change in found.asked:
        if change.number > found.searched:
            definition = changes.applied(definition, change.settings)
        if change.number in past.changes:
            continue
        breeds = any(one.breeds for one in change.settings)
        is_last = change is found.asked[-1]
        outside = fitting.outside(results, plan.space) if breeds and is_last else {}
        log.warning("change %d takes effect from trial %d on: %s", change.number, first, change.said)
        if breeds and is_last and results:
            log.warning("%s", told_of(outside, sum(trial.state in fitting.TOLD for trial in results)))
        yield StudyChanged(
            number=change.number,
            requested=change.requested,
            settings=[one.as_dict() for one in change.settings],
            first_trial=first,
            definition=definition,
            num_trials=definition.get("trials"),
            outside=dict(outside),
            provenance=provenance,
        )


def write_definition(folder: StudyFolder, found: InForce) -> None:
    """Write the definition that is in force as the one that is searched."""
    content = json.loads(folder.definition.read_text())
    content |= {"definition": found.definition, "num_trials": found.definition.get("trials"), "changes": found.number}
    write_whole(folder.definition, json.dumps(content, indent=2), FILE_MODE & rights())
