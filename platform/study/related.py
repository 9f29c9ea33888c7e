"""Results of other problems, such as another method or workload, over the hyperparameters that this study searches too.

Their objectives have a scale of their own, so samplers are not told them. What they say is how configurations rank. A
number outside of this study's range keeps its place on the range's scale, as it is a result of the other problem, not
of this study: nothing is clipped.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution

from atoll.platform.study.cells import LeftOut, Source, as_number, is_missing, readings, reasons, same
from atoll.platform.study.learn_from import LearnFrom
from atoll.platform.study.plan import Plan
from atoll.searchspaces.optimizer import acts
from atoll.searchspaces.space import Parameter, SearchSpace, Value

FEWEST = 5  # trials of a source
MOST = 200  # the best half and others at random: the time of a model grows with the third power

Trial = tuple[dict[str, Value], float]  # values by name, and the loss


@dataclass(frozen=True)
class Related:
    """The trials of a source.

    Attributes:
        title: the source.
        names: of the shared hyperparameters, in the order of the study's space.
        trials: the values of the shared ones that are active, and the loss, to be minimized, on the source's scale.
    """

    title: str
    names: tuple[str, ...]
    trials: tuple[Trial, ...]

    def places(self, space: SearchSpace) -> list[list[float]]:
        """Each trial's genes of the shared hyperparameters, which may be below 0 or above 1.

        An inactive one has its default's, as in `SearchSpace.encode`.
        """
        shared = [parameter for parameter in space.parameters if parameter.name in self.names]
        inactive = space.inactive_genes()
        fixed = dict(space.fixed)
        return [
            [
                p.place(values[p.name], p.ceiling(fixed | values)) if p.name in values else inactive[p.name]
                for p in shared
            ]
            for values, _ in self.trials
        ]

    def within(self, space: SearchSpace) -> Related | None:
        """What a space that has changed since still has of it; None if that is not enough to learn from."""
        known = {p.name: p for p in space.parameters if p.name in self.names}

        def fits(values: Mapping[str, Value]) -> bool:
            choices = ((known[name], value) for name, value in values.items() if name in known)
            return all(p.contains(v) or not isinstance(p.distribution, CategoricalDistribution) for p, v in choices)

        kept = ({n: v for n, v in values.items() if n in known} for values, _ in self.trials)
        trials = tuple((values, loss) for values, (_, loss) in zip(kept, self.trials, strict=True) if fits(values))
        names = tuple(name for name in self.names if name in known)
        return Related(self.title, names, trials) if names and len(trials) >= FEWEST else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the study's file."""
        return {"title": self.title, "names": list(self.names), "trials": [list(trial) for trial in self.trials]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Related:
        """The trials that `as_dict` described."""
        trials = tuple((dict(values), float(loss)) for values, loss in content["trials"])
        return cls(content["title"], tuple(content["names"]), trials)


def read(plan: Plan, source: LearnFrom, found: Source) -> tuple[Related, str]:
    """The trials of a related source, and a sentence on it.

    Raises:
        ValueError: if it shares no hyperparameter that both searched, or too few rows fit.
    """
    given = [
        source.fixed | {name: cell for name, cell in row.hyperparameters.items() if not is_missing(cell)}
        for row in found.rows
    ]
    shared = _shared(plan.space, [one for row, one in zip(found.rows, given, strict=True) if row.state == "complete"])
    if not shared:
        raise ValueError(
            f"learn_from {source.title}: a related source must have searched a hyperparameter that this study "
            f"searches, {', '.join(p.name for p in plan.space.parameters)}; its complete trials differ in none of them"
        )
    trials, left_out = _fitted(plan, found, given, shared)
    names = tuple(parameter.name for parameter in shared)
    said = f"learn_from {source.title}: related, {found.related_by}: {len(trials)} of {len(found.rows)} rows, over "
    said += ", ".join(names) + (f"; {reasons(left_out)}" if left_out else "")
    if min(len(trials), source.best or FEWEST) < FEWEST:
        raise ValueError(f"{said}: a related source needs {FEWEST} rows, or more")
    kept, also = _limited(trials, source.best, plan.study.seed)
    said += f"{also}; it suggests configurations, as far as it ranks this study's trials well"
    return Related(source.title, names, tuple(kept)), said


def _fitted(
    plan: Plan, found: Source, given: Sequence[Mapping[str, Any]], shared: Sequence[Parameter]
) -> tuple[list[Trial], Counter[str]]:
    """The rows' shared values and losses, and the number of the other rows by reason."""
    (objective,) = plan.objectives
    sign = -1.0 if found.directions[objective.name] == "maximize" else 1.0
    searched = {parameter.name for parameter in plan.space.parameters}
    trials, left_out = [], Counter[str]()
    for row, values in zip(found.rows, given, strict=True):
        if row.state != "complete":
            left_out[row.state] += 1
            continue
        try:
            value = as_number(row.measured.get(objective.name))
            if value is None or not math.isfinite(value):
                raise LeftOut("without objective")
            _check_fixed(found.others, values, searched)
            trials.append((_values(plan.space, shared, values), sign * value))
        except LeftOut as reason:
            left_out[str(reason)] += 1
    return trials, left_out


def _shared(space: SearchSpace, rows: Iterable[Mapping[str, Any]]) -> list[Parameter]:
    """The parameters in which rows differ, and whose ceilings and conditions are known of rows, too."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for name, cell in row.items():
            values.setdefault(name, set()).add(str(cell))
    shared: list[Parameter] = []
    known = {name for name, _ in space.fixed}
    for p in space.parameters:
        needed = {p.at_most} if p.at_most else set()
        needed |= {p.only_if[0]} if p.only_if else set()
        if needed <= known and len(values.get(p.name, ())) > 1:
            shared.append(p)
            known.add(p.name)
    return shared


def _check_fixed(others: Mapping[str, Any], row: Mapping[str, Any], searched: set[str]) -> None:
    """Raise LeftOut if a row has another choice than this study where this one searches nothing.

    Other numbers are kept: they are noise to a ranking. Another choice, such as of the optimizer, may give all other
    hyperparameters another meaning.
    """
    for name, value in others.items():
        if name in searched or name not in row or not acts(name, {**others, **row}):
            continue
        if not isinstance(value, str | bool) or any(same(value, candidate) for candidate in readings(row[name])):
            continue
        raise LeftOut(f"{name} other than {value}")


def _values(space: SearchSpace, shared: Sequence[Parameter], row: Mapping[str, Any]) -> dict[str, Value]:
    """A row's values of the shared parameters. Raises LeftOut if one is missing, or has no place on its scale."""
    values: dict[str, Value] = {}
    fixed = dict(space.fixed)
    for p in shared:
        if not p.is_active(fixed | values):
            continue
        if p.name not in row:
            raise LeftOut(f"without {p.name}")
        values[p.name] = _value(p, row[p.name])
    return values


def _value(parameter: Parameter, cell: Any) -> Value:
    is_choice = isinstance(parameter.distribution, CategoricalDistribution)
    for candidate in readings(cell):
        is_number = isinstance(candidate, int | float) and not isinstance(candidate, bool)
        if not is_choice and (not is_number or not math.isfinite(candidate)):
            continue
        try:
            place = parameter.place(candidate)
        except ValueError:
            continue
        return parameter.decode(int(place)) if is_choice else candidate
    where = f"outside {parameter.domain()}" if is_choice else "without a place on its scale"
    raise LeftOut(f"{parameter.name} {where}")


def _limited(trials: list[Trial], best: int | None, seed: int) -> tuple[list[Trial], str]:
    """The trials that are modeled, and what to say if these are not all."""
    order = sorted(range(len(trials)), key=lambda place: trials[place][1])
    if best is not None and best < len(trials):
        few, said = _limited([trials[place] for place in sorted(order[:best])], None, seed)
        return few, f"; the best {best} of them{said}"
    if len(trials) <= MOST:
        return trials, ""
    others = random.Random(seed).sample(order[MOST // 2 :], MOST - MOST // 2)
    few = [trials[place] for place in sorted(order[: MOST // 2] + others)]
    return few, f"; {MOST} are modeled, the best half and others at random"
