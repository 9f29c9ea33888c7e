"""The samplers' settings in a study file. Those of `propulate` by default: Coquelin 2024, table A.3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from atoll.platform.study import registry
from atoll.platform.study.interval import Every, Interval


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Evolution(_Strict):
    """Differential and gene-wise variation of the best individuals; strengths adapt, no configuration comes twice."""

    name: Literal["evolution"] = "evolution"
    population: int | None = Field(
        default=None,
        ge=2,
        description="breeding population of an island. Default: a quarter of its trials, from 4 to 32",
    )
    differential: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="share of offspring by differential variation at first; it adapts, from 0.2 to 0.95",
    )
    scale: float = Field(default=0.5, gt=0, le=1, description="scale of variation at first; it adapts")
    rate: float = Field(
        default=0.6, ge=0, le=1, description="share of genes that differential variation changes at first; it adapts"
    )
    memory: float = Field(
        default=8, gt=0, description="weight of the initial strengths, as a number of survivors bred with them"
    )
    elite: float = Field(
        default=0.2, gt=0, le=1, description="share of the population that differential variation moves towards"
    )
    mating: Literal["uniform", "multiple", "sigmoid"] = Field(
        default="uniform",
        description="crossover of gene-wise variation: uniform (two parents), multiple (several parents), or sigmoid "
        "(favors the better parent's genes)",
    )
    crossover: float = Field(default=0.7, gt=0, lt=1, description="share of the first parent's genes (uniform)")
    parents: int = Field(default=3, ge=2, description="number of parents (multiple)")
    temperature: float = Field(
        default=1.0, gt=0, description="temperature of the sigmoid, in units of the (first) objective"
    )
    random: float = Field(default=0.0, ge=0, le=1, description="probability of a random individual")
    repeats: int = Field(
        default=1, ge=1, description="how many trials may have the same configuration; more than one measures noise"
    )

    @model_validator(mode="after")
    def _possible(self) -> Evolution:
        if self.population is not None and self.mating == "multiple" and self.parents > self.population:
            raise ValueError(f"parents must be at most population ({self.population}); got {self.parents}")
        return self


class Genetic(_Strict):
    """Propulate's genetic operators: selection of the best, crossover, mutation, and random individuals."""

    name: Literal["propulate"] = "propulate"
    population: int | None = Field(
        default=None,
        ge=2,
        description="breeding population of an island. Default: a quarter of its trials, from 4 to 32",
    )
    crossover: float = Field(default=0.7, gt=0, lt=1, description="share of the first parent's genes")
    mating: Literal["uniform", "multiple", "sigmoid"] = Field(
        default="uniform",
        description="uniform (two parents), multiple (several parents), or sigmoid (favors the better parent's genes)",
    )
    parents: int = Field(default=2, ge=2, description="number of parents of a multiple crossover")
    temperature: float = Field(
        default=1.0, gt=0, description="temperature of the sigmoid crossover, in units of the objective"
    )
    mutation: float = Field(default=0.4, ge=0, le=1, description="probability of a point mutation")
    mutation_points: tuple[int, int] = Field(
        default=(1, 1), description="minimum and maximum number of parameters that a point mutation redraws"
    )
    interval: float = Field(default=1.0, ge=0, le=1, description="probability of an interval mutation")
    interval_points: int = Field(default=1, ge=1, description="number of parameters that an interval mutation moves")
    sigma: float = Field(
        default=0.05, gt=0, le=1, description="standard deviation of the interval mutation, as a share of each range"
    )
    random: float = Field(default=0.1, ge=0, le=1, description="probability of a random individual")

    @model_validator(mode="after")
    def _possible(self) -> Genetic:
        low, high = self.mutation_points
        if not 1 <= low <= high:
            raise ValueError(
                f"mutation_points must be [minimum, maximum] with 1 <= minimum <= maximum; got {low}, {high}"
            )
        if self.population is not None and self.parents > self.population:
            raise ValueError(f"parents must be at most population ({self.population}); got {self.parents}")
        return self


class Tpe(_Strict):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), multivariate and grouped by conditions."""

    name: Literal["optuna-tpe"]
    startup: int = Field(default=10, ge=0, description="random trials before the model is used")
    candidates: int = Field(
        default=24, ge=1, description="candidates per proposal; the one with the best expected improvement is proposed"
    )
    multivariate: bool = Field(default=True, description="model parameters jointly")
    group: bool = Field(
        default=True, description="model parameters that are active together jointly; needs multivariate"
    )
    constant_liar: bool = Field(default=True, description="treat running trials as bad ones")

    @model_validator(mode="after")
    def _possible(self) -> Tpe:
        if self.group and not self.multivariate:
            raise ValueError("group needs multivariate: true; got multivariate: false")
        return self


class CmaEs(_Strict):
    """CMA-ES (Hansen 2016) by Optuna and cmaes; categorical parameters are drawn at random."""

    name: Literal["optuna-cmaes"]
    startup: int = Field(default=1, ge=1, description="random trials before the first generation")
    population: int | None = Field(
        default=None, ge=3, description="size of a generation. Default: 4 + 3 ln d, for d parameters"
    )
    margin: bool = Field(default=False, description="use CMA-ES with margin")
    separable: bool = Field(default=False, description="use a diagonal covariance matrix")

    @model_validator(mode="after")
    def _possible(self) -> CmaEs:
        if self.margin and self.separable:
            raise ValueError("give either margin or separable, not both")
        return self


class _Nsga(_Strict):
    population: int | None = Field(
        default=None, ge=2, description="size of a generation. Default: a quarter of an island's trials, from 4 to 32"
    )
    mutation: float | None = Field(
        default=None, ge=0, le=1, description="mutation probability of each parameter. Default: 1/d, for d parameters"
    )
    crossover: float = Field(default=0.9, ge=0, le=1, description="probability of a crossover")
    swapping: float = Field(default=0.5, ge=0, le=1, description="probability of taking the second parent's value")


class Nsga2(_Nsga):
    """NSGA-II (Deb et al. 2002) by Optuna."""

    name: Literal["optuna-nsga2"]


class Nsga3(_Nsga):
    """NSGA-III (Deb and Jain 2014) by Optuna."""

    name: Literal["optuna-nsga3"]
    divisions: int = Field(default=3, ge=1, description="divisions of each axis for the reference points")


class Gp(_Strict):
    """Gaussian process by Optuna; its time grows with the cube of the number of trials that it uses."""

    name: Literal["optuna-gp"]
    startup: int = Field(default=10, ge=1, description="random trials before the model is used")
    memory: int = Field(
        default=200, ge=10, description="number of trials that it uses: half of them the best, half the newest"
    )
    deterministic: bool = Field(default=False, description="assume that equal configurations have equal objectives")


class FidelityGp(_Strict):
    """Gaussian process over hyperparameters and fidelity, whose data include the curves of pruned trials.

    Of one objective. (Kandasamy et al. 2017)
    """

    name: Literal["fidelity-gp"]
    startup: int = Field(default=10, ge=2, description="random trials before the model is used")
    memory: int = Field(
        default=100, ge=10, description="number of trials that it uses: half of them the best, half the newest"
    )


class Qmc(_Strict):
    """Quasi-random points by Optuna and SciPy; trial n evaluates point n."""

    name: Literal["optuna-qmc"]
    sequence: Literal["sobol", "halton"] = Field(default="sobol", description="the sequence of points")
    scramble: bool = Field(default=True, description="scramble the sequence, by the seed")


class Random(_Strict):
    """Random search: independent uniform samples."""

    name: Literal["random"]


class Grid(_Strict):
    """Each point of a grid once, shuffled by the seed; trial n evaluates point n."""

    name: Literal["grid"]
    points: int | dict[str, int] = Field(
        default=5, description="points per range: one number, or one per parameter name; choices are all used"
    )


class Pbt(_Strict):
    """Population-based training (Jaderberg et al. 2017), asynchronous: hyperparameters evolve while trials train.

    Trials pause at intervals; one that lags behind goes on from the state of a better one, with some hyperparameters
    changed. A trial's result is then a schedule, which `atoll export` writes and `atoll train` repeats.
    """

    name: Literal["pbt"]
    population: int | None = Field(
        default=None,
        ge=2,
        description="members in training at once. Default: all trials, at most 32, or 16",
    )
    every: Interval | None = Field(
        default=None,
        description="interval at which members are compared, in epochs or steps. Default: a tenth of a training",
    )
    quantile: float = Field(
        default=0.25,
        gt=0,
        le=0.5,
        description="share of the members at a rung that lag behind, and share of them whose state is taken",
    )
    factor: float = Field(
        default=1.2, gt=1, description="by which a number is multiplied or divided; choices move to a neighbor"
    )
    resample: float = Field(
        default=0.1, ge=0, le=1, description="probability that a hyperparameter is drawn anew from its range instead"
    )

    @field_validator("every")
    @classmethod
    def _in_epochs_or_steps(cls, every: Every | None) -> Every | None:
        if every is not None and every.unit == "seconds":
            raise ValueError(f"pbt compares members after the same number of epochs or steps; got every: {every}")
        return every


class OwnSampler(_Strict):
    """A sampler of your own: a subclass of atoll.Sampler."""

    name: str = Field(description="file.py:Class, or an entry point of the group atoll.samplers")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="the class's options, which may as well stand next to `name`"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_options(cls, content: object) -> object:
        return own_options(content, "name")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        return own_name("sampler", name, NAMES, info.context)


def own_options(content: object, *keys: str) -> object:
    """A mapping with its further keys moved into `options`. Raises ValueError for an option that is given twice."""
    if not isinstance(content, dict):
        return content
    options = content.get("options") or {}
    further = {key: value for key, value in content.items() if key not in (*keys, "options")}
    if not further or not isinstance(options, dict):
        return content
    if twice := sorted(further.keys() & options.keys()):
        raise ValueError(f"options must be given once; {', '.join(twice)} is in `options` and next to it")
    return {key: value for key, value in content.items() if key in keys} | {"options": options | further}


def own_name(kind: registry.OwnKind, name: str, known: Sequence[str], context: Mapping[str, Any] | None) -> str:
    """The name of an own class with an absolute path; the context has the study file's folder.

    Raises:
        UnknownName: if it cannot be one, or the context says that code must be inside its folder, and it is not.
    """
    folder = Path((context or {}).get("folder", "."))
    name = registry.absolute(name, folder)
    if (context or {}).get("inside"):
        registry.check_inside(name, folder)
    registry.check_own_class(kind, name, known)
    return name


def _is_built_in(sampler: object) -> str:
    """own for a sampler of the user's, or one whose name nobody knows; else built-in."""
    name = sampler.get("name") if isinstance(sampler, dict) else getattr(sampler, "name", None)
    return "own" if isinstance(name, str) and name not in NAMES else "built-in"


Member = Annotated[
    Annotated[
        Annotated[
            Evolution | Genetic | Tpe | CmaEs | Nsga2 | Nsga3 | Gp | FidelityGp | Qmc | Random,
            Field(discriminator="name"),
        ],
        Tag("built-in"),
    ]
    | Annotated[OwnSampler, Tag("own")],
    Discriminator(_is_built_in),
]


class Mixed(_Strict):
    """Several samplers that take turns by trial number and learn from one another's trials."""

    name: Literal["mixed"] = "mixed"
    samplers: list[Member] = Field(
        default=[Gp(name="optuna-gp"), Evolution()],
        min_length=2,
        description="the samplers, in turn; may repeat. Default: optuna-gp and evolution",
    )
    population: int | None = Field(
        default=None, ge=2, description="population of the members without their own. Default: the members' default"
    )

    @model_validator(mode="after")
    def _one_population(self) -> Mixed:
        for member in self.samplers:
            if isinstance(member, Evolution | Genetic) and member.population is not None:
                raise ValueError(
                    f"{member.name} uses the island's population: set population next to samplers, not inside them"
                )
        return self


BuiltIn = Evolution | Genetic | Tpe | CmaEs | Nsga2 | Nsga3 | Gp | FidelityGp | Qmc | Random | Grid | Mixed | Pbt
NAMES = tuple(get_args(sampler.model_fields["name"].annotation)[0] for sampler in get_args(BuiltIn))
Sampler = Annotated[
    Annotated[Annotated[BuiltIn, Field(discriminator="name")], Tag("built-in")] | Annotated[OwnSampler, Tag("own")],
    Discriminator(_is_built_in),
]
_ONE_OBJECTIVE = ("optuna-cmaes", "optuna-gp", "fidelity-gp", "pbt")
SEVERAL_OBJECTIVES = tuple(name for name in NAMES if name not in _ONE_OBJECTIVE)


def default_sampler(num_objectives: int) -> Sampler:
    """The best one in docs/results/search_quality_held_out.md; a Gaussian process supports one objective only."""
    return Evolution() if num_objectives > 1 else Mixed()


def is_default(settings: BaseModel) -> bool:
    """Whether a file leaves the sampler, or the members of a mixed one, to the default; that of versions differs."""
    sampler = getattr(settings, "sampler", None)
    return "sampler" not in settings.model_fields_set or (
        isinstance(sampler, Mixed) and "samplers" not in sampler.model_fields_set
    )


def with_name(sampler: object) -> object:
    """Name a sampler without a name `evolution`. Raises ValueError for a bare name, or options of `propulate`."""
    if isinstance(sampler, str):
        example = sampler if sampler in NAMES or registry.is_own_class("sampler", sampler) else "random"
        raise ValueError(
            f"must be a mapping such as {{name: {example}}}; the names are {', '.join(NAMES)}, and file.py:Class for "
            f"one of your own; got {sampler[:100]!r}"
        )
    if not isinstance(sampler, dict):
        return sampler
    foreign = sorted((sampler.keys() & Genetic.model_fields.keys()) - Evolution.model_fields.keys())
    if "name" not in sampler and foreign:
        raise ValueError(
            f"a sampler without a name is evolution, which has no {', '.join(foreign)}; for Propulate's operators, add "
            "name: propulate"
        )
    named = {"name": "evolution", **sampler}
    inner = named.get("samplers")
    return named | {"samplers": [with_name(member) for member in inner]} if isinstance(inner, list) else named


def members(sampler: Sampler) -> Sequence[Sampler]:
    """The members of a mixed sampler, or the sampler itself."""
    return sampler.samplers if isinstance(sampler, Mixed) else [sampler]


def breeds(sampler: Sampler) -> bool:
    """Whether a sampler, or a member of it, breeds from the island's breeding population."""
    return any(isinstance(member, Evolution | Genetic) for member in members(sampler))


def takes_one_objective(sampler: Sampler) -> str | None:
    """The name of the sampler or member that supports one objective only; None if all support several."""
    return next((member.name for member in members(sampler) if member.name in _ONE_OBJECTIVE), None)
