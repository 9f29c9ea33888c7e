"""A dry run says what is wrong in a line with shapes and the user's own line, and refuses nothing that trains."""

import re

import pytest
from ranks import SUPPORT

from atoll.communication.threads import single_rank
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.dry_run import DryRun, Mistake, Undecided
from atoll.platform.trial.trial import Diverged, Trial

FILE = SUPPORT / "mistaken.py"


def configuration(name, **changes):
    settings = {"workload": f"{FILE}:{name}", "method": "ddp", "hyperparameters": {"batch_size": 8}, "epochs": 1}
    if name == "EmptyTrainStream":
        settings |= {"epochs": None, "steps": 4}
    return Configuration(**settings | changes)


def checked(name, *, test=False, **changes):
    return DryRun("cpu", test=test)(configuration(name, **changes))


def trained(name, **changes):
    return list(Trial(configuration(name, **changes), single_rank(), "cpu", test=False).train())[-1]


MISTAKES = {
    "Loader": r"load: TypeError: train must be Samples.* DataLoader: return its dataset.*, in load",
    "PerSample": r"loss must be a scalar.*; got float32 \(8,\); inputs float32 \(8, 8\), targets int64 \(8,\), outputs "
    r"float32 \(8, 3\); at .*, in loss",
    "PerSampleInTraining": r"loss must be a scalar.*; at .*, in training_loss",
    "WrongShape": r"forward: RuntimeError: .*\(8x8 and 9x3\); inputs float32 \(8, 8\), targets .*, in model",
    "Tuple": r"loss: TypeError: .*outputs tuple of \(float32 \(8, 3\), float32 \(8, 8\)\); at .*, in class Tuple",
    "NamedLoss": r"must have names of their own, other than `loss`; got loss",
    "FurtherLoss": r"must have names of their own, other than `loss`; got accuracy, loss",
    "WrongTargets": r"loss: RuntimeError: .*outputs float32 \(8, 3\)",
    "MetricPerSample": r"metric accuracy must be a scalar.*; got bool \(30,\); .*, in measure",
    "FurtherPerSample": r"metric hits must be a scalar.*; got bool \(30,\); .*, in <lambda>",
    "Raises": r"loss: KeyError: 'weights'; inputs .*, in loss",
    "NaN": r"loss must be finite; got nan .*, in loss",
    "Infinite": r"loss must be finite; got inf .*, in loss",
    "Detached": r"loss must depend on the network's parameters; its result has no gradient.*, in loss",
    "AsideLoss": r"loss must depend on the network's parameters; none got a gradient.*, in loss",
    "FloatLoss": r"loss must be a scalar tensor.*; got float; .*, in loss",
    "NotData": r"load must return Data\(train, validation, test\); got tuple of \(float32 \(120, 8\), .*, in load",
    "Differs": r"forward on validation data: RuntimeError: .*; inputs float32 \(30, 7\), targets int64 \(30,\), "
    r"training inputs float32 \(8, 8\)",
    "EmptyTrain": r"the train data must have at least one sample; got none; at .*, in load",
    "EmptyValidation": r"the validation data must have at least one sample; got none; at .*, in load",
    "EmptyStream": r"the validation data must have at least one sample; got none; at .*, in load",
    "EmptyTrainStream": r"iterable training data must give each reader at least 8 items",
    "TooFew": r"a global batch must have at most 3 samples.*; batch_size 8 on 1 rank makes 8",
    "FewerInputs": r"the train data must have an input for each target; got inputs float32 \(50, 8\) and targets",
    "NotSplit": r"batch: ValueError: a batch must be a pair of inputs and targets.*got list",
    "NotCollated": r"batch: RuntimeError: stack expects each tensor to be equal size",
    "Refuses": r"hyperparameters: AssertionError: the width must be a multiple of 32.*, in __post_init__",
    "Frozen": r"the network must have a parameter that requires gradients; got none; .*, in model",
    "TwoDtypes": r"must share one dtype; got torch.float32, torch.float64; .*, in model",
    "NoModule": r"model must return a torch.nn.Module; got function; .*, in model",
    "ShortTotals": r"metrics on validation data: RuntimeError: .*outputs float32 \(30, 3\); at .*",
    "NoScores": r"scores must have loss and accuracy; got accuracy; .*, in scores",
    "Declares": r"scores must have macro_f1, which metric_directions declares; got loss, accuracy",
    "Exits": r"model: SystemExit: usage: train.py",
    "Ungrouped": r"parameter_groups: ValueError: .*0.bias.*, in parameter_groups",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_line_with_shapes_and_the_users_line(name):
    with pytest.raises(Mistake) as caught:
        checked(name)
    message = str(caught.value)
    assert re.search(MISTAKES[name], message)
    assert "\n" not in message
    if not caught.value.is_of_method:
        assert f"; at {FILE}, line " in message


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        (
            "WrongOptimizer",
            "optimizer",
            r"AttributeError: .* has no attribute 'rate'.*, in optimizer",
        ),
        ("WrongSchedule", "schedule", r"ZeroDivisionError: .*, in schedule"),
    ],
)
def test_an_own_optimizer_or_schedule_that_fails_is_a_mistake(name, kind, said):
    with pytest.raises(Mistake, match=rf"optimizer and schedule: {said}"):
        checked(name, hyperparameters={"batch_size": 8, kind: "workload"})


def test_a_schedule_is_tried_at_the_trainings_own_length():
    settings = {"batch_size": 8, "schedule": "workload"}
    assert checked("LongSchedule", hyperparameters=settings, steps=600, epochs=None)
    with pytest.raises(Mistake, match="optimizer and schedule: AssertionError"):
        checked("LongSchedule", hyperparameters=settings, steps=500, epochs=None)


def test_a_workload_may_write_to_its_folder():
    assert checked("Writes")


def test_weights_that_cannot_be_kept_are_a_mistake():
    assert checked("ExtraState")
    with pytest.raises(Mistake, match=r"weights: TypeError: .*must hold only tensors; _extra_state is not one"):
        checked("ExtraState", checkpoint={"weights": "best"})


# These run to their end, with scores that are missing or another's, or weights that never change.
SILENT = {"NamedLoss", "FurtherLoss", "AsideLoss", "Declares"}


@pytest.mark.parametrize("name", sorted(set(MISTAKES) - SILENT))
def test_what_is_refused_does_not_train(name):
    with pytest.raises((Exception, SystemExit)):
        trained(name)


SOUND = ["Right", "TrainsOnAnother", "Crops", "LossOfOne", "NeedsMany", "NoTest", "OwnTotals", "Forecast"]


@pytest.mark.parametrize("name", SOUND)
def test_what_trains_is_not_refused(name):
    found = checked(name)
    assert found["loss"] > 0
    assert "loss" in found["scores"]
    assert trained(name).metric is not None


def test_the_loss_is_that_of_the_trials_first_step():
    found = checked("Right", seed=3)
    trial = Trial(configuration("Right", seed=3, steps=1, epochs=None), single_rank(), "cpu", test=False)
    (progress,) = trial.train()
    assert found["loss"] == pytest.approx(progress.train_loss, rel=1e-6)


def test_test_data_are_looked_at_if_they_are_measured():
    assert checked("NoTest")
    with pytest.raises(Mistake, match="the test data must have at least one sample"):
        checked("NoTest", test=True)


@pytest.mark.parametrize(("name", "said"), [("NeedsGpu", "NVIDIA driver"), ("DataElsewhere", "No such file")])
def test_what_other_hosts_may_have_is_undecided(name, said):
    with pytest.raises(Undecided, match=said):
        checked(name)


def test_the_loss_diverges_for_the_trial_too():
    with pytest.raises(Diverged):
        trained("NaN")


def test_a_global_batch_counts_all_ranks():
    with pytest.raises(Mistake, match="batch_size 8 on 8 ranks makes 64"):
        checked("Right", ranks=8)


@pytest.mark.parametrize("settings", [{"accumulate": 3}, {"precision": "bfloat16"}])
def test_it_follows_the_trials_precision_and_accumulation(settings):
    found = checked("Right", hyperparameters={"batch_size": 8} | settings)
    dtype, size = ("bfloat16", 8) if "precision" in settings else ("float32", 2)
    assert found["outputs"] == f"{dtype} ({size}, 3)"
