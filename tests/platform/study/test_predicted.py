"""Objectives that are predictions: how a study names them, and what is refused before anything starts."""

import re

import pytest
import torch
import yaml

from atoll.platform.launch import checks
from atoll.platform.study import objectives
from atoll.platform.study.objectives import Objective
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage import yamlfile
from atoll.storage.yamlfile import FileError

TO_TARGET = {"projected_seconds_to_target": {"cluster": "a100_hdr200", "nodes": 16}}
SECONDS = {"projected_seconds": {"cluster": "a100_hdr200", "nodes": 1}}
UPWARD = {"name": "projected_seconds", "direction": "maximize", "projection": {"cluster": "laptop", "nodes": 1}}
STUDY = {
    "name": "s",
    "workload": "digits_mlp",
    "method": "local_sgd",
    "trials": 4,
    "topology": {"ranks": 2},
    "objectives": ["accuracy", TO_TARGET],
}
MINE = {
    "name": "mine",
    "ranks_per_node": 3,
    "node": {"microseconds": 1, "gigabytes_per_second": 1},
    "network": {"microseconds": 1, "gigabytes_per_second": 1},
    "batch": {"system": "slurm"},
}


def study(**content):
    return Study.model_validate(STUDY | content)


def test_its_name_says_that_and_for_what_it_is_predicted():
    further = {"cluster": "laptop", "nodes": 1, "scaling": "strong", "speed": 2}
    names = [TO_TARGET, {"projected_seconds": further}, {"projected_seconds": {"cluster": "laptop", "nodes": 2}}]
    plan = Plan.of(study(objectives=[*names, {"projected_seconds_per_step": {"cluster": "laptop", "nodes": 2}}]))
    assert [(one.name, one.direction) for one in plan.objectives] == [
        ("projected_seconds_to_target (predicted: a100_hdr200, 16 nodes)", "minimize"),
        ("projected_seconds (predicted: laptop, 1 node, strong scaling, speed 2)", "minimize"),
        ("projected_seconds (predicted: laptop, 2 nodes)", "minimize"),
        ("projected_seconds_per_step (predicted: laptop, 2 nodes)", "minimize"),
    ]
    assert plan.objectives[1].as_row() == {"name": plan.objectives[1].name, "direction": "minimize"}
    assert [note.partition(" is predicted, not measured")[0] for note in plan.notes()] == [
        one.name for one in plan.objectives
    ]
    assert "steps are those of 2 ranks" in plan.notes()[1]
    assert plan.notes()[1].endswith("computes 2 times as fast as here")
    assert "the global batch grows" in plan.notes()[0]
    assert Plan.of(study(objectives=None)).notes() == []


def test_a_cluster_file_lies_next_to_the_study_and_becomes_part_of_it(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MINE))
    content = STUDY | {"objectives": [{"projected_seconds": {"cluster": "mine.yaml", "nodes": 2}}]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    found = yamlfile.load(tmp_path / "s.yaml", Study, inside=True)
    (tmp_path / "mine.yaml").unlink()
    definition = found.model_dump(mode="json")
    again = Study.model_validate(definition)  # as ranks of other hosts do
    assert again == found
    projection = Plan.of(again).objectives[0].projection
    assert (projection.where.name, projection.where.ranks_per_node) == ("mine", 3)
    assert "batch" not in definition["objectives"][0]["projection"]["cluster"]  # which may hold accounts
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MINE | {"ranks_per_node": 4}))
    changed = yamlfile.load(tmp_path / "s.yaml", Study)
    assert changed != found  # so that a study is not continued with another cluster


def test_a_cluster_file_outside_of_the_studys_folder_needs_trust(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MINE))
    folder = tmp_path / "inside"
    folder.mkdir()
    content = STUDY | {"objectives": [{"projected_seconds": {"cluster": "../mine.yaml", "nodes": 2}}]}
    (folder / "s.yaml").write_text(yaml.safe_dump(content))
    assert yamlfile.load(folder / "s.yaml", Study).objectives
    with pytest.raises(FileError, match=r"cluster file must be in the study file's folder .*'../mine.yaml', which is"):
        yamlfile.load(folder / "s.yaml", Study, inside=True)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"projected_seconds": {"cluster": "nowhere", "nodes": 2}}, "cluster .*nowhere"),
        ({"projected_seconds": {"cluster": "missing.yaml", "nodes": 2}}, "missing.yaml"),
        ({"projected_seconds": {"cluster": "laptop", "nodes": 0}}, "greater than or equal to 1"),
        ({"projected_seconds": {"cluster": "laptop", "nodes": 1, "scaling": "both"}}, "'weak' or 'strong'"),
        ({"projected_seconds": {"cluster": "laptop", "nodes": 1, "speed": 0}}, "greater than 0"),
        ({"projected_seconds": {"cluster": "laptop"}}, "nodes"),
        ({"projected_seconds": {"cluster": "laptop", "nodes": 1, "node": 1}}, "Extra inputs are not permitted"),
    ],
)
def test_settings_of_a_prediction_that_are_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        study(objectives=[objective])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"objectives": ["projected_seconds"]}, "projected_seconds needs a cluster and a number of nodes, such as {"),
        ({"objectives": [{"accuracy": {"cluster": "laptop", "nodes": 1}}]}, "only projected_seconds, .* are predicted"),
        ({"objectives": [TO_TARGET, TO_TARGET]}, r"objectives must differ; got projected_seconds_to_target \(pred"),
        (
            {"objectives": [UPWARD]},
            "the direction of projected_seconds must be minimize; got maximize",
        ),
        ({"workload": "speech_transformer"}, "projected_seconds_to_target needs a target, but the workload has none"),
        ({"topology": {"ranks": 1}}, "one rank has nothing to communicate: set topology.ranks to at least 2"),
        ({"method": "mac"}, "nodes of projected_seconds_to_target must be 1: Mac does not grow, .* has 4 .*; got 16"),
        (
            {"method": "daso", "topology": {"ranks": 6, "ranks_per_node": 3}},
            "Daso, whose ranks of a node take turns, .* multiple of topology.ranks_per_node, 3, .*a100_hdr200 has 4",
        ),
        (
            {"method": "downpour", "objectives": [{"projected_seconds": {"cluster": "a100_hdr200", "nodes": 500}}]},
            "follows all ranks of an asynchronous method, at most 1024; a100_hdr200 with 500 nodes has 2000",
        ),
        (
            {
                "space": {"batch_size": 8},
                "objectives": [{"projected_seconds": {"cluster": "a100_hdr200", "nodes": 16, "scaling": "strong"}}],
            },
            "strong scaling leaves ranks without samples: the global batch is 16, 16 nodes with 64 ranks",
        ),
        ({"pruning": {}, "objectives": [TO_TARGET]}, "pruning compares .*; got projected"),
        ({"method": "sgp"}, "cannot be predicted of Sgp: its ranks wait for messages from one another"),
    ],
    ids=["no cluster", "not predicted", "twice", "direction", "no target", "one rank", "does not grow", "turns",
         "too many ranks", "no samples", "pruning", "messages"],
)  # fmt: skip
def test_what_cannot_be_predicted_is_refused_before_the_start(content, message):
    with pytest.raises(ValueError, match=message):
        checks.check(study(**content))


@pytest.mark.parametrize(
    "content",
    [
        {"method": "mac", "objectives": [SECONDS]},
        {"method": "msgd", "topology": {"ranks": 1}, "objectives": [SECONDS]},
        {"method": "daso", "topology": {"ranks": 4, "ranks_per_node": 2}},
        {
            "method": "easgd",
            "space": {"form": "jacobi"},
            "objectives": [{"projected_seconds": {"cluster": "a100_hdr200", "nodes": 500}}],
        },
    ],
    ids=["stays on its ranks", "one rank", "turns", "synchronous"],
)
def test_what_can_be_predicted(content):
    assert checks.check(study(**content)).predicts


def test_only_batches_that_leave_no_rank_without_samples_are_proposed():
    strong = {"projected_seconds": {"cluster": "a100_hdr200", "nodes": 4, "scaling": "strong"}}
    plan = Plan.of(study(space={"batch_size": {"choices": [4, 8, 16]}}, objectives=[strong]))
    reasons = {size: plan.infeasibility(plan.space.default() | {"batch_size": size}) for size in (4, 8, 16)}
    assert re.match(r"strong scaling leaves .* global batch is 8, 4 nodes with 16 ranks", reasons[4])
    assert reasons[8] is reasons[16] is None


def test_a_rank_that_only_serves_has_no_samples_there_either():
    strong = {"projected_seconds": {"cluster": "a100_hdr200", "nodes": 2, "scaling": "strong"}}
    given = {"method": "easgd", "topology": {"ranks": 3}, "objectives": [strong]}
    plan = Plan.of(study(space={"server": "dedicated", "batch_size": {"choices": [3, 4]}}, **given))
    reasons = {size: plan.infeasibility(plan.space.default() | {"batch_size": size}) for size in (3, 4)}
    assert re.match(r"strong scaling leaves .* global batch is 6, 2 nodes with 7 ranks", reasons[3])
    assert reasons[4] is None
    held = plan.space.default() | {"global_batch_size": 6}
    del held["batch_size"]
    assert re.match(r"strong scaling leaves .* global batch is 6, 2 nodes with 7 ranks", plan.infeasibility(held))
    alone = {"projected_seconds": {"cluster": MINE | {"ranks_per_node": 1}, "nodes": 1}}
    plan = Plan.of(study(space={"server": "dedicated"}, **given | {"objectives": [alone]}))
    assert plan.infeasibility(plan.space.default()) == "mine with 1 node has a server and no other rank"


def test_steps_that_nccl_sums_are_not_recorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"through NCCL, which does not record them: set topology.device to cpu"):
        checks.check(study())
    checks.check(study(topology={"ranks": 2, "device": "cpu"}))
    checks.check(study(topology={"ranks": 3}))  # ranks that share a GPU do not use NCCL


def test_a_function_records_no_steps():
    given = [Objective.model_validate(objectives.named(SECONDS))]
    with pytest.raises(ValueError, match="projected_seconds is predicted from the steps of a training, and a function"):
        objectives.of_function(given, None)
