"""What there is: methods, workloads and search spaces, as plain data."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from atoll.platform.study import registry


def methods() -> dict[str, str]:
    """One line for every method: its file's first."""
    return {name: _file_doc(registry.method(name)).splitlines()[0] for name in registry.names("method")}


def method(name: str) -> dict[str, Any]:
    """Source, equations and hyperparameters of one method."""
    from dataclasses import fields

    found = registry.method(name)
    rows = [{"hyperparameter": field.name, "default": field.default} for field in fields(found.Hyperparameters)]
    return {
        "name": name,
        "description": _file_doc(found),
        "about": _doc(found.Hyperparameters),
        "hyperparameters": rows,
    }


def workloads() -> dict[str, str]:
    """One line for every workload."""
    return {name: registry.workload(name).summary for name in registry.names("workload")}


def workload(name: str) -> dict[str, Any]:
    """Data, metric and target of one workload."""
    found = registry.workload(name)
    return {
        "name": name,
        "summary": found.summary,
        "description": _doc(type(found)),
        "data": _doc(type(found).load),
        "model": _doc(type(found).model),
        "metric": found.metric,
        "direction": found.direction,
        "target": found.target,
        "epochs": found.epochs,
        "source": _file_doc(type(found)),
    }


def spaces() -> dict[str, str]:
    """One line for every method: what is searched besides the optimizer's settings."""
    return {name: ", ".join(registry.search_space(name).names()) for name in registry.names("method")}


def space(name: str) -> dict[str, Any]:
    """The parameters that are searched for one method, the shared optimizer space included."""
    registry.check_method(name)
    parameters = registry.whole_space(name).parameters
    columns = ("name", "symbol", "domain", "default", "unit", "source")
    return {"method": name, "parameters": [{c: p.as_dict()[c] for c in columns} for p in parameters]}


def _doc(found: Any) -> str:
    return inspect.getdoc(found) or ""


def _file_doc(found: type) -> str:
    return inspect.cleandoc(sys.modules[found.__module__].__doc__ or _doc(found))
