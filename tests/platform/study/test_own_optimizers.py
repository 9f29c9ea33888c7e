"""Optimizers and schedules of the user's: by file, by entry point, by the workload."""

from importlib.metadata import EntryPoint

import pytest
import torch
import yaml

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.common import own
from atoll.methods.common.optimizers import OPTIMIZERS, SCHEDULES
from atoll.platform.study import provenance, registry
from atoll.platform.study.configuration import Configuration, ExportedConfiguration
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.platform.trial.trial import Trial
from atoll.platform.workloads.digits import DigitsMlp
from atoll.searchspaces.optimizer import KNOWN
from atoll.storage import yamlfile

OWN = """
import torch

from helpers import HALF


def sgd(parameters, settings):
    assert all(p.dim() in (1, 2) for group in parameters for p in group["params"])
    return torch.optim.SGD(parameters, settings.learning_rate, settings.momentum)


def halved(settings, step, num_steps):
    return settings.learning_rate * HALF ** (3 * step // num_steps)


def wrong(parameters, settings):
    return None


def partial(parameters, settings):
    return torch.optim.SGD(parameters[:1], 0.1)
"""
WORKLOAD = """
import torch

from atoll.platform.workloads.digits import DigitsMlp


class Mine(DigitsMlp):
    def optimizer(self, parameters, settings):
        return torch.optim.SGD(parameters, settings.learning_rate, settings.momentum)

    def schedule(self, settings, step, num_steps):
        return settings.learning_rate * 0.5 ** (3 * step // num_steps)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "helpers.py").write_text("HALF = 0.5\n")
    (tmp_path / "work.py").write_text(WORKLOAD)
    return tmp_path


def curve(folder, workload="digits_mlp", **hyperparameters):
    """The losses and rates of a training on two ranks."""
    given = {"learning_rate": 0.2, "batch_size": 16} | hyperparameters
    content = {"workload": workload, "method": "local_sgd", "epochs": 3, "hyperparameters": given}
    config = Configuration.model_validate(content, context={"folder": folder})
    reports = run_virtual_ranks(lambda c: [*Trial(config, c, "cpu").train()], [0, 0])[0]
    return [(one.train_loss, one.learning_rate) for one in reports]


def test_a_files_optimizer_and_schedule_train_like_atolls(folder):
    """The groups, and so the weight decay, are atoll's; the rate is that of the schedule."""
    expected = curve(folder, schedule="step", milestones="1/3,2/3", weight_decay=0.05)
    mine = curve(folder, optimizer="own.py:sgd", schedule="own.py:halved", weight_decay=0.05)
    assert [rate for _, rate in mine] == [rate for _, rate in expected] == [0.2, 0.1, 0.05]
    # torch's plain SGD against its fused one, in float32, whose rounding grows from epoch to epoch
    assert mine[0][0] == pytest.approx(expected[0][0], rel=1e-3)
    assert mine[2][0] == pytest.approx(expected[2][0], rel=1e-2)
    without_decay = curve(folder, optimizer="own.py:sgd", schedule="own.py:halved", weight_decay=0.0)
    assert mine[2][0] != pytest.approx(without_decay[2][0], rel=0.1)


def test_a_workload_may_have_both(folder):
    mine = curve(folder, workload="work.py:Mine", optimizer="workload", schedule="workload")
    assert mine == curve(folder, optimizer="own.py:sgd", schedule="own.py:halved")


def test_a_package_may_register_them(folder, monkeypatch):
    def entry_points(group):
        return [EntryPoint(name="triangle", value=f"{folder / 'own.py'}:halved", group=group)]

    own.installed.cache_clear()
    monkeypatch.setattr(own, "entry_points", entry_points)
    try:
        rates = [rate for _, rate in curve(folder, schedule="triangle")]
    finally:
        own.installed.cache_clear()
    assert rates == [0.2, 0.1, 0.05]


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"optimizer": "lion"}, r"optimizer must be one of sgd, .*, file.py:function, workload .*; got 'lion'"),
        ({"optimizer": "lbfgs"}, "torch's lbfgs cannot train here: it evaluates the loss several times"),
        ({"optimizer": "sparseadam"}, "torch's sparseadam cannot train here: it takes sparse gradients only"),
        (
            {"optimizer": "workload"},
            r"needs a workload that defines optimizer\(parameters, settings\); DigitsMlp does not",
        ),
        ({"schedule": "workload"}, r"defines schedule\(settings, step, num_steps\); DigitsMlp does not"),
        ({"optimizer": "own.py:nothing"}, "has no 'nothing'"),
        ({"optimizer": "none.py:f"}, "none.py does not exist"),
        ({"schedule": "helpers.py:HALF"}, "must be a function; it is 0.5"),
        ({"optimizer": "own.py:wrong"}, "own.py:wrong must return a torch.optim.Optimizer; got NoneType"),
        ({"optimizer": "own.py:partial"}, "must have all parameters that it is given, and no others"),
    ],
)
def test_what_is_refused(folder, hyperparameters, message):
    with pytest.raises((ValueError, TypeError), match=message):
        curve(folder, **hyperparameters)


def study(folder, **space):
    content = {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 2, "space": space}
    (folder / "s.yaml").write_text(yaml.safe_dump(content))
    return yamlfile.load(folder / "s.yaml", Study, inside=True)


def test_a_study_searches_and_records_them(folder):
    plan = Plan.of(study(folder, optimizer={"choices": ["sgd", "own.py:sgd"]}, schedule="own.py:halved"))
    conditions = {p.name: p.only_if for p in plan.space.parameters}
    assert conditions["momentum"] is None  # it may act on both
    files = {path.rpartition("/")[2] for path in provenance.of(plan).measured.code}
    assert files == {"own.py", "helpers.py"}
    trained = plan.configuration(plan.space.default(), 0, threads=1, device="cpu")
    assert trained.hyperparameters["schedule"] == f"{folder / 'own.py'}:halved"
    assert provenance.of(Plan.of(study(folder, optimizer="adamw"))).measured.code == {}


def test_files_outside_the_studys_folder_are_refused(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "own.py"
    elsewhere.write_text(OWN)
    for kind in ("optimizer", "schedule"):
        with pytest.raises(ValueError, match="code must be in the file's folder"):
            study(folder, **{kind: f"{elsewhere}:sgd"})
        with pytest.raises(ValueError, match="code must be in the file's folder"):
            study(folder, **{kind: {"choices": ["constant", f"{elsewhere}:sgd"]}})
        content = {"workload": "digits_mlp", "method": "ddp", "hyperparameters": {kind: f"{elsewhere}:sgd"}}
        with pytest.raises(ValueError, match="code must be in the file's folder"):
            ExportedConfiguration.model_validate(content, context={"folder": folder, "inside": True})


def test_the_space_knows_all_names():
    assert set(KNOWN) == {*OPTIMIZERS, *SCHEDULES}


def test_torchs_optimizers_train_here_or_are_refused_with_a_reason():
    """A new one of torch's is noticed here."""
    kinds = {
        name.lower()
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    unknown = []
    for name in sorted(kinds - set(OPTIMIZERS)):
        with pytest.raises(ValueError, match=r"cannot train here|optimizer must be one of") as refused:
            own.check("optimizer", name, OPTIMIZERS)
        unknown += [name] * ("must be one of" in str(refused.value))
    assert unknown == []


def test_none_of_atolls_names_is_code():
    assert registry.own("optimizer", "sgd", DigitsMlp()) is None
    assert registry.own("schedule", "cosine", DigitsMlp()) is None
