"""What a change of a study makes of its definition."""

import pytest

from atoll.platform.study import changes
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study

CONTENT = {
    "name": "s", "workload": "digits_mlp", "method": "daso", "trials": 10,
    "space": {"B": {"low": 1, "high": 16, "log": True, "prior": {"mode": 4}}, "momentum": 0.9},
}  # fmt: skip


def changed(wanted, **content):
    """The changed study, and the differences."""
    before = Plan.of(Study(**CONTENT | content))
    definition = before.study.model_dump(mode="json")
    after = Plan.of(Study.model_validate(changes.changed(definition, wanted, before.space)))
    settings = changes.differences(definition, after.study.model_dump(mode="json"), (before.space, after.space))
    assert changes.applied(definition, settings) == after.study.model_dump(mode="json")
    return after, settings


def said(wanted, **content):
    return [one.said for one in changed(wanted, **content)[1]]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"trials": "+50"}, ["trials: 10 → 60"]),
        ({"trials": 60}, ["trials: 10 → 60"]),
        ({"seconds": 5.0}, ["seconds: none → 5"]),
        ({"space": {"learning_rate.high": 0.1}}, ["learning_rate: 0.001 to 1, log → 0.001 to 0.1, log"]),
        ({"space.learning_rate.low": 0.01}, ["learning_rate: 0.001 to 1, log → 0.01 to 1, log"]),
        ({"space": {"B.high": 8}}, ["B: integer 1 to 16, log, prior 4 ± 0.25 → integer 1 to 8, log, prior 4 ± 0.25"]),
        ({"space": {"momentum": {"low": 0.0, "high": 0.9}}}, ["momentum: fixed to 0.9 → 0 to 0.9"]),
        ({"space": {"momentum": 0.5}}, ["momentum: fixed to 0.9 → fixed to 0.5"]),
        ({"sampler": "optuna-tpe"}, None),
        ({"pruning": "median"}, None),
        ({"islands": 2}, ["topology.islands: 1 → 2"]),
        ({"topology": {"workers": 2}}, ["topology.workers: none → 2"]),
        ({"constraints": ["S <= B"]}, ["constraints: none → S <= B"]),
        ({"stop": {"target": 0.9}}, None),
        ({"migration": {"pollination": False}}, None),
    ],
)
def test_a_change_in_words(wanted, expected):
    told = said(wanted)
    assert told == expected if expected else len(told) == 1


def test_choices_come_and_go():
    after, (setting,) = changed({"space": {"schedule.choices-": "constant"}})
    (schedule,) = (p for p in after.space.parameters if p.name == "schedule")
    assert "constant" not in schedule.distribution.choices
    assert setting.breeds
    definition = after.study.model_dump(mode="json")
    again = changes.changed(definition, {"space": {"schedule.choices+": ["constant"]}}, after.space)
    (schedule,) = (p for p in Plan.of(Study.model_validate(again)).space.parameters if p.name == "schedule")
    assert schedule.distribution.choices[-1] == "constant"
    with pytest.raises(ValueError, match=r"schedule has the choices .*; got nonsense"):
        changes.changed(definition, {"space": {"schedule.choices-": "nonsense"}}, after.space)
    with pytest.raises(ValueError, match=r"schedule has choices, .*: change choices; got high"):
        changes.changed(definition, {"space": {"schedule.high": 3}}, after.space)


def test_a_total_number_of_ranks_gives_way_to_workers():
    after, settings = changed({"workers": 3}, topology={"world": 4, "ranks": 2})
    assert {one.setting for one in settings} == {"topology.workers", "topology.world"}
    assert after.study.topology.shape().world_size == 6


@pytest.mark.parametrize(
    ("setting", "breeds"), [("trials", False), ("space.B", True), ("sampler", True), ("stop", False)]
)
def test_space_and_sampler_breed(setting, breeds):
    assert changes.Setting(setting, None, None, "").breeds is breeds
