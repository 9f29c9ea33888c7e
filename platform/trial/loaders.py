"""A rank's share of each global batch, loaded by torch's DataLoader from a data set.

The order is that of tensors in memory: the epoch's permutation, of which rank r takes the r-th run of each global
batch. All that is random in a data set's items (by Python's, NumPy's and torch's random state) is seeded for each
batch, so a batch does not depend on the number of workers, nor on what was loaded before.
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.process
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from atoll.methods.common.nested import Nested, map_tensors
from atoll.methods.method import Batch, NotApplicable
from atoll.platform.study.loader import Loader
from atoll.platform.trial.batches import Transform
from atoll.platform.trial.loader_signals import pass_over_requests, starting_workers
from atoll.platform.trial.shares import Purpose, Share, data_seed, order
from atoll.platform.workloads.workload import Workload

ENDS_WITHIN = 5.0  # seconds from a process's closing of its files to its end, on a busy host
_NONE = object()
Split = Callable[[Nested], tuple[Nested, Nested]]


@dataclass(frozen=True)
class _Request:
    """A batch to load: the positions of its samples, and the seed of what is random in them."""

    indices: list[int]
    seed: int


class _Items(Dataset[Any]):
    """A map-style data set whose random numbers are seeded for each batch."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitems__(self, request: _Request) -> tuple[list[int], list[Any]]:
        """The items of a batch, with their positions."""
        with _seeded(request.seed):
            several = getattr(self._dataset, "__getitems__", None)
            items = [self._dataset[i] for i in request.indices] if several is None else several(request.indices)
        return request.indices, items


States = tuple[torch.Tensor, Any, Any]


def _states() -> States:
    """The random states of torch, NumPy and Python."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set_states(states: States) -> None:
    of_torch, of_numpy, of_python = states
    torch.set_rng_state(of_torch)
    np.random.set_state(of_numpy)
    random.setstate(of_python)


def seed_all(seed: int) -> None:
    """Seed every random state that user code may draw from, those of GPUs as well."""
    torch.manual_seed(seed)
    _seed_host(seed)


def _seed_host(seed: int) -> None:
    """The same without GPUs', from which the training draws."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what a data set's items may draw from; in the process that trains, the random states are then put back."""
    before = _states() if get_worker_info() is None else None
    _seed_host(seed)
    try:
        yield
    finally:
        if before is not None:
            _set_states(before)


class _OwnRandomness:
    """Random states of a stream that is read in the process that trains; dropout has the process's own."""

    def __init__(self, seed: int) -> None:
        with _seeded(seed):
            self._states = _states()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before = _states()
        _set_states(self._states)
        try:
            yield
        finally:
            self._states = _states()
            _set_states(before)


@dataclass(frozen=True)
class _Collate:
    """Makes a batch of items, next to their positions."""

    collate: Callable[[list[Any]], Nested]

    def __call__(self, loaded: tuple[list[int], list[Any]]) -> tuple[torch.Tensor, Nested]:
        indices, items = loaded
        return torch.tensor(indices), self.collate(items)


class _Requests:
    """The batch sampler of an epoch; the attributes `epoch` and `start`, its first batch, are set before each one."""

    def __init__(self, num_samples: int, share: Share, seed: int) -> None:
        self._num_samples, self._share, self._seed = num_samples, share, seed
        self.num_batches = share.num_batches(num_samples)
        self.epoch, self.start = 0, 0

    def __iter__(self) -> Iterator[_Request]:
        permutation = order(self._num_samples, self._seed, self.epoch)
        for number in range(self.start, self.num_batches):
            seed = data_seed(Purpose.ITEMS, self._seed, self.epoch, self._share.place, number)
            yield _Request(permutation[self._share.of(number)].tolist(), seed)


class _Part:
    """What training and evaluation have in common: a loader, and batches made of what it loads."""

    def __init__(self, workload: Workload, device: torch.device | str) -> None:
        self._workload = workload
        self._device = torch.device(device)
        self._loader: DataLoader[Any] | None = None
        self._workers: set[multiprocessing.process.BaseProcess] = set()
        self._start: str | None = None

    def _load(self, settings: Loader, dataset: Dataset[Any], **options: Any) -> DataLoader[Any]:
        pins = self._device.type == "cuda" if settings.pin_memory is None else settings.pin_memory
        if settings.workers:
            options |= {"persistent_workers": True, "prefetch_factor": settings.prefetch}
            self._start = settings.start or _default_start()
            options["multiprocessing_context"] = self._start
        return DataLoader(
            dataset,
            num_workers=settings.workers,
            pin_memory=pins,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # else it draws from the state that the training draws from
            **options,
        )

    def _batch(self, loaded: tuple[torch.Tensor, Nested], transform: Transform, generator: Any) -> Batch:
        indices, collated = loaded
        inputs, targets = map(self._to_device, self._workload.inputs_and_targets(collated))
        return Batch(indices=self._to_device(indices), inputs=transform(inputs, generator), targets=targets)

    def _to_device(self, nested: Nested) -> Nested:
        return map_tensors(lambda tensor: tensor.to(self._device, non_blocking=True), nested)

    def _begin(self) -> Iterator[Any]:
        """Begin to load, and remember the processes that do it."""
        assert self._loader is not None, "the batches are closed"
        others = set(multiprocessing.active_children())
        with _without_torchs_handler(), starting_workers(self._start):
            loading = iter(self._loader)
        self._workers |= set(multiprocessing.active_children()) - others
        return loading

    def _take(self, loading: Iterator[Any]) -> Any:
        """What is loaded next, or _NONE at the end.

        Raises:
            RuntimeError: if a process that loads has ended; without this, only that a connection is gone is told.
        """
        try:
            return next(loading, _NONE)
        except (OSError, EOFError, RuntimeError) as error:
            # Its files, the sentinel as well, are closed before its end is known.
            patience = 0.0 if isinstance(error, RuntimeError) else ENDS_WITHIN
            closed = wait([reader.sentinel for reader in self._workers], timeout=patience)
            for reader in self._workers:
                reader.join(ENDS_WITHIN if reader.sentinel in closed else 0)
            if ends := sorted({_end_of(reader) for reader in self._workers if reader.exitcode is not None}):
                raise RuntimeError(f"a DataLoader worker ended with {', '.join(ends)}") from error
            raise

    def pass_over(self, num_batches: int, poll: Callable[[], None]) -> None:
        """Nothing: any batch of an epoch can be loaded."""

    def close(self) -> None:
        """End the processes that load batches."""
        self._loader = None  # which asks them to end, and waits for a while
        for reader in self._workers:
            if reader.exitcode is None:  # a request to end is the last thing that it would hear
                reader.kill()
                reader.join(ENDS_WITHIN)
        self._workers.clear()


@contextmanager
def _without_torchs_handler() -> Iterator[None]:
    """Keep torch from handling SIGCHLD: it would raise wherever the rank is, such as while it receives a message.

    Without it, the end of a process that loads is noticed at the next batch, within five seconds.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if is_main else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


def _end_of(reader: multiprocessing.process.BaseProcess) -> str:
    code = reader.exitcode or 0
    return f"signal {-code}" if code < 0 else f"exit code {code}"


class _TrainingPart(_Part):
    """What the training data have in common, whatever they are loaded from.

    Args:
        share: this rank's share.
        seed: the trial's.
        workload: collates items, and splits batches into inputs and targets.
        transform: makes inputs from loaded data, with a generator for random augmentation.
        device: the rank's device.
    """

    def __init__(
        self, share: Share, seed: int, workload: Workload, transform: Transform, device: torch.device | str
    ) -> None:
        super().__init__(workload, device)
        self._share, self._seed, self._transform = share, seed, transform

    def _transformed(self, loaded: Iterable[Any], epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from what was loaded, from batch `start` on."""
        generator = torch.Generator(self._device)
        for number, one in enumerate(loaded, start):
            generator.manual_seed(data_seed(Purpose.TRANSFORM, self._seed, epoch, self._share.place, number))
            yield self._batch(one, self._transform, generator)


class LoadedBatches(_TrainingPart):
    """This rank's share of each global batch of a map-style data set.

    Args:
        dataset: the training data; items as `Workload.collate` takes them.
        settings: of the DataLoader.
        share, seed, workload, transform, device: see _TrainingPart.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        share: Share,
        seed: int,
        workload: Workload,
        settings: Loader,
        transform: Transform,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(share, seed, workload, transform, device)
        self._dataset = dataset
        self._requests = _Requests(len(dataset), share, seed)  # type: ignore[arg-type]
        self.num_batches = self._requests.num_batches
        self._loader = self._load(
            settings, _Items(dataset), batch_sampler=self._requests, collate_fn=_Collate(workload.collate)
        )

    def example(self) -> Nested:
        """The network's inputs for one batch, without augmentation by `transform`."""
        first = self._share.of(0)
        request = _Request(list(range(first.stop - first.start)), self._seed)
        loaded = _Collate(self._workload.collate)(_Items(self._dataset).__getitems__(request))
        return self._batch(loaded, self._transform, None).inputs

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `start` on."""
        self._requests.epoch, self._requests.start = epoch, start
        return self._transformed(self._loaded(), epoch, start)

    def _loaded(self) -> Iterator[Any]:
        loading = self._begin()
        while (loaded := self._take(loading)) is not _NONE:
            yield loaded


class _Stream(IterableDataset[Any]):
    """The batches of a rank and worker from an iterable data set, over and over.

    Each global batch is the next run of p*b items, of which rank r takes the r-th run of b; worker w of W makes every
    W-th batch, from w. A data set that has `shard(number, count)` returns only the items of one of `count` readers.
    """

    def __init__(
        self, dataset: IterableDataset[Any], share: Share, collate: Callable[[list[Any]], Nested], seed: int
    ) -> None:
        self._dataset, self._share, self._collate = dataset, share, collate
        self._seed = seed
        self.is_sharded = hasattr(dataset, "shard")

    def seed(self, number: int) -> int:
        """The seed of a reader: if all read the whole stream, they must read it in the same order."""
        place, number = (self._share.place, number) if self.is_sharded else (0, 0)
        return data_seed(Purpose.STREAM, self._seed, 0, place, number)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Nested]]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:
            _seed_host(self.seed(number))
        batches = self._own_shard(number, count) if self.is_sharded else self._runs(number, count)
        for start, items in batches:
            yield torch.arange(start, start + len(items)), self._collate(items)

    def _own_shard(self, number: int, count: int) -> Iterator[tuple[int, list[Any]]]:
        share = self._share
        size = share.global_size if share.whole else share.batch_size
        start = 0
        for epoch in itertools.count():
            _begin_epoch(self._dataset, epoch)
            num_workers = count * (1 if share.whole else share.num_ranks)
            shard = self._dataset.shard(share.place * count + number, num_workers)  # type: ignore[attr-defined]
            before = start
            for items in _runs(shard, size):
                yield start, items
                start += size
            _check_some(start - before, size)

    def _runs(self, number: int, count: int) -> Iterator[tuple[int, list[Any]]]:
        share, batch = self._share, 0
        for epoch in itertools.count():
            _begin_epoch(self._dataset, epoch)
            before = batch
            for items in _runs(self._dataset, share.global_size):
                if batch % count == number:
                    mine = share.of(0)
                    yield batch * share.global_size + mine.start, items[mine]
                batch += 1
            _check_some(batch - before, share.global_size)


def _runs(items: Any, size: int) -> Iterator[list[Any]]:
    """Consecutive runs of `size` items; the rest is left out."""
    remaining = iter(items)
    while len(run := list(itertools.islice(remaining, size))) == size:
        yield run


def _begin_epoch(dataset: Any, epoch: int) -> None:
    """Tell a data set that shuffles by epochs which one begins."""
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)


def _check_some(num: int, size: int) -> None:
    if num == 0:
        raise NotApplicable(f"iterable training data must give each reader at least {size} items; got fewer")


class StreamedBatches(_TrainingPart):
    """This rank's share of each global batch of an iterable data set.

    Args:
        dataset: the training data; items as `Workload.collate` takes them.
        settings: of the DataLoader.
        num_batches: the number of batches that make an epoch.
        share, seed, workload, transform, device: see _TrainingPart.
    """

    def __init__(
        self,
        dataset: IterableDataset[Any],
        share: Share,
        seed: int,
        workload: Workload,
        settings: Loader,
        transform: Transform,
        *,
        num_batches: int,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(share, seed, workload, transform, device)
        self.num_batches = num_batches
        self._stream = _Stream(dataset, share, workload.collate, seed)
        self._loader = self._load(settings, self._stream, batch_size=None)
        self._own_randomness: Callable[[], AbstractContextManager[None]] = nullcontext
        if settings.workers == 0:
            self._own_randomness = _OwnRandomness(self._stream.seed(0))
        self._batches: Iterator[Any] | None = None

    def example(self) -> Nested:
        """The network's inputs for one batch, without augmentation by `transform`."""
        with _seeded(self._seed):
            return self._batch(next(iter(self._stream)), self._transform, None).inputs

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The next batches of the stream, up to the end of an epoch."""
        if self._batches is None:
            self._batches = self._begin()
        rest = (self._next() for _ in range(start, self.num_batches))
        return self._transformed(rest, epoch, start)

    def pass_over(self, num_batches: int, poll: Callable[[], None]) -> None:
        """Read the first batches of the stream without using them: what continues has used them before."""
        self._batches = self._begin()
        for _ in range(num_batches):
            self._next()
            poll()

    def _next(self) -> Any:
        assert self._batches is not None
        with self._own_randomness():
            return self._take(self._batches)

    def close(self) -> None:
        """End the processes that load batches."""
        self._batches = None
        super().close()


class _Every(IterableDataset[Any]):
    """Every p-th batch of an iterable data set, from the rank's; the last one may be smaller."""

    def __init__(
        self,
        dataset: IterableDataset[Any],
        rank: int,
        num_ranks: int,
        size: int,
        collate: Callable[[list[Any]], Nested],
    ) -> None:
        self._dataset, self._collate = dataset, collate
        self._rank, self._num_ranks, self._size = rank, num_ranks, size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Nested]]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:
            _seed_host(0)  # every pass and every reader sees the same
        remaining = iter(self._dataset)
        for batch in itertools.count():
            if not (items := list(itertools.islice(remaining, self._size))):
                return
            if batch % self._num_ranks == self._rank and batch // self._num_ranks % count == number:
                yield torch.arange(batch * self._size, batch * self._size + len(items)), self._collate(items)


class EvaluationBatches(_Part):
    """This rank's part of a data set for evaluation, in order.

    Args:
        dataset: map-style, of which rank r takes every p-th item; or iterable, of which it takes every p-th batch.
        rank, num_ranks: r and p.
        workload, settings, device: see LoadedBatches.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        rank: int,
        num_ranks: int,
        workload: Workload,
        settings: Loader,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(workload, device)
        self._draws_here = False
        size = workload.evaluation_batch_size
        if isinstance(dataset, IterableDataset):
            every = _Every(dataset, rank, num_ranks, size, workload.collate)
            self._loader = self._load(settings, every, batch_size=None)
            self._draws_here = settings.workers == 0
        else:
            positions = range(rank, len(dataset), num_ranks)  # type: ignore[arg-type]
            requests = [_Request(list(run), 0) for run in _cut(positions, size)]
            self._loader = self._load(
                settings, _Items(dataset), batch_sampler=requests, collate_fn=_Collate(workload.collate)
            )

    def __iter__(self) -> Iterator[Batch]:
        own_randomness = _OwnRandomness(0) if self._draws_here else nullcontext
        with own_randomness():
            batches = self._begin()
        while True:
            with own_randomness():
                loaded = self._take(batches)
            if loaded is _NONE:
                return
            yield self._batch(loaded, self._workload.transform, None)


def _cut(positions: range, size: int) -> Iterator[range]:
    for start in range(0, len(positions), size):
        yield positions[start : start + size]


def _default_start() -> str:
    """Fork, unless ranks are threads of this process, whose locks a forked process would inherit."""
    return "fork" if threading.current_thread() is threading.main_thread() else "spawn"


def _begin_worker(_: int) -> None:
    pass_over_requests()
