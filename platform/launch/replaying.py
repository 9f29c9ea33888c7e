"""Repeats the decisions of a recorded search, root by root and launch by launch; trains nothing and writes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.platform.launch import same_study
from atoll.platform.search import resume
from atoll.platform.search.replay import CannotReplay, Decision, LaunchRecord, RootReplay, Trials
from atoll.platform.search.restore import earlier
from atoll.platform.study.plan import Plan
from atoll.platform.study.samplers import members
from atoll.platform.study.study import Study
from atoll.storage import launches, liveness
from atoll.storage.events import Event, LauncherJoined, RankPlaced, StudyChanged, StudyStarted, TrialStarted
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import read_all


@dataclass(frozen=True)
class Replayed:
    """What the repetition has found.

    Attributes:
        decisions: the repeated ones, in the order of their times.
        num_untold: proposals of which the journals do not tell what they knew, as older versions did not write it.
    """

    decisions: tuple[Decision, ...]
    num_untold: int

    @property
    def different(self) -> list[Decision]:
        """Those that are decided otherwise now."""
        return [decision for decision in self.decisions if decision.differences]


def replay(folder: StudyFolder, study: Study | None = None) -> Replayed:
    """Repeat all decisions of a recorded search.

    Args:
        folder: the study's files.
        study: the study that decides now; its budget and topology are those of the record. Default: the recorded one.

    Raises:
        CannotReplay: if the search cannot be repeated.
    """
    found = _records(folder)
    decisions: list[Decision] = []
    num_untold = 0
    for launch in found:
        recorded = _definition(launch)
        plan, is_other = Plan.of(Study.model_validate(recorded)), False
        if study is not None:
            before, plan = plan, Plan.of(_as_recorded(study, folder, recorded))
            is_other = _breeds_otherwise(before, plan)
        past, trials = resume.read(launch.before), Trials.of(launch)
        if is_other:  # as after a change of the sampler or the space: trials are results from elsewhere
            past.bred_since = trials.past.bred_since = 1
        for place, events in launch.roots:
            if place.island >= plan.study.topology.islands:
                raise CannotReplay(
                    f"launch {launch.number} searched on island {place.island}, and the study has "
                    f"{plan.study.topology.islands}: the number of islands must be the recorded one"
                )
            root = RootReplay(plan, past, launch, trials, place, events, earlier(folder))
            decisions += root.decisions()
            num_untold += root.num_untold
    if not decisions:
        raise CannotReplay(
            f"the journals in {folder.journals} do not tell what each worker knew when it proposed: an older version "
            f"of atoll wrote them ({num_untold} proposals)"
            if num_untold
            else f"the search in {folder.path} has no decisions to repeat: no sampler proposed a trial"
        )
    return Replayed(tuple(sorted(decisions, key=lambda one: (one.launch, one.time))), num_untold)


def _records(folder: StudyFolder) -> list[LaunchRecord]:
    """The launches with ranks, in order. Raises CannotReplay for what cannot be repeated."""
    if liveness.holder(folder) is not None:
        raise CannotReplay(f"the search in {folder.path} is running: wait until it has ended, or stop it first")
    problems: list[str] = []
    _check(launches.replay(folder.journals, problems), folder)
    files = launches.closed_files(folder.journals)
    by_launch: dict[int, list[tuple[RankPlaced, list[Event]]]] = defaultdict(list)
    for file in files:
        if file.is_of_launcher:
            continue
        malformed: list[str] = []
        events = list(read_all(file.path, malformed, file.end))
        if malformed:
            raise CannotReplay(f"{file.path} has invalid lines, so what its worker knew is not known: {malformed[0]}")
        places = [event for event in events if isinstance(event, RankPlaced) and event.rank == 0]
        if places:
            by_launch[file.launch].append((places[0], events))
    found = []
    for number, roots in sorted(by_launch.items()):
        until = {file.path.name: _end(file) for file in files if file.launch < number or _opens(file, number)}
        sizes = [0] * (1 + max(place.island for place, _ in roots))
        for place, _ in roots:
            sizes[place.island] += 1
        found.append(LaunchRecord(number, launches.replay(folder.journals, until=until), roots, sizes))
    return found


def _end(file: launches.JournalFile) -> int:
    return file.path.stat().st_size if file.end is None else file.end


def _opens(file: launches.JournalFile, launch: int) -> bool:
    """Whether a journal has the lines with which the launcher begins a launch."""
    return file.is_of_launcher and file.launch == launch


def _check(events: list[Event], folder: StudyFolder) -> None:
    refused = f"the search in {folder.path} cannot be replayed: "
    if any(isinstance(event, LauncherJoined) for event in events):
        raise CannotReplay(
            f"{refused}several launchers searched it, and journals do not tell when each read the others"
        )
    if any(isinstance(event, StudyChanged) for event in events):
        raise CannotReplay(f"{refused}`atoll change` changed it")
    if any(isinstance(event, TrialStarted) and event.home is not None for event in events):
        raise CannotReplay(f"{refused}trials continued after they had a result (promotion, pbt or a larger length)")


def _definition(launch: LaunchRecord) -> dict[str, Any]:
    """The study as it was when the launch began."""
    started = [e for e in launch.before if isinstance(e, StudyStarted) and e.definition is not None]
    if not started:
        raise CannotReplay(f"no journal has the study's definition of launch {launch.number}")
    definition = dict(started[-1].definition or {})
    if Study.model_validate(definition).pauses_trials:
        raise CannotReplay("a search with promotion or pbt cannot be replayed: its trials pause and continue")
    return definition


def _as_recorded(study: Study, folder: StudyFolder, recorded: Mapping[str, Any]) -> Study:
    """The study with the recorded budget and topology, and the recorded sampler if it names none."""
    study = same_study.as_recorded(study, folder)
    if study.pauses_trials:
        raise CannotReplay("a study with promotion or pbt cannot be compared with a replay: its trials pause")
    content = same_study.definition(study)
    keeps = {name: recorded[name] for name in ("trials", "seconds", "busy_seconds", "topology") if name in recorded}
    return Study.model_validate(content | keeps)


def _breeds_otherwise(before: Plan, now: Plan) -> bool:
    """Whether the sampler or the space is another one, to which the recorded genes and attributes mean nothing."""
    names = [[[m.name for m in members(s)] for s in plan.study.samplers()] for plan in (before, now)]
    return names[0] != names[1] or (before.space.parameters, before.space.fixed) != (
        now.space.parameters,
        now.space.fixed,
    )
