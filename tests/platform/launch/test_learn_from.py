"""A search whose sampler learns from a table: kept for a resume, told to all islands, and no part of the budget."""

import json

import pytest
import yaml
from commands import STABLE, called, called_json, stopped_when

LONG = {"topology": {"islands": 2}, "trials": 40}
SPACE = {**STABLE, "batch_size": 32, "weight_decay": 0.0, "schedule": "constant", "wire": "float32"}


def write(folder, rows, **content):
    lines = ["learning_rate,momentum,accuracy", *(",".join(map(str, row)) for row in rows)]
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    study = {"name": "s", "workload": "digits_mlp", "method": "ddp", "epochs": 1, "trials": 8, "space": SPACE}
    study |= {"sampler": {"name": "evolution", "population": 4}, "learn_from": "results.csv"}
    (folder / "s.yaml").write_text(yaml.safe_dump(study | content))


@pytest.mark.slow
def test_a_stopped_search_has_learned_when_it_is_resumed_without_the_table(tmp_path, caplog):
    write(
        tmp_path, [(0.05 + n / 1000, 0.8, 0.9) for n in range(6)] + [(7, 0.8, 0.9)], topology={"islands": 2}, trials=40
    )
    with stopped_when(tmp_path / "atoll-studies/s", "trial_ended", 3):
        called("search", "s.yaml", "--in-process", cwd=tmp_path, code=75)
    said = "learn_from results.csv: learned from 6 of 7 rows; 1 left out: 1 learning_rate outside 0.001..0.1"
    assert said in caplog.text
    (tmp_path / "results.csv").unlink()
    called("search", "s.yaml", "--in-process", "--resume", cwd=tmp_path)
    trials = called_json("leaderboard", "s", cwd=tmp_path)
    assert len(trials) == 40
    proposals = {trial["number"]: trial["proposal"] for trial in trials}
    operators = {number: proposal["operator"].split("+")[0] for number, proposal in proposals.items()}
    assert operators.pop(0) == "default"
    assert set(operators.values()) == {"differential", "crossover"}  # no random ones first
    parents = {parent for proposal in proposals.values() for parent in proposal["parents"]}
    assert parents & {-1, -2, -3, -4, -5, -6}
    number = next(n for n, proposal in proposals.items() if any(parent < 0 for parent in proposal["parents"]))
    assert "learned result " in called("trial", "s", str(number), cwd=tmp_path).stdout
    definition = json.loads((tmp_path / "atoll-studies/s/study.json").read_text())
    assert len(definition["learned"]) == 6


def test_a_table_without_a_row_that_fits_is_refused_before_anything_starts(tmp_path):
    write(tmp_path, [(7, 0.8, 0.9)])
    done = called("search", "s.yaml", "--in-process", cwd=tmp_path, code=2)
    assert "learned from 0 of 1 row; 1 left out: 1 learning_rate outside 0.001..0.1: there is nothing" in done.stderr
    assert not (tmp_path / "atoll-studies/s/study.json").exists()
    write(tmp_path, [(0.1, 0.8, 0.9)], sampler={"name": "random"})
    done = called("search", "s.yaml", "--in-process", cwd=tmp_path, code=2)
    assert "learn_from needs a sampler that learns; random does not" in done.stderr


@pytest.mark.slow
def test_a_study_of_another_method_suggests_configurations_and_is_not_counted(tmp_path, caplog):
    table = SPACE | {"learning_rate": {"low": 0.001, "high": 0.5, "log": True}}
    (tmp_path / "first.yaml").write_text(
        yaml.safe_dump({"name": "first", "workload": "digits_mlp", "method": "ddp", "epochs": 1, "trials": 8}
                       | {"sampler": {"name": "random"}, "space": table})
    )  # fmt: skip
    called("search", "first.yaml", "--in-process", cwd=tmp_path)
    content = {"method": "local_sgd", "learn_from": {"study": "first"}, "sampler": {"name": "random"}, "trials": 12}
    shared = {name: value for name, value in SPACE.items() if name != "wire"}
    write(tmp_path, [], topology={"islands": 2}, space=shared, **content)
    with stopped_when(tmp_path / "atoll-studies/s", "trial_ended", 3):
        called("search", "s.yaml", "--in-process", cwd=tmp_path, code=75)
    assert (
        "learn_from study first: related, as it trained ddp on digits_mlp, and this study local_sgd on" in caplog.text
    )
    assert "8 of 8 rows, over learning_rate, momentum; it suggests configurations" in caplog.text
    called("search", "s.yaml", "--in-process", "--resume", cwd=tmp_path)
    trials = called_json("leaderboard", "s", cwd=tmp_path)
    assert {trial["number"] for trial in trials} == set(range(12))
    operators = {trial["number"]: trial["proposal"]["operator"] for trial in trials}
    number = next(n for n, operator in operators.items() if operator == "related")
    assert "proposed by: related (study first " in called("trial", "s", str(number), cwd=tmp_path).stdout
    definition = json.loads((tmp_path / "atoll-studies/s/study.json").read_text())
    assert (definition["learned"], len(definition["related"])) == ([], 1)
