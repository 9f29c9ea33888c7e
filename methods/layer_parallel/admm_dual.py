"""Dual-net ADMM: a network cut in two that agree on one layer (Dziwulski 2017, chapters 5 to 9).

The chain has two groups, the trunk and the rest, which begins with the dual layer. net1 is the trunk and a copy L of
that layer; net2 is the layer itself, L', and all layers after it. Let h be the trunk's output, a = L(h), a' = L'(h):

    net2 descends the task loss; h reaches it detached, so it sends no gradient into net1
    net1 descends the distance between a and a', which net2 sends                                      (chapter 8)
        euclidean              1/2b sum ||a' - a||^2                                                     (eq. 9.2)
        normalised             1/2b sum ||a' - a||^2 / sqrt(||a'||^2 + ||a||^2)                          (eq. 9.3)
        normalised_by_copy     1/2b sum ||a' - a||^2 / ||a'||                                            (eq. 9.4)

Dropout inside the dual layer has the same masks in L and L' (each batch has a random stream of its own): with two masks
net1 would learn the mean over masks, half of a' with a dropout of 1/2.

Both nets take a step on every batch, or they take turns of `hold` batches (sections 9.5.3, 9.6). With `duals` it is
ADMM in scaled form (chapter 5): there is a dual u for every sample, both nets minimize rho/2b sum ||a - a' + u||^2 in
addition to the task loss, and then

    u <- u + a - a'

with a and a' from before this batch's steps. rho may grow at the end of an epoch, and u then shrinks by the same factor
(section 5.5, where beta is rho/2). The evaluated model is the trunk and net2. net1 may learn to make a small instead of
similar to a' (section 9.4), or equal for all inputs: so the norm of a and its spread over samples are reported, and
their collapse is noted.

With two ranks each holds one net; with more, each net's ranks share the samples. Bytes per iteration with batch size b:
4b(d_in + d_out), h forward and a' back; with duals 4b d_out more forward, a + u. If r ranks share a net of n parameters
(net1's include L), each also sends 2(r-1)/r 4n whenever the net trains, to sum its gradients.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.common.evaluation import deterministic, evaluating
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.groups import ParameterGroup, grouped, multipliers
from atoll.methods.common.memory import peak_memory
from atoll.methods.common.optimizers import restore, saved
from atoll.methods.common.random_stream import derived_seed, draws, seeded
from atoll.methods.common.validation import require, require_choice
from atoll.methods.common.weight_average import Evaluated
from atoll.methods.layer_parallel.chain import Chain, take
from atoll.methods.layer_parallel.grouping import parse_grouping
from atoll.methods.layer_parallel.rows import Rows
from atoll.methods.method import Batch, Context, Method, MetricDirections, NotApplicable

LOSSES = ("euclidean", "normalised", "normalised_by_copy")
TRUNK, REST = 0, 1
INPUTS, SHIFTED, BACK = 1, 2, 3  # message tags: h, a + u, a'
SMALLEST = 1e-3  # smallest divisor, as a share of the batch's mean norm: dead units make a' zero
TINY = 1e-24  # keeps 0/0 at 0
COLLAPSED = 0.1  # the norm of a, or its spread, has collapsed below this share of its first value


@dataclass(frozen=True, kw_only=True)
class AdmmDualHyperparameters:
    """Hyperparameters of the dual nets; `learning_rate` is net2's.

    Attributes:
        grouping: where the network is cut in two; the dual layer is the second group's first.
        loss: net1's loss.
        net1_lr: net1's learning rate, lower than net2's (Dziwulski 2017, section 9.5.3).
        hold: number of batches for which one net is held while the other trains; 0 trains both on every batch.
        freeze_net1: whether net1 never trains, a comparator (section 9.5.1).
        duals: whether to run true ADMM.
        rho: weight of the penalty with duals.
        rho_factor: factor by which rho grows at the end of every epoch, for good; 10 is the schedule of section 5.5.
        rho_max: largest rho, which keeps it finite.
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
        parse_grouping(self.grouping)
        require_choice("loss", self.loss, LOSSES)
        require(self.net1_lr > 0, f"net1_lr must be above 0; got {self.net1_lr}")
        require(self.hold >= 0, f"hold must be at least 0; got {self.hold}")
        require(self.rho > 0, f"rho must be above 0; got {self.rho}")
        require(self.rho_factor >= 1, f"rho_factor must be at least 1; got {self.rho_factor}")
        require(self.rho_max >= self.rho, f"rho_max must be at least rho ({self.rho}); got {self.rho_max}")
        require(
            not (self.freeze_net1 and (self.duals or self.hold)),
            "freeze_net1 trains net2 alone, without turns and duals, so hold must be 0 and duals false; "
            f"got {self.hold} and {self.duals}",
        )
        require(
            not self.duals or self.loss == "euclidean",
            f"with duals net1's loss is ADMM's penalty, so loss must be euclidean; got {self.loss!r}",
        )


def half_mean_square(a: Tensor, b: Tensor) -> Tensor:
    """1/2 mean ||a_n - b_n||^2 over samples n; torch's loss stores neither differences nor squares for backward."""
    return nn.functional.mse_loss(a, b, reduction="sum") / (2 * len(a))


def distance(a: Tensor, a_prime: Tensor, loss: str) -> Tensor:
    """Net1's loss, a scalar, of its outputs `a` (n, ...) and net2's (Dziwulski 2017, eqs. 9.2 to 9.4)."""
    if loss == "euclidean":
        return half_mean_square(a, a_prime)
    a, a_prime = a.flatten(1), a_prime.flatten(1)
    squares = (a_prime - a).square().sum(1)
    if loss == "normalised":
        squares = squares / (a_prime.square().sum(1) + a.square().sum(1)).clamp_min(TINY).sqrt()
    elif loss == "normalised_by_copy":
        norms = a_prime.norm(dim=1)
        squares = squares / norms.clamp_min(float(SMALLEST * norms.mean()) + TINY)
    return squares.mean() / 2


def norm_and_spread(a: Tensor) -> tuple[float, float]:
    """Sums over samples of ||a_n|| and of ||a_n - mean a||, for `a` (n, ...)."""
    a = a.flatten(1)
    if not len(a):
        return 0.0, 0.0
    return float(a.norm(dim=1).sum()), float((a - a.mean(dim=0)).norm(dim=1).sum())


def penalty(a: Tensor, a_prime: Tensor, u: Tensor, rho: float) -> Tensor:
    """rho/2 mean ||a - a' + u||^2, the last two terms of the augmented Lagrangian in scaled form (section 5.5)."""
    return rho * half_mean_square(a + u, a_prime)


@dataclass
class _Totals:
    """Sums over an epoch's samples; each rank adds those that it computes."""

    net1_loss: float = 0.0
    net2_loss: float = 0.0
    dual_norm: float = 0.0
    dual_spread: float = 0.0
    num_samples: float = 0.0

    def means(self, communicator: Communicator) -> dict[str, float]:
        """The means over the samples of all ranks, by name; collective."""
        sums = torch.tensor(list(asdict(self).values()), dtype=torch.float64)
        communicator.sum(sums)
        totals = _Totals(*sums.tolist())
        num_samples = max(1.0, totals.num_samples)
        return {name: total / num_samples for name, total in asdict(totals).items() if name != "num_samples"}


class CollapseDetector:
    """Compares the norm and spread of net1's dual outputs with their values on the first batch.

    net1's loss is also small if its outputs are small (Dziwulski 2017, section 9.4) or equal for all inputs.

    Attributes:
        has_collapsed: whether a collapse has ever been detected.
    """

    def __init__(self) -> None:
        self._first_totals = torch.zeros(3, dtype=torch.float64)  # norm, spread and number of this rank's samples
        self._first: tuple[float, float] | None = None  # mean norm and spread over the ranks
        self.has_collapsed = False

    def start(self, norm: float, spread: float, num_samples: int) -> None:
        """Take the sums over this rank's samples of the first batch."""
        self._first_totals = torch.tensor([norm, spread, num_samples], dtype=torch.float64)

    def update(self, norm: float, spread: float, communicator: Communicator) -> bool:
        """Whether an epoch's mean norm or spread has collapsed; collective at the first call."""
        if self._first is None:
            communicator.sum(self._first_totals)
            total_norm, total_spread, num_samples = self._first_totals.tolist()
            self._first = total_norm / max(1, num_samples), total_spread / max(1, num_samples)
        collapsed = norm < COLLAPSED * self._first[0] or spread < COLLAPSED * self._first[1]
        self.has_collapsed = self.has_collapsed or collapsed
        return collapsed

    def describe(self, norm: float, spread: float) -> str:
        """The collapse in words."""
        assert self._first is not None
        return (
            "net1 has collapsed (Dziwulski 2017, section 9.4): the norm of its dual layer's outputs went from "
            f"{self._first[0]:.3g} to {norm:.3g}, their spread over samples from {self._first[1]:.3g} to {spread:.3g}: "
            "its loss is small because its outputs are alike for all inputs"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the first batch's values, and whether a collapse has been detected."""
        return {
            "first_totals": self._first_totals.clone(),
            "first": self._first,
            "has_collapsed": self.has_collapsed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._first_totals = state["first_totals"].to("cpu", copy=True)
        self._first, self.has_collapsed = state["first"], state["has_collapsed"]


class AdmmDual(Method[AdmmDualHyperparameters]):
    """Train two nets separately, and let them agree on a layer."""

    Hyperparameters = AdmmDualHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("net1_lr", "rho")
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.05, "schedule": "constant"}
    metric_directions: ClassVar[MetricDirections] = {
        "net1_loss": "minimize",
        "net2_loss": "minimize",
        "dual_norm": None,
        "dual_spread": None,
        "collapsed": "minimize",
        "rho_reached": None,
    }
    layer_parallel: ClassVar[bool] = True

    @classmethod
    def keeps_samples(cls, hyperparameters: AdmmDualHyperparameters) -> bool:
        """With duals, as every sample has one."""
        return hyperparameters.duals

    def __init__(self, hyperparameters: AdmmDualHyperparameters, context: Context) -> None:
        h = self._hyperparameters = hyperparameters
        self._context = context
        self._chain = chain = Chain(context, h.grouping)
        if len(chain.groups) != 2:
            raise NotApplicable(f"admm_dual cuts the network in two; got a grouping of {len(chain.groups)} groups")
        dual = chain.layers[REST][0]
        self._layer = nn.Sequential(*dual.modules)
        self._after = nn.Sequential(*(m for layer in chain.layers[REST][1:] for m in layer.modules))
        self._copy = copy.deepcopy(self._layer)  # L; net2 has the original L'
        self._copy_flat = FlatModel(self._copy, self._groups_of_copy()) if TRUNK in chain.mine else None
        net1 = [flat for flat in (chain.flats.get(TRUNK), self._copy_flat) if flat is not None]
        self._optimizer1 = context.optimizers(net1, h.net1_lr) if net1 else None
        self._optimizer2 = context.optimizers(chain.flats[REST]) if REST in chain.mine else None
        # Two samples, as batch normalization takes no fewer in training mode.
        example = context.inputs.new_zeros((2, *chain.shapes[REST]), dtype=chain.dtype)
        self._shape = tuple(deterministic(self._layer, example).shape[1:])  # one sample's a
        self._draws = draws(self._layer, example)
        self._rows, self._u = Rows(), torch.empty(0)
        self._rho = h.rho
        self._num_steps = 0
        self._collapse = CollapseDetector()
        self._totals = _Totals()
        self._report: dict[str, float] = {}
        self.notes = (f"{chain.describe()}; dual layer {dual.name}",)

    def _groups_of_copy(self) -> list[ParameterGroup]:
        """The parameters of L, in the groups of those of L'."""
        of_network = self._context.groups(self._context.model)
        factors = multipliers(of_network, ((n, p) for n, p in self._layer.named_parameters() if p.requires_grad))
        return grouped((p for p in self._copy.parameters() if p.requires_grad), factors)

    # A step.

    def step(self, batch: Batch) -> Tensor:
        """Train on one batch."""
        chain = self._chain
        # Duals stay with their sample's rank; without them, positions in the batch give the ranks equal shares.
        indices = batch.indices.cpu() if self._hyperparameters.duals else torch.arange(len(batch.targets))
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
        """Whether it is the turn of `net`: net2 begins, as net1 needs a target."""
        if net == 1 and self._hyperparameters.freeze_net1:
            return False
        return self._hyperparameters.hold == 0 or (self._num_steps // self._hyperparameters.hold) % 2 == (net == 1)

    def _forward_net1(self, inputs: Tensor, indices: Tensor) -> Tensor:
        """Send h, and with duals a + u, to net2; return a."""
        chain = self._chain
        trunk = chain.groups[TRUNK]
        with (
            torch.set_grad_enabled(self._trains(1)),
            evaluating(trunk) if self._hyperparameters.freeze_net1 else nullcontext(),
        ):
            h = trunk(inputs)
            a = self._dual(self._copy, h, TRUNK, indices)
        chain.send(h, TRUNK, REST, indices, INPUTS)
        if self._hyperparameters.duals:
            chain.send(a + self._duals(indices, a), TRUNK, REST, indices, SHIFTED)
        return a

    def _dual(self, layer: nn.Module, h: Tensor, group: int, indices: Tensor) -> Tensor:
        """The outputs of L or L' for this rank's samples, with the same dropout masks in both.

        A mask depends on the shape and layout of all that is drawn with it. So a pass with masks is of those samples
        that are on one rank of either net, which are all of this rank's if both nets have as many ranks.
        """
        if not self._draws or not len(h):
            outputs: Tensor = layer(h)
            return outputs
        chain = self._chain
        common = math.lcm(*(len(ranks) for ranks in chain.ranks_of))
        places = indices[chain.owned(group, indices)] % common
        parts, positions = [], []
        for place in torch.unique(places).tolist():
            here = torch.nonzero(places == place).flatten()
            with seeded(h.device, derived_seed(self._context.seed, self._num_steps, place)):
                parts.append(layer(take(h, here).contiguous()))
            positions.append(here)
        return parts[0] if len(parts) == 1 else torch.cat(parts)[torch.cat(positions).argsort()]

    def _duals(self, indices: Tensor, like: Tensor) -> Tensor:
        """The duals u of this rank's samples; 0 at first."""
        mine = indices[self._chain.owned(TRUNK, indices)]
        new = mine[self._rows.are_new(mine)]
        if len(new):
            self._rows.add(new)
        if self._rows.num_rows > len(self._u):  # doubles, so that growing takes linear time in all
            grown = like.detach().new_zeros((2 * self._rows.num_rows, *like.shape[1:]))
            grown[: len(self._u)] = self._u.reshape(-1, *like.shape[1:])
            self._u = grown
        return self._u[self._rows.rows(mine)]

    def _step_net2(self, batch: Batch, indices: Tensor) -> Tensor:
        """Descend the task loss, and with duals the penalty; return this rank's part of the task loss."""
        chain = self._chain
        flat, held = chain.flats[REST], chain.owned(REST, indices)
        h = chain.receive(TRUNK, REST, indices, INPUTS).wait()
        with torch.set_grad_enabled(self._trains(2)):
            a_prime = self._dual(self._layer, h, REST, indices)
            outputs = self._after(a_prime)
            mean = self._context.loss(outputs, take(batch.targets, held)) if len(held) else outputs.sum()
        part = chain.part_of_mean(mean, len(held), len(indices))
        total = part
        if self._hyperparameters.duals:
            shifted = chain.receive(TRUNK, REST, indices, SHIFTED, shape=self._shape).wait()
            mean_penalty = self._rho * half_mean_square(shifted, a_prime)
            total = part + chain.part_of_mean(mean_penalty, len(held), len(indices))
        chain.send(a_prime, REST, TRUNK, indices, BACK)
        if self._trains(2):
            flat.gradients.zero_()
            if len(held):
                total.backward()  # type: ignore[no-untyped-call]
                self._context.work.add(len(held), REST)
            chain.sum_gradients(REST)
            assert self._optimizer2 is not None
            self._optimizer2.step()
        self._totals.net2_loss += float(part.detach()) * len(indices)
        return part.detach()

    def _step_net1(self, a: Tensor, indices: Tensor, num_samples: int) -> None:
        """Descend the distance between a and a', and with duals update u."""
        chain, flat = self._chain, self._chain.flats[TRUNK]
        a_prime = chain.receive(REST, TRUNK, indices, BACK, shape=self._shape).wait()
        if self._hyperparameters.duals:
            u = self._duals(indices, a)
            mean = penalty(a, a_prime, u, self._rho)
            rows = self._rows.rows(indices[chain.owned(TRUNK, indices)])
            self._u[rows] = u + (a - a_prime).detach()
        else:
            mean = distance(a, a_prime, self._hyperparameters.loss)
        part = chain.part_of_mean(mean, len(a), num_samples)
        if self._trains(1):
            assert self._copy_flat is not None
            assert self._optimizer1 is not None
            flat.gradients.zero_()
            self._copy_flat.gradients.zero_()
            if len(a):
                part.backward()  # type: ignore[no-untyped-call]
                self._context.work.add(len(a), TRUNK)
            chain.sum_gradients(TRUNK)
            chain.sum_over_peers(self._copy_flat.gradients)
            self._optimizer1.step()
        norm, spread = norm_and_spread(a.detach())
        if self._num_steps == 0:
            self._collapse.start(norm, spread, len(a))
        self._totals.net1_loss += float(part.detach()) * num_samples
        self._totals.dual_norm += norm
        self._totals.dual_spread += spread
        self._totals.num_samples += len(a)

    # Schedule, reports and state.

    def _grow(self, factor: float) -> None:
        """Multiply rho, up to its largest value; u is in units of 1/rho."""
        rho = min(self._rho * factor, self._hyperparameters.rho_max)
        if rho != self._rho:
            self._u.mul_(self._rho / rho)
        self._rho = rho

    def epoch_end(self, loss: float) -> None:
        """Let rho grow, average the ranks' losses, and detect a collapse of a."""
        self._grow(self._hyperparameters.rho_factor)
        untracked, num_ranks = self._context.untracked, self._context.communicator.size
        means = self._totals.means(untracked)
        self._totals = _Totals()
        norm, spread, had_collapsed = means["dual_norm"], means["dual_spread"], self._collapse.has_collapsed
        collapsed = self._collapse.update(norm, spread, untracked)
        if collapsed and not had_collapsed:
            self.notes += (self._collapse.describe(norm, spread),)
        peaks = torch.zeros(num_ranks, dtype=torch.float64)
        peaks[self._context.communicator.rank] = peak_memory()
        untracked.sum(peaks)
        self._report = {f"peak_memory/rank_{rank}": float(peak) for rank, peak in enumerate(peaks)}
        self._report |= means | {"collapsed": float(collapsed), "rho_reached": self._rho}

    def metrics(self) -> dict[str, float]:
        """Return the last epoch's losses, norm and spread of a, whether they have collapsed, rho, and peak memory."""
        return self._report

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return the groups' places."""
        return self._chain.evaluated()

    def evaluation_model(self) -> nn.Module:
        """Return the trunk and net2."""
        self._chain.settle()
        return self._chain.reassemble()

    def finalize(self) -> nn.Module:
        """Return the trunk and net2."""
        return self.evaluation_model()

    def _optimizers(self) -> tuple[torch.optim.Optimizer | None, torch.optim.Optimizer | None]:
        return self._optimizer1, self._optimizer2

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's net, its optimizer and duals, and the state of its schedules and reports; collective."""
        self._chain.settle()
        return {
            "groups": self._chain.state_dict(),
            "copy": self._copy_flat.state_dict() if self._copy_flat is not None else None,
            "optimizers": [None if o is None else saved(o) for o in self._optimizers()],
            "rows": self._rows.row_of.clone(),
            "u": self._u.clone(),
            "rho": self._rho,
            "num_steps": self._num_steps,
            "collapse": self._collapse.state_dict(),
            "totals": asdict(self._totals),
            "report": dict(self._report),
            "notes": self.notes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._chain.load_state_dict(state["groups"])
        if self._copy_flat is not None:
            self._copy_flat.load_state_dict(state["copy"])
        for optimizer, optimizer_state in zip(self._optimizers(), state["optimizers"], strict=True):
            if optimizer is not None:
                restore(optimizer, optimizer_state)
        self._rows, self._u = Rows.of(state["rows"]), state["u"].to(self._chain.device, copy=True)
        self._rho, self._num_steps = state["rho"], state["num_steps"]
        self._collapse.load_state_dict(state["collapse"])
        self._totals = _Totals(**state["totals"])
        self._report, self.notes = dict(state["report"]), tuple(state["notes"])

    def change(self, before: AdmmDualHyperparameters) -> None:
        """Scale rho, which may have grown, as its first value has changed."""
        self._grow(self._hyperparameters.rho / before.rho)
