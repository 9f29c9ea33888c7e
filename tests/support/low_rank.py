"""What tests of OIALR and AB training share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.methods.low_rank.factored import merged_state_dict
from atoll.methods.low_rank.factored_layers import Factored
from atoll.testing import problem

# Sums in another order, over 50 steps that amplify rounding little; products of orthonormal factors add as much.
FLOAT64 = 1e-11
PLAIN = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.0, "weight_decay": 1e-3}
ADAMW = {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}
MOMENTUM = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.0}
NUM_STEPS = 50  # of the 100 that problem.make says training has


class Run:
    """A method on the deep network, whose loss and learning rate can be switched off.

    Attributes:
        method: the method.
        model: the network in training.
    """

    def __init__(
        self,
        method: type,
        c: Communicator,
        hyperparameters: dict,
        settings: dict,
        model: nn.Module | None = None,
        **options: int,
    ) -> None:
        self._scale = 1.0
        self._c = c
        # At its first step, where it stays unless it is switched off.
        self._optimizers = problem.make_optimizers(method, settings | {"schedule": "linear", "min_lr": 0.0})
        self.method, self.model = problem.make(
            method,
            c,
            hyperparameters=hyperparameters,
            optimizers=self._optimizers,
            model=model or problem.make_deep_model(),
            loss=self._loss,
            **options,
        )

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._scale * nn.functional.cross_entropy(outputs, targets)

    def train(self, num_steps: int, after_each: Callable[[], None] = lambda: None, scale: float = 1.0) -> None:
        """Train at the constant rate of the settings, with gradients that are `scale` of the loss's."""
        self._scale = scale
        for batch in problem.batches(self._c, num_steps, dtype=problem.vector(self.model).dtype):
            self.method.step(batch)
            after_each()

    def step_without_learning(self) -> None:
        """A step with rate 0 and gradients of 0: only what the method does before it changes parameters."""
        self._optimizers.set_step(100)
        self.train(1, scale=0.0)
        self._optimizers.set_step(0)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """The optimizer's state of each parameter in training, by name; those without any are absent."""
        state = self.method.state_dict()["optimizer"]["state"]
        trained = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        # torch numbers them group by group: what decays, then the rest
        names = [name for name, p in trained if p.dim() > 1] + [name for name, p in trained if p.dim() <= 1]
        return {name: state[number] for number, name in enumerate(names) if number in state}

    def factored(self) -> dict[str, Factored]:
        """The layers that are in low rank now."""
        return {name: layer for name, layer in self.model.named_modules() if isinstance(layer, Factored)}


def trained(method: type, c: Communicator, hyperparameters: dict, settings: dict, **options) -> Run:
    """A run of NUM_STEPS steps."""
    run = Run(method, c, hyperparameters, settings, **options)
    run.train(NUM_STEPS)
    return run


def num_broadcasts(c: Communicator) -> int:
    """Broadcasts that have been counted."""
    return sum(row["count"] for row in c.ledger.rows() if row["operation"] == "broadcast")


class Mixed(nn.Module):
    """A convolution, batch normalisation, attention and linear layers on 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.last = nn.Linear(16, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        images = torch.relu(self.norm(self.conv(torch.relu(self.first(inputs.view(-1, 1, 8, 8))))))
        return self.last(self.encoder(images.flatten(2).transpose(1, 2)).mean(dim=1))


def mixed(seed: int = 0) -> nn.Module:
    """Such a network."""
    return problem.seeded(Mixed().double(), seed, scale=0.2)


def trains_saves_and_merges(c: Communicator, method: type, hyperparameters: dict) -> None:
    """Convolutions and attention in low rank: train, save in the middle, go on, and merge."""
    given = {"hyperparameters": hyperparameters, "settings": {"learning_rate": 0.01}}
    steps = list(problem.batches(c, 40))
    instance, model = problem.make(method, c, **given, model=mixed())
    plain = sorted(model.state_dict())
    losses = problem.train(instance, steps[:28])  # of AB training in the middle of a group phase
    layers = ["encoder.self_attn", "encoder.self_attn.out_proj", "encoder.linear1", "encoder.linear2"]
    assert list(instance.inner_ranks())[-4:] == layers
    assert any(isinstance(layer, Factored) for layer in model.modules())
    state = instance.state_dict()
    shown = instance.evaluation_model()
    again, _ = problem.make(method, c, **given, model=mixed(seed=5))
    again.load_state_dict(state)
    torch.testing.assert_close(again.evaluation_model().state_dict(), shown.state_dict(), rtol=0, atol=0)
    losses += problem.train(instance, steps[28:])
    problem.train(again, steps[28:])
    ends = [problem.everything(m.finalize()) for m in (instance, again)]
    assert torch.equal(*ends)
    assert all(torch.equal(theirs, ends[0]) for theirs in problem.gathered(c, ends[0]))
    assert sum(losses[-10:]) < sum(losses[:10])
    assert sorted(merged_state_dict(instance.finalize())) == plain
