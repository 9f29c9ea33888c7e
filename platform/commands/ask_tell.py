"""`atoll.Study`: ask for trials and tell their results, for those who own the loop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, SupportsIndex

from atoll.platform.launch import extras
from atoll.storage.files import make_folder

if TYPE_CHECKING:
    from atoll.platform.launch.ask_tell import Handed
    from atoll.results.reading import StudyResults

Direction = Literal["minimize", "maximize"]
NAME = "notebook:asked"  # in place of a function's
_YEARS = 10 * 365 * 86_400.0  # nobody else ends the search


class AskedTrial(Mapping[str, Any]):
    """A trial that `Study.ask` has given: a mapping of its hyperparameters.

    Attributes:
        number: of the trial, from 0.
        attempt: from 0; more if it was not told before its study was closed.
        seed: the study's seed plus `number`.

    Example:
        >>> from atoll import AskedTrial
        >>> AskedTrial.__name__
        'AskedTrial'
    """

    def __init__(self, handed: Handed) -> None:
        self._handed = handed
        self.number, self.attempt, self.seed = handed.number, handed.attempt, handed.configuration.seed
        self._hyperparameters = dict(handed.configuration.hyperparameters)
        self._started = time.perf_counter()
        self._step = -1

    def __repr__(self) -> str:
        return f"<trial {self.number}: {self._hyperparameters}>"

    def __getitem__(self, name: str) -> Any:
        return self._hyperparameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hyperparameters)

    def __len__(self) -> int:
        return len(self._hyperparameters)

    @property
    def folder(self) -> Path:
        """The trial's own folder; made when it is asked for."""
        assert self._handed.folder is not None
        make_folder(self._handed.folder)
        return self._handed.folder

    def report(self, value: SupportsFloat, step: SupportsIndex | None = None) -> None:
        """Report the present value of the objective.

        Args:
            value: the value; with several objectives, of the first one.
            step: 0 or more, and more than that of the report before. Default: the next one.

        Raises:
            Pruned: if the trial is behind at a rung of the study's pruning: tell it as pruned.
            ValueError: for a step that does not increase, or a value that is NaN or infinite.
            RuntimeError: if the trial is over.
        """
        import queue

        from atoll.platform.trial.objective_trial import Pruned, next_step, number, reported

        metric = number(value, "the reported value")
        if not math.isfinite(metric):
            raise ValueError(f"a reported value must be finite; got {metric}: tell the trial as failed")
        self._step = step = next_step(step, self._step)
        verdict: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._handed.reports.put((reported(step, time.perf_counter() - self._started, metric, {}), verdict))
        while True:
            self._check()
            try:
                if verdict.get(timeout=0.05):
                    raise Pruned(f"pruned after step {step}")
                return
            except queue.Empty:
                continue

    def _check(self) -> None:
        if self._handed.reason is not None:
            raise RuntimeError(f"trial {self.number} is over: {self._handed.reason}")
        if self._handed.told is not None:
            raise RuntimeError(f"trial {self.number} was told before")


class Study:
    """A search whose loop is yours: ask for a trial, evaluate it, tell its result. A context manager, which closes it.

    Everything is recorded as in any search: the store, the dashboard, tables and exports have it, and a study that was
    closed, or whose process was killed, continues with `resume=True`.

    Args:
        space, direction, name, store: see `atoll.search`.
        workers: how many trials may be asked for before the first of them is told.
        resume: continue the study `name`.
        settings: further keys of a study file, such as sampler, pruning, constraints, trial_timeout, seed.

    Raises:
        FileError, ValueError: for an invalid setting; the message has the key, the value and the valid choices.

    Example:
        >>> import tempfile
        >>> import atoll
        >>> folder = tempfile.TemporaryDirectory()
        >>> space = {"x": atoll.Float(0.0, 1.0)}
        >>> files = {"store": f"{folder.name}/atoll.db", "folder": f"{folder.name}/mine"}
        >>> with atoll.Study(space, name="mine", **files) as study:
        ...     for _ in range(10):
        ...         trial = study.ask()
        ...         study.tell(trial, (trial["x"] - 0.3) ** 2)
        >>> results = atoll.open(files["store"]).study("mine")
        >>> results.state, len(results.trials())
        ('complete', 10)
        >>> folder.cleanup()
    """

    def __init__(
        self,
        space: Mapping[str, Any],
        *,
        name: str,
        direction: Direction | Mapping[str, Direction] | None = None,
        store: str | os.PathLike[str] | None = None,
        workers: int = 1,
        resume: bool = False,
        accept_changes: bool = False,
        **settings: Any,
    ) -> None:
        extras.require_search_extra()
        from atoll.platform.commands import api
        from atoll.platform.launch import checks, lifecycle, same_study
        from atoll.platform.launch.ask_tell import AskTell
        from atoll.platform.study import registry

        registry.give(NAME, _never_called)
        given = {"direction": direction, "name": name, "seconds": _YEARS, "keep_going": True} | settings
        url = None if store is None else os.fspath(store)
        content = {"objective": NAME}
        topology = {"workers": workers, "device": "cpu", "threads": 1}
        self._study, _ = api.study_of(content, space, given, topology, url)
        self._url = lifecycle.store_url(url, self._study)
        self._study = same_study.as_recorded(self._study, lifecycle.study_folder(self._study))
        plan = checks.check(self._study, in_process=True)
        self._search: AskTell | None = AskTell(plan, self._url, resuming=resume, accept_changes=accept_changes)
        self._workers = workers
        self._asked: dict[int, AskedTrial] = {}

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if _error is None:
            self.close()
            return
        with suppress(Exception):  # the body's error is the one to be seen
            self.close()

    def ask(self) -> AskedTrial:
        """The next trial to be evaluated.

        Raises:
            RuntimeError: if as many trials as `workers` have not been told yet, or the study is closed.
        """
        if self._search is None:
            raise RuntimeError(f"the study {self._study.name} is closed")
        for number in [number for number, trial in self._asked.items() if trial._handed.reason is not None]:
            del self._asked[number]  # its time was over
        if len(self._asked) >= self._workers:
            numbers = ", ".join(map(str, self._asked))
            raise RuntimeError(f"at most {self._workers} trials (workers) may be under way; tell one of: {numbers}")
        trial = AskedTrial(self._search.ask())
        self._asked[trial.number] = trial
        return trial

    def tell(
        self,
        trial: AskedTrial,
        result: SupportsFloat | Mapping[str, SupportsFloat] | None = None,
        *,
        state: Literal["complete", "pruned", "failed"] = "complete",
        reason: str | None = None,
    ) -> None:
        """Tell what has become of a trial.

        Args:
            trial: one that was asked for.
            result: a number, or numbers by name, among them all objectives; only if it is complete.
            state: complete, pruned or failed.
            reason: of a failure.

        Raises:
            TypeError, ValueError: for a result that is none, or one of a trial that is not complete.
            RuntimeError: if the trial is over.
        """
        from atoll.platform.trial.objective_trial import numbers
        from atoll.platform.trial.outcome import Outcome

        trial._check()
        if self._search is not None:
            self._search.check()
        if self._asked.get(trial.number) is not trial:
            raise ValueError(f"trial {trial.number} was not asked for from this study, {self._study.name}")
        if state not in ("complete", "pruned", "failed"):
            raise ValueError(f"state must be complete, pruned or failed; got {state!r}")
        if (result is None) != (state != "complete"):
            raise ValueError(f"a complete trial needs a result, and others have none; got {result!r} and {state}")
        returned = numbers(result) if state == "complete" else {}
        outcome = Outcome(
            state=state,
            objective=returned if isinstance(returned, float) else None,
            metrics={} if isinstance(returned, float) else returned,
            seconds=time.perf_counter() - trial._started,
            wire_bytes=None,
            ledger=[],
            peak_memory=0.0,
            reason=reason,
            curve=None,
        )
        del self._asked[trial.number]
        if not trial._handed.tell(outcome):
            trial._check()

    def close(self) -> None:
        """End the study as complete; trials that were not told are lost, and are asked again on resume.

        Raises:
            SearchFailed: if the search has failed meanwhile.
        """
        if self._search is None:
            return
        search, self._search = self._search, None
        ending = search.close()
        if ending is not None and ending.state == "failed":
            from atoll.platform.commands.api import SearchFailed

            raise SearchFailed(f"{self._study.name}: {ending.reason}", None)

    def results(self) -> StudyResults:
        """The results so far: tables, figures and files. A trial that was just told may follow within a second."""
        from atoll.results.reading import open as open_store

        return open_store(self._url).study(self._study.name)


def _never_called(trial: Any) -> float:
    raise RuntimeError("trials of this study are asked for, and not called")
