"""Related sources of `learn_from`: which rows count, over which hyperparameters, and what is said."""

import json
import random

import pytest
from lessons import DDP, ROW, plan, stored, write
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.platform.study import learning
from atoll.platform.study.related import FEWEST, MOST, Related
from atoll.searchspaces.parameter import Parameter
from atoll.searchspaces.space import SearchSpace

URL = "sqlite:///none.db"


def rows(count, **also):
    rng = random.Random(1)
    return [
        ROW | {"learning_rate": 10 ** rng.uniform(-5, 1), "momentum": n / count, "accuracy": n / 9} | also
        for n in range(count)
    ]


def related(source, url=URL, **content):
    lessons = learning.read(plan(source, **content), url)
    assert not lessons.learned
    (one,) = lessons.related
    return one, lessons.report


def test_a_study_of_another_method_is_related_unless_it_is_said_to_be_not(tmp_path):
    url = f"sqlite:///{tmp_path}/atoll.db"
    stored(tmp_path, [ROW | {"learning_rate": rate} for rate in (5, 0.1, 0.2, 0.3, 0.4)], **DDP | {"method": "daso"})
    one, report = related({"study": "t"}, url)
    assert one.names == ("learning_rate",)
    assert [values["learning_rate"] for values, _ in one.trials] == [5, 0.1, 0.2, 0.3, 0.4]  # also outside of the range
    assert report == [
        "learn_from study t: related, as it trained daso on digits_mlp, and this study ddp on digits_mlp: 5 of 10 "
        "rows, over learning_rate; 5 left out: 5 failed; it suggests configurations, as far as it ranks this study's "
        "trials well"
    ]
    told = learning.read(plan({"study": "t", "related": False}), url)
    assert (len(told.learned), told.related) == (4, [])


def test_another_metric_and_direction_take_the_place_of_the_objective(tmp_path):
    values = [ROW | {"learning_rate": 0.1 + n / 10} for n in range(5)]
    stored(tmp_path, values, workload="text_gpt", method="ddp", metric="perplexity", direction="minimize")
    one, report = related({"study": "t"}, f"sqlite:///{tmp_path}/atoll.db")
    assert {loss for _, loss in one.trials} == {0.5}  # not turned
    assert "learn_from study t: its objective is perplexity, in place of accuracy" in report


def test_a_table_is_related_where_it_says_so(tmp_path):
    one, (said,) = related({"file": write(tmp_path / "r.csv", rows(9)), "related": True})
    assert one.names == ("learning_rate", "momentum")  # all have the same batch size and schedule
    assert [loss for _, loss in one.trials] == [-n / 9 for n in range(9)]
    assert said.startswith(
        "learn_from r.csv: related, as it says `related: true`: 9 of 9 rows, over learning_rate, mom"
    )


def test_what_is_fixed_may_be_another_number_but_no_other_choice(tmp_path):
    some = rows(5, weight_decay=0.3) + rows(3, optimizer="adamw") + rows(2, learning_rate=-1.0) + rows(1, momentum=None)
    one, (said,) = related({"file": write(tmp_path / "r.csv", some), "related": True})
    assert len(one.trials) == 5
    assert "6 left out: 3 optimizer other than sgd, 2 learning_rate without a place on its scale, 1 with" in said


def test_the_best_and_not_too_many_rows_are_modeled(tmp_path):
    file = write(tmp_path / "r.csv", rows(MOST + 50))
    one, (said,) = related({"file": file, "related": True})
    losses = sorted(loss for _, loss in one.trials)
    assert len(losses) == MOST
    assert losses[: MOST // 2] == [-n / 9 for n in range(MOST + 49, MOST + 49 - MOST // 2, -1)]
    assert f"; {MOST} are modeled, the best half and others at random" in said
    one, (said,) = related({"file": file, "related": True, "best": 7})
    assert len(one.trials) == 7
    assert "; the best 7 of them;" in said


@pytest.mark.parametrize(
    ("options", "content", "found", "rule"),
    [
        ({}, {}, rows(FEWEST - 1), f"related source needs {FEWEST} rows, or more"),
        ({"best": 3}, {}, rows(9), f"related source needs {FEWEST} rows, or more"),
        ({}, {}, [ROW | {"accuracy": n} for n in range(9)], "must have searched a hyperparameter that this study"),
        ({}, {"objectives": ["accuracy", "seconds"]}, rows(9, seconds=1), "needs a study with one objective; this"),
        ({}, {"sampler": {"name": "grid"}}, rows(9), "a grid evaluates its points.*r.csv is related"),
    ],
)
def test_what_is_refused(tmp_path, options, content, found, rule):
    with pytest.raises(ValueError, match=rule):
        learning.read(plan({"file": write(tmp_path / "r.csv", found), "related": True} | options, **content), URL)


def test_every_sampler_but_a_grid_may_have_a_related_source(tmp_path):
    source = {"file": write(tmp_path / "r.csv", rows(9)), "related": True}
    for name in ("random", "optuna-qmc"):
        learning.check(plan(source, sampler={"name": name}))
        assert len(learning.read(plan(source, sampler={"name": name}), URL).related) == 1
    with pytest.raises(ValueError, match="a grid evaluates its points"):
        learning.check(plan(source, sampler={"name": "grid"}))


def test_it_is_the_same_from_the_studys_file(tmp_path):
    one, _ = related({"file": write(tmp_path / "r.json", rows(9)), "related": True})
    assert Related.from_dict(json.loads(json.dumps(one.as_dict()))) == one


def test_places_are_on_the_scales_of_the_study_also_beyond_their_ends():
    space = SearchSpace(
        (
            Parameter(name="rate", distribution=FloatDistribution(1e-3, 1.0, log=True), default=0.1),
            Parameter(name="B", distribution=IntDistribution(1, 8), default=1),
            Parameter(name="S", distribution=IntDistribution(0, 8), default=0, at_most="B"),
            Parameter(name="c", distribution=FloatDistribution(0, 4), default=1.0, only_if=("B", (2,))),
        )
    )
    values = [
        {"rate": 1e-4, "B": 4, "S": 2},
        {"rate": 10.0, "B": 2, "S": 2, "c": 4.0},
        {"rate": 0.0316228, "B": 12, "S": 0},
    ]
    one = Related("other", ("rate", "B", "S", "c"), tuple((v, 0.0) for v in values))
    found = one.places(space)
    assert found[0] == pytest.approx([-1 / 3, 3.5 / 8, 2.5 / 5, 0.25])
    assert found[1] == pytest.approx([4 / 3, 1.5 / 8, 2.5 / 3, 1.0])
    assert found[2] == pytest.approx([0.5, 11.5 / 8, 0.5 / 9, 0.25], abs=1e-6)
    inside = values[0] | {"rate": 0.02}
    genes = space.encode(inside)
    (again,) = Related("other", ("rate", "B", "S"), ((inside, 0.0),)).places(space)
    assert again == pytest.approx([genes[name] for name in ("rate", "B", "S")])


def test_what_a_changed_space_still_has_is_kept():
    number = Parameter(name="x", distribution=FloatDistribution(0.0, 1.0), default=0.5)
    kind = Parameter(name="kind", distribution=CategoricalDistribution(["a", "b"]), default="a")
    trials = tuple(({"x": 0.1 * n, "kind": "ab"[n % 2]}, float(n)) for n in range(2 * FEWEST))
    source = Related("r", ("x", "kind"), trials)
    assert source.within(SearchSpace((number, kind))) == source
    narrowed = Parameter(name="kind", distribution=CategoricalDistribution(["b"]), default="b")
    assert source.within(SearchSpace((number, narrowed))) == Related("r", ("x", "kind"), trials[1::2])
    without = source.within(SearchSpace((kind,), fixed=(("x", 0.5),)))
    assert without is not None
    assert without.names == ("kind",)
    assert without.trials[0] == ({"kind": "a"}, 0.0)
    assert Related("r", ("kind",), trials[: 2 * FEWEST - 2]).within(SearchSpace((narrowed,))) is None
    assert source.within(SearchSpace((Parameter(name="y", distribution=FloatDistribution(0, 1), default=0.5),))) is None
