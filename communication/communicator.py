"""The transport between the ranks of one worker: collectives and messages on torch tensors, and their ledger.

Guarantees, held by one contract test over every implementation:

- Every wait polls. While it waits, a rank calls `poll`, which may raise (`PeerAborted`, a deadline, a stop), so no rank
  hangs in a collective whose peer has failed.
- Every wait is a progress engine. A rank that serves others (the center of the asynchronous methods) adds a function to
  `services`; it is called in every wait of every communicator of the worker, and by `progress`.
- The communicator keeps every buffer until its operation completes; the caller may drop its reference, but must not
  write to the tensor before `Request.wait` returns or `Request.test` is true.
- Collectives are posted in the same order on every rank of a communicator. Messages between two ranks with one tag
  arrive in the order they were sent.
- A sum in a dtype that the transport cannot add raises ValueError before anything is sent.
- The ledger counts what each rank sends, by operation, scope, size and whether computation could overlap it.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from atoll.communication.ledger import Exchange, Ledger, Scope, Tally
from atoll.communication.trace import Span

SUMMABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)


class PeerAborted(RuntimeError):
    """Another rank of this worker abandoned the trial.

    Attributes:
        rank: that rank's number in the worker.
        stays: whether that rank still takes part in a split in which it has arrived.
        arrivals: how many collectives it has entered, by the name of a communicator that is lent to a function.
    """

    def __init__(self, rank: int, *, stays: bool = False, arrivals: Mapping[str, int] | None = None) -> None:
        super().__init__(f"rank {rank} of this worker gave up the trial")
        self.rank = rank
        self.stays = stays
        self.arrivals = arrivals or {}


class Patience:
    """How a rank waits: it spins if every rank has a core; else it yields, then sleeps for 50 us, growing to 1 ms.

    A waiting rank must not occupy the core that the rank it waits for needs.
    """

    NUM_YIELDS = 1000
    SHORTEST, LONGEST, GROWTH = 50e-6, 1e-3, 1.1

    def __init__(self, spin: bool) -> None:
        self._spin = spin
        self._num_pauses = 0
        self._nap = self.SHORTEST

    def pause(self) -> None:
        """Yield the core for a moment."""
        if self._spin:
            return
        self._num_pauses += 1
        if self._num_pauses <= self.NUM_YIELDS:
            os.sched_yield()
        else:
            time.sleep(self._nap)
            self._nap = min(self._nap * self.GROWTH, self.LONGEST)


class Request:
    """A pending communication."""

    def __init__(
        self,
        communicator: Communicator,
        done: Callable[[], bool],
        finish: Callable[[], None],
        tally: Tally | None,
        number: int | None = None,
    ) -> None:
        self._communicator = communicator
        self._done = done
        self._finish = finish
        self._tally = tally
        self._number = number  # in the trace
        self._complete = False

    def test(self) -> bool:
        """Whether the communication is complete; never blocks, and lets the transport make progress."""
        if not self._complete and self._done():
            self._complete = True
            self._finish()
            self._note_arrival()
        return self._complete

    def wait(self) -> None:
        """Return when the communication is complete. Raises the errors of `poll`."""
        started = time.perf_counter()
        trace = self._communicator.ledger.trace
        if trace is not None:
            trace.hold()
        if self._complete:  # found by an earlier test, but the next steps depend on it
            self._note_arrival()
        self._communicator.wait_until(self.test)
        if self._tally is not None:
            self._tally.seconds_waited += time.perf_counter() - started
        if trace is not None:
            trace.release()

    def _note_arrival(self) -> None:
        trace = self._communicator.ledger.trace
        if trace is not None:
            trace.arrived(self._number)


def check_summable(dtype: torch.dtype) -> None:
    """Raise ValueError for a dtype that cannot be summed across ranks."""
    if dtype not in SUMMABLE:
        raise ValueError(f"a sum over ranks needs one of the dtypes {', '.join(map(str, SUMMABLE))}; got {dtype}")


def _check_contiguous(tensor: Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(
            f"communication needs a contiguous tensor; got shape {tuple(tensor.shape)} with strides {tensor.stride()}; "
            "call .contiguous() or use a flat buffer"
        )


class Communicator(ABC):
    """One rank's view of the ranks of a worker, or of a part of it.

    Collectives and messages take contiguous tensors of any shape, on the CPU or a GPU, and change them in place.
    `sum`, `mean`, `broadcast`, `all_gather`, `send` and `receive` wait; their `start_` forms return a `Request`, and
    the tensor must not be touched until `Request.wait` returns. `wire` is the communication dtype: the tensor is cast
    to it to be sent and added, and back; on one rank it stays as it is. Every operation counts in `ledger`, in bytes.

    Args:
        rank: this rank's number, 0..size-1.
        nodes: the node of each rank; ranks with equal numbers share a host.
        members: the rank in the whole worker of each rank.
        ledger: counts the traffic; by default, a communicator made by `split` shares it.
        poll: called repeatedly during waits; raises to interrupt them.
        spin: whether waits may keep a core busy.
        services: called during waits; they never wait themselves. Shared with the communicators made by `split`.

    Attributes:
        size: the number of ranks.

    Raises:
        ValueError: for a tensor that is not contiguous, a dtype that cannot be summed, or a rank outside 0..size-1.
        PeerAborted: in a wait, if another rank of the worker has abandoned the trial.

    Example:
        Of a method's communicator, here that of one virtual rank:

        >>> import torch
        >>> from atoll import Context
        >>> context = Context.on_one_rank(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss)
        >>> communicator = context.communicator
        >>> gradients = torch.tensor([1.0, 3.0])
        >>> request = communicator.start_mean(gradients, wire=torch.float16)
        >>> request.wait()  # after other work
        >>> gradients
        tensor([1., 3.])
        >>> node = communicator.split(communicator.nodes[communicator.rank])  # the ranks of this host
        >>> node.size
        1
        >>> [(row["operation"], row["payload_bytes"], row["wire_bytes"]) for row in communicator.ledger.rows()]
        [('all_reduce', 4, 0.0)]
    """

    def __init__(
        self,
        rank: int,
        nodes: Sequence[int],
        members: Sequence[int],
        *,
        ledger: Ledger,
        poll: Callable[[], None],
        spin: bool,
        services: list[Callable[[], None]] | None = None,
    ) -> None:
        self.rank = rank
        self.size = len(nodes)
        self.nodes = tuple(nodes)
        self.members = tuple(members)
        self.ledger = ledger
        self.poll = poll
        self.spin = spin
        self.services = [] if services is None else services
        self.scope: Scope = "node" if len(set(nodes)) <= 1 else "global"
        self.span: Span = "all"

    # Whether sums and broadcasts take CUDA tensors directly; messages are always staged in host memory.
    _sums_on_device = False

    # To be implemented: each starts one operation on a contiguous tensor, in host memory unless the above is true, and
    # returns a function that tells whether it is complete (and lets the transport make progress).

    @abstractmethod
    def _post_sum(self, buffer: Tensor) -> Callable[[], bool]: ...

    @abstractmethod
    def _post_broadcast(self, buffer: Tensor, root: int) -> Callable[[], bool]: ...

    @abstractmethod
    def _post_all_gather(self, buffer: Tensor) -> Callable[[], bool]: ...

    @abstractmethod
    def _post_send(self, buffer: Tensor, destination: int, tag: int) -> Callable[[], bool]: ...

    @abstractmethod
    def _post_receive(self, buffer: Tensor, source: int, tag: int) -> Callable[[], bool]: ...

    @abstractmethod
    def _arrived(self, tag: int) -> int | None: ...

    @abstractmethod
    def _post_barrier(self) -> Callable[[], bool]: ...

    @abstractmethod
    def _start_split(self, color: int, ledger: Ledger) -> Callable[[], Communicator | None]:
        """Announce that this rank is here; returns a function that makes the part as soon as all are."""

    def _once_all_arrived(self, make: Callable[[], Communicator]) -> Callable[[], Communicator | None]:
        """For transports whose splits block until all ranks take part: calls `make` when they have arrived."""
        arrived = self._post_barrier()
        return lambda: make() if arrived() else None

    @abstractmethod
    def close(self) -> None:
        """Release the transport's resources. No operation may be pending."""

    # Non-blocking forms.

    def start_sum(self, tensor: Tensor, *, wire: torch.dtype | None = None) -> Request:
        """Start to replace `tensor` by its sum over ranks."""
        return self._start_sum(tensor, wire, scale=1.0, overlapped=True)

    def start_mean(self, tensor: Tensor, *, wire: torch.dtype | None = None) -> Request:
        """Start to replace `tensor` by its mean over ranks."""
        return self._start_sum(tensor, wire, scale=1.0 / self.size, overlapped=True)

    def start_broadcast(self, tensor: Tensor, root: int = 0) -> Request:
        """Start to replace `tensor` by the one of rank `root`."""
        return self._start_broadcast(tensor, root, overlapped=True)

    def start_all_gather(self, tensor: Tensor) -> Request:
        """Start to fill each row of `tensor` (p, ...) with that of the rank of its number; a rank sends its own row."""
        return self._start_all_gather(tensor, overlapped=True)

    def start_send(self, tensor: Tensor, destination: int, tag: int = 0) -> Request:
        """Start to send `tensor` to rank `destination`."""
        return self._start_send(tensor, destination, tag, overlapped=True)

    def start_receive(self, tensor: Tensor, source: int, tag: int = 0) -> Request:
        """Start to fill `tensor` with the next message of rank `source`."""
        return self._start_receive(tensor, source, tag, overlapped=True)

    def arrived(self, tag: int) -> int | None:
        """A rank whose message with `tag` has arrived without a receive for it, or None."""
        return self._arrived(tag)

    # Waiting.

    def progress(self) -> None:
        """The work of every wait: `poll`, then serve the ranks that wait for this one. Raises the errors of `poll`."""
        self.poll()
        for service in self.services:
            service()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds. Raises the errors of `poll`."""
        trace = self.ledger.trace
        if trace is not None:
            trace.hold()
        self._poll_until(condition)
        if trace is not None:
            trace.release()

    def _poll_until(self, condition: Callable[[], bool]) -> None:
        patience = Patience(self.spin)
        while not condition():
            self.progress()
            patience.pause()

    # Blocking forms.

    def sum(self, tensor: Tensor, *, wire: torch.dtype | None = None) -> None:
        """Replace `tensor` by its sum over ranks."""
        self._start_sum(tensor, wire, scale=1.0, overlapped=False).wait()

    def mean(self, tensor: Tensor, *, wire: torch.dtype | None = None) -> None:
        """Replace `tensor` by its mean over ranks."""
        self._start_sum(tensor, wire, scale=1.0 / self.size, overlapped=False).wait()

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Replace `tensor` by the one of rank `root`."""
        self._start_broadcast(tensor, root, overlapped=False).wait()

    def all_gather(self, tensor: Tensor) -> None:
        """Fill each row of `tensor` (p, ...) with that of the rank of its number; a rank sends its own row."""
        self._start_all_gather(tensor, overlapped=False).wait()

    def send(self, tensor: Tensor, destination: int, tag: int = 0) -> None:
        """Send `tensor` to rank `destination`; returns when `tensor` may be changed."""
        self._start_send(tensor, destination, tag, overlapped=False).wait()

    def receive(self, tensor: Tensor, source: int, tag: int = 0) -> None:
        """Fill `tensor` with the next message of rank `source`."""
        self._start_receive(tensor, source, tag, overlapped=False).wait()

    def barrier(self) -> None:
        """Return when every rank has called this."""
        Request(self, self._post_barrier(), _nothing, tally=None).wait()

    def split(self, color: int, *, ledger: Ledger | None = None, spans: Span = "part") -> Communicator:
        """Return this rank's part of the communicator: the ranks that gave the same `color`, in the same order.

        Collective. The split blocks and cannot be interrupted, so it starts once all ranks have arrived. A rank that
        has arrived stays until all have, or until one of them has aborted; other interruptions are raised after the
        split.

        Args:
            color: of this rank's part.
            ledger: of the part. Default: this communicator's.
            spans: which ranks the part spans, for projections to other numbers of ranks; a part of all ranks spans
                the same as this communicator.
        """
        made = self._start_split(color, self.ledger if ledger is None else ledger)
        patience = Patience(self.spin)
        interruption: Exception | None = None
        while (part := made()) is None:
            try:
                self.progress()
            except Exception as reason:
                interruption = reason
                if self._never_splits(reason):
                    raise
            patience.pause()
        part.span = self.span if spans == "part" and part.size == self.size else spans
        if interruption is not None:
            raise interruption
        return part

    def _never_splits(self, reason: Exception) -> bool:
        """Whether an interruption tells that a rank of this communicator will not arrive in the split."""
        return isinstance(reason, PeerAborted) and not reason.stays and (reason.rank in self.members or reason.rank < 0)

    # Shared by all forms: staging, communication dtype, accounting.

    def _start_sum(self, tensor: Tensor, wire: torch.dtype | None, scale: float, overlapped: bool) -> Request:
        _check_contiguous(tensor)
        check_summable(tensor.dtype)
        travels = wire or tensor.dtype
        check_summable(travels)
        if scale != 1.0 and not (tensor.is_floating_point() and travels.is_floating_point):
            raise ValueError(f"a mean over ranks needs a floating dtype; got {tensor.dtype} travelling as {travels}")
        narrowed = travels.itemsize < tensor.element_size()
        # A narrower dtype carries the scaled values: 16-bit floats would overflow on the sum sooner than on the mean.
        source = tensor * scale if narrowed and scale != 1.0 else tensor
        buffer = self._stage(source, travels, direct=self._sums_on_device)
        done = self._post_sum(buffer)
        # One rank sends nothing, so nothing is rounded to what would travel.
        copy_back = _copy_back(tensor, buffer) if self.size > 1 else _nothing

        def finish() -> None:
            copy_back()
            if scale != 1.0 and not narrowed:
                tensor.mul_(scale)

        # A ring all-reduce of X bytes sends 2(p-1)/p X from each rank.
        wire_bytes = 2 * (self.size - 1) / self.size * buffer.nbytes
        return self._request("all_reduce", buffer.nbytes, wire_bytes, done, finish, overlapped)

    def _start_broadcast(self, tensor: Tensor, root: int, overlapped: bool) -> Request:
        _check_contiguous(tensor)
        self._check_rank("root", root)
        buffer = self._stage(tensor, tensor.dtype, direct=self._sums_on_device)
        done = self._post_broadcast(buffer, root)
        # Counted at the root, whichever rank forwards it: the worker's total is (p-1)X.
        wire_bytes = float(self.size - 1) * buffer.nbytes if self.rank == root else 0.0
        return self._request("broadcast", buffer.nbytes, wire_bytes, done, _copy_back(tensor, buffer), overlapped)

    def _start_all_gather(self, tensor: Tensor, overlapped: bool) -> Request:
        _check_contiguous(tensor)
        if tensor.dim() == 0 or len(tensor) != self.size:
            raise ValueError(
                f"all_gather needs a row for each of the {self.size} ranks; got a tensor of shape {tuple(tensor.shape)}"
            )
        buffer = self._stage(tensor, tensor.dtype)
        done = self._post_all_gather(buffer)
        own_bytes = buffer.nbytes // self.size
        # A ring passes each row on p - 1 times.
        wire_bytes = float(self.size - 1) * own_bytes
        return self._request("all_gather", own_bytes, wire_bytes, done, _copy_back(tensor, buffer), overlapped)

    def _start_send(self, tensor: Tensor, destination: int, tag: int, overlapped: bool) -> Request:
        _check_contiguous(tensor)
        self._check_rank("destination", destination)
        buffer = self._stage(tensor, tensor.dtype)
        done = self._post_send(buffer, destination, tag)
        return self._request(
            "send", buffer.nbytes, float(buffer.nbytes), done, _nothing, overlapped, (destination, tag)
        )

    def _start_receive(self, tensor: Tensor, source: int, tag: int, overlapped: bool) -> Request:
        _check_contiguous(tensor)
        self._check_rank("source", source)
        buffer = tensor if not tensor.is_cuda else torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        done = self._post_receive(buffer, source, tag)
        return self._request("receive", buffer.nbytes, 0.0, done, _copy_back(tensor, buffer), overlapped, (source, tag))

    def _stage(self, tensor: Tensor, dtype: torch.dtype, *, direct: bool = False) -> Tensor:
        """The buffer to post for `tensor`: itself if it can be sent directly, else a copy in pinned host memory.

        The copy is complete on return, as MPI reads it at once. The wait for the GPU's stream can be interrupted.
        """
        narrow = tensor.to(dtype)
        if not tensor.is_cuda or direct:
            return narrow
        host = torch.empty(tensor.shape, dtype=dtype, pin_memory=True)
        host.copy_(narrow, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(tensor.device))
        self._poll_until(copied.query)  # not a wait: the device's earlier work counts as computing
        return host

    def _request(
        self,
        operation: str,
        payload_bytes: int,
        wire_bytes: float,
        done: Callable[[], bool],
        finish: Callable[[], None],
        overlapped: bool,
        peer_and_tag: tuple[int, int] | None = None,
    ) -> Request:
        tally = self.ledger.tally(Exchange(operation, self.scope, payload_bytes, overlapped))
        tally.count += 1
        tally.wire_bytes += wire_bytes
        number = None
        if (trace := self.ledger.trace) is not None and self.ledger.is_recorded:
            message = None if peer_and_tag is None else (self.members[peer_and_tag[0]], peer_and_tag[1])
            number = trace.post(operation, self.span, self.size, payload_bytes, message)
        return Request(self, done, finish, tally, number)

    def _check_rank(self, role: str, rank: int) -> None:
        if not 0 <= rank < self.size:
            raise ValueError(f"{role} must be a rank in 0..{self.size - 1}; got {rank}")


def _nothing() -> None:
    pass


def _copy_back(tensor: Tensor, buffer: Tensor) -> Callable[[], None]:
    def copy() -> None:
        if buffer is not tensor:
            # From pinned memory, in stream order; the allocator keeps the buffer until the copy is done.
            tensor.copy_(buffer, non_blocking=True)

    return copy
