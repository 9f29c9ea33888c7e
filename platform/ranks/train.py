"""One configuration on one worker: what `atoll train` does."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from mpi4py import MPI
from torch import nn

from atoll.methods.low_rank.factored import merged_state_dict
from atoll.platform.ranks.search import arrange_world, meet
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.study import Study, Topology
from atoll.platform.study.topology import Shape, check_world_size
from atoll.platform.trial.progress import Progress, as_fields
from atoll.platform.trial.worker import Worker
from atoll.storage.journal import JournalWriter


def run(configuration_file: str, result_file: str, world: MPI.Comm) -> None:
    """Train the configuration in one JSON file as one rank of `world`; the root writes progress and result as lines."""
    content = json.loads(Path(configuration_file).read_text())
    configuration = Configuration.model_validate(content["configuration"])
    check_world_size(Shape((1,), configuration.ranks), world.size)
    places = arrange_world(_as_study(configuration), world)
    place = places[world.rank]
    torch.set_num_threads(place.threads)
    worker = Worker(world.Dup(), places, spin=place.may_spin)
    if not worker.is_root:
        worker.obey()
    else:
        lines = JournalWriter(Path(result_file))

        def report(progress: Progress) -> None:
            lines.append("progress", as_fields(progress))

        def save(model: nn.Module) -> None:
            if content["save"] is not None:
                _save(model, Path(content["save"]), merged=content["merged"])

        outcome = worker.evaluate(configuration, report, test=content["test"], on_trained=save)
        lines.append("trial_ended", asdict(outcome))
        worker.dismiss()
    worker.close()
    meet(world)  # over TCP, MPICH ends a job of which one rank leaves early


def _save(model: nn.Module, file: Path, *, merged: bool) -> None:
    """Write the state dict, whole or not at all; `torch.load(file, weights_only=True)` reads it."""
    state = merged_state_dict(model) if merged else model.state_dict()
    partial = file.with_name(f"{file.name}.partial")
    torch.save({name: value.detach().cpu().clone() for name, value in state.items()}, partial)
    partial.replace(file)


def _as_study(configuration: Configuration) -> Study:
    topology = Topology(
        ranks=configuration.ranks,
        ranks_per_node=configuration.ranks_per_node,
        device=configuration.device,
        threads=configuration.threads,
    )
    return Study(name="train", workload=configuration.workload, method=configuration.method, topology=topology)
