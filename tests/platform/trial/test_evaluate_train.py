"""The training loss of the evaluated network: one quantity for every method."""

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from atoll.communication.threads import run_virtual_ranks
from atoll.platform.benchmark.benchmark_file import Benchmark
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.judged import TRAINED
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.platform.trial.dry_run import DryRun, Mistake
from atoll.platform.trial.evaluator import spread
from atoll.platform.trial.trial import Trial
from atoll.platform.workloads.digits import DigitsMlp
from atoll.platform.workloads.workload import Data, Samples


class WithDropout(DigitsMlp):
    """The running loss of a training differs from that of the evaluated network."""

    def model(self):
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))


@pytest.fixture(autouse=True)
def _with_dropout(monkeypatch):
    monkeypatch.setattr("atoll.platform.study.registry.workload", lambda *_: WithDropout())


def trained(method, hyperparameters, nodes, share):
    configuration = Configuration(
        workload="digits_mlp",
        method=method,
        epochs=2,
        hyperparameters={"batch_size": 64} | hyperparameters,
        evaluate_train=share,
    )

    def work(c):
        trial = Trial(configuration, c, "cpu")
        return [*trial.train()][-1], trial.model

    return run_virtual_ranks(work, nodes)[0]


def loss_of(model, samples):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model.eval()(samples.inputs), samples.targets))


@pytest.mark.parametrize("nodes", [(0,), (0, 0)], ids=["one_rank", "two_ranks"])
@pytest.mark.parametrize(
    ("method", "hyperparameters"),
    [
        ("ddp", {"optimizer": "adamw", "learning_rate": 0.02}),
        ("easgd", {"learning_rate": 0.1}),
        ("mac", {"w_iterations": 2, "w_iterations_last": 2, "learning_rate": 0.003, "w_lr": 0.003}),
        ("admm_dual", {}),
        ("dni", {}),
    ],
)
def test_it_is_the_loss_of_the_evaluated_network_for_every_method(method, hyperparameters, nodes):
    data = WithDropout().load(None)
    report, model = trained(method, hyperparameters, nodes, 1.0)
    assert report.metrics[TRAINED] == pytest.approx(loss_of(model, data.train), rel=1e-5)
    # The method's own loss is something else, if it is of the training mode and the network before each step.
    if method == "ddp":
        assert report.train_loss > 1.1 * report.metrics[TRAINED]


def test_a_share_is_the_same_samples_in_every_training():
    data = WithDropout().load(None)
    size = len(data.train)
    report, model = trained("ddp", {}, (0, 0), 0.1)
    positions = [number * size // round(size / 10) for number in range(round(size / 10))]
    tenth = Samples(data.train.inputs[positions], data.train.targets[positions])
    assert report.metrics[TRAINED] == pytest.approx(loss_of(model, tenth), rel=1e-5)
    assert report.metrics[TRAINED] != pytest.approx(loss_of(model, data.train), rel=1e-5)
    assert TRAINED not in trained("ddp", {}, (0,), None)[0].metrics


def test_shares_of_samples_and_data_sets():
    samples = Samples(torch.arange(10.0), torch.arange(10))
    assert spread(samples, 1.0) is samples
    assert spread(samples, 0.3).targets.tolist() == [0, 3, 6]
    items = TensorDataset(samples.inputs, samples.targets)
    assert [int(target) for _, target in spread(items, 0.5)] == [0, 2, 4, 6, 8]
    assert len(spread(samples, 0.001)) == 1


class Stream(IterableDataset):
    def __iter__(self):
        yield from ()


def test_a_stream_is_refused_before_anything_starts(monkeypatch):
    with pytest.raises(ValueError, match="evaluate_train needs training data with a length; got a stream"):
        spread(Stream(), 0.5)

    class Streaming(WithDropout):
        def load(self, folder):
            return Data(Stream(), *[super().load(folder).validation] * 2)

    monkeypatch.setattr("atoll.platform.study.registry.workload", lambda *_: Streaming())
    configuration = Configuration(workload="digits_mlp", method="ddp", steps=4, evaluate_train=1.0)
    with pytest.raises(Mistake, match="evaluate_train needs training data with a length; got a stream"):
        DryRun("cpu")(configuration)


def study(**content):
    return Study.model_validate({"name": "s", "workload": "digits_mlp", "method": "mac", **content})


def test_it_is_an_objective_and_can_be_pruned_by_with_the_setting_only():
    plan = Plan.of(study(objectives=[TRAINED], evaluate_train=0.5, pruning={}))
    assert plan.objectives[0].direction == "minimize"
    assert plan.judged.name == TRAINED
    assert plan.configuration({}, 0, 1, "cpu").evaluate_train == 0.5
    with pytest.raises(ValueError, match=f"{TRAINED} is reported only with `evaluate_train`"):
        Plan.of(study(objectives=[TRAINED]))
    with pytest.raises(ValueError, match=r"pruning compares .*; got evaluated_train_loss"):
        study(objectives=[TRAINED], pruning={})
    for share in (0, 1.5):
        with pytest.raises(ValueError, match="evaluate_train"):
            study(evaluate_train=share)


def test_a_benchmark_of_several_methods_compares_one_quantity(tmp_path):
    content = {
        "name": "b",
        "methods": ["ddp", "mac"],
        "workloads": ["digits_mlp"],
        "tuning": {"objective": "train_loss"},
    }
    with pytest.raises(ValueError, match=f"no common quantity of ddp, mac: use {TRAINED}, with evaluate_train: 1"):
        Benchmark.model_validate(content)
    Benchmark.model_validate(content | {"methods": ["mac", {"method": "mac", "name": "other"}]})
    both = Benchmark.model_validate(content | {"tuning": {"objective": TRAINED}, "evaluate_train": 1})
    for part in both.parts():
        if part.stage == "tune":
            assert both.study(part, tmp_path).evaluate_train == 1
