"""A comparison warns where its methods had different optimizers."""

from types import SimpleNamespace

import made_up

from atoll.analysis import optimizer_differences
from atoll.analysis.comparison import compare


def study(method, optimizer, workload="digits", stage="confirm", searched=None):
    definition = {"confirm": {"configurations": [{"optimizer": optimizer, "learning_rate": 0.1}]}}
    definition["space"] = {} if searched is None else {"optimizer": {"type": "choices", "choices": searched}}
    return SimpleNamespace(method_label=method, workload_label=workload, stage=stage, definition=definition)


def test_different_optimizers():
    found = [study("ddp", "sgd"), study("oialr", "adamw"), study("easgd", "sgd")]
    assert optimizer_differences.notes(found) == [
        "the methods had different optimizers on digits, which may explain differences between them: adamw (oialr); "
        "sgd (ddp, easgd)"
    ]


def test_workloads_of_the_same_kind_are_one_note():
    found = [
        study(m, o, w) for w in ("a", "b", "c") for m, o in (("ddp", "sgd"), ("ab", "adamw" if w != "c" else "sgd"))
    ]
    (note,) = optimizer_differences.notes(found)
    assert "on a, b, which" in note


def test_methods_that_searched_the_optimizer_alike_had_the_same():
    both = ["sgd", "adamw"]
    found = [study("ddp", "sgd", searched=both), study("oialr", "adamw", searched=list(reversed(both)))]
    assert optimizer_differences.notes(found) == []
    (note,) = optimizer_differences.notes([*found, study("easgd", "sgd")])
    assert "adamw or sgd (ddp, oialr); sgd (easgd)" in note


def test_the_same_optimizer_and_unknown_ones_are_no_difference():
    tuning = study("oialr", "adamw", stage="tune")
    unknown = SimpleNamespace(method_label="x", workload_label="digits", stage="confirm", definition={})
    assert optimizer_differences.notes([study("ddp", "sgd"), study("ab", "sgd"), tuning, unknown]) == []


def test_the_report_has_the_warning(tmp_path):
    table = {"ddp": {"w": [[0.5, 0.9], [0.5, 0.9]]}, "oialr": {"w": [[0.5, 0.9], [0.5, 0.9]]}}
    made = made_up.make(tmp_path, table, targets={"w": 0.8}, optimizers={"ddp": "sgd", "oialr": "adamw"})
    assert any("different optimizers on w" in note for note in compare(*made).notes)
    assert not any(
        "optimizers" in note for note in compare(*made_up.make(tmp_path / "plain", table, targets={"w": 0.8})).notes
    )
