"""MAC: the method of auxiliary coordinates (Carreira-Perpinan and Wang 2014), decoupled (Martin 2024, chapters 3, 4).

The network is a chain of groups f_0 .. f_{G-1}. Every sample has auxiliary coordinates z_1 .. z_{G-1}, the inputs of
all groups but the first (z_0 = x). They start as the values of a forward pass and are kept from epoch to epoch. An
epoch consists of

    W-step   theta_l <- argmin 1/N sum ||z_{l+1} - f_l(z_l)||^2, the mean task loss for l = G-1        (eqs. 3.3, 3.13)
    Z-step   z_l <- argmin of a sum over samples, where f_{G-1} has the task loss L in place of a residual:
               one_term  mu/2 ||z_{l+1} - f_l(z_l)||^2, and 1/2 L for l = G-1                         (eqs. 3.12, 3.16)
               two_term  one_term + mu/2 ||z_l - f_{l-1}(z_{l-1})||^2, all neighbors fixed             (eqs. 3.9, 3.15)
               coupled   two_term for all l together: neighbors move with every iteration              (eqs. 3.5, 3.14)

Each step makes several passes over the data with an optimizer of its own, by default Adam. Dropout acts in W-steps only
(section 3.3.3). mu grows tenfold when the training loss does not fall.

Groups are placed on ranks (`chain.py`), and coordinates where they are needed: z_l with f_l, and a copy with f_{l-1} as
its targets. All W-steps run at once, then all Z-steps (figures 3.1, 3.2). In two_term f_{l-1}(z_{l-1}) is computed once
and sent ahead, which is less than the parameters and coordinates that figure 3.1 sends; updated coordinates return
while the next ones are minimized. coupled exchanges both in every iteration.

Before the first Z-step all residuals are zero, as coordinates are the groups' outputs, and each Z-step makes them
nonzero one group further down (coupled: each of its iterations). Minimizing a zero residual would only minimize
rounding errors, which Adam turns into full-size steps. So these steps are skipped, unless training mode or weight decay
make the residuals nonzero.

With a learning-rate schedule all rates of an epoch are those of its last step.

Bytes per epoch and boundary with N samples, d values per coordinate and w bytes per value: one_term w N d back;
two_term also w N d forward; coupled both in every Z iteration. The samples' first forward pass sends w N d, once.

With more ranks than groups, the r ranks of a group share its samples, and sum its gradients after every batch of every
W-step: each sends 2(r-1)/r 4n W B more per epoch, for the group's n parameters, W passes and B batches. That is
data-parallel training inside a group, and usually far more than the coordinates: as many groups as ranks avoid it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from atoll.methods.common.evaluation import deterministic
from atoll.methods.common.flat import WIRE_DTYPES
from atoll.methods.common.plateau import Plateau
from atoll.methods.common.validation import require, require_choice
from atoll.methods.common.weight_average import Evaluated
from atoll.methods.layer_parallel.chain import Chain
from atoll.methods.layer_parallel.grouping import parse_grouping
from atoll.methods.layer_parallel.mac_report import report
from atoll.methods.layer_parallel.mac_state import (
    GroupSettings,
    MacState,
    Part,
    acts_in_training,
    gather,
    initialize,
)
from atoll.methods.layer_parallel.mac_steps import CoupledZStep, WStep, ZStep
from atoll.methods.layer_parallel.rows import Rows
from atoll.methods.method import Batch, Context, Method, MetricDirections, NotApplicable

VARIANTS = ("coupled", "two_term", "one_term")
ALL_BUT_FIRST = "group but the first"


@dataclass(frozen=True, kw_only=True)
class MacHyperparameters:
    """Hyperparameters of MAC; `learning_rate` is the rate of the last group's W-step.

    The defaults are the best settings of Martin 2024, table 4.4.

    Attributes:
        variant: form of the Z-step.
        grouping: how the network is cut: first, last, even, balanced, counts such as 1,5, or at:NAMES.
        num_groups: number of groups for first, last, even and balanced.
        w_lr: learning rate of the W-steps of all groups but the last.
        w_iterations: passes over the data in the W-steps of all groups but the last.
        w_iterations_last: passes over the data in the last group's W-step.
        z_lr, z_iterations: learning rate of the Z-steps, and their passes.
        w_lrs, w_iterations_each, z_lrs, z_iterations_each: one value per group instead, separated by commas; for
            Z-steps from the second group on.
        mu: weight of the residuals at the start.
        mu_factor: factor by which mu grows after an epoch whose training loss is not below the best one by the share
            mu_threshold; it never shrinks. 1 keeps mu.
        mu_threshold: smallest relative improvement of the training loss that keeps mu.
        mu_max: largest mu, which keeps it finite.
        z_batch_size: samples per batch of a Z-step, which are independent of one another; 0 for the global batch size.
        coordinates: dtype in which coordinates are sent, and kept as targets; float32 means the network's own dtype.
            The coordinates being minimized keep the network's dtype, as steps of z_lr would be rounded away.
    """

    variant: str = "two_term"
    grouping: str = "first"
    num_groups: int = 2
    w_lr: float = 3.4e-4
    w_iterations: int = 67
    w_iterations_last: int = 67
    z_lr: float = 3e-5
    z_iterations: int = 1
    w_lrs: str = ""
    w_iterations_each: str = ""
    z_lrs: str = ""
    z_iterations_each: str = ""
    mu: float = 1.0
    mu_factor: float = 10.0
    mu_threshold: float = 0.01
    mu_max: float = 1e6
    z_batch_size: int = 0
    coordinates: str = "float32"

    def __post_init__(self) -> None:
        require_choice("variant", self.variant, VARIANTS)
        require_choice("coordinates", self.coordinates, tuple(WIRE_DTYPES))
        parse_grouping(self.grouping)
        for name in ("z_batch_size", "mu_threshold"):
            require(getattr(self, name) >= 0, f"{name} must be at least 0; got {getattr(self, name)}")
        for name in ("w_lr", "z_lr", "mu"):
            require(getattr(self, name) > 0, f"{name} must be above 0; got {getattr(self, name)}")
        for name in ("w_iterations", "w_iterations_last", "z_iterations", "mu_factor", "num_groups"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
        require(self.mu_max >= self.mu, f"mu_max must be at least mu ({self.mu}); got {self.mu_max}")


def per_group(
    name: str, given: str, defaults: Sequence[float], *, counts: bool = False, groups: str = "group"
) -> list[float]:
    """The numbers listed in `given`, one for each of `defaults`. Default: `defaults`.

    Raises:
        NotApplicable: if there is not exactly one positive value per group (an integer if `counts`).
    """
    if not given:
        return list(defaults)
    try:
        values = [float(value) for value in given.split(",")]
    except ValueError:
        values = []
    valid = all(0 < value < math.inf and (not counts or value.is_integer()) for value in values)
    if len(values) != len(defaults) or not valid:
        kind = "integers" if counts else "numbers"
        raise NotApplicable(f"{name} must list {len(defaults)} {kind} above 0, one for each {groups}; got {given!r}")
    return values


class Mac(Method[MacHyperparameters]):
    """Train each group on its own, and let coordinates tell it what the other groups need."""

    Hyperparameters = MacHyperparameters
    mutable: ClassVar[tuple[str, ...]] = ("w_lr", "w_iterations", "w_iterations_last", "z_lr", "z_iterations", "mu")
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "learning_rate": 6.7e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
    }
    metric_directions: ClassVar[MetricDirections] = {
        "idle_share": "minimize",
        "mu_reached": None,
        "predicted_speedup": "maximize",
        "predicted_speedup_unequal": "maximize",
        "measured_speedup": "maximize",
    }
    layer_parallel: ClassVar[bool] = True
    # W- and Z-steps come before the epoch's first loss, so there is nothing to cut between two losses.
    resumable_within_epoch: ClassVar[bool] = False
    # One group that trains well while the other hardly does looks better at first than two that both train. So Martin
    # 2024 (section 4.3) trains every trial until its loss stops falling, and then ends those above the others' median.
    pruning: ClassVar[Mapping[str, Any]] = {"rule": "median", "while_falling": False}

    @classmethod
    def keeps_samples(cls, hyperparameters: MacHyperparameters) -> bool:
        """True: every sample has coordinates."""
        return True

    def __init__(self, hyperparameters: MacHyperparameters, context: Context) -> None:
        h = self._hyperparameters = hyperparameters
        self._context = context
        self._chain = chain = Chain(context, h.grouping, h.num_groups)
        has_weight_decay = context.optimizers.settings.weight_decay > 0
        self._state = MacState(
            context=context,
            chain=chain,
            settings=_group_settings(h, len(chain.groups), context.optimizers.settings.learning_rate),
            parts={g: Part(g) for g in chain.mine},
            target_dtype=WIRE_DTYPES[h.coordinates] or chain.dtype,
            is_deterministic=not has_weight_decay and not any(map(acts_in_training, context.model.modules())),
            mu=h.mu,
        )
        self._w_step = WStep(self._state)
        self._z_step: ZStep | CoupledZStep
        if h.variant == "coupled":
            self._z_step = CoupledZStep(self._state, h.z_batch_size)
        else:
            self._z_step = ZStep(self._state, h.z_batch_size, is_two_term=h.variant == "two_term")
        self._plateau = Plateau(h.mu_threshold, 0)
        self._report: dict[str, float] = {}
        self.notes = (
            chain.describe(),
            "mac keeps coordinates for every sample, so random augmentation, where the workload has any, is off",
        )

    def step(self, batch: Batch) -> Tensor:
        """Train an epoch of a single batch."""
        return next(self.epoch(iter([batch])))

    def epoch(self, batches: Iterator[Batch]) -> Iterator[Tensor]:
        """Run the W- and Z-steps on the samples of all batches; then yield the resulting network's loss on each."""
        state, chain, ledger = self._state, self._chain, self._context.communicator.ledger
        data = gather(batches, self._context, state.parts, chain.last)
        initialize(state, data)
        started, waited = time.perf_counter(), ledger.seconds_waited()
        before = {g: chain.flats[g].parameters.clone() for g in state.parts}
        self._w_step(data)
        self._z_step(data)
        chain.settle()
        busy = time.perf_counter() - started - (ledger.seconds_waited() - waited)
        state.num_epochs += 1
        self._context.untracked.barrier()
        self._report = report(state, before, busy, time.perf_counter() - started)
        network = chain.reassemble()
        for inputs, targets in data.shares:
            outputs = deterministic(network, inputs)
            yield self._context.loss(outputs, targets)

    def metrics(self) -> dict[str, float]:
        """Return the last epoch's report; `mac_report.report` lists it."""
        return self._report

    def epoch_end(self, loss: float) -> None:
        """Multiply mu by its factor if the training loss has not fallen."""
        if self._plateau.update(loss):
            self._state.mu = min(self._state.mu * self._hyperparameters.mu_factor, self._hyperparameters.mu_max)

    def evaluated(self, model: nn.Module, num_ranks: int) -> Sequence[Evaluated]:
        """Return the groups' places."""
        return self._chain.evaluated()

    def evaluation_model(self) -> nn.Module:
        """Return the whole network."""
        return self._chain.reassemble()

    def finalize(self) -> nn.Module:
        """Return the whole network."""
        return self._chain.reassemble()

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's groups and coordinates, mu, the counters of its schedule, and the last report."""
        return {
            "groups": self._chain.state_dict(),
            "parts": {
                g: {
                    "rows": part.samples.row_of.clone(),
                    "z": None if part.z is None else part.z.clone(),
                    "z_above": None if part.z_above is None else part.z_above.clone(),
                }
                for g, part in self._state.parts.items()
            },
            "seen": self._state.seen.row_of.clone(),
            "mu": self._state.mu,
            "plateau": self._plateau.state_dict(),
            "num_epochs": self._state.num_epochs,
            "reach": self._state.reach,
            "report": dict(self._report),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._chain.load_state_dict(state["groups"])
        for g, part in self._state.parts.items():
            saved = state["parts"][g]
            part.samples = Rows.of(saved["rows"])
            part.z, part.z_above = (
                None if saved[k] is None else saved[k].to(self._chain.device, copy=True) for k in ("z", "z_above")
            )
        self._state.seen = Rows.of(state["seen"])
        self._state.mu, self._state.num_epochs = state["mu"], state["num_epochs"]
        self._state.reach = state["reach"]
        self._plateau.load_state_dict(state["plateau"])
        self._report = dict(state["report"])

    def change(self, before: MacHyperparameters) -> None:
        """Scale mu, which may have grown, as its first value has changed."""
        h = self._hyperparameters
        self._state.mu = min(self._state.mu * h.mu / before.mu, h.mu_max)


def _group_settings(h: MacHyperparameters, num_groups: int, learning_rate: float) -> list[GroupSettings]:
    """The settings of each group's steps; raises NotApplicable if they do not fit the groups."""
    above = num_groups - 1
    w_lrs = per_group("w_lrs", h.w_lrs, [h.w_lr] * above + [learning_rate])
    w_iterations = per_group(
        "w_iterations_each", h.w_iterations_each, [h.w_iterations] * above + [h.w_iterations_last], counts=True
    )
    z_lrs = per_group("z_lrs", h.z_lrs, [h.z_lr] * above, groups=ALL_BUT_FIRST)
    z_iterations = per_group(
        "z_iterations_each", h.z_iterations_each, [h.z_iterations] * above, counts=True, groups=ALL_BUT_FIRST
    )
    if h.variant == "coupled" and len(set(z_iterations)) > 1:
        raise NotApplicable(
            "the coupled Z-step moves all coordinates together, so z_iterations_each must be equal numbers; "
            f"got {h.z_iterations_each!r}"
        )
    return [
        GroupSettings(w_lr=w_lr, w_iterations=int(w_number), z_lr=z_lr, z_iterations=int(z_number))
        for w_lr, w_number, z_lr, z_number in zip(w_lrs, w_iterations, [0.0, *z_lrs], [0, *z_iterations], strict=True)
    ]
