"""Runs a benchmark: its studies one after another, each over MPI with all its workers, resumable at any point.

The configurations to confirm come from the tuning's journals, so that the store need not be available.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from atoll.platform import exit_codes
from atoll.platform.benchmark.benchmark_file import Benchmark, Part
from atoll.platform.benchmark.entries import Tuning, with_defaults
from atoll.platform.launch import checks, dry_run, lifecycle, provenance_log, room, running, signals, supervise
from atoll.platform.launch.errors import LaunchError
from atoll.platform.search import resume
from atoll.platform.search.proposals import key
from atoll.platform.study import objectives, provenance
from atoll.platform.study.plan import Plan
from atoll.platform.study.provenance_record import Measured, measured_differences
from atoll.platform.study.samplers import is_default
from atoll.platform.study.study import Study
from atoll.platform.trial.dry_run import Mistake
from atoll.searchspaces.space import SearchSpace
from atoll.storage import launches, liveness
from atoll.storage.files import FILE_MODE, make_folder, rights, sync_folder, write_whole
from atoll.storage.folder import DEFAULT_PARENT, BenchmarkFolder, StudyFolder
from atoll.storage.store import Store, StoreError

log = logging.getLogger("atoll.launch")

Follow = Callable[[Plan], AbstractContextManager[Callable[[StudyFolder], None]]]


@dataclass
class Ending:
    """How a benchmark ended.

    Attributes:
        state: complete, stopped or failed.
        failed: the studies whose ranks died too often, with the reasons.
        unconfirmed: the studies whose tuning found nothing to confirm.
        unrecorded: the studies that are incomplete in the store.
    """

    state: str = "complete"
    failed: dict[str, str] = field(default_factory=dict)
    unconfirmed: list[str] = field(default_factory=list)
    unrecorded: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 complete, 75 stopped and resumable, 1 if a study failed or is not recorded."""
        if self.state == "stopped":
            return exit_codes.EXIT_STOPPED
        return 1 if self.failed or self.unrecorded else 0


def run(
    benchmark: Benchmark,
    url: str,
    *,
    resuming: bool,
    accept_changes: bool = False,
    checks_batches: bool = True,
    say: Callable[[str], None],
    follow: Follow,
    run_ranks: Callable[[supervise.Run], str | None] = supervise.supervise,
) -> Ending:
    """Run the remaining studies of a benchmark.

    Args:
        benchmark: the benchmark to run.
        url: the store's URL.
        resuming: whether to continue a stopped benchmark.
        accept_changes: whether to continue it although code, data or libraries of its studies have changed.
        checks_batches: whether to take one batch through each workload before anything starts.
        say: receives a line per study.
        run_ranks: runs the ranks of each study; see `supervise.run_study`.
        follow: returns a context manager for a study, whose value is called repeatedly while it runs.

    Raises:
        LaunchError, StoreError, ValueError, DataMissing: before anything expensive starts.
    """
    folder = (DEFAULT_PARENT / benchmark.name).absolute()
    benchmark = _as_recorded(benchmark, BenchmarkFolder(folder)) if resuming else benchmark
    parts = list(benchmark.parts())
    plans = [checks.check(benchmark.study(part, folder)) for part in parts if part.stage == "tune"]
    _check_new(folder, resuming)
    if checks_batches:
        _check_batch([p for p in plans if liveness.state(lifecycle.study_folder(p.study)) != "complete"], say)
    row = _prepare(benchmark, folder, len(parts), url, resuming)
    _check_measured(benchmark, folder, parts, accept_changes)
    with signals.noting_signals() as asked:
        return _Runner(benchmark, folder, row, url, accept_changes, say, follow, run_ranks).run(asked)


class _Runner:
    """The studies of a benchmark, one after another."""

    def __init__(
        self,
        benchmark: Benchmark,
        folder: Path,
        row: dict[str, Any],
        url: str,
        accept_changes: bool,
        say: Callable[[str], None],
        follow: Follow,
        run_ranks: Callable[[supervise.Run], str | None],
    ) -> None:
        self._benchmark = benchmark
        self._folder = folder
        self._row = row
        self._url = url
        self._accept_changes = accept_changes
        self._say = say
        self._follow = follow
        self._run_ranks = run_ranks
        self._ending = Ending()

    def run(self, asked: threading.Event) -> Ending:
        """Run the remaining parts, until a stop is requested."""
        parts = list(self._benchmark.parts())
        for place, part in enumerate(parts, 1):
            if asked.is_set() or self._run_part(part, f"[{place}/{len(parts)}] {part.name}", asked) == "stopped":
                self._ending.state = "stopped"
                return self._ending
        self._ending.state = "failed" if self._ending.failed else "complete"
        return self._ending

    def _run_part(self, part: Part, title: str, asked: threading.Event) -> str:
        configurations: list[dict[str, Any]] = []
        if part.stage == "confirm":
            tuned = self._tuned(part)
            if liveness.state(lifecycle.study_folder(tuned)) != "complete":
                self._say(f"{title}: skipped, because its tuning failed; --resume retries it")
                return "failed"
            configurations = best(tuned, self._benchmark.confirmation.best)
            if not configurations:
                self._ending.unconfirmed.append(part.name)
                self._say(f"{title}: skipped, because no tuning trial completed")
                return "complete"
        study = self._benchmark.study(part, self._folder, configurations)
        files = lifecycle.study_folder(study)
        if liveness.state(files) == "complete":
            self._say(f"{title}: already complete")
            self._catch_up(files, part)
            return "complete"
        self._say(title)
        state = self._search(study, files, part, asked)
        if files.stop_request.exists():  # it may have arrived during the last trial
            asked.set()
        return state

    def _tuned(self, part: Part) -> Study:
        return self._benchmark.study(Part(part.workload, part.method, "tune", part.repeat), self._folder)

    def _search(self, study: Study, files: StudyFolder, part: Part, asked: threading.Event) -> str:
        plan = checks.check(study)
        belongs_to = {
            "benchmark": self._row,
            "stage": part.stage,
            "repeat": part.repeat,
            "method_label": part.method.name,
            "workload_label": part.workload.name,
        }
        hurry: list[threading.Event] = []

        def run_ranks(run: supervise.Run) -> str | None:
            hurry.append(run.hurry)
            return self._run_ranks(run)

        with self._follow(plan) as live:

            def watch(folder: StudyFolder) -> None:
                live(folder)
                if asked.is_set():  # by a signal that arrived before the search handled signals
                    try:
                        running.request_stop(folder)
                    except OSError:  # as on a full disk: the search ends at once
                        for event in hurry:
                            event.set()

            ended = supervise.run_study(
                plan,
                self._url,
                resuming=files.exists(),
                follow=watch,
                accept_changes=self._accept_changes,
                belongs_to=belongs_to,
                run_ranks=run_ranks,
            )
        if not ended.recorded:
            self._ending.unrecorded.append(part.name)
        if ended.state == "failed":
            self._ending.failed[part.name] = ended.reason or "unknown"
            self._say(f"{part.name} failed: {ended.reason}")
        return ended.state

    def _catch_up(self, files: StudyFolder, part: Part) -> None:
        """Record results that an earlier start measured and could not record."""
        try:
            lifecycle.record(files, self._url, follow=False)
        except (DBAPIError, StoreError) as error:
            self._ending.unrecorded.append(part.name)
            self._say(f"{part.name}: {error}")


def _check_batch(plans: Sequence[Plan], say: Callable[[str], None]) -> None:
    """Check a batch of each workload with each method. A method that cannot train a workload is a result."""
    # Repeats differ in their seeds only.
    several = {(plan.study.workload, plan.study.method, repr(plan.study.space)): plan for plan in reversed(plans)}
    for plan in reversed(several.values()):
        try:
            dry_run.check(plan, say=lambda line, name=plan.study.name: say(f"warning: {name}: {line}"))  # type: ignore[misc]
        except Mistake as mistake:
            if not mistake.is_of_method:
                raise Mistake(f"{plan.study.name}: {mistake}") from None


def _check_new(folder: Path, resuming: bool) -> None:
    """Raise LaunchError if the folder is in use and this is no resume, vice versa, or if it cannot be written."""
    room.check_folder(folder, "start the benchmark in another folder")
    exists = BenchmarkFolder(folder).exists()
    if StudyFolder(folder).exists():
        raise LaunchError(
            f"{folder} already holds a study of this name; choose another name, or delete it with `atoll delete`"
        )
    if exists and not resuming:
        raise LaunchError(f"{folder} already holds a benchmark; continue it with --resume, or choose another name")
    if resuming and not exists:
        raise LaunchError(f"--resume needs a benchmark in {folder}, and there is none; omit --resume to start it")


def _as_recorded(benchmark: Benchmark, files: BenchmarkFolder) -> Benchmark:
    """The benchmark with the sampler that it was started with, if it names none: versions may have other defaults."""
    if not files.exists() or not is_default(benchmark.tuning):
        return benchmark
    before = Tuning.model_validate(json.loads(files.definition.read_text())["definition"]["tuning"])
    return benchmark.model_copy(update={"tuning": benchmark.tuning.model_copy(update={"sampler": before.sampler})})


def _prepare(benchmark: Benchmark, folder: Path, num_studies: int, url: str, resuming: bool) -> dict[str, Any]:
    """The benchmark's row for the store; if the benchmark was started before, from its file."""
    file = BenchmarkFolder(folder).definition
    definition = benchmark.model_dump(mode="json")
    if resuming:
        row: dict[str, Any] = json.loads(file.read_text())
        before = with_defaults(row["definition"])  # whose description may be worded differently
        changed = [name for name, value in definition.items() if name != "description" and before.get(name) != value]
        if changed:
            raise LaunchError(
                f"a resumed benchmark must be unchanged, as its results would not be comparable; in {folder} these "
                f"changed: {', '.join(changed)}. Give it another name"
            )
        return row
    try:
        with closing(Store(url)) as store:
            store.check_benchmark_name(benchmark.name, None)
    except DBAPIError:
        pass  # the store is unavailable; the recorders will retry
    row = {
        "name": benchmark.name,
        "uid": uuid.uuid4().hex,
        "folder": str(folder),
        "definition": definition,
        "num_studies": num_studies,
        "started": time.time(),
    }
    make_folder(folder)
    sync_folder(folder.parent)
    write_whole(file, json.dumps(row, indent=2), FILE_MODE & rights())
    return row


def _check_measured(benchmark: Benchmark, folder: Path, parts: Sequence[Part], accept_changes: bool) -> None:
    """Complete studies are compared, too: their results would not compare with those that are still to come.

    Raises:
        LaunchError: if what a study has measured has changed since, and the change is not accepted.
    """
    data = Path(benchmark.data) if benchmark.data else None
    now: dict[Any, Measured] = {}
    changed: dict[str, str] = {}
    for part in parts:
        before = provenance_log.latest(StudyFolder(folder / part.name))
        if before is None:
            continue
        own = provenance.own_code(SearchSpace.from_dict(before.record.space))
        key = (part.workload.workload, part.method.method, *own)
        if key not in now:
            now[key] = provenance.measured(part.workload.workload, part.method.method, data, own)
        for change in measured_differences(before.record.measured, now[key]):
            changed.setdefault(change, f"{benchmark.name}.{part.name}")
    if changed and not accept_changes:
        raise LaunchError(provenance_log.refusal(benchmark.name, changed, next(iter(changed.values()))))
    for change, study in changed.items():
        log.warning("changed since %s was measured; what is complete keeps its results: %s", study, change)


def best(tuned: Study, top: int) -> list[dict[str, Any]]:
    """The best distinct configurations of a tuning."""
    resolved = Plan.of(tuned).objectives
    past = resume.read(launches.replay(lifecycle.study_folder(tuned).journals))
    complete = [trial for trial in past.counted() if trial.state == "complete"]
    complete.sort(key=lambda trial: (objectives.losses(resolved, [trial.objective]), trial.number))
    distinct: dict[Any, dict[str, Any]] = {}
    for trial in complete:
        distinct.setdefault(key(trial.hyperparameters), trial.hyperparameters)
    return list(distinct.values())[:top]
