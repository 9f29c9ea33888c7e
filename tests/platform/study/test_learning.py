"""Results from elsewhere: which rows are told, and what is said of the others."""

import json
import math

import boards
import journals
import pytest
from lessons import DDP, ROW, SPACE, configuration, plan, stored, write

from atoll.analysis import tables
from atoll.platform.study import learning
from atoll.platform.study.learning import Learned
from atoll.storage.store import StoreError


def read(source, url="sqlite:///none.db", **content):
    lessons = learning.read(plan(source, **content), url)
    assert not lessons.related
    return lessons.learned, lessons.report


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_rows_of_a_table_become_hyperparameters_and_losses(tmp_path, suffix):
    rows = [ROW | {"accuracy": 0.9, "host": "a"}, ROW | {"momentum": 0.0, "accuracy": 0.8, "host": "b"}]
    told, (said,) = read(write(tmp_path / f"results{suffix}", rows))
    whole = ROW | {"optimizer": "sgd", "weight_decay": 0.0, "wire": "float32"}
    assert told == [Learned(whole, (-0.9,)), Learned(whole | {"momentum": 0.0}, (-0.8,))]
    assert [type(told[0].hyperparameters[name]) for name in ("batch_size", "learning_rate")] == [int, float]
    assert said == f"learn_from results{suffix}: learned from 2 of 2 rows"


def test_what_does_not_fit_is_left_out_and_counted(tmp_path):
    rows = [
        ROW | {"accuracy": 0.9},
        *[ROW | {"learning_rate": 5.0, "accuracy": 0.9}] * 3,
        *[ROW | {"accuracy": None}] * 2,
        ROW | {"schedule": "linear", "accuracy": 0.9},
        ROW | {"momentum": None, "accuracy": 0.9},
        ROW | {"weight_decay": 0.1, "accuracy": 0.9},
        ROW | {"batch_size": 32.5, "accuracy": 0.9},
        ROW | {"batch_size": 64, "learning_rate": 0.5, "accuracy": 0.9},
        ROW | {"accuracy": float("inf")},
    ]
    source = write(tmp_path / "results.csv", rows)
    told, (said,) = read(source, constraints=["batch_size * learning_rate <= 20"])
    assert [one.losses for one in told] == [(-0.9,)]
    assert said == (
        "learn_from results.csv: learned from 1 of 12 rows; 11 left out: 3 learning_rate outside 0.001..1, 3 without "
        "objective, 1 schedule outside {constant, cosine}, 1 without momentum, 1 weight_decay other than 0.0, "
        "1 batch_size outside 8..64, 1 for other reasons"
    )


def test_names_and_values_that_the_table_does_not_have(tmp_path):
    rows = [{"lr": 0.1, "bs": 16.0, "schedule": "constant", "score": 0.7}]
    file = write(tmp_path / "results.json", rows)
    columns = {"learning_rate": "lr", "batch_size": "bs", "accuracy": "score"}
    (told,), _ = read({"file": file, "columns": columns, "fixed": {"momentum": 0.0}})
    assert told.losses == (-0.7,)
    assert {name: told.hyperparameters[name] for name in SPACE} == {
        "learning_rate": 0.1, "momentum": 0.0, "batch_size": 16, "schedule": "constant", "optimizer": "sgd",
        "weight_decay": 0.0, "wire": "float32",
    }  # fmt: skip


def test_an_inactive_hyperparameter_may_be_missing(tmp_path):
    space = SPACE | {"optimizer": {"choices": ["sgd", "adamw"]}}
    space["momentum"] = {"low": 0.0, "high": 0.9, "only_if": {"optimizer": "sgd"}}
    rows = [
        ROW | {"optimizer": "adamw", "momentum": None, "beta2": 0.99, "accuracy": 0.7},
        ROW | {"optimizer": "sgd", "momentum": None, "accuracy": 0.9},
    ]
    told, (said,) = read(write(tmp_path / "r.csv", rows), space=space | {"beta2": 0.99})
    assert [one.hyperparameters["optimizer"] for one in told] == ["adamw"]
    assert "momentum" not in told[0].hyperparameters
    assert said.endswith("1 left out: 1 without momentum")


def test_the_tables_of_optuna_and_of_atoll_have_prefixes_and_states(tmp_path):
    theirs = [{"number": 0, "value": 0.5, **{f"params_{n}": v for n, v in ROW.items()}, "state": "COMPLETE"}]
    theirs += [theirs[0] | {"state": "PRUNED"}, theirs[0] | {"state": "FAIL", "value": None}]
    told, (said,) = read(write(tmp_path / "r.csv", theirs))
    assert [one.losses for one in told] == [(-0.5,)]
    assert said.endswith("2 left out: 1 pruned, 1 fail")
    ours = [{f"hp.{n}": v for n, v in ROW.items()} | {"objective.accuracy": 0.25, "state": "complete"}]
    (one,), _ = read(write(tmp_path / "o.json", ours))
    assert one.losses == (-0.25,)


def test_a_column_named_state_may_be_anything(tmp_path):
    told, _ = read(write(tmp_path / "r.csv", [ROW | {"accuracy": 0.5, "state": "Ohio"}]))
    assert len(told) == 1


def test_the_best_rows_only(tmp_path):
    rows = [ROW | {"accuracy": value} for value in (0.1, 0.9, 0.5)]
    told, (said,) = read({"file": write(tmp_path / "r.csv", rows), "best": 2})
    assert [one.losses[0] for one in told] == [-0.9, -0.5]
    assert said.endswith("learned from 3 of 3 rows; told the best 2")


def test_several_objectives_and_several_sources(tmp_path):
    rows = [ROW | {"accuracy": 0.5, "seconds": 2.0}, ROW | {"accuracy": 0.5}]
    file = write(tmp_path / "r.csv", rows)
    told, report = read([file, file], objectives=["accuracy", "seconds"])
    assert [one.losses for one in told] == [(-0.5, 2.0)] * 2
    assert report == ["learn_from r.csv: learned from 1 of 2 rows; 1 left out: 1 without seconds"] * 2


@pytest.mark.parametrize(
    ("options", "rows", "rule"),
    [
        ({}, [ROW], r"r.csv has no column of the objective accuracy; name it, `columns: \{accuracy: COLUMN\}`"),
        ({"columns": {"accuracy": "score"}}, [ROW], "has no column 'score'; it has learning_rate, "),
        (
            {"columns": {"speed": "lr"}},
            [ROW],
            "columns of learn_from must name .*, accuracy; got speed",
        ),
        ({"fixed": {"speed": 1}}, [ROW | {"accuracy": 1}], "fixed of learn_from must name hyperparameters.*got speed"),
        ({}, [ROW | {"momentum": 2.0, "accuracy": 1}], "0 of 1 row; 1 left out: .*: there is nothing to learn"),
    ],
)
def test_what_is_refused(tmp_path, options, rows, rule):
    with pytest.raises(ValueError, match=rule):
        read({"file": write(tmp_path / "r.csv", rows), **options})


def test_a_file_that_is_missing_or_no_table(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read(str(tmp_path / "r.csv"))
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(ValueError, match="must be a list of rows"):
        read(str(tmp_path / "r.json"))
    with pytest.raises(ValueError, match=r"a table must end in \.csv, \.parquet, \.json"):
        plan(str(tmp_path / "r.xlsx"))
    with pytest.raises(ValueError, match="one of the two"):
        plan({"file": "r.csv", "study": "s"})


def test_samplers_that_learn_nothing_are_refused(tmp_path):
    for sampler in ({"name": "random"}, {"name": "optuna-cmaes", "separable": True}):
        with pytest.raises(ValueError, match="learn_from needs a sampler that learns"):
            learning.check(plan("r.csv", sampler=sampler))
    learning.check(plan("r.csv"))


def test_a_study_of_the_store_and_its_table_tell_the_same(tmp_path):
    store = stored(tmp_path, [ROW, ROW | {"momentum": 0.95}], **DDP)
    tables.write(tables.trials(store, store.study("t")), tmp_path / "t.csv")
    told, (said,) = read({"study": "t"}, f"sqlite:///{tmp_path}/atoll.db", epochs=20)
    assert [(one.losses, one.hyperparameters["momentum"]) for one in told] == [((-0.5,), 0.5)]
    assert said == ("learn_from study t: learned from 1 of 4 rows; 3 left out: 2 failed, 1 momentum outside 0..0.9")
    assert read(str(tmp_path / "t.csv"), epochs=20)[0] == told


def test_trainings_with_a_schedule_are_left_out(tmp_path):
    """Their last values alone are another training."""
    _, lines, recorder = boards.record(tmp_path, "t", **DDP)
    for number, schedule in enumerate([None, {"momentum": {0: 0.5}}, {"momentum": {0: 0.1, 9: 0.5}}]):
        journals.start_trial(lines, number, hyperparameters=ROW, configuration=configuration(ROW, schedule=schedule))
        journals.end_trial(lines, number, 0.5)
    recorder.catch_up()
    told, (said,) = read({"study": "t"}, f"sqlite:///{tmp_path}/atoll.db", epochs=20)
    assert len(told) == 2
    assert said.endswith("learned from 2 of 3 rows; 1 left out: 1 trained with a schedule")


def test_a_study_whose_objectives_may_not_compare(tmp_path):
    url = f"sqlite:///{tmp_path}/atoll.db"
    stored(tmp_path, [ROW], **DDP | {"method": "daso"})
    told, report = read({"study": "t", "related": False}, url, epochs=5)
    assert len(told) == 1
    assert "it trained daso on digits_mlp, and this study ddp on digits_mlp: their objectives may not" in report[1]
    assert "its trainings have 20 epochs, those of this study 5" in report[2]
    with pytest.raises(StoreError, match="does not hold a study named 'other'"):
        read({"study": "other"}, url)


def test_a_study_with_another_direction_is_refused(tmp_path):
    stored(tmp_path, [ROW], **DDP | {"direction": "minimize"})
    with pytest.raises(ValueError, match="study t would minimize accuracy, and this study would maximize accuracy"):
        read({"study": "t"}, f"sqlite:///{tmp_path}/atoll.db")


def test_plain_data_and_back():
    one = Learned(ROW, (0.5, math.inf))
    assert Learned.from_dict(json.loads(json.dumps(one.as_dict()))) == one
