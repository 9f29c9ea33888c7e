"""Resolves names of methods, workloads, search spaces and own code: registered, an entry point, or `file.py:Class`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from atoll.methods import METHODS
from atoll.methods.common.own import OF_WORKLOAD, Kind, installed, is_own
from atoll.platform.workloads import WORKLOADS
from atoll.searchspaces import location as space_location
from atoll.storage.names import FUNCTION, NOTEBOOK

if TYPE_CHECKING:
    from atoll.methods.method import Method
    from atoll.platform.workloads.workload import Workload
    from atoll.searchspaces.space import SearchSpace

_LOADING = threading.RLock()
_IMPORTING = threading.local()

# Functions that another process has sent, or that are in no file: by the names that studies give them.
_GIVEN: dict[str, Callable[..., Any]] = {}
OwnKind = Literal["sampler", "pruning_rule"]  # what a study can name of the user's, besides methods and workloads


class UnknownName(ValueError):
    """An unknown name; the message lists the valid choices."""


class UserFileError(UnknownName):
    """A file of the user's raises when it is imported; the message has the error and its place."""


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
    """Raise UnknownName unless `name` can refer to a method, or is that of studies of a function."""
    if name != FUNCTION:
        _locate(name, "method", METHODS)


def check_workload(name: str) -> None:
    """Raise UnknownName unless `name` can refer to a workload, or is a function's."""
    if name not in _GIVEN and not name.startswith(NOTEBOOK):
        _locate(name, "workload", WORKLOADS)


def loading() -> str | None:
    """The user's file that this thread is importing; None if it is not."""
    return getattr(_IMPORTING, "file", None)


def give(name: str, called: Callable[..., Any]) -> None:
    """From now on, `name` is this function in this process."""
    _GIVEN[name] = called


def is_given(name: str) -> bool:
    """Whether a function is in this process, and in no file that others could import."""
    return name in _GIVEN


def function(name: str) -> Callable[..., Any]:
    """The user's function, which a study minimizes or maximizes.

    Raises:
        UnknownName: if there is none of this name, or it cannot be called with one argument, the trial.
    """
    if name in _GIVEN:
        return _GIVEN[name]
    check_function(name)
    if name.startswith(NOTEBOOK):
        raise UnknownName(
            f"the objective {name} came from a Python process, and is in no file: continue there, with "
            "atoll.search(..., resume=True)"
        )
    found = _load(name)
    if not callable(found) or isinstance(found, type):
        raise UnknownName(f"the objective {name!r} must be a function of a trial; it is {found!r}")
    try:
        inspect.signature(found).bind(None)
    except TypeError as error:
        raise UnknownName(f"the objective {name!r} must take one argument, the trial: {error}") from None
    except ValueError:  # a builtin has no signature
        pass
    called: Callable[..., Any] = found
    return called


def check_function(name: str) -> None:
    """Raise UnknownName unless `name` can refer to a function."""
    if name in _GIVEN or name.startswith(NOTEBOOK):
        return
    file, separator, attribute = name.rpartition(":")
    if not (separator and attribute and file.endswith(".py")):
        raise UnknownName(
            f"objective must be file.py:function; got {name!r}. A function of a notebook or a Python process is "
            "searched there, with atoll.search"
        )
    if not Path(file).is_file():
        raise UnknownName(f"objective {name!r}: the file {file} does not exist")


def method(name: str) -> type[Method[Any]]:
    """A method's class."""
    from atoll.methods.method import Method

    method_class: type[Method[Any]] = _checked(name, _load(_locate(name, "method", METHODS)), Method)
    return method_class


def workload(name: str, hyperparameters: Any = None) -> Workload:
    """A workload, with the given hyperparameters. Default: the workload's defaults."""
    made = workload_class(name)
    return made() if hyperparameters is None else made(hyperparameters)


def workload_class(name: str) -> type[Workload]:
    """A workload's class."""
    from atoll.platform.workloads.workload import Workload

    found: type[Workload] = _checked(name, _load(_locate(name, "workload", WORKLOADS)), Workload)
    return found


def is_own_class(kind: OwnKind, name: str) -> bool:
    """Whether a name has the form of an own sampler's or pruning rule's: file.py:Class, or an entry point."""
    return name.rpartition(":")[0].endswith(".py") or name in _entry_points(kind)


def check_own_class(kind: OwnKind, name: str, known: Sequence[str]) -> None:
    """Raise UnknownName unless `name` can refer to an own sampler or pruning rule; `known` are the names of atoll's."""
    if not is_own_class(kind, name):
        raise UnknownName(
            f"must be one of {', '.join([*known, *sorted(_entry_points(kind))])}, file.py:Class, or an entry point of "
            f"the group atoll.{kind}s; got {name[:100]!r}"
        )
    _locate(name, kind, {})


def own_class(kind: OwnKind, name: str, base: type) -> type[Any]:
    """The class of an own sampler or pruning rule. Raises UnknownName if it is no subclass of `base`, or incomplete."""
    found: type[Any] = _checked(name, _load(_locate(name, kind, {})), base)
    return found


def own(kind: Kind, name: str, of: Workload | None) -> Callable[..., Any] | None:
    """The function behind the name of an own optimizer or schedule; None for one of atoll's.

    Args:
        kind: what it makes.
        name: file.py:function, an entry point, `workload`, or one of atoll's names.
        of: the workload.

    Raises:
        UnknownName: if there is no such function.
    """
    if not is_own(kind, name):
        return None
    if name == OF_WORKLOAD:
        found = getattr(of, kind, None)
        if found is None:
            signature = (
                "optimizer(parameters, settings)" if kind == "optimizer" else "schedule(settings, step, num_steps)"
            )
            raise UnknownName(
                f"{kind}: workload needs a workload that defines {signature}; {type(of).__name__} does not"
            )
    else:
        location = installed(kind).get(name, name)
        file = location.rpartition(":")[0]
        if file.endswith(".py") and not Path(file).is_file():
            raise UnknownName(f"{kind} {name!r}: the file {file} does not exist")
        found = _load(location)
    if not callable(found):
        raise UnknownName(f"the {kind} {name!r} must be a function; it is {found!r}")
    function: Callable[..., Any] = found
    return function


def check_own(name: object, folder: Path, *, inside: bool) -> object:
    """The name of an optimizer or schedule with an absolute path, resolved from `folder`; other values unchanged.

    Raises:
        UnknownName: if `inside`, and it is a file outside `folder`.
    """
    if not isinstance(name, str):
        return name
    name = absolute(name, folder)
    if inside:
        check_inside(name, folder)
    return name


def search_space(method_name: str) -> SearchSpace:
    """A method's search space: the registered one, its class attribute `search_space`, or an empty one."""
    from atoll.searchspaces.space import SearchSpace

    if method_name in METHODS:
        space: SearchSpace = _load(space_location(method_name))
        return space
    return getattr(method(method_name), "search_space", SearchSpace(()))


def whole_space(method_name: str, workload_name: str | None = None, optimizers: Sequence[str] = ()) -> SearchSpace:
    """A method's full search space: its own over the workload's over the optimizer settings'.

    Args:
        method_name, workload_name: their names.
        optimizers: those that a study names. Default: the one that the method or the workload fixes, else SGD.
    """
    from atoll.searchspaces.optimizer import DEFAULT, space
    from atoll.searchspaces.space import SearchSpace

    of_workload = SearchSpace(()) if workload_name is None else workload(workload_name).search_space
    own = search_space(method_name).overlay(of_workload)
    if any(p.name == "optimizer" for p in own.parameters):
        return own.overlay(space(optimizers or [DEFAULT]))
    fixed = dict(own.fixed)
    by_default = fixed.pop("optimizer", None) or _optimizer_of(method_name)
    shared = space(optimizers or [str(by_default)])
    # The optimizer comes first, as other parameters may depend on it.
    chosen = [p for p in shared.parameters if p.name == "optimizer"]
    if not chosen:
        fixed = {"optimizer": (optimizers or [str(by_default)])[0]} | fixed
    return replace(own, parameters=(*chosen, *own.parameters), fixed=tuple(fixed.items())).overlay(shared)


def _optimizer_of(method_name: str) -> str:
    """The optimizer of a method whose space does not fix one; its class is imported only if it is the user's."""
    from atoll.searchspaces.optimizer import DEFAULT

    return DEFAULT if method_name in METHODS else str(method(method_name).optimizer_defaults.get("optimizer", DEFAULT))


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
        if not os.path.isfile(file):  # every trial asks, and a Path takes longer
            raise UnknownName(f"{kind} {name!r}: the file {file} does not exist")
        return name
    raise UnknownName(
        f"{kind} must be one of {', '.join(names(kind))}, file.py:Class, or an entry point of the group "
        f"atoll.{kind}s; got {name!r}"
    )


def _load(location: str) -> Any:
    module_name, _, attribute = location.rpartition(":")
    module = _load_file(module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
    if not hasattr(module, attribute):
        raise UnknownName(f"{module_name} has no {attribute!r}")
    return getattr(module, attribute)


@cache
def _load_file(file: str) -> ModuleType:
    path = Path(file).resolve()
    with _LOADING:  # another rank's thread would see half a module
        # The file may import its neighbors, also later; but none may hide one of Python's modules, such as platform.
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        name = _module_name(path)
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            _IMPORTING.file = path.name
            try:
                spec.loader.exec_module(module)
            except BaseException as error:
                del sys.modules[name]  # the next caller must get the same error, not half a module
                if isinstance(error, Exception | SystemExit):
                    raise UserFileError(_why_not(path, error)) from error
                raise
            finally:
                _IMPORTING.file = None
        return sys.modules[name]


def _why_not(path: Path, error: BaseException) -> str:
    """A line on an error in a user's file: its kind, message, and the last place in files of the user's."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}"
    else:
        installed = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
        own = [f for f in frames if Path(f.filename).is_file() and not f.filename.startswith(installed)]
        place = f"{own[-1].filename}, line {own[-1].lineno}" if own else str(path)
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{path.name} cannot be imported: {type(error).__name__}: {message}, at {place}"


def _module_name(path: Path) -> str:
    """The file's own name, by which other processes can import what it defines; a made-up one if that is taken."""
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        is_free = getattr(loaded, "__file__", None) is not None and Path(str(loaded.__file__)).resolve() == path
    else:
        try:
            found = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
        except (ImportError, ValueError):
            found = None
        is_free = found is not None and found.origin is not None and Path(found.origin).resolve() == path
    if is_free:
        return path.stem
    return f"_atoll_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _checked(name: str, loaded: Any, base: type) -> Any:
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise UnknownName(f"{name!r} must be a subclass of {base.__module__}.{base.__name__}; it is {loaded!r}")
    missing = sorted(getattr(loaded, "__abstractmethods__", ()))
    if missing:
        raise UnknownName(f"{name!r} must define {', '.join(missing)}, like every {base.__name__.lower()}")
    return loaded
