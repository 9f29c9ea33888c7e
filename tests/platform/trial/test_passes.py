"""The samples that the busiest rank passes forward and backward: every method's work in one unit."""

import pytest

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.layer_parallel.mac import Mac
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.trial import Trial

BATCH = 32
MAC = {"w_iterations": 3, "w_iterations_last": 2, "z_iterations": 4, "grouping": "1,2"}


def reports(folder=None, num_ranks=1, **content):
    config = Configuration(**{"workload": "digits_mlp", "epochs": 2, "seed": 1} | content)
    config = config.model_copy(update={"hyperparameters": {"batch_size": BATCH} | config.hyperparameters})
    results = run_virtual_ranks(lambda c: [*Trial(config, c, "cpu", folder=folder).train()], [0] * num_ranks)
    assert len({tuple(r.metrics.get("passes") for r in of_rank) for of_rank in results}) == 1, "ranks differ"
    return results[0]


def passes(**content):
    """Of each report, in samples of an epoch's global batches."""
    found = reports(**content)
    per_epoch = found[0].step * BATCH * content.get("num_ranks", 1)
    return [report.metrics["passes"] / per_epoch for report in found]


@pytest.mark.parametrize(
    ("method", "num_ranks", "hyperparameters", "expected"),
    [
        ("sgd", 1, {}, [1, 2]),
        ("ddp", 1, {}, [1, 2]),
        ("ddp", 2, {}, [1 / 2, 1]),
        ("ddp", 2, {"accumulate": 4}, [1 / 2, 1]),
        ("easgd", 4, {}, [1 / 4, 1 / 2]),
        ("dni", 2, {}, [1, 2]),
        ("dni", 2, {"mode": "gradient_loss"}, [1, 2]),
        ("dni", 1, {"num_groups": 3, "targets": "bootstrapped"}, [1, 2]),
        ("dni", 1, {"num_groups": 3}, [2, 4]),  # the middle group recomputes each batch, to pass the true gradient on
        ("admm_dual", 2, {}, [1, 2]),
        # The last group, on the second rank: 2 passes of its W-step, 4 of its Z-step. The first one's W-step has 3, but
        # for the first epoch, in which its coordinates are its outputs.
        ("mac", 2, MAC, [6, 12]),
        ("mac", 2, MAC | {"variant": "one_term"}, [6, 12]),
        ("mac", 2, MAC | {"variant": "coupled"}, [6, 12]),
        ("mac", 2, MAC | {"w_iterations": 20}, [6, 20]),
        ("mac", 1, MAC | {"w_iterations": 20}, [6, 20]),
    ],
)
def test_a_rank_counts_what_passes_its_network_or_its_part_of_it(method, num_ranks, hyperparameters, expected):
    found = passes(method=method, num_ranks=num_ranks, hyperparameters=hyperparameters)
    assert found == pytest.approx(expected, rel=1e-12)


def test_ranks_that_share_a_group_share_its_samples():
    """Where a sample's rank is drawn, shares differ by a few samples; the largest counts."""
    two = passes(method="mac", num_ranks=2, hyperparameters=MAC)
    four = passes(method="mac", num_ranks=4, hyperparameters=MAC)
    assert four == pytest.approx([number / 2 for number in two], rel=0.1)
    assert passes(method="admm_dual", num_ranks=4) == [0.5, 1.0]
    assert passes(method="dni", num_ranks=4, hyperparameters={"num_groups": 2}) == [0.5, 1.0]


class Twice(Ddp):
    """Two passes over an epoch, by `context.gradient`."""

    def epoch(self, batches):
        kept = list(batches)
        for batch in kept:
            self.step(batch)
        for batch in kept:
            yield self.step(batch)


class Own(Ddp):
    """Differentiates by itself."""

    def step(self, batch):
        with self._buckets.collecting():
            loss = self._context.loss(self._context.forward(self._context.model, batch), batch.targets)
            loss.backward()
        self._optimizer.step()
        return loss.detach()


class OwnTwice(Own):
    """Differentiates by itself, in an order of its own, and does not count."""

    epoch = Twice.epoch


@pytest.mark.parametrize(("method", "expected"), [(Twice, [2, 4]), (Own, [1, 2]), (OwnTwice, None)])
def test_what_a_method_does_not_count_is_told_only_if_it_is_certain(method, expected, monkeypatch):
    monkeypatch.setattr(registry, "method", lambda name: method)
    if expected is None:
        assert all("passes" not in report.metrics for report in reports(method="ddp"))
    else:
        assert passes(method="ddp") == expected


class Interruption(Exception):
    pass


def interrupt_in_the_second_epoch(patched, method):
    after, ended = method.epoch_end, set()

    def epoch_end(self, loss):
        after(self, loss)
        if id(self) in ended:
            raise Interruption
        ended.add(id(self))

    patched.setattr(method, "epoch_end", epoch_end)


@pytest.mark.parametrize(("method", "hyperparameters"), [(Ddp, {}), (Own, {}), (Mac, MAC)])
def test_a_training_that_goes_on_counts_on(tmp_path, method, hyperparameters, monkeypatch):
    monkeypatch.setattr(registry, "method", lambda name: method)
    name = "mac" if method is Mac else "ddp"
    content = {"method": name, "hyperparameters": hyperparameters, "num_ranks": 2, "epochs": 3}
    content["checkpoint"] = {"every": "1 epochs"}
    whole = reports(tmp_path / "whole", **content)
    with monkeypatch.context() as patched:
        interrupt_in_the_second_epoch(patched, method)
        with pytest.raises(Interruption):
            reports(tmp_path / "cut", **content)
    found = reports(tmp_path / "cut", **content)
    assert [r.is_repeated for r in found] == [True, False, False]
    assert [r.metrics["passes"] for r in found] == [r.metrics["passes"] for r in whole]


def test_after_a_checkpoint_without_a_count_nothing_is_reported(tmp_path, monkeypatch):
    """That of a version which did not count: its part of the work is not known."""
    state = Trial._state
    content = {"method": "ddp", "checkpoint": {"every": "1 epochs"}, "epochs": 3}
    with monkeypatch.context() as patched:
        patched.setattr(Trial, "_state", lambda self: {k: v for k, v in state(self).items() if k != "samples"})
        interrupt_in_the_second_epoch(patched, Ddp)
        with pytest.raises(Interruption):
            reports(tmp_path, **content)
    assert ["passes" in report.metrics for report in reports(tmp_path, **content)] == [True, False, False]
