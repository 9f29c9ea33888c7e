"""The study file: what it accepts, and what its errors say."""

import json
import re

import pytest
import yaml

from atoll.platform.study.configuration import Configuration
from atoll.platform.study.plan import Plan, search_space
from atoll.platform.study.study import Study
from atoll.storage import yamlfile

MINIMAL = {"name": "s", "workload": "digits_mlp", "method": "daso"}


def load(tmp_path, content):
    file = tmp_path / "study.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return yamlfile.load(file, Study)


def error(tmp_path, content):
    with pytest.raises(yamlfile.FileError) as caught:
        load(tmp_path, content)
    return str(caught.value)


def test_minimal(tmp_path):
    study = load(tmp_path, MINIMAL)
    assert study.topology.shape().world_size == 1
    assert search_space(study).names()[:2] == ["B", "S"]


def test_the_sampler_follows_from_the_objectives_unless_it_is_given():
    def sampler(**content):
        return Study(name="s", workload="digits_mlp", method="daso", **content).model_dump()["sampler"]

    assert [member["name"] for member in sampler()["samplers"]] == ["optuna-gp", "evolution"]
    assert sampler(sampler={"name": "mixed"}) == sampler()
    assert sampler(objectives=["seconds"]) == sampler()
    assert sampler(objectives=["accuracy", "seconds"])["name"] == "evolution"
    assert sampler(sampler={"name": "optuna-tpe"}, objectives=["accuracy", "seconds"])["name"] == "optuna-tpe"
    assert sampler(sampler={"population": 8})["name"] == "evolution"


def test_everything_survives_a_round_trip(tmp_path):
    study = load(
        tmp_path,
        MINIMAL
        | {
            "topology": {"islands": 2, "workers": [3, 1], "ranks": 2, "ranks_per_node": 1},
            "space": {"B": {"low": 1, "high": 8, "log": True}, "momentum": 0.5, "wire": {"choices": ["float16"]}},
        },
    )
    assert Study.model_validate(json.loads(study.model_dump_json())) == study
    assert study.topology.shape().island_sizes == (3, 1)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            "name: s\nworklaod: x\n",
            ["line 2", "worklaod", "unknown key (did you mean workload?)", "valid keys are name"],
        ),
        ("name: s\n", ["workload: required, but missing", "method: required"]),
        (
            "name: s\nworkload: digits_mlp\nmethod: dado\n",
            ["study.yaml, line 3", "method", "must be one of ab, admm_consensus, ", "got 'dado'"],
        ),
        ("name: s\nworkload: nothing.py:X\nmethod: daso\n", ["line 2", "does not exist", "nothing.py"]),
        (MINIMAL | {"trials": "many"}, ["trials", "valid integer", "got 'many'"]),
        (MINIMAL | {"trials": 0}, ["trials", "greater than or equal to 1", "got 0"]),
        (
            f"name: s\nworkload: digits_mlp\nmethod: daso\ntrials: {10**30}\n",
            ["line 4: trials: an integer must be between -9223372036854775807 and 9223372036854775807; got one of 100"],
        ),
        (MINIMAL | {"space": {"B": {"choices": [1, 2**63]}}}, ["space.B.choices.1: an integer must be between"]),
        (MINIMAL | {"topology": {"islands": 10**9}}, ["topology.islands", "less than or equal to 10000000"]),
        (
            MINIMAL | {"topology": {"islands": 10**6, "workers": 10**6}},
            ["islands x workers x ranks must be at most 10000000 ranks; got 1000000000000 workers of 1"],
        ),
        (MINIMAL | {"confirm": {"configurations": [{}], "seeds": 10**12}}, ["confirm.seeds", "less than or equal to"]),
        (
            MINIMAL | {"report_every": "9" * 400 + " steps"},
            ["an interval must be above 0, at most 1e+15, and whole"],
        ),
        (MINIMAL | {"name": "../x"}, ["name", "letters, digits", "got '../x'"]),
        (
            "name: s\nworkload: digits_mlp\nmethod: daso\ntopology:\n  rank: 2\n",
            ["line 5", "topology.rank", "did you mean ranks", "valid keys are islands, workers, ranks"],
        ),
        (
            MINIMAL | {"topology": {"world": 8, "ranks": 3}},
            ["topology", "must be divisible by 3 ranks per worker; got 8"],
        ),
        (MINIMAL | {"topology": {"world": 4, "ranks": 2, "islands": 3}}, ["3 islands need at least 3 workers"]),
        (
            MINIMAL | {"topology": {"islands": 2, "workers": [1]}},
            ["workers must list one number per island (2); got 1"],
        ),
        (MINIMAL | {"topology": {"ranks": 3, "ranks_per_node": 2}}, ["must be divisible by ranks_per_node; got 2"]),
        (
            MINIMAL | {"sampler": {"name": "annealing"}},
            ["sampler.name: must be one of evolution, propulate, optuna-tpe, ", "; got 'annealing'"],
        ),
        (
            "name: s\nworkload: digits_mlp\nmethod: daso\nsampler: grid\n",
            [
                "line 4: sampler: must be a mapping such as {name: grid}; the names are evolution, propulate, ",
                "; got 'grid'",
            ],
        ),
        (MINIMAL | {"sampler": ["annealing"]}, ["such as {name: random}; the names are evolution, propulate, "]),
        (
            MINIMAL | {"pruning": "hyperband"},
            ["pruning: must be a mapping such as {rule: asha}; the rules are asha, median, ", "; got 'hyperband'"],
        ),
        (
            'name: s\nworkload: digits_mlp\nmethod: daso\nspace:\n  learning_rate: {low: "1e-4", high: "1e-1"}\n',
            ["line 5: space.learning_rate.low: must be a number without quotes; got '1e-4'"],
        ),
        (
            MINIMAL | {"sampler": {"name": "propulate", "mutation": 2}},
            ["sampler.mutation", "less than or equal to 1", "got 2"],
        ),
        (
            MINIMAL | {"sampler": {"mutation": 0.4, "population": 8}},
            ["sampler: a sampler without a name is evolution, which has no mutation; ", "add name: propulate"],
        ),
        (MINIMAL | {"space": {"B": {"low": 1}}}, ["space.B", "high", "required"]),
        ("- a\n- b\n", ["must be a mapping of keys to values; valid keys are name"]),
        ("name: [\n", ["not valid YAML"]),
    ],
)
def test_errors_say_file_line_key_rule_value_and_choices(tmp_path, content, parts):
    message = error(tmp_path, content)
    assert "study.yaml" in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        ("{low: 0.9, high: 0.1}", "low must be at most high; got 0.9, 0.1"),
        ("{low: 9, high: 1}", "low must be at most high; got 9, 1"),
        ("{low: 0.0, high: 0.9, log: true}", "low must be above 0 on a log scale; got 0.0"),
        ("{low: 0, high: 9, log: true}", "low must be at least 1 on a log scale; got 0"),
        ("{low: 0.1, high: .inf, log: true}", "low and high must be finite; got 0.1, inf"),
        ("{low: .nan, high: 1.0}", "low and high must be finite; got nan, 1.0"),
        ("{low: 0.01, high: 0.95, step: 0.1}", "high must be low plus a multiple of step, such as 0.91, 1.01; got 0.95 "
         "with step 0.1"),
        ("{low: 1, high: 8, step: 4}", "high must be low plus a multiple of step, such as 5, 9; got 8 with step 4"),
        ("{low: -1.0e+308, high: 1.0e+308}", "high minus low must be finite; got -1e+308, 1e+308"),
        ("{low: 0.0, high: 1.0, step: 1.0e-300}", "step must be at least 1e-12, as a range has at most 1e+12 steps; "
         "got 1e-300"),
        ("{low: 0.0, high: 1.0, step: 1.0e-320}", "step must be at least 1e-12, as a range has at most 1e+12 steps; "
         "got 1e-320"),
        ("{low: 0.1, high: 0.9, step: -0.1}", "step must be above 0 and finite; got -0.1"),
        ("{low: 0.1, high: 0.9, step: 0.1, log: true}", "a log scale has no step: leave out log or step; got step 0.1"),
    ],
)  # fmt: skip
def test_a_wrong_range_is_one_mistake_with_its_place(tmp_path, entry, rule):
    message = error(tmp_path, f"name: s\nworkload: digits_mlp\nmethod: ddp\nspace:\n  learning_rate: {entry}\n")
    assert message == f"{tmp_path / 'study.yaml'}, line 5: space.learning_rate: {rule}"


def test_every_mistake_is_reported_at_once(tmp_path):
    assert len(error(tmp_path, MINIMAL | {"trials": 0, "seed": -1, "colour": 1}).splitlines()) == 3


def test_a_study_may_search_any_hyperparameter_of_its_method(tmp_path):
    space = {"alpha": {"low": 0.05, "high": 0.5, "log": True}}
    study = Study(name="s", workload="digits_mlp", method="easgd", space=space, topology={"ranks": 2})
    alpha = next(p for p in search_space(study).parameters if p.name == "alpha")
    assert (alpha.distribution.low, alpha.distribution.high) == (0.05, 0.5)
    # no default: the method derives it from beta, so the middle of the range is tried first
    assert search_space(study).default()["alpha"] == pytest.approx((0.05 * 0.5) ** 0.5)


def test_a_study_may_fix_or_search_what_the_methods_space_has_fixed(tmp_path):
    """OIALR's space fixes AdamW and a cosine."""
    space = {"optimizer": "sgd", "schedule": {"choices": ["cosine", "linear"]}}
    found = search_space(Study(name="s", workload="digits_mlp", method="oialr", space=space))
    assert dict(found.fixed)["optimizer"] == "sgd"
    assert next(p for p in found.parameters if p.name == "schedule").distribution.choices == ("cosine", "linear")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lerning_rate": 0.1}, "daso has no hyperparameter lerning_rate; valid are B, S"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0; got -1.0"),
        ({"C": {"low": 1, "high": 2}}, "daso has no hyperparameter C; valid are B, S,"),
        ({"B": {"low": 8, "high": 2}}, "low"),
        ({"B": {"low": 1.0, "high": 8.0}}, "B is an integer: low and high must be integers; got 1.0, 8.0"),
        ({"B": 2.5}, "B must be of type int; got 2.5"),
        ({"adaptive": "false"}, "adaptive must be of type bool; got 'false'"),
        (
            {"S": {"low": 5, "high": 8}},
            "S must be at most B: with S at 5 or more, B must start at 5 or more; it starts at 1",
        ),
        ({"S": {"choices": [0, 1]}}, "S is limited by B, so it takes a range or one value, no choices"),
        ({"wire": {"low": 1, "high": 2}}, "wire takes choices, such as {float32, float16, bfloat16}"),
        ({"wire": {"choices": ["float32", "int8"]}}, "wire must be one of float32, float16, bfloat16; got 'int8'"),
        ({"momentum": {"low": 0.0, "high": 2.0}}, "momentum must be in [0, 1); got 2.0"),
    ],
)
def test_impossible_spaces_are_refused_before_anything_starts(tmp_path, space, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        search_space(load(tmp_path, MINIMAL | {"space": space}))


def test_exponents_are_numbers(tmp_path):
    study = load(
        tmp_path,
        "name: s\nworkload: digits_mlp\nmethod: ddp\n"
        "space:\n  learning_rate: {low: 1e-4, high: 1e-1, log: true}\n  weight_decay: 1e-5\n",
    )
    rate = next(p for p in search_space(study).parameters if p.name == "learning_rate").distribution
    assert (rate.low, rate.high, rate.log) == (1e-4, 1e-1, True)
    assert dict(search_space(study).fixed)["weight_decay"] == 1e-5


def test_a_world_is_shared_out_and_survives_a_round_trip(tmp_path):
    study = load(tmp_path, MINIMAL | {"topology": {"world": 8, "islands": 3, "ranks": 2}})
    assert study.topology.shape().island_sizes == (2, 1, 1)
    assert Study.model_validate(json.loads(study.model_dump_json())) == study


def test_a_space_without_parameters_is_no_search(tmp_path):
    study = load(tmp_path, MINIMAL)
    fixed = search_space(study).default()
    with pytest.raises(ValueError, match="all are fixed: use `atoll train`"):
        search_space(load(tmp_path, MINIMAL | {"space": fixed}))


def test_hyperparameters_outside_the_space_may_be_fixed(tmp_path):
    study = load(tmp_path, MINIMAL | {"space": {"optimizer": "adamw", "plateau_patience": 5}})
    configuration = Plan.of(study).configuration(search_space(study).default(), 3, threads=1, device="cpu")
    assert configuration.hyperparameters["optimizer"] == "adamw"
    assert configuration.hyperparameters["plateau_patience"] == 5
    assert configuration.hyperparameters["gradient_clipping"] == 0.0  # all of them, not only the searched ones
    assert configuration.seed == 3


def test_files_of_a_users_own_are_seen_from_the_study_file(tmp_path):
    (tmp_path / "mine.py").write_text("class Mine: pass\n")
    study = load(tmp_path, MINIMAL | {"workload": "mine.py:Mine"})
    assert study.workload == f"{(tmp_path / 'mine.py').resolve()}:Mine"
    assert Study.model_validate(study.model_dump()).workload == study.workload


def test_code_outside_the_study_files_folder_is_not_run_unless_trusted(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "mine.py").write_text("class Mine: pass\n")
    (tmp_path / "studies" / "inside.py").write_text("class Mine: pass\n")
    file = tmp_path / "studies" / "study.yaml"
    for workload, is_outside in (
        ("../mine.py:Mine", True),
        (f"{tmp_path}/mine.py:Mine", True),
        ("inside.py:Mine", False),
    ):
        file.write_text(yaml.safe_dump(MINIMAL | {"workload": workload}))
        if is_outside:
            with pytest.raises(yamlfile.FileError, match=r"code must be in the file's folder .* or use --outside"):
                yamlfile.load(file, Study, inside=True)
        assert yamlfile.load(file, Study, inside=not is_outside).workload.endswith(
            "ine.py:Mine" if is_outside else "inside.py:Mine"
        )


def test_the_schema_describes_every_key():
    schema = Study.model_json_schema()
    assert schema["additionalProperties"] is False
    for name, field in Study.model_fields.items():
        assert name in schema["properties"]
        assert field.description or name in ("topology", "sampler"), name


def test_a_configuration_refuses_unknown_keys(tmp_path):
    with pytest.raises(yamlfile.FileError, match="unknown key"):
        yamlfile.validate(
            {"workload": "digits_mlp", "method": "ddp", "x": 1}, Configuration, source="f", folder=tmp_path
        )


def test_promotion_needs_checkpoints(tmp_path):
    content = MINIMAL | {"pruning": {"promotion": True, "rule": "asha"}}
    assert "pruning.promotion continues trials from their checkpoints" in error(tmp_path, content)
    assert load(tmp_path, content | {"checkpoint": {"every": "1 epochs"}}).pauses_trials
