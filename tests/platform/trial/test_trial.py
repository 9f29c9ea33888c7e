"""The trial's loop on virtual ranks: data order, schedules, divergence, determinism."""

import math

import pytest
import torch

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings, scheduled_rate
from atoll.methods.common.plateau import Plateau
from atoll.methods.method import NotApplicable
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.batches import EpochBatches
from atoll.platform.trial.shares import Share
from atoll.platform.trial.trial import Diverged, Trial
from atoll.platform.workloads.digits import DigitsMlp
from atoll.platform.workloads.workload import Data, Samples


def configuration(**changes):
    content = {"workload": "digits_mlp", "method": "ddp", "epochs": 2, "seed": 1, "hyperparameters": {"batch_size": 16}}
    return Configuration(**content | changes)


def curve(config, nodes):
    return run_virtual_ranks(lambda c: [*Trial(config, c, "cpu").train()], nodes)


def samples(count):
    return Samples(torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count))


def test_p_ranks_see_what_one_rank_with_p_times_the_batch_sees():
    alone = list(EpochBatches(samples(40), Share(12, 0, 1), seed=3).epoch(5))
    shared = [list(EpochBatches(samples(40), Share(4, rank, 3), seed=3).epoch(5)) for rank in range(3)]
    assert len(alone) == 3
    for number, batch in enumerate(alone):
        together = torch.cat([shared[rank][number].indices for rank in range(3)])
        assert torch.equal(together, batch.indices)


def test_ranks_that_hold_parts_of_one_network_see_the_whole_of_every_batch():
    alone = list(EpochBatches(samples(40), Share(12, 0, 1), seed=3).epoch(5))
    for rank in range(3):
        whole = list(EpochBatches(samples(40), Share(4, rank, 3, whole=True), seed=3).epoch(5))
        assert [b.indices.tolist() for b in whole] == [b.indices.tolist() for b in alone]
    with pytest.raises(NotApplicable, match="batch_size 30 on 2 ranks makes 60"):
        EpochBatches(samples(40), Share(30, 1, 2, whole=True), seed=3)


class Noisy(DigitsMlp):
    """Counts how often a training input is augmented."""

    num_augmented = 0

    def transform(self, inputs, generator):
        type(self).num_augmented += generator is not None
        return inputs


@pytest.mark.parametrize(
    ("method", "hyperparameters", "is_augmented"),
    [
        ("ddp", {}, True),
        ("dni", {}, True),
        ("admm_dual", {}, True),
        ("admm_dual", {"duals": True}, False),
        ("mac", {"w_iterations": 1, "w_iterations_last": 1}, False),
    ],
)
def test_a_method_that_keeps_something_for_every_sample_sees_it_as_it_is(
    method, hyperparameters, is_augmented, monkeypatch
):
    monkeypatch.setattr("atoll.platform.study.registry.workload", lambda *_: Noisy())
    monkeypatch.setattr(Noisy, "num_augmented", 0)
    curve(configuration(method=method, hyperparameters=hyperparameters), (0,))
    assert (Noisy.num_augmented > 0) == is_augmented


def test_epochs_have_different_orders_and_no_sample_twice():
    source = EpochBatches(samples(40), Share(10, 0, 1), seed=3)
    orders = [torch.cat([b.indices for b in source.epoch(e)]) for e in (0, 1)]
    assert sorted(orders[0].tolist()) == list(range(40))
    assert not torch.equal(*orders)


def test_augmentation_is_the_ranks_own_and_seeded():
    def add_noise(inputs, generator):
        return inputs + torch.rand(inputs.shape, generator=generator)

    def inputs(rank, seed, epoch):
        source = EpochBatches(samples(40), Share(10, rank, 2), seed=seed, transform=add_noise)
        return torch.cat([batch.inputs - batch.indices[:, None] for batch in source.epoch(epoch)])

    assert torch.equal(inputs(0, 3, 1), inputs(0, 3, 1))
    for other in ((1, 3, 1), (0, 4, 1), (0, 3, 2)):
        assert not torch.equal(inputs(0, 3, 1), inputs(*other))


def test_training_time_is_computing_waiting_and_data():
    def spent(c):
        trial = Trial(configuration(), c, "cpu")
        last = [*trial.train()][-1]
        return last.seconds, trial.seconds()

    for total, parts in run_virtual_ranks(spent, (0, 0)):
        assert set(parts) == {"compute", "waiting", "data"}
        assert all(seconds > 0 for seconds in parts.values())
        assert sum(parts.values()) == pytest.approx(total, rel=1e-9)


def test_a_global_batch_must_fit():
    with pytest.raises(NotApplicable, match=r"batch_size 32 on 2 ranks makes 64"):
        EpochBatches(samples(40), Share(32, 0, 2), seed=0)


def test_reports_after_every_epoch_and_learns():
    (first, second), other = curve(configuration(), (0, 0))
    assert (first.epoch, second.epoch, first.last, second.last) == (1, 2, False, True)
    assert second.step == 2 * (1257 // 32)
    assert second.validation_loss < first.validation_loss < math.log(10)
    assert second.metric > 0.8
    assert second.wire_bytes == 2 * second.step * 4 * 8970  # 2 ranks x 2(p-1)/p x 4 n
    assert (other[1].metric, other[1].validation_loss) == (second.metric, second.validation_loss)


@pytest.mark.parametrize(("method", "nodes"), [("ddp", (0,)), ("daso", (0, 1)), ("local_sgd", (0, 0))])
def test_the_same_seed_gives_the_same_curve_and_another_seed_another(method, nodes):
    def losses(seed):
        return [(p.train_loss, p.validation_loss) for p in curve(configuration(method=method, seed=seed), nodes)[0]]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_a_loss_that_is_no_number_ends_the_trial_on_every_rank():
    config = configuration(hyperparameters={"batch_size": 16, "learning_rate": 1e30, "momentum": 0.0})

    def ends(communicator):
        with pytest.raises(Diverged, match=r"diverged at step \d+: the training loss is (nan|inf)"):
            list(Trial(config, communicator, "cpu").train())
        return True

    assert run_virtual_ranks(ends, (0, 0)) == [True, True]


def test_unknown_hyperparameters_are_refused():
    with pytest.raises(
        ValueError, match=r"ddp has no hyperparameter B; valid are bucket_mib, overlap, wire of the method"
    ):
        curve(configuration(hyperparameters={"B": 3}), (0,))


def test_the_schedules_are_their_formulas():
    def rates(steps, num_steps=10, num_warmup_steps=0, **settings):
        made = OptimizerSettings(**{"learning_rate": 2.0} | settings)
        return [scheduled_rate(made, step, num_steps, num_warmup_steps) for step in steps]

    assert rates((0, 5), schedule="cosine") == pytest.approx([2.0, 1.0])
    assert rates((0, 5, 9), schedule="linear", min_lr=1.0) == pytest.approx([2.0, 1.5, 1.1])
    assert rates((7,), schedule="constant", min_lr=1.0) == [2.0]
    # Zhang 2016, figure 4.13: (1 + gamma t)^-0.5
    assert rates((0, 6), schedule="inverse_sqrt", lr_decay=0.5) == pytest.approx([2.0, 1.0])
    # timm: min + (max - min) (1 + cos(pi t^k / T^k)) / 2, here at t/T = 1/4 with k = 1/2: half way
    assert rates((25,), 100, schedule="cosine", lr_k_decay=0.5, min_lr=1.0) == pytest.approx([1.5])
    # A rate that rises, as in Coquelin 2024, table A.2.
    assert rates((100,), 100, schedule="cosine", min_lr=8.0) == pytest.approx([8.0])


def test_a_warm_up_is_a_share_of_the_training():
    (reports,) = curve(configuration(epochs=4, hyperparameters={"lr_warmup": 0.5, "schedule": "constant"}), (0,))
    num_steps = reports[-1].step
    # the last step of the first epoch, of the warm-up's two
    climbed = (num_steps / 4 - 1) / (num_steps / 2)
    assert reports[0].learning_rate == pytest.approx(1e-5 + (0.1 - 1e-5) * climbed)
    assert reports[1].learning_rate < reports[2].learning_rate == 0.1


def test_the_warm_up_replaces_the_first_steps_of_the_schedule():
    settings = OptimizerSettings(learning_rate=1.0, schedule="cosine", warmup_lr=0.2)
    rates = [scheduled_rate(settings, step, 10, 4) for step in range(6)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4:] == [scheduled_rate(settings, step, 10) for step in (4, 5)]


def test_a_factory_makes_optimizers_with_rates_of_their_own():
    settings = OptimizerSettings(learning_rate=0.2, schedule="linear", momentum=0.0, weight_decay=0.1)
    factory = OptimizerFactory(settings, num_steps=10)
    parameter = torch.nn.Parameter(torch.ones(1))
    scaled, same = factory([parameter], 0.05), factory([parameter])
    factory.set_step(5)
    assert scaled.param_groups[0]["lr"] == pytest.approx(0.025)
    assert same.param_groups[0]["lr"] == pytest.approx(0.1)
    # half of the way down the schedule; later steps do not move it
    fresh = factory.fresh([parameter], 0.4, weight_decay=0.0)
    assert fresh.param_groups[0]["lr"] == pytest.approx(0.2)
    assert [fresh.param_groups[0]["weight_decay"], same.param_groups[0]["weight_decay"]] == [0.0, 0.1]
    factory.set_step(10)
    assert fresh.param_groups[0]["lr"] == pytest.approx(0.2)
    assert same.param_groups[0]["lr"] == 0.0


def test_coordinates_are_not_clipped():
    factory = OptimizerFactory(OptimizerSettings(learning_rate=1.0, momentum=0.0, gradient_clipping=0.5), num_steps=10)
    moved = []
    for clip in (True, False):
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.full((1,), 4.0)
        factory.fresh([parameter], 1.0, weight_decay=0.0, clip=clip).step()
        moved.append(-float(parameter))
    assert moved == [pytest.approx(0.5, rel=1e-5), 4.0]


def test_a_factory_moves_all_its_optimizers_and_clips():
    parameter = torch.nn.Parameter(torch.zeros(2))
    factory = OptimizerFactory(
        OptimizerSettings(learning_rate=1.0, momentum=0.0, weight_decay=0.0, schedule="linear", gradient_clipping=1.0),
        10,
    )
    first, second = factory([parameter]), factory([parameter])
    factory.set_step(5)
    assert [o.param_groups[0]["lr"] for o in (first, second)] == [0.5, 0.5]
    parameter.grad = torch.tensor([3.0, 4.0])
    first.step()
    # gradient of norm 5 clipped to 1, times 0.5; clip_grad_norm_ adds 1e-6 to the norm
    assert parameter.tolist() == pytest.approx([-0.3, -0.4], rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0; got 0.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\); got 1.0"),
        ({"schedule": "steps"}, "schedule must be one of constant, cosine, linear, inverse_sqrt, exponential, "),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adamw, adadelta, "),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum above 0"),
    ],
)
def test_wrong_optimizer_settings_say_the_rule(wrong, message):
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**wrong)


def test_a_plateau_is_more_bad_epochs_in_a_row_than_patience():
    plateau = Plateau(threshold=0.05, patience=2)
    losses = [1.0, 0.96, 0.97, 0.94, 0.93, 0.92, 0.91, 0.91, 0.91, 0.91]
    #         best  bad   bad   best  bad   bad   BAD   bad   bad   BAD
    assert [plateau.update(loss) for loss in losses] == [False] * 6 + [True, False, False, True]


def test_a_trial_notes_what_has_no_effect():
    """Also what only a training knows: 2 epochs of 75 steps are fewer than H."""
    given = {"method": "local_sgd", "hyperparameters": {"batch_size": 8, "H": 1000}}
    (alone,) = run_virtual_ranks(lambda c: Trial(configuration(**given), c, "cpu").notes, [0])
    assert alone == ["local_sgd: H, warmup have no effect: there is one rank, which averages with no other"]
    pair = run_virtual_ranks(lambda c: Trial(configuration(**given), c, "cpu").notes, [0, 0])
    assert pair[0] == pair[1]
    assert pair[0][0].startswith("local_sgd: H has no effect: the ranks average at the end only: 0 + 1000 steps, of ")


@pytest.mark.parametrize("schedule", ["type1", "plateau"])
def test_schedules_that_fall_after_an_epoch(schedule):
    """On all ranks alike, and the rate of a report is that of its steps."""
    given = {"batch_size": 16, "schedule": schedule, "learning_rate": 0.4, "lr_patience": 0, "lr_threshold": 0.99}
    curves = curve(configuration(epochs=3, hyperparameters=given), [0, 0])
    rates = [[progress.learning_rate for progress in one] for one in curves]
    # on a plateau from the second epoch on, as no loss is a hundredth of the first one
    assert rates[0] == rates[1] == ([0.4, 0.2, 0.1] if schedule == "type1" else [0.4, 0.4, 0.2])


def test_a_batch_held_in_total_is_shared_by_the_ranks():
    alone = curve(configuration(hyperparameters={"global_batch_size": 32}), [0])[0]
    pair = curve(configuration(hyperparameters={"global_batch_size": 32}), [0, 0])[0]
    assert [one.step for one in alone] == [one.step for one in pair]
    assert pair[-1].train_loss == pytest.approx(alone[-1].train_loss, rel=1e-4)  # sums in another order, in float32


class Normed(DigitsMlp):
    """A network with batch normalization, in float64."""

    def load(self, folder):
        data = super().load(folder)
        return Data(*(Samples(part.inputs.double(), part.targets) for part in (data.train, data.validation, data.test)))

    def model(self):
        layers = [torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 10)]
        return torch.nn.Sequential(*layers).double()


@pytest.mark.parametrize("synchronized", [True, False])
def test_synchronized_batch_norm_makes_a_trial_that_of_one_rank(synchronized):
    ends = []
    for nodes in ([0], [0, 0]):
        given = {"global_batch_size": 64, "sync_batch_norm": synchronized, "learning_rate": 0.05}
        content = {"workload": f"{__file__}:Normed", "hyperparameters": given, "epochs": 1}
        ends.append(curve(configuration(**content), nodes)[0][-1].validation_loss)
    # sums in another order, in float64, against statistics of other samples
    assert (ends[0] == pytest.approx(ends[1], rel=1e-9)) is synchronized


def test_an_average_of_the_weights_is_evaluated_and_training_does_not_see_it():
    """The losses of training are the same ones; those of validation are of the average, equal on both ranks."""
    ends = {}
    for decay in (0.0, 0.99):
        given = {"method": "local_sgd", "hyperparameters": {"ema": decay, "H": 5}}

        def rank(communicator, given=given):
            trial = Trial(configuration(**given), communicator, "cpu")
            reports = list(trial.train())
            return reports, torch.cat([p.detach().flatten() for p in trial.model.parameters()])

        ends[decay] = run_virtual_ranks(rank, [0, 0])
    (plain, last), (averaged, mean) = ends[0.0][0], ends[0.99][0]
    assert [r.train_loss for r in averaged] == [r.train_loss for r in plain]
    assert all(a.validation_loss != b.validation_loss for a, b in zip(averaged, plain, strict=True))
    assert not torch.equal(mean, last)
    assert torch.equal(mean, ends[0.99][1][1])
