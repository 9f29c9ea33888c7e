"""What MAC's steps work on: the groups of this rank, the coordinates of their samples, and an epoch's data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from atoll.methods.common.evaluation import deterministic
from atoll.methods.layer_parallel.chain import Chain
from atoll.methods.layer_parallel.rows import Rows
from atoll.methods.method import Batch, Context

FIRST, FORWARD, BACK = 1, 2, 3  # message tags: a sample's first coordinates, f_l(z_l), updated z_l


@dataclass(frozen=True, kw_only=True)
class GroupSettings:
    """Learning rates of one group's steps, and their passes over the data. The first group has no Z-step."""

    w_lr: float
    w_iterations: int
    z_lr: float = 0.0
    z_iterations: int = 0


@dataclass
class Part:
    """One group on this rank, with coordinates for the samples that the rank holds.

    Attributes:
        group: the group's number l.
        samples: the row of each sample in `z` and `z_above`.
        z: (n, ...) z_l, the group's inputs; None for the first group, whose inputs are the data.
        z_above: (n, ...) z_{l+1}, the targets of the group's outputs; None for the last group, which has the task's.
        w_seconds, z_seconds: durations of the last W-step and Z-step.
        w_pass_seconds: duration of one pass of the last W-step.
    """

    group: int
    samples: Rows = field(default_factory=Rows)
    z: Tensor | None = None
    z_above: Tensor | None = None
    w_seconds: float = 0.0
    z_seconds: float = 0.0
    w_pass_seconds: float = 0.0


@dataclass(frozen=True)
class EpochData:
    """An epoch's samples, as far as this rank needs them.

    Attributes:
        indices: (N,) sample indices.
        inputs: (N, ...); None unless this rank holds the first group.
        targets: (N, ...); None unless this rank holds the last group.
        shares: this rank's share of each batch, for the training loss.
        batch_size: size of the global batches.
    """

    indices: Tensor
    inputs: Tensor | None
    targets: Tensor | None
    shares: list[tuple[Tensor, Tensor]]
    batch_size: int


@dataclass(frozen=True)
class Share:
    """The samples of a batch that this rank holds in one group: positions in the epoch's data, rows in the part."""

    positions: Tensor
    rows: Tensor


@dataclass
class MacState:
    """The state that all of MAC's steps share.

    Attributes:
        context: the trial's.
        chain: the groups and their ranks.
        settings: one per group.
        parts: this rank's groups.
        target_dtype: dtype in which coordinates are sent, and kept as targets.
        is_deterministic: whether a group's W-step computes the same outputs as its forward pass in evaluation mode and
            has no weight decay.
        mu: weight of the residuals in the Z-step.
        num_epochs: epochs completed.
        reach: how many groups below the last have residuals that are not zero by construction.
        seen: the samples that have coordinates.
    """

    context: Context
    chain: Chain
    settings: Sequence[GroupSettings]
    parts: dict[int, Part]
    target_dtype: torch.dtype
    is_deterministic: bool
    mu: float
    num_epochs: int = 0
    reach: int = 0
    seen: Rows = field(default_factory=Rows)

    def share(self, part: Part, data: EpochData, batch: Tensor) -> Share:
        """This rank's samples of `part` in a batch, given as positions in the epoch's data."""
        indices = data.indices[batch]
        held = self.chain.owned(part.group, indices)
        return Share(batch[held], part.samples.rows(indices[held]))

    def inputs(self, part: Part, data: EpochData, share: Share) -> Tensor:
        """z_l of these samples; the data for the first group."""
        if part.group == 0:
            assert data.inputs is not None
            return data.inputs[share.positions]
        assert part.z is not None
        return part.z[share.rows]

    def targets(self, part: Part, data: EpochData, share: Share) -> Tensor:
        """z_{l+1} of these samples; the task's targets for the last group."""
        if part.group == self.chain.last:
            assert data.targets is not None
            return data.targets[share.positions]
        assert part.z_above is not None
        return part.z_above[share.rows].to(self.chain.dtype)

    def is_at_minimum(self, group: int, iteration: int = 0) -> bool:
        """Whether the residuals of `group` are still zero in this iteration of a coupled Z-step, or in any other step.

        Its targets are its own outputs until the group above has moved its coordinates. So changes travel one group
        further down in each decoupled Z-step, and in each iteration of a coupled one.
        """
        return self.is_deterministic and group < self.chain.last - self.reach - iteration


def acts_in_training(module: nn.Module) -> bool:
    """Whether a module computes something else in training than in evaluation, like batch norm and dropout."""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return True
    is_dropout = isinstance(module, nn.modules.dropout._DropoutNd)
    rate = module.p if is_dropout else getattr(module, "dropout", 0.0)  # attention and recurrent layers have a number
    return isinstance(rate, int | float) and rate > 0


def gather(batches: Iterator[Batch], context: Context, groups: Collection[int], last: int) -> EpochData:
    """Collect an epoch's batches, keeping what a rank that holds `groups` needs; `last` is the last group's number."""
    size, rank = context.communicator.size, context.communicator.rank
    indices, inputs, targets, shares = [], [], [], []
    for batch in batches:
        indices.append(batch.indices.cpu())
        num = len(batch.indices) // size
        share = slice(rank * num, (rank + 1) * num)
        shares.append((batch.inputs[share].clone(), batch.targets[share].clone()))
        if 0 in groups:
            inputs.append(batch.inputs)
        if last in groups:
            targets.append(batch.targets)
    return EpochData(
        torch.cat(indices),
        torch.cat(inputs) if inputs else None,
        torch.cat(targets) if targets else None,
        shares,
        len(indices[0]),
    )


def initialize(state: MacState, data: EpochData) -> None:
    """Give samples that are seen for the first time the coordinates of a forward pass."""
    chain, dtype = state.chain, state.target_dtype
    positions = torch.nonzero(state.seen.are_new(data.indices)).flatten()
    new = data.indices[positions]
    state.seen.add(new)
    inputs: dict[int, list[Tensor]] = {g: [] for g in state.parts}
    outputs: dict[int, list[Tensor]] = {g: [] for g in state.parts}
    for batch in torch.split(positions, data.batch_size):
        indices = data.indices[batch]
        for g in state.parts:
            if g == 0:
                assert data.inputs is not None
                z = data.inputs[batch[chain.owned(0, indices)]]
            else:
                z = chain.receive(g - 1, g, indices, FIRST, dtype).wait().to(chain.dtype)
                inputs[g].append(z)
            if g < chain.last:
                output = deterministic(chain.groups[g], z).to(dtype)
                chain.send(output, g, g + 1, indices, FIRST)
                outputs[g].append(output)
        state.context.communicator.progress()
    for g, part in state.parts.items():
        part.samples.add(new[chain.owned(g, new)])
        part.z = _extended(part.z, inputs[g])
        part.z_above = _extended(part.z_above, outputs[g])


def _extended(values: Tensor | None, more: Sequence[Tensor]) -> Tensor | None:
    if not more:
        return values
    return torch.cat([*([] if values is None else [values]), *more])
