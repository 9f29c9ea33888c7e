"""Searches whose trials are pruned by the objective: what it is told of them, by whom they are judged."""

import statistics
from collections import Counter

import pytest
import yaml
from commands import called, journal_lines
from paused import curves, search

from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study

pytestmark = pytest.mark.slow
STARTUP, EPOCHS = 2, 4


def write(folder, name, **content):
    study = {
        "name": name,
        "workload": "digits_mlp",
        "method": "ddp",
        "epochs": EPOCHS,
        "trials": 12,
        "seed": 6,
        "sampler": {"name": "random"},
        "space": {"batch_size": 128, "schedule": "constant"},
        "topology": {"threads": 1},
        "check": False,
        "objectives": ["train_loss"],
        "pruning": {"rule": "median", "startup": STARTUP},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(study | content))


def decided(reports, value):
    """The epochs after which the rule of Golovin et al. ends trials, one after another, by a value of their reports."""
    ends, before = {}, {}
    for number in sorted(reports):
        _, curve = reports[number]
        own = {report[0]: value(report) for report in curve}
        for epoch in sorted(own):
            others = [values[epoch] for values in before.values() if epoch in values]
            if len(others) >= STARTUP and own[epoch] > statistics.median(others) and epoch < EPOCHS:
                ends[number] = epoch
                break
        before[number] = own
    return ends


def test_a_search_prunes_by_its_objective_the_training_loss(tmp_path):
    """Martin 2024, section 4.3. A resumed search, and a replay, know the same values; the sampler gets their curves."""
    for name, budgets in (("whole", (12,)), ("resumed", (5, 12))):
        for number, trials in enumerate(budgets):
            write(tmp_path, name, trials=trials)
            done = search(tmp_path, name, *(["--resume"] if number else []))
            assert "pruning compares train_loss, the objective, not accuracy" in done.stdout + done.stderr
    whole = curves(tmp_path, "whole")
    assert curves(tmp_path, "resumed") == whole
    ends = {number: curve[-1][0] for number, (state, curve) in whole.items() if state == "pruned"}
    assert ends == decided(whole, lambda report: report[2])
    assert ends != decided(whole, lambda report: -report[1])  # the metric would have decided otherwise
    assert Counter(state for state, _ in whole.values()).keys() == {"complete", "pruned"}
    for line in journal_lines(tmp_path / "atoll-studies" / "whole", "trial_ended"):
        _, curve = whole[line["number"]]
        if line["state"] == "pruned":
            assert line["curve"] == {str(epoch): loss for epoch, _, loss in curve}
        else:
            assert line["objective"] == curve[-1][2]
    replayed = called("search", "whole.yaml", "--outside", "--replay", "whole", cwd=tmp_path).stdout
    assert "all are equal" in replayed


@pytest.mark.parametrize("objective", ["accuracy", "validation_error", "validation_loss", "train_loss"])
def test_objectives_that_pruning_compares(objective):
    study = Study(name="s", workload="digits_mlp", method="ddp", objectives=[objective], pruning={})
    plan = Plan.of(study)
    assert any("pruning compares" in note for note in plan.notes()) == (
        objective not in ("accuracy", "validation_error")
    )


def test_a_further_metric_of_the_workload_may_be_compared():
    study = Study(name="s", workload="bigearthnet", method="ddp", objectives=["macro_f1"], pruning={})
    assert (Plan.of(study).judged.sign, Plan.of(study).judged.name) == (-1.0, "macro_f1")
