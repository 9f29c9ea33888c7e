"""EASGD tree: elastic averaging over a tree of centers (Zhang 2016, section 6.1, algorithm 6).

Leaves descend; the nodes above them only average. Every tau_up of its steps a node sends its parameter to its parent,
every tau_down to its children, without waiting; a parameter y that arrives from a neighbor is averaged in on arrival
(Gauss-Seidel):

    x <- x + alpha (y - x)

A leaf looks for arrivals between two gradients only, then takes a step of gradient descent, with Nesterov's momentum
delta where the optimizer's `momentum` is above 0. Scheme 1 (multi_scale) averages fast at the bottom: leaves have
tau_up = tau_fast, their parents tau_down = tau_fast and tau_up = tau_slow, all above tau_slow. Scheme 2 (fast_up) has
tau_up = tau_fast and tau_down = tau_slow everywhere. The root is evaluated.

Every rank is a leaf, and node j of level l lives on the rank of its first leaf, j d^l: no rank idles, the lowest level
stays on one host, and an inner node's clock is that of its rank. While a rank waits for others to finish an epoch, its
nodes go on at the pace of its steps: inner nodes pass on what late leaves send, and early leaves keep their pull. With
no more ranks than d there is no level between leaves and root, one less than the source's tree has; a note of the
method says so.

Bytes: 4n (1/tau_up of the child + 1/tau_down of the parent) per step for every edge between two ranks; the edge to a
node's first child stays in memory. A message is skipped while the previous one is still pending, so a slow neighbor
gets fewer. MPI counts a message as sent once it is buffered, as it does with small ones (some 64 kB): a slow neighbor
gets all of these. Messages of ranks that wait count as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Request
from atoll.methods.common.evaluation_copy import EvaluationCopy
from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.common.validation import require, require_choice
from atoll.methods.common.weight_average import Evaluated, center
from atoll.methods.method import Batch, Context, Method
from atoll.methods.parameter_server.easgd_tree_pace import Pace, has_multiple
from atoll.methods.parameter_server.easgd_tree_places import Place, plant
from atoll.methods.sequential.descent import Descent, check_descent

SCHEMES = ("multi_scale", "fast_up")


@dataclass(frozen=True, kw_only=True)
class EasgdTreeHyperparameters:
    """Hyperparameters of the EASGD tree.

    Attributes:
        scheme: multi_scale (the source's first) or fast_up (its second).
        degree: d, children of a node.
        tau_fast: tau_1 of the first scheme, tau_u of the second, in steps.
        tau_slow: tau_2 of the first scheme, tau_d of the second, in steps.
        alpha: moving rate of every node. Default: 0.9 / (d + 1), with d at most the number of ranks.
    """

    scheme: str = "multi_scale"
    degree: int = 16
    tau_fast: int = 1
    tau_slow: int = 10
    alpha: float | None = None

    def __post_init__(self) -> None:
        require_choice("scheme", self.scheme, SCHEMES)
        require(self.degree >= 2, f"degree must be at least 2; got {self.degree}")
        require(self.tau_fast >= 1, f"tau_fast must be at least 1; got {self.tau_fast}")
        require(self.tau_slow >= 1, f"tau_slow must be at least 1; got {self.tau_slow}")


def average_in(x: Tensor, arrived: Tensor, alpha: float) -> None:
    """x <- x + alpha (y - x), in place (algorithm 6)."""
    x.add_(arrived - x, alpha=alpha)


@dataclass
class _Node:
    """A node that lives on this rank."""

    place: Place
    value: Tensor
    waiting: list[Tensor] = field(default_factory=list)


class EasgdTree(Method[EasgdTreeHyperparameters]):
    """Descend on the leaves, average above them."""

    Hyperparameters = EasgdTreeHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("tau_fast", "tau_slow", "alpha")
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.05, "momentum": 0.0, "schedule": "constant"}
    min_ranks: ClassVar[int] = 2
    asynchronous: ClassVar[bool] = True

    @classmethod
    def check(cls, hyperparameters: EasgdTreeHyperparameters, settings: OptimizerSettings, num_ranks: int) -> None:
        """Raise NotApplicable for a single leaf, and for optimizers other than SGD."""
        super().check(hyperparameters, settings, num_ranks)
        check_descent("easgd_tree", settings, momentum_form=None)

    def __init__(self, hyperparameters: EasgdTreeHyperparameters, context: Context) -> None:
        h, size = hyperparameters, context.communicator.size
        self._flat = context.flatten()
        self._evaluation_copy = EvaluationCopy(self._flat, context.untracked)
        self._descent = Descent(context, self._flat)
        self._places = plant(size, h.degree, h.scheme, h.tau_fast, h.tau_slow)
        if size <= h.degree:
            self.notes = (
                f"easgd_tree of degree {h.degree} on {size} ranks: the leaves' parent is the root, one level less than "
                f"the source's tree; a level between needs a degree below {size}",
            )
        self._alpha = 0.9 / (min(h.degree, size) + 1) if h.alpha is None else h.alpha
        self._tree = context.communicator.split(0)
        self._untracked = context.untracked
        self._rank = self._tree.rank
        self._nodes = {
            place.number: _Node(
                place, self._flat.parameters if place.number < size else self._flat.parameters.to("cpu", copy=True)
            )
            for place in self._places
            if place.rank == self._rank
        }
        self._leaf = self._nodes[self._rank]
        self._steps_per_epoch = context.steps_per_epoch
        self._pace = Pace()
        # Messages have a tag for each edge and direction.
        self._pending: dict[int, Request] = {}
        self._incoming: list[tuple[int, Tensor, Request]] = []
        self._num_sent = torch.zeros(2 * len(self._places), dtype=torch.int64)
        self._num_received = torch.zeros_like(self._num_sent)
        self._edges = {
            self._tag(neighbor, number): number
            for number, node in self._nodes.items()
            for neighbor in (*node.place.children, node.place.parent)
            if neighbor is not None and self._places[neighbor].rank != self._rank
        }
        self._tree.services.append(self._serve)
        self._flat.on_layer(self._serve)

    @staticmethod
    def _tag(sender: int, receiver: int) -> int:
        """The tag of an edge and direction; a child's number is below its parent's."""
        return 2 * sender if sender < receiver else 2 * receiver + 1

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        self._pace.begin_step()
        number = self._pace.num_steps
        self._send_all(range(number, number + 1))
        self._serve()
        self._average_leaf()
        loss = self._descent.step(batch)
        self._pace.end_step(is_last=(number + 1) % self._steps_per_epoch == 0)
        return loss

    def _send_all(self, steps: range) -> None:
        """What this rank's nodes send in some consecutive steps, once."""
        for node in self._nodes.values():
            place = node.place
            if place.parent is not None and has_multiple(steps, place.tau_up):
                self._send(node, place.parent)
            if place.children and has_multiple(steps, place.tau_down):
                for child in place.children:
                    self._send(node, child)

    def _send(self, node: _Node, receiver: int) -> None:
        if self._places[receiver].rank == self._rank:
            self._take(receiver, node.value.to("cpu", copy=True))
            return
        tag = self._tag(node.place.number, receiver)
        if tag in self._pending and not self._pending[tag].test():
            return
        message = node.value.to("cpu", copy=True)
        self._pending[tag] = self._tree.start_send(message, self._places[receiver].rank, tag)
        self._num_sent[tag] += 1

    def _take(self, receiver: int, value: Tensor) -> None:
        """An arrival: inner nodes average at once, the leaf between two gradients."""
        node = self._nodes[receiver]
        if node is self._leaf:
            node.waiting.append(value)
        else:
            average_in(node.value, value, self._alpha)

    def _average_leaf(self) -> None:
        for value in self._leaf.waiting:
            average_in(self._leaf.value, value.to(self._leaf.value.device), self._alpha)
        self._leaf.waiting.clear()

    def _serve(self) -> None:
        """Receive what has arrived; never waits."""
        trace = self._tree.ledger.trace
        if trace is not None:
            trace.begin_service()  # no rank waits for arrivals; as events they would make every step a new pattern
        self._receive_arrived()
        if trace is not None:
            trace.end_service(0, is_own=True)
        if steps := self._pace.ticks():
            self._average_leaf()
            self._send_all(steps)

    def _receive_arrived(self) -> None:
        for tag in self._edges:
            while (source := self._tree.arrived(tag)) is not None:
                buffer = torch.empty_like(self._flat.parameters, device="cpu")
                self._incoming.append((tag, buffer, self._tree.start_receive(buffer, source, tag)))
        pending = []
        for tag, buffer, request in self._incoming:
            if request.test():
                self._num_received[tag] += 1
                self._take(self._edges[tag], buffer)
            else:
                pending.append((tag, buffer, request))
        self._incoming = pending

    def _settle(self) -> None:
        """Receive all that was sent; collective."""
        self._untracked.barrier()
        self._pace.stop()  # from here on no rank sends
        num_sent = self._num_sent.clone()
        self._untracked.sum(num_sent)
        mine = torch.tensor(sorted(self._edges), dtype=torch.int64)
        # Not equality: a neighbor that has received all of its own may be sending again.
        self._untracked.wait_until(lambda: bool((self._num_received[mine] >= num_sent[mine]).all()))
        for request in self._pending.values():
            request.wait()

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return the root's place."""
        root = self._nodes.get(self._places[-1].number, self._leaf)  # only the root's rank has it
        return center(model, root.value, self._places[-1].rank, num_ranks)

    def evaluation_model(self) -> nn.Module:
        """Return the root, with the running statistics' mean over ranks; collective."""
        self._settle()
        self._average_leaf()
        root = self._nodes.get(self._places[-1].number, self._leaf)  # only the root's rank has it
        return self._evaluation_copy.load(root.value, self._places[-1].rank)

    def finalize(self) -> nn.Module:
        """Return the root."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return the nodes of this rank, what its leaf has not averaged in yet, and its counter; collective.

        All messages under way are received first.
        """
        self._settle()
        state = {
            "descent": self._descent.state_dict(),
            "inner_nodes": {n: node.value.clone() for n, node in self._nodes.items() if node is not self._leaf},
            "waiting": [value.clone() for value in self._leaf.waiting],
            "num_steps": self._pace.num_steps,
        }
        self._untracked.barrier()  # until all have copied theirs, no rank sends
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._descent.load_state_dict(state["descent"])
        for number, value in state["inner_nodes"].items():
            self._nodes[number].value.copy_(value)
        self._leaf.waiting = [value.clone() for value in state["waiting"]]
        self._pace.num_steps = state["num_steps"]
