"""Searches whose ranks load their batches with worker processes, over MPI."""

import pytest
import yaml
from commands import atoll, atoll_json
from ranks import SUPPORT

pytestmark = [pytest.mark.mpi, pytest.mark.long]


def best(folder, name, **content):
    study = {
        "name": name,
        "workload": f"{SUPPORT / 'loading.py'}:Loading",
        "method": "local_sgd",
        "trials": 2,
        "epochs": 2,
        "topology": {"ranks": 2, "ranks_per_node": 1},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(study | content))
    atoll("search", f"{name}.yaml", "--outside", cwd=folder)
    return sorted(trial["objective"] for trial in atoll_json("leaderboard", name, cwd=folder))


@pytest.mark.parametrize(
    "content",
    [
        {"loader": {"workers": 2}},
        {"loader": {"workers": 1, "start": "spawn"}},
        {"loader": {"workers": 1, "start": "forkserver"}},
        {"loader": {"workers": 1}, "isolate": "process"},
    ],
    ids=["fork", "spawn", "forkserver", "in a process of the trial's own"],
)
def test_workers_give_the_numbers_of_none(tmp_path, content):
    assert best(tmp_path, "workers", **content) == best(tmp_path, "none")
