"""The search, as every rank sees it: it takes its place, and becomes a worker's root or one of its members."""

from __future__ import annotations

import json
import os
import platform as machine
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import torch

from atoll.communication.world import World
from atoll.platform.ranks.heartbeat import Heartbeat, interval
from atoll.platform.study import registry
from atoll.platform.study.study import Study, Topology
from atoll.platform.study.topology import Place, arrange, check_world_size
from atoll.platform.trial.worker import Worker
from atoll.storage.folder import StudyFolder


def load_study(folder: StudyFolder) -> Study:
    """The study as it was started in `folder`."""
    row = json.loads(folder.definition.read_text())
    return Study.model_validate(row["definition"])


def run(folder: StudyFolder, world: World, also: Callable[[], None] = lambda: None) -> None:
    """Take part in the search of `folder` as one rank of `world`; returns when the search has ended or stopped.

    Args:
        folder: the study's files.
        world: all ranks of the search.
        also: called at every poll, besides the heartbeat.

    Raises:
        TopologyError: when the world is not as large as the study's topology says.
    """
    study = load_study(folder)
    shape = study.topology.shape()
    check_world_size(shape, world.size)
    places = arrange_world(study.topology, world)
    place = places[world.rank]
    torch.set_num_threads(place.threads)
    worker_places = [p for p in places if p.worker == place.worker]
    beat = Heartbeat(folder.heartbeat(world.rank), interval(study.heartbeat_timeout))

    def serve() -> None:
        beat()
        also()

    _warm_up(study)
    world.meet(serve)
    worker_world = world.split(place.worker)
    assert worker_world is not None
    worker = Worker(worker_world, worker_places, spin=place.may_spin, serve=serve)
    roots = world.split(0 if worker.is_root else None)
    if roots is None:
        worker.obey()
    else:
        # Members need neither samplers nor spaces, whose libraries take a second to import.
        from atoll.platform.search.search_loop import SearchLoop
        from atoll.platform.study.plan import Plan

        island = roots.split(place.island)
        assert island is not None
        warm_start = json.loads(folder.definition.read_text()).get("warm_start") or []
        mailboxes = roots.mailbox(), island.mailbox()
        loop = SearchLoop.assemble(
            Plan.of(study), folder, worker, *mailboxes, shape.island_sizes, warm_start=warm_start, beat=serve
        )
        loop.run()
    worker.close()
    world.meet(serve)  # over TCP, MPICH ends a job of which one rank leaves early


def _warm_up(study: Study) -> None:
    """Load data and libraries before the first trial, whose time this would be: seconds, where ranks share cores."""
    try:
        registry.workload(study.workload).load(Path(study.data) if study.data else None)
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    except Exception:
        return  # the trials will meet it again, and record it


def stop_on_signals(folder: StudyFolder) -> None:
    """Ask for a clean stop of the whole search on what Slurm, or someone at mpiexec, sends before the end."""

    def asked(_number: int, _frame: object) -> None:
        folder.stop_request.touch()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, asked)


def available_cores() -> set[int]:
    """The processor cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def processors(*, with_gpus: bool) -> list[str]:
    """The names of this host's processor and of its GPUs, as far as the system tells."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpus = range(torch.cuda.device_count() if with_gpus else 0)
    return [names[0] if names else machine.machine(), *(torch.cuda.get_device_name(gpu) for gpu in gpus)]


def arrange_world(topology: Topology, world: World) -> list[Place]:
    """Gather what every rank runs on, and give every rank its place. Collective."""
    names = processors(with_gpus=topology.device != "cpu")
    mine = (socket.gethostname(), available_cores(), torch.cuda.device_count(), os.getpid(), names)
    everyone = world.allgather(mine)
    return arrange(
        topology.shape(),
        [rank[0] for rank in everyone],
        ranks_per_node=topology.ranks_per_node,
        device=topology.device,
        cores=[rank[1] for rank in everyone],
        num_gpus=[rank[2] for rank in everyone],
        threads=topology.threads,
        processes=[rank[3] for rank in everyone],
        processors=[rank[4] for rank in everyone],
    )
