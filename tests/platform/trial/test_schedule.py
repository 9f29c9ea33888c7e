"""Hyperparameters that change at given steps: from there on a training is that of the new ones, bit for bit."""

import re
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.common.optimizers import MUTABLE
from atoll.methods.method import NotApplicable
from atoll.platform.study.configuration import Configuration, check_configuration
from atoll.platform.trial.trial import Trial
from atoll.storage.folder import TrialFolder

NUM_STEPS = 24
COMMON = {
    "workload": "digits_mlp", "method": "ddp", "steps": NUM_STEPS, "seed": 3, "report_every": "6 steps",
    "checkpoint": {"every": "1000 steps"},
}  # fmt: skip
CONSTANT = {"schedule": "constant", "batch_size": 64}


def trained(folder, hyperparameters, schedule=None, nodes=(0,), **content):
    """All reports' losses and metrics, and the final parameters; a training that pauses is continued."""
    configuration = Configuration(**COMMON | content, hyperparameters=hyperparameters, schedule=schedule)
    check_configuration(configuration.model_copy(update={"ranks": len(nodes)}))

    def attempt(communicator):
        trial = Trial(configuration, communicator, "cpu", folder=folder)
        reports = [(r.step, r.train_loss, r.metric) for r in trial.train()]
        if trial.has_paused:
            return reports, None
        return reports, torch.cat([p.detach().flatten() for p in trial.model.parameters()])

    attempts = 0
    while True:
        results, attempts = run_virtual_ranks(attempt, nodes), attempts + 1
        if results[0][1] is not None:
            return results, attempts


@pytest.mark.parametrize("nodes", [(0,), (0, 1)])
def test_a_rate_that_is_halved_is_the_schedule_that_halves_it(tmp_path, nodes):
    """`step` lowers the rate at its milestones; so does a constant rate that changes there, within an epoch too."""
    steps = {"schedule": "step", "milestones": "0.25,0.5", "decay_rate": 0.5, "learning_rate": 0.2, "batch_size": 64}
    expected, _ = trained(tmp_path / "a", steps, nodes=nodes)
    rates = {"learning_rate": {0: 0.2, 6: 0.1, 12: 0.05}}
    found, attempts = trained(tmp_path / "b", CONSTANT | {"learning_rate": 0.05}, rates, nodes=nodes)
    assert attempts == 3
    for (reports, vector), (expected_reports, expected_vector) in zip(found, expected, strict=True):
        assert reports == expected_reports
        assert torch.equal(vector, expected_vector)


def test_momentum_and_decay_act_from_the_step_of_their_change(tmp_path):
    """Against torch's own optimizer, whose options are changed by hand."""
    schedule = {"momentum": {0: 0.9, 5: 0.5}, "weight_decay": {0: 0.0, 17: 0.01}}
    changed = CONSTANT | {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.01}
    ((reports, vector),), _ = trained(tmp_path / "a", changed, schedule)

    step = 0

    def by_hand(optimizer, _args, _kwargs):
        nonlocal step
        for group in optimizer.param_groups:
            group["momentum"] = 0.9 if step < 5 else 0.5
            group["weight_decay"] = 0.0 if step < 17 else 0.01 * group["decay"]
        step += 1

    first = CONSTANT | {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    hook = register_optimizer_step_pre_hook(by_hand)
    try:
        ((expected_reports, expected_vector),), _ = trained(tmp_path / "b", first)
    finally:
        hook.remove()
    assert step == NUM_STEPS
    assert reports == expected_reports
    assert torch.equal(vector, expected_vector)


def test_only_what_may_change_has_a_schedule():
    whole = COMMON | {"hyperparameters": {"learning_rate": 0.1, "batch_size": 64}}
    with pytest.raises(ValueError, match="needs values from step 0 on; got 6"):
        Configuration(**whole, schedule={"learning_rate": {6: 0.1}})
    with pytest.raises(
        ValueError, match=r"learning_rate must be the last value of schedule.learning_rate, 0.2; got 0.1"
    ):
        Configuration(**whole, schedule={"learning_rate": {0: 0.1, 6: 0.2}})
    with pytest.raises(
        ValueError, match="schedule cannot change batch_size in mid-training; with ddp it can change learning_rate"
    ):
        check_configuration(Configuration(**whole, schedule={"batch_size": {0: 32, 6: 64}}))
    with pytest.raises(ValueError, match="learning_rate must be above 0; got -1"):
        check_configuration(Configuration(**whole, schedule={"learning_rate": {0: -1.0, 6: 0.1}}))


def test_a_method_with_passes_of_its_own_changes_between_epochs_only(tmp_path):
    given = {"learning_rate": 0.01, "w_iterations": 1, "w_iterations_last": 1, "batch_size": 240}
    with pytest.raises(NotApplicable, match="between epochs of 5 steps only; got 3"):
        trained(tmp_path, given | {"mu": 2.0}, {"mu": {0: 1.0, 3: 2.0}}, method="mac", report_every="1 epochs")


def test_the_documentation_lists_what_may_change():
    """All settings of the optimizer, and examples of the methods'."""
    text = (Path(__file__).parents[3] / "docs" / "search.md").read_text()
    start = text.index("Of the optimizer, ")
    listed = re.findall(r"`(\w+)`", text[start : text.index(" may change;", start)])
    assert tuple(listed) == MUTABLE


@pytest.mark.parametrize("keep", ["none", "last", "all"])
def test_the_checkpoints_that_stay_are_those_that_are_asked_for(tmp_path, keep):
    rates = {"learning_rate": {0: 0.2, 6: 0.1, 12: 0.05}}
    trained(tmp_path, CONSTANT | {"learning_rate": 0.05}, rates, checkpoint={"every": "1000 steps", "keep": keep})
    TrialFolder(tmp_path).settle(keep)
    kept = {"none": [], "last": [NUM_STEPS], "all": [6, 12, NUM_STEPS]}[keep]
    assert [int(file.name[5:14]) for file in sorted(tmp_path.glob("step-*"))] == kept


def test_a_change_whose_checkpoint_cannot_be_written_fails(tmp_path, monkeypatch):
    """It would otherwise begin anew, again and again."""

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="after step 6, where training continues anew: a checkpoint could not be written"):
        trained(tmp_path, CONSTANT | {"learning_rate": 0.1}, {"learning_rate": {0: 0.2, 6: 0.1}})
    with pytest.raises(ValueError, match="before the end of the training, step 24; got step 24"):
        trained(tmp_path, CONSTANT | {"learning_rate": 0.1}, {"learning_rate": {0: 0.2, NUM_STEPS: 0.1}})


def test_a_method_is_told_what_has_changed(tmp_path):
    """DASO's period is in its state, too."""
    given = {"B": 4, "S": 0, "warmup_epochs": 0, "cooldown_epochs": 0, "adaptive": False, "learning_rate": 0.1}
    periods = []

    def attempt(communicator):
        configuration = Configuration(
            **COMMON | {"method": "daso"}, hyperparameters=given, schedule={"B": {0: 2, 6: 4}}
        )
        trial = Trial(configuration, communicator, "cpu", folder=tmp_path)
        for _ in trial.train():
            pass
        periods.append(trial.method.state_dict()["counters"][0])
        return trial.has_paused

    while run_virtual_ranks(attempt, (0,))[0]:
        pass
    assert periods == [2, 4]
