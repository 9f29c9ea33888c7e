"""The beginning and end of a search: checks, the study's folder, and the journal's last line.

The part in between is in `supervise` (we start mpiexec) and `join` (the user has started the ranks).
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from atoll.analysis.formatting import counted
from atoll.platform.exit_codes import EXIT_STOPPED
from atoll.platform.launch import changing, live, orphans, provenance_log, same_study
from atoll.platform.launch.errors import AlreadyComplete, LaunchError
from atoll.platform.search import gaussian_process, population_based, promotion, resume
from atoll.platform.search.extension import Extension
from atoll.platform.search.stop_rules import StopRules, ended_because
from atoll.platform.study import learning, warmstart
from atoll.platform.study.judged import Judged
from atoll.platform.study.on_trial import Command
from atoll.platform.study.plan import Length, Plan
from atoll.platform.study.study import Study
from atoll.storage import launches, liveness
from atoll.storage.events import Event, StudyChanged, StudyEnded, StudyStarted, TrialEnded, TrialKey, TrialLost
from atoll.storage.files import FILE_MODE, rights, write_whole
from atoll.storage.folder import DEFAULT_PARENT, StudyFolder
from atoll.storage.journal import JournalError, JournalWriter
from atoll.storage.lock import Lock, Locked
from atoll.storage.recorder import Recorder, RecorderThread
from atoll.storage.store import DEFAULT_URL, Store, StoreError

log = logging.getLogger("atoll.launch")

RECORDING_TIMEOUT = 60.0
_NO_COLUMNS = (
    "warm_start",
    "learned",
    "related",
    "curve_direction",
    "length",
    "changes",
)  # in the study's file, and not in the store


@dataclass(frozen=True)
class Ending:
    """How a search ended, or this launcher's part in it.

    Attributes:
        state: complete, stopped or failed; "left" if other launchers go on, and nothing was left to do for this one.
        reason: why; None if it is complete because its budget is used up.
        recorded: whether the store is complete.
    """

    state: str
    reason: str | None
    recorded: bool

    @property
    def exit_code(self) -> int:
        """0 complete or left, 75 stopped and resumable, 1 failed or not recorded."""
        return {"complete": 0 if self.recorded else 1, "left": 0, "stopped": EXIT_STOPPED}.get(self.state, 1)


@dataclass(frozen=True)
class Prepared:
    """A study that is about to be searched.

    Attributes:
        folder: its files.
        launch: the number of the launch that begins.
        history: what was searched before.
        change: the number of the study's last change.
    """

    folder: StudyFolder
    launch: int
    history: History
    change: int = 0


def store_url(option: str | None, study: Study | None = None) -> str:
    """The store's URL: the option, ATOLL_STORE, the study's, or the default."""
    return option or os.environ.get("ATOLL_STORE") or (study.store if study else None) or DEFAULT_URL


def study_folder(study: Study) -> StudyFolder:
    """The folder of the study's files."""
    return StudyFolder(Path(study.folder) if study.folder else DEFAULT_PARENT / study.name)


def prepare(
    plan: Plan,
    url: str,
    *,
    resuming: bool | None,
    accept_changes: bool = False,
    belongs_to: Mapping[str, Any] | None = None,
) -> Prepared:
    """Make the study's folder, or reopen it and mark the trials that an earlier start lost.

    Args:
        plan: the resolved study.
        url: the store's URL.
        resuming: whether to continue an existing study; None to do so if there is one.
        accept_changes: whether to continue it although its code, data or libraries have changed.
        belongs_to: further fields of the study's row: its benchmark, and its role there.

    Raises:
        LaunchError: if the study exists and is not to be resumed, or vice versa, or has changed.
        AlreadyComplete: if it is complete.
    """
    study = plan.study
    check_new(study, resuming)
    folder = study_folder(study)
    resuming = folder.exists() if resuming is None else resuming
    definition = same_study.definition(study)
    is_used_up, history, found = False, None, None
    if resuming:
        found = changing.InForce.read(folder) if folder.exists() else None  # first: a later change is taken up later
        same_study.check_unchanged(folder, plan)
        history = _read_with_warnings(folder)
        extension = Extension.of(study, plan.length, folder, history.past)
        rule = met_rule(StopRules.of(plan), study, history, definition)
        is_used_up = rule is not None or _is_over(study, plan.judged, extension, folder, history)
        if liveness.state(folder) == "complete" and is_used_up:
            raise _already_complete(study, rule)
        if rule is None and (before := met_rule(StopRules.of(plan), study, history)) is not None:
            log.warning("%s; as the budget is larger, `stop` counts only trials that end from now on", before)
        if plan.length is not None:
            _tell_longer(plan.length, extension)
    # If only the end is missing, because the launcher died, nothing is measured any more: the search ends.
    is_respaced = found is not None and history is not None and found.breeds(history.past)
    version = None if is_used_up else _provenance(plan, folder, is_respaced, resuming, accept_changes)
    if history is not None and (num_ended := orphans.end(folder, history.events)):
        log.warning("ended %s that an earlier launcher had left", counted(num_ended, "rank"))
    # Compute nodes may be unable to reach the store, so what it has is read here.
    earlier = _earlier(json.loads(folder.definition.read_text())) if resuming else _earlier_results(plan, url)
    content = _row(plan, folder, definition) | dict(belongs_to or {}) | earlier
    content |= {"changes": found.number} if found is not None and found.number else {}
    folder.create()
    write_whole(folder.definition, json.dumps(content, indent=2), FILE_MODE & rights())
    folder.stop_request.unlink(missing_ok=True)
    folder.failure.unlink(missing_ok=True)
    with launches.next_launch(folder.journals) as lines:
        if version is not None:
            is_new = not folder.provenance_version(version.number).exists()
            if history is not None and version.is_measured and is_new:
                _discard_checkpoints(study, folder, history.past)
            provenance_log.write(folder, version, lines)
        number = None if version is None else version.number
        if found is not None and history is not None:
            history.take_up(changing.take_up(found, plan, history.past, number), lines)
        lines.append(StudyStarted(definition=definition, num_trials=study.trials, provenance=number), sync=True)
        history = mark_lost(folder, lines, "its process ended before the trial did", suspects(None), history)
        return Prepared(folder, lines.launch, history, 0 if found is None else found.number)


def _provenance(
    plan: Plan, folder: StudyFolder, is_respaced: bool, resuming: bool, accept_changes: bool
) -> provenance_log.Version:
    """The version with which the study continues; a space that `atoll change` has changed is no reason to refuse it."""
    return provenance_log.current(plan, folder, resuming, accept_changes, is_respaced=is_respaced)


def _earlier_results(plan: Plan, url: str) -> dict[str, Any]:
    """The configurations of the warm start, and the results that samplers learn from, for the study's file."""
    lessons = learning.read(plan, url)
    if lessons.related:
        gaussian_process.check("a related source of learn_from", "omit it")
    for line in lessons.report:
        log.warning("%s", line)
    return _earlier(
        {
            "warm_start": warmstart.read(plan, url),
            "learned": [one.as_dict() for one in lessons.learned],
            "related": [one.as_dict() for one in lessons.related],
        }
    )


def _earlier(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: content.get(name) for name in ("warm_start", "learned", "related")}


def check_new(study: Study, resuming: bool | None) -> None:
    """Raise LaunchError if the study exists and is not to be resumed."""
    folder = study_folder(study)
    if folder.exists() and resuming is False:
        raise LaunchError(
            f"{folder.path} already holds a study; continue it with --resume or --continue, choose another --name, or "
            f"delete it with `atoll delete {study.name}`"
        )


def check_not_complete(plan: Plan) -> None:
    """Raise AlreadyComplete if the study has used up its budget, before anything expensive starts."""
    study, folder = plan.study, study_folder(plan.study)
    if folder.exists() and liveness.state(folder) == "complete":
        same_study.check_unchanged(folder, plan)
        history = History.read(folder)
        rule = met_rule(StopRules.of(plan), study, history, same_study.definition(study))
        extension = Extension.of(study, plan.length, folder, history.past)
        if rule is not None or _is_over(study, plan.judged, extension, folder, history):
            raise _already_complete(study, rule)


def met_rule(
    rules: StopRules | None, study: Study, history: History, definition: Mapping[str, Any] | None = None
) -> str | None:
    """Why a rule of the study's `stop` ends it; None if none is met.

    Args:
        rules: the study's, without results yet.
        study, history: the study and its journals.
        definition: that with which it is to be resumed. Default: it is not.
    """
    if rules is None:
        return None
    resumed = [] if definition is None else [StudyStarted(definition=dict(definition))]
    rules.take_past(history.past, itertools.chain(history.events, resumed))
    met = rules.met()
    return None if met is None else ended_because(met, history.past.num_budgeted(), study.trials)


def _already_complete(study: Study, rule: str | None) -> AlreadyComplete:
    if rule is not None:
        return AlreadyComplete(
            f"{study.name} is complete: {rule}; to continue, change or omit `stop`, or increase the budget, epochs or "
            "steps",
            rule,
        )
    return AlreadyComplete(
        f"{study.name} is complete: it has used its budget of {budget(study)}; to continue, increase the budget, "
        "epochs or steps"
    )


def _is_over(study: Study, judged: Judged, extension: Extension, folder: StudyFolder, history: History) -> bool:
    """Whether a budget is used up; one of trials is once no trial can be promoted, or made longer, either."""
    past = history.past
    if past.used_up(None, study.seconds, study.busy_seconds):
        return True
    if extension.continued or not past.used_up(study.trials, None):
        return False
    if not study.pauses_trials:
        return True
    if study.population_based is not None:
        return not population_based.are_waiting(past, folder)
    return promotion.restored(study, judged, folder, history.events, past)[0].promotable() is None


def _judged(content: Mapping[str, Any]) -> Judged:
    """The value by which the trials of a recorded study are judged."""
    metric, direction = content.get("curve_metric", content["metric"]), content.get("curve_direction", "minimize")
    return Judged.of(content["metric"], content["direction"], metric, direction)


def _discard_checkpoints(study: Study, folder: StudyFolder, past: resume.Past) -> None:
    """Interrupted trials start anew, and paused ones do not continue, if what they measure has changed."""
    ended = {trial.number for trial in past.counted() if trial.state != "pruned" or not study.pauses_trials}
    interrupted = {trial.number for trial in past.trials.values()} - ended
    found = [trial for number in interrupted if (trial := folder.trial(number)).manifest.exists()]
    for trial in found:
        trial.remove_checkpoints()
    for number in ended:  # what the study keeps stays, but does not become longer
        folder.trial(number).retire_checkpoints()
    if found:
        log.warning(
            "discarded the checkpoints of %s, as code, data or libraries have changed: interrupted trials "
            "restart, paused ones are not promoted",
            counted(len(found), "trial"),
        )


def _settle_paused(folder: StudyFolder, past: resume.Past, keep: str) -> None:
    """At the end of a search, trials that were not promoted are pruned, and their checkpoints go as those of others."""
    for trial in past.counted():
        if trial.state != "pruned":
            continue
        try:
            folder.trial(trial.number).settle(keep)
        except OSError as error:  # no reason to fail
            log.warning("files stay in %s: %s", folder.trial(trial.number).path, error)


def _row(plan: Plan, folder: StudyFolder, definition: dict[str, Any]) -> dict[str, Any]:
    """The row of a study that starts now, or again."""
    study, subject, resolved = plan.study, plan.subject, plan.objectives
    return {
        "name": study.name,
        "state": "running",
        "workload": study.workload,
        "method": study.method,
        "metric": resolved[0].name,
        "direction": resolved[0].direction,
        "curve_metric": subject.metric,
        "curve_direction": subject.direction,
        "length": None if plan.length is None else list(plan.length),
        "objectives": [objective.as_row() for objective in resolved] if len(resolved) > 1 else None,
        "target": subject.target if resolved[0].name == subject.metric else None,
        "num_trials": study.trials,
        "definition": definition,
        "folder": str(folder.path.resolve()),
        "uid": uid(folder),
        "started": _started(folder),
    }


def row(folder: StudyFolder) -> dict[str, Any]:
    """The study's row for the store."""
    content: dict[str, Any] = json.loads(folder.definition.read_text())
    return {name: value for name, value in content.items() if name not in _NO_COLUMNS}


@dataclass(frozen=True)
class History:
    """A study's journals, read once: of 20,000 trials that takes three seconds.

    Attributes:
        sizes: the journals' sizes before they were read.
        events, past: their events, and what follows from them.
    """

    sizes: dict[str, int]
    events: list[Event]
    past: resume.Past

    @classmethod
    def read(cls, folder: StudyFolder, problems: list[str] | None = None) -> History:
        """Read all journals."""
        sizes = launches.sizes(folder.journals)
        events = launches.replay(folder.journals, problems)
        return cls(sizes, events, resume.read(events))

    def take_up(self, changes: Iterable[StudyChanged], lines: JournalWriter) -> None:
        """Write the lines of changes that take effect now."""
        for event in changes:
            lines.append(event)
            self.past.add(event)
            self.events.append(event)

    def is_current(self, folder: StudyFolder, launch: int) -> bool:
        """Whether nobody has written since, apart from `launch`, which has begun after the reading."""
        own = launches.file_name(launches.LAUNCHER, launch)
        return self.sizes == {name: size for name, size in launches.sizes(folder.journals).items() if name != own}


def _tell_longer(new: Length, extension: Extension) -> None:
    unit, number = new
    if extension.continued:
        log.warning(
            "%d finished trials continue to %d %s, the best first, before new ones; their schedules continue as in "
            "the longer training",
            len(extension.continued), number, unit,
        )  # fmt: skip
    if extension.num_left:
        log.warning(
            "%d finished trials are shorter than %d %s and stay as they are, as they have no checkpoints (which "
            "`keep: last` or `all` of `checkpoint` keeps): their objectives do not compare with those of longer ones",
            extension.num_left, number, unit,
        )  # fmt: skip


def _read_with_warnings(folder: StudyFolder) -> History:
    """What has been searched."""
    problems: list[str] = []
    history = History.read(folder, problems)
    for problem in (*problems, *history.past.warnings()):
        log.warning("%s", problem)
    return history


def end_interrupted(folder: StudyFolder) -> tuple[str, int] | None:
    """Write the end of a study whose launcher died before it could, after ending the ranks that it left.

    Returns:
        The state, and the number of ranks that were ended; None if the study has ended or is running.

    Raises:
        LaunchError: if ranks are still alive on other hosts.
    """
    if not folder.exists() or liveness.state(folder) is not None:
        return None
    lock = Lock(folder.lock)
    try:
        lock.acquire()
    except Locked:
        return None
    try:
        if liveness.state(folder) is not None or liveness.launchers(folder):  # somebody else was faster, or goes on
            return None
        num_ended = orphans.end(folder, launches.replay(folder.journals))
        ended, _ = end(folder, Study.model_validate(row(folder)["definition"]), None)
    except JournalError as error:  # the disk is full: what is there can still be recorded or deleted
        log.warning("the end of this study cannot be written: %s", error.strerror)
        return None
    finally:
        lock.release()
    return ended, num_ended


def _all_failed(num_trials: int) -> str:
    return "its only trial failed" if num_trials == 1 else f"all {num_trials} trials failed"


def budget(study: Study) -> str:
    """The budget, for messages."""
    trials = None if study.trials is None else counted(study.trials, "trial")
    seconds = None if study.seconds is None else f"{study.seconds:g} seconds"
    busy = None if study.busy_seconds is None else f"{study.busy_seconds:g} worker-seconds"
    return " or ".join(filter(None, [trials, seconds, busy]))


def uid(folder: StudyFolder) -> str:
    """The study's permanent identifier; a new one for a new study."""
    return str(json.loads(folder.definition.read_text())["uid"]) if folder.exists() else uuid.uuid4().hex


def _started(folder: StudyFolder) -> float:
    return float(json.loads(folder.definition.read_text())["started"]) if folder.exists() else time.time()


def mark_lost(
    folder: StudyFolder,
    lines: JournalWriter,
    reason: str,
    is_suspected: Callable[[resume.PastTrial], bool],
    history: History | None = None,
    of: Collection[TrialKey] | None = None,
) -> History:
    """End the running trials whose process is gone: they are lost, and will be requeued. Returns the study's history.

    A configuration whose worker dies twice has failed, and is not retried; with checkpoints, unless it has got further
    in between.

    Args:
        folder, lines: the study's files, and the launcher's journal of a new launch.
        reason: the reason for the loss.
        is_suspected: whether a running trial may be the reason.
        history: the journals, if they have been read; they are read again if somebody has written since.
        of: the attempts that were running there; others are other launchers'. Default: all.
    """
    if history is None or not history.is_current(folder, lines.launch):
        history = History.read(folder)
    past, ends = history.past, list[TrialEnded | TrialLost]()
    checkpoint = row(folder)["definition"].get("checkpoint") or {}
    continues = checkpoint.get("every") is not None
    for trial in (trial for trial in past.running() if of is None or trial.key in of):
        trial.step = max(trial.step, folder.trial(trial.number).checkpoint_step()) if continues else trial.step
        may_be_why = is_suspected(trial)
        if may_be_why and past.is_suspected(trial, continues=continues):
            why = f"its worker died during this trial twice; the second time: {reason}"
            ended = TrialEnded(
                number=trial.number,
                attempt=trial.attempt,
                state="failed",
                reason=why,
                worker_seconds=trial.worker_seconds,
            )
            ends.append(ended)
            with suppress(OSError):  # they only use up space
                folder.trial(trial.number).settle(checkpoint.get("keep", "all"))
                folder.trial(trial.number).remove_weights()
        else:
            lost = TrialLost(
                number=trial.number,
                attempt=trial.attempt,
                reason=reason,
                suspected=may_be_why,
                step=trial.step if continues else 0,
            )
            ends.append(lost)
    for event in ends:
        lines.append(event)
        past.add(event)
    history.events.extend(ends)
    return history


def suspects(workers: Collection[int] | None) -> Callable[[resume.PastTrial], bool]:
    """Whether a trial ran on one of the workers that died first, which terminated the others; None: any may have."""
    return lambda trial: workers is None or trial.worker in workers


def end(
    folder: StudyFolder,
    study: Study,
    failure: str | None,
    gave_up: str | None = None,
    *,
    is_complete: bool = False,
) -> tuple[str, str | None]:
    """Write the study's last line: its state and the reason.

    Args:
        folder, study: the study and its files.
        failure: the reason if the ranks failed.
        gave_up: the reason if the search was stopped because its first trials failed; see `FirstTrials`.
        is_complete: whether it is complete whatever its budget says.
    """
    with launches.next_launch(folder.journals) as lines:
        lost = failure or gave_up or "the search was stopped"
        history = mark_lost(folder, lines, lost, suspects(() if failure is None else None))
        past, content = history.past, json.loads(folder.definition.read_text())
        found = changing.InForce.read(folder)
        study = found.study() if found.waiting else study  # of which more may be wanted
        # A study of before they were recorded neither promotes nor becomes longer; nor does one of a function.
        unit, number = content.get("length") or ("epochs", 0)
        given_up = folder.failure.read_text(encoding="utf-8") if folder.failure.exists() else None
        reason: str | None = failure or given_up
        rule = met_rule(StopRules.of_row(content), study, history)
        if reason is not None:
            state = "failed"
        elif rule is not None:
            state, reason = "complete", rule
        elif is_complete:
            state = "complete"
        elif _is_over(study, _judged(content), Extension.of(study, (unit, number), folder, past), folder, history):
            # In a benchmark, a method all of whose trials fail is a result.
            all_failed = past.all_failed() and row(folder).get("benchmark") is None
            state, reason = ("failed", _all_failed(past.num_budgeted())) if all_failed else ("complete", None)
        elif gave_up is not None:
            state, reason = "failed", gave_up
        else:
            state, reason = "stopped", f"stopped after {counted(past.num_budgeted(), 'trial')} of {budget(study)}"
            reason += f"; change {found.number} takes effect when it goes on" if found.waiting else ""
        lines.append(StudyEnded(state=state, reason=reason), sync=True)
    if state == "complete" and study.pauses_trials and study.checkpoint is not None:
        _settle_paused(folder, past, study.checkpoint.keep)
    return state, reason


def left(failure: str | None, is_asked: bool, num_others: int) -> Ending:
    """The end of this launcher's part, while others go on."""
    others = f"{num_others} other {'launcher goes' if num_others == 1 else 'launchers go'} on"
    if failure is not None:
        return Ending("failed", f"{failure}; {others}", recorded=True)
    if is_asked:
        return Ending("stopped", f"this launcher was stopped; {others}", recorded=True)
    return Ending("left", f"no trial is left to start here; {others} with theirs", recorded=True)


def tell_store(url: URL, row: Mapping[str, Any], state: str, reason: str | None) -> None:
    """Write the end of a search into the store only, as its journals cannot be written: no trial of it runs any more.

    On --resume or `atoll record` the journals get an end of their own. A store that cannot be written, either, keeps
    what it holds, and readers look up in the study's files whether it is running.
    """
    try:
        with closing(Store(url)) as store:
            store.end(store.study(row["name"], row["uid"]), state, reason)
    except (DBAPIError, StoreError, OSError) as error:
        log.warning("the store has no end of this study: %s", str(getattr(error, "orig", error)).partition("\n")[0])


def free_name(wanted: str, url: str) -> str:
    """`wanted`, with a number appended if a folder or the store already uses it."""
    try:
        store = Store(url)
        taken = {summary.study.name for summary in store.studies()}
        store.close()
    except DBAPIError:
        taken = set()
    names = itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken and not (DEFAULT_PARENT / name).exists())


def check_name_is_free(study: Study, url: str) -> None:
    """Raise StoreError if the store holds another study of this name; an unavailable store is ignored."""
    try:
        store = Store(url)
    except DBAPIError:
        return
    folder = study_folder(study)
    try:
        store.check_name(study.name, uid(folder) if folder.exists() else None)
    finally:
        store.close()


def record(folder: StudyFolder, url: str, *, follow: bool, on_trial: Sequence[str | Command] = ()) -> int:
    """Load a study's journals into the store, now or until its last line; returns the number of lines.

    Args:
        folder, url: the study's files, and the store's URL.
        follow: whether to go on until the study has ended.
        on_trial: where trials are sent as well, with absolute paths.

    Raises:
        LaunchError: if there is no study, or, without `follow`, a target of `on_trial` fails.
        DBAPIError, StoreError: if the store cannot be written (while following: if it holds another study of the name).
    """
    if not folder.exists():
        raise LaunchError(f"{folder.path} must hold a study; it has no {folder.definition.name}")
    recorder = Recorder(folder, lambda: Store(url), row(folder))
    if not follow:
        num_lines = recorder.catch_up()
        live.send_all(on_trial, folder, row(folder))
        return num_lines
    with suppress(DBAPIError), closing(Store(url)) as store:  # waiting would not mend a name that is taken
        store.check_name(row(folder)["name"], uid(folder))
    thread = RecorderThread(recorder)
    thread.start()
    shown = live.LiveLogs(on_trial, folder, row(folder))
    shown.start()
    lock = Lock(folder.lock)
    while liveness.state(folder) is None and lock.holder() is not None:
        time.sleep(0.5)
    shown.finish()
    if not thread.finish(timeout=24 * 3600.0):
        raise LaunchError(f"the store is incomplete: {thread.failure}")
    return 0
