"""`atoll benchmark NAME --show`: the definition in words and as JSON, with nothing started or written."""

import json

import pytest
from typer.testing import CliRunner

from atoll.platform import cli
from atoll.platform.commands.benchmark_view import WIDTH

FILE = """
name: b
description: A benchmark.
methods:
  - {method: ddp, name: as-it-is, untuned: true}
  - {method: easgd, space: {tau: {choices: [1, 10]}, learning_rate: {choices: [0.05, 0.01]}, lr_decay: 0.0}}
workloads: [{workload: digits_mlp, target: 0.9, epochs: 3}]
tuning: {trials: 4, repeats: 2, sampler: {name: grid}}
confirmation: {best: 1, seeds: 3}
ranks: 4
ranks_per_node: 2
space: {batch_size: 16, schedule: constant, weight_decay: 0.0}
"""


@pytest.fixture
def show(tmp_path, monkeypatch):
    """Returns what the command prints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.yaml").write_text(FILE)

    def shown(*options):
        result = CliRunner().invoke(cli.app, ["benchmark", "b.yaml", "--show", *options])
        assert result.exit_code == 0, result.output
        assert [path.name for path in tmp_path.iterdir()] == ["b.yaml"]
        return result.output

    return shown


def test_in_words(show):
    text = show()
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[:2] == ["b", "A benchmark."]
    assert "tuning       2 repeats of 4 trials, 1 island of 1 worker; sampler grid (points 5)" in lines
    assert "confirmation the best configuration of each tuning, 3 seeds each" in lines
    untuned, easgd = text.split("digits_mlp: as-it-is\n")[1].split("digits_mlp: easgd\n")
    assert "  trains       ddp on digits_mlp, 4 ranks (2 per node), 3 epochs, batch 64 (16 per rank)\n" in untuned
    assert "  target       accuracy of at least 0.9\n" in untuned
    assert "  method       wire float32, overlap true, bucket_mib 4\n" in untuned
    assert "optimizer sgd, learning_rate 0.1, momentum 0.9," in untuned
    assert "beta1" not in untuned  # Adam's
    assert "  searched     nothing: untuned\n" in untuned
    assert "  searched     3 hyperparameters\n" in easgd
    assert "               tau: {1, 10}; default 10\n" in easgd
    assert "alpha" not in easgd  # derived


def test_as_json(show):
    content = json.loads(show("--json"))
    assert content["name"] == "b"
    assert content["tuning"]["sampler"]["name"] == "grid"
    untuned, easgd = content["entries"]
    assert untuned["settings"]["optimizer"]["learning_rate"] == 0.1
    assert untuned["batch"] == easgd["batch"] == 64
    assert easgd["searched"][0] == {"name": "tau", "domain": "{1, 10}", "default": 10}


def test_a_part_of_it_with_other_seeds(show):
    content = json.loads(show("--json", "--only", "digits_mlp", "--seed", "7"))
    assert (content["seed"], len(content["entries"])) == (7, 2)
    result = CliRunner().invoke(cli.app, ["benchmark", "b.yaml", "--show", "--only", "digits_cnn"])
    assert result.exit_code == 2
    assert "got digits_cnn" in result.output


def test_it_does_not_go_with_resume(show, tmp_path):
    result = CliRunner().invoke(cli.app, ["benchmark", "b.yaml", "--show", "--resume"])
    assert result.exit_code == 2
    assert "--show starts nothing" in result.output


def test_a_definition_that_cannot_be_is_refused(show, tmp_path):
    (tmp_path / "b.yaml").write_text(FILE.replace("lr_decay", "wurst"))
    result = CliRunner().invoke(cli.app, ["benchmark", "b.yaml", "--show"])
    assert isinstance(result.exception, ValueError)
    assert "digits_mlp.easgd" in str(result.exception)
    assert "wurst" in str(result.exception)
