"""`atoll search --replay`: what a recorded search decided, and what the present code decides."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from atoll.analysis.formatting import counted
from atoll.platform.commands.shared import print_json
from atoll.platform.exit_codes import FAILURE

if TYPE_CHECKING:
    from atoll.platform.launch.replaying import Replayed
    from atoll.platform.search.replay import Decision
    from atoll.platform.study.study import Study
    from atoll.storage.folder import StudyFolder

NUM_SHOWN = 5


def run(folder: StudyFolder, study: Study | None, *, as_json: bool) -> int:
    """Repeat a recorded search, and print what differs; returns the exit code.

    Args:
        folder: the recorded study's files.
        study: the study that decides now. Default: the recorded one.
        as_json: whether to print JSON.
    """
    from atoll.platform.launch import replaying

    replayed = replaying.replay(folder, study)
    if as_json:
        print_json(_summary(replayed) | {"differing": [asdict(decision) for decision in replayed.different]})
    else:
        _show(folder, replayed)
    return FAILURE if replayed.different else 0


def _summary(replayed: Replayed) -> dict[str, Any]:
    kinds = [decision.kind for decision in replayed.decisions]
    return {
        "proposals": kinds.count("proposal"),
        "prunings": kinds.count("pruning"),
        "different": len(replayed.different),
        "untold": replayed.num_untold,
    }


def _show(folder: StudyFolder, replayed: Replayed) -> None:
    found = _summary(replayed)
    workers = counted(len({decision.worker for decision in replayed.decisions}), "worker")
    said = (
        f"{counted(found['proposals'], 'proposal')} and {counted(found['prunings'], 'pruning decision')} of {workers}"
    )
    print(f"{folder.path.name}: repeated {said}")
    if replayed.num_untold:
        print(
            f"{counted(replayed.num_untold, 'proposal')} not repeated: an older version of atoll recorded them, "
            "without what their workers knew"
        )
    if not replayed.different:
        print("all are equal")
        return
    print(f"{found['different']} of {len(replayed.decisions)} differ; the first:")
    for decision in replayed.different[:NUM_SHOWN]:
        _show_one(decision)


def _show_one(decision: Decision) -> None:
    print(f"  trial {decision.number}, worker {decision.worker}, {decision.kind}:")
    for one in decision.differences:
        print(f"    {one.name}: {one.then} then, {one.now} now")
