"""From the store to data frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from atoll.storage.models import Study
from atoll.storage.store import Store


def studies(store: Store) -> pd.DataFrame:
    """One row per study: name, state, trials ended and asked for, failures, best objective, method, workload, start."""
    rows = [
        {
            "study": s.study.name,
            "state": s.study.state,
            "trials": s.num_ended,
            "budget": s.study.num_trials,
            "failed": s.counts.get("failed", 0),
            "metric": s.study.metric,
            "best": s.best,
            "method": s.study.method,
            "workload": s.study.workload,
            "started": pd.Timestamp(s.study.started, unit="s").strftime("%Y-%m-%d %H:%M:%S"),
        }
        for s in store.studies()
    ]
    columns = ["study", "state", "trials", "budget", "failed", "metric", "best", "method", "workload", "started"]
    return pd.DataFrame(rows, columns=columns)


def trials(store: Store, study: Study) -> pd.DataFrame:
    """One row per trial, hyperparameters as columns of their own, in the order the trials were numbered."""
    rows = [
        {
            "id": t.id,
            "trial": t.number,
            "attempt": t.attempt,
            "state": t.state,
            **t.hyperparameters,
            **(t.metrics or {}),
            study.metric: t.objective,
            "seconds": t.seconds,
            "sent (MB)": None if t.wire_bytes is None else t.wire_bytes / 1e6,
            "seed": t.seed,
            "island": t.island,
            "finished": t.finished,
            "reason": t.reason,
        }
        for t in store.trials(study)
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["id", "trial", "state", study.metric, "finished"])


def leaderboard(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The trials with a place, the best first; those without an objective come last."""
    ranked = trials.sort_values(
        [study.metric, "trial"], ascending=[study.direction == "minimize", True], na_position="last", kind="stable"
    )
    complete = ranked["state"].eq("complete")
    return ranked.assign(place=complete.cumsum().where(complete)).drop(columns=["finished"])


def incumbents(trials: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The best objective so far against the number of complete trials."""
    complete = trials[trials["state"].eq("complete")].sort_values("finished")
    objective = complete[study.metric].astype(float)
    best = objective.cummax() if study.direction == "maximize" else objective.cummin()
    return pd.DataFrame(
        {"complete": range(1, len(complete) + 1), "trial": complete["trial"], "objective": objective, "best": best}
    )


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as a grid wants them: dictionaries, null where a value is missing."""
    rows: Any = table.astype(object).where(table.notna(), None).to_dict("records")
    return list(rows)


def curves(store: Store, trials: pd.DataFrame, numbers: Sequence[int]) -> pd.DataFrame:
    """What the trials of these numbers reported while they trained: one row per trial and report."""
    chosen = trials[trials["trial"].isin(list(numbers))]
    number_of = dict(zip(chosen["id"], chosen["trial"], strict=True))
    rows = [
        {
            "trial": number_of[p.trial_id],
            "epoch": p.epoch,
            "step": p.step,
            "seconds": p.seconds,
            "training loss": p.train_loss,
            "validation loss": p.validation_loss,
            "metric": p.metric,
            "learning rate": p.learning_rate,
        }
        for p in store.progress(number_of)
    ]
    columns = ["trial", "epoch", "step", "seconds", "training loss", "validation loss", "metric", "learning rate"]
    return pd.DataFrame(rows, columns=columns)
