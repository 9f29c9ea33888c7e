"""Gradients averaged over ranks in flat buckets that travel while backward still runs (Li et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.communication.communicator import Communicator, Request
from atoll.methods.common.flat import FlatModel


@dataclass(frozen=True)
class Bucket:
    """Consecutive parameters, `first` to `last`, and where their gradients lie."""

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


class GradientBuckets:
    """Backward passes whose gradients are the mean over ranks.

    Args:
        flat: the network; its hooks call this object until `flat.release_hooks`.
        communicator: over whose ranks gradients are averaged.
        wire: communication dtype of the gradients. Default: their own.
        overlap: whether a bucket is sent as soon as backward has filled it, or all at the end.
        bucket_mib: smallest size of a bucket, in MiB.
    """

    def __init__(
        self,
        flat: FlatModel,
        communicator: Communicator,
        *,
        wire: torch.dtype | None = None,
        overlap: bool = True,
        bucket_mib: float = 4.0,
    ) -> None:
        self._flat = flat
        self._communicator = communicator
        self._wire = wire
        self._overlap = overlap
        self._buckets = make_buckets(flat.slices, int(bucket_mib * 2**20 / flat.gradients.element_size()))
        self._bucket_of = {n: i for i, b in enumerate(self._buckets) for n in range(b.first, b.last + 1)}
        self._num_missing: list[int] = []  # backward passes that have still to reach the parameters of each bucket
        self._scale = 1.0
        self._requests: list[Request] = []
        if overlap:
            flat.on_gradient(self._take)

    def backward(self, loss: Tensor) -> None:
        """Replace the gradients by the mean over ranks of those of `loss`; collective."""
        with self.collecting():
            loss.backward()  # type: ignore[no-untyped-call]

    @contextmanager
    def collecting(self, num_parts: int = 1, scale: float = 1.0) -> Iterator[None]:
        """Replace the gradients by the mean over ranks of the sum of those of the backward passes; collective.

        Args:
            num_parts: the number of backward passes in the block; buckets are sent during the last one.
            scale: this rank's gradients are divided by it before they are sent.
        """
        self._num_missing = [(b.last - b.first + 1) * num_parts for b in self._buckets]
        self._scale = scale
        self._flat.gradients.zero_()
        yield
        if self._overlap:
            self._finish()
        else:
            if scale != 1:
                self._flat.gradients.div_(scale)
            self._communicator.mean(self._flat.gradients, wire=self._wire)

    def _take(self, number: int) -> None:
        """Parameter `number` has a gradient: start the buckets that are full, in the same order on every rank."""
        self._num_missing[self._bucket_of[number]] -= 1
        while len(self._requests) < len(self._buckets) and self._num_missing[len(self._requests)] == 0:
            self._start_next()
        for request in self._requests:
            request.test()  # MPI progresses only when it is called

    def _start_next(self) -> None:
        gradients = self._flat.gradients[self._buckets[len(self._requests)].where]
        if self._scale != 1:
            gradients.div_(self._scale)
        self._requests.append(self._communicator.start_mean(gradients, wire=self._wire))

    def _finish(self) -> None:
        while len(self._requests) < len(self._buckets):  # whose parameters this loss does not depend on
            self._start_next()
        for request in self._requests:
            request.wait()
        self._requests.clear()
