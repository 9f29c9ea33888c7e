"""The catalogue of methods, workloads and search spaces, as plain data."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from atoll.platform.study import registry


def methods() -> dict[str, str]:
    """One line per method: the first of its module's docstring."""
    return {name: _file_doc(registry.method(name)).splitlines()[0] for name in registry.names("method")}


def method(name: str) -> dict[str, Any]:
    """Source, equations and hyperparameters of one method."""
    from dataclasses import fields

    method_class = registry.method(name)
    rows = [{"hyperparameter": field.name, "default": field.default} for field in fields(method_class.Hyperparameters)]
    return {
        "name": name,
        "description": _file_doc(method_class),
        "about": _doc(method_class.Hyperparameters),
        "hyperparameters": rows,
        "metrics": _better(method_class.metric_directions),
    }


def _better(directions: Mapping[str, str | None]) -> list[dict[str, str | None]]:
    return [{"metric": name, "better": direction} for name, direction in directions.items()]


def workloads() -> dict[str, str]:
    """One line per workload."""
    return {name: registry.workload(name).summary for name in registry.names("workload")}


def workload(name: str) -> dict[str, Any]:
    """Data, metric and target of one workload."""
    described = registry.workload(name)
    return {
        "name": name,
        "summary": described.summary,
        "description": _doc(type(described)),
        "data": _doc(type(described).load),
        "model": _doc(type(described).model),
        "metric": described.metric,
        "direction": described.direction,
        "further metrics": _better(dict.fromkeys(described.further_metrics) | dict(described.metric_directions)),
        "target": described.target,
        "epochs": None if described.steps else described.epochs,
        "steps": described.steps,
        "source": _file_doc(type(described)),
    }


def spaces() -> dict[str, str]:
    """One line per method: its searched parameters, without the optimizer's."""
    return {name: ", ".join(registry.search_space(name).names()) for name in registry.names("method")}


def space(name: str) -> dict[str, Any]:
    """One method's searched parameters, including the shared optimizer space, and those that are fixed by default."""
    from atoll.methods.common.optimizers import MUTABLE, OPTIMIZERS

    registry.check_method(name)
    space = registry.whole_space(name)
    columns = ("name", "symbol", "domain", "default", "unit", "source")
    mutable = {*registry.method(name).mutable, *MUTABLE}
    others = {"optimizer": ", ".join(OPTIMIZERS)}
    return {
        "method": name,
        "parameters": [{c: p.as_dict()[c] for c in columns} | {"mutable": p.name in mutable} for p in space.parameters],
        "fixed by default": [{"name": n, "value": v, "a study may name": others.get(n, "")} for n, v in space.fixed],
    }


def _doc(described: Any) -> str:
    return inspect.getdoc(described) or ""


def _file_doc(described: type) -> str:
    return inspect.cleandoc(sys.modules[described.__module__].__doc__ or _doc(described))
