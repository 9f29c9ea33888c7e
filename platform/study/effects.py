"""What a search would search without effect, told before it starts."""

from __future__ import annotations

from atoll.methods.common.effects import TrainingShape, sentences
from atoll.platform.study.configuration import split_hyperparameters
from atoll.platform.study.plan import Plan


def searched_without_effect(plan: Plan, num_nodes: int | None) -> list[str]:
    """Sentences about parameters that have no effect in any configuration of the space, or not in the default one.

    Args:
        plan: the resolved study.
        num_nodes: the nodes of a worker if the study does not set `ranks_per_node`; None if not known.
    """
    topology, study = plan.study.topology, plan.study
    if plan.training is None or plan.length is None:
        return []
    if topology.ranks_per_node is not None:
        num_nodes = topology.ranks // topology.ranks_per_node
    num_epochs = plan.length[1] if plan.length[0] == "epochs" else None
    shape = TrainingShape(num_ranks=topology.ranks, num_nodes=num_nodes, num_epochs=num_epochs)
    found = []
    for candidate in plan.space.extremes():
        if plan.infeasibility(candidate) is None:
            own, _, _ = split_hyperparameters(study.method, study.workload, candidate, topology.ranks)
            found.append(dict(plan.training.method.without_effect(own, shape)))
    if not found:
        return []
    searched = {p.name for p in plan.space.parameters}
    always = {n: why for n, why in found[0].items() if n in searched and all(n in one for one in found)}
    default = {n: why for n, why in found[0].items() if n in searched and n not in always}
    lines = sentences(always)
    if study.default_first:
        lines += [f"in the first trial, {line}" for line in sentences(default)]
    return lines
