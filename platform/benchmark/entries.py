"""The entries of a benchmark file: a method, a workload, the tuning, the confirmation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from atoll.platform.study.fields import Space, Strict
from atoll.platform.study.objectives import Objective, named
from atoll.platform.study.pruning import Pruning
from atoll.platform.study.samplers import Pbt, Sampler, default_sampler, with_name

# Trial n of a study trains with seed + n. A confirmation's seeds begin here, after those of its tuning.
FIRST_CONFIRMATION_SEED = 500_000


class MethodEntry(Strict):
    """A method, with changes of its search space; a benchmark may have several entries of one method."""

    method: str = Field(description="a registered name, an entry point, or file.py:Class")
    name: str = Field(default="", description="label in tables. Default: the method's name")
    space: Space = Field(default_factory=dict, description="changes of its search space, as in a study file")
    constraints: list[str] = Field(
        default_factory=list, description="constraints between hyperparameters, such as S <= B"
    )
    ranks: int | None = Field(
        default=None, ge=1, description="number of ranks, such as for a baseline on fewer. Default: the benchmark's"
    )
    untuned: bool = Field(
        default=False, description="train its default configuration only, to measure the benefit of tuning"
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="epochs per trial on every workload, such as for a method that passes over the data many times in "
        "each. Default: the workload's",
    )
    by_workload: dict[str, Space] = Field(
        default_factory=dict,
        description="further changes of its search space on single workloads, by their names in this file",
    )


class WorkloadEntry(Strict):
    """A workload, with its target, its epochs, and changes of all methods' search spaces."""

    workload: str = Field(description="a registered name, an entry point, or file.py:Class")
    name: str = Field(default="", description="label in tables. Default: the workload's name")
    compared: Literal["metric", "evaluated_train_loss"] = Field(
        default="metric",
        description="the value by which methods are compared, and which the target is of: the metric on test data, or "
        "evaluated_train_loss, which needs `evaluate_train`",
    )
    target: float | None = Field(
        default=None,
        gt=0,
        description="target of the compared value. Default: of the metric the workload's, of a loss none",
    )
    epochs: int | None = Field(default=None, ge=1, description="epochs per trial. Default: the workload's")
    space: Space = Field(default_factory=dict, description="changes of every method's search space")
    variant_of: str | None = Field(default=None, description="the base workload of which this is a held-out variant")

    @property
    def other_value(self) -> str | None:
        """The value by which methods are compared in place of the metric; None for the metric."""
        return None if self.compared == "metric" else self.compared


class Tuning(Strict):
    """The tuning of each method on each workload."""

    trials: int | None = Field(
        default=None,
        ge=1,
        le=FIRST_CONFIRMATION_SEED,
        description="budget: number of trials. Default: 20 if there is no other budget",
    )
    busy_seconds: float | None = Field(default=None, gt=0, description="budget: worker-seconds (seconds in trials)")
    repeats: int = Field(default=1, ge=1, description="number of independent tunings")
    islands: int = Field(default=1, ge=1, description="number of islands")
    workers: int = Field(default=1, ge=1, description="workers per island; they train concurrently")
    sampler: Annotated[Sampler, BeforeValidator(with_name)] = Field(
        default_factory=lambda: default_sampler(1), description="the sampler of all tunings. Default: mixed"
    )

    @field_validator("sampler")
    @classmethod
    def _finds_constants(cls, sampler: Sampler) -> Sampler:
        if isinstance(sampler, Pbt):
            raise ValueError(
                "a benchmark confirms constant configurations, and pbt finds schedules: use another sampler"
            )
        return sampler

    objective: Annotated[Objective, BeforeValidator(named)] | None = Field(
        default=None, description="the tuned objective: a name, or {NAME: direction}. Default: the workload's metric"
    )
    pruning: Pruning | None = Field(default=None, description="rule for stopping trials early. Default: never")

    @model_validator(mode="before")
    @classmethod
    def _some_budget(cls, content: object) -> object:
        if isinstance(content, dict) and content.get("trials") is None and content.get("busy_seconds") is None:
            return content | {"trials": 20}
        return content


class Confirming(Strict):
    """The confirmation of the tuned configurations."""

    best: int = Field(default=1, ge=1, description="number of best configurations to train again")
    seeds: int = Field(default=5, ge=1, description="number of trainings of each, with seeds that tuning did not use")


def with_defaults(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded definition, with the defaults of the entries' settings that are newer than it."""
    return dict(definition) | {
        "methods": [_newer(MethodEntry, "epochs", "by_workload") | entry for entry in definition["methods"]],
        "workloads": [_newer(WorkloadEntry, "compared") | entry for entry in definition["workloads"]],
    }


def _newer(entry: type[Strict], *names: str) -> dict[str, Any]:
    """The defaults of an entry's settings."""
    return {name: entry.model_fields[name].get_default(call_default_factory=True) for name in names}
