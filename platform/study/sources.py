"""Finds the files of the user's code by reading it: a module, and all that it imports and that is not installed.

Imports are read, not observed: what a process happens to have loaded depends on its past, and a file that is imported
inside a function is loaded only when a trial calls it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

MAX_FILES = 1000
_INSTALLED = {"site-packages", "dist-packages"}
_IMPORT_LINE = re.compile(rb"^ *(?:import|from) ([A-Za-z_]\w*)(?:\.[\w.]+)?(?: import .*| as .*)?$", re.MULTILINE)
_NOT_LIBRARIES = {*sys.stdlib_module_names, *sys.builtin_module_names, "atoll"}


@dataclass
class Sources:
    """The user's code, and what it needs.

    Attributes:
        files: the code's files.
        libraries: the import names of installed packages.
        not_read: files that cannot be read or parsed, and whose imports are unknown.
    """

    files: set[Path] = field(default_factory=set)
    libraries: set[str] = field(default_factory=set)
    not_read: set[Path] = field(default_factory=set)


@dataclass(frozen=True)
class _Import:
    """One import: the module's parts, and names that may be modules inside it; `level` counts the leading dots."""

    parts: tuple[str, ...]
    names: tuple[str, ...] = ()
    level: int = 0


def trace(starts: Iterable[Path]) -> Sources:
    """The given files and all that they import, directly or through others.

    An absolute name is looked for in the folder of the file, in the folder above its outermost package, and then where
    Python finds it. What lies in a folder of installed packages is a library, unless it is in the package of a start.
    """
    sources = Sources()
    waiting = [path.resolve() for path in starts]
    own = {_outermost(path).name.removesuffix(".py") for path in waiting}
    while waiting and len(sources.files) < MAX_FILES:
        path = waiting.pop()
        if path in sources.files:
            continue
        sources.files.add(path)
        if path.suffix != ".py":
            continue
        try:
            imports = list(_imports(path))
        except (OSError, ValueError, SyntaxError, RecursionError):
            sources.not_read.add(path)
            continue
        for imported in imports:
            waiting += _follow(imported, path, own, sources)
    return sources


def libraries_of(modules: Iterable[Path]) -> set[str]:
    """The import names that may be those of installed packages in these modules of atoll, which are not followed."""
    # Parsing them would take longer than all else, and a sentence of a docstring that matches names no package.
    return {name.decode() for path in modules for name in _IMPORT_LINE.findall(path.read_bytes())} - _NOT_LIBRARIES


def _imports(path: Path) -> Iterator[_Import]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (_Import(tuple(alias.name.split("."))) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = tuple(node.module.split(".")) if node.module else ()
            yield _Import(parts, tuple(alias.name for alias in node.names), node.level)
        elif isinstance(node, ast.Call) and (name := _literal_import(node)):
            yield _Import(tuple(name.split(".")))


def _literal_import(call: ast.Call) -> str | None:
    """The module's name in `import_module("name")` and `__import__("name")`."""
    function = call.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    if called not in ("import_module", "__import__") or not call.args:
        return None
    first = call.args[0]
    name = first.value if isinstance(first, ast.Constant) else None
    return name if isinstance(name, str) and all(map(str.isidentifier, name.split("."))) else None


def _follow(imported: _Import, path: Path, own: set[str], sources: Sources) -> list[Path]:
    """The files of an import; the name of an installed package is added to the libraries."""
    if imported.level:
        base = path.parents[imported.level - 1] if imported.level <= len(path.parents) else path.parent
        return _files(base, imported)
    top = imported.parts[0]
    if top in _NOT_LIBRARIES:
        return []
    for base in dict.fromkeys((path.parent, _outermost(path).parent)):
        if (top in own or not _is_installed(base)) and (files := _files(base, imported)):
            return files
    origin = _origin(top)
    if origin is None:
        return []
    if _is_installed(origin):
        sources.libraries.add(top)
        return []
    return _files(_outermost(origin).parent, imported)


def _files(base: Path, imported: _Import) -> list[Path]:
    """The files of a module in `base`: of the packages that hold it, of itself, and of the modules inside it."""
    found: list[Path] = []
    folder = base
    if imported.level and (package := _module(base / "__init__")):
        found.append(package)
    for part in imported.parts:
        is_folder = (folder / part).is_dir()
        module = _module(folder / part / "__init__") or (None if is_folder else _module(folder / part))
        if module is None and not is_folder:
            return found
        found += [module] if module else []
        folder = folder / part
    for name in imported.names:
        inside = _module(folder / name) or _module(folder / name / "__init__")
        found += [inside] if inside else []
    return found


def _module(path: Path) -> Path | None:
    """The file of a module, Python's or compiled."""
    suffixes: Sequence[str] = (".py", *EXTENSION_SUFFIXES)
    candidates = (path.with_name(path.name + suffix) for suffix in suffixes)
    return next((file.resolve() for file in candidates if file.is_file()), None)


def _outermost(path: Path) -> Path:
    """The folder of the outermost package that holds a module, or the module's file if no package does."""
    outermost = path
    while (outermost.parent / "__init__.py").is_file():
        outermost = outermost.parent
    return outermost


def _is_installed(path: Path) -> bool:
    return not _INSTALLED.isdisjoint(path.parts)


def _origin(top: str) -> Path | None:
    """Where Python finds a top-level module, or the folder of a package without a file; None if it finds none."""
    try:
        spec = find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if spec.origin and spec.has_location:
        return Path(spec.origin)
    return next((Path(folder) for folder in spec.submodule_search_locations or ()), None)
