"""Whether a study is still the one that was started: what may change between two launches, and what when one joins."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from atoll.analysis.formatting import counted
from atoll.platform.launch import changing
from atoll.platform.launch.errors import LaunchError
from atoll.platform.study.plan import Plan, length
from atoll.platform.study.samplers import Mixed, is_default
from atoll.platform.study.study import BUDGETS, Study
from atoll.storage.folder import StudyFolder

log = logging.getLogger("atoll.launch")

MAY_CHANGE = (
    *BUDGETS, "topology", "grace", "stop_grace", "heartbeat_timeout", "max_restarts", "keep_going", "isolate",
    "check", "walltime", "stop",
)  # fmt: skip
LENGTHS = ("epochs", "steps")
TOPOLOGY_MAY_CHANGE = ("islands", "workers", "world", "bind")


def definition(study: Study) -> dict[str, Any]:
    """What is stored of a study, and compared when it goes on."""
    return study.model_dump(mode="json", exclude=set(changing.NOT_STORED))


def as_recorded(study: Study, folder: StudyFolder, tell: Callable[[str], None] = log.warning) -> Study:
    """The study with the sampler that it was started with, if it names none: versions may have other defaults.

    And with what `atoll change` has changed since, where the study says what was true before.
    """
    if not folder.exists() or "definition" not in json.loads(folder.definition.read_text()):
        return study
    study, told = changing.up_to_date(study, folder)
    for line in told:
        tell(f"in force, as changed since: {line}")
    if not is_default(study):
        return study
    before = changing.InForce.read(folder).study()
    keeps = "sampler" not in study.model_fields_set or isinstance(before.sampler, Mixed)
    return study.model_copy(update={"sampler": before.sampler}) if keeps else study


def check_unchanged(folder: StudyFolder, plan: Plan) -> None:
    """Raise LaunchError if the study is not the one that was started."""
    current = definition(plan.study)
    if not folder.exists():
        raise LaunchError(f"--resume needs a study in {folder.path}, and there is none; omit --resume to start it")
    before = definition(changing.InForce.read(folder).study())  # with the defaults of what was added since
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
            f"change, {' or '.join(LENGTHS)} may increase, and within topology only {', '.join(TOPOLOGY_MAY_CHANGE)}; "
            f"`atoll change {plan.study.name}` changes the space, the sampler and more"
        )


def check_joins(folder: StudyFolder, plan: Plan) -> None:
    """Raise LaunchError unless another launcher may join the search of a study."""
    study = plan.study
    if study.pauses_trials:
        raise LaunchError(
            f"{study.name} is running, and only one launcher may search a study with promotion or pbt, which decide in "
            "one place which trials continue: wait until it has stopped, or stop it first"
        )
    check_unchanged(folder, plan)
    now = changing.InForce.read(folder).definition
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
