"""A training that was interrupted continues from its last checkpoint: bit for bit, or tells why it does not."""

import contextlib
import errno
import itertools
import json
import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from exercised import ASYNCHRONOUS, EXERCISED, FORMS
from torch import nn
from torch.utils.data import TensorDataset

from atoll.communication.threads import run_virtual_ranks, single_rank
from atoll.methods import METHODS
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.method import Method, NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.checkpoint import Checkpointing
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.failure import Stopped
from atoll.platform.trial.outcome import Report
from atoll.platform.trial.training import Hooks
from atoll.platform.trial.training import train as run
from atoll.platform.trial.trial import Trial
from atoll.platform.workloads.digits import DigitsMlp
from atoll.platform.workloads.workload import Data
from atoll.storage.folder import TrialFolder

pytestmark = pytest.mark.slow  # whole trainings, three times each
CHECKPOINT = {"every": "1 steps"}


class Interruption(Exception):
    pass


class Random(DigitsMlp):
    """Draws from all random states: dropout, augmentation, and NumPy and Python in the loss."""

    def transform(self, inputs, generator):
        if generator is None:
            return inputs
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)

    def model(self):
        return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))

    def loss(self, outputs, targets):
        return super().loss(outputs, targets) * (1 + 0.01 * random.random() + 0.01 * np.random.rand())


class Loaded(Random):
    def load(self, folder):
        data = super().load(folder)
        return Data(*(TensorDataset(part.inputs, part.targets) for part in (data.train, data.validation, data.test)))


ODD_MANIFESTS = (
    '{"step": Infinity, "training": {}}', '{"step": 1e3, "training": {}}', '{"step": -5, "training": {}}', "[1]",
    '{"step": 1%s, "training": {}}' % ("0" * 400), '{"step": 12, "training": [1]}', "[" * 100_000,
)  # fmt: skip


def make_a_pipe(file):
    file.unlink()
    os.mkfifo(file)


def configuration(**content):
    whole = {"workload": "digits_mlp", "method": "ddp", "epochs": 2, "seed": 1, "checkpoint": CHECKPOINT}
    return Configuration(**whole | content)


def train(config, folder, nodes=(0,), until=None):
    """All reports, the final parameters and the notes of each rank; with `until`, interrupted before that step."""

    def rank(communicator):
        trial = Trial(config, communicator, "cpu", folder=folder)
        if until is not None:
            epoch, taken = trial.method.epoch, itertools.count(1)

            def interrupted(batches):
                for loss in epoch(batches):
                    if next(taken) == until:
                        raise Interruption
                    yield loss

            trial.method.epoch = interrupted
        reports = list(trial.train())
        return reports, [p.detach().clone() for p in trial.model.parameters()], trial

    return run_virtual_ranks(rank, nodes)


def values(reports):
    names = ("step", "epoch", "train_loss", "validation_loss", "metric", "learning_rate", "wire_bytes", "last")
    return [[getattr(report, name) for name in names] for report in reports]


def interrupted_equals_uninterrupted(config, folder, nodes=(0,), until=50):
    config = config.model_copy(update={"checkpoint": Checkpointing(every=f"{until - 1} steps")})
    expected = train(config, folder / "whole", nodes)
    with pytest.raises(Interruption):
        train(config, folder / "cut", nodes, until)
    continued = train(config, folder / "cut", nodes)
    for (before, parameters, _), (after, same, trial) in zip(expected, continued, strict=True):
        assert f"continued from the checkpoint of step {until - 1}" in trial.notes
        assert values(after) == values(before)
        assert [r.is_repeated for r in after] == [r.step < until for r in after]
        assert all(torch.equal(a, b) for a, b in zip(parameters, same, strict=True))


@pytest.mark.parametrize("workload", [Random, Loaded])
@pytest.mark.parametrize("until", [2, 39, 40, 41, 77], ids="step_{}".format)
def test_one_rank_continues_bit_for_bit(tmp_path, monkeypatch, workload, until):
    monkeypatch.setattr(registry, "workload", lambda *_: workload())
    with torch.random.fork_rng():
        interrupted_equals_uninterrupted(configuration(report_every="15 steps"), tmp_path, until=until)


DETERMINISTIC = [*(name for name in METHODS if not registry.method(name).asynchronous), *FORMS]
DETERMINISTIC.remove("mac_one_term")  # as mac
FIRST = ("daso", "oialr", "ab", "mac", "easgd_jacobi")  # the others are interrupted as methods in test_contract.py


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.long) for name in DETERMINISTIC]
)
def test_every_deterministic_method_continues_bit_for_bit(tmp_path, name):
    method, form = FORMS.get(name, (name, {}))
    hyperparameters, settings = EXERCISED[method]
    of_method = registry.method(method)
    if "ema" not in of_method.unsupported(of_method.Hyperparameters(**hyperparameters | form)):
        settings = settings | {"ema": 0.8}
    most = registry.method(method).max_ranks
    config = configuration(method=method, hyperparameters=hyperparameters | settings | form, epochs=3)
    # 9 or 39 steps an epoch; drawn for each method. mac continues from the end of an epoch.
    until = random.Random(name).randrange(12, 26)
    if method != "mac":
        config = config.model_copy(update={"checkpoint": Checkpointing(every=f"{until - 1} steps")})
    nodes = (0,) if most == 1 else (0, 0, 1, 1)
    expected = train(config, tmp_path / "whole", nodes)
    with pytest.raises(Interruption):
        train(config, tmp_path / "cut", nodes, until)
    for (before, parameters, _), (after, same, trial) in zip(
        expected, train(config, tmp_path / "cut", nodes), strict=True
    ):
        assert "continued from the checkpoint of step" in " ".join(trial.notes)
        assert values(after) == values(before)
        assert all(torch.equal(a, b) for a, b in zip(parameters, same, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("easgd", "easgd_dedicated") else pytest.param(name, marks=pytest.mark.long)
        for name in (*METHODS, *ASYNCHRONOUS)
        if name in ASYNCHRONOUS or registry.method(name).asynchronous
    ],
)
def test_an_asynchronous_method_goes_on(tmp_path, name):
    method, form = ASYNCHRONOUS.get(name, (name, {}))
    hyperparameters, settings = EXERCISED[method]
    hyperparameters = hyperparameters | form
    of_method = registry.method(method)
    if "ema" not in of_method.unsupported(of_method.Hyperparameters(**hyperparameters)):
        settings = settings | {"ema": 0.8}
    config = configuration(method=method, hyperparameters=hyperparameters | settings, epochs=3)
    with pytest.raises(Interruption):
        train(config, tmp_path, (0, 0, 1, 1), 15)
    for reports, _, trial in train(config, tmp_path, (0, 0, 1, 1)):
        assert "continued from the checkpoint of step 14" in trial.notes
        assert [report.epoch for report in reports] == [1, 2, 3]
        assert reports[-1].train_loss < 1.2 * reports[0].train_loss


@pytest.mark.parametrize("schedule", ["plateau", "type1"])
def test_schedules_that_follow_the_epochs_continue(tmp_path, schedule):
    hyperparameters = {"schedule": schedule, "learning_rate": 0.5, "decay_rate": 0.5}
    hyperparameters |= {"lr_patience": 0} if schedule == "plateau" else {}
    interrupted_equals_uninterrupted(configuration(hyperparameters=hyperparameters, epochs=6), tmp_path, until=190)


def test_early_stopping_continues(tmp_path):
    nothing_changes = {"learning_rate": 1e-12}
    config = configuration(hyperparameters=nothing_changes, epochs=9, patience=2)
    ((reports, _, _),) = train(config, tmp_path / "whole")
    assert reports[-1].epoch == 3
    interrupted_equals_uninterrupted(config, tmp_path / "again", until=60)


def test_settings_of_the_training_continue(tmp_path):
    hyperparameters = {"precision": "float16", "accumulate": 2, "gradient_clipping": 0.5, "optimizer": "adamw"}
    hyperparameters |= {"ema": 0.95}
    config = configuration(
        hyperparameters=hyperparameters | {"learning_rate": 0.001},
        epochs=5,
        report_every="10 steps",
        evaluate_every="20 steps",
        patience=3,
    )
    interrupted_equals_uninterrupted(config, tmp_path, until=95)


@pytest.mark.parametrize(
    ("name", "step"),
    [("local_sgd", 1), ("mac", 19), ("easgd", 19), ("admm_consensus", 1), ("admm_consensus_async", 19)],
)
def test_a_request_to_stop_writes_a_checkpoint_first(tmp_path, name, step):
    """Within a second; after an epoch if the method is not cut within epochs, or its ranks do not wait."""
    method, form = ASYNCHRONOUS.get(name, (name, {}))
    hyperparameters, settings = EXERCISED[method]
    given = hyperparameters | settings | form
    config = configuration(method=method, checkpoint={"every": "5 epochs"}, hyperparameters=given)
    expected = train(config, tmp_path / "whole", (0, 1))

    def stopped(communicator):
        asks = communicator.rank == 0  # the root decides
        with pytest.raises(Stopped, match=f"asked to stop; a checkpoint was written after step {step}"):
            list(Trial(config, communicator, "cpu", folder=tmp_path / "cut", stops=lambda: asks).train())

    run_virtual_ranks(stopped, (0, 1))
    for (before, parameters, _), (after, same, trial) in zip(
        expected, train(config, tmp_path / "cut", (0, 1)), strict=True
    ):
        assert f"continued from the checkpoint of step {step}" in trial.notes
        if name not in ("easgd", *ASYNCHRONOUS):
            assert values(after) == values(before)
            assert all(torch.equal(a, b) for a, b in zip(parameters, same, strict=True))


def test_a_trial_that_is_stopped_again_keeps_its_notes(tmp_path):
    config = configuration(checkpoint={"every": "5 epochs"})
    reports = [Report(0, ""), Report(0, "")]
    for report in reports:
        with pytest.raises(Stopped):
            run(config, Hooks(stops=lambda: True), report, single_rank(), "cpu", test=False, folder=tmp_path)
    assert not any("continued" in note for note in reports[0].notes)
    assert any("continued from the checkpoint of step 1" in note for note in reports[1].notes)


def test_the_traffic_and_the_time_are_those_of_the_whole_training(tmp_path):
    config = configuration(method="local_sgd")
    expected = train(config, tmp_path / "whole", (0, 1))
    with pytest.raises(Interruption):
        train(config, tmp_path / "cut", (0, 1), 13)
    for (before, _, whole), (after, _, continued) in zip(
        expected, train(config, tmp_path / "cut", (0, 1)), strict=True
    ):
        assert after[-1].wire_bytes == before[-1].wire_bytes
        assert after[-1].seconds > 0
        assert continued.seconds().keys() == whole.seconds().keys() == {"compute", "waiting", "data", "checkpoints"}
        assert after[-1].metrics["checkpoint_bytes"] > 1000
        assert abs(after[-1].metrics["checkpoint_bytes"] - before[-1].metrics["checkpoint_bytes"]) < 5000


def test_the_interval_is_kept_and_only_the_last_checkpoint(tmp_path):
    train(configuration(epochs=1, checkpoint={"every": "10 steps"}), tmp_path / "a")
    assert sorted(file.name for file in (tmp_path / "a").glob("*.pt")) == ["step-000000030.rank-00000.pt"]
    train(configuration(epochs=1, checkpoint={"every": "10 steps", "keep": "all"}), tmp_path / "b", (0, 0))
    files = list((tmp_path / "b").glob("*.pt"))
    assert sorted({file.name[:14] for file in files}) == ["step-000000010", "step-000000019"]  # and at the end
    assert len(files) == 4
    manifest = json.loads((tmp_path / "b" / "checkpoint.json").read_text())
    assert manifest["step"] == 19
    assert manifest["bytes"] == sum(file.stat().st_size for file in files if "000019" in file.name)
    train(configuration(epochs=3, checkpoint={"every": "2 epochs"}), tmp_path / "c")
    assert json.loads((tmp_path / "c" / "checkpoint.json").read_text())["step"] == 78


class Scripted(DigitsMlp):
    """The accuracies of its evaluations are given."""

    accuracies: tuple[float, ...] = ()

    def __init__(self, *_):
        super().__init__()
        self._evaluated = iter(self.accuracies)

    def scores(self, totals):
        return super().scores(totals) | {"accuracy": next(self._evaluated)}


def steps(folder):
    """The steps of the checkpoints that are there, and the manifest's."""
    there = sorted({int(file.name[5:14]) for file in folder.glob("*.pt")})
    return there, json.loads((folder / "checkpoint.json").read_text())["step"]


@pytest.mark.parametrize(
    ("every", "accuracies", "best"),
    [
        ("1 epochs", (0.1, 0.9, 0.2, 0.3), 8),  # an epoch has 4 steps
        ("1 epochs", (0.1, 0.2, 0.3, 0.3), 12),  # the first of equal ones
        ("1 epochs", (0.1, 0.2, 0.3, 0.4), 16),  # the last one
        ("2 epochs", (0.9, 0.1, 0.2, 0.3), 8),  # the first after it
        ("3 epochs", (0.1, 0.2, 0.3, 0.9), 16),
        ("9 epochs", (0.1, 0.9, 0.2, 0.3), 16),
        ("5 steps", (0.1, 0.9, 0.2, 0.3), 10),
    ],
)
def test_the_checkpoint_at_or_after_the_best_evaluation_stays(tmp_path, monkeypatch, every, accuracies, best):
    monkeypatch.setattr(Scripted, "accuracies", accuracies)
    monkeypatch.setattr(registry, "workload", lambda *_: Scripted())
    keep_best = configuration(
        epochs=4, checkpoint={"every": every, "keep": "best"}, hyperparameters={"batch_size": 128}
    )
    train(keep_best, tmp_path, (0, 1))
    assert steps(tmp_path) == (sorted({best, 16}), 16)  # the newest is there while it trains
    TrialFolder(tmp_path).settle("best")
    assert steps(tmp_path) == ([best], best)
    assert len(list(tmp_path.glob("*.pt"))) == 2
    TrialFolder(tmp_path).settle("best")
    assert steps(tmp_path) == ([best], best)


@pytest.mark.parametrize(("until", "best"), [(15, 1), (35, 2)])
def test_the_best_checkpoint_stays_after_an_interruption(tmp_path, monkeypatch, until, best):
    """Until after the first epoch, or the third."""
    values = (0.5, 0.2, 0.1, 0.1) if best == 1 else (0.1, 0.9, 0.2, 0.3)
    monkeypatch.setattr(Scripted, "accuracies", values)
    monkeypatch.setattr(registry, "workload", lambda *_: Scripted())
    config = configuration(
        epochs=4, checkpoint={"every": "1 epochs", "keep": "best"}, hyperparameters={"batch_size": 128}
    )
    per_epoch = 9
    with pytest.raises(Interruption):
        train(config, tmp_path, until=until)
    monkeypatch.setattr(Scripted, "accuracies", values[until // per_epoch :])
    train(config, tmp_path)
    TrialFolder(tmp_path).settle("best")
    assert steps(tmp_path) == ([best * per_epoch], best * per_epoch)


def test_the_best_of_an_early_stopping_has_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(Scripted, "accuracies", (0.1, 0.9, 0.2, 0.3, 0.3))
    monkeypatch.setattr(registry, "workload", lambda *_: Scripted())
    config = configuration(
        epochs=9, patience=2, checkpoint={"every": "9 epochs", "keep": "best"}, hyperparameters={"batch_size": 128}
    )
    ((reports, _, _),) = train(config, tmp_path)
    assert reports[-1].epoch == 4
    TrialFolder(tmp_path).settle("best")
    assert steps(tmp_path) == ([reports[-1].step], reports[-1].step)


@pytest.mark.parametrize(
    "method", ["local_sgd", *(pytest.param(m, marks=pytest.mark.long) for m in ("diloco", "powersgd"))]
)
@pytest.mark.parametrize("length", ["epochs", "steps"])
def test_a_training_that_becomes_longer_is_one_that_was_longer_from_the_start(tmp_path, method, length):
    """Although the shorter one has averaged its replicas at its end."""
    hyperparameters, settings = EXERCISED[method]
    lengths = {"epochs": {"epochs": 2}, "steps": {"epochs": None, "steps": 14, "report_every": "7 steps"}}[length]
    unchanged = {"schedule": "constant", "lr_warmup": 0.0}  # what is no share of the length
    unchanged |= {"warmup": 0.0} if method in ("local_sgd", "powersgd") else {}
    config = configuration(
        method=method,
        hyperparameters=hyperparameters | settings | unchanged,
        checkpoint={"every": "20 epochs", "keep": "last"},
        **lengths,
    )
    short = train(config, tmp_path / "grown", (0, 1))
    again = train(config, tmp_path / "grown", (0, 1))  # its end was lost after its last checkpoint
    longer = config.model_copy(update={"epochs": 4} if length == "epochs" else {"steps": 33})
    expected, grown = train(longer, tmp_path / "whole", (0, 1)), train(longer, tmp_path / "grown", (0, 1))
    for (before, _, _), (same, _, _) in zip(short, again, strict=True):
        assert values(same) == values(before)
    for (before, parameters, _), (after, same, trial) in zip(expected, grown, strict=True):
        assert values(after) == values(before)
        assert all(torch.equal(a, b) for a, b in zip(parameters, same, strict=True))
        assert trial.notes[-1].startswith("continued from the checkpoint of step")
    notes = [note for _, _, trial in grown for note in trial.notes]
    assert sum(note.startswith("made longer, from ") for note in notes) == 1  # the root's


def test_a_checkpoint_of_a_longer_training_is_not_used(tmp_path):
    checkpoint = {"every": "1 epochs", "keep": "last"}
    train(configuration(checkpoint=checkpoint), tmp_path)
    ((_, _, trial),) = train(configuration(checkpoint=checkpoint, epochs=1), tmp_path)
    assert "a checkpoint with another epochs was not used: the trial started anew" in trial.notes
    ((_, _, trial),) = train(configuration(checkpoint=checkpoint, epochs=None, steps=99), tmp_path)
    assert "a checkpoint with another epochs, steps was not used: the trial started anew" in trial.notes


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (lambda folder: (folder / "checkpoint.json").write_text("{"), "checkpoint.json was not read (JSONDecodeError"),
        (
            lambda folder: next(folder.glob("*.rank-00001.pt")).write_bytes(b"PK\3\4 torn"),
            "the checkpoint of step 12 was not read (",
        ),
        (lambda folder: next(folder.glob("*.rank-00000.pt")).unlink(), "the checkpoint of step 12 was not read ("),
        (
            lambda folder: torch.save({}, next(folder.glob("*.rank-00001.pt"))),
            "the checkpoint of step 12 was not read (step-000000012.rank-00001.pt does not hold the state of step 12",
        ),
        (
            lambda folder: torch.save(torch.ones(2), next(folder.glob("*.rank-00000.pt"))),
            "the checkpoint of step 12 was not read (step-000000012.rank-00000.pt does not hold the state of step 12",
        ),
        (lambda folder: make_a_pipe(next(folder.glob("*.rank-00001.pt"))), "the checkpoint of step 12 was not read ("),
        (lambda folder: make_a_pipe(folder / "checkpoint.json"), "checkpoint.json was not read (ValueError: it is no"),
        *((lambda folder, text=text: (folder / "checkpoint.json").write_text(text), "checkpoint.json was not read (")
          for text in ODD_MANIFESTS),
    ],
    ids=["manifest", "torn", "missing", "empty", "tensor", "pipe", "manifest_pipe", *map("odd_{:.20}".format,
         ODD_MANIFESTS)],
)  # fmt: skip
def test_what_cannot_be_read_is_told_and_the_training_starts_anew(tmp_path, spoil, note):
    config = configuration(method="local_sgd", epochs=1)
    expected = train(config, tmp_path / "whole", (0, 1))
    with pytest.raises(Interruption):
        train(config, tmp_path / "cut", (0, 1), 13)
    spoil(tmp_path / "cut")
    results = train(config, tmp_path / "cut", (0, 1))
    notes = [each for _, _, trial in results for each in trial.notes]
    assert any(each.startswith(note) for each in notes)
    assert all(torch.equal(a, b) for a, b in zip(expected[0][1], results[0][1], strict=True))


@pytest.mark.parametrize("failing", [0, 1])
def test_a_full_disk_costs_a_checkpoint_and_not_the_trial(tmp_path, monkeypatch, failing):
    save = torch.save

    def full(state, file):
        if f"rank-{failing:05d}" in threading.current_thread().name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    def rank(communicator):
        threading.current_thread().name = f"rank-{communicator.rank:05d}"
        config = configuration(method="local_sgd", epochs=1, checkpoint={"every": "5 steps"})
        trial = Trial(config, communicator, "cpu", folder=tmp_path)
        return list(trial.train()), trial.notes

    monkeypatch.setattr(torch, "save", full)
    results = run_virtual_ranks(rank, (0, 1))
    assert all(reports[-1].last for reports, _ in results)
    assert results[failing][1] == ["a checkpoint could not be written: No space left on device"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_write_that_fails_is_told_in_the_systems_words(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "atoll.platform.trial.checkpoints.replacing", lambda _: contextlib.nullcontext(Path("/dev/full"))
    )
    ((_, _, trial),) = train(configuration(epochs=1, checkpoint={"every": "5 steps"}), tmp_path)
    assert [note for note in trial.notes if "checkpoint" in note] == [
        "a checkpoint could not be written: No space left on device"
    ]


def test_a_checkpoint_of_another_training_is_not_used(tmp_path):
    with pytest.raises(Interruption):
        train(configuration(), tmp_path, until=13)
    ((_, _, trial),) = train(configuration(seed=2, epochs=1), tmp_path)
    assert "a checkpoint with another epochs, seed was not used: the trial started anew" in trial.notes


def test_nothing_in_a_checkpoint_can_run_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return (print, ("attacked",))

    config = configuration(epochs=1)
    with pytest.raises(Interruption):
        train(config, tmp_path, until=13)
    torch.save({"step": 12, "method": Attack()}, next(tmp_path.glob("*.pt")))
    ((_, _, trial),) = train(config, tmp_path)
    assert any(note.startswith("the checkpoint of step 12 was not read (UnpicklingError") for note in trial.notes)


def test_a_method_without_states_is_refused(tmp_path, monkeypatch):
    class Stateless(Ddp):
        state_dict = Method.state_dict

    monkeypatch.setattr(registry, "method", lambda _: Stateless)
    with pytest.raises(NotApplicable, match="ddp does not define state_dict and load_state_dict, so it has no check"):
        Trial(configuration(), single_rank(), "cpu", folder=tmp_path)
    Trial(configuration(checkpoint=None), single_rank(), "cpu", folder=tmp_path)


def test_a_report_at_the_step_of_a_checkpoint_is_judged_before_the_checkpoint(tmp_path):
    config = configuration(report_every="10 steps", checkpoint={"every": "10 steps"})
    manifest = tmp_path / "checkpoint.json"
    for report in Trial(config, single_rank(), "cpu", folder=tmp_path).train():
        saved = json.loads(manifest.read_text())["step"] if manifest.exists() else 0
        assert saved < report.step
