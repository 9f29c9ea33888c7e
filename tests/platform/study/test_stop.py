"""The section `stop` of a study file: its forms, and what is refused with which words."""

import pytest
import yaml
from pydantic import ValidationError

from atoll.platform.study.stop import Margin, Stop
from atoll.platform.study.study import Study
from atoll.storage.yamlfile import FileError, load

STUDY = {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 9}


def stop_of(**rules):
    return Stop.model_validate(rules)


@pytest.mark.parametrize(
    ("given", "of_200"),
    [("0.1 %", 0.2), ("0.1%", 0.2), (" 5 % ", 10.0), (0.001, 0.2), (0, 0.0), ({"absolute": 3}, 3.0)],
)
def test_a_margin_is_a_share_of_the_incumbents_absolute_value_or_absolute(given, of_200):
    tolerance = stop_of(plateau={"trials": 3, "tolerance": given}).plateau.tolerance
    assert tolerance.of(200.0) == tolerance.of(-200.0) == pytest.approx(of_200, rel=1e-15)


def test_a_margin_is_told_as_it_was_given():
    assert [str(Margin(share=0.001)), str(Margin(absolute=0.25))] == ["0.1 %", "0.25"]


def test_what_a_study_stores_reads_as_the_same_rules():
    stop = stop_of(target=0.97, plateau={"trials": 20, "tolerance": "0.1 %"}, regret={"absolute": 0.5}, running="stop")
    assert Stop.model_validate(stop.model_dump(mode="json")) == stop


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({}, "stop needs a rule: one or several of target, plateau, regret"),
        ({"running": "stop"}, "stop needs a rule"),
        ({"target": "97 %"}, "valid number"),
        ({"target": float("nan")}, "finite number"),
        ({"target": {}}, "target must name at least one objective"),
        ({"plateau": {"tolerance": 0.1}}, "Field required"),
        ({"plateau": {"trials": 0}}, "greater than or equal to 1"),
        ({"plateau": {"trials": 5, "tolerance": "1"}}, "must be a share such as '0.1 %' or 0.001"),
        ({"plateau": {"trials": 5, "tolerance": "100 %"}}, "less than 1"),
        ({"plateau": {"trials": 5, "tolerance": -0.1}}, "greater than or equal to 0"),
        ({"plateau": {"trials": 5, "tolerance": {}}}, "give one of share and absolute"),
        ({"plateau": {"trials": 5, "tolerance": {"share": 0.1, "absolute": 1}}}, "give one of share and absolute"),
        ({"regret": 0}, "regret must be above 0"),
        ({"target": 1, "running": "wait"}, "'finish' or 'stop'"),
    ],
)
def test_invalid_rules_are_refused(rules, words):
    with pytest.raises(ValidationError, match=words):
        stop_of(**rules)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"stop": {"target": {"speed": 1}}}, r"target must be of objectives of the study \(accuracy\); got speed"),
        (
            {"stop": {"target": 0.9}, "objectives": ["accuracy", "seconds"]},
            r"target needs the objective's name with several objectives \(accuracy, seconds\), such as "
            r"\{accuracy: 0.9\}; got 0.9",
        ),
        (
            {"stop": {"plateau": {"trials": 5}}, "objectives": ["accuracy", "seconds"]},
            "plateau needs a single objective, as several have no one incumbent; got 2",
        ),
        ({"stop": {"regret": "1 %"}, "objectives": ["accuracy", "seconds"]}, "regret needs a single objective"),
        ({"stop": {"targets": 0.9}}, r"stop.targets: unknown key \(did you mean target\?\); valid keys are target, pl"),
        ({"stop": {"plateau": 20}}, r"stop.plateau: .*; got 20"),
        (
            {"stop": {"target": 1}, "trials": None, "confirm": {"configurations": [{}], "seeds": 2}},
            "confirm trains every configuration to the end; omit stop",
        ),
    ],
)
def test_a_study_file_is_refused_with_file_and_rule(tmp_path, content, words):
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(STUDY | content))
    with pytest.raises(FileError, match=words) as raised:
        load(file, Study)
    assert str(raised.value).startswith(str(file))
    if "confirm" not in content:
        line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if text.startswith("stop"))
        assert any(f"s.yaml, line {at}: stop" in str(raised.value) for at in (line, line + 1))


def test_one_objective_may_be_named_and_several_are():
    for target, objectives in ((0.9, None), ({"accuracy": 0.9}, None), ({"seconds": 60}, ["accuracy", "seconds"])):
        assert (
            Study.model_validate(STUDY | {"stop": {"target": target}, "objectives": objectives}).stop.target == target
        )
