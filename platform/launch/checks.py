"""What can be checked of a study before anything expensive starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atoll.platform.search.propagators.grid import points
from atoll.platform.search.proposals import draw
from atoll.platform.study import objectives, registry
from atoll.platform.study.samplers import Grid
from atoll.platform.study.study import Study
from atoll.searchspaces.space import Infeasibility, SearchSpace


def check(study: Study) -> None:
    """Check that names, space, samplers, objectives and data are there and fit together.

    Raises:
        ValueError, DataMissing: with the rule, the value and the valid choices.
    """
    workload = study.problem()
    registry.method(study.method)
    space = study.search_space()
    objectives.resolve(study.objectives, workload)
    refuses = study.refusal(space)
    if study.confirm is not None:
        _check_confirmed(study.confirm.configurations, space, refuses)
    else:
        draw(space, refuses, study.seed)  # raises where next to nothing may be trained
        _check_grids(study, space, refuses)
    workload.check_data(Path(study.data) if study.data else None)


def _check_confirmed(configurations: list[dict[str, Any]], space: SearchSpace, refuses: Infeasibility) -> None:
    """Configurations that are to be confirmed must lie in the space."""
    for place, hyperparameters in enumerate(configurations, 1):
        try:
            space.encode(hyperparameters)
        except (KeyError, ValueError) as error:
            raise ValueError(f"configuration {place} of confirm is not of the study's space: {error}") from None
        if (reason := refuses(hyperparameters)) is not None:
            raise ValueError(f"configuration {place} of confirm cannot be trained: {reason}")


def _check_grids(study: Study, space: SearchSpace, refuses: Infeasibility) -> None:
    """A grid must have a point for every trial."""
    for sampler in study.samplers():
        if isinstance(sampler, Grid):
            size = len(points(sampler, space, refuses))
            if not size:
                raise ValueError("every point of the grid is refused; give other sampler.points, or fewer constraints")
            size += study.default_first
            if study.trials is not None and study.trials > size:
                raise ValueError(
                    f"the grid has {size} different configurations, the default one included; trials must be at most "
                    f"{size}; got {study.trials}"
                )
