"""Trials in MLflow: a run for each trial, in an experiment named like the study; later attempts are nested in it."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from atoll.platform.launch.errors import LaunchError
from atoll.platform.launch.live_values import final_values, report_values
from atoll.platform.study.on_trial import shown, without_secrets
from atoll.storage.events import ProgressReported, TrialEnded, TrialLost, TrialStarted

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from atoll.platform.launch.live import Trial

STATUSES = {"complete": "FINISHED", "failed": "FAILED"}  # others have ended before their time: KILLED
# MLflow's limits of a call and of a value.
_MOST_METRICS, _MOST_PARAMETERS, _LONGEST = 1000, 100, 6000
_FORBIDDEN = re.compile(r"[^\w\-. :/]")
# What the service will not take later either.
_FINAL = (
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
)
_TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"
PROBE_TIMEOUT = 5.0  # seconds


class MLflowTarget:
    """Sends trials to an MLflow tracking server or database.

    A run's tags name the study, the trial and the attempt, so that a run which was made before a kill is found again;
    metrics have the journals' times, so that a database of MLflow ignores a repeated one.

    Args:
        uri: the tracking URI.
        row: the study's row.
    """

    settles_each = False

    def __init__(self, uri: str, row: Mapping[str, Any]) -> None:
        self.name = shown(f"mlflow:{uri}")
        self.num_refused = 0
        self._uri = uri
        self._row = row
        self._client: MlflowClient | None = None
        self._experiment = ""

    def check(self) -> None:
        """Raise LaunchError if a local database or folder cannot be used; a server may be away for a while."""
        try:
            client = _client(self._uri)
            if self._uri.startswith(("file:", "sqlite:")):
                client.search_experiments(max_results=1)
        except Exception as error:
            first = without_secrets(str(error).partition("\n")[0])
            raise LaunchError(
                f"on_trial: mlflow:URI must be a tracking URI that MLflow can use; got {self.name} "
                f"({type(error).__name__}: {first}); name another one, such as mlflow:http://HOST:PORT or "
                "mlflow:sqlite:///FILE.db"
            ) from None

    def open(self) -> None:
        """Find or make the experiment."""
        _probe(self._uri)
        self._client = client = _client(self._uri)
        name = self._row["name"]
        found = client.get_experiment_by_name(name)
        self._experiment = client.create_experiment(name) if found is None else found.experiment_id

    def start(self, trial: Trial) -> None:
        """Make the attempt's run, with its parameters, or find the one that was made before a kill."""
        started = trial.started
        known = self._run(started.number, started.attempt)
        parent = self._run(started.number, 0) if started.attempt else None
        with self._refusing():
            trial.saved["run"] = self._made(started, parent) if known is None else known
            trial.saved["parent"] = parent
            self._log_parameters(trial.saved["run"], started.hyperparameters)

    def report(self, trial: Trial, reports: Sequence[ProgressReported]) -> None:
        """Send the scalars by step."""
        metric = str(self._row.get("curve_metric") or "metric")
        if run := trial.saved.get("run"):
            with self._refusing():
                values = [(one.time, one.step, report_values(one, metric)) for one in reports]
                self._log_metrics(run, values)

    def end(self, trial: Trial, end: TrialEnded | TrialLost) -> None:
        """Send the final metrics and the state; those of a later attempt are the first one's, too."""
        state = end.state if isinstance(end, TrialEnded) else "lost"
        for run in (trial.saved.get("run"), trial.saved.get("parent")):
            if run is None:
                continue
            with self._refusing():
                self._log_metrics(run, [(end.time, trial.step, final_values(end, self._row))])
                self._tag(run, {"atoll.state": state, "atoll.attempts": str(trial.started.attempt + 1)})
                if end.reason:
                    self._tag(run, {"atoll.reason": end.reason})
                self._there.set_terminated(run, STATUSES.get(state, "KILLED"), end_time=_milliseconds(end.time))

    def settle(self) -> None:
        """Nothing: every call has arrived when it returns."""

    def give_up(self) -> None:
        """Nothing: a request ends by its own time limit."""

    def close(self, *, failed: bool) -> None:
        """Drop the client."""
        self._client = None

    @property
    def _there(self) -> MlflowClient:
        assert self._client is not None, "the target is closed"
        return self._client

    def _run(self, number: int, attempt: int) -> str | None:
        wanted = {"atoll.uid": self._uid, "atoll.trial": str(number), "atoll.attempt": str(attempt)}
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
        found = self._there.search_runs([self._experiment], query, max_results=1)
        return found[0].info.run_id if found else None

    @property
    def _uid(self) -> str:
        return str(self._row.get("uid") or self._row["name"])

    def _made(self, started: TrialStarted, parent: str | None) -> str:
        tags = {
            "atoll.study": self._row["name"],
            "atoll.uid": self._uid,
            "atoll.trial": str(started.number),
            "atoll.attempt": str(started.attempt),
            "atoll.state": "running",
            "atoll.host": started.host or "",
            "atoll.island": str(started.island),
            "atoll.worker": str(started.worker),
            "atoll.seed": str(started.seed),
            "atoll.method": str(self._row.get("method", "")),
            "atoll.workload": str(self._row.get("workload", "")),
        }
        name = f"trial {started.number}"
        if started.attempt:
            name += f", attempt {started.attempt}"
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = self._there.create_run(self._experiment, start_time=_milliseconds(started.time), tags=tags, run_name=name)
        return str(run.info.run_id)

    def _log_parameters(self, run: str, hyperparameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        parameters = [Param(_name(name), _text(value)) for name, value in hyperparameters.items()]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            self._there.log_batch(run, params=parameters[start : start + _MOST_PARAMETERS])

    def _log_metrics(self, run: str, values: Sequence[tuple[float, int, Mapping[str, float]]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_name(name), value, _milliseconds(time), step)
            for time, step, several in values
            for name, value in several.items()
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._there.log_batch(run, metrics=metrics[start : start + _MOST_METRICS])

    def _tag(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._there.log_batch(run, tags=[RunTag(name, value[:_LONGEST]) for name, value in tags.items()])

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """What the service refuses for its content, or because its run was deleted, is counted and passed over."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code not in _FINAL:
                raise
            self.num_refused += 1


def _client(uri: str) -> MlflowClient:
    if "mlflow" not in sys.modules:
        _import_without_telemetry()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _import_without_telemetry() -> None:
    """Import MLflow; as it starts to send usage data then, unless the user has decided about that."""
    before = os.environ.get(_TELEMETRY)
    os.environ.setdefault(_TELEMETRY, "true")
    try:
        import mlflow  # noqa: F401
    finally:
        if before is None:
            del os.environ[_TELEMETRY]
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells about its tables


def _probe(uri: str) -> None:
    """Raise OSError at once if a server does not answer: MLflow itself would ask it again for minutes."""
    if not uri.startswith(("http:", "https:")):
        return
    request = urllib.request.Request(re.sub(r"//[^/@]*@", "//", uri), method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PROBE_TIMEOUT).close()
    except urllib.error.HTTPError:  # an answer, whatever it says
        return


def _milliseconds(time: float) -> int:
    return round(1000 * time)


def _name(name: str) -> str:
    return _FORBIDDEN.sub("_", name)[:250]


def _text(value: object) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:_LONGEST]
