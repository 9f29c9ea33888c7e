"""A small space ends a search: samplers that propose no configuration twice need no more trials than it has."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from atoll.analysis.formatting import counted
from atoll.platform.search import fitting, resume
from atoll.platform.search.propagators.configurations import LARGEST_ENUMERATED
from atoll.platform.study.plan import Plan
from atoll.platform.study.samplers import Evolution
from atoll.storage import launches
from atoll.storage.folder import StudyFolder


def limited(plan: Plan, changed: StudyFolder | None = None) -> Plan:
    """The plan with at most as many trials as its space has configurations, if none is to be evaluated again.

    Args:
        plan: the plan.
        changed: the files of a study whose space has changed since it was started: trials outside of it count as well.
    """
    study, bound = plan.study, plan.space.size_bound()
    samplers = study.samplers()
    repeats = [sampler.repeats for sampler in samplers if isinstance(sampler, Evolution)]
    # A mixed sampler's other members may propose a configuration again.
    if study.confirm is not None or len(repeats) < len(samplers) or bound is None or bound > LARGEST_ENUMERATED:
        return plan
    feasible = (values for values in plan.space.every() if plan.infeasibility(values) is None)
    most = max(repeats) * sum(1 for _ in islice(feasible, study.trials))  # no more need to be counted
    if changed is not None:
        most += _num_outside(plan, changed)
    if study.trials is not None and study.trials <= most:
        return plan
    return replace(plan, study=study.model_copy(update={"trials": most}))


def _num_outside(plan: Plan, folder: StudyFolder) -> int:
    """The trials that were started and that the space does not hold."""
    past = resume.read(launches.replay(folder.journals))
    trials = [past.trials[key] for key in past.newest.items() if key in past.trials]
    return sum(not fitting.is_inside(trial, plan.space) for trial in trials)


def note(asked: int | None, plan: Plan) -> str | None:
    """What users are told if the space has fewer configurations than trials they asked for."""
    trials = plan.study.trials
    if trials is None or trials == asked:
        return None
    instead = "" if asked is None else f" instead of {asked}"
    return (
        f"the search ends after {counted(trials, 'trial')}{instead}: the space has no more configurations, and the "
        "sampler evaluates none again (sampler.repeats)"
    )
