"""Optimizers and schedules that torch does not have, and that all of them train on the flat vector."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from atoll.methods.common.ftrl import Ftrl
from atoll.methods.common.groups import ParameterGroup
from atoll.methods.common.optimizers import (
    OPTIMIZERS,
    OptimizerFactory,
    OptimizerSettings,
    mutable,
    restore,
    saved,
    scheduled_rate,
    state_bytes,
)
from atoll.methods.common.turned import Turned


def steps(make, count=20, rates=None):
    torch.manual_seed(0)
    weights = nn.Parameter(torch.randn(7, dtype=torch.float64))
    optimizer = make([weights])
    for number in range(count):
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates[number]
        weights.grad = torch.sin(weights.detach() * (number + 1)) + weights.detach()
        optimizer.step()
    return weights.detach()


@pytest.mark.parametrize("rates", [None, [0.1 * 0.8**k for k in range(20)]])
def test_ftrl_without_l1_is_adagrad(rates):
    """Whatever the schedule: z is kept as -w / eta."""
    expected = steps(lambda p: torch.optim.Adagrad(p, 0.1, initial_accumulator_value=0.1, eps=0), rates=rates)
    torch.testing.assert_close(steps(lambda p: Ftrl(p, 0.1), rates=rates), expected, rtol=1e-9, atol=0)


def test_ftrl_with_l1_makes_weights_exactly_zero_and_follows_the_paper():
    sparse = steps(lambda p: Ftrl(p, 0.1, l1=2.0))
    assert (sparse == 0).any()
    # algorithm 1 of the paper, one coordinate
    w, g, n, l1, rate = 0.5, 0.3, 0.1, 0.05, 0.1
    z = -w * n**0.5 / rate - l1
    new = n + g * g
    z += g - (new**0.5 - n**0.5) / rate * w
    expected = -(z - l1 * (1 if z > 0 else -1)) * rate / new**0.5
    parameter = nn.Parameter(torch.tensor([w], dtype=torch.float64))
    optimizer = Ftrl([parameter], rate, l1=l1)
    parameter.grad = torch.tensor([g], dtype=torch.float64)
    optimizer.step()
    assert float(parameter) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("l1", [0.0, 0.05])
def test_ftrl_goes_on_from_weights_that_were_moved_in_between(l1):
    """As by an average over ranks; without a gradient the next step keeps them, and those that were not moved."""
    parameter = nn.Parameter(torch.linspace(-0.5, 0.5, 7, dtype=torch.float64))
    optimizer = Ftrl([parameter], 0.1, l1=l1)
    parameter.grad = torch.linspace(1, -2, 7, dtype=torch.float64)
    optimizer.step()
    stays = parameter.detach().clone()
    moved = stays + torch.tensor([0.0, 0.3, -0.2, 0.0, 1.0, 0.0, 0.0])
    parameter.data.copy_(moved)
    parameter.grad.zero_()
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), moved, rtol=1e-12, atol=1e-15)
    assert torch.equal(parameter[[0, 3, 5, 6]], stays[[0, 3, 5, 6]])


def test_ftrl_stays_a_number_where_a_schedule_has_fallen_to_nothing():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Ftrl([parameter], 1e-200)
    parameter.grad = torch.ones(3)
    for _ in range(3):
        optimizer.step()
    assert torch.isfinite(parameter).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains(name):
    settings = OptimizerSettings(optimizer=name, learning_rate=0.05, schedule="constant", weight_decay=0.0)
    target = torch.linspace(-1, 1, 5)
    weights = nn.Parameter(torch.zeros(5))
    optimizer = OptimizerFactory(settings, 100)([weights])
    first = None
    for _ in range(100):
        loss = (weights - target).square().sum()
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # adadelta's steps start at the root of its epsilon, 1e-3; adafactor's are shares of the weights, which start at 0
    assert loss.item() < first * (0.999 if name in ("adadelta", "adafactor") else 0.5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "exponential", "decay_rate": 0.25, "decay_period": 0.5}, [1.0, 0.5, 0.25, 0.125]),
        ({"schedule": "inverse_time", "decay_rate": 2.0, "decay_period": 0.25}, [1.0, 1 / 3, 1 / 5, 1 / 7]),
        ({"schedule": "polynomial", "decay_power": 2.0, "min_lr": 0.2}, [1.0, 0.65, 0.4, 0.25]),
        ({"schedule": "polynomial"}, [1.0, 0.75, 0.5, 0.25]),
    ],
)
def test_schedules_of_keras(settings, expected):
    made = OptimizerSettings(learning_rate=1.0, **settings)
    assert [scheduled_rate(made, step, 4) for step in range(4)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta1": 1.0}, r"beta1 must be in \[0, 1\); got 1.0"),
        ({"decay_period": 0.0}, "decay_period must be above 0; got 0.0"),
        ({"l1": -1.0}, "l1 must be at least 0"),
        ({"schedule": "step", "milestones": "0.5,0.25"}, "ascending; got '0.5,0.25'"),
        ({"milestones": "half"}, "milestones must be numbers such as 1/3,2/3,8/9"),
        ({"scale_rate": "gpus"}, "scale_rate must be one of none, ranks; got 'gpus'"),
        ({"lr_patience": -1}, "lr_patience must be at least 0; got -1"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adamw, adadelta"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**settings)


def test_an_optimizer_goes_on_with_other_parameters():
    kept, old = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4, 4))
    settings = OptimizerSettings(optimizer="adamw", learning_rate=0.1, weight_decay=0.01, schedule="constant")
    factory = OptimizerFactory(settings, 10)
    optimizer = factory([kept, old])
    (kept.sum() + (old * torch.arange(16.0).view(4, 4)).sum()).backward()
    optimizer.step()
    assert state_bytes(optimizer) == 2 * 4 * (3 + 16) + 2 * 4
    smaller, new = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(5))
    before = optimizer.state[old]["exp_avg"].clone()
    columns = torch.eye(4)[:, :2]
    factory.retarget(optimizer, [ParameterGroup([kept, smaller, new])], {smaller: Turned(old, columns, columns)})
    assert set(optimizer.state) == {kept, smaller}
    assert torch.equal(optimizer.state[smaller]["exp_avg"], before[:2, :2])
    assert optimizer.state[smaller]["step"].item() == 1
    for parameter in (kept, smaller, new):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # without moments the first step is lr times the gradient's sign, less the decay 0.1 * 0.01
    assert new.detach().tolist() == pytest.approx([1 - 0.1 - 0.001] * 5, rel=1e-5)
    assert optimizer.state[new]["step"].item() == 1


def rates_of(settings, num_epochs, steps_per_epoch, losses=None):
    """The rate of every step, and the factory at the end."""
    num_steps = num_epochs * steps_per_epoch
    factory = OptimizerFactory(settings, num_steps, round(settings.lr_warmup * num_steps))
    rates = []
    for epoch in range(num_epochs):
        for step in range(steps_per_epoch):
            factory.set_step(epoch * steps_per_epoch + step)
            rates.append(factory.learning_rate)
        factory.epoch_end(0.0 if losses is None else losses[epoch])
    return rates, factory


def torch_rates(make, num_steps, losses=None):
    """The rates of one of torch's schedulers, which steps after every one of ours."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.4)
    scheduler, rates = make(optimizer), []
    for step in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if losses is not None:
            scheduler.step(losses[step])
        elif step < num_steps - 1:
            scheduler.step()
    return rates


@pytest.mark.parametrize(("patience", "factor", "threshold"), [(0, 0.5, 1e-4), (2, 0.75, 0.01), (5, 0.1, 0.2)])
def test_plateau_is_torchs(patience, factor, threshold):
    generator = torch.Generator().manual_seed(patience)
    losses = [1 / (1 + epoch) + 0.3 * float(torch.rand(1, generator=generator)) for epoch in range(40)]
    given = {"lr_patience": patience, "decay_rate": factor, "lr_threshold": threshold, "min_lr": 0.01}
    settings = OptimizerSettings(learning_rate=0.4, schedule="plateau", **given)
    rates, _ = rates_of(settings, 40, 1, losses)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    expected = torch_rates(
        lambda o: plateau(o, factor=factor, patience=patience, threshold=threshold, min_lr=0.01), 40, losses
    )
    assert rates == pytest.approx(expected, rel=1e-12)
    assert min(rates) < 0.4


def test_plateau_and_type1_continue_from_their_state():
    losses = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    for schedule in ("plateau", "type1"):
        settings = OptimizerSettings(learning_rate=1.0, schedule=schedule, lr_patience=1)
        expected, _ = rates_of(settings, 8, 2, losses)
        _, factory = rates_of(settings, 3, 2, losses)
        again = OptimizerFactory(settings, 16)
        again.load_state_dict(factory.state_dict())
        rates = []
        for epoch in range(3, 8):
            for step in range(2):
                again.set_step(2 * epoch + step)
                rates.append(again.learning_rate)
            again.epoch_end(losses[epoch])
        assert rates == expected[6:], schedule
        assert rates[0] != rates[-1]


def test_type1_halves_after_every_epoch():
    rates, _ = rates_of(OptimizerSettings(learning_rate=0.8, schedule="type1"), 4, 3)
    assert rates == [0.8] * 3 + [0.4] * 3 + [0.2] * 3 + [0.1] * 3


def test_step_falls_at_its_milestones():
    """Goyal et al. 2017: a tenth of the rate at epochs 30, 60 and 80 of 90."""
    rates, _ = rates_of(OptimizerSettings(learning_rate=0.4, schedule="step", decay_rate=0.1), 90, 2)
    falls = torch.optim.lr_scheduler.MultiStepLR
    assert rates == pytest.approx(torch_rates(lambda o: falls(o, [60, 120, 160]), 180), rel=1e-12)


def test_one_cycle_is_torchs():
    settings = OptimizerSettings(learning_rate=0.4, schedule="one_cycle", lr_warmup=0.3, warmup_lr=0.016, min_lr=1.6e-6)
    rates, _ = rates_of(settings, 5, 10)
    cycle = torch.optim.lr_scheduler.OneCycleLR
    expected = torch_rates(lambda o: cycle(o, 0.4, total_steps=50, pct_start=0.3, cycle_momentum=False), 50)
    assert rates == pytest.approx(expected, rel=1e-9)


def test_settings_on_ranks():
    settings = OptimizerSettings(learning_rate=0.1, scale_rate="ranks", global_batch_size=96)
    on_four = settings.for_ranks(4)
    assert (on_four.batch_size, on_four.learning_rate) == (24, 0.4)
    assert on_four.for_ranks(4) == on_four
    assert OptimizerSettings(batch_size=7).for_ranks(3).batch_size == 7
    with pytest.raises(ValueError, match="global_batch_size must be divisible by the 5 ranks; got 96"):
        settings.for_ranks(5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop", "adadelta", "lars", "ftrl", "lamb", "muon"])
def test_a_restored_optimizer_keeps_its_own_settings(name: str) -> None:
    """Its state is the saved one; its momentum, decay and other settings may have changed in mid-training."""
    first = OptimizerSettings(optimizer=name, momentum=0.9, weight_decay=0.1, beta1=0.8, smoothing=0.7, trust=0.5)
    other = replace(first, momentum=0.5, weight_decay=0.2, beta1=0.6, smoothing=0.4, trust=0.25, l1=0.1)
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizers = [OptimizerFactory(s, 4)([p]) for s, p in zip((first, other), parameters, strict=True)]
    for parameter, optimizer in zip(parameters, optimizers, strict=True):
        parameter.grad = torch.ones(3)
        optimizer.step()
    own = {k: v for k, v in optimizers[1].param_groups[0].items() if k not in ("params", "lr")}
    restore(optimizers[1], saved(optimizers[0]))
    assert {k: v for k, v in optimizers[1].param_groups[0].items() if k not in ("params", "lr")} == own
    for (_, state), (_, expected) in zip(optimizers[1].state.items(), optimizers[0].state.items(), strict=True):
        assert all(torch.equal(torch.as_tensor(state[k]), torch.as_tensor(expected[k])) for k in expected)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "lars"])
def test_momentum_may_begin_in_mid_training(name: str) -> None:
    """A saved state without momentum has no buffer for it."""
    first = OptimizerSettings(optimizer=name, momentum=0.0)
    parameter = nn.Parameter(torch.ones(3))
    before, after = (OptimizerFactory(s, 4)([parameter]) for s in (first, replace(first, momentum=0.9)))
    for optimizer in (before, after):
        parameter.grad = torch.ones(3)
        if optimizer is after:
            restore(after, saved(before))
        optimizer.step()
    assert torch.isfinite(parameter).all()


def test_an_optimizer_of_the_users_own_keeps_what_it_has_made_of_its_options() -> None:
    def own(groups, settings):
        return torch.optim.SGD(groups, momentum=settings.momentum)

    optimizers = [
        OptimizerFactory(OptimizerSettings(), 4, own_optimizer=own)([nn.Parameter(torch.ones(3))]) for _ in range(2)
    ]
    optimizers[0].param_groups[0]["momentum"] = 0.123  # such as a cycle of it
    restore(optimizers[1], saved(optimizers[0]))
    assert optimizers[1].param_groups[0]["momentum"] == 0.123
    assert mutable("own.py:own") == ("learning_rate", "min_lr", "gradient_clipping")
