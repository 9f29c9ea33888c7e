"""Studies whose trials call a function of the user's, in place of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atoll.platform.study.objectives import VALUE
from atoll.storage.names import FUNCTION

if TYPE_CHECKING:
    from atoll.platform.study.study import Study

# What says how atoll trains: a function has its own ways.
_OF_TRAININGS = (
    "epochs", "steps", "report_every", "evaluate_every", "patience", "checkpoint", "loader", "confirm", "data",
    "observe", "evaluate_train",
)  # fmt: skip


def of_function(content: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the keys `objective` and `direction` of a study file.

    Raises:
        ValueError: if the file also names a workload or a method, or gives both `direction` and `objectives`.
    """
    name = content["objective"]
    for key, own in (("workload", name), ("method", FUNCTION)):
        if content.get(key) not in (None, own):
            raise ValueError(f"a study has either objective, or workload and method; got both {name} and {key}")
    direction, objectives = content.get("direction"), content.get("objectives")
    if direction is not None and objectives is not None:
        raise ValueError("give either direction or objectives, which have directions of their own; got both")
    if direction == {}:
        raise ValueError(
            "direction must name a returned value, such as {loss: minimize}, or be minimize or maximize; got {}"
        )
    if objectives is None:
        of = direction if isinstance(direction, Mapping) else {VALUE: direction or "minimize"}
        objectives = [{"name": name, "direction": of_it} for name, of_it in of.items()]
    # The direction is in the objectives from now on.
    return {"workload": name, "method": FUNCTION, "direction": None, "objectives": objectives}


def check_call(study: Study) -> None:
    """Raise ValueError if a study of a function has settings of trainings, or asks for what only these can do."""
    if given := [key for key in _OF_TRAININGS if getattr(study, key) is not None]:
        raise ValueError(
            f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} for trainings by atoll, and `objective` is a "
            "function with ways of its own: leave it out (a trial has report, checkpoint and folder)"
        )
    if study.objective_from != "last":
        raise ValueError("the objective of a function is the value that it returns: omit objective_from")
    if study.pauses_trials:
        what = "promotion" if study.population_based is None else "pbt"
        raise ValueError(f"{what} continues trainings from atoll's checkpoints; a function writes its own: omit {what}")
    if study.pruning is not None and study.pruning.while_falling is not None:
        raise ValueError("while_falling looks at the training loss, which a function does not report: omit it")
    if study.isolate == "process" and study.topology.ranks > 1:
        raise ValueError(
            "isolate: process needs topology.ranks 1 for a function, whose trial.comm is MPI's, of the ranks; "
            f"got {study.topology.ranks}: use isolate: restore"
        )
