"""The optimizer settings shared by all methods, and the factory of a method's optimizers."""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from atoll.methods.common import own
from atoll.methods.common.eager import eager
from atoll.methods.common.flat import FlatModel
from atoll.methods.common.ftrl import Ftrl
from atoll.methods.common.gradient import PRECISIONS, LossScale
from atoll.methods.common.groups import ParameterGroup
from atoll.methods.common.layerwise import Lamb, Lars
from atoll.methods.common.muon import Muon
from atoll.methods.common.plateau import Plateau
from atoll.methods.common.turned import Turned
from atoll.methods.common.validation import require, require_choice

OPTIMIZERS = (
    "sgd",
    "adamw",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "amsgrad",
    "asgd",
    "ftrl",
    "lamb",
    "lars",
    "muon",
    "nadam",
    "radam",
    "rmsprop",
)
# These look at each parameter as a whole, so they step over the parameters; the others over runs of the flat vector.
LAYERWISE = ("adafactor", "lamb", "lars", "muon")
SCHEDULES = (
    "constant",
    "cosine",
    "linear",
    "inverse_sqrt",
    "exponential",
    "inverse_time",
    "polynomial",
    "one_cycle",
    "step",
    "type1",
    "plateau",
)
SCALES = ("none", "ranks")
# Settings that may change in mid-training; the others shape its batches, its network or what an optimizer keeps.
MUTABLE = (
    "learning_rate",
    "momentum",
    "beta1",
    "beta2",
    "smoothing",
    "trust",
    "l1",
    "weight_decay",
    "min_lr",
    "gradient_clipping",
)
# The options of torch's groups that follow from these settings; the rate is set before each step.
_OPTIONS = ("momentum", "betas", "alpha", "rho", "trust", "l1", "weight_decay")


# (torch's param_groups with lr and weight_decay set, the settings) -> an optimizer of all these parameters. It gets one
# parameter for each of the network's. Only the `lr` of its groups follows the schedule.
OwnOptimizer = Callable[[Sequence[dict[str, Any]], "OptimizerSettings"], torch.optim.Optimizer]
# (settings, step, number of steps) -> the learning rate at this step, after a warm-up if there is one.
OwnSchedule = Callable[["OptimizerSettings", int, int], float]

# Optimizers that divide by a root of squared gradients take steps of the rate's size, whatever the gradient's.
_DEFAULT_RATES = {
    "sgd": 0.1,
    "lars": 1.0,
    "ftrl": 0.1,
    "adafactor": 1e-2,
    "adagrad": 1e-2,
    "asgd": 1e-2,
    "adadelta": 1.0,
}


def default_rate(optimizer: str) -> float:
    """The default learning rate of an optimizer: 1e-3 for AdamW and its relatives, 0.1 for SGD."""
    return _DEFAULT_RATES.get(optimizer, 1e-3)


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The optimizer, its learning-rate schedule and the batch size; ValueError for a value outside its range.

    Attributes:
        optimizer: one of OPTIMIZERS, or your own: file.py:function, an entry point of the group atoll.optimizers, or
            `workload` for the workload's. See `OwnOptimizer`.
        learning_rate: the schedule's highest rate. Default: the optimizer's, see `default_rate`.
        momentum: of SGD, LARS, RMSprop and Muon's matrices.
        nesterov: Nesterov's form of SGD's momentum.
        beta1, beta2: rates of the first and second moments of Adam and its relatives, and of Muon's vectors.
        smoothing: of the squared gradients of Adadelta and RMSprop.
        trust: LARS's trust coefficient (You et al. 2017).
        l1: FTRL's, which makes weights exactly zero.
        weight_decay: decoupled for AdamW and Muon, coupled for all others.
        batch_size: samples per rank and step.
        global_batch_size: samples of all ranks per step, 0 for none. It takes the place of batch_size, and stays the
            same on any number of ranks (Coquelin 2024, table 5.2).
        scale_rate: `ranks` multiplies learning_rate, but not warmup_lr and min_lr, by the number of ranks (Goyal et al.
            2017; Coquelin 2024, table 3.2).
        schedule: of the learning rate over the training steps, one of SCHEDULES (see `scheduled_rate`), or your own:
            file.py:function, an entry point of the group atoll.schedules, or `workload`. See `OwnSchedule`.
        lr_decay: gamma of the schedule inverse_sqrt, learning_rate / (1 + gamma t)^0.5 (Zhang 2016, figure 4.13).
        lr_warmup: share of the training steps, in [0, 1], in which the rate first climbs linearly from warmup_lr
            (Coquelin 2024, table A.1).
        warmup_lr: rate at the first step of a warm-up (Coquelin 2024, table A.1).
        min_lr: rate at which the schedules cosine, linear, polynomial and one_cycle end, which may exceed learning_rate
            (Coquelin 2024, table A.2), and below which plateau does not fall.
        lr_k_decay: k of the cosine over (t/T)^k (Coquelin 2024, table A.1).
        decay_rate: of the schedules exponential and inverse_time; the factor of step, type1 and plateau.
        decay_period: of the schedules exponential and inverse_time, a share of the steps.
        milestones: of the schedule step, shares of the training in ascending order, such as 0.5,0.75. Default: epochs
            30, 60 and 80 of 90 (Goyal et al. 2017).
        lr_patience, lr_threshold: of the schedule plateau: the rate falls after more than lr_patience epochs in a row
            whose training loss is not below the best one by the share lr_threshold (Coquelin 2024, table 3.2).
        decay_power: of the schedule polynomial.
        sync_batch_norm: whether batch normalization takes its statistics over the batches of all ranks (Coquelin 2024,
            table A.1), for methods whose ranks step together.
        gradient_clipping: largest norm of a rank's gradient; 0 disables clipping (Coquelin 2024, table A.6).
        precision: of forward and backward passes, by autocast: float32, bfloat16, or float16 with a dynamic loss scale.
        accumulate: micro-batches into which each batch is cut, to save memory; their gradients are added.
        compile: whether forward and backward passes of the training are compiled by torch.compile. Results then differ
            in the last digits, and the first step compiles, which counts as training time.
        ema: decay d, in [0, 1), of the moving average of the weights that is evaluated, and is the trained model, in
            place of the weights (see `WeightAverage`); 0 is off. Training itself stays as it is.

    Example:
        >>> from atoll import OptimizerSettings
        >>> settings = OptimizerSettings(optimizer="adamw", learning_rate=1e-3, lr_warmup=0.1)
        >>> settings.schedule, settings.batch_size
        ('cosine', 32)
        >>> OptimizerSettings(momentum=1.0)
        Traceback (most recent call last):
        ValueError: momentum must be in [0, 1); got 1.0
    """

    optimizer: str = "sgd"
    learning_rate: float = None  # type: ignore[assignment]  # a float from __post_init__ on
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    smoothing: float = 0.9
    trust: float = 0.001
    l1: float = 0.0
    weight_decay: float = 1e-4
    batch_size: int = 32
    global_batch_size: int = 0
    scale_rate: str = "none"
    schedule: str = "cosine"
    lr_decay: float = 1e-4
    lr_warmup: float = 0.0
    warmup_lr: float = 1e-5
    min_lr: float = 0.0
    lr_k_decay: float = 1.0
    decay_rate: float = 0.5
    decay_period: float = 0.25
    decay_power: float = 1.0
    milestones: str = "1/3,2/3,8/9"
    lr_patience: int = 5
    lr_threshold: float = 1e-4
    sync_batch_norm: bool = False
    gradient_clipping: float = 0.0
    precision: str = "float32"
    accumulate: int = 1
    compile: bool = False
    ema: float = 0.0

    def __post_init__(self) -> None:
        own.check("optimizer", self.optimizer, OPTIMIZERS)
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", default_rate(self.optimizer))
        own.check("schedule", self.schedule, SCHEDULES)
        require(self.learning_rate > 0, f"learning_rate must be above 0; got {self.learning_rate}")
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1); got {self.momentum}")
        require(self.momentum > 0 or not self.nesterov, "nesterov needs a momentum above 0")
        require(self.weight_decay >= 0, f"weight_decay must be at least 0; got {self.weight_decay}")
        require(self.batch_size >= 1, f"batch_size must be at least 1; got {self.batch_size}")
        require(self.global_batch_size >= 0, f"global_batch_size must be at least 0; got {self.global_batch_size}")
        require_choice("scale_rate", self.scale_rate, SCALES)
        require(self.lr_patience >= 0, f"lr_patience must be at least 0; got {self.lr_patience}")
        require(0 <= self.lr_threshold < 1, f"lr_threshold must be in [0, 1); got {self.lr_threshold}")
        shares_of(self.milestones)
        require(self.lr_decay >= 0, f"lr_decay must be at least 0; got {self.lr_decay}")
        require(0 <= self.lr_warmup <= 1, f"lr_warmup must be in [0, 1]; got {self.lr_warmup}")
        require(self.warmup_lr >= 0, f"warmup_lr must be at least 0; got {self.warmup_lr}")
        require(self.min_lr >= 0, f"min_lr must be at least 0; got {self.min_lr}")
        require(self.lr_k_decay > 0, f"lr_k_decay must be above 0; got {self.lr_k_decay}")
        for name in ("beta1", "beta2", "smoothing"):
            require(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1); got {getattr(self, name)}")
        require(self.trust > 0, f"trust must be above 0; got {self.trust}")
        require(self.l1 >= 0, f"l1 must be at least 0; got {self.l1}")
        for name in ("decay_rate", "decay_period", "decay_power"):
            require(getattr(self, name) > 0, f"{name} must be above 0; got {getattr(self, name)}")
        require_choice("precision", self.precision, PRECISIONS)
        # With a batch held in total, that of a rank is known in `for_ranks`.
        most = self.global_batch_size or self.batch_size
        name = "global_batch_size" if self.global_batch_size else "batch_size"
        require(1 <= self.accumulate <= most, f"accumulate must be in 1..{name} ({most}); got {self.accumulate}")
        require(
            not (self.compile and self.sync_batch_norm),
            "compile must be false with sync_batch_norm, whose ranks communicate within a pass",
        )
        require(0 <= self.ema < 1, f"ema must be in [0, 1); got {self.ema}")
        require(self.gradient_clipping >= 0, f"gradient_clipping must be at least 0; got {self.gradient_clipping}")

    def for_ranks(self, num_ranks: int) -> OptimizerSettings:
        """These settings on so many ranks, with the batch per rank and the scaled rate.

        Raises:
            ValueError: if global_batch_size is not divisible by the number of ranks.
        """
        whole = self.global_batch_size
        if not whole and self.scale_rate == "none":
            return self
        require(whole % num_ranks == 0, f"global_batch_size must be divisible by the {num_ranks} ranks; got {whole}")
        return replace(
            self,
            batch_size=whole // num_ranks if whole else self.batch_size,
            global_batch_size=0,
            learning_rate=self.learning_rate * (num_ranks if self.scale_rate == "ranks" else 1),
            scale_rate="none",
        )


@cache
def shares_of(milestones: str) -> tuple[float, ...]:
    """The milestones, ascending shares of the training in (0, 1)."""
    try:
        shares = tuple(float(Fraction(part.strip())) for part in milestones.split(","))
    except (ValueError, ArithmeticError):
        raise ValueError(f"milestones must be numbers such as 1/3,2/3,8/9 or 0.5,0.75; got {milestones!r}") from None
    ascending = all(a < b for a, b in itertools.pairwise([0.0, *shares, 1.0]))
    require(ascending, f"milestones must be above 0, below 1 and ascending; got {milestones!r}")
    return shares


_OWN: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()  # optimizers of the user's


def mutable(optimizer: str) -> tuple[str, ...]:
    """The settings of an optimizer that may change in mid-training; a user's own reads the others once."""
    return ("learning_rate", "min_lr", "gradient_clipping") if own.is_own("optimizer", optimizer) else MUTABLE


def saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of an optimizer's state; torch's own state_dict shares its tensors with the ongoing training."""
    return copy.deepcopy(optimizer.state_dict())


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continue from what `saved` returned, which stays unchanged; torch's load_state_dict would share its tensors.

    The optimizer keeps its own settings, which may have changed since.
    """
    settings = [{name: group[name] for name in _OPTIONS if name in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(copy.deepcopy(state))
    if optimizer in _OWN:
        return  # what it has made of its options since is its own business
    for group, kept in zip(optimizer.param_groups, settings, strict=True):
        group.update(kept)
        for state in (optimizer.state[p] for p in group["params"] if group.get("momentum") and p in optimizer.state):
            if "square_avg" in state and "momentum_buffer" not in state:  # RMSprop had no momentum before
                state["momentum_buffer"] = torch.zeros_like(state["square_avg"])


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """The memory of an optimizer's moments, in bytes."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def scheduled_rate(settings: OptimizerSettings, step: int, num_steps: int, num_warmup_steps: int = 0) -> float:
    """The learning rate at `step` of 0..num_steps-1, as in timm's schedulers.

    The warm-up climbs from warmup_lr to learning_rate, t/w of the way at step t of w, and replaces the schedule's first
    steps. The schedule itself spans the whole training, x = t/T:

        cosine        min_lr + (learning_rate - min_lr) (1 + cos(pi x^k)) / 2     (Loshchilov and Hutter, 2017)
        linear        learning_rate + (min_lr - learning_rate) x
        inverse_sqrt  learning_rate (1 + gamma t)^-0.5                            (Zhang 2016, figure 4.13)
        exponential   learning_rate decay_rate^(x / decay_period)                 (this and the next two as in Keras:
        inverse_time  learning_rate / (1 + decay_rate x / decay_period)           Coquelin 2024, table 6.1)
        polynomial    min_lr + (learning_rate - min_lr) (1 - x)^decay_power
        step          learning_rate decay_rate^(milestones up to x)               (Goyal et al. 2017)
        one_cycle     half a cosine from warmup_lr up to learning_rate in the warm-up, then one down to min_lr
                      (Smith and Topin 2017, as torch's OneCycleLR without its cycle of momentum)

    with k = lr_k_decay (Zhang and Li, 2020): above 1 the rate stays high for longer, below 1 it falls sooner. type1 and
    plateau are constant here; `OptimizerFactory.epoch_end` lowers them.
    """
    s, x = settings, step / max(1, num_steps)
    if s.schedule == "one_cycle":
        return _one_cycle(s, step, num_steps, num_warmup_steps)
    if step < num_warmup_steps:
        return s.warmup_lr + (s.learning_rate - s.warmup_lr) * step / num_warmup_steps
    if s.schedule == "inverse_sqrt":
        return float(s.learning_rate * (1 + s.lr_decay * step) ** -0.5)
    if s.schedule == "exponential":
        return float(s.learning_rate * s.decay_rate ** (x / s.decay_period))
    if s.schedule == "inverse_time":
        return float(s.learning_rate / (1 + s.decay_rate * x / s.decay_period))
    if s.schedule in ("constant", "type1", "plateau"):
        return s.learning_rate
    if s.schedule == "step":
        # As x = t/T and a milestone m/T are rounded alike, the rate falls at step m.
        return s.learning_rate * s.decay_rate ** sum(share <= x + 1e-12 for share in shares_of(s.milestones))
    shares = {
        "polynomial": (1 - x) ** s.decay_power,
        "cosine": (1 + math.cos(math.pi * x**s.lr_k_decay)) / 2,
        "linear": 1 - x,
    }
    return float(s.min_lr + (s.learning_rate - s.min_lr) * shares[s.schedule])


def _one_cycle(s: OptimizerSettings, step: int, num_steps: int, num_warmup_steps: int) -> float:
    top = max(0, num_warmup_steps - 1)  # the step of the highest rate
    if step <= top:
        low, share = s.warmup_lr, step / max(1, top)
        share = share if num_warmup_steps > 1 else 1.0
    else:
        low, share = s.min_lr, 1 - (step - top) / max(1, num_steps - 1 - top)
    return low + (s.learning_rate - low) * (1 - math.cos(math.pi * share)) / 2


def _betas(settings: OptimizerSettings) -> tuple[float, float]:
    return settings.beta1, settings.beta2


Parameters = FlatModel | Iterable[FlatModel | ParameterGroup | nn.Parameter]
Maker = Callable[[OptimizerSettings, Iterable[Any], float, float], torch.optim.Optimizer]
_MAKERS: dict[str, Maker] = {
    "adamw": lambda s, p, rate, decay: eager(torch.optim.AdamW)(p, rate, _betas(s), weight_decay=decay, fused=True),
    "adam": lambda s, p, rate, decay: eager(torch.optim.Adam)(p, rate, _betas(s), weight_decay=decay, fused=True),
    "amsgrad": lambda s, p, rate, decay: eager(torch.optim.Adam)(
        p, rate, _betas(s), weight_decay=decay, amsgrad=True, fused=True
    ),
    "adamax": lambda s, p, rate, decay: eager(torch.optim.Adamax)(p, rate, _betas(s), weight_decay=decay),
    "lars": lambda s, p, rate, decay: Lars(p, rate, s.momentum, weight_decay=decay, trust=s.trust),
    "lamb": lambda s, p, rate, decay: Lamb(p, rate, _betas(s), weight_decay=decay),
    "muon": lambda s, p, rate, decay: Muon(p, rate, s.momentum, _betas(s), weight_decay=decay),
    "asgd": lambda s, p, rate, decay: eager(torch.optim.ASGD)(p, rate, weight_decay=decay),
    "adafactor": lambda s, p, rate, decay: eager(torch.optim.Adafactor)(p, rate, weight_decay=decay),
    "radam": lambda s, p, rate, decay: eager(torch.optim.RAdam)(p, rate, _betas(s), weight_decay=decay),
    "nadam": lambda s, p, rate, decay: eager(torch.optim.NAdam)(p, rate, _betas(s), weight_decay=decay),
    "adagrad": lambda s, p, rate, decay: eager(torch.optim.Adagrad)(p, rate, weight_decay=decay),
    "adadelta": lambda s, p, rate, decay: eager(torch.optim.Adadelta)(p, rate, s.smoothing, weight_decay=decay),
    "rmsprop": lambda s, p, rate, decay: eager(torch.optim.RMSprop)(
        p, rate, s.smoothing, momentum=s.momentum, weight_decay=decay
    ),
    "ftrl": lambda s, p, rate, decay: Ftrl(p, rate, weight_decay=decay, l1=s.l1),
}


@dataclass(frozen=True)
class _Made:
    """An optimizer that follows the schedule.

    Attributes:
        optimizer: each of its torch groups has the factors `rate` and `decay` of its ParameterGroup.
        scale: its highest rate, as a share of learning_rate.
        decay: its weight decay.
    """

    optimizer: torch.optim.Optimizer
    scale: float
    decay: float

    def set_rate(self, rate: float) -> None:
        """Set the learning rate, times each group's factor."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.scale * group["rate"]


class OptimizerFactory:
    """Makes optimizers, and moves all of their learning rates along the schedule.

    Args:
        settings: of the optimizers.
        num_steps, num_warmup_steps: the schedule's lengths in training steps.
        own_optimizer, own_schedule: those that the settings name, if they are not atoll's.

    Attributes:
        loss_scale: the factor of the loss; None unless precision is float16.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        num_steps: int,
        num_warmup_steps: int = 0,
        *,
        own_optimizer: OwnOptimizer | None = None,
        own_schedule: OwnSchedule | None = None,
    ) -> None:
        self.settings = settings
        self._own_optimizer = own_optimizer
        self._own_schedule = own_schedule
        self._step = 0
        self._factor = 1.0  # of the schedules that fall at the ends of epochs
        self._plateau = Plateau(settings.lr_threshold, settings.lr_patience)
        self._num_steps = num_steps
        self._num_warmup_steps = num_warmup_steps
        self._made: list[_Made] = []
        self.loss_scale = LossScale() if settings.precision == "float16" else None
        self.learning_rate = settings.learning_rate
        self.set_step(0)

    @property
    def share(self) -> float:
        """The schedule's value as a share of its highest rate."""
        return self.learning_rate / self.settings.learning_rate

    def __call__(
        self, parameters: Parameters, rate: float | None = None, *, weight_decay: float | None = None
    ) -> torch.optim.Optimizer:
        """Make an optimizer for `parameters`.

        Args:
            parameters: to be optimized: of FlatModels and groups, and others, which are trained at the full rate and
                decay.
            rate: its highest rate, which the schedule scales. Default: learning_rate.
            weight_decay: Default: the settings'.
        """
        scale = 1.0 if rate is None else rate / self.settings.learning_rate
        decay = self.settings.weight_decay if weight_decay is None else weight_decay
        optimizer = self.fresh(parameters, self.settings.learning_rate * scale, weight_decay=weight_decay)
        self._made.append(_Made(optimizer, scale, decay))
        return optimizer

    def fresh(
        self, parameters: Parameters, rate: float, *, weight_decay: float | None = None, clip: bool = True
    ) -> torch.optim.Optimizer:
        """Make an optimizer for one minimization at a constant rate: `rate` times the schedule's current share.

        Args:
            parameters: to be optimized, as in `__call__`.
            rate: the highest rate.
            weight_decay: Default: the settings'.
            clip: whether gradient_clipping applies, to the norm over all groups.
        """
        s, rate = self.settings, rate * self.share
        decay = s.weight_decay if weight_decay is None else weight_decay
        is_layerwise = self._own_optimizer is not None or s.optimizer in LAYERWISE
        groups = [_options(group, rate, decay) for group in _groups(parameters, is_layerwise)]
        # The fused forms pass over the memory once: with 10 million parameters a step of 51 ms takes 73 ms without
        # (docs/results/step.json: mlp_10m, "no fused SGD").
        if self._own_optimizer is not None:
            optimizer = _made_by(self._own_optimizer, groups, s)
        elif s.optimizer == "sgd":
            optimizer = eager(torch.optim.SGD)(
                groups, rate, s.momentum, weight_decay=decay, nesterov=s.nesterov, fused=True
            )
        else:
            optimizer = _MAKERS[s.optimizer](s, groups, rate, decay)
        if s.gradient_clipping and clip:
            optimizer.register_step_pre_hook(_clip(s.gradient_clipping))
        if self.loss_scale is not None:
            self.loss_scale.guard(optimizer)
        return optimizer

    def retarget(
        self,
        optimizer: torch.optim.Optimizer,
        groups: Iterable[ParameterGroup],
        turned: Mapping[nn.Parameter, Turned] = MappingProxyType({}),
    ) -> None:
        """Replace the parameters of an optimizer that this factory has made.

        Known parameters keep their moments, those in `turned` get those of another one in their basis, and the rest
        start with none; with SGD's momentum they start at zero, as torch's fused form needs it for all parameters or
        none.
        """
        made = next(made for made in self._made if made.optimizer is optimizer)
        own = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
        optimizer.param_groups[:] = [own | _options(group, 0.0, made.decay) for group in groups]
        made.set_rate(self.learning_rate)
        known = dict(optimizer.state)
        has_momentum = self.settings.optimizer == "sgd" and any(
            isinstance(state.get("momentum_buffer"), torch.Tensor) for state in known.values()
        )
        optimizer.state.clear()
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if parameter in known:
                optimizer.state[parameter] = known[parameter]
            elif parameter in turned and turned[parameter].source in known:
                optimizer.state[parameter] = turned[parameter].state(known[turned[parameter].source])
            elif has_momentum:
                optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}

    def slow(self, optimizer: torch.optim.Optimizer, share: float) -> None:
        """Set an optimizer that this factory has made to a share of the schedule's rate, until the next `set_step`."""
        next(made for made in self._made if made.optimizer is optimizer).set_rate(share * self.learning_rate)

    def set_step(self, step: int) -> None:
        """Set every learning rate to the schedule's value at `step`."""
        s, self._step = self.settings, step
        if self._own_schedule is not None and step >= self._num_warmup_steps:
            self.learning_rate = float(self._own_schedule(s, step, self._num_steps))
        else:
            self.learning_rate = scheduled_rate(s, step, self._num_steps, self._num_warmup_steps) * self._factor
        if s.schedule == "plateau":
            self.learning_rate = max(self.learning_rate, min(s.min_lr, s.learning_rate))
        for made in self._made:
            made.set_rate(self.learning_rate)

    def epoch_end(self, loss: float) -> None:
        """Lower the rate, if the schedule does so at the end of an epoch.

        Args:
            loss: the epoch's training loss, averaged over ranks, so that all ranks decide alike.
        """
        schedule = self.settings.schedule
        if schedule == "type1" or (schedule == "plateau" and self._plateau.update(loss)):
            self._factor *= self.settings.decay_rate
            self.set_step(self._step)

    def state_dict(self) -> dict[str, Any]:
        """Return what the schedule depends on besides the step; optimizers are saved by whoever made them."""
        return {
            "step": self._step,
            "factor": self._factor,
            "plateau": self._plateau.state_dict(),
            "loss_scale": None if self.loss_scale is None else self.loss_scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._factor = state["factor"]
        self._plateau.load_state_dict(state["plateau"])
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(state["loss_scale"])
        self.set_step(state["step"])


def _made_by(own: OwnOptimizer, groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The user's optimizer, with the factors of its groups' rates."""
    optimizer = own([dict(group) for group in groups], settings)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"the optimizer {settings.optimizer} must return a torch.optim.Optimizer; got {type(optimizer).__name__}"
        )
    given = {id(p) for group in groups for p in group["params"]}
    if {id(p) for group in optimizer.param_groups for p in group["params"]} != given:
        raise ValueError(f"the optimizer {settings.optimizer} must have all parameters that it is given, and no others")
    _OWN.add(optimizer)
    for group in optimizer.param_groups:
        group.setdefault("rate", 1.0)
        group.setdefault("decay", 1.0)
    return optimizer


def _groups(parameters: Parameters, is_layerwise: bool) -> list[ParameterGroup]:
    given = [parameters] if isinstance(parameters, FlatModel) else list(parameters)
    flats = [one for one in given if isinstance(one, FlatModel)]
    groups = [group for one in flats for group in (one.groups_by_parameter if is_layerwise else one.groups)]
    groups += [one for one in given if isinstance(one, ParameterGroup)]
    alone = [one for one in given if isinstance(one, nn.Parameter)]
    return [*groups, ParameterGroup(alone)] if alone else groups


def _options(group: ParameterGroup, rate: float, decay: float) -> dict[str, Any]:
    """A group in torch's form, with its factors, which torch keeps and saves."""
    own = {"lr": rate * group.rate, "weight_decay": decay * group.decay, "rate": group.rate, "decay": group.decay}
    return {"params": list(group.parameters)} | own


def _clip(largest_norm: float) -> Callable[[torch.optim.Optimizer, object, object], None]:
    def clip(optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, largest_norm)

    return clip
