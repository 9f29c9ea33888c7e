"""Changes of a study that has begun: which settings may change, and how one is written.

A change names settings of the study file: a whole one (`trials`, `sampler`), one of its parts (`topology.islands`,
`space.momentum`), or an end of a range (`space.learning_rate.high`). What a change means is a list of `Setting`s, each
with the value before and after, so that changes can be told, and applied to a definition one after another.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution

from atoll.platform.study.parameters import as_space
from atoll.platform.study.samplers import NAMES
from atoll.platform.study.study import BUDGETS
from atoll.searchspaces.parameter import Parameter
from atoll.searchspaces.space import SearchSpace

Definition = dict[str, Any]

MAY_CHANGE = (
    *BUDGETS, "space", "constraints", "sampler", "pruning", "stop", "migration", "topology.islands", "topology.workers",
)  # fmt: skip
# Those after which proposals of before are in another space, or another sampler's.
BREEDS = ("space", "constraints", "sampler", "topology.islands")
_OF_TOPOLOGY = ("islands", "workers", "world")
_NAMED = {"sampler": "name", "pruning": "rule"}  # a text in place of a mapping is this
_PARTS = ("low", "high", "log", "step", "choices", "choices+", "choices-", "prior", "only_if")

_COMPARES = "results of before and after would not compare: start another study, which may learn from this one"
_REASONS = {
    "method": _COMPARES,
    "workload": _COMPARES,
    "objective": _COMPARES,
    "objectives": _COMPARES,
    "direction": _COMPARES,
    "target": _COMPARES,
    "seed": _COMPARES,
    "data": _COMPARES,
    "objective_from": _COMPARES,
    "patience": _COMPARES,
    "topology.ranks": "a trial of another number of ranks is another training",
    "topology.ranks_per_node": "a trial on other nodes is another training",
    "epochs": "a larger length takes effect by `atoll search --resume`, which continues finished trials",
    "steps": "a larger length takes effect by `atoll search --resume`, which continues finished trials",
    "name": "`atoll delete` and the dashboard know the study by it; the dashboard renames",
    "confirm": "a confirmation trains what it was given",
}


@dataclass(frozen=True)
class Setting:
    """One changed setting.

    Attributes:
        setting: its name, such as trials, topology.islands or space.momentum.
        before, after: its values, as in a study's definition; None if it is absent.
        said: the change in words.
    """

    setting: str
    before: Any
    after: Any
    said: str

    @property
    def breeds(self) -> bool:
        """Whether proposals of before are in another space, or another sampler's."""
        return is_of(self.setting, BREEDS)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def is_of(setting: str, names: Sequence[str]) -> bool:
    """Whether a setting is one of these, or a part of one."""
    return any(setting == name or setting.startswith(f"{name}.") for name in names)


def refusal(name: str) -> str:
    """Why a setting cannot change."""
    reason = _REASONS.get(name) or _REASONS.get(f"topology.{name}")
    because = "" if reason is None else f", as {reason}" if reason != _COMPARES else f": {reason}"
    return f"{name} cannot change in a study that has begun{because}. What can change: {', '.join(MAY_CHANGE)}"


# Definitions.


def value_of(definition: Mapping[str, Any], setting: str) -> Any:
    """A setting's value; None if it is absent."""
    key, _, part = setting.partition(".")
    value = definition.get(key)
    return (value or {}).get(part) if part else value


def with_value(definition: Definition, setting: str, value: Any) -> Definition:
    """The definition with another value of a setting."""
    changed = copy.deepcopy(definition)
    key, _, part = setting.partition(".")
    if part:
        changed[key] = {**(changed.get(key) or {}), part: value}
    else:
        changed[key] = value
    return changed


def applied(definition: Definition, settings: Iterable[Setting]) -> Definition:
    """The definition after a change."""
    for one in settings:
        definition = with_value(definition, one.setting, copy.deepcopy(one.after))
    return definition


def differences(before: Mapping[str, Any], after: Mapping[str, Any], spaces: Sequence[SearchSpace]) -> list[Setting]:
    """The settings that differ.

    Args:
        before, after: two definitions of a study.
        spaces: their resolved spaces, for the words.
    """
    names = [name for name in MAY_CHANGE if "." not in name and name != "space"]
    names += [f"topology.{part}" for part in _OF_TOPOLOGY]
    names += [f"space.{name}" for name in dict.fromkeys((*before["space"], *after["space"]))]
    pairs = ((name, value_of(before, name), value_of(after, name)) for name in names)
    return [Setting(name, old, new, _said(name, old, new, spaces)) for name, old, new in pairs if old != new]


def _said(name: str, before: Any, after: Any, spaces: Sequence[SearchSpace]) -> str:
    if name.startswith("space."):
        name = name.removeprefix("space.")
        before, after = (domain(space, name) for space in spaces)
    return f"{name}: {words(before)} → {words(after)}"


def domain(space: SearchSpace, name: str) -> str:
    """What a space says of a hyperparameter, in words."""
    for parameter in space.parameters:
        if parameter.name == name:
            prior = "" if parameter.prior is None else f", prior {parameter.prior.mode} ± {parameter.prior.sigma:g}"
            return parameter.domain() + prior
    fixed = dict(space.fixed)
    return f"fixed to {fixed[name]}" if name in fixed else "not searched"


def words(value: Any) -> str:
    """A setting's value in words."""
    if isinstance(value, dict):
        value = {name: one for name, one in value.items() if one is not None}
        name = next((str(value.pop(key)) for key in ("name", "rule") if key in value), "")
        options = ", ".join(f"{key} {words(one)}" for key, one in value.items() if one not in ([], {}))
        return f"{name} ({options})" if name and options else name or options or "default"
    if isinstance(value, list):
        return ", ".join(map(words, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


# What is asked for.


def changed(definition: Definition, wanted: Mapping[str, Any], space: SearchSpace) -> Definition:
    """The definition of a study with what a user asks for; to be validated as a study.

    Args:
        definition: the study's, with all defaults.
        wanted: values by the names of settings. A budget may be a text such as "+50"; `space` is a mapping of
            hyperparameters, or of parts of their ranges (`learning_rate.high`, `activation.choices+`), to values.
        space: the study's resolved space.

    Raises:
        ValueError: for a setting that cannot change, or that is unknown.
    """
    for name, value in _flat(wanted):
        if name in BUDGETS:
            definition = with_value(definition, name, _budget(name, definition.get(name), value))
        elif name == "space":
            definition = _with_space(definition, as_space(value), space)
        elif name in _NAMED:
            definition = with_value(definition, name, _named(name, value))
        elif name in ("migration", "stop") and isinstance(value, Mapping):
            definition = with_value(definition, name, {**(definition.get(name) or {}), **value})
        elif name in ("constraints", "stop"):
            definition = with_value(definition, name, value)
        elif name in ("topology.islands", "topology.workers"):
            if name == "topology.workers":  # instead of the total number
                definition = with_value(definition, "topology.world", None)
            definition = with_value(definition, name, value)
        else:
            raise ValueError(refusal(name))
    return definition


def _flat(wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings one by one; parts of `topology` and `space` by the names that have a dot as well."""
    for name, value in wanted.items():
        if name in ("islands", "workers", "ranks", "ranks_per_node", "world", "device", "threads"):
            yield f"topology.{name}", value
        elif name == "topology" and isinstance(value, Mapping):
            yield from ((f"topology.{part}", one) for part, one in value.items())
        elif name.startswith("space."):
            yield "space", {name.removeprefix("space."): value}
        elif name == "space" and not isinstance(value, Mapping):
            raise ValueError(f"space must be a mapping of hyperparameters to ranges or values; got {value!r}")
        else:
            yield name, value


def _budget(name: str, before: Any, value: Any) -> Any:
    """A budget, or how much more there is to be, as "+50"."""
    number, is_more = value, isinstance(value, str) and value.startswith("+")
    if isinstance(value, str):
        try:
            number = (int if name == "trials" else float)(value)
        except ValueError:
            raise ValueError(f"{name} must be a number, or one more, such as +50; got {value!r}") from None
    if number is None or (before is not None and not is_more and number < before):
        raise ValueError(
            f"{name} may only increase: it is {words(before)}; got {words(number)}. `atoll stop` ends a search"
        )
    if is_more and before is None:
        raise ValueError(f"{name} is not limited, so it cannot be {value} more")
    return before + number if is_more else number


def _named(name: str, value: Any) -> Any:
    """A sampler or pruning rule with its name in place of the mapping."""
    if isinstance(value, list):
        return [_named(name, one) for one in value]
    return {_NAMED[name]: value} if isinstance(value, str) else value


def _with_space(definition: Definition, entries: Mapping[str, Any], space: SearchSpace) -> Definition:
    searched = {parameter.name: parameter for parameter in space.parameters}
    for key, value in entries.items():
        name, _, part = key.rpartition(".")
        known = {*searched, *dict(space.fixed), *definition["space"]}
        if not name or part not in _PARTS or (key in known and name not in known):
            entry = value
            name = key
        else:
            entry = _with_part(definition["space"].get(name), searched.get(name), name, part, value, searched)
        if value is None and name in searched and part not in _PARTS:
            raise ValueError(
                f"{name} is searched and cannot be left out, as earlier trials have it: fix it, such as {name}=VALUE"
            )
        definition = with_value(definition, f"space.{name}", entry)
    return definition


def _with_part(
    before: Any, parameter: Parameter | None, name: str, part: str, value: Any, searched: Iterable[str]
) -> dict[str, Any]:
    """A range with another end, or choices with more or fewer."""
    if parameter is None:
        raise ValueError(
            f"space.{name}.{part}: {name} is not searched, so it needs a whole range, such as "
            f"{name}={{low: 0.0, high: 1.0}}; those searched are {', '.join(searched)}"
        )
    entry = entry_of(parameter, before)
    listed = value if isinstance(value, list) else [value]
    if part in ("choices+", "choices-", "choices") and "choices" not in entry:
        raise ValueError(f"{name} has a range, {parameter.domain()}: change low or high; got {part}")
    if part == "choices+":
        entry["choices"] = entry["choices"] + [one for one in listed if one not in entry["choices"]]
    elif part == "choices-":
        if absent := [one for one in listed if one not in entry["choices"]]:
            raise ValueError(f"{name} has the choices {words(entry['choices'])}; got {words(absent)}")
        entry["choices"] = [one for one in entry["choices"] if one not in listed]
    elif part in ("low", "high", "log", "step") and "choices" in entry:
        raise ValueError(f"{name} has choices, {parameter.domain()}: change choices; got {part}")
    else:
        entry[part] = listed if part == "choices" else value
    return entry


def entry_of(parameter: Parameter, before: Any = None) -> dict[str, Any]:
    """What a study file would say of a searched parameter.

    Args:
        parameter: the parameter.
        before: what the study says of it, whose prior and condition stay.
    """
    d = parameter.distribution
    if isinstance(d, CategoricalDistribution):
        entry: dict[str, Any] = {"type": "choices", "choices": list(d.choices)}
    else:
        kind = type(d).__name__.removesuffix("Distribution").lower()
        entry = {"type": kind, "low": d.low, "high": d.high, "log": d.log, "step": d.step}
    kept = before if isinstance(before, Mapping) else {}
    return entry | {name: kept[name] for name in ("prior", "only_if") if kept.get(name) is not None}


def sampler_names() -> str:
    """The names of samplers, for the help."""
    return ", ".join(NAMES)
