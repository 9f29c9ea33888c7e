"""In what a proposal of now differs from a recorded one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.platform.search.propagators.attributes import known_attributes
from atoll.platform.search.proposals import Candidate
from atoll.platform.study.cells import same

TOLERANCE = 1e-6  # the last digits of a maximum, as a Gaussian process proposes, differ between processes: by 1e-13


@dataclass(frozen=True)
class Difference:
    """A part of a decision, such as a hyperparameter, as it was decided then and now."""

    name: str
    then: Any
    now: Any


def of_proposals(
    hyperparameters: Mapping[str, Any], proposal: Mapping[str, Any], candidate: Candidate
) -> list[Difference]:
    """The differences of a candidate to a recorded one: hyperparameters, genes, operator, parents, attributes.

    Args:
        hyperparameters, proposal: as a journal has them.
        candidate: the present one.
    """
    now = json.loads(json.dumps(candidate.as_dict()))
    found = list(_between(hyperparameters, candidate.hyperparameters, "{}"))
    if not found:  # a gene may differ where its value is rounded
        found += _between(proposal.get("genes") or {}, now["genes"], "gene of {}")
    for name in ("operator", "parents"):
        then = proposal.get(name) or type(now[name])()
        if not _are_same(then, now[name]):
            found.append(Difference(name, then, now[name]))
    known, _ = known_attributes(proposal.get("attributes") or {})
    return found + list(_between(known, known_attributes(now["attributes"])[0], "{}"))


def _between(then: Mapping[str, Any], now: Mapping[str, Any], title: str) -> Iterator[Difference]:
    for name in {**then, **now}:
        if not _are_same(then.get(name), now.get(name)):
            yield Difference(title.format(name), then.get(name), now.get(name))


def _are_same(then: Any, now: Any) -> bool:
    """Equal up to the rounding of numbers, also within lists and mappings, and within such as JSON."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return then.keys() == now.keys() and all(_are_same(then[name], now[name]) for name in then)
    if isinstance(then, Sequence) and isinstance(now, Sequence) and not isinstance(then, str):
        return len(then) == len(now) and all(map(_are_same, then, now))
    if isinstance(then, str) and isinstance(now, str) and then != now:  # some of Optuna's attributes are JSON
        read = _as_mapping(then), _as_mapping(now)
        return None not in read and _are_same(*read)
    if isinstance(then, float) and isinstance(now, float):
        return math.isclose(then, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return same(then, now)


def _as_mapping(text: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
