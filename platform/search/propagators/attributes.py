"""The attributes of samplers in a journal: known names with known types, and nothing else, reach a sampler.

A journal may be somebody else's. Optuna trusts the attributes of its trials: it would even unpickle those named
`cma:optimizer:0`, which version 0.1.0 wrote, and a pickle can run any code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

# What version 0.1.0 kept of CMA-ES. It is never read: the optimizer is rebuilt from the trials of its generations.
PICKLED = re.compile(r"(cma|cmawm|sepcma):optimizer(:\d+)?")

# The numbers of a CMA-ES optimizer: each has one per dimension, except for the covariance, which may be a triangle.
STATE_LISTS = ("mean", "covariance", "path_sigma", "path_c")
STATE_FIELDS = {"generation", "sigma", *STATE_LISTS}


def known_attributes(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The attributes that a sampler of this version may read, and the names of the others.

    Args:
        attributes: a proposal's attributes, as a journal has them.
    """
    kept = {name: value for name, value in attributes.items() if _is_known(name, value)}
    if "x_for_tell" not in kept:  # CMA-ES with margin needs it of each trial of a generation
        kept.pop("cmawm:generation", None)
    for prefix in ("tpe", "gp"):
        chunks = [name for name in kept if name.startswith(f"{prefix}:relative_params:")]
        if chunks and not _are_parameters("".join(kept[name] for name in sorted(chunks, key=_place))):
            kept = {name: value for name, value in kept.items() if name not in chunks}
    return kept, [name for name in attributes if name not in kept]


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    """Whether a value is an integer from 0 on, of a size that a counter may have."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def is_trial(value: object) -> bool:
    """Whether a value is a trial's number, or that of a result from elsewhere, which is negative."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**53) < value < 2**53


def _are_shares(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) and _is_share(v) for name, v in value.items())


def _is_share(value: Any) -> bool:
    return is_number(value) and bool(0 <= value <= 1)


def _is_known(name: str, value: object) -> bool:
    return any(pattern.fullmatch(name) and check(value) for pattern, check in _KNOWN)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_number, value))


def _are_trials(value: object) -> bool:
    return isinstance(value, list) and all(map(is_trial, value))


def _is_state(value: object) -> bool:
    """Whether a value has the numbers of a CMA-ES optimizer, in the right quantities."""
    if not isinstance(value, dict) or set(value) != STATE_FIELDS:
        return False
    if not all(_are_numbers(value[name]) for name in STATE_LISTS):
        return False
    dimensions = len(value["mean"])
    return (
        is_count(value["generation"])
        and is_number(value["sigma"])
        and value["sigma"] > 0
        and len(value["path_sigma"]) == len(value["path_c"]) == dimensions
        and len(value["covariance"]) in (dimensions, dimensions * (dimensions + 1) // 2)
    )


def _place(name: str) -> int:
    return int(name.rpartition(":")[2])


def _are_parameters(text: str) -> bool:
    """Whether a text is a JSON object of numbers, as Optuna writes the parameters of a running trial."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and all(map(is_number, content.values()))


_KNOWN: tuple[tuple[re.Pattern[str], Callable[[object], bool]], ...] = (
    (re.compile(r"(cma|cmawm|sepcma|NSGAIISampler|NSGAIIISampler):generation"), is_count),
    (re.compile(r"(cma|cmawm|sepcma):state"), _is_state),
    (re.compile("x_for_tell"), _are_numbers),
    (re.compile(r"study:(NSGAIISampler|NSGAIIISampler):parent:\d{1,9}"), _are_trials),
    (re.compile("evolution:scale"), lambda value: _is_share(value) and value != 0),
    (re.compile("evolution:rate"), _is_share),
    (re.compile("pbt:reached"), is_number),
    (re.compile("related:weights"), _are_shares),
    (re.compile(r"(tpe|gp):relative_params:\d{1,9}"), lambda value: isinstance(value, str)),
)
