"""A method that raises on one rank while its peers are inside an operation; as a program, thousands of such trials.

mpiexec -n 3 python aborting.py NUM_TRIALS [SPARE]

With SPARE, MPI has only so many communicators left, so that a few hundred trials tell whether each is given back.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from atoll.communication.world import World
from atoll.methods.method import Method
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.topology import HostFacts, Shape, arrange
from atoll.platform.trial.training import Hooks
from atoll.platform.trial.worker import Worker
from atoll.platform.workloads.workload import Classification, Data, Samples

OPERATIONS = (
    "sum", "sixteen_bit_sum", "broadcast", "barrier", "receive", "send_and_sum", "split", "sum_in_a_part",
    "started_sums", "started_broadcasts", "started_gathers", "unreceived_messages", "compute",
)  # fmt: skip


class Tiny(Classification):
    epochs = 1

    def load(self, folder: Path | None) -> Data:
        part = Samples(torch.zeros(12, 2), torch.zeros(12, dtype=torch.int64))
        return Data(part, part, part)

    def model(self):
        return torch.nn.Linear(2, 2)


@dataclass(frozen=True, kw_only=True)
class AbortingHyperparameters:
    operation: str = "sum"


class Aborting(Method):
    """Rank seed % p raises; the others are inside `operation`, or on their way there."""

    Hyperparameters = AbortingHyperparameters

    def __init__(self, hyperparameters, context):
        self.operation, self.context = hyperparameters.operation, context
        self.part = None
        if self.operation == "sum_in_a_part":
            self.part = context.communicator.split(context.communicator.rank % 2)

    def step(self, batch):
        c = self.context.communicator
        raiser, big = self.context.seed % c.size, torch.ones(100_000)
        if self.operation == "unreceived_messages":
            for other in range(c.size):
                if other != c.rank:
                    c.start_send(big, other, tag=3)
        if c.rank == raiser:
            raise RuntimeError("broken on purpose")
        if self.operation == "sum":
            c.sum(big)
        elif self.operation == "sixteen_bit_sum":
            c.mean(big, wire=torch.bfloat16)
        elif self.operation == "broadcast":
            c.broadcast(big, root=raiser)
        elif self.operation == "barrier":
            c.barrier()
        elif self.operation == "receive":
            c.receive(big, raiser)
        elif self.operation == "send_and_sum":
            c.send(big, raiser)
            c.sum(big)
        elif self.operation == "split":
            c.split(c.rank)
        elif self.operation == "sum_in_a_part":
            self.part.sum(big)
            c.sum(big)
        elif self.operation == "started_sums":
            requests = [c.start_sum(torch.ones(1000)) for _ in range(5)]
            requests[-1].wait()
        elif self.operation == "started_broadcasts":
            for root in range(c.size):
                c.start_broadcast(torch.ones(1000), root=root)
            c.barrier()
        elif self.operation == "started_gathers":
            c.start_all_gather(torch.ones(c.size, 1000))
            c.barrier()
        elif self.operation == "unreceived_messages":
            c.barrier()
        while True:  # what did not wait for the raiser computes, and polls as a trial does
            c.poll()
            time.sleep(1e-4)

    def evaluation_model(self):
        return self.context.model

    def finalize(self):
        return self.context.model

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def abort_trials(world: World, num_trials: int, serve: Callable[[], None] = lambda: None) -> dict[str, float]:
    """At the root: how long the slowest trial of each operation took, the first of each left out."""
    places = arrange(Shape((1,), world.size), [HostFacts("host", {0, 1})] * world.size, ranks_per_node=1)
    worker = Worker(world, places, spin=False, serve=serve)
    slowest: dict[str, float] = {}
    file = Path(__file__).resolve()
    if not worker.is_root:
        worker.obey()
    else:
        for number in range(num_trials):
            operation = OPERATIONS[number % len(OPERATIONS)]
            configuration = Configuration(
                workload=f"{file}:Tiny",
                method=f"{file}:Aborting",
                hyperparameters={"operation": operation, "batch_size": 2},
                seed=number // len(OPERATIONS),
                ranks=world.size,
            )
            started = time.perf_counter()
            outcome = worker.evaluate(configuration, Hooks())
            seconds = time.perf_counter() - started
            assert outcome.state == "failed", (number, operation, outcome)
            raiser = configuration.seed % world.size
            expected = f"RuntimeError: broken on purpose (rank {raiser} on host)"
            assert outcome.reason == expected, (number, operation, outcome.reason)
            slowest[operation] = max(slowest.get(operation, 0.0), seconds) if number >= len(OPERATIONS) else 0.0
        worker.dismiss()
    worker.close()
    return slowest


def leave_communicators(spare: int) -> None:
    """Take all communicators that MPI has (MPICH: about 2,044) but `spare`."""
    from mpi4py import MPI

    taken = []
    try:
        while True:
            taken.append(MPI.COMM_SELF.Dup())
    except MPI.Exception:
        for communicator in taken[-spare:]:
            communicator.Free()


def main(num_trials: int, spare: int | None = None) -> None:
    from mpi4py import MPI

    from atoll.communication.mpi_world import MpiWorld

    torch.set_num_threads(1)
    if spare is not None:
        leave_communicators(spare)
    slowest = abort_trials(MpiWorld(MPI.COMM_WORLD.Dup()), num_trials)
    if slowest:
        print(json.dumps(slowest), flush=True)


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:]))
    except BaseException:  # the peers would wait forever
        from mpi4py import MPI

        traceback.print_exc()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
