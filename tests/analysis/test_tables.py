"""Tables of trials and curves: every state, names that do not clash, types, units and files."""

import io
import json
import math
import sys

import boards
import journals
import pandas as pd
import pytest
from conftest import ROOT

from atoll.analysis import leaderboard, tables
from atoll.storage.folder import StudyFolder
from atoll.storage.lock import Lock
from atoll.storage.store import Store

PAGE = (ROOT / "docs/reading_results.md").read_text()


def opened(store):
    return store, store.study("s")


def every_state(path):
    """A study with a trial in each state; trial 4 was lost once, and its second attempt runs."""
    store, lines, recorder = boards.record(path, curve_metric="accuracy")
    journals.start_trial(lines, 0, hyperparameters={"seconds": 3, "train_loss": True, "lr": 0.5, "which": "a"})
    journals.report(lines, 0, 1, metrics={"train_loss": 7.0, "layer/rank": 2.0})
    metrics = {"train_loss": 0.25, "seconds_compute": 1.5, "odd": math.nan}
    journals.end_trial(lines, 0, 0.9, metrics=metrics, notes=["one", "two"])
    journals.start_trial(
        lines,
        1,
        hyperparameters={"seconds": 2**53 + 1, "lr": 1, "which": ["b", 2]},
        proposal={"operator": "crossover", "parents": [0, 0], "seconds": 0.5},
    )
    journals.end_trial(lines, 1, 0.95)
    journals.start_trial(lines, 2)
    journals.end_trial(lines, 2, None, reason='Diverged, "of course"\nand more')
    journals.start_trial(lines, 3)
    journals.end_trial(lines, 3, None, state="pruned", reason="pruned after epoch 1")
    journals.start_trial(lines, 4)
    lines.append(journals.event("trial_lost", {"number": 4, "attempt": 0, "reason": "its rank died"}))
    journals.start_trial(lines, 4, attempt=1)
    recorder.catch_up()
    Lock(StudyFolder(path / "study-0").lock).acquire()  # it is searched
    return opened(store)


def test_every_attempt_in_every_state_is_a_row(tmp_path):
    found = tables.trials(*every_state(tmp_path))
    assert list(zip(found["trial"], found["attempt"], found["state"], strict=True)) == [
        (0, 0, "complete"), (1, 0, "complete"), (2, 0, "failed"), (3, 0, "pruned"), (4, 0, "lost"), (4, 1, "running"),
    ]  # fmt: skip
    assert found["place"].tolist()[:2] == [2, 1]
    assert found["place"].isna().tolist() == [False, False, True, True, True, True]
    assert found["objective.accuracy"].tolist()[:2] == [0.9, 0.95]
    assert found["reason"].tolist()[2:5] == ['Diverged, "of course"\nand more', "pruned after epoch 1", "its rank died"]
    assert found["notes"][0] == "one\ntwo"
    assert (found["operator"][1], found["parents"][1], found["proposal_seconds"][1]) == ("crossover", "0 0", 0.5)


def test_a_hyperparameter_and_a_metric_of_one_name_are_two_columns(tmp_path):
    found = tables.trials(*every_state(tmp_path))
    assert found.columns.is_unique
    assert (found["hp.train_loss"][0], found["metric.train_loss"][0]) == (True, 0.25)
    assert (found["hp.seconds"][0], found["seconds"][0]) == (3, 2.0)
    curves = tables.curves(*opened(Store(f"sqlite:///{tmp_path}/atoll.db")))
    assert (curves["train_loss"][0], curves["metric.train_loss"][0]) == (1.0, 7.0)


def test_values_keep_their_types(tmp_path):
    found = tables.trials(*every_state(tmp_path))
    assert found["hp.seconds"].dtype == "Int64"  # whole, although some trials have none
    assert found["hp.seconds"][1] == 2**53 + 1  # which a float does not hold
    assert found["hp.train_loss"].dtype == "boolean"
    assert found["hp.lr"].dtype == float
    assert found["hp.which"][1] == ["b", 2]
    assert found["metric.odd"].isna().all()
    assert found["metric.odd"].dtype == float
    assert isinstance(found["started"].dtype, pd.DatetimeTZDtype)
    assert found["finished"].isna().tolist() == [False] * 5 + [True]
    spent = (found["finished"] - found["started"]).dt.total_seconds()
    assert spent[:5].tolist() == pytest.approx(found["wall_seconds"][:5].tolist(), abs=2e-6)  # times are whole us


def test_units_and_directions_are_in_the_attributes(tmp_path):
    found = tables.trials(*every_state(tmp_path))
    assert found.attrs["study"] == "s"
    assert found.attrs["directions"] == {"objective.accuracy": "maximize"}
    units = found.attrs["units"]
    assert units["seconds"] == units["metric.seconds_compute"] == units["wall_seconds"] == "s"
    assert units["wire_bytes"] == units["peak_memory"] == "B"
    assert "hp.seconds" not in units  # the name of a hyperparameter tells nothing of its unit
    assert set(units) <= set(found.columns)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("peak_memory", "B"),
        ("optimizer_bytes", "B"),
        ("seconds_waiting", "s"),
        ("steps_to_target", "steps"),
        ("passes_to_target", "samples"),
        ("ecr", ""),
        ("projected_seconds (predicted: c, 4 nodes)", "s"),
    ],
)
def test_an_objectives_name_tells_its_unit(name, unit):
    assert tables.unit_of(name) == unit


def test_curves_are_long(tmp_path):
    store = boards.study(tmp_path, [0.5, None, 0.7])
    found = tables.curves(*opened(store))
    assert list(found.columns) == [column.name for column in tables.CURVES if "NAME" not in column.name]
    assert [len(rows) for _, rows in found.groupby("trial")] == [3, 3, 3]
    assert found.loc[found["trial"] == 2, "metric"].tolist() == pytest.approx([0.5, 0.75, 1 - 0.5 / 3])
    assert found.attrs["metric"] == "accuracy"
    assert set(tables.curves(*opened(store), [2, 0])["trial"]) == {0, 2}
    assert len(tables.curves(*opened(store), [])) == 0


def test_several_objectives_have_a_column_each_and_places_by_front(tmp_path):
    objectives = [
        {"name": "validation_error", "direction": "minimize"},
        {"name": "bytes_sent", "direction": "minimize"},
    ]
    store, lines, recorder = boards.record(
        tmp_path, metric="validation_error", direction="minimize", objectives=objectives
    )
    for number, values in enumerate([(0.5, 1.0), (0.1, 5.0), (0.6, 6.0), (0.3, 3.0)]):
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, values[0], objectives=list(values))
    recorder.catch_up()
    found = tables.trials(*opened(store))
    assert found["objective.bytes_sent"].tolist() == [1.0, 5.0, 6.0, 3.0]
    assert found["place"].tolist() == [1, 2, 4, 3]  # the dominated one comes last, the ends of the front first
    assert found.attrs["units"]["objective.bytes_sent"] == "B"
    # All readers have one order, although both ends of a front are equally far from the others.
    in_order = found.sort_values("place")["trial"].tolist()
    assert [trial.number for trial in leaderboard.best(*opened(store))] == in_order == [0, 1, 3, 2]


def test_an_objective_that_was_not_recorded_is_missing(tmp_path):
    objectives = [{"name": "validation_error", "direction": "minimize"}, {"name": "seconds", "direction": "minimize"}]
    _, lines, recorder = boards.record(tmp_path, objectives=objectives)
    journals.start_trial(lines, 0)
    lines.append(journals.event("trial_ended", {"number": 0, "attempt": 0, "state": "failed", "objective": 0.5}))
    recorder.catch_up()
    found = tables.trials(*opened(Store(f"sqlite:///{tmp_path}/atoll.db")))
    assert found["objective.validation_error"].tolist() == [0.5]
    assert found["objective.seconds"].isna().all()  # not the first objective's value


def test_an_empty_study_has_all_fixed_columns(tmp_path):
    store, _, _ = boards.record(tmp_path)
    for read, columns in ((tables.trials, tables.TRIALS), (tables.curves, tables.CURVES)):
        found = read(*opened(store))
        assert len(found) == 0
        assert {column.name for column in columns if "NAME" not in column.name} <= set(found.columns)
        assert tables.records(found) == []


@pytest.mark.parametrize("columns", ["TRIALS", "CURVES", "STUDIES", "FAILURES", "CHOICES"])
def test_the_page_explains_every_column(columns):
    for column in getattr(tables, columns):
        assert f"| `{column.name}` | {column.meaning} | {column.unit} |" in PAGE


def test_the_tables_have_the_columns_that_the_page_explains(tmp_path):
    store, study = every_state(tmp_path)
    for found, columns in (
        (tables.trials(store, study), tables.TRIALS),
        (tables.curves(store, study), tables.CURVES),
        (tables.studies(store), tables.STUDIES),
    ):
        told = {column.name for column in columns}
        general = [name if "." not in name else f"{name.partition('.')[0]}.NAME" for name in found.columns]
        assert list(dict.fromkeys(general)) == [column.name for column in columns], told


# Files.


def test_csv_keeps_every_digit_and_row(tmp_path):
    frame = tables.trials(*every_state(tmp_path))
    frame["hp.lr"] = [0.1 + 0.2, math.pi, 1e-300, 5e-324, math.nan, 1.0]
    again = pd.read_csv(io.StringIO(tables.to_csv(frame)), float_precision="round_trip", keep_default_na=True)
    assert list(again.columns) == list(frame.columns)
    assert again["hp.lr"].tolist()[:4] == frame["hp.lr"].tolist()[:4]
    assert again["reason"][2] == frame["reason"][2]
    assert str(2**53 + 1) in tables.to_csv(frame)
    assert json.loads(again["hp.which"][1]) == ["b", 2]
    assert again["hp.which"][0] == "a"
    assert pd.Timestamp(again["started"][0]) == frame["started"][0]


def test_json_has_null_where_nothing_is_known(tmp_path):
    rows = json.loads(json.dumps(tables.records(tables.trials(*every_state(tmp_path))), allow_nan=False))
    assert rows[5]["finished"] is rows[0]["metric.odd"] is rows[2]["place"] is None
    assert (rows[1]["hp.seconds"], rows[1]["hp.which"], rows[0]["hp.train_loss"]) == (2**53 + 1, ["b", 2], True)
    assert rows[0]["started"].endswith("Z")


def test_parquet_keeps_types_and_units(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra parquet has it; it is not installed")
    frame = tables.trials(*every_state(tmp_path))
    tables.write(frame, tmp_path / "out" / "t.parquet")
    again = pd.read_parquet(tmp_path / "out" / "t.parquet")
    assert again.attrs["units"] == frame.attrs["units"]
    assert again["hp.seconds"].dtype == "Int64"
    assert again["started"].tolist() == frame["started"].tolist()
    assert again["hp.which"].tolist()[:2] == ["a", '["b", 2]']


@pytest.mark.parametrize("name", ["t.xlsx", "t", "t.CSV"])
def test_other_suffixes_are_refused_before_anything_is_read(tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in \.csv, \.parquet, \.json; got"):
        tables.check_format(tmp_path / name)


def test_a_missing_writer_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"atoll\[parquet\]"):
        tables.check_format(tmp_path / "t.parquet")
