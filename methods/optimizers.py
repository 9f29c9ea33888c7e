"""The optimizer settings that all methods share, and the factory that gives a method its optimizers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from atoll.methods.validation import require, require_choice

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "cosine", "linear", "inverse_sqrt")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The optimizer, its learning-rate schedule and the batch size.

    Attributes:
        learning_rate: the schedule's highest rate.
        momentum: of SGD; AdamW's first-moment rate is fixed at 0.9.
        nesterov: Nesterov's form of SGD's momentum.
        weight_decay: coupled for SGD, decoupled for AdamW.
        batch_size: samples per rank and step.
        schedule: of the learning rate over the training steps, after the warm-up.
        lr_decay: gamma of the schedule inverse_sqrt, learning_rate / (1 + gamma t)^0.5 (003 figure 4.13).
        lr_warmup_epochs: epochs in which the rate climbs linearly from near 0 (001 table 3.2).
        gradient_clipping: largest norm of a rank's gradient; 0 switches clipping off (001 table A.6).
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    batch_size: int = 32
    schedule: str = "cosine"
    lr_decay: float = 1e-4
    lr_warmup_epochs: int = 0
    gradient_clipping: float = 0.0

    def __post_init__(self) -> None:
        require_choice("optimizer", self.optimizer, OPTIMIZERS)
        require_choice("schedule", self.schedule, SCHEDULES)
        require(self.learning_rate > 0, f"learning_rate must be above 0; got {self.learning_rate}")
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1); got {self.momentum}")
        require(self.momentum > 0 or not self.nesterov, "nesterov needs a momentum above 0")
        require(self.weight_decay >= 0, f"weight_decay must be at least 0; got {self.weight_decay}")
        require(self.batch_size >= 1, f"batch_size must be at least 1; got {self.batch_size}")
        require(self.lr_decay >= 0, f"lr_decay must be at least 0; got {self.lr_decay}")
        require(self.lr_warmup_epochs >= 0, f"lr_warmup_epochs must be at least 0; got {self.lr_warmup_epochs}")
        require(self.gradient_clipping >= 0, f"gradient_clipping must be at least 0; got {self.gradient_clipping}")


def saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of an optimizer's state: torch's own state_dict holds the tensors that training goes on to change."""
    return copy.deepcopy(optimizer.state_dict())


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continue from what `saved` returned, which stays as it is: torch's load_state_dict would take its tensors."""
    optimizer.load_state_dict(copy.deepcopy(state))


def rate_factor(schedule: str, step: int, num_steps: int, num_warmup_steps: int = 0, decay: float = 0.0) -> float:
    """The share of the highest learning rate at `step` of 0..num_steps-1: a linear climb, then the schedule.

    The cosine is (1 + cos(pi t)) / 2 over the t in [0, 1) that follow the warm-up (Loshchilov and Hutter, 2017), and
    the inverse square root (1 + decay t)^-0.5 over the steps t that follow it (003 figure 4.13).
    """
    if step < num_warmup_steps:
        return (step + 1) / (num_warmup_steps + 1)
    if schedule == "inverse_sqrt":
        return float((1 + decay * (step - num_warmup_steps)) ** -0.5)
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1 - progress if schedule == "linear" else 1.0


class OptimizerFactory:
    """Makes optimizers, and moves the learning rates of all that it made along the schedule.

    Args:
        settings: what to make.
        num_steps, num_warmup_steps: the schedule's lengths in training steps.
    """

    def __init__(self, settings: OptimizerSettings, num_steps: int, num_warmup_steps: int = 0) -> None:
        self.settings = settings
        self._num_steps = num_steps
        self._num_warmup_steps = num_warmup_steps
        self._made: list[torch.optim.Optimizer] = []
        self.learning_rate = settings.learning_rate
        self.set_step(0)

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Make an optimizer for `parameters`."""
        s, rate = self.settings, self.learning_rate
        # The fused forms pass over the memory once: of 10 million parameters a step of 51 ms takes 73 ms without
        # (docs/results/step.json: mlp_10m, "no fused SGD").
        if s.optimizer == "adamw":
            made: torch.optim.Optimizer = torch.optim.AdamW(parameters, rate, weight_decay=s.weight_decay, fused=True)
        else:
            made = torch.optim.SGD(
                parameters, rate, s.momentum, weight_decay=s.weight_decay, nesterov=s.nesterov, fused=True
            )
        if s.gradient_clipping:
            made.register_step_pre_hook(_clip(s.gradient_clipping))
        self._made.append(made)
        return made

    def set_step(self, step: int) -> None:
        """Set every learning rate to the schedule's value at `step`."""
        s = self.settings
        factor = rate_factor(s.schedule, step, self._num_steps, self._num_warmup_steps, s.lr_decay)
        self.learning_rate = s.learning_rate * factor
        for group in (group for optimizer in self._made for group in optimizer.param_groups):
            group["lr"] = self.learning_rate


def _clip(largest_norm: float) -> Callable[[torch.optim.Optimizer, object, object], None]:
    def clip(optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, largest_norm)

    return clip
