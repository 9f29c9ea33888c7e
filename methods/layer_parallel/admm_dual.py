"""Dual-net ADMM: a network cut in two that agree on one layer (Dziwulski, 2015; source 002, chapters 5 to 9).

The chain has two groups, the trunk and the rest, which begins with the dual layer. net1 is the trunk and a copy L of
that layer; net2 is the layer itself, L', and what follows. Of the trunk's output h, with a = L(h) and a' = L'(h):

    net2 descends the task loss; h reaches it detached, so it sends no gradient into net1
    net1 descends the distance of a and a', a' being what net2 sent                                    (chapter 8)
        euclidean              1/2b sum ||a' - a||^2                                                            (9.2)
        normalised             1/2b sum ||a' - a||^2 / sqrt(||a'||^2 + ||a||^2)                                 (9.3)
        normalised_by_copy     1/2b sum ||a' - a||^2 / ||a'||                                                   (9.4)

Both take a step on every batch, or in turns of `hold` batches (9.5.3, 9.6). With `duals` it is ADMM in scaled form
(chapter 5): a dual u for every sample, both nets minimise rho/2b sum ||a - a' + u||^2 beside the task loss, and then

    u <- u + a - a'

with a and a' as they were before this batch's steps. rho may grow at the end of an epoch, when u shrinks by as much
(5.5, where beta is rho/2). What is evaluated is the trunk and net2. net1 may learn to make a small instead of alike
(9.4), or the same for all inputs: the norm of a and its spread over samples are reported, and their collapse noted.

Two ranks hold a net each; with more, each net's ranks hold a part of the samples. Bytes an iteration with batch b:
4b(d_in + d_out), h there and a' back; with duals 4b d_out more there, a + u.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.methods.common.evaluation import deterministic, evaluating
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.memory import peak_memory
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.validation import require, require_choice
from atoll.methods.layer_parallel.chain import Chain, take
from atoll.methods.layer_parallel.grouping import check_grouping
from atoll.methods.layer_parallel.rows import Rows
from atoll.methods.method import Batch, Context, Method, NotApplicable

LOSSES = ("euclidean", "normalised", "normalised_by_copy")
TRUNK, REST = 0, 1
THERE, WANTED, BACK = 1, 2, 3  # tags: h, a + u, a'
SMALLEST = 1e-3  # share of the batch's mean norm below which no norm divides: dead units make a' zero
TINY = 1e-24  # keeps 0/0 at 0
COLLAPSED = 0.1  # share of its first value below which the norm of a, or its spread, has collapsed


@dataclass(frozen=True, kw_only=True)
class AdmmDualHyperparameters:
    """Hyperparameters of the dual nets; `learning_rate` is net2's.

    Attributes:
        grouping: where the network is cut in two; the dual layer is the second group's first.
        loss: net1's.
        net1_lr: net1's learning rate, lower than net2's (9.5.3).
        hold: batches for which one net is held while the other one trains; 0 trains both on every batch.
        freeze_net1: whether net1 never trains, the comparator of 9.5.1.
        duals: whether to run true ADMM.
        rho: weight of the penalty with duals.
        rho_factor: what multiplies rho at the end of an epoch; 10 is 5.5's schedule.
        rho_max: where rho stops to grow, so that it stays a number.
    """

    grouping: str = "even"
    loss: str = "euclidean"
    net1_lr: float = 0.01
    hold: int = 0
    freeze_net1: bool = False
    duals: bool = False
    rho: float = 1.0
    rho_factor: float = 1.0
    rho_max: float = 1e6

    def __post_init__(self) -> None:
        check_grouping(self.grouping)
        require_choice("loss", self.loss, LOSSES)
        require(self.net1_lr > 0, f"net1_lr must be above 0; got {self.net1_lr}")
        require(self.hold >= 0, f"hold must be at least 0; got {self.hold}")
        require(self.rho > 0, f"rho must be above 0; got {self.rho}")
        require(self.rho_factor >= 1, f"rho_factor must be at least 1; got {self.rho_factor}")
        require(self.rho_max >= self.rho, f"rho_max must be at least rho ({self.rho}); got {self.rho_max}")
        require(
            not (self.freeze_net1 and (self.duals or self.hold)),
            "freeze_net1 trains net2 alone, so no turns are taken and no duals move: hold must be 0 and duals false; "
            f"got {self.hold} and {self.duals}",
        )
        require(
            not self.duals or self.loss == "euclidean",
            f"with duals net1's loss is the penalty of ADMM, so loss must be euclidean; got {self.loss!r}",
        )


def half_mean_square(a: Tensor, b: Tensor) -> Tensor:
    """1/2 mean ||a_n - b_n||^2 over samples n; torch's loss keeps neither differences nor squares for backward."""
    return nn.functional.mse_loss(a, b, reduction="sum") / (2 * len(a))


def distance(a: Tensor, copied: Tensor, loss: str) -> Tensor:
    """Net1's loss (9.2, 9.3, 9.4) of its layer's outputs `a` (n, ...) and those of its copy, a scalar."""
    if loss == "euclidean":
        return half_mean_square(a, copied)
    a, copied = a.flatten(1), copied.flatten(1)
    squares = (copied - a).square().sum(1)
    if loss == "normalised":
        squares = squares / (copied.square().sum(1) + a.square().sum(1)).clamp_min(TINY).sqrt()
    elif loss == "normalised_by_copy":
        norms = copied.norm(dim=1)
        squares = squares / norms.clamp_min(float(SMALLEST * norms.mean()) + TINY)
    return squares.mean() / 2


def norm_and_spread(a: Tensor) -> tuple[float, float]:
    """Sums over samples of ||a_n|| and of ||a_n - mean a||, for `a` (n, ...)."""
    a = a.flatten(1)
    if not len(a):
        return 0.0, 0.0
    return float(a.norm(dim=1).sum()), float((a - a.mean(dim=0)).norm(dim=1).sum())


def penalty(a: Tensor, copied: Tensor, u: Tensor, rho: float) -> Tensor:
    """rho/2 mean ||a - a' + u||^2, the scaled form of the augmented Lagrangian's last two terms (5.5)."""
    return rho * half_mean_square(a + u, copied)


class AdmmDual(Method[AdmmDualHyperparameters]):
    """Let two nets train on their own, and agree on a layer."""

    Hyperparameters = AdmmDualHyperparameters
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.05, "schedule": "constant"}
    layer_parallel: ClassVar[bool] = True

    @classmethod
    def keeps_samples(cls, hyperparameters: AdmmDualHyperparameters) -> bool:
        """Duals are of samples."""
        return hyperparameters.duals

    def __init__(self, hyperparameters: AdmmDualHyperparameters, context: Context) -> None:
        h = self._h = hyperparameters
        self._context = context
        self._chain = chain = Chain(context, h.grouping)
        if len(chain.groups) != 2:
            raise NotApplicable(f"admm_dual cuts the network in two; got a grouping of {len(chain.groups)} groups")
        dual = chain.layers[REST][0]
        self._layer = nn.Sequential(*dual.modules)
        self._after = nn.Sequential(*(m for layer in chain.layers[REST][1:] for m in layer.modules))
        self._copy = copy.deepcopy(self._layer)  # L, of which net2's is the original
        self._copied = FlatModel(self._copy) if TRUNK in chain.mine else None
        net1 = [flat.vector for flat in (chain.flats.get(TRUNK), self._copied) if flat is not None]
        self._optimizer1 = context.optimizers(net1, h.net1_lr) if net1 else None
        self._optimizer2 = context.optimizers([chain.flats[REST].vector]) if REST in chain.mine else None
        example = context.inputs.new_zeros((1, *chain.shapes[REST]), dtype=chain.dtype)
        self._shape = tuple(deterministic(self._layer, example).shape[1:])  # of a
        self._rows, self._u = Rows(), torch.empty(0)
        self._rho = h.rho
        self._num_steps = 0
        self._first = torch.zeros(3, dtype=torch.float64)  # of the first batch: norm, spread, samples, as below
        self._first_size: tuple[float, float] | None = None
        self._has_collapsed = False
        self._sums = torch.zeros(5, dtype=torch.float64)  # net1's loss, net2's, norm and spread of a; and samples
        self._report: dict[str, float] = {}
        self.notes = (f"{chain.describe()}; dual layer {dual.name}",)

    # A step.

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        chain = self._chain
        # Duals are kept by sample, on the rank that has it; else a net's ranks take turns in the batch.
        indices = batch.indices.cpu() if self._h.duals else torch.arange(len(batch.targets))
        if TRUNK in chain.mine:
            a = self._forward_net1(take(batch.inputs, chain.owned(TRUNK, indices)), indices)
        loss = None
        if REST in chain.mine:
            loss = self._step_net2(batch, indices)
        if TRUNK in chain.mine:
            self._step_net1(a, indices, len(batch.targets))
        self._num_steps += 1
        return chain.as_loss_of_rank(loss)

    def _trains(self, net: int) -> bool:
        """Whether a net's turn has come: net2 begins, as net1 needs something to agree with."""
        if net == 1 and self._h.freeze_net1:
            return False
        return self._h.hold == 0 or (self._num_steps // self._h.hold) % 2 == (net == 1)

    def _forward_net1(self, inputs: Tensor, indices: Tensor) -> Tensor:
        """Send h, and with duals a + u, to net2; returns a."""
        chain = self._chain
        trunk = chain.groups[TRUNK]
        with torch.set_grad_enabled(self._trains(1)), evaluating(trunk) if self._h.freeze_net1 else nullcontext():
            h = trunk(inputs)
            a: Tensor = self._copy(h)
        chain.send(h, TRUNK, REST, indices, THERE)
        if self._h.duals:
            chain.send(a + self._duals(indices, a), TRUNK, REST, indices, WANTED)
        return a

    def _duals(self, indices: Tensor, like: Tensor) -> Tensor:
        """u of this rank's samples, 0 at first."""
        mine = indices[self._chain.owned(TRUNK, indices)]
        new = mine[self._rows.are_new(mine)]
        if len(new):
            self._rows.add(new)
        if self._rows.num_rows > len(self._u):  # to twice as many, so that growing takes time in proportion
            grown = like.detach().new_zeros((2 * self._rows.num_rows, *like.shape[1:]))
            grown[: len(self._u)] = self._u.reshape(-1, *like.shape[1:])
            self._u = grown
        return self._u[self._rows.rows(mine)]

    def _step_net2(self, batch: Batch, indices: Tensor) -> Tensor:
        """Descend the task loss, and with duals the penalty; returns this rank's part of the task loss."""
        chain = self._chain
        flat, held = chain.flats[REST], chain.owned(REST, indices)
        h = chain.receive(TRUNK, REST, indices, THERE).wait()
        with torch.set_grad_enabled(self._trains(2)):
            copied = self._layer(h)
            outputs = self._after(copied)
            mean = self._context.loss(outputs, take(batch.targets, held)) if len(held) else outputs.sum()
        part = chain.part_of_mean(mean, len(held), len(indices))
        total = part
        if self._h.duals:
            wanted = chain.receive(TRUNK, REST, indices, WANTED, shape=self._shape).wait()
            pulled = self._rho * half_mean_square(wanted, copied)
            total = part + chain.part_of_mean(pulled, len(held), len(indices))
        chain.send(copied, REST, TRUNK, indices, BACK)
        if self._trains(2):
            flat.gradients.zero_()
            if len(held):
                total.backward()  # type: ignore[no-untyped-call]
            chain.sum_gradients(REST)
            assert self._optimizer2 is not None
            self._optimizer2.step()
        self._sums[1] += float(part.detach()) * len(indices)
        return part.detach()

    def _step_net1(self, a: Tensor, indices: Tensor, num_samples: int) -> None:
        """Descend the distance of a and a', and with duals move u."""
        chain, flat = self._chain, self._chain.flats[TRUNK]
        copied = chain.receive(REST, TRUNK, indices, BACK, shape=self._shape).wait()
        if self._h.duals:
            u = self._duals(indices, a)
            mean = penalty(a, copied, u, self._rho)
            rows = self._rows.rows(indices[chain.owned(TRUNK, indices)])
            self._u[rows] = u + (a - copied).detach()
        else:
            mean = distance(a, copied, self._h.loss)
        part = chain.part_of_mean(mean, len(a), num_samples)
        if self._trains(1):
            assert self._copied is not None
            assert self._optimizer1 is not None
            flat.gradients.zero_()
            self._copied.gradients.zero_()
            if len(a):
                part.backward()  # type: ignore[no-untyped-call]
            chain.sum_gradients(TRUNK)
            chain.sum_over_peers(self._copied.gradients)
            self._optimizer1.step()
        size = torch.tensor([*norm_and_spread(a.detach()), len(a)], dtype=torch.float64)
        if self._num_steps == 0:
            self._first = size
        self._sums[0] += float(part.detach()) * num_samples
        self._sums[2:] += size

    # Its schedule, and what is reported.

    def epoch_end(self, loss: float) -> None:
        """Let rho grow, add up what the ranks have seen, and look whether a has collapsed."""
        rho = min(self._rho * self._h.rho_factor, self._h.rho_max)
        if rho != self._rho:
            self._u.mul_(self._rho / rho)
        self._rho = rho
        sums = self._sums.clone()
        self._context.untracked.sum(sums)
        net1, net2, norm, spread = (float(value / sums[-1].clamp_min(1)) for value in sums[:-1])
        self._sums.zero_()
        collapsed = self._look_for_collapse(norm, spread)
        peaks = torch.zeros(self._context.communicator.size, dtype=torch.float64)
        peaks[self._context.communicator.rank] = peak_memory()
        self._context.untracked.sum(peaks)
        self._report = {f"peak_memory/rank_{rank}": float(peak) for rank, peak in enumerate(peaks)} | {
            "net1_loss": net1,
            "net2_loss": net2,
            "dual_norm": norm,
            "dual_spread": spread,
            "collapsed": float(collapsed),
            "rho_reached": self._rho,
        }

    def _look_for_collapse(self, norm: float, spread: float) -> bool:
        """Whether a has collapsed; collective the first time."""
        if self._first_size is None:
            self._context.untracked.sum(self._first)
            total, of_spread, num = self._first.tolist()
            self._first_size = total / max(1, num), of_spread / max(1, num)
        first_norm, first_spread = self._first_size
        collapsed = norm < COLLAPSED * first_norm or spread < COLLAPSED * first_spread
        if collapsed and not self._has_collapsed:
            self._has_collapsed = True
            self.notes += (
                f"net1 has collapsed (002 section 9.4): the norm of its dual layer's outputs went from {first_norm:.3g}"
                f" to {norm:.3g}, their spread over samples from {first_spread:.3g} to {spread:.3g}: its loss is small"
                " because they are alike for all inputs",
            )
        return collapsed

    def metrics(self) -> dict[str, float]:
        """Of the last epoch: both losses, norm and spread of a, whether it has collapsed; rho, and ranks' memory."""
        return self._report

    def evaluation_model(self) -> nn.Module:
        """Return the trunk and net2."""
        self._chain.settle()
        return self._chain.reassemble()

    def finalize(self) -> nn.Module:
        """Return the trunk and net2."""
        return self.evaluation_model()

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's net, its optimizer, and what the schedules depend on."""
        return {
            "groups": self._chain.state_dict(),
            "copy": self._copied.state_dict() if self._copied is not None else None,
            "optimizers": [None if o is None else saved(o) for o in (self._optimizer1, self._optimizer2)],
            "rows": self._rows.row_of.clone(),
            "u": self._u.clone(),
            "rho": self._rho,
            "num_steps": self._num_steps,
            "first": (self._first.clone(), self._first_size, self._has_collapsed),
            "sums": self._sums.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._chain.load_state_dict(state["groups"])
        if self._copied is not None:
            self._copied.load_state_dict(state["copy"])
        for optimizer, kept in zip((self._optimizer1, self._optimizer2), state["optimizers"], strict=True):
            if optimizer is not None:
                restore(optimizer, kept)
        self._rows, self._u = Rows.of(state["rows"]), state["u"].clone()
        self._rho, self._num_steps = state["rho"], state["num_steps"]
        first, self._first_size, self._has_collapsed = state["first"]
        self._first.copy_(first)
        self._sums.copy_(state["sums"])
