"""A rank's part of a search: it finds its place, and becomes a worker's root or one of its members."""

from __future__ import annotations

import json
import os
import platform as machine
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from atoll.communication.thread_world import WorldFailed
from atoll.communication.world import World
from atoll.platform.ranks.heartbeat import Heartbeat, interval
from atoll.platform.search.launch_settings import LaunchSettings
from atoll.platform.study import registry
from atoll.platform.study.study import Study, Topology
from atoll.platform.study.topology import HostFacts, Place, Shape, arrange, by_host, check_world_size, share_cores
from atoll.platform.trial import trial_process
from atoll.platform.trial.fork_server import ForkServer
from atoll.platform.trial.worker import Worker
from atoll.storage import launches
from atoll.storage.folder import StudyFolder


def load_study(folder: StudyFolder) -> Study:
    """The study as it was started in `folder`."""
    row = json.loads(folder.definition.read_text())
    return Study.model_validate(row["definition"])


def start_server(study: Study) -> ForkServer | None:
    """The process from which this rank's trials are forked, if the study asks for it; before MPI starts."""
    return ForkServer.start(trial_process.main) if study.isolate == "process" else None


def run(
    folder: StudyFolder,
    launch: int,
    world: World,
    also: Callable[[], None] = lambda: None,
    *,
    server: ForkServer | None = None,
    keeps_output: bool = True,
) -> None:
    """Take part in the search of `folder` as one rank of `world`; returns when the search has ended or stopped.

    Args:
        folder: the study's files.
        launch: the number of this launch of the study; not the newest one, as a rank may start late.
        world: all ranks of the search.
        also: called at every poll, in addition to the heartbeat.
        server: forks a process for each trial. Default: trials train in this process.
        keeps_output: whether what trials print goes to the rank's log, as the process is a rank's only.

    Raises:
        TopologyError: if the size of the world does not fit the study's topology.
        ValueError: if trials are to train in processes of their own, and this rank has a GPU.
        ServerEnded: if the server has ended.
    """
    settings = LaunchSettings.read(folder, launch)
    study = load_study(folder) if settings.definition is None else Study.model_validate(settings.definition)
    check_world_size(settings.shape, world.size)
    started_as, world = world.rank, on_few_hosts(world, settings.shape.ranks)
    places = arrange_launch(settings, world, started_as)
    place = places[world.rank]
    torch.set_num_threads(place.threads)
    beat = Heartbeat(folder.heartbeat(place.world_rank), interval(study.heartbeat_timeout))

    def serve() -> None:
        beat()
        also()

    if server is None:
        _warm_up(study)
    else:
        _check_device(place)
        server.prepare(study.method, study.workload, study.data, place.threads, serve)
    world.meet(serve)
    worker_world = world.split(place.worker)
    assert worker_world is not None
    worker = Worker(
        worker_world,
        [p for p in places if p.worker == place.worker],
        spin=place.may_spin,
        serve=serve,
        server=server,
        silence=study.heartbeat_timeout,
        log=folder.rank_log(place.world_rank) if keeps_output else None,
        may_end=keeps_output,
    )
    roots = world.split(0 if worker.is_root else None)
    if roots is None:
        worker.obey()
    else:
        _search(study, folder, settings, worker, roots, place.island, serve)
    worker.close()
    if server is not None:
        server.close()
    world.meet(serve)  # over TCP, MPICH aborts a job if one rank leaves early
    beat.end()


def _search(
    study: Study,
    folder: StudyFolder,
    settings: LaunchSettings,
    worker: Worker,
    roots: World,
    island: int,
    serve: Callable[[], None],
) -> None:
    """Run the search loop of a worker's root."""
    # Members need neither samplers nor search spaces, whose libraries take a second to import.
    from atoll.platform.search.restore import earlier
    from atoll.platform.search.search_loop import SearchLoop
    from atoll.platform.search.shared_study import SharedStudy
    from atoll.platform.study.plan import Plan

    island_world = roots.split(island)
    assert island_world is not None
    (sizes, *_) = roots.allgather(launches.whole_sizes(folder.journals) if roots.rank == 0 else {})
    mailboxes = roots.mailbox(), island_world.mailbox()
    loop = SearchLoop.assemble(
        Plan.of(study),
        folder,
        worker,
        *mailboxes,
        settings.shape.island_sizes,
        launch=settings.member.launch,
        shared=SharedStudy(folder, settings, sizes, is_first=roots.rank == 0),
        change=settings.change,
        beat=serve,
        **earlier(folder),
    )
    loop.run()


def _check_device(place: Place) -> None:
    if place.device != "cpu":
        raise ValueError(
            f"isolate: process trains without GPUs, and rank {place.world_rank} on {place.hostname} has "
            f"{place.device}: set topology.device to cpu, or use isolate: restore"
        )


def _warm_up(study: Study) -> None:
    """Load the data before the first trial, to keep this out of its time: seconds, if ranks share cores.

    What the user's files change in the process while they are imported stays for all trials: it is not put back.
    """
    try:
        if study.calls_function:
            registry.function(study.workload)
            return
        registry.method(study.method)
        registry.workload(study.workload).load(Path(study.data) if study.data else None)
    except WorldFailed:
        raise
    except BaseException:
        return  # the trials will raise it again, and record it


def available_cores() -> list[int]:
    """The processor cores that this process may use; those of a socket, and the threads of a core, are neighbors."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return sorted(cores, key=_position)


def _position(core: int) -> tuple[int, int, int]:
    """The socket and the physical core of what the system counts as a core, and its own number."""
    folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        socket_, physical = (int((folder / name).read_text()) for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        return 0, 0, core
    return socket_, physical, core


def gpu_names() -> list[str]:
    """What tells this host's GPUs, as this process sees them, from all others; none if torch does not tell."""
    found = [getattr(torch.cuda.get_device_properties(gpu), "uuid", None) for gpu in range(torch.cuda.device_count())]
    return [str(uuid) for uuid in found] if None not in found else []


def processors(*, with_gpus: bool) -> list[str]:
    """The names of this host's processor and of its GPUs, as far as the system reports them."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpus = range(torch.cuda.device_count() if with_gpus else 0)
    return [names[0] if names else machine.machine(), *(torch.cuda.get_device_name(gpu) for gpu in gpus)]


def on_few_hosts(world: World, ranks: int) -> World:
    """The same world, with its ranks numbered so that each worker's are on few hosts. Collective."""
    order = by_host(world.allgather(socket.gethostname()), ranks)
    return world if order == list(range(world.size)) else world.reordered(order)


def arrange_launch(settings: LaunchSettings, world: World, started_as: int = 0) -> list[Place]:
    """The places of a launch's ranks, with the numbers that ranks and workers have in the study. Collective.

    Args:
        settings: the launch.
        world: its ranks, on few hosts.
        started_as: this rank's number in the MPI job.
    """
    places = arrange_world(settings.arrangement(), world, settings.shape, started_as)
    ranks, workers = settings.member.first_rank, settings.member.first_worker
    return [replace(p, world_rank=p.world_rank + ranks, worker=p.worker + workers) for p in places]


def arrange_world(topology: Topology, world: World, shape: Shape | None = None, started_as: int = 0) -> list[Place]:
    """Gather the facts of all ranks, and give each rank its place. Collective.

    Args:
        topology: islands, workers and ranks, and their nodes, devices and threads.
        world: all ranks.
        shape: the number of workers of each island. Default: the topology's.
        started_as: this rank's number in the MPI job.
    """
    with_gpus = topology.device != "cpu"
    mine = HostFacts(
        hostname=socket.gethostname(),
        cores=available_cores(),
        num_gpus=torch.cuda.device_count(),
        process=os.getpid(),
        processors=processors(with_gpus=with_gpus),
        gpus=gpu_names() if with_gpus else (),
        started_as=started_as,
    )
    facts = world.allgather(mine)
    if topology.bind == "cores":
        facts = share_cores(facts)
        are_processes = len({(fact.hostname, fact.process) for fact in facts}) == world.size
        if are_processes and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, facts[world.rank].cores)
    return arrange(
        shape or topology.shape(),
        facts,
        ranks_per_node=topology.ranks_per_node,
        device=topology.device,
        threads=topology.threads,
    )
