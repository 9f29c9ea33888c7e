"""A study's trials and curves as pandas tables, and as files: every column has a fixed name, a meaning and a unit.

Hyperparameters, objectives and metrics have prefixes, `hp.`, `objective.` and `metric.`, so that no two columns clash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from atoll.analysis import leaderboard
from atoll.storage import browse
from atoll.storage.export import plain
from atoll.storage.files import replacing, write_whole
from atoll.storage.liveness import true_counts, true_state_of, true_trial_state
from atoll.storage.models import StudyRow
from atoll.storage.store import Store

FORMATS = (".csv", ".parquet", ".json")


@dataclass(frozen=True)
class Column:
    """A column, or with NAME in its name, one for each hyperparameter, objective or metric.

    Attributes:
        name, meaning: in words, as the documentation has them.
        unit: such as s for seconds and B for bytes; empty if there is none.
    """

    name: str
    meaning: str
    unit: str = ""


STATES = ("complete", "pruned", "failed", "lost", "continued", "running")
TRIALS = (
    Column("trial", "the trial's number in the study, from 0"),
    Column("attempt", "0, then one more each time that it was lost and queued again, or continued"),
    Column("state", "running, complete, pruned, failed, lost (ranks ended, or a stop), or continued by a later one"),
    Column("place", "its place among the complete trials, from 1, the best; empty for others"),
    Column("objective.NAME", "the objective NAME, a prediction if NAME says predicted; empty unless complete"),
    Column("hp.NAME", "the hyperparameter NAME, searched or fixed; empty if the trial has none of this name"),
    Column("metric.NAME", "the metric NAME at the trial's end; empty if it was NaN, infinite or not measured"),
    Column("seconds", "training time until the last report, with that of attempts it continues", "s"),
    Column("wall_seconds", "from the trial's start to its end, with everything", "s"),
    Column("proposal_seconds", "time that the sampler took to propose the trial", "s"),
    Column("started", "start of the trial, UTC"),
    Column("finished", "end of the trial, UTC; empty while it runs"),
    Column("wire_bytes", "sent by all ranks of the worker, with what attempts it continues had sent", "B"),
    Column("peak_memory", "largest resident size of a rank's process", "B"),
    Column("island", "the island of its worker, from 0"),
    Column("worker", "the worker that trained it, from 0 over all islands"),
    Column("generation", "the number of trials that the worker had started before"),
    Column("seed", "seed of the initial weights and of the order of the data"),
    Column("host", "the host of the worker's first rank"),
    Column("oversubscribed", "whether ranks shared cores or a GPU, so that times do not compare"),
    Column("provenance", "version of code, data and libraries; `atoll studies NAME` tells what differs"),
    Column("operator", "what proposed the trial: default, a sampler, or operators such as crossover"),
    Column("parents", "numbers of the trials that it was bred from, separated by spaces; negative: of `learn_from`"),
    Column("reason", "why it failed, was pruned or was lost"),
    Column("note", "a reader's note, from the dashboard"),
    Column("notes", "remarks of the method, and what the trial changed in its process, a line each"),
)
CURVES = (
    Column("trial", "the trial's number in the study, from 0"),
    Column("attempt", "0, then one more each time that it was lost and queued again, or continued"),
    Column("step", "steps that were completed"),
    Column("epoch", "epochs that were completed"),
    Column("seconds", "training time so far, without evaluation", "s"),
    Column("metric", "the workload's metric on validation data; its name is in `attrs['metric']`"),
    Column("train_loss", "mean of the losses that the method itself has reported since the previous report"),
    Column("validation_loss", "loss on validation data"),
    Column("learning_rate", "of the last step"),
    Column("wire_bytes", "sent so far by all ranks of the worker", "B"),
    Column("metric.NAME", "the further metric NAME; with a slash in it, that of a layer"),
)
STUDIES = (
    Column("study", "the study's name"),
    Column("state", "running, complete, stopped, failed, or interrupted: its launcher died"),
    Column("method", "the training method"),
    Column("workload", "the workload"),
    Column("objective", "the objective, or the first of several"),
    Column("direction", "minimize or maximize"),
    Column("best", "the objective of the best complete trial"),
    Column("budget", "the number of trials that it may train; empty if the budget is in seconds"),
    *(Column(state, f"the number of attempts that are {state}") for state in STATES),
    Column("refused", "infeasible proposals, which were not trained"),
    Column("started", "start of the study, UTC"),
    Column("finished", "end of the study, UTC; empty while it runs"),
    Column("archived", "whether the dashboard hides it"),
    Column("reason", "why it ended; empty if it has used up its budget"),
    Column("folder", "its files, on the host that searched"),
)
FAILURES = (
    Column("kind", "the reason with # for each number"),
    Column("count", "the number of trials"),
    Column("trial", "the first of them"),
    Column("reason", "that trial's reason"),
    Column("place", "the line of your code that raised it; empty without a traceback"),
)
CHOICES = (
    Column("hyperparameter", "a categorical or Boolean hyperparameter"),
    Column("value", "one of its values"),
    Column("num_trials", "trials with this value that ended"),
    Column("num_failed", "those that failed"),
    Column("share", "their share"),
    Column("reason", "their most frequent reason"),
)


def studies(store: Store, study_id: int | None = None) -> pd.DataFrame:
    """All studies, the newest first, or one: the columns `STUDIES`."""
    summaries = store.studies(study_id)
    rows = [summary.study for summary in summaries]
    states = [true_state_of(row) for row in rows]
    counts = [true_counts(summary.counts, state) for summary, state in zip(summaries, states, strict=True)]
    return pd.DataFrame(
        {
            "study": _words([row.name for row in rows]),
            "state": _words(states),
            **{name: _words([getattr(row, name) for row in rows]) for name in ("method", "workload")},
            "objective": _words([row.metric for row in rows]),
            "direction": _words([row.direction for row in rows]),
            "best": _numbers(summary.best for summary in summaries),
            "budget": pd.Series([row.num_trials for row in rows], dtype="Int64"),
            **{state: _column([count.get(state, 0) for count in counts]) for state in STATES},
            "refused": _column([row.num_refused for row in rows]),
            "started": _times(row.started for row in rows),
            "finished": _times(row.finished for row in rows),
            "archived": pd.Series([row.archived for row in rows], dtype=bool),
            "reason": _words([row.reason for row in rows]),
            "folder": _words([row.folder for row in rows]),
        }
    )


def trials(store: Store, study: StudyRow) -> pd.DataFrame:
    """Every trial of a study in every state, a row for each attempt, by number and attempt.

    Returns:
        The columns `TRIALS`. `attrs` holds the study's name, `units` by column, and `directions` by objective's column.
    """
    rows = browse.table_columns(store, study.id)
    objectives = study.all_objectives
    values = {
        f"objective.{objective['name']}": _numbers(_objective(row, index) for row in rows)
        for index, objective in enumerate(objectives)
    }
    proposals = [row.proposal or {} for row in rows]
    study_state = true_state_of(study)
    frame = pd.DataFrame(
        {
            "trial": _column([row.number for row in rows]),
            "attempt": _column([row.attempt for row in rows]),
            "state": _words([true_trial_state(row.state, study_state) for row in rows]),
            "place": pd.Series(leaderboard.places(study, rows), dtype="Int64"),
            **values,
            **_spread("hp", [row.hyperparameters for row in rows]),
            **{name: _numbers(column) for name, column in _spread("metric", [row.metrics for row in rows]).items()},
            "seconds": _numbers(row.seconds for row in rows),
            "wall_seconds": _numbers(None if row.finished is None else row.finished - row.started for row in rows),
            "proposal_seconds": _numbers(proposal.get("seconds") for proposal in proposals),
            "started": _times(row.started for row in rows),
            "finished": _times(row.finished for row in rows),
            "wire_bytes": _numbers(row.wire_bytes for row in rows),
            "peak_memory": _numbers(row.peak_memory for row in rows),
            **{name: _column([getattr(row, name) for row in rows]) for name in ("island", "worker", "generation")},
            "seed": _column([row.seed for row in rows]),
            "host": _words([row.host for row in rows]),
            "oversubscribed": pd.Series([row.oversubscribed for row in rows], dtype="boolean"),
            "provenance": pd.Series([row.provenance for row in rows], dtype="Int64"),
            "operator": _words([proposal.get("operator") for proposal in proposals]),
            "parents": _words([" ".join(map(str, proposal.get("parents") or ())) or None for proposal in proposals]),
            "reason": _words([row.reason for row in rows]),
            "note": _words([row.note for row in rows]),
            "notes": _words(["\n".join(map(str, row.notes or ())) or None for row in rows]),
        }
    )
    directions = {f"objective.{objective['name']}": objective["direction"] for objective in objectives}
    frame.attrs |= {"study": study.name, "units": units(frame.columns, TRIALS), "directions": directions}
    return frame


def curves(store: Store, study: StudyRow, numbers: Sequence[int] | None = None) -> pd.DataFrame:
    """The reports of a study's trials, a row for each, by trial, attempt and step.

    Args:
        store, study: the study.
        numbers: only of these trials. Default: of all.

    Returns:
        The columns `CURVES`. `attrs` holds the study's name, `units` by column, and `metric`, the metric's name.
    """
    rows = browse.reports(store, study.id, numbers)
    names = [column.name for column in CURVES[2:-1]]
    frame = pd.DataFrame(
        {
            "trial": _column([row.number for row in rows]),
            "attempt": _column([row.attempt for row in rows]),
            "step": _column([row.step for row in rows]),
            "epoch": _column([row.epoch for row in rows]),
            **{name: _numbers(getattr(row, name) for row in rows) for name in names[2:]},
            **{name: _numbers(column) for name, column in _spread("metric", [row.metrics for row in rows]).items()},
        }
    )
    metric = study.curve_metric or study.metric
    frame.attrs |= {"study": study.name, "units": units(frame.columns, CURVES), "metric": metric}
    return frame


def units(names: Iterable[str], columns: Sequence[Column]) -> dict[str, str]:
    """The units of those columns that have one."""
    fixed = {column.name: column.unit for column in columns}
    found = {name: fixed.get(name) or _unit(name) for name in names}
    return {name: unit for name, unit in found.items() if unit}


def _unit(name: str) -> str:
    """The unit of an objective or a metric, which its name tells."""
    holder, _, name = name.partition(".")
    return unit_of(name) if holder in ("objective", "metric") else ""


def unit_of(name: str) -> str:
    """The unit of an objective or a metric of this name; empty if it has none or is not known."""
    if name == "peak_memory":
        return "B"
    if name.startswith(("seconds", "projected_seconds")) or name.endswith("_seconds"):
        return "s"
    if name.startswith("bytes") or name.endswith("_bytes"):
        return "B"
    if name in ("passes", "passes_to_target"):
        return "samples"
    return "steps" if name == "steps_to_target" else ""


def _objective(row: Any, index: int) -> float | None:
    """An objective of a trial; a trial of a study with one has no list."""
    if row.objectives is None:
        return row.objective if index == 0 else None
    return row.objectives[index] if index < len(row.objectives) else None


def _spread(prefix: str, content: Sequence[dict[str, Any] | None]) -> dict[str, pd.Series]:
    """A column for each name, in the order in which they appear."""
    names = dict.fromkeys(name for row in content for name in row or {})
    return {f"{prefix}.{name}": _column([(row or {}).get(name) for row in content]) for name in names}


def _column(values: Sequence[Any]) -> pd.Series:
    """Values in the narrowest type that holds them: whole numbers stay whole where some are missing."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if len(present) < len(values) else bool)
    if not values or (kinds == {int} and max(map(abs, present)) < 2**63):
        return pd.Series(values, dtype="Int64" if len(present) < len(values) else "int64")
    return _numbers(values) if kinds and kinds <= {int, float} else _words(values)


def _numbers(values: Iterable[Any]) -> pd.Series:
    return pd.Series([math.nan if value is None or value is pd.NA else float(value) for value in values], dtype=float)


def _words(values: Sequence[Any]) -> pd.Series:
    return pd.Series(list(values), dtype=object)


def _times(seconds: Iterable[float | None]) -> pd.Series:
    """Times, UTC, to a microsecond, whatever unit this version of pandas prefers."""
    whole = [None if value is None else round(value * 1e6) for value in seconds]
    return pd.Series(pd.to_datetime(pd.Series(whole, dtype="Int64"), unit="us", utc=True)).astype("datetime64[us, UTC]")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as plain data: null for what is missing, times in ISO 8601."""
    columns = {str(name): [plain_value(value) for value in frame[name].astype(object)] for name in frame.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def plain_value(value: Any) -> Any:
    """A cell as plain data."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, pd.Timestamp):
        return value.isoformat().replace("+00:00", "Z")
    return plain(value)


def to_csv(frame: pd.DataFrame) -> str:
    """A table as CSV: floats with all digits, times in ISO 8601, nothing for what is missing."""
    flat = _flat(frame)
    for name in flat.columns:
        if isinstance(flat[name].dtype, pd.DatetimeTZDtype):
            flat[name] = [plain_value(value) for value in flat[name].astype(object)]
    return flat.to_csv(index=False, lineterminator="\n")


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    """A table without lists, and without columns of words and other values: these become JSON."""
    flat = frame.copy()
    flat.attrs = dict(frame.attrs)
    for name in frame.columns:
        values = frame[name]
        if values.dtype == object and not all(isinstance(value, str) for value in values.dropna()):
            flat[name] = _words([value if _is_word(value) else json.dumps(value) for value in values])
    return flat


def _is_word(value: Any) -> bool:
    return isinstance(value, str) or value is None or (isinstance(value, float) and math.isnan(value))


def check_format(path: Path) -> None:
    """Raise ValueError for a file of another format, and ModuleNotFoundError if its writer is missing.

    A file that is there and is no regular one, such as /dev/stdout, may have no suffix: it receives CSV.
    """
    if path.suffix not in FORMATS and not _is_stream(path):
        raise ValueError(f"a table's file must end in {', '.join(FORMATS)}; got {path.name!r}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:  # also of a version that needs another one of numpy
            raise ModuleNotFoundError(
                f"writing .parquet needs pyarrow: `pip install atoll[parquet]`, or write .csv; {error}", name="pyarrow"
            ) from None


def _is_stream(path: Path) -> bool:
    return not path.suffix and path.exists() and not path.is_file()


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as its file's suffix says, whole or not at all; see `check_format` for the errors."""
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        with replacing(path) as partial:
            _flat(frame).to_parquet(partial, engine="pyarrow", index=False)
    else:
        write_whole(path, json.dumps(records(frame)) if path.suffix == ".json" else to_csv(frame))
