"""Configurations that a search starts with: the best of earlier studies, and those of an exported file.

They are evaluated again, as their objectives may come from other seeds, epochs or ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.analysis import leaderboard
from atoll.platform.study.configuration import complete_hyperparameters, read_configurations
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage.store import Store

if TYPE_CHECKING:
    pass


def read(plan: Plan, url: str) -> list[dict[str, Any]]:
    """The hyperparameters to start with, as the study's space has them, no two alike.

    Raises:
        FileError, StoreError: for a file or a study that is not there.
        ValueError: for configurations of another method or from another space.
    """
    study, space = plan.study, plan.space
    if study.warm_start is None:
        return []
    found: list[dict[str, Any]] = []
    for source, method, hyperparameters in (*_of_file(study), *_of_studies(study, url)):
        if method != study.method:
            raise ValueError(f"the warm start from {source} is of the method {method}; the study's is {study.method}")
        fitted = _fit(plan, hyperparameters, source)
        if fitted not in found and not (study.default_first and fitted == space.default()):
            found.append(fitted)
    return found


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
    store = Store(url, create=False)
    try:
        for name in study.warm_start.studies:
            row = store.study(name)
            for trial in leaderboard.best(store, row, study.warm_start.best):
                yield f"study {name}", row.method, trial.configuration["hyperparameters"]
    finally:
        store.close()


def _fit(plan: Plan, hyperparameters: dict[str, Any], source: str) -> dict[str, Any]:
    """What the space searches, of a whole configuration; the rest must be as the study has it."""
    study, space = plan.study, plan.space
    searched = set(space.limits())
    others = complete_hyperparameters(study.method, study.workload, dict(space.fixed))
    for name, value in hyperparameters.items():
        if name not in searched and others.get(name) != value:
            raise ValueError(
                f"the warm start from {source} is from another space: {name} is fixed at {others.get(name)!r} here and "
                f"{value!r} there"
            )
    try:
        _, fitted = space.draw(lambda p: space.encode_one(p, hyperparameters))
    except ValueError as error:
        raise ValueError(f"the warm start from {source} is from another space: {error}") from None
    if (violated := space.violated(fitted)) is not None:
        raise ValueError(f"the warm start from {source} violates the constraint {violated!r}: {fitted}")
    # Decoding a gene may change a number in its last place; a configuration is taken as it is.
    return {name: hyperparameters.get(name, value) for name, value in fitted.items()}
