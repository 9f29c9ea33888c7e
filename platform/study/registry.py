"""Resolves names of methods, workloads and search spaces: registered, an entry point, or `file.py:Class`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from atoll.methods import METHODS
from atoll.platform.workloads import WORKLOADS
from atoll.searchspaces import location as space_location

if TYPE_CHECKING:
    from atoll.methods.method import Method
    from atoll.platform.workloads.workload import Workload
    from atoll.searchspaces.space import SearchSpace

_LOADING = threading.RLock()


class UnknownName(ValueError):
    """An unknown name; the message lists the valid choices."""


def absolute(name: str, folder: Path) -> str:
    """`file.py:Class` with an absolute path, resolved from `folder`; any other name unchanged."""
    file, separator, attribute = name.rpartition(":")
    if not separator or not file.endswith(".py"):
        return name
    return f"{(folder / Path(file).expanduser()).resolve()}:{attribute}"


def check_inside(name: str, folder: Path) -> None:
    """Raise UnknownName if `name` refers to a file outside `folder`: a study from elsewhere must not run any file."""
    file, separator, _ = name.rpartition(":")
    if separator and file.endswith(".py") and not Path(file).resolve().is_relative_to(folder.resolve()):
        raise UnknownName(
            f"code must be in the file's folder {folder.resolve()}; got {name!r}, which is outside: move it there, or "
            "use --outside if you trust it"
        )


def check_method(name: str) -> None:
    """Raise UnknownName unless `name` can refer to a method."""
    _locate(name, "method", METHODS)


def check_workload(name: str) -> None:
    """Raise UnknownName unless `name` can refer to a workload."""
    _locate(name, "workload", WORKLOADS)


def method(name: str) -> type[Method[Any]]:
    """A method's class."""
    from atoll.methods.method import Method

    method_class: type[Method[Any]] = _checked(name, _load(_locate(name, "method", METHODS)), Method)
    return method_class


def workload(name: str, hyperparameters: Any = None) -> Workload:
    """A workload, with the given hyperparameters. Default: the workload's defaults."""
    from atoll.platform.workloads.workload import Workload

    workload_class: type[Workload] = _checked(name, _load(_locate(name, "workload", WORKLOADS)), Workload)
    return workload_class() if hyperparameters is None else workload_class(hyperparameters)


def search_space(method_name: str) -> SearchSpace:
    """A method's search space: the registered one, its class attribute `search_space`, or an empty one."""
    from atoll.searchspaces.space import SearchSpace

    if method_name in METHODS:
        space: SearchSpace = _load(space_location(method_name))
        return space
    return getattr(method(method_name), "search_space", SearchSpace(()))


def whole_space(method_name: str, workload_name: str | None = None) -> SearchSpace:
    """A method's full search space: its own over the workload's over the optimizer settings'."""
    from atoll.searchspaces.optimizer import SPACE
    from atoll.searchspaces.space import SearchSpace

    of_workload = SearchSpace(()) if workload_name is None else workload(workload_name).search_space
    return search_space(method_name).overlay(of_workload).overlay(SPACE)


def names(kind: str) -> list[str]:
    """The registered names of a kind, `method` or `workload`, including entry points."""
    registered = METHODS if kind == "method" else WORKLOADS
    return sorted({*registered, *_entry_points(kind)})


@cache
def _entry_points(kind: str) -> dict[str, str]:
    """Names that installed packages register for a kind; cached, because every trial asks."""
    return {point.name: point.value for point in entry_points(group=f"atoll.{kind}s")}


def _locate(name: str, kind: str, registered: Mapping[str, str]) -> str:
    if name in registered:
        return registered[name]
    if name in (installed := _entry_points(kind)):
        return installed[name]
    file, _, attribute = name.rpartition(":")
    if file.endswith(".py") and attribute:
        if not Path(file).is_file():
            raise UnknownName(f"{kind} {name!r}: the file {file} does not exist")
        return name
    raise UnknownName(
        f"{kind} must be one of {', '.join(names(kind))}, file.py:Class, or an entry point of the group "
        f"atoll.{kind}s; got {name!r}"
    )


def _load(location: str) -> Any:
    module_name, _, attribute = location.rpartition(":")
    module = _load_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    if not hasattr(module, attribute):
        raise UnknownName(f"{module_name} has no {attribute!r}")
    return getattr(module, attribute)


@cache
def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    name = f"_atoll_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    with _LOADING:  # another rank's thread would see half a module
        # The file may import its neighbors, also later; but none may hide one of Python's modules, such as platform.
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]  # the next caller must get the same error, not half a module
                raise
        return sys.modules[name]


def _checked(name: str, loaded: Any, base: type) -> Any:
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise UnknownName(f"{name!r} must be a subclass of {base.__module__}.{base.__name__}; it is {loaded!r}")
    missing = sorted(getattr(loaded, "__abstractmethods__", ()))
    if missing:
        raise UnknownName(f"{name!r} must define {', '.join(missing)}, like every {base.__name__.lower()}")
    return loaded
