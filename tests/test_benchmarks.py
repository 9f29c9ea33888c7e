"""Scripts that other machines run must not fail there: their --quick forms, on this one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

pytestmark = [pytest.mark.soak, pytest.mark.mpi]  # the scripts whole, minutes of them


def figures(name, *flags, timeout=600):
    command = [sys.executable, str(BENCHMARKS / name), "--quick", "--json", "-", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout)
    return json.loads(done.stdout)


def test_the_script_for_gpus_runs_without_one():
    found = figures("gpu.py", "--device", "cpu")["ranks"]
    assert list(found) == ["1", "2"]
    for of_ranks in found.values():
        assert of_ranks["communicator"] == "host"
        assert of_ranks["checkpoint"]["largest_difference_after_continuing"] == 0
        assert list(of_ranks["steps"]) == ["float32", "bfloat16"]
    alone, pair = (found[number]["steps"]["float32"] for number in found)
    refused = {name: row for name, row in alone.items() if isinstance(row, str)}
    assert sorted(refused) == ["ab", "easgd_tree"]
    assert "at least 2 ranks" in refused["ab"]
    assert sorted(name for name, row in pair.items() if isinstance(row, str)) == ["asgd", "msgd", "mvasgd", "sgd"]
    assert all(row["milliseconds"] > 0 for row in pair.values() if not isinstance(row, str))
    assert "precision must be float32" in found["2"]["steps"]["bfloat16"]["mac"]


def test_the_rows_of_a_step_and_the_cost_of_a_checkpoint():
    rows = figures("step.py", "--settings")["models"]
    for model in ("digits_cnn", "cifar10_cnn7"):
        assert len(rows[model]) == 6  # all but torch.compile
        assert all(row["median_ratio_of_rounds"] > 0 for row in rows[model].values())
    cost = figures("checkpoint.py")["models"]["cifar10_cnn7"]
    assert cost["epochs"] == 2
    assert 0 < cost["recorded_share"] < 0.5
