"""Searches whose ranks load their batches with worker processes, over MPI."""

import pytest
import yaml
from commands import atoll, called_json
from kept import kept
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
    board = called_json("leaderboard", name, cwd=folder)
    return [trial["objective"] for trial in sorted(board, key=lambda trial: trial["number"])]


@pytest.mark.parametrize(
    "content",
    [
        {"loader": {"workers": 2}},
        {"loader": {"workers": 1, "start": "spawn"}, "trials": 1},  # each imports torch
        {"loader": {"workers": 1, "start": "forkserver"}, "trials": 1},
        {"loader": {"workers": 1}, "isolate": "process"},
    ],
    ids=["fork", "spawn", "forkserver", "in a process of the trial's own"],
)
def test_workers_give_the_numbers_of_none(tmp_path, tmp_path_factory, content):
    with kept(tmp_path_factory, "without-loading-workers") as found:
        if "none" not in found:
            found["none"] = best(tmp_path, "none")
    assert best(tmp_path, "workers", **content) == found["none"][: content.get("trials")]
