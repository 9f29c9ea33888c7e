"""A warm start: the best configurations of earlier studies and of an exported file.

They are evaluated again, as their objectives may come from other seeds, epochs or numbers of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from atoll.analysis import leaderboard
from atoll.platform.study.configuration import complete_hyperparameters, read_configurations
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.searchspaces.optimizer import acts
from atoll.storage.store import Store


def read(plan: Plan, url: str) -> list[dict[str, Any]]:
    """The distinct hyperparameters of the warm start, in the study's space.

    Raises:
        FileError, StoreError: if a file or a study is missing.
        ValueError: for configurations of another method or search space.
    """
    study, space = plan.study, plan.space
    if study.warm_start is None:
        return []
    distinct: list[dict[str, Any]] = []
    for source, method, hyperparameters in (*_of_file(study), *_of_studies(study, url)):
        if method != study.method:
            raise ValueError(f"the warm start from {source} must be of the method {study.method}; got {method}")
        fitted = _fit(plan, hyperparameters, source)
        if fitted not in distinct and not (study.default_first and fitted == space.default()):
            distinct.append(fitted)
    return distinct


def _of_file(study: Study) -> Iterable[tuple[str, str, dict[str, Any]]]:
    assert study.warm_start is not None
    if study.warm_start.file is None:
        return
    file = Path(study.warm_start.file)
    for configuration in read_configurations(file)[: study.warm_start.best]:
        yield str(file), configuration.method, configuration.hyperparameters


def _of_studies(study: Study, url: str) -> Iterable[tuple[str, str, dict[str, Any]]]:
    assert study.warm_start is not None
    if not study.warm_start.studies:
        return
    store = Store(url, read_only=True)
    try:
        for name in study.warm_start.studies:
            row = store.study(name)
            for trial in leaderboard.best(store, row, study.warm_start.best):
                method = study.method if row.is_imported else row.method  # which has none that atoll knows
                yield f"study {name}", method, trial.configuration["hyperparameters"]
    finally:
        store.close()


def _fit(plan: Plan, hyperparameters: dict[str, Any], source: str) -> dict[str, Any]:
    """The searched part of a whole configuration; the rest must have the study's values."""
    study, space = plan.study, plan.space
    searched = set(space.limits())
    others = complete_hyperparameters(study.method, study.workload, dict(space.fixed))
    for name, value in hyperparameters.items():
        if name not in searched and others.get(name) != value and acts(name, hyperparameters):
            raise ValueError(
                f"the warm start from {source} is from another space: {name} must be {others.get(name)!r}; "
                f"got {value!r}"
            )
    try:
        _, fitted = space.draw(lambda p: space.encode_one(p, hyperparameters))
    except ValueError as error:
        raise ValueError(f"the warm start from {source} is from another space: {error}") from None
    if (violated := space.violated(fitted)) is not None:
        raise ValueError(f"the warm start from {source} must satisfy the constraint {violated!r}; got {fitted}")
    # Decoding a gene may change a number's last digit; the configuration's own value is kept.
    return {name: hyperparameters.get(name, value) for name, value in fitted.items()}
