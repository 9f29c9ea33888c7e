"""Observers in a trial: what they record, on any number of ranks, and that nothing is recorded without them."""

import pytest
import torch

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.low_rank.metrics import orthogonal_basis, stability
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.trial import Trial

LAYERS = ("0", "2", "4")


def curve(nodes, method="ddp", observe=2, epochs=4, **hyperparameters):
    configuration = Configuration(
        workload="digits_mlp", method=method, epochs=epochs, observe=observe, hyperparameters=hyperparameters
    )
    return run_virtual_ranks(lambda c: list(Trial(configuration, c, "cpu").train()), nodes)


def test_without_observers_there_is_nothing_to_see():
    (reports,) = curve([0], observe=None)
    assert [set(report.metrics) for report in reports] == [{"passes"}] * 4


@pytest.mark.parametrize("nodes", [[0], [0, 0], [0, 0, 1, 1]])
def test_layers_are_compared_with_themselves_some_epochs_before(nodes):
    everyone = curve(nodes, batch_size=8)
    # each rank has its own clock
    of_each = [[{k: v for k, v in r.metrics.items() if k != "scaled_traffic"} for r in reports] for reports in everyone]
    assert all(theirs == of_each[0] for theirs in of_each)
    early, late = everyone[0][1].metrics, everyone[0][2].metrics
    compared = {f"{kind}/{layer}" for kind in ("stability", "mixing") for layer in LAYERS}
    assert compared.isdisjoint(early)
    assert compared < set(late)
    for kind in ("stability", "mixing"):
        assert 0 < late[kind] < 1
        assert late[kind] == pytest.approx(sum(late[f"{kind}/{layer}"] for layer in LAYERS) / 3)
    assert [late[f"rank/{layer}"] for layer in LAYERS] == [64, 64, 10]
    assert [late[f"compression/{layer}"] for layer in LAYERS] == [1, 1, 1]
    assert (late["scaled_traffic"] > 0) == (len(set(nodes)) > 1)
    assert [late[name] for name in ("trainable_share", "compression", "ecr")] == [1.0, 1.0, 0.0]


def test_the_stability_is_that_of_the_weights():
    def body(c):
        configuration = Configuration(workload="digits_mlp", method="ddp", epochs=2, observe=1)
        trial, bases, reports = Trial(configuration, c, "cpu"), [], []
        for report in trial.train():
            bases.append(orthogonal_basis(trial.method.evaluation_model()[2].weight.detach()))
            reports.append(report)
        return stability(*bases), reports[1].metrics["stability/2"]

    ((expected, found),) = run_virtual_ranks(body, [0])
    assert found == expected


def test_observing_changes_no_training():
    seen, blind = curve([0, 0], observe=1), curve([0, 0], observe=None)
    for a, b in zip(seen[0], blind[0], strict=True):
        assert (a.train_loss, a.metric, a.wire_bytes) == (b.train_loss, b.metric, b.wire_bytes)


def test_the_ranks_of_low_rank_layers_are_seen():
    (reports, _) = curve([0, 0], method="oialr", delay=0.25, update_period=0.1, beta=0.5, learning_rate=0.01)
    first, last = reports[0].metrics, reports[-1].metrics
    assert first["trainable_share"] == 1.0
    assert last["rank/2"] < 64
    k = last["rank/2"]
    assert last["compression/2"] == pytest.approx(64 * 64 / (2 * 64 * k + k * k))
    assert last["trainable_share"] < 1
    # conversion at a quarter, so in the first step of that epoch: its gradients still travelled before it
    full_rank = (round(0.25 * reports[-1].step) - 1) / reports[-1].step
    assert last["ecr"] == pytest.approx(1 - full_rank - (1 - full_rank) * last["trainable_share"])
    assert torch.isfinite(torch.tensor(list(last.values()))).all()
