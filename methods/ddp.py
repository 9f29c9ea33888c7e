"""Data-parallel SGD: gradients averaged over all ranks at every step (001 section 2.5, equation 3.1).

p ranks with batch b equal one rank with batch p b, for any optimizer. One rank sends 2(p-1)/p w n bytes a step, with n
parameters and w bytes per element on the wire.

The classic form averages all gradients after backward. The overlapped form (Li et al., 2020; what 001 calls Horovod's
setup) cuts them into flat buckets, from the last layer to the first, and starts a bucket's average as soon as backward
has filled it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.methods.communicator import Request
from atoll.methods.flat import WIRE_DTYPES, FlatModel
from atoll.methods.method import Batch, Context, Method
from atoll.methods.optimizers import restore, saved
from atoll.methods.validation import require, require_choice


@dataclass(frozen=True, kw_only=True)
class DdpHyperparameters:
    """Hyperparameters of data-parallel training.

    Attributes:
        wire: dtype in which gradients travel.
        overlap: whether buckets travel while backward still runs.
        bucket_mib: smallest size of a bucket of gradients, in MiB; a larger model has several.
    """

    wire: str = "float32"
    overlap: bool = True
    bucket_mib: float = 4.0

    def __post_init__(self) -> None:
        require_choice("wire", self.wire, tuple(WIRE_DTYPES))
        require(self.bucket_mib > 0, f"bucket_mib must be above 0; got {self.bucket_mib}")


@dataclass(frozen=True)
class Bucket:
    """A run of parameters, first to last, and where their gradients lie."""

    first: int
    last: int
    where: slice


def make_buckets(slices: list[slice], smallest: int) -> list[Bucket]:
    """Cut parameters into runs of at least `smallest` elements, in the order in which backward reaches them."""
    buckets = []
    last = len(slices) - 1
    for first in range(last, -1, -1):
        if slices[last].stop - slices[first].start >= smallest or first == 0:
            buckets.append(Bucket(first, last, slice(slices[first].start, slices[last].stop)))
            last = first - 1
    return buckets


class Ddp(Method):
    """Average the gradients, then step."""

    Hyperparameters = DdpHyperparameters

    def __init__(self, hyperparameters: DdpHyperparameters, context: Context) -> None:
        self._context = context
        self._flat = FlatModel(context.model)
        self._optimizer = context.optimizers([self._flat.vector])
        self._wire = WIRE_DTYPES[hyperparameters.wire]
        self._overlap = hyperparameters.overlap
        smallest = hyperparameters.bucket_mib * 2**20 / self._flat.gradients.element_size()
        self._buckets = make_buckets(self._flat.slices, int(smallest))
        self._bucket_of = {n: i for i, b in enumerate(self._buckets) for n in range(b.first, b.last + 1)}
        self._num_missing: list[int] = []
        self._requests: list[Request] = []
        if self._overlap:
            self._flat.on_gradient(self._take)

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch (equation 3.1)."""
        loss = self._context.loss(self._context.model(batch.inputs), batch.targets)
        self._num_missing = [b.last - b.first + 1 for b in self._buckets]
        self._flat.backward(loss)
        if self._overlap:
            self._finish()
        else:
            self._context.communicator.mean(self._flat.gradients, wire=self._wire)
        self._optimizer.step()
        return loss.detach()

    def _take(self, number: int) -> None:
        """Note that parameter `number` has its gradient, and start what is ready; every rank in the same order."""
        self._num_missing[self._bucket_of[number]] -= 1
        while len(self._requests) < len(self._buckets) and self._num_missing[len(self._requests)] == 0:
            self._start_next()
        for request in self._requests:
            request.test()  # MPI makes progress only when it is asked

    def _start_next(self) -> None:
        gradients = self._flat.gradients[self._buckets[len(self._requests)].where]
        self._requests.append(self._context.communicator.start_mean(gradients, wire=self._wire))

    def _finish(self) -> None:
        while len(self._requests) < len(self._buckets):  # of parameters that had no part in this loss
            self._start_next()
        for request in self._requests:
            request.wait()
        self._requests.clear()

    def evaluation_model(self) -> nn.Module:
        """Average the running statistics, which each rank has of its own samples, and return the model."""
        if self._flat.statistics.numel():
            self._context.aside.mean(self._flat.statistics)
        return self._context.model

    def finalize(self) -> nn.Module:
        """Return the trained model."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return model and optimizer."""
        return {"model": self._flat.state_dict(), "optimizer": saved(self._optimizer)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        restore(self._optimizer, state["optimizer"])
