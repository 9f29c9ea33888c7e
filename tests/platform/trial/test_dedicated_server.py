"""A rank that only serves (`server: dedicated`), as the trial's loop drives it."""

import time

import pytest
import torch
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger
from atoll.communication.threads import run_virtual_ranks
from atoll.communication.trace import Trace
from atoll.methods.method import NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration, split_hyperparameters
from atoll.platform.trial.batches import EpochBatches
from atoll.platform.trial.dry_run import DryRun, Mistake
from atoll.platform.trial.trial import Trial
from atoll.platform.workloads.digits import DigitsMlp
from atoll.platform.workloads.workload import Data, Samples
from atoll.testing.ranks import PAIR

METHODS = {
    "easgd": {"tau": 2, "learning_rate": 0.1, "ema": 0.9},
    "downpour": {"learning_rate": 0.05, "ema": 0.9},
    "adownpour": {"tau": 2, "learning_rate": 0.05},
    "mdownpour": {"learning_rate": 0.005, "momentum": 0.9},
}


def configuration(method="easgd", **content):
    hyperparameters = METHODS[method] | {"server": "dedicated", "batch_size": 64} | content.pop("hyperparameters", {})
    whole = {"workload": "digits_mlp", "method": method, "epochs": 2, "seed": 1, "hyperparameters": hyperparameters}
    return Configuration(**whole | content)


def train(c, config):
    trial = Trial(config, c, "cpu")
    return trial, [*trial.train()]


@on_ranks(PAIR)
@pytest.mark.parametrize("method", ["easgd", "downpour", "adownpour"])
def test_one_worker_and_its_server_report_what_one_rank_reports(c: Communicator, method: str) -> None:
    """Steps, rates, losses, samples, averages of the weights, and the network with its running statistics."""
    content = {"workload": "digits_cnn", "report_every": "5 steps", "evaluate_train": 0.2, "epochs": 1}
    content["hyperparameters"] = {"schedule": "linear", "precision": "bfloat16"}
    dedicated = configuration(method, **content)
    alone = dedicated.model_copy(update={"hyperparameters": dedicated.hyperparameters | {"server": "shared"}})
    one, expected = train(c.split(c.rank, ledger=Ledger()), alone)
    two, reports = train(c, dedicated)
    assert len(reports) == len(expected) > 2
    for report, other in zip(reports, expected, strict=True):
        assert (report.step, report.epoch, report.learning_rate) == (other.step, other.epoch, other.learning_rate)
        assert report.train_loss == pytest.approx(other.train_loss, rel=1e-5)
        # Metrics are sums over two ranks, in another order.
        measured = {"metric": report.metric, **report.metrics}
        assert measured == pytest.approx({"metric": other.metric, **other.metrics}, rel=1e-4)
    networks = (trial.model.state_dict().values() for trial in (two, one))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(*networks, strict=True))


def test_workers_share_the_data_and_the_server_loads_none(monkeypatch):
    taken, all_of = [], EpochBatches.epoch

    def epoch(self, *arguments):
        for batch in all_of(self, *arguments):
            taken.append(batch.indices)
            yield batch

    monkeypatch.setattr(EpochBatches, "epoch", epoch)
    found = run_virtual_ranks(lambda c: train(c, configuration(epochs=1)), [0] * 3)
    (server, waited), *workers = ((trial._samples()[1], trial.seconds()) for trial, _ in found)
    num_steps = found[0][1][-1].step
    assert num_steps == len(DigitsMlp().load(None).train) // (2 * 64)
    assert server == 0
    assert [num for num, _ in workers] == [64 * num_steps] * 2
    # No sample twice: the shares of one order.
    assert len(torch.cat(taken).unique()) == 2 * 64 * num_steps
    assert waited["compute"] == 0 < waited["waiting"]
    assert all(seconds["compute"] > 0 for _, seconds in workers)
    assert len({report.train_loss for _, reports in found for report in reports}) == 1


def test_a_batch_that_is_held_in_total_and_a_scaled_rate_are_of_the_workers():
    given = {"server": "dedicated", "global_batch_size": 64, "scale_rate": "ranks", "learning_rate": 0.1}
    _, settings, _ = split_hyperparameters("easgd", "digits_mlp", given, 3)
    assert (settings.batch_size, settings.learning_rate) == (32, 0.2)
    _, settings, _ = split_hyperparameters("easgd", "digits_mlp", given | {"form": "jacobi"}, 4)
    assert (settings.batch_size, settings.learning_rate) == (16, 0.4)


@pytest.mark.parametrize("method", METHODS)
def test_a_server_with_nobody_to_serve_is_refused(method):
    message = f"{method} with server: dedicated needs at least 2 ranks per worker, as rank 0 only serves; got 1"
    with pytest.raises(NotApplicable, match=message):
        split_hyperparameters(method, "digits_mlp", {"server": "dedicated"}, 1)
    with pytest.raises(ValueError, match="server must be one of shared, dedicated; got 'mine'"):
        split_hyperparameters(method, "digits_mlp", {"server": "mine"}, 2)


def test_the_dry_run_takes_a_batch_of_the_workers(monkeypatch):
    class Few(DigitsMlp):
        def load(self, folder):
            data = super().load(folder)
            first = Samples(data.train.inputs[:128], data.train.targets[:128])
            return Data(first, data.validation, data.test)

    monkeypatch.setattr(registry, "workload", lambda *_: Few())
    shapes = DryRun("cpu", test=False)(configuration(ranks=3))
    assert "64" in shapes["inputs"]
    with pytest.raises(Mistake, match="batch_size 64 on 3 ranks makes 192"):
        DryRun("cpu", test=False)(configuration(ranks=4))


def test_the_servers_trace_has_no_computing_and_its_requests(monkeypatch):
    """Workers take 20 ms for each batch, which is computing, and no computing of the server, who waits for them."""
    made = EpochBatches.epoch

    def slowly(self, *arguments):
        for batch in made(self, *arguments):
            time.sleep(0.02)
            yield batch

    monkeypatch.setattr(EpochBatches, "epoch", slowly)

    def rank(c):
        c.ledger.trace = trace = Trace()
        train(c, configuration(hyperparameters={"tau": 1}, epochs=1))
        return trace.as_dict()

    server, *workers = run_virtual_ranks(rank, [0] * 3)
    assert {trace["num_steps"] for trace in (server, *workers)} == {server["num_steps"]}
    assert server["service"] is not None
    assert all(event[0] != "post" for pattern in server["patterns"] for event in pattern["events"])

    def computed(trace):
        return sum(pattern["seconds"] * pattern["count"] for pattern in trace["patterns"])

    assert computed(server) < 0.5 * min(map(computed, workers))
