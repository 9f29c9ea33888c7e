"""The trained model of a trial: its objective is that of the file's weights in the plain network, for every method."""

import itertools

import pytest
import torch
from exercised import EXERCISED
from torch import nn

from atoll.communication.threads import run_virtual_ranks, single_rank
from atoll.methods import METHODS
from atoll.methods.common.evaluation import evaluating
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.low_rank import factored
from atoll.platform.study import registry
from atoll.platform.study.checkpoint import Checkpointing
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.trial import Trial
from atoll.platform.trial.weights import TrainedModel, read, require_tensors
from atoll.platform.workloads.digits import DigitsMlp
from atoll.storage.folder import TrialFolder

pytestmark = pytest.mark.slow  # whole trainings


def configuration(**content):
    whole = {"workload": "digits_mlp", "method": "ddp", "epochs": 2, "seed": 1, "checkpoint": {"weights": "best"}}
    return Configuration(**whole | content)


def train(config, folder, nodes=(0,), until=None):
    """All reports and the trial of each rank; with `until`, interrupted before that step."""

    def rank(communicator):
        trial = Trial(config, communicator, "cpu", folder=folder)
        if until is not None:
            epoch, taken = trial.method.epoch, itertools.count(1)
            trial.method.epoch = lambda batches: itertools.takewhile(lambda _: next(taken) < until, epoch(batches))
        return list(trial.train()), trial

    return run_virtual_ranks(rank, nodes)


def accuracy(tensors):
    """The validation accuracy of weights in the network that the workload makes."""
    workload = DigitsMlp()
    model, data = workload.model(), workload.load(None).validation
    factored.load(model, tensors)
    plain = workload.model()
    plain.load_state_dict(factored.merged_state_dict(model))
    with torch.no_grad(), evaluating(plain):
        return float(workload.measure(plain(data.inputs), data.targets))


@pytest.mark.parametrize("name", METHODS)
def test_the_weights_of_every_method_have_the_objective(tmp_path, name):
    hyperparameters, settings = EXERCISED[name]
    nodes = (0,) if registry.method(name).max_ranks == 1 else (0, 1)
    config = configuration(method=name, hyperparameters=hyperparameters | settings)
    ((reports, trial), *_) = train(config, tmp_path, nodes)
    # A product of factors is rounded in another order than factor by factor, which may decide a few close samples.
    tolerance = 3 / 360 if any(isinstance(layer, factored.Factored) for layer in trial.model.modules()) else 1e-12
    assert accuracy(read(TrialFolder(tmp_path).weights)) == pytest.approx(reports[-1].metric, abs=tolerance)


@pytest.mark.parametrize("until", [None, 15, 33], ids=["whole", "cut_before_the_best", "cut_after_the_best"])
def test_with_the_best_report_as_objective_its_weights_are_kept(tmp_path, monkeypatch, until):
    class Falling(DigitsMlp):
        """Its metric is best at the second evaluation."""

        def scores(self, totals):
            scores = super().scores(totals)
            seen.append(scores["accuracy"])
            return scores | {"accuracy": 0.9 if len(seen) == 2 else 0.1}

    seen = []
    monkeypatch.setattr(registry, "workload", lambda *_: Falling())
    checkpoint = {"every": "1 steps", "weights": "all"}
    config = configuration(epochs=1, report_every="10 steps", objective_from="best", checkpoint=checkpoint)
    if until is not None:
        with pytest.raises(TypeError, match=f"one loss per batch: 39 in epoch 1; got {until - 1}"):
            train(config, tmp_path, until=until)
        assert not TrialFolder(tmp_path).weights.exists()
    ((reports, _),) = train(config, tmp_path)
    assert [report.metric for report in reports] == [0.1, 0.9, 0.1, 0.1]
    assert accuracy(read(TrialFolder(tmp_path).weights)) == seen[1]


def test_what_an_earlier_attempt_did_not_keep_is_told(tmp_path):
    before = configuration(
        epochs=1, report_every="10 steps", objective_from="best", checkpoint={"every": "1 steps", "keep": "last"}
    )
    with pytest.raises(TypeError, match="one loss per batch"):
        train(before, tmp_path, until=25)
    after = before.model_copy(update={"checkpoint": Checkpointing(every="1 steps", weights="best")})
    ((_, trial),) = train(after, tmp_path)
    assert "no weights are kept: the checkpoint holds no model of the reports before it" in trial.notes
    assert not TrialFolder(tmp_path).weights.exists()


def test_weights_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    ((reports, trial),) = train(configuration(epochs=1), tmp_path / "file/folder")
    assert reports[-1].last
    assert any(note.startswith("the weights could not be written: ") for note in trial.notes)


def test_tied_weights_are_written_twice_and_states_that_are_no_tensors_are_refused(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

    trained = TrainedModel("last", "maximize")
    trained.see(Tied(), 1.0, is_last=True)
    trained.write(TrialFolder(tmp_path))
    tensors = read(TrialFolder(tmp_path).weights)
    assert torch.equal(tensors["a.weight"], tensors["b.weight"])

    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"temperature": 1.0}

    with pytest.raises(TypeError, match=r"must hold only tensors; _extra_state is not one"):
        require_tensors(Extra(1, 1))


def test_files_that_are_no_weights_are_told(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"weights.safetensors is not a file of weights"):
        read(tmp_path / "weights.safetensors")


class Noting(DigitsMlp):
    def model(self):
        if self.trial_folder is not None:
            (self.trial_folder / "model.txt").write_text("made")
        return super().model()


def test_a_workload_and_a_method_may_write_to_the_trials_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "workload", lambda *_: Noting())
    config = Configuration(workload="digits_mlp", method="ddp", epochs=1)
    folders = []

    class Asking(Ddp):
        def __init__(self, hyperparameters, context):
            super().__init__(hyperparameters, context)
            folders.append(context.folder)

    monkeypatch.setattr(registry, "method", lambda _: Asking)
    Trial(config, single_rank(), "cpu", folder=tmp_path / "trials/000001")
    assert (tmp_path / "trials/000001/model.txt").read_text() == "made"
    Trial(config, single_rank(), "cpu")  # outside a search
    assert folders == [tmp_path / "trials/000001", None]


def test_no_folder_is_made_without_need(tmp_path):
    config = Configuration(workload="digits_mlp", method="ddp", epochs=1)
    list(Trial(config, single_rank(), "cpu", folder=tmp_path / "000001").train())
    assert not (tmp_path / "000001").exists()


def test_settings_without_effect_are_refused():
    with pytest.raises(ValueError, match=r"checkpoint needs every, such as 10 minutes, or weights: best or all"):
        Checkpointing()
    with pytest.raises(ValueError, match=r"keep needs every, the interval of checkpoints; got keep: last without it"):
        Checkpointing(keep="last", weights="best")
