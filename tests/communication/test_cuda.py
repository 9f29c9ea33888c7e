"""CUDA tensors: staged in host memory where ranks share a GPU, NCCL where each has its own."""

import pytest
import torch
from on_ranks import on_ranks, processes

from atoll.communication.communicator import Communicator, PeerAborted
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.parameter_server.easgd import Easgd
from atoll.testing import problem
from atoll.testing.ranks import PAIR


def _needs(num_gpus):
    reason = "needs a GPU" if num_gpus == 1 else f"needs {num_gpus} GPUs"
    return [pytest.mark.skipif(torch.cuda.device_count() < num_gpus, reason=reason), pytest.mark.may_skip]


on_gpus = on_ranks(
    over=[processes(PAIR, "mpi", long=False, marks=_needs(1)), processes(PAIR, "nccl", long=False, marks=_needs(2))]
)


@on_gpus
def test_sums_means_and_broadcasts_of_cuda_tensors(c: Communicator) -> None:
    tensor = torch.arange(1000, device="cuda", dtype=torch.float32) + c.rank
    c.sum(tensor)
    assert torch.equal(tensor.cpu(), 2 * torch.arange(1000, dtype=torch.float32) + 1)
    c.start_mean(tensor, wire=torch.bfloat16).wait()
    assert tensor.dtype == torch.float32
    tensor.fill_(float(c.rank))
    c.broadcast(tensor, root=1)
    assert float(tensor.sum()) == 1000.0


@on_gpus
def test_messages_of_cuda_tensors(c: Communicator) -> None:
    mine, theirs = torch.full((100,), float(c.rank), device="cuda"), torch.zeros(100, device="cuda")
    requests = [c.start_send(mine, 1 - c.rank), c.start_receive(theirs, 1 - c.rank)]
    for request in requests:
        request.wait()
    assert float(theirs.mean()) == 1.0 - c.rank


@on_gpus
def test_a_sum_waits_for_what_the_stream_has_to_do(c: Communicator) -> None:
    matrix = torch.eye(2000, device="cuda")
    for _ in range(50):
        matrix = matrix @ matrix
    c.sum(matrix)
    assert float(matrix.diagonal().mean()) == 2.0


@on_gpus
def test_a_wait_on_cuda_tensors_can_be_interrupted(c: Communicator) -> None:
    tensor = torch.full((3,), float(c.rank), device="cuda")
    if c.rank == 0:
        request = c.start_receive(tensor, 1, tag=9)
        poll, c.poll = c.poll, _abort
        with pytest.raises(PeerAborted):
            request.wait()
        c.poll = poll
        c.barrier()
        request.wait()
    else:
        c.barrier()
        c.send(tensor, 0, tag=9)
    assert float(tensor.sum()) == 3.0


def _abort() -> None:
    raise PeerAborted(1)


@on_gpus
def test_methods_on_cuda_equal_those_on_the_host(c: Communicator) -> None:
    for method, hyperparameters in ((Ddp, {"bucket_mib": 2**-11}), (Easgd, {"form": "jacobi", "tau": 2})):
        results = []
        for device in ("cpu", "cuda"):
            model = problem.make_model().to(device)
            instance, _ = problem.make(method, c, hyperparameters=hyperparameters, model=model)
            problem.train(instance, _on(device, problem.batches(c, 30)))
            results.append(problem.vector(instance.finalize()).cpu())
        # float64 matrix products in another order, over 30 steps
        assert problem.close(*results, 1e-11), method


@on_gpus
def test_the_center_of_cuda_replicas(c: Communicator) -> None:
    method, _ = problem.make(Easgd, c, hyperparameters={"tau": 2}, model=problem.make_model().cuda())
    losses = problem.train(method, _on("cuda", problem.batches(c, 40)), meet=c.barrier)
    method.finalize()
    assert losses[-1] < losses[0]


def _on(device, batches):
    return [type(b)(indices=b.indices, inputs=b.inputs.to(device), targets=b.targets.to(device)) for b in batches]
