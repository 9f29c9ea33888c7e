"""What a search starts with, and what is refused before it starts."""

import json
import re

import journals
import pytest

from atoll.platform.launch import checks
from atoll.platform.study import warmstart
from atoll.platform.study.plan import Plan, search_space
from atoll.platform.study.study import Study
from atoll.storage import yamlfile
from atoll.storage.journal import JournalWriter
from atoll.storage.recorder import Recorder
from atoll.storage.store import Store, StoreError

DEFAULT = search_space(Study(name="d", workload="digits_mlp", method="ddp")).default()


def study(**content):
    return Study(**({"name": "s", "workload": "digits_mlp", "method": "ddp"} | content))


def file_of(folder, *changes, method="ddp"):
    several = [{"workload": "digits_mlp", "method": method, "hyperparameters": DEFAULT | change} for change in changes]
    file = folder / "best.json"
    file.write_text(json.dumps({"configurations": several} if len(several) > 1 else several[0]))
    return str(file)


def test_configurations_of_a_file_each_once_and_not_the_default_again(tmp_path):
    file = file_of(tmp_path, {}, {"momentum": 0.5}, {"momentum": 0.5}, {"momentum": 0.25})
    assert warmstart.read(Plan.of(study()), "") == []
    warm = study(warm_start={"file": file, "best": 4})
    assert [h["momentum"] for h in warmstart.read(Plan.of(warm), "")] == [0.5, 0.25]
    cold = study(warm_start={"file": file, "best": 2}, default_first=False)
    assert [h["momentum"] for h in warmstart.read(Plan.of(cold), "")] == [0.9, 0.5]


def test_what_the_study_does_not_search_is_left_out_if_it_agrees(tmp_path):
    file = file_of(tmp_path, {"momentum": 0.5, "gradient_clipping": 1.0})
    with pytest.raises(ValueError, match=r"gradient_clipping must be 0\.0; got 1\.0"):
        warmstart.read(Plan.of(study(warm_start={"file": file})), "")
    agreed = study(warm_start={"file": file}, space={"gradient_clipping": 1.0})
    assert warmstart.read(Plan.of(agreed), "")[0] == DEFAULT | {"momentum": 0.5, "gradient_clipping": 1.0}
    file = file_of(tmp_path, {"momentum": 0.5, "gradient_clipping": 0.0})
    assert warmstart.read(Plan.of(study(warm_start={"file": file})), "")[0] == DEFAULT | {"momentum": 0.5}
    with pytest.raises(ValueError, match=r"is from another space: momentum must be 0.7; got 0.5"):
        warmstart.read(Plan.of(study(warm_start={"file": file}, space={"momentum": 0.7})), "")


@pytest.mark.parametrize(
    ("change", "method", "content", "message"),
    [
        (
            0.5,
            "ddp",
            {"space": {"momentum": {"low": 0.0, "high": 0.4}}},
            "space: momentum must be 0 to 0.4; got 0.5",
        ),
        (0.5, "local_sgd", {}, "must be of the method ddp; got local_sgd"),
        (0.96, "ddp", {"constraints": ["momentum < 0.95"]}, "must satisfy the constraint 'momentum < 0.95'"),
    ],
)
def test_files_from_elsewhere_are_refused(tmp_path, change, method, content, message):
    warm = study(warm_start={"file": file_of(tmp_path, {"momentum": change}, method=method)}, **content)
    with pytest.raises(ValueError, match=re.escape(message)):
        warmstart.read(Plan.of(warm), "")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(yamlfile.FileError, match=r"nothing\.json"):
        warmstart.read(Plan.of(study(warm_start={"file": str(tmp_path / "nothing.json")})), "")


def test_the_best_of_an_earlier_study(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    folder = journals.start_folder(tmp_path)
    journals.write_study(folder, [0.5, 0.9])
    Recorder(folder, lambda: Store(url), journals.study_row(folder.path)).catch_up()
    with pytest.raises(StoreError, match="does not hold a study named 'other'; it holds s"):
        warmstart.read(Plan.of(study(warm_start={"studies": ["other"]})), url)
    with pytest.raises(ValueError, match=r"the warm start from study s must be of the method .*; got daso"):
        warmstart.read(Plan.of(study(warm_start={"studies": ["s"]})), url)


def test_the_best_of_an_earlier_study_come_in_their_order(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    folder = journals.start_folder(tmp_path, method="ddp")
    lines = JournalWriter(folder.root_journal(0))
    for number, (objective, momentum) in enumerate([(0.5, 0.1), (0.9, 0.2), (0.7, 0.3)]):
        whole = {"hyperparameters": DEFAULT | {"momentum": momentum}, "method": "ddp"}
        journals.start_trial(lines, number, hyperparameters=whole["hyperparameters"], configuration=whole)
        journals.end_trial(lines, number, objective)
    Recorder(folder, lambda: Store(url), journals.study_row(folder.path, method="ddp")).catch_up()
    warm = warmstart.read(Plan.of(study(warm_start={"studies": ["s"], "best": 2})), url)
    assert [hyperparameters["momentum"] for hyperparameters in warm] == [0.2, 0.3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"constraints": ["momentum < 0.5"]}, "the default configuration must satisfy the constraint 'momentum < 0.5'"),
        ({"constraints": ["momentm < 0.5"]}, "refers to momentm, which the space does not have"),
        ({"constraints": ["momentum < -1"], "default_first": False}, "random configurations were infeasible"),
        (
            {"sampler": {"name": "grid"}, "constraints": ["momentum == 0.123"], "default_first": False},
            "random configurations were infeasible",
        ),
        ({"objectives": ["trainable_share"]}, "the objective trainable_share is reported only with `observe`, or by a"),
        (
            {"pruning": {}, "objectives": ["peak_memory"]},
            "pruning compares .* accuracy, .*; got peak_memory",
        ),
        (
            {"workload": "cifar10_nas", "objectives": ["train_loss"]},
            "cannot be an objective while the loss itself is searched",
        ),
        ({"objectives": ["f1"]}, "an objective must be one of .*; got 'f1'"),
        (
            {"sampler": {"name": "grid", "points": 2}, "trials": 1000},
            "trials must be at most 145, the number of distinct configurations of the grid and the default; got 1000",
        ),
        (
            {"sampler": {"name": "grid", "points": {"S": 2}}},
            "sampler.points must name parameters of the space, .*; got S",
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_trial(content, message):
    with pytest.raises(ValueError, match=message):
        checks.check(study(**content))


@pytest.mark.parametrize(
    ("points", "default_first", "most"),
    [(3, True, 6), (3, False, 6), (1, True, 3), (1, False, 2)],
    ids=["default on the grid", "no default", "default off the grid", "no default off the grid"],
)
def test_a_default_that_is_a_point_of_the_grid_counts_once(points, default_first, most):
    fixed = {"wire": "float32", "learning_rate": 0.1, "weight_decay": 0.0, "schedule": "cosine"}
    space = fixed | {"batch_size": {"choices": [32, 64]}, "momentum": {"low": 0.0, "high": 0.9}}
    content = {"space": space, "sampler": {"name": "grid", "points": points}, "default_first": default_first}
    checks.check(study(**content, trials=most))
    with pytest.raises(ValueError, match=f"trials must be at most {most}, "):
        checks.check(study(**content, trials=most + 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sampler": {"name": "optuna-tpe", "population": 3}}, "Extra inputs are not permitted"),
        ({"topology": {"islands": 2}, "migration": {"topology": [[0, 1]]}}, "must be a matrix of 2 x 2"),
        ({"sampler": [{}, {}]}, r"sampler must list one sampler per island \(1\); got 2"),
        (
            {"sampler": {"name": "optuna-cmaes"}, "objectives": ["accuracy", "seconds"]},
            "optuna-cmaes supports one objective only",
        ),
        (
            {
                "sampler": {"name": "mixed", "samplers": [{}, {"name": "optuna-gp"}]},
                "objectives": ["accuracy", "seconds"],
            },
            "optuna-gp supports one objective only",
        ),
        ({"pruning": {}, "objectives": ["accuracy", "seconds"]}, "pruning needs a single objective; got 2"),
        (
            {"pruning": {}, "objectives": ["seconds"]},
            "it must be one of accuracy, validation_error, validation_loss, train_loss; got seconds",
        ),
        ({"sampler": {"mating": "multiple", "parents": 40}}, r"parents must be at most the population \(10\); got 40"),
        (
            {"sampler": {"name": "mixed", "samplers": [{"population": 8}, {"name": "optuna-gp"}]}},
            "evolution uses the island's population: set population next to samplers, not inside them",
        ),
        (
            {"sampler": {"name": "mixed", "samplers": [{"mating": "multiple", "parents": 40}, {}]}},
            r"parents must be at most the population \(10\); got 40",
        ),
        ({"sampler": {"name": "propulate", "mutation_points": [3, 2]}}, "1 <= minimum <= maximum; got 3, 2"),
    ],
)
def test_samplers_and_topologies_that_cannot_be(content, message):
    with pytest.raises(ValueError, match=message):
        study(**content)


def test_what_did_not_act_on_the_earlier_trials_need_not_agree(tmp_path):
    file = file_of(tmp_path, {"optimizer": "adamw", "learning_rate": 0.01, "momentum": 0.37})
    warm = study(warm_start={"file": file}, space={"optimizer": "adamw"})
    assert warmstart.read(Plan.of(warm), "")[0]["learning_rate"] == 0.01
