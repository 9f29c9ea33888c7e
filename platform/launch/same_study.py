"""Whether a study is still the one that was started: what may change between two launches, and what when one joins."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from atoll.analysis.formatting import counted
from atoll.platform.launch.errors import LaunchError
from atoll.platform.study.plan import Plan, length
from atoll.platform.study.samplers import Mixed, is_default
from atoll.platform.study.study import BUDGETS, Study
from atoll.storage.folder import StudyFolder

MAY_CHANGE = (
    *BUDGETS, "topology", "grace", "stop_grace", "heartbeat_timeout", "max_restarts", "keep_going", "isolate",
    "check", "walltime", "stop",
)  # fmt: skip
LENGTHS = ("epochs", "steps")
# Neither compared nor stored: URLs may have passwords, and nothing in a study's folder names code to be run.
_NOT_COMPARED = frozenset({"store", "folder", "on_trial", "launcher"})
TOPOLOGY_MAY_CHANGE = ("islands", "workers", "world", "bind")


def definition(study: Study) -> dict[str, Any]:
    """What is stored of a study, and compared when it goes on."""
    return study.model_dump(mode="json", exclude=set(_NOT_COMPARED))


def as_recorded(study: Study, folder: StudyFolder) -> Study:
    """The study with the sampler that it was started with, if it names none: versions may have other defaults."""
    if not folder.exists() or not is_default(study):
        return study
    try:
        before = Study.model_validate(json.loads(folder.definition.read_text()).get("definition"))
    except ValidationError:  # which is told when the definitions are compared
        return study
    keeps = "sampler" not in study.model_fields_set or isinstance(before.sampler, Mixed)
    return study.model_copy(update={"sampler": before.sampler}) if keeps else study


def check_unchanged(folder: StudyFolder, plan: Plan) -> None:
    """Raise LaunchError if the study is not the one that was started."""
    current = definition(plan.study)
    if not folder.exists():
        raise LaunchError(f"--resume needs a study in {folder.path}, and there is none; omit --resume to start it")
    before = _as_now(json.loads(folder.definition.read_text())["definition"])
    changed = list(_change_of_length(before, plan))
    changed += [
        f"{key}: {before[key]!r} before, {value!r} now"
        for key, value in current.items()
        if key not in (*MAY_CHANGE, *LENGTHS) and before[key] != value
    ]
    for key in BUDGETS:
        if before.get(key) is not None and (current[key] is not None and current[key] < before[key]):
            changed.append(f"{key}: {before[key]} before, {current[key]} now; a budget may only increase")
    for key, value in current["topology"].items():
        if key not in TOPOLOGY_MAY_CHANGE and before["topology"].get(key) != value:
            changed.append(f"topology.{key}: {before['topology'].get(key)!r} before, {value!r} now")
    if changed:
        raise LaunchError(
            f"the study has changed since it was started ({'; '.join(changed)}); only {', '.join(MAY_CHANGE)} may "
            f"change, {' or '.join(LENGTHS)} may increase, and within topology only {', '.join(TOPOLOGY_MAY_CHANGE)}"
        )


def check_joins(folder: StudyFolder, plan: Plan) -> None:
    """Raise LaunchError unless another launcher may join the search of a study."""
    study = plan.study
    if study.promotes:
        raise LaunchError(
            f"{study.name} is running, and only one launcher may search a study with promotion, which decides in one "
            "place which trials continue: wait until it has stopped, or stop it first"
        )
    check_unchanged(folder, plan)
    now = json.loads(folder.definition.read_text())["definition"]
    mine = definition(study)
    for key in (*BUDGETS, *LENGTHS, "stop"):
        if now.get(key) != mine[key]:
            raise LaunchError(
                f"{study.name} is running with {key}: {now.get(key)}, and {mine[key]} is asked for here: a budget, a "
                "length or a stopping rule changes only between two searches; stop it first, or leave it as it is"
            )
    if study.topology.islands > now["topology"]["islands"]:
        raise LaunchError(
            f"{study.name} is running on {counted(now['topology']['islands'], 'island')}, which others may join "
            f"with as many or fewer; got {study.topology.islands}"
        )
    if folder.stop_request.exists():
        raise LaunchError(f"{study.name} is stopping; repeat the command when it has stopped, to continue it")


def _change_of_length(before: Mapping[str, Any], plan: Plan) -> Iterator[str]:
    """Why a study's length may not be changed like this; nothing if it may."""
    if plan.training is None or plan.length is None:
        return
    unit, number = length(before["epochs"], before["steps"], plan.training.workload)
    new_unit, new = plan.length
    if unit != new_unit:
        yield f"its length: {number} {unit} before, {new} {new_unit} now; the unit must stay"
    elif new < number:
        yield f"{unit}: {number} before, {new} now; a length may only increase"


def _as_now(definition: dict[str, Any]) -> dict[str, Any]:
    """A stored definition as this version writes it, with the defaults of what was added since: it was searched so."""
    try:
        return Study.model_validate(definition).model_dump(mode="json", exclude=set(_NOT_COMPARED))
    except ValidationError as error:
        raise LaunchError(f"the stored study is not valid any more: {error.errors()[0]['msg']}") from None
