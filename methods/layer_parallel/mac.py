"""MAC: the method of auxiliary coordinates (Carreira-Perpinan and Wang, 2014), decoupled (source 000, chapters 3, 4).

The network is a chain of groups f_0 .. f_{G-1}. Every sample has auxiliary coordinates z_1 .. z_{G-1}, the inputs of
all groups but the first (z_0 = x), which start as a forward pass leaves them and stay from epoch to epoch. An epoch is

    W-step   theta_l <- argmin 1/N sum ||z_{l+1} - f_l(z_l)||^2, the last group's the mean task loss      (3.3, 3.13)
    Z-step   z_l <- argmin sum of, where f_{G-1} has the task loss L in place of a residual,
               one_term  mu/2 ||z_{l+1} - f_l(z_l)||^2,               for l = G-1  1/2 L                  (3.12, 3.16)
               two_term  the same + mu/2 ||z_l - f_{l-1}(z_{l-1})||^2, all neighbours fixed               (3.9, 3.15)
               coupled   the same for all l together: neighbours move with every iteration                (3.5, 3.14)

each by so many passes over the data with an optimizer of its own, Adam by default. Dropout acts in W-steps only
(3.3.3). mu grows tenfold when the training loss does not fall.

Groups lie on ranks (`chain.py`), and coordinates where they are needed: z_l with f_l, a copy as the target of f_{l-1}.
All W-steps run at once, then all Z-steps (figures 3.1, 3.2). For two_term f_{l-1}(z_{l-1}) is computed once and sent
ahead, which is less than the parameters and coordinates that figure 3.1 sends; updated coordinates go back while the
next ones are being minimised. coupled does both at every iteration.

Before any Z-step all residuals are zero, as coordinates are what the groups have computed, and in each epoch they
become something one group further down. Only rounding would be minimised there, which Adam turns into steps of full
size, so these steps are left out, unless training mode or weight decay make something of them.

With a schedule all rates of an epoch are those of its last step.

Bytes for each epoch and boundary with N samples, d values in a coordinate and w bytes a value: one_term w N d back;
two_term w N d more forward; coupled both for every Z iteration. Each sample's first forward pass w N d more, once.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from atoll.methods.common.evaluation import deterministic, evaluating
from atoll.methods.common.flat import WIRE_DTYPES
from atoll.methods.common.plateau import Plateau
from atoll.methods.common.validation import require, require_choice
from atoll.methods.layer_parallel.chain import Arrival, Chain, HandOver
from atoll.methods.layer_parallel.grouping import check_grouping
from atoll.methods.layer_parallel.rows import Rows
from atoll.methods.method import Batch, Context, Method, NotApplicable

VARIANTS = ("coupled", "two_term", "one_term")
UPPER = "group but the first"
FIRST, FORWARD, BACK = 1, 2, 3  # tags: a sample's first coordinates, f_l(z_l), updated z_l


@dataclass(frozen=True, kw_only=True)
class MacHyperparameters:
    """Hyperparameters of MAC. Defaults are the best of table 4.4; `learning_rate` is that of the last group's W-step.

    Attributes:
        variant: of the Z-step.
        grouping: how the network is cut: first, last, even, balanced, counts such as 1,5, or at:NAMES.
        num_groups: of the first four of these.
        w_lr: rate of the W-steps of all groups but the last.
        w_iterations, w_iterations_last: passes over the data of a W-step, of all groups but the last and of the last.
        z_lr, z_iterations: of the Z-steps.
        w_lrs, w_iterations_each, z_lrs, z_iterations_each: in place of these, one value for each group (for Z-steps
            from the second on), with commas between.
        mu, mu_factor: weight of the residuals, and what multiplies it after an epoch whose training loss is not below
            the best by the share mu_threshold.
        mu_max: where mu stops to grow, so that it stays a number.
        z_batch_size: samples of a Z-step's batch, which are independent of one another; 0 for the global batch.
        coordinates: dtype in which coordinates are sent, and kept as targets; float32 stands for the network's own. The
            coordinates that are minimised stay in the network's, as a step of z_lr would be rounded away.
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
        check_grouping(self.grouping)
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
    """The numbers that `given` lists, one for each of `defaults`, or else the defaults.

    Raises:
        NotApplicable: for another number of numbers, or one that is not above 0, or for `counts` is no integer.
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


def z_objective(
    outputs: Tensor, wanted: Tensor, z: Tensor, below: Tensor | None, mu: float, loss: Any | None
) -> Tensor:
    """The Z-step's objective, summed over samples.

    Args:
        outputs: f_l(z_l) (n, ...).
        wanted: z_{l+1}, or the targets of the last group.
        z: z_l (n, ...).
        below: f_{l-1}(z_{l-1}); None in one_term.
        mu: the residuals' weight.
        loss: (outputs, targets) -> mean task loss; None for groups before the last.
    """
    if loss is None:
        total = mu / 2 * mse_loss(outputs, wanted, reduction="sum")
    else:
        total = loss(outputs, wanted) * len(outputs) / 2
    return total if below is None else total + mu / 2 * mse_loss(z, below, reduction="sum")


def acts_in_training(module: nn.Module) -> bool:
    """Whether it computes something else in training than in evaluation: batch normalisation and dropout do."""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return True
    is_dropout = isinstance(module, nn.modules.dropout._DropoutNd)
    rate = module.p if is_dropout else getattr(module, "dropout", 0.0)  # attention and recurrent layers have a number
    return isinstance(rate, int | float) and rate > 0


def predicted_speedup(num_groups: int, w_iterations: Sequence[float], z_iterations: Sequence[float]) -> float:
    """Equation 3.25 for as many epochs of MAC as of SGD: of groups that take equal time."""
    return num_groups / (max(w_iterations) + max(z_iterations, default=0))


def predicted_speedup_of_unequal(
    w_seconds: Sequence[float], z_seconds: Sequence[float], passes: Sequence[float]
) -> float:
    """Equation 3.20 against 3.17 for as many epochs of MAC as of SGD.

    Args:
        w_seconds, z_seconds: of each group's W-step and Z-step.
        passes: the time of one pass of a W-step of each group; their sum is an epoch of SGD.
    """
    return sum(passes) / (max(w_seconds) + max(z_seconds))


@dataclass
class _Part:
    """One group on this rank: its number, and for the samples that it holds its coordinates and its targets.

    Attributes:
        z: (n, ...) inputs of the group; of the first group none are kept.
        wanted: (n, ...) what the next group wants as its inputs; the last group has the task's targets instead.
        w_seconds, z_seconds: of the last W-step and Z-step.
        w_pass_seconds: of a pass of a W-step.
    """

    group: int
    samples: Rows
    z: Tensor | None = None
    wanted: Tensor | None = None
    w_seconds: float = 0.0
    z_seconds: float = 0.0
    w_pass_seconds: float = 0.0


@dataclass
class _Data:
    """An epoch's samples, as this rank needs them.

    Attributes:
        indices: (N,) of all samples.
        inputs, targets: (N, ...), where this rank holds the first, or the last, group.
        shares: this rank's share of each batch, for the training loss.
        batch_size: of the global batches.
    """

    indices: Tensor
    inputs: Tensor | None
    targets: Tensor | None
    shares: list[tuple[Tensor, Tensor]]
    batch_size: int


class Mac(Method[MacHyperparameters]):
    """Train groups on their own, and let coordinates tell them what the others want."""

    Hyperparameters = MacHyperparameters
    optimizer_defaults: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "learning_rate": 6.7e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
    }
    layer_parallel: ClassVar[bool] = True
    # One group that trains well while the other hardly does looks better at first than both that do: 000 (section 4.3)
    # lets every training go on until its loss stops falling, and then ends it where it is above the others' median.
    pruning: ClassVar[Mapping[str, Any]] = {"rule": "median", "while_falling": False}

    @classmethod
    def keeps_samples(cls, hyperparameters: MacHyperparameters) -> bool:
        """Coordinates are of samples."""
        return True

    def __init__(self, hyperparameters: MacHyperparameters, context: Context) -> None:
        h = self._h = hyperparameters
        self._context = context
        self._chain = Chain(context, h.grouping, h.num_groups)
        num = len(self._chain.groups)
        self._w_lrs = per_group("w_lrs", h.w_lrs, [h.w_lr] * (num - 1) + [context.optimizers.settings.learning_rate])
        w_iterations = [h.w_iterations] * (num - 1) + [h.w_iterations_last]
        self._w_iterations = per_group("w_iterations_each", h.w_iterations_each, w_iterations, counts=True)
        self._z_lrs = [0.0, *per_group("z_lrs", h.z_lrs, [h.z_lr] * (num - 1), groups=UPPER)]
        z_iterations = [h.z_iterations] * (num - 1)
        each = per_group("z_iterations_each", h.z_iterations_each, z_iterations, counts=True, groups=UPPER)
        self._z_iterations = [0.0, *each]
        if h.variant == "coupled" and len(set(self._z_iterations[1:])) > 1:
            raise NotApplicable(
                "the coupled Z-step moves all coordinates together, so z_iterations_each must be equal numbers; "
                f"got {h.z_iterations_each!r}"
            )
        self._kept_as = WIRE_DTYPES[h.coordinates] or self._chain.dtype
        self._parts = {g: _Part(g, Rows()) for g in self._chain.mine}
        self._seen = Rows()
        decays = context.optimizers.settings.weight_decay > 0
        self._is_deterministic = not decays and not any(map(acts_in_training, context.model.modules()))
        self._mu = h.mu
        self._plateau = Plateau(h.mu_threshold, 0)
        self._num_epochs = 0
        self._report: dict[str, float] = {}
        self.notes = (
            self._chain.describe(),
            "mac keeps coordinates for every sample, so random augmentation, where the workload has any, is off",
        )

    # An epoch.

    def step(self, batch: Batch) -> Tensor:
        """An epoch of a single batch."""
        return next(self.epoch(iter([batch])))

    def epoch(self, batches: Iterator[Batch]) -> Iterator[Tensor]:
        """W- and Z-steps on the samples of all batches; then the loss of each, by the network as it is."""
        data = self._gather(batches)
        self._initialise(data)
        started, waited = time.perf_counter(), self._context.communicator.ledger.seconds_waited()
        before = {g: self._chain.flats[g].parameters.clone() for g in self._parts}
        for part in self._parts.values():
            self._w_step(part, data)
        if self._h.variant == "coupled":
            self._coupled_z_step(data)
        else:
            self._z_steps(data)
        self._chain.settle()
        busy = time.perf_counter() - started - (self._context.communicator.ledger.seconds_waited() - waited)
        self._num_epochs += 1
        self._context.untracked.barrier()
        self._summarise(before, busy, time.perf_counter() - started)
        network = self._chain.reassemble()
        for inputs, targets in data.shares:
            outputs = deterministic(network, inputs)
            yield self._context.loss(outputs, targets)

    def _gather(self, batches: Iterator[Batch]) -> _Data:
        """All batches, of which each rank keeps what it needs."""
        size, rank = self._context.communicator.size, self._context.communicator.rank
        indices, inputs, targets, shares = [], [], [], []
        for batch in batches:
            indices.append(batch.indices.cpu())
            num = len(batch.indices) // size
            share = slice(rank * num, (rank + 1) * num)
            shares.append((batch.inputs[share].clone(), batch.targets[share].clone()))
            if 0 in self._parts:
                inputs.append(batch.inputs)
            if self._chain.last in self._parts:
                targets.append(batch.targets)
        return _Data(
            torch.cat(indices),
            torch.cat(inputs) if inputs else None,
            torch.cat(targets) if targets else None,
            shares,
            len(indices[0]),
        )

    def _initialise(self, data: _Data) -> None:
        """Give samples that are seen for the first time the coordinates of a forward pass."""
        chain = self._chain
        positions = torch.nonzero(self._seen.are_new(data.indices)).flatten()
        fresh = data.indices[positions]
        self._seen.add(fresh)
        found: dict[int, list[tuple[Tensor, Tensor]]] = {g: [] for g in self._parts}
        for chunk in torch.split(positions, data.batch_size):
            indices = data.indices[chunk]
            for g in self._parts:
                if g == 0:
                    assert data.inputs is not None
                    z = data.inputs[chunk[chain.owned(0, indices)]]
                else:
                    z = chain.receive(g - 1, g, indices, FIRST, self._kept_as).wait()
                out = z
                if g < chain.last:
                    out = deterministic(chain.groups[g], z.to(chain.dtype)).to(self._kept_as)
                    chain.send(out, g, g + 1, indices, FIRST)
                found[g].append((z.to(chain.dtype) if g else z, out))
            self._context.communicator.progress()
        for g, part in self._parts.items():
            part.samples.add(fresh[chain.owned(g, fresh)])
            if found[g] and g > 0:
                part.z = _extended(part.z, [z for z, _ in found[g]])
            if found[g] and g < chain.last:
                part.wanted = _extended(part.wanted, [out for _, out in found[g]])

    # W-steps.

    def _w_step(self, part: _Part, data: _Data) -> None:
        """Minimise over the parameters of one group (3.3, 3.13)."""
        g, chain = part.group, self._chain
        part.w_seconds = 0.0
        if self._is_at_its_minimum(g):
            return
        started = time.perf_counter()
        module, flat, last = chain.groups[g], chain.flats[g], g == chain.last
        mine = chain.owned(g, data.indices)
        rows = part.samples.rows(data.indices[mine])
        local = torch.full_like(data.indices, -1)
        local[mine] = torch.arange(len(mine))
        optimizer = self._context.optimizers.fresh([flat.vector], self._w_lrs[g])
        for number in range(int(self._w_iterations[g])):
            for batch in torch.split(self._shuffled(len(data.indices), number), data.batch_size):
                held = local[batch]
                held = held[held >= 0]
                z = self._inputs_of(part, data, mine[held], rows[held])
                flat.gradients.zero_()
                if len(held):
                    outputs = module(z)
                    if last:
                        assert data.targets is not None
                        mean = self._context.loss(outputs, data.targets[mine[held]])
                    else:
                        assert part.wanted is not None
                        wanted = part.wanted[rows[held]].to(chain.dtype)
                        mean = mse_loss(outputs, wanted, reduction="sum") / len(held)
                    chain.part_of_mean(mean, len(held), len(batch)).backward()  # type: ignore[no-untyped-call]
                chain.sum_gradients(g)
                optimizer.step()
                self._context.communicator.progress()
        part.w_seconds = time.perf_counter() - started
        part.w_pass_seconds = part.w_seconds / self._w_iterations[g]

    def _is_at_its_minimum(self, group: int) -> bool:
        """Whether the residuals of `group` are still zero: what is wanted of it has not changed up to this epoch."""
        coupled = self._h.variant == "coupled"  # one Z-step of several iterations may reach all groups
        num_reached = self._num_epochs + 1 if self._num_epochs == 0 or not coupled else len(self._chain.groups)
        return self._is_deterministic and group < len(self._chain.groups) - num_reached

    def _shuffled(self, num: int, number: int) -> Tensor:
        """The order of a pass; the same for all groups, wherever they are."""
        seed = (self._context.seed * 1_000_003 + self._num_epochs) * 1_009 + number
        return torch.randperm(num, generator=torch.Generator().manual_seed(seed % 2**63))

    def _inputs_of(self, part: _Part, data: _Data, positions: Tensor, rows: Tensor) -> Tensor:
        if part.group == 0:
            assert data.inputs is not None
            return data.inputs[positions]
        assert part.z is not None
        return part.z[rows]

    # Z-steps.

    def _z_steps(self, data: _Data) -> None:
        """Minimise over each group's coordinates, its neighbours' being what they were (3.9, 3.12)."""
        chunks = self._z_batches(data)
        returning: deque[tuple[_Part, Tensor, Arrival | HandOver]] = deque()
        for part in self._parts.values():
            part.z_seconds = 0.0
        below = self._exchange_ahead(data, chunks[0]) if chunks else {}
        for number, chunk in enumerate(chunks):
            # The next batch's values travel while this one's coordinates are being minimised.
            ahead = self._exchange_ahead(data, chunks[number + 1]) if number + 1 < len(chunks) else {}
            indices = data.indices[chunk]
            for g, part in self._parts.items():
                if g > 0:
                    self._z_step(part, data, chunk, below[g].wait().to(self._chain.dtype) if g in below else None)
            for g, part in self._parts.items():
                if g < self._chain.last:
                    arrival = self._chain.receive(g + 1, g, indices, BACK, self._kept_as)
                    returning.append((part, part.samples.rows(indices[self._chain.owned(g, indices)]), arrival))
            while returning and returning[0][2].test():
                self._take_back(*returning.popleft())
            below = ahead
            self._context.communicator.progress()
        while returning:
            self._take_back(*returning.popleft())

    @staticmethod
    def _take_back(part: _Part, rows: Tensor, arrival: Arrival | HandOver) -> None:
        """Coordinates of the group above that have been minimised: no other batch of this Z-step reads them."""
        assert part.wanted is not None
        part.wanted[rows] = arrival.wait()

    def _exchange_ahead(self, data: _Data, chunk: Tensor) -> dict[int, Arrival | HandOver]:
        """In two_term, start to send f_l(z_l) before z_l changes, and to receive that of the group below."""
        if self._h.variant != "two_term":
            return {}
        self._send_ahead(data, chunk)
        indices = data.indices[chunk]
        return {g: self._chain.receive(g - 1, g, indices, FORWARD, self._kept_as) for g in self._parts if g > 0}

    def _z_batches(self, data: _Data) -> list[Tensor]:
        size = self._h.z_batch_size or data.batch_size
        return list(torch.split(torch.arange(len(data.indices)), size)) if self._chain.last > 0 else []

    def _send_ahead(self, data: _Data, chunk: Tensor) -> None:
        """Send f_l(z_l) to the next group, before its coordinates change."""
        chain, indices = self._chain, data.indices[chunk]
        for g, part in self._parts.items():
            if g < chain.last:
                held = chain.owned(g, indices)
                z = self._inputs_of(part, data, chunk[held], part.samples.rows(indices[held]))
                chain.send(deterministic(chain.groups[g], z).to(self._kept_as), g, g + 1, indices, FORWARD)

    def _z_step(self, part: _Part, data: _Data, chunk: Tensor, below: Tensor | None) -> None:
        """Minimise over one group's coordinates of one batch, and send them back."""
        started = time.perf_counter()
        g, chain = part.group, self._chain
        indices = data.indices[chunk]
        held = chain.owned(g, indices)
        rows = part.samples.rows(indices[held])
        z = nn.Parameter(self._inputs_of(part, data, chunk[held], rows))
        wanted = self._wanted(part, data, chunk[held], rows)
        optimizer = self._z_optimizer(g, z)
        idle = not len(held) or self._is_at_its_minimum(g)
        with evaluating(chain.groups[g]):
            for _ in range(0 if idle else int(self._z_iterations[g])):
                self._take_z_gradient(g, z, chain.groups[g](z), wanted, below)
                optimizer.step()
        self._keep(part, rows, z)
        part.z_seconds += time.perf_counter() - started
        chain.send(z.to(self._kept_as), g, g - 1, indices, BACK)

    def _coupled_z_step(self, data: _Data) -> None:
        """Minimise over all coordinates together: each iteration sees its neighbours' as they then are (3.5)."""
        chain = self._chain
        for part in self._parts.values():
            part.z_seconds = 0.0
        for chunk in self._z_batches(data):
            indices = data.indices[chunk]
            held = {g: chain.owned(g, indices) for g in self._parts}
            rows = {g: part.samples.rows(indices[held[g]]) for g, part in self._parts.items()}
            z = {
                g: nn.Parameter(self._inputs_of(part, data, chunk[held[g]], rows[g]), requires_grad=g > 0)
                for g, part in self._parts.items()
            }
            wanted = {g: self._wanted(part, data, chunk[held[g]], rows[g]) for g, part in self._parts.items()}
            optimizers = {g: self._z_optimizer(g, z[g]) for g in self._parts if g > 0}
            for number in range(int(self._z_iterations[-1])):
                self._coupled_iteration(number, indices, z, wanted, optimizers)
            for g, part in self._parts.items():
                if g > 0:
                    self._keep(part, rows[g], z[g])
                if g < chain.last:
                    assert part.wanted is not None
                    part.wanted[rows[g]] = wanted[g].to(self._kept_as)
            self._context.communicator.progress()

    def _coupled_iteration(
        self,
        number: int,
        indices: Tensor,
        z: dict[int, nn.Parameter],
        wanted: dict[int, Tensor],
        optimizers: dict[int, torch.optim.Optimizer],
    ) -> None:
        chain = self._chain
        started, outputs = time.perf_counter(), {}
        for g in self._parts:
            with evaluating(chain.groups[g]), torch.set_grad_enabled(g > 0):
                outputs[g] = chain.groups[g](z[g])
            if g < chain.last:
                chain.send(outputs[g].to(self._kept_as), g, g + 1, indices, FORWARD)
        for g in self._parts:
            if g > 0:
                below = chain.receive(g - 1, g, indices, FORWARD, self._kept_as).wait()
                self._take_z_gradient(g, z[g], outputs[g], wanted[g], below.to(chain.dtype))
                # Neighbours pass what is new on by one group in an iteration.
                if self._num_epochs == 0 and self._is_deterministic and g < chain.last - number:
                    z[g].grad = torch.zeros_like(z[g])
        for g in self._parts:
            if g > 0:
                optimizers[g].step()
                self._parts[g].z_seconds += (time.perf_counter() - started) / len(self._parts)
                chain.send(z[g].detach().to(self._kept_as, copy=True), g, g - 1, indices, BACK)
        for g in self._parts:
            if g < chain.last:
                arrival = chain.receive(g + 1, g, indices, BACK, self._kept_as)
                wanted[g] = arrival.wait().to(chain.dtype)

    def _wanted(self, part: _Part, data: _Data, positions: Tensor, rows: Tensor) -> Tensor:
        if part.group == self._chain.last:
            assert data.targets is not None
            return data.targets[positions]
        assert part.wanted is not None
        return part.wanted[rows].to(self._chain.dtype)

    def _z_optimizer(self, group: int, z: nn.Parameter) -> torch.optim.Optimizer:
        return self._context.optimizers.fresh([z], self._z_lrs[group], weight_decay=0.0, clip=False)

    def _take_z_gradient(
        self, group: int, z: nn.Parameter, outputs: Tensor, wanted: Tensor, below: Tensor | None
    ) -> None:
        loss = self._context.loss if group == self._chain.last else None
        if len(z):
            (z.grad,) = torch.autograd.grad(z_objective(outputs, wanted, z, below, self._mu, loss), z)
        else:
            z.grad = torch.zeros_like(z)

    def _keep(self, part: _Part, rows: Tensor, z: nn.Parameter) -> None:
        assert part.z is not None
        part.z[rows] = z.detach()

    # What is reported.

    def _summarise(self, before: dict[int, Tensor], busy: float, elapsed: float) -> None:
        """Tell all ranks what each group and rank did in this epoch."""
        chain, size = self._chain, self._context.communicator.size
        num = len(chain.groups)
        changes, w, z, passes = (torch.zeros(num, dtype=torch.float64) for _ in range(4))
        shares = torch.zeros(size, dtype=torch.float64)
        shares[self._context.communicator.rank] = busy / elapsed
        for g, part in self._parts.items():
            if chain.ranks_of[g][0] == self._context.communicator.rank:
                changes[g] = (chain.flats[g].parameters - before[g]).abs().mean()
                w[g], z[g], passes[g] = part.w_seconds, part.z_seconds, part.w_pass_seconds
        everyones = torch.cat([changes, w, z, passes, shares])
        self._context.untracked.sum(everyones)
        changes, w, z, passes, shares = torch.split(everyones, [num] * 4 + [size])
        self._report = {f"parameter_change/group_{g}": float(change) for g, change in enumerate(changes)}
        self._report |= {f"idle_share/rank_{rank}": 1 - float(share) for rank, share in enumerate(shares)}
        self._report |= {"idle_share": 1 - float(shares.mean()), "mu_reached": self._mu}
        if bool((passes > 0).all()) and bool((w > 0).all()):
            self._report |= {
                "predicted_speedup": predicted_speedup(num, self._w_iterations, self._z_iterations[1:]),
                "predicted_speedup_unequal": predicted_speedup_of_unequal(w.tolist(), z.tolist(), passes.tolist()),
                "measured_speedup": float(passes.sum()) / elapsed,
            }

    def metrics(self) -> dict[str, float]:
        """Of the last epoch.

        parameter_change/group_g is the mean absolute change of a group's parameters (figure 4.2), idle_share/rank_r the
        share of the W- and Z-steps' time in which a rank did not compute, idle_share their mean. The speedups are over
        an epoch of SGD, whose time is that of a pass of all W-steps: by 3.25, by 3.20, and measured; E_SGD/E_MAC times
        as much over SGD as a whole.
        """
        return self._report

    # The method's own schedule, and its state.

    def epoch_end(self, loss: float) -> None:
        """Multiply mu where the training loss has not fallen."""
        if self._plateau.update(loss):
            self._mu = min(self._mu * self._h.mu_factor, self._h.mu_max)

    def evaluation_model(self) -> nn.Module:
        """Return the whole network."""
        return self._chain.reassemble()

    def finalize(self) -> nn.Module:
        """Return the whole network."""
        return self._chain.reassemble()

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's groups and coordinates, mu and what it depends on."""
        return {
            "groups": self._chain.state_dict(),
            "parts": {
                g: {
                    "rows": part.samples.row_of.clone(),
                    "z": None if part.z is None else part.z.clone(),
                    "wanted": None if part.wanted is None else part.wanted.clone(),
                }
                for g, part in self._parts.items()
            },
            "seen": self._seen.row_of.clone(),
            "mu": self._mu,
            "plateau": self._plateau.state_dict(),
            "num_epochs": self._num_epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._chain.load_state_dict(state["groups"])
        for g, part in self._parts.items():
            saved = state["parts"][g]
            part.samples = Rows.of(saved["rows"])
            part.z, part.wanted = (None if saved[k] is None else saved[k].clone() for k in ("z", "wanted"))
        self._seen = Rows.of(state["seen"])
        self._mu, self._num_epochs = state["mu"], state["num_epochs"]
        self._plateau.load_state_dict(state["plateau"])


def _extended(values: Tensor | None, more: Sequence[Tensor]) -> Tensor:
    return torch.cat([*([] if values is None else [values]), *more])
