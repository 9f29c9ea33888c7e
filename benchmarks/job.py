"""Shared by the benchmarks: models, batches, communicators, and the MPI job that measures or trains."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from comparison import write

if TYPE_CHECKING:
    from atoll.platform.trial.outcome import Outcome
    from atoll.platform.trial.progress import Progress

BATCH_SIZE = 32
RANK = "ATOLL_BENCHMARK_RANK"


def make_models() -> dict[str, tuple[Callable, tuple[int, ...]]]:
    """Each model's factory, and the shape of one of its inputs."""
    from torch import nn

    from atoll.platform.workloads.cifar10 import Cifar10Cnn7
    from atoll.platform.workloads.digits import DigitsMlp

    def mlp10m() -> nn.Module:
        widths = (784, 2048, 2048, 2048, 10)
        layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    return {
        "digits_mlp": (DigitsMlp().model, (64,)),
        "cifar10_cnn7": (Cifar10Cnn7().model, (3, 28, 28)),
        "mlp_10m": (mlp10m, (784,)),
    }


def make_batch(shape: tuple[int, ...], size: int = BATCH_SIZE):
    """A batch of noise with ten classes."""
    import torch

    from atoll.methods.method import Batch

    return Batch(indices=torch.arange(size), inputs=torch.randn(size, *shape), targets=torch.randint(10, (size,)))


def connect(world, family, name: object):
    """A communicator with its own ledger, on one node; ranks spin if each has a core."""
    from atoll.communication.ledger import Ledger
    from atoll.communication.mpi import MpiCommunicator

    spin = world.size <= len(os.sched_getaffinity(0))
    nodes = [0] * world.size
    return MpiCommunicator(
        world.Dup(), nodes, ledger=Ledger(), poll=lambda: None, spin=spin, family=family, name=str(name)
    )


def build(name: str, hyperparameters: dict, model, communicator, settings: dict, inputs=None, **context):
    """A method that trains `model` at a constant learning rate; layer-parallel methods need `inputs`."""
    import torch
    from torch.nn.functional import cross_entropy

    from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings
    from atoll.methods.method import Context
    from atoll.platform.study import registry

    method = registry.method(name)
    given = OptimizerSettings(**dict(method.optimizer_defaults) | {"schedule": "constant"} | settings)
    whole = {"num_epochs": 1, "steps_per_epoch": 10**9} | context
    return method(
        method.Hyperparameters(**hyperparameters),
        Context(
            model=model,
            loss=cross_entropy,
            optimizers=OptimizerFactory(given, 1),
            communicator=communicator,
            untracked=communicator,
            inputs=torch.zeros(1) if inputs is None else inputs,
            seed=0,
            **whole,
        ),
    )


class TimeIsUp(Exception):
    """A trial has used up its training time."""


def evaluate_all(
    configurations: Iterable[dict],
    ranks_per_node: int | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    seconds: float = math.inf,
) -> Iterator[Outcome]:
    """Train configurations one after another on all ranks of the world: outcomes on rank 0, nothing on the others.

    Args:
        configurations: the configurations to train; ranks, threads and device are added.
        ranks_per_node: number of ranks per virtual node.
        on_progress: receives each report.
        seconds: training time after which a trial is stopped, which does not count as a failure.
    """
    import torch
    from mpi4py import MPI

    from atoll.communication.mpi_world import MpiWorld
    from atoll.platform.ranks.search import arrange_world
    from atoll.platform.study.configuration import Configuration
    from atoll.platform.study.study import Topology
    from atoll.platform.trial.training import Hooks
    from atoll.platform.trial.worker import Worker

    world = MpiWorld(MPI.COMM_WORLD)
    topology = Topology(ranks=world.size, threads=1, device="cpu", ranks_per_node=ranks_per_node)
    places = arrange_world(topology, world)
    torch.set_num_threads(1)
    worker = Worker(world, places, spin=False)
    if not worker.is_root:
        worker.obey()
    else:
        shared = {"ranks": world.size, "ranks_per_node": ranks_per_node, "threads": 1, "device": "cpu"}
        for entry in configurations:
            trained = [0.0]

            def report(progress: Progress, trained=trained) -> None:
                trained.append(progress.seconds)
                on_progress(progress)

            def interrupt(trained=trained) -> Exception | None:
                return TimeIsUp() if trained[-1] >= seconds else None

            hooks = Hooks(on_progress=report, interrupt=interrupt)
            outcome = worker.evaluate(Configuration(**shared | entry), hooks, test=True)
            expected = any(word in (outcome.reason or "") for word in ("Diverged", "TimeIsUp"))
            if outcome.state != "complete" and not expected:
                raise SystemExit(f"a trial failed: {outcome.reason}\n{outcome.traceback}")
            yield outcome
        worker.dismiss()
    worker.close()


def parse(description: str, quick: str, flags: Sequence[str] = ()) -> argparse.Namespace:
    """The options of these benchmarks."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--ranks", type=int, default=2)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    return parser.parse_args()


def measured(options: argparse.Namespace, measure: Callable[[], dict | None]) -> dict | None:
    """The figures that rank 0 of an MPI job of this script returns from `measure`; None on the job's ranks."""
    figures = on_ranks(options.ranks, measure)
    if figures is None:
        return None
    write(options, {"command": "python " + " ".join(sys.argv), "ranks": options.ranks, "models": figures})
    return None if options.json == "-" else figures


def on_ranks(num_ranks: int, measure: Callable[[], Any]) -> Any:
    """The value that rank 0 of an MPI job of this script returns from `measure`; None on the job's ranks."""
    if RANK in os.environ:
        figures = measure()
        if figures is not None:
            print(json.dumps(figures), flush=True)
        return None
    from atoll.platform.launch import job_variables, mpi_launcher

    environment = job_variables.rank_environment() | {
        RANK: "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": "1",
    }
    command = [*mpi_launcher.choose().command, "-n", str(num_ranks), sys.executable, *sys.argv]
    job = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=7200)
    return json.loads(job.stdout.splitlines()[-1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def workers_by_isolation() -> tuple[Any, dict[str, Any], Callable[[], None]]:
    """This rank's part of two workers of all ranks, by what keeps their trials apart; and a function that closes both.

    `restore` trains in the rank, `process` in a process for each trial. To be called before MPI starts.
    """
    from atoll.platform.trial import trial_process
    from atoll.platform.trial.fork_server import ForkServer

    server = ForkServer.start(trial_process.main)

    import torch
    from mpi4py import MPI

    from atoll.communication.mpi_world import MpiWorld
    from atoll.platform.ranks.search import arrange_world
    from atoll.platform.study.study import Topology
    from atoll.platform.trial.worker import Worker

    world = MpiWorld(MPI.COMM_WORLD)
    places = arrange_world(Topology(ranks=world.size, threads=1, device="cpu"), world)
    torch.set_num_threads(1)
    server.prepare("local_sgd", "digits_mlp", None, 1, lambda: None)
    workers = {
        "restore": Worker(world, places, spin=False),
        "process": Worker(world, places, spin=False, server=server),
    }

    def close() -> None:
        for worker in workers.values():
            worker.close()
        server.close()

    return world, workers, close
