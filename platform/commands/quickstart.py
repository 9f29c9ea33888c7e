"""The study of `atoll quickstart`: DASO's and the optimizer's hyperparameters on real data, in about a minute."""

from __future__ import annotations

from atoll.platform.study.samplers import Evolution
from atoll.platform.study.study import Study, Topology


def study(name: str) -> Study:
    """2 islands x 1 worker x 2 ranks, each rank a virtual node, so that B and S have an effect."""
    return Study(
        name=name,
        workload="digits_mlp",
        method="daso",
        trials=32,
        epochs=20,
        topology=Topology(islands=2, workers=1, ranks=2, ranks_per_node=1, device="cpu", threads=1),
        sampler=Evolution(population=6),
    )
