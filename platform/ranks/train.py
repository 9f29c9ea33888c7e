"""Trains one configuration on one worker, for `atoll train`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from atoll.communication.world import World
from atoll.methods.low_rank.factored import merged_state_dict
from atoll.platform.ranks.search import arrange_world
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.study import Topology
from atoll.platform.study.topology import Shape, check_world_size
from atoll.platform.trial import weights
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.training import Hooks
from atoll.platform.trial.worker import Worker
from atoll.storage.files import replacing
from atoll.storage.folder import TrialFolder
from atoll.storage.journal import JournalWriter


def run(configuration_file: str, result_file: str, world: World) -> None:
    """Train the configuration of a JSON file as one rank of `world`; the root writes progress and result as lines."""
    content = json.loads(Path(configuration_file).read_text())
    configuration = Configuration.model_validate(content["configuration"])
    check_world_size(Shape((1,), configuration.ranks), world.size)
    places = arrange_world(_topology(configuration), world)
    place = places[world.rank]
    torch.set_num_threads(place.threads)
    worker = Worker(world, places, spin=place.may_spin)
    if not worker.is_root:
        worker.obey()
    else:
        lines = JournalWriter(Path(result_file))

        reported = 0

        def report(progress: Progress) -> None:
            nonlocal reported
            if progress.step > reported:  # where hyperparameters have changed, earlier reports are repeated
                lines.append(progress.as_event(0, 0))
            reported = max(reported, progress.step)

        def save(model: nn.Module) -> None:
            if content["save"] is not None:
                _save(model, Path(content["save"]), merged=content["merged"])

        folder = Path(content["folder"])
        hooks = Hooks(on_progress=report, on_trained=save)
        while (outcome := worker.evaluate(configuration, hooks, test=content["test"], folder=folder)).is_paused:
            pass  # hyperparameters change now
        lines.append(outcome.as_event(0, 0))
        if configuration.checkpoint is not None and outcome.state != "lost":
            TrialFolder(folder).settle(configuration.checkpoint.keep)
        worker.dismiss()
    worker.close()
    world.meet()  # over TCP, MPICH aborts a job if one rank leaves early


def _save(model: nn.Module, file: Path, *, merged: bool) -> None:
    """Write the state dict whole, in the format of safetensors or of torch, by the file's suffix."""
    state = merged_state_dict(model) if merged else model.state_dict()
    tensors = weights.copied(state)
    if file.suffix == ".safetensors":
        weights.write(file, tensors)
        return
    with replacing(file) as partial:
        torch.save(tensors, partial)


def _topology(configuration: Configuration) -> Topology:
    return Topology(
        ranks=configuration.ranks,
        ranks_per_node=configuration.ranks_per_node,
        device=configuration.device,
        threads=configuration.threads,
    )
