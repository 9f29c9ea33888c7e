"""The communicator and a method on CUDA tensors, as checks over any communicator; all ranks may share one GPU."""

from __future__ import annotations

import problem
import pytest
import torch
from ranks import on_layouts

from atoll.communication.communicator import Communicator, PeerAborted
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.parameter_server.easgd import Easgd

PAIR = (0, 0)


@on_layouts(PAIR)
def check_sums_means_and_broadcasts_of_cuda_tensors(c: Communicator) -> None:
    tensor = torch.arange(1000, device="cuda", dtype=torch.float32) + c.rank
    c.sum(tensor)
    assert torch.equal(tensor.cpu(), 2 * torch.arange(1000, dtype=torch.float32) + 1)
    c.start_mean(tensor, wire=torch.bfloat16).wait()
    assert tensor.dtype == torch.float32
    tensor.fill_(float(c.rank))
    c.broadcast(tensor, root=1)
    assert float(tensor.sum()) == 1000.0


@on_layouts(PAIR)
def check_messages_of_cuda_tensors(c: Communicator) -> None:
    mine, theirs = torch.full((100,), float(c.rank), device="cuda"), torch.zeros(100, device="cuda")
    requests = [c.start_send(mine, 1 - c.rank), c.start_receive(theirs, 1 - c.rank)]
    for request in requests:
        request.wait()
    assert float(theirs.mean()) == 1.0 - c.rank


@on_layouts(PAIR)
def check_a_sum_waits_for_what_the_stream_has_to_do(c: Communicator) -> None:
    matrix = torch.eye(2000, device="cuda")
    for _ in range(50):
        matrix = matrix @ matrix
    c.sum(matrix)
    assert float(matrix.diagonal().mean()) == 2.0


@on_layouts(PAIR)
def check_a_wait_on_cuda_tensors_can_be_interrupted(c: Communicator) -> None:
    if c.rank == 0:
        poll, c.poll = c.poll, _abort
        with pytest.raises(PeerAborted):
            c.receive(torch.zeros(3, device="cuda"), 1, tag=9)
        c.poll = poll
    else:
        c.send(torch.zeros(3, device="cuda"), 0, tag=9)
    c.barrier()
    for number, (requests, _) in list(getattr(c, "_pending", {}).items()):
        for request in requests:
            request.Wait()
        c._forget(number)


def _abort() -> None:
    raise PeerAborted(1)


@on_layouts(PAIR)
def check_methods_on_cuda_equal_those_on_the_host(c: Communicator) -> None:
    for method, hyperparameters in ((Ddp, {"bucket_mib": 2**-11}), (Easgd, {"form": "jacobi", "tau": 2})):
        results = []
        for device in ("cpu", "cuda"):
            model = problem.make_model().to(device)
            made, _ = problem.make(method, c, hyperparameters=hyperparameters, model=model)
            steps = [
                type(b)(indices=b.indices, inputs=b.inputs.to(device), targets=b.targets.to(device))
                for b in problem.batches(c, 30)
            ]
            problem.train(made, steps)
            results.append(problem.vector(made.finalize()).cpu())
        # float64 matrix products in another order, over 30 steps
        assert problem.close(*results, 1e-11), method


@on_layouts(PAIR)
def check_the_center_of_cuda_replicas(c: Communicator) -> None:
    made, _ = problem.make(Easgd, c, hyperparameters={"tau": 2}, model=problem.make_model().cuda())
    steps = [
        type(b)(indices=b.indices, inputs=b.inputs.cuda(), targets=b.targets.cuda()) for b in problem.batches(c, 40)
    ]
    losses = problem.train(made, steps, meet=c.barrier)
    made.finalize()
    assert losses[-1] < losses[0]
