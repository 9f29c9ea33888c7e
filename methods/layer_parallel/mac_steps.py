"""MAC's steps: the W-step over parameters, and the Z-step over coordinates, decoupled or coupled (Martin 2024)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from atoll.methods.common.evaluation import deterministic, evaluating
from atoll.methods.common.random_stream import derived_seed
from atoll.methods.layer_parallel.chain import Arrival, HandOver
from atoll.methods.layer_parallel.mac_state import BACK, FORWARD, EpochData, MacState, Part, Share
from atoll.methods.method import Loss


def z_objective(
    outputs: Tensor, targets: Tensor, z: Tensor, below: Tensor | None, mu: float, loss: Loss | None
) -> Tensor:
    """The Z-step's objective, summed over samples.

    Args:
        outputs: f_l(z_l) (n, ...).
        targets: z_{l+1}, or the task's targets for the last group.
        z: z_l (n, ...).
        below: f_{l-1}(z_{l-1}); None in one_term.
        mu: weight of the residuals.
        loss: (outputs, targets) -> mean task loss; None for groups before the last.
    """
    if loss is None:
        total = mu / 2 * mse_loss(outputs, targets, reduction="sum")
    else:
        total = loss(outputs, targets) * len(outputs) / 2
    return total if below is None else total + mu / 2 * mse_loss(z, below, reduction="sum")


class WStep:
    """Minimize over the parameters of each of this rank's groups (Martin 2024, eqs. 3.3 and 3.13)."""

    def __init__(self, state: MacState) -> None:
        self._state = state

    def __call__(self, data: EpochData) -> None:
        """Run the W-steps of an epoch."""
        for part in self._state.parts.values():
            part.w_seconds = 0.0
            if not self._state.is_at_minimum(part.group):
                self._minimize(part, data)

    def _minimize(self, part: Part, data: EpochData) -> None:
        started = time.perf_counter()
        state, chain = self._state, self._state.chain
        flat, settings = chain.flats[part.group], state.settings[part.group]
        share_of_epoch = state.share(part, data, torch.arange(len(data.indices)))
        place_in_share = torch.full_like(data.indices, -1)
        place_in_share[share_of_epoch.positions] = torch.arange(len(share_of_epoch.positions))
        optimizer = state.context.optimizers.fresh(flat, settings.w_lr)
        for number in range(settings.w_iterations):
            for batch in torch.split(self._shuffled(len(data.indices), number), data.batch_size):
                places = place_in_share[batch]
                places = places[places >= 0]
                share = Share(share_of_epoch.positions[places], share_of_epoch.rows[places])
                flat.gradients.zero_()
                if len(places):
                    mean = self._loss(part, data, share)
                    chain.part_of_mean(mean, len(places), len(batch)).backward()  # type: ignore[no-untyped-call]
                    state.context.work.add(len(places), part.group)
                chain.sum_gradients(part.group)
                optimizer.step()
                state.context.communicator.progress()
        part.w_seconds = time.perf_counter() - started
        part.w_pass_seconds = part.w_seconds / settings.w_iterations

    def _loss(self, part: Part, data: EpochData, share: Share) -> Tensor:
        """The mean task loss for the last group, the mean squared residual for the others."""
        state = self._state
        outputs = state.chain.groups[part.group](state.inputs(part, data, share))
        targets = state.targets(part, data, share)
        if part.group == state.chain.last:
            return state.context.loss(outputs, targets)
        return mse_loss(outputs, targets, reduction="sum") / len(share.rows)

    def _shuffled(self, num_samples: int, number: int) -> Tensor:
        """The order of samples in pass `number`, equal for all groups on all ranks."""
        seed = derived_seed(self._state.context.seed, self._state.num_epochs, number)
        return torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))


class _ZStepBase:
    """The parts that the decoupled and the coupled Z-step share.

    Args:
        state: the method's.
        batch_size: samples per batch; 0 for the size of the global batches.
    """

    def __init__(self, state: MacState, batch_size: int) -> None:
        self._state = state
        self._batch_size = batch_size

    def _batches(self, data: EpochData) -> list[Tensor]:
        """Batches as positions in the epoch's data. A network of one group has no coordinates, and so no batches."""
        if self._state.chain.last == 0:
            return []
        return list(torch.split(torch.arange(len(data.indices)), self._batch_size or data.batch_size))

    def _optimizer(self, group: int, z: nn.Parameter) -> torch.optim.Optimizer:
        rate = self._state.settings[group].z_lr
        return self._state.context.optimizers.fresh([z], rate, weight_decay=0.0, clip=False)

    def _set_gradient(
        self, group: int, z: nn.Parameter, outputs: Tensor, targets: Tensor, below: Tensor | None
    ) -> None:
        loss = self._state.context.loss if group == self._state.chain.last else None
        if len(z):
            self._state.context.work.add(len(z), group)
            (z.grad,) = torch.autograd.grad(z_objective(outputs, targets, z, below, self._state.mu, loss), z)
        else:
            z.grad = torch.zeros_like(z)

    @staticmethod
    def _store(part: Part, share: Share, z: nn.Parameter) -> None:
        assert part.z is not None
        part.z[share.rows] = z.detach()


class ZStep(_ZStepBase):
    """Minimize over each group's coordinates with its neighbors' coordinates fixed (Martin 2024, eqs. 3.9 and 3.12).

    Args:
        state: the method's.
        batch_size: samples per batch; 0 for the size of the global batches.
        is_two_term: whether the objective includes ||z_l - f_{l-1}(z_{l-1})||^2.
    """

    def __init__(self, state: MacState, batch_size: int, *, is_two_term: bool) -> None:
        super().__init__(state, batch_size)
        self._is_two_term = is_two_term

    def __call__(self, data: EpochData) -> None:
        """Run the Z-steps of an epoch."""
        state, chain = self._state, self._state.chain
        batches = self._batches(data)
        returning: deque[tuple[Part, Share, Arrival | HandOver]] = deque()
        for part in state.parts.values():
            part.z_seconds = 0.0
        below = self._exchange_ahead(data, batches[0]) if batches else {}
        for number, batch in enumerate(batches):
            # The next batch's values travel while this one's coordinates are minimized.
            next_below = self._exchange_ahead(data, batches[number + 1]) if number + 1 < len(batches) else {}
            indices = data.indices[batch]
            shares = {g: state.share(part, data, batch) for g, part in state.parts.items()}
            for g, part in state.parts.items():
                if g > 0:
                    outputs_below = below[g].wait().to(chain.dtype) if g in below else None
                    self._minimize(part, data, shares[g], outputs_below, indices)
            for g, part in state.parts.items():
                if g < chain.last:
                    arrival = chain.receive(g + 1, g, indices, BACK, state.target_dtype)
                    returning.append((part, shares[g], arrival))
            while returning and returning[0][2].test():
                self._take_back(*returning.popleft())
            below = next_below
            state.context.communicator.progress()
        while returning:
            self._take_back(*returning.popleft())
        state.reach += 1

    def _exchange_ahead(self, data: EpochData, batch: Tensor) -> dict[int, Arrival | HandOver]:
        """In two_term, start to send f_l(z_l) before z_l changes, and to receive the outputs of the group below."""
        if not self._is_two_term:
            return {}
        state, chain, indices = self._state, self._state.chain, data.indices[batch]
        for g, part in state.parts.items():
            if g < chain.last:
                z = state.inputs(part, data, state.share(part, data, batch))
                outputs = deterministic(chain.groups[g], z).to(state.target_dtype)
                chain.send(outputs, g, g + 1, indices, FORWARD)
        return {g: chain.receive(g - 1, g, indices, FORWARD, state.target_dtype) for g in state.parts if g > 0}

    def _minimize(self, part: Part, data: EpochData, share: Share, below: Tensor | None, indices: Tensor) -> None:
        """Minimize over one group's coordinates of one batch, and send them to the group below."""
        started = time.perf_counter()
        state, g = self._state, part.group
        module = state.chain.groups[g]
        z = nn.Parameter(state.inputs(part, data, share))
        targets = state.targets(part, data, share)
        optimizer = self._optimizer(g, z)
        is_idle = not len(z) or state.is_at_minimum(g)
        with evaluating(module):
            for _ in range(0 if is_idle else state.settings[g].z_iterations):
                self._set_gradient(g, z, module(z), targets, below)
                optimizer.step()
        self._store(part, share, z)
        part.z_seconds += time.perf_counter() - started
        state.chain.send(z.to(state.target_dtype), g, g - 1, indices, BACK)

    @staticmethod
    def _take_back(part: Part, share: Share, arrival: Arrival | HandOver) -> None:
        """Store the minimized coordinates of the group above; no other batch of this Z-step reads them."""
        assert part.z_above is not None
        part.z_above[share.rows] = arrival.wait()


@dataclass(frozen=True)
class _CoupledBatch:
    """One batch of a coupled Z-step, by group: the coordinates that move, and the targets, which follow them."""

    indices: Tensor
    shares: Mapping[int, Share]
    z: Mapping[int, nn.Parameter]
    targets: dict[int, Tensor]
    optimizers: Mapping[int, torch.optim.Optimizer]


class CoupledZStep(_ZStepBase):
    """Minimize over all coordinates together: neighbors move with every iteration (Martin 2024, eq. 3.5)."""

    def __call__(self, data: EpochData) -> None:
        """Run the Z-step of an epoch."""
        state = self._state
        for part in state.parts.values():
            part.z_seconds = 0.0
        for positions in self._batches(data):
            batch = self._start(data, positions)
            for number in range(state.settings[-1].z_iterations):
                self._iterate(number, batch)
            for g, part in state.parts.items():
                if g > 0:
                    self._store(part, batch.shares[g], batch.z[g])
                if g < state.chain.last:
                    assert part.z_above is not None
                    part.z_above[batch.shares[g].rows] = batch.targets[g].to(state.target_dtype)
            state.context.communicator.progress()
        state.reach += state.settings[-1].z_iterations

    def _start(self, data: EpochData, positions: Tensor) -> _CoupledBatch:
        state, parts = self._state, self._state.parts
        shares = {g: state.share(part, data, positions) for g, part in parts.items()}
        z = {g: nn.Parameter(state.inputs(part, data, shares[g]), requires_grad=g > 0) for g, part in parts.items()}
        targets = {g: state.targets(part, data, shares[g]) for g, part in parts.items()}
        optimizers = {g: self._optimizer(g, z[g]) for g in parts if g > 0}
        return _CoupledBatch(data.indices[positions], shares, z, targets, optimizers)

    def _iterate(self, number: int, batch: _CoupledBatch) -> None:
        """Iteration `number`: exchange outputs, take one step on all coordinates, and send them to the groups below."""
        state, chain, z = self._state, self._state.chain, batch.z
        started, outputs = time.perf_counter(), {}
        for g in state.parts:
            with evaluating(chain.groups[g]), torch.set_grad_enabled(g > 0):
                outputs[g] = chain.groups[g](z[g])
            if g < chain.last:
                chain.send(outputs[g].to(state.target_dtype), g, g + 1, batch.indices, FORWARD)
        for g in state.parts:
            if g > 0:
                below = chain.receive(g - 1, g, batch.indices, FORWARD, state.target_dtype).wait()
                self._set_gradient(g, z[g], outputs[g], batch.targets[g], below.to(chain.dtype))
                if state.is_at_minimum(g, number):
                    z[g].grad = torch.zeros_like(z[g])
        for g in state.parts:
            if g > 0:
                batch.optimizers[g].step()
                state.parts[g].z_seconds += (time.perf_counter() - started) / len(state.parts)
                chain.send(z[g].detach().to(state.target_dtype, copy=True), g, g - 1, batch.indices, BACK)
        for g in state.parts:
            if g < chain.last:
                arrival = chain.receive(g + 1, g, batch.indices, BACK, state.target_dtype)
                batch.targets[g] = arrival.wait().to(chain.dtype)
