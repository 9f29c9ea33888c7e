"""A search by four MPI workers whose trials take unequal times is replayed."""

import json

import pytest
import yaml
from commands import atoll

pytestmark = pytest.mark.long

OBJECTIVE = """
import time

def unequal(trial):
    for step in range(3):
        time.sleep(0.02 * trial["x"])
        trial.report((trial["x"] - 0.3) ** 2 + 1 / (1 + step), step)
    return (trial["x"] - 0.3) ** 2
"""


@pytest.mark.parametrize("sampler", ["evolution", "mixed", "optuna-tpe"])
def test_four_workers(tmp_path, sampler):
    (tmp_path / "own.py").write_text(OBJECTIVE)
    study = {
        "name": "s",
        "objective": "own.py:unequal",
        "space": {"x": {"low": 0.0, "high": 1.0}, "y": {"choices": ["a", "b"]}},
        "topology": {"islands": 2, "workers": 2},
        "migration": {"probability": 1.0},
        "pruning": {"rule": "asha", "fidelity": "steps", "factor": 2, "grace": 1},
        "sampler": {"name": sampler},
        "trials": 60,
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    atoll("search", "s.yaml", cwd=tmp_path, timeout=300)
    found = json.loads(atoll("search", "--replay", "s", "--json", cwd=tmp_path).stdout)
    assert (found["different"], found["untold"]) == (0, 0), found
    assert found["proposals"] >= 55
    assert found["prunings"] >= 60
