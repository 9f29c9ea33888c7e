"""DASO: Distributed, Asynchronous, and Selective Optimization (Coquelin et al. 2022; Coquelin 2024, chapter 3).

1. At every batch the gradients are averaged inside each node, then the local optimizer steps.
2. Every B batches one rank per node starts a non-blocking sum of its parameters over the nodes; the group of ranks that
   does so rotates (A, B, C, ...). After S more steps the sum is merged with the current parameters,

       x <- (2S x_local + sum_i x_i_sent) / (2S + P)        (eq. 3.2, with P nodes)

   and broadcast inside the node. S=0 is the blocking mean. At S=B the merge comes before the next send.
3. Warm-up and cool-down epochs use the blocking mean at every batch, in a communication dtype of its own. In bfloat16
   an update below 2^-9 of a weight would be lost at every batch; in float32, the default, these phases equal ddp for
   SGD. Coquelin 2024 sends 16 bits there, too.
4. The adaptive schedule halves B and S on a plateau of the training loss; a plateau at B=1 resets both.

The index of eq. 3.2 is one step earlier than the text around it; like the text and the authors' code, this file merges
after S completed steps.

Bytes per step and rank, with G ranks per node and w bytes per element of the communication dtype: in the node
2(G-1)/G 4n for gradients and 4n (G-1)/(G B) for the broadcast; between nodes 2(P-1)/P w n / (B G), as one rank in G
sends; B is 1 in warm-up and cool-down. If the model has running statistics, they are averaged in the node and sent with
the parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Request
from atoll.methods.common.effects import TrainingShape, idle
from atoll.methods.common.flat import WIRE_DTYPES
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.plateau import Plateau
from atoll.methods.common.validation import require, require_choice
from atoll.methods.method import Batch, Context, Method, NotApplicable


@dataclass(frozen=True, kw_only=True)
class DasoHyperparameters:
    """Hyperparameters of DASO (Coquelin 2024, section 3.2 and table 3.1).

    Attributes:
        B: batches between two global synchronizations.
        S: batches between sending and merging, 0..B.
        warmup_epochs, cooldown_epochs: first and last epochs with a blocking mean at every batch.
        wire: communication dtype of the parameters between nodes, while cycling.
        blocking_wire: the same in warm-up and cool-down.
        adaptive: whether B and S follow the training loss.
        plateau_threshold: relative improvement below which an epoch counts as bad.
        plateau_patience: consecutive bad epochs that are tolerated.
    """

    B: int = 4
    S: int = 1
    warmup_epochs: int = 4
    cooldown_epochs: int = 4
    wire: str = "bfloat16"
    blocking_wire: str = "float32"
    adaptive: bool = True
    plateau_threshold: float = 0.05
    plateau_patience: int = 2

    def __post_init__(self) -> None:
        require(self.B >= 1, f"B must be at least 1; got {self.B}")
        require(0 <= self.S <= self.B, f"S must be in 0..B (B is {self.B}); got {self.S}")
        require(self.warmup_epochs >= 0, f"warmup_epochs must be at least 0; got {self.warmup_epochs}")
        require(self.cooldown_epochs >= 0, f"cooldown_epochs must be at least 0; got {self.cooldown_epochs}")
        require_choice("wire", self.wire, tuple(WIRE_DTYPES))
        require_choice("blocking_wire", self.blocking_wire, tuple(WIRE_DTYPES))
        require(0 <= self.plateau_threshold < 1, f"plateau_threshold must be in [0, 1); got {self.plateau_threshold}")
        require(self.plateau_patience >= 0, f"plateau_patience must be at least 0; got {self.plateau_patience}")


def merge(local: Tensor, total: Tensor, num_steps: int, num_nodes: int) -> None:
    """Merge the received sum into the local parameters, in place (Coquelin 2024, eq. 3.2).

    Args:
        local: (n,) the current parameters; overwritten.
        total: (n,) the sum of the parameters sent by all nodes.
        num_steps: S, steps completed since then.
        num_nodes: P.
    """
    weight = 1 / (2 * num_steps + num_nodes)
    local.mul_(2 * num_steps * weight).add_(total, alpha=weight)


def halve(B: int, S: int, initial: tuple[int, int]) -> tuple[int, int]:
    """The adaptive schedule's next (B, S) after a plateau: halved, not below 1 (S=0 stays); reset at B=1."""
    if B == 1:
        return initial
    return max(1, B // 2), max(min(1, S), S // 2)


@dataclass
class _Sent:
    """A pending global synchronization.

    Attributes:
        group: which rank of each node sends.
        step: the sending step.
        wait: S, the steps until the merge.
        total: the sum, on the senders.
        request: completes the sum, on the senders; None once a checkpoint has received it.
    """

    group: int
    step: int
    wait: int
    total: Tensor | None
    request: Request | None

    def wait_for_total(self) -> None:
        """Return when `total` is the sum."""
        if self.request is not None:
            self.request.wait()

    def state_dict(self) -> dict[str, Any]:
        """Wait for the sum, and return it with its step."""
        self.wait_for_total()
        total = None if self.total is None else self.total.clone()
        return {"group": self.group, "step": self.step, "wait": self.wait, "total": total}

    @classmethod
    def of(cls, state: dict[str, Any], like: Tensor) -> _Sent:
        """The synchronization that `state_dict` returned; its sum goes next to `like`."""
        total = None if state["total"] is None else state["total"].to(like, copy=True)
        return cls(state["group"], state["step"], state["wait"], total, None)


class Daso(Method[DasoHyperparameters]):
    """Average gradients in the node at every step, and parameters between nodes now and then, without waiting."""

    Hyperparameters = DasoHyperparameters
    takes_turns: ClassVar[bool] = True
    mutable: ClassVar[tuple[str, ...]] = ("B", "S")

    @classmethod
    def without_effect(cls, hyperparameters: DasoHyperparameters, shape: TrainingShape) -> Mapping[str, str]:
        """All of them on one node, where DASO is ddp; the cycle's where warm-up and cool-down leave none."""
        h = hyperparameters
        cycle = ("B", "S", "adaptive", "plateau_threshold", "plateau_patience")
        if shape.num_nodes == 1:
            why = "all ranks are on one node, where daso is ddp; a smaller ranks_per_node makes more nodes"
            return idle((*cycle, "warmup_epochs", "cooldown_epochs", "wire", "blocking_wire"), why)
        if shape.num_epochs is not None and h.warmup_epochs + h.cooldown_epochs >= shape.num_epochs:
            phases = f"warmup_epochs ({h.warmup_epochs}) and cooldown_epochs ({h.cooldown_epochs})"
            return idle(
                (*cycle, "wire"), f"{phases} cover all {shape.num_epochs} epochs, in which every batch is blocking"
            )
        return {} if h.adaptive else idle(("plateau_threshold", "plateau_patience"), "adaptive is false")

    def __init__(self, hyperparameters: DasoHyperparameters, context: Context) -> None:
        self._hyperparameters = hyperparameters
        self._context = context
        everyone = context.communicator
        self._num_nodes, self._ranks_per_node = _grid(everyone.nodes)
        self._node = everyone.split(everyone.nodes[everyone.rank], spans="node")
        self._group = everyone.split(self._node.rank, spans="peers")
        self._flat = context.flatten()
        self._optimizer = context.optimizers(self._flat)
        self._wire = WIRE_DTYPES[hyperparameters.wire]
        self._blocking_wire = WIRE_DTYPES[hyperparameters.blocking_wire]
        self._plateau = Plateau(hyperparameters.plateau_threshold, hyperparameters.plateau_patience)
        self._B, self._S = hyperparameters.B, hyperparameters.S
        self._epoch = 0
        self._step = 0
        self._last_send = 0
        self._next_group = 0
        self._sent: _Sent | None = None
        self._differ = False

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        loss = self._context.gradient(batch, self._flat)
        self._node.mean(self._flat.gradients)
        self._optimizer.step()
        self._step += 1
        self._differ = True
        if self._cycling:
            self._cycle()
        else:
            self._synchronize()
        return loss

    @property
    def _cycling(self) -> bool:
        h = self._hyperparameters
        return h.warmup_epochs <= self._epoch < self._context.num_epochs - h.cooldown_epochs

    def _cycle(self) -> None:
        if self._sent and self._step - self._sent.step >= self._sent.wait:
            self._receive()
        elif self._sent and self._sent.request:
            self._sent.request.test()  # MPI progresses only when it is called
        if self._sent is None and self._step - self._last_send >= self._B:
            self._send(self._S, self._wire)
            if self._S == 0:
                self._receive()

    def _synchronize(self) -> None:
        """The blocking mean, after a pending merge."""
        if self._sent:
            self._receive()
        self._send(0, self._blocking_wire)
        self._receive()
        self._differ = False

    def _send(self, wait: int, wire: torch.dtype | None) -> None:
        statistics = self._flat.statistics
        if statistics.numel():  # of batch normalization: each rank has those of its own samples
            self._node.mean(statistics)
        group, self._next_group = self._next_group, (self._next_group + 1) % self._ranks_per_node
        total = request = None
        if self._node.rank == group:
            total = self._flat.state.clone()
            request = self._group.start_sum(total, wire=wire)
        self._sent = _Sent(group, self._step, wait, total, request)
        self._last_send = self._step

    def _receive(self) -> None:
        assert self._sent is not None
        sent, self._sent = self._sent, None
        if sent.total is not None:
            sent.wait_for_total()
            if self._num_nodes > 1:  # a node alone would merge with its own past
                merge(self._flat.state, sent.total, self._step - sent.step, self._num_nodes)
        self._node.broadcast(self._flat.state, sent.group)

    def epoch_end(self, loss: float) -> None:
        """Adapt B and S to the training loss, while cycling."""
        if self._hyperparameters.adaptive and self._cycling and self._plateau.update(loss):
            initial = self._hyperparameters.B, self._hyperparameters.S
            self._B, self._S = halve(self._B, self._S, initial)
        self._epoch += 1

    def evaluation_model(self) -> nn.Module:
        """Return this rank's replica; they differ between nodes while cycling."""
        return self._context.model

    def finalize(self) -> nn.Module:
        """Merge a pending sum, average replicas that differ, and return the model."""
        if self._sent:
            self._receive()
        if self._differ:
            self._synchronize()
        return self._context.model

    def state_dict(self) -> dict[str, Any]:
        """Return model, optimizer, a pending sum, schedule and counters; collective, as it waits for that sum."""
        return {
            "model": self._flat.state_dict(),
            "optimizer": saved(self._optimizer),
            "sent": None if self._sent is None else self._sent.state_dict(),
            "plateau": self._plateau.state_dict(),
            "counters": [self._B, self._S, self._epoch, self._step, self._last_send, self._next_group, self._differ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._flat.load_state_dict(state["model"])
        restore(self._optimizer, state["optimizer"])
        self._sent = None if state["sent"] is None else _Sent.of(state["sent"], self._flat.state)
        self._plateau.load_state_dict(state["plateau"])
        (self._B, self._S, self._epoch, self._step, self._last_send, self._next_group, self._differ) = state["counters"]

    def change(self, before: DasoHyperparameters) -> None:
        """Scale B and S, which plateaus may have halved, as their first values have changed."""
        h = self._hyperparameters
        self._B = max(1, round(self._B * h.B / before.B))
        S = round(self._S * h.S / before.S) if before.S else h.S
        self._S = min(self._B, max(min(1, h.S), S))  # only an S of 0 blocks


def _grid(nodes: tuple[int, ...]) -> tuple[int, int]:
    """Number of nodes and ranks per node; every node must have as many ranks as the others."""
    counts = Counter(nodes)
    if len(set(counts.values())) != 1:
        raise NotApplicable(f"daso needs as many ranks on each node; the worker's nodes have {sorted(counts.values())}")
    return len(counts), counts[nodes[0]]
