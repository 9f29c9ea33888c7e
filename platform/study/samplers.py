"""What a study file may say of its samplers. Defaults of the genetic one are those of source 001, table A.3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Genetic(_Strict):
    """Propulate's genetic operators: selection of the best, crossover, point and interval mutation, random ones."""

    name: Literal["propulate"] = "propulate"
    population: int | None = Field(
        default=None,
        ge=2,
        description="breeding population of an island; a quarter of its trials, 4 to 32, unless given",
    )
    crossover: float = Field(default=0.7, gt=0, lt=1, description="share of the first parent's genes")
    mating: Literal["uniform", "multiple", "sigmoid"] = Field(
        default="uniform",
        description="uniform crossover of two parents, of several, or with the better one's genes preferred",
    )
    parents: int = Field(default=2, ge=2, description="parents of a multiple crossover")
    temperature: float = Field(default=1.0, gt=0, description="of the sigmoid crossover, in units of the objective")
    mutation: float = Field(default=0.4, ge=0, le=1, description="probability of a point mutation")
    mutation_points: tuple[int, int] = Field(
        default=(1, 1), description="fewest and most parameters that a point mutation draws anew"
    )
    interval: float = Field(default=1.0, ge=0, le=1, description="probability of an interval mutation")
    interval_points: int = Field(default=1, ge=1, description="numbers that an interval mutation moves")
    sigma: float = Field(default=0.05, gt=0, le=1, description="width of the interval mutation, of each gene's range")
    random: float = Field(default=0.1, ge=0, le=1, description="probability of a random individual")

    @model_validator(mode="after")
    def _possible(self) -> Genetic:
        low, high = self.mutation_points
        if not 1 <= low <= high:
            raise ValueError(f"mutation_points must be fewest and most, 1 or more; got {low}, {high}")
        if self.population is not None and self.parents > self.population:
            raise ValueError(f"parents must be at most population ({self.population}); got {self.parents}")
        return self


class Tpe(_Strict):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), multivariate, in groups of conditions."""

    name: Literal["optuna-tpe"]
    startup: int = Field(default=10, ge=0, description="random individuals before the model is used")
    candidates: int = Field(default=24, ge=1, description="samples among which the best expected one is taken")
    multivariate: bool = Field(default=True, description="whether parameters are modelled together")
    group: bool = Field(default=True, description="whether parameters that appear together are modelled together")
    constant_liar: bool = Field(default=True, description="whether trials in training count as bad ones")

    @model_validator(mode="after")
    def _possible(self) -> Tpe:
        if self.group and not self.multivariate:
            raise ValueError("group needs multivariate")
        return self


class CmaEs(_Strict):
    """CMA-ES (Hansen 2016) through Optuna and cmaes; choices are drawn at random."""

    name: Literal["optuna-cmaes"]
    startup: int = Field(default=1, ge=1, description="random individuals before the first generation")
    population: int | None = Field(default=None, ge=3, description="of a generation; 4 + 3 ln d unless given")
    margin: bool = Field(default=False, description="CMA-ES with margin")
    separable: bool = Field(default=False, description="a diagonal covariance")

    @model_validator(mode="after")
    def _possible(self) -> CmaEs:
        if self.margin and self.separable:
            raise ValueError("give either margin or separable, not both")
        return self


class _Nsga(_Strict):
    population: int | None = Field(
        default=None, ge=2, description="of a generation; a quarter of an island's trials, 4 to 32, unless given"
    )
    mutation: float | None = Field(default=None, ge=0, le=1, description="per parameter; 1/d unless given")
    crossover: float = Field(default=0.9, ge=0, le=1, description="probability of a crossover")
    swapping: float = Field(default=0.5, ge=0, le=1, description="probability to take the second parent's value")


class Nsga2(_Nsga):
    """NSGA-II (Deb et al. 2002) through Optuna."""

    name: Literal["optuna-nsga2"]


class Nsga3(_Nsga):
    """NSGA-III (Deb and Jain 2014) through Optuna."""

    name: Literal["optuna-nsga3"]
    divisions: int = Field(default=3, ge=1, description="of the reference points on each axis")


class Gp(_Strict):
    """Gaussian process through Optuna; its time grows with the cube of the trials that it sees."""

    name: Literal["optuna-gp"]
    startup: int = Field(default=10, ge=1, description="random individuals before the model is used")
    memory: int = Field(default=200, ge=10, description="trials that it sees: the best half and the newest half")
    deterministic: bool = Field(default=False, description="whether equal settings give equal objectives")


class Qmc(_Strict):
    """Quasi-random points through Optuna and scipy; the trial's number is the point's."""

    name: Literal["optuna-qmc"]
    sequence: Literal["sobol", "halton"] = "sobol"
    scramble: bool = True


class Random(_Strict):
    """Independent uniform draws."""

    name: Literal["random"]


class Grid(_Strict):
    """Every point of a grid once, in an order that the seed shuffles; the trial's number is the point's."""

    name: Literal["grid"]
    points: int | dict[str, int] = Field(
        default=5, description="of each range, one number or by name; choices have their own"
    )


Member = Annotated[Genetic | Tpe | CmaEs | Nsga2 | Nsga3 | Gp | Qmc | Random, Field(discriminator="name")]


class Mixed(_Strict):
    """Several samplers that take turns, by the trial's number, and learn from one another's trials."""

    name: Literal["mixed"] = "mixed"
    samplers: list[Member] = Field(
        default=[Gp(name="optuna-gp"), Genetic()],
        min_length=2,
        description="those that take turns, a Gaussian process and Propulate's unless given; one twice has two turns",
    )
    population: int | None = Field(
        default=None, ge=2, description="of the members that have none of their own; as theirs unless given"
    )

    @model_validator(mode="after")
    def _one_population(self) -> Mixed:
        if any(isinstance(member, Genetic) and member.population is not None for member in self.samplers):
            raise ValueError("what propulate breeds from is the island's: give population beside samplers, not inside")
        return self


Sampler = Annotated[
    Genetic | Tpe | CmaEs | Nsga2 | Nsga3 | Gp | Qmc | Random | Grid | Mixed,
    Field(discriminator="name"),
]
NAMES = tuple(get_args(sampler.model_fields["name"].annotation)[0] for sampler in get_args(get_args(Sampler)[0]))
_ONE_OBJECTIVE = ("optuna-cmaes", "optuna-gp")
SEVERAL_OBJECTIVES = tuple(name for name in NAMES if name not in _ONE_OBJECTIVE)


def default_sampler(num_objectives: int) -> Sampler:
    """The best by docs/results/search_quality_held_out.md; a Gaussian process takes one objective only."""
    return Genetic() if num_objectives > 1 else Mixed()


def with_name(sampler: object) -> object:
    """Let a sampler without a name be Propulate's."""
    if not isinstance(sampler, dict):
        return sampler
    named = {"name": "propulate", **sampler}
    inside = named.get("samplers")
    return named | {"samplers": [with_name(one) for one in inside]} if isinstance(inside, list) else named


def members(sampler: Sampler) -> Sequence[Sampler]:
    """Those that a mixed sampler has, or else itself."""
    return sampler.samplers if isinstance(sampler, Mixed) else [sampler]


def takes_one_objective(sampler: Sampler) -> str | None:
    """The name of the sampler, or of its member, that cannot take several objectives; None where all can."""
    return next((member.name for member in members(sampler) if member.name in _ONE_OBJECTIVE), None)
