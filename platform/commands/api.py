"""`atoll.search`: a search from Python, in a script, a notebook or an MPI job."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atoll.platform.commands.console import plain_console
from atoll.platform.launch import extras
from atoll.platform.stop_signals import STOP_SIGNALS, put_back

if TYPE_CHECKING:
    from atoll.platform.study.study import Study
    from atoll.platform.study.traveling import Traveler
    from atoll.platform.trial.objective_trial import ObjectiveTrial
    from atoll.results.reading import StudyResults

Direction = Literal["minimize", "maximize"]
Objective = Callable[["ObjectiveTrial"], Any]


class SearchFailed(RuntimeError):
    """A search has ended as failed: its ranks could not work, or all of its trials have failed.

    Attributes:
        study: the study's results so far; None if they cannot be read.

    Example:
        >>> from atoll import SearchFailed
        >>> str(SearchFailed("first: all 3 trials failed", None))
        'first: all 3 trials failed'
    """

    def __init__(self, message: str, study: StudyResults | None) -> None:
        super().__init__(message)
        self.study = study


def search(
    objective: Objective | str | os.PathLike[str] | Mapping[str, Any],
    *,
    space: Mapping[str, Any] | None = None,
    direction: Direction | Mapping[str, Direction] | None = None,
    trials: int | None = None,
    seconds: float | None = None,
    islands: int | None = None,
    workers: int | Sequence[int] | None = None,
    ranks: int | None = None,
    name: str | None = None,
    store: str | os.PathLike[str] | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    in_process: bool | None = None,
    outside: bool = False,
    show: bool = True,
    **settings: Any,
) -> StudyResults:
    """Search, and return the study's results when the search has ended.

    A script or a notebook starts the ranks with `mpiexec`; under `mpirun python script.py` every rank calls this, and
    is one of them. A search of one rank runs in this process, without MPI. Ctrl-C stops it, and `resume=True`
    continues it: interrupted trials from their checkpoints, if they have written any.

    Args:
        objective: a function of a trial; or "file.py:function"; or a study: its file, or its content as a mapping.
        space: the ranges of the trial's parameters: `atoll.Float`, `atoll.Int`, `atoll.Categorical`, or as in a study
            file. Any other value is fixed.
        direction: of the number that the function returns, or of each returned value that is an objective, by name.
            Default: minimize.
        trials: budget: number of trials. Default: 40 if there is no other budget.
        seconds: budget: seconds of searching, after which no trial starts.
        islands, workers, ranks: number of islands, of workers on each (or a list), of ranks of each worker. Default: 1.
        name: the study's name. Default: the function's, with a number if that is taken.
        store: the store's URL, or a SQLite file. Default: the environment variable ATOLL_STORE, or sqlite:///atoll.db.
        resume: continue the study `name`, up to a budget that may be larger.
        accept_changes: continue it although its code, data or libraries have changed.
        in_process: run all ranks as threads of this process, for debuggers. Default: only a search of one rank.
        outside: allow a study file to refer to code outside its folder.
        show: print progress to standard error.
        settings: further keys of a study file, such as sampler, pruning, stop, constraints, trial_timeout, seed.

    Raises:
        FileError, ValueError: for an invalid setting; the message has the key, the value and the valid choices.
        SearchFailed: if the ranks could not work, or if all trials have failed.

    Example:
        >>> import tempfile
        >>> import atoll
        >>> folder = tempfile.TemporaryDirectory()
        >>> def parabola(trial):
        ...     return (trial["x"] - 0.3) ** 2
        >>> study = atoll.search(
        ...     parabola, space={"x": atoll.Float(0.0, 1.0)}, trials=20, name="parabola", show=False,
        ...     store=f"{folder.name}/atoll.db", folder=f"{folder.name}/parabola",
        ... )
        >>> study.state, len(study.trials())
        ('complete', 20)
        >>> bool(study.best(1)["objective.value"][0] < 0.05)
        True
        >>> folder.cleanup()
    """
    extras.require_search_extra()
    from atoll.platform.commands import searching
    from atoll.platform.launch import errors, join, lifecycle
    from atoll.platform.study import registry

    if (file := registry.loading()) is not None:
        raise RuntimeError(
            f"atoll.search was called while {file} is imported for its function: put the call under "
            "`if __name__ == '__main__':`"
        )
    given = {"direction": direction, "trials": trials, "seconds": seconds, "name": name} | settings
    topology = {"islands": islands, "workers": _plain(workers), "ranks": ranks}
    url = None if store is None else os.fspath(store)
    study, function = study_of(objective, space, given, topology, url, outside=outside)
    url = lifecycle.store_url(url, study)
    is_one_rank = study.topology.shape().world_size == 1
    threads = is_one_rank and not join.inside_mpi(2) if in_process is None else in_process
    console = plain_console(stderr=True, quiet=not show)
    try:
        with _handlers_put_back():
            ended = searching.run(
                study,
                url,
                console,
                resuming=resume,
                accept_changes=accept_changes,
                in_process=threads,
                function=None if function is None or function.is_importable else function,
            )
    except errors.AlreadyComplete as complete:
        if complete.reason is None:
            raise
        ended = lifecycle.Ending("complete", complete.reason, recorded=True)
    results = _results(study, url)
    if isinstance(ended, lifecycle.Ending):
        console.print(f"{study.name}: {ended.state}{f': {ended.reason}' if ended.reason else ''}")
    if (isinstance(ended, lifecycle.Ending) and ended.state == "failed") or results is None:
        reason = ended.reason if isinstance(ended, lifecycle.Ending) else "its store cannot be read"
        raise SearchFailed(f"{study.name}: {reason}{_first_failure(results)}", results)
    return results


def _first_failure(results: StudyResults | None) -> str:
    """The most frequent reason of failures, for a message."""
    if results is None:
        return ""
    kinds = results.failures()
    return f"; most often: {kinds['kind'].iloc[0]}" if len(kinds) else ""


def _plain(workers: int | Sequence[int] | None) -> int | list[int] | None:
    return list(workers) if isinstance(workers, Sequence) else workers


def study_of(
    objective: Objective | str | os.PathLike[str] | Mapping[str, Any],
    space: Mapping[str, Any] | None,
    given: dict[str, Any],
    topology: dict[str, Any],
    url: str | None,
    *,
    outside: bool = True,
) -> tuple[Study, Traveler | None]:
    """The study, and its function if it was given as one."""
    from atoll.platform.launch import join, lifecycle
    from atoll.platform.study import registry, traveling
    from atoll.platform.study.parameters import as_space
    from atoll.platform.study.study import Study
    from atoll.storage import yamlfile

    content: dict[str, Any] = {}
    folder, source, function, inside = Path.cwd(), "atoll.search", None, False
    if callable(objective):
        function = traveling.traveler(objective)
        registry.give(function.name, objective)
        content["objective"] = function.name
    elif isinstance(objective, Mapping):
        content = dict(objective)
    elif not isinstance(objective, str | os.PathLike):
        raise TypeError(
            f"the objective must be a function, file.py:function, a study file, or a study's content; got {objective!r}"
        )
    elif os.fspath(objective).rpartition(":")[0].endswith(".py"):
        content["objective"] = os.fspath(objective)
    else:
        file, inside = Path(objective), not outside
        content, folder, source = yamlfile.read(yamlfile.text_of(file), str(file)), file.parent, str(file)
    content |= {key: value for key, value in given.items() if value is not None}
    if isinstance(content.get("direction"), Mapping):
        content["direction"] = dict(content["direction"])
    named = {key: value for key, value in topology.items() if value is not None}
    if named:
        content["topology"] = dict(content.get("topology") or {}) | named
    if space is not None:
        content["space"] = as_space(space)
    if isinstance(content.get("sampler"), str):
        content["sampler"] = {"name": content["sampler"]}
    if "name" not in content and "objective" in content:
        if join.inside_mpi(2):  # ranks might choose different ones
            raise ValueError("inside an MPI job a search needs a name: atoll.search(..., name=...)")
        wanted = content["objective"].rpartition(":")[2].rpartition(".")[2]
        wanted = wanted if wanted.isidentifier() else "search"
        content["name"] = lifecycle.free_name(wanted, lifecycle.store_url(url))
    return yamlfile.validate(content, Study, source=source, folder=folder, inside=inside), function


def _results(study: Study, url: str) -> StudyResults | None:
    """The study in the store; None if it cannot be read, as on a rank of another host."""
    from atoll.platform.launch import lifecycle
    from atoll.results.reading import StudyResults
    from atoll.storage.store import Store, StoreError

    try:
        store = Store(url, create=False, read_only=True)
        return StudyResults(store, store.study(study.name, lifecycle.uid(lifecycle.study_folder(study))))
    except (StoreError, OSError):
        return None


@contextmanager
def _handlers_put_back() -> Iterator[None]:
    """A rank of an MPI job handles signals as requests to stop; the script may want its own again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        put_back(before)
        sys.stderr.flush()
