"""`atoll change`: another space, sampler, budget, pruning or number of islands for a study that has begun."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.platform.commands.search import folder_of
from atoll.platform.commands.shared import JsonOption, StoreOption, app, given_flags, print_json

if TYPE_CHECKING:
    from atoll.platform.launch.changing import Asked
    from atoll.storage.folder import StudyFolder


@app.command(
    "change",
    epilog="Example: atoll change quickstart --space learning_rate.high=0.1 --trials +50",
    context_settings={"ignore_unknown_options": True},
)
def change_command(
    study: Annotated[str, typer.Argument(help="The study's name, or its folder.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Further settings of the study file, as YAML.")
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            help="A hyperparameter's range or fixed value, or a part of it: 'learning_rate.high=0.1', "
            "'optimizer.choices+=adamw', 'momentum=0.9', 'x={low: 0.0, high: 1.0}'. May be repeated."
        ),
    ] = None,
    trials: Annotated[str | None, typer.Option(help="Budget: number of trials, or how many more, such as +50.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="Sampler: its name, or YAML with its options; or a list with one per island.")
    ] = None,
    pruning: Annotated[
        str | None, typer.Option(help="Pruning: asha, median, YAML with options, or none to train every trial on.")
    ] = None,
    islands: Annotated[int | None, typer.Option(help="Number of islands.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers per island.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a study that has begun, while it runs or is stopped; trials that have ended stay.

    A running search takes the change up between two trials, or with checkpoints at once; a stopped one when it goes on.
    """
    from atoll.platform.launch import extras

    extras.require_search_extra()
    flags = {"trials": trials, "islands": islands, "workers": workers, "space": _entries(space) if space else None}
    wanted = _further(settings or []) | given_flags(flags)
    for name, text in (("sampler", sampler), ("pruning", pruning)):
        wanted |= {} if text is None else {name: _read(text, f"--{name}")}
    folder = folder_of(study, store)
    asked = ask(folder, wanted)
    if as_json:
        print_json(described(folder, asked))
        return
    for one in asked.change.settings:
        print(one.said)
    for note in asked.notes:
        print(note)
    print(f"change {asked.change.number} of {study}: {takes_effect(folder)}")


def ask(folder: StudyFolder, wanted: Mapping[str, Any]) -> Asked:
    """Validate a change, and write it. Raises LaunchError or ValueError; see `atoll.platform.launch.changing.ask`."""
    from atoll.platform.launch import changing, checks
    from atoll.platform.study import changes
    from atoll.storage import liveness

    if not wanted:
        raise ValueError(f"name what is to change; what can change: {', '.join(changes.MAY_CHANGE)}")
    return changing.ask(
        folder,
        wanted,
        lambda study: checks.check(study, changed=folder),
        num_launchers=len(liveness.launchers(folder)),
    )


def takes_effect(folder: StudyFolder) -> str:
    """When a change that was just written takes effect."""
    from atoll.platform.commands import ask_tell
    from atoll.storage import liveness

    if json.loads(folder.definition.read_text())["definition"].get("objective") == ask_tell.NAME:
        return "takes effect when the study is opened again (atoll.Study(..., resume=True))"
    if liveness.holder(folder) is None:
        return "takes effect when the search goes on (--continue)"
    return (
        "takes effect when the trials that run now have ended, or written their checkpoints; then the ranks start "
        "again (inside your own mpirun the search stops, and --continue goes on)"
    )


def described(folder: StudyFolder, asked: Asked) -> dict[str, Any]:
    """A change as plain data."""
    settings = [one.as_dict() for one in asked.change.settings]
    return {
        "number": asked.change.number,
        "requested": asked.change.requested,
        "settings": settings,
        "notes": list(asked.notes),
        "takes_effect": takes_effect(folder),
    }


def change(
    study: str | os.PathLike[str],
    *,
    space: Mapping[str, Any] | None = None,
    trials: int | str | None = None,
    sampler: str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    store: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Change a study that has begun, while it runs or is stopped, as `atoll change` does.

    A running search takes the change up between two trials, or with checkpoints at once; a stopped one when it goes on.

    Args:
        study: the study's name, or its folder.
        space: hyperparameters with their ranges (`atoll.Float`, ... or as in a study file) or fixed values, or parts of
            their ranges: "learning_rate.high", "optimizer.choices+", "optimizer.choices-".
        trials: budget: number of trials, or how many more, such as "+50".
        sampler: its name, or a mapping with its options; or a list with one per island.
        store: the store's URL, or a SQLite file. Default: the environment variable ATOLL_STORE, or sqlite:///atoll.db.
        settings: further keys: seconds, busy_seconds, constraints, pruning (None ends it), stop, migration, islands,
            workers.

    Returns:
        The change: its `number`, `settings` (each with `before`, `after` and, in words, `said`), and `notes` on what
        follows from it.

    Raises:
        ValueError: for a setting that cannot change, or an invalid value; the message says what can.
        LaunchError: if there is no such study, or nothing would change.

    Example:
        >>> import tempfile
        >>> import atoll
        >>> folder = tempfile.TemporaryDirectory()
        >>> options = {"store": f"{folder.name}/atoll.db", "folder": f"{folder.name}/s", "name": "s", "show": False}
        >>> def parabola(trial):
        ...     return (trial["x"] - 0.3) ** 2
        >>> study = atoll.search(parabola, space={"x": atoll.Float(0.0, 1.0)}, trials=4, **options)
        >>> atoll.change(f"{folder.name}/s", space={"x.high": 0.5}, trials="+4")["settings"][0]["said"]
        'trials: 4 → 8'
        >>> study = atoll.search(parabola, space={"x": atoll.Float(0.0, 1.0)}, trials=4, resume=True, **options)
        >>> len(study.trials()), bool((study.trials()["hp.x"][4:] <= 0.5).all())
        (8, True)
        >>> folder.cleanup()
    """
    from atoll.platform.launch import extras

    extras.require_search_extra()
    wanted = dict(settings)
    wanted |= {} if space is None else {"space": dict(space)}
    wanted |= given_flags({"trials": trials, "sampler": _plain(sampler)})
    folder = folder_of(os.fspath(study), None if store is None else os.fspath(store))
    return described(folder, ask(folder, wanted))


def _plain(sampler: Any) -> Any:
    if isinstance(sampler, Mapping):
        return dict(sampler)
    return [_plain(one) for one in sampler] if isinstance(sampler, list | tuple) else sampler


def _entries(assignments: Sequence[str]) -> dict[str, Any]:
    """The entries of the space that were given as NAME=VALUE."""
    entries: dict[str, Any] = {}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise ValueError(
                "--space must be NAME=VALUE, such as learning_rate.high=0.1 or 'x={low: 0.0, high: 1.0}'; "
                f"got {text!r}"
            )
        entries[name.strip()] = _read(value, f"--space {name}")
    return entries


def _further(settings: Sequence[str]) -> dict[str, Any]:
    """Settings that were given as KEY=VALUE, --KEY=VALUE or --KEY VALUE."""
    wanted: dict[str, Any] = {}
    left = list(settings)
    while left:
        name, separator, value = left.pop(0).partition("=")
        if not separator:
            if not name.startswith("--") or not left:
                raise ValueError(f"a setting must be KEY=VALUE, such as seconds=+3600; got {name!r}")
            value = left.pop(0)
        key = name.removeprefix("--").replace("-", "_")
        wanted[key] = value if value.startswith("+") else _read(value, key)
    return wanted


def _read(text: str, source: str) -> Any:
    """A value as YAML; `none` is no value."""
    from atoll.storage import yamlfile

    return None if text.strip() in ("none", "None") else yamlfile.read(text, source)
