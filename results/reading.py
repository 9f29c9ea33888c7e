"""Reads a store from Python: `atoll.open(url).study(name)` gives tables, figures and files of a study's results.

Nothing here writes to a store, locks or upgrades it, and neither torch nor MPI is loaded.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from atoll.analysis.formatting import counted
from atoll.storage import browse, liveness, rank_logs
from atoll.storage.export import as_yaml, check_trained_here, configuration, trial_as_dict
from atoll.storage.files import write_whole
from atoll.storage.folder import StudyFolder
from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import DEFAULT_URL, Store, StoreError
from atoll.storage.writable import check_writable

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

EXPORTED = (".yaml", ".yml", ".json")
EXPORT_BYTES = 1 << 16


def open(url: str | os.PathLike[str] | None = None) -> Results:
    """Open an existing store for reading.

    Args:
        url: `sqlite:///file.db` or the file's name, or `postgresql://user@host/database`. Default: the environment
            variable ATOLL_STORE, or `sqlite:///atoll.db`.

    Raises:
        StoreError: if the URL is invalid, there is no store, or it is of a later version of atoll.

    Example:
        >>> import pathlib, tempfile
        >>> import atoll
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = pathlib.Path(folder.name, "atoll.db")
        >>> atoll.open(file)
        Traceback (most recent call last):
        ...
        atoll.storage.store.StoreError: there is no store at ...
        >>> atoll.Store(str(file)).close()  # makes one, as a search does
        >>> with atoll.open(file) as results:
        ...     len(results.studies())
        0
        >>> folder.cleanup()
    """
    given = os.environ.get("ATOLL_STORE") or DEFAULT_URL if url is None else os.fspath(url)
    return Results(Store(given, create=False, read_only=True))


class Results:
    """An open store, for reading; a context manager, which closes it.

    Args:
        store: the store. `atoll.open` opens one such that nothing can be written.

    Example:
        >>> import tempfile
        >>> from atoll import Results, Store
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = Store(f"{folder.name}/atoll.db")
        >>> study = {"name": "first", "state": "running", "workload": "digits_mlp", "method": "ddp"}
        >>> study |= {"metric": "accuracy", "direction": "maximize", "definition": {}}
        >>> _ = store.add_study(study | {"folder": folder.name, "started": 0.0})
        >>> results = Results(store)
        >>> results.studies()[["study", "state", "objective", "complete"]].to_dict("records")
        [{'study': 'first', 'state': 'running', 'objective': 'accuracy', 'complete': 0}]
        >>> results.study("first").name
        'first'
        >>> results.close()
        >>> folder.cleanup()
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<atoll.Results of {self._store}>"

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._store.close()

    def studies(self) -> pd.DataFrame:
        """All studies, the newest first, with their trials by state; docs/reading_results.md explains the columns."""
        from atoll.analysis import tables

        return tables.studies(self._store)

    def study(self, name: str | None = None) -> StudyResults:
        """The study named `name`. Default: the newest. Raises StoreError if there is none."""
        return StudyResults(self._store, self._store.study(name))


class StudyResults:
    """The results of one study, as they are when a method is called: a running study's grow.

    Every method raises StoreError if the study has been deleted. Columns are explained in docs/reading_results.md.

    Args:
        store: the open store.
        study: the study's row.

    Example:
        >>> import tempfile
        >>> import atoll
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = atoll.Store(f"{folder.name}/atoll.db")
        >>> study = {"name": "first", "state": "complete", "workload": "digits_mlp", "method": "ddp"}
        >>> study |= {"metric": "accuracy", "direction": "maximize", "definition": {}}
        >>> _ = store.add_study(study | {"folder": folder.name, "started": 0.0})
        >>> first = atoll.open(f"{folder.name}/atoll.db").study("first")
        >>> first.state
        'complete'
        >>> trials = first.trials()
        >>> list(trials.columns[:5])
        ['trial', 'attempt', 'state', 'place', 'objective.accuracy']
        >>> trials.attrs["units"]["seconds"]
        's'
        >>> first.figure("histogram")
        Traceback (most recent call last):
        ...
        ValueError: the figure must be one of history, importance, parallel, ...; got 'histogram'
        >>> store.close()
        >>> folder.cleanup()
    """

    def __init__(self, store: Store, study: StudyRow) -> None:
        self._store = store
        self._name, self._uid = study.name, study.uid

    def __repr__(self) -> str:
        return f"<atoll.StudyResults of {self._name!r} in {self._store}>"

    def _row(self) -> StudyRow:
        """The study's row as it is now, even if it was renamed."""
        row = self._store.study(self._name, self._uid)
        self._name = row.name
        return row

    @property
    def name(self) -> str:
        """The study's name now; a reader of the dashboard may have renamed it."""
        return self._row().name

    @property
    def state(self) -> str:
        """running, complete, stopped, failed, or interrupted: its launcher died, and --resume continues it."""
        return liveness.true_state_of(self._row())

    @property
    def ended_because(self) -> str | None:
        """Why it ended: a rule of `stop`, a stop or a failure; None while it runs, and if it has used up its budget."""
        return self._row().reason

    def summary(self) -> dict[str, Any]:
        """The study in plain data: its columns in `Results.studies`, the front's size, importance and failures."""
        from atoll.analysis import tables
        from atoll.analysis.importance import ImportanceError

        row = self._row()
        (content,) = tables.records(tables.studies(self._store, row.id))
        content["objectives"] = row.all_objectives
        content["front"] = [trial.number for trial in self._front(row)] if row.objectives else None
        content["best_trials"] = tables.records(self.best(10))
        try:
            content["importance"] = {str(name): float(share) for name, share in self.importance().items()}
        except ImportanceError as error:
            content["importance"] = str(error)
        content["failures"] = tables.records(self.failures())
        return content

    # Tables.

    def trials(self) -> pd.DataFrame:
        """Every trial in every state, a row for each attempt, by number and attempt; `attrs` holds the units."""
        from atoll.analysis import tables

        return tables.trials(self._store, self._row())

    def curves(self, trials: Sequence[int] | None = None) -> pd.DataFrame:
        """A row for each report of each trial, by trial, attempt and step; `attrs` holds the units.

        Args:
            trials: only of these trials, by number. Default: of all.
        """
        from atoll.analysis import tables

        return tables.curves(self._store, self._row(), trials)

    def best(self, k: int = 1) -> pd.DataFrame:
        """The `k` best complete trials, the best first, with the columns of `trials`.

        Several objectives are sorted by Pareto front, inside a front by crowding distance (Deb et al., 2002). There are
        fewer rows if fewer trials are complete.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        trials = self.trials()
        return trials[trials["place"].notna()].sort_values("place").head(k).reset_index(drop=True)

    def front(self) -> pd.DataFrame:
        """The complete trials that no other one dominates, with the columns of `trials`, by place.

        Raises:
            StoreError: if the study has one objective.
        """
        row = self._row()
        keys = {(trial.number, trial.attempt) for trial in self._front(row)}
        trials = self.trials()
        chosen = [key in keys for key in zip(trials["trial"], trials["attempt"], strict=True)]
        return trials[chosen].sort_values("place").reset_index(drop=True)

    def importance(self, method: Literal["PED-ANOVA", "fANOVA"] = "PED-ANOVA") -> pd.Series:
        """The importance of each hyperparameter for the (first) objective, the largest first; the shares sum to 1.

        Empty without at least two complete trials that differ in a hyperparameter. Computed from at most 2,000 trials.
        PED-ANOVA: Watanabe et al., 2023. fANOVA: Hutter et al., 2014.

        Raises:
            ImportanceError: if a package that the method needs is missing.
        """
        import pandas as pd

        from atoll.dashboard import drawing
        from atoll.dashboard.board import Board

        row = self._row()
        shares, used = drawing.shares(self._store, Board(self._store, row).refresh(row), method)
        found = pd.Series(shares, dtype=float, name="importance").sort_values(ascending=False, kind="stable")
        found.attrs |= {"study": row.name, "method": method, "num_trials": used}
        return found

    def failures(self, by: Literal["kind", "choice"] = "kind") -> pd.DataFrame:
        """Why trials failed.

        Args:
            by: "kind": a row for each kind of failure, the most frequent first. "choice": for each value of each
                categorical hyperparameter, the number and share of failed trials.
        """
        import pandas as pd

        from atoll.analysis import failures, tables

        if by not in ("kind", "choice"):
            raise ValueError(f"by must be 'kind' or 'choice'; got {by!r}")
        trials = self._store.trials(self._row())
        if by == "kind":
            rows: list[dict[str, Any]] = [asdict(kind) for kind in failures.by_kind(trials)]
            return pd.DataFrame(rows, columns=[column.name for column in tables.FAILURES])
        rows = [asdict(choice) | {"share": choice.share} for choice in failures.by_choice(trials)]
        renamed = [{"hyperparameter": row.pop("name")} | row for row in rows]
        return pd.DataFrame(renamed, columns=[column.name for column in tables.CHOICES])

    # Figures and files.

    def figure(self, name: str, **options: Any) -> go.Figure:
        """A figure of the dashboard, which a notebook shows.

        Args:
            name: history, importance, parallel, slices, contour, pareto, timeline, failures, curves, ledger,
                populations, migrations, diversity or family.
            options: of that figure, such as `against="wall seconds"`; docs/reading_results.md lists them.

        Raises:
            ValueError: for an unknown name, option or choice; the message lists the valid ones.
        """
        from atoll.dashboard import drawing

        return drawing.figure(self._store, self._row(), name, **options)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write a page that needs no other file and no network: tables, figures, failures, and what was searched."""
        from atoll.dashboard import study_report

        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, study_report.html(self._store, self._row()))

    def export(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        best: int = 1,
        pareto: bool = False,
        trial: int | None = None,
        attempt: int | None = None,
    ) -> list[dict[str, Any]]:
        """The best configurations, complete enough to be trained again with `atoll train`.

        Args:
            path: a .yaml or .json file to write, as `atoll export` does. Default: none.
            best: the number of trials. If fewer are complete, a warning says so.
            pareto: the whole Pareto front instead.
            trial, attempt: this trial instead; by default its last attempt.

        Raises:
            ValueError: for a file with another suffix.
            StoreError: if there is no such trial.
        """
        file = None if path is None else Path(path)
        if file is not None:
            check_exported(file)
        row = self._row()
        check_trained_here(row)
        trials = self._chosen(row, None if pareto else best, trial, attempt)
        alone = trial is not None or (best == 1 and not pareto)
        if not trials:
            raise StoreError(f"{row.name} has no complete trial to export")
        if trial is None and not pareto and len(trials) < best:
            warnings.warn(fewer(row, len(trials), f"best={best}"), stacklevel=2)
        provenances, folder = self._store.provenances(row), None if file is None else file.parent
        found = [configuration(row, one, provenances, folder) for one in trials]
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            content = found[0] if alone else {"configurations": found}
            is_json = file.suffix == ".json"
            text = json.dumps(content, indent=2) if is_json else as_yaml(row, trials, provenances, folder, alone=alone)
            write_whole(file, text)
        return found

    def _chosen(self, row: StudyRow, best: int | None, trial: int | None, attempt: int | None) -> list[TrialRow]:
        from atoll.analysis import leaderboard

        if trial is not None:
            return [browse.trial(self._store, row.id, trial, attempt)]
        return self._front(row) if best is None else leaderboard.best(self._store, row, best)

    def _front(self, row: StudyRow) -> list[TrialRow]:
        from atoll.analysis import leaderboard

        if not row.objectives:
            raise StoreError(f"a Pareto front needs several objectives; {row.name} has one, {row.metric}: use best")
        return leaderboard.front(row, self._store.leaderboard(row))

    # One trial.

    def trial(self, number: int, attempt: int | None = None) -> dict[str, Any]:
        """All that is known of one trial: its columns in the store, its place, curve and hosts, and its output.

        Args:
            number: its number.
            attempt: its attempt. Default: the last.

        Returns:
            The store's columns by name, and: place, or None; num_attempts; curve, a dictionary for each report; hosts,
            one for each rank of its worker; output, see `output`, or None with the reason as `no_output`.
        """
        from atoll.analysis import leaderboard, tables

        row = self._row()
        found = browse.trial(self._store, row.id, number, attempt)
        trials = sorted(browse.scalar_columns(self._store, row.id), key=lambda one: (one.number, one.attempt))
        places = {one.id: place for one, place in zip(trials, leaderboard.places(row, trials), strict=True)}
        reports = tables.records(tables.curves(self._store, row, [number]))
        curve = [report for report in reports if report["attempt"] == found.attempt]
        content = trial_as_dict(found)
        content["state"] = liveness.true_trial_state(found.state, liveness.true_state_of(row))
        try:
            content |= {"output": self.output(number, found.attempt)}
        except StoreError as error:
            content |= {"output": None, "no_output": str(error)}
        return content | {
            "place": places.get(found.id),
            "num_attempts": sum(one.number == number for one in trials),
            "curve": [{name: report[name] for name in report if name not in ("trial", "attempt")} for report in curve],
            "hosts": self._hosts(row, found),
        }

    def _hosts(self, row: StudyRow, trial: TrialRow) -> list[dict[str, Any]]:
        """The ranks of a trial's worker; of several rows a rank, after a resume, the newest before the trial counts."""
        own = [host for host in self._store.hosts(row) if host.worker == trial.worker and host.time <= trial.started]
        names = ("rank", "world_rank", "hostname", "device", "node", "processor", "threads")
        newest = {host.rank: {name: getattr(host, name) for name in names} for host in own}
        return [newest[rank] for rank in sorted(newest)]

    def output(self, number: int, attempt: int | None = None) -> str:
        """What a trial printed, rank by rank, each after a line with the trial and the rank.

        Args:
            number: the trial's number.
            attempt: its attempt. Default: all.

        Raises:
            StoreError: if that cannot be told, such as if the study's files are on another host.
        """
        row = self._row()
        trial = browse.trial(self._store, row.id, number, attempt)
        folder = files_of(row)
        ranks = {host["world_rank"] for host in self._hosts(row, trial)} if attempt is not None else set()
        outputs = list(rank_logs.read(folder, number, attempt, ranks))
        if not outputs:
            raise StoreError(untold(row, folder, number))
        return "".join(f"{one.title}\n{_ended(one.text)}" for one in outputs if one.text)

    # A running study.

    def wait(self, timeout: float | None = None, poll: float = 1.0) -> str:
        """Wait until the study does not run; returns its state.

        Args:
            timeout: seconds to wait at most. Default: no limit.
            poll: seconds between two looks.

        Raises:
            TimeoutError: if it still runs then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (state := self.state) == "running":
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{self._name} still runs after {timeout:g} s")
            time.sleep(poll)
        return state

    def stop(self) -> None:
        """Ask a running search to stop, as `atoll stop` does: running trials are queued again on --resume.

        Raises:
            StoreError: if it is not running, or its files are not on this host.
        """
        row = self._row()
        folder = files_of(row)
        if liveness.holder(folder) is None:
            raise StoreError(
                f"{row.name} is not running: no live process holds {folder.lock}; `atoll stop` ends a study whose "
                "launcher died"
            )
        folder.stop_request.touch()


def fewer(study: StudyRow, num_trials: int, asked: str) -> str:
    """A sentence on an export of fewer trials than were asked for."""
    found = counted(num_trials, "complete trial")
    return f"{study.name} has {found}, fewer than {asked}; the export has all of them"


def check_exported(path: Path) -> None:
    """Raise ValueError for a file that configurations are not written to; /dev/stdout and the like receive YAML.

    Raises:
        NotWritable: if it cannot be written, or its disk is full.
    """
    is_stream = not path.suffix and path.exists() and not path.is_file()
    if path.suffix not in EXPORTED and not is_stream:
        raise ValueError(f"an exported file must end in {', '.join(EXPORTED)}; got {path.name!r}")
    if not is_stream:
        check_writable(path, "the exported file", "name another one, or make room", EXPORT_BYTES)


def files_of(study: StudyRow) -> StudyFolder:
    """The folder of a study's files. Raises StoreError if it is not on this host, or another study's."""
    if study.is_imported:
        raise StoreError(
            f"{study.name} was imported, so it has no files: no journals, logs or weights, and does not run"
        )
    folder = StudyFolder(study.folder)
    if not folder.exists():
        raise StoreError(f"{study.name} has no files in {folder.path} on this host")
    if not folder.is_of(study.name, study.uid):
        raise StoreError(f"{folder.path} holds another study than the store's {study.name}")
    return folder


def untold(study: StudyRow, folder: StudyFolder, number: int) -> str:
    """Why no log holds a trial's output."""
    return (
        f"no log in {folder.log.parent} tells the output of trial {number} of {study.name} from others': its ranks "
        "were threads (--in-process), whose output went to the terminal, or it is older than logs by trial; "
        f"`atoll logs {study.name}` shows what there is"
    )


def _ended(text: str) -> str:
    """A text that ends with a line's end."""
    return text if text.endswith("\n") or not text else f"{text}\n"
