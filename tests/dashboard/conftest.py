"""A store that real searches of several methods have filled: what the browser tests look at."""

import pytest
import yaml
from commands import FAILING, atoll

DASO = ("--method", "daso", "--workload", "digits_mlp", "--trials", "14", "--islands", "2", "--ranks", "2")
FRONT = {
    "name": "front",
    "workload": "digits_mlp",
    "method": "easgd",
    "trials": 8,
    "epochs": 3,
    "topology": {"islands": 1, "ranks": 2, "device": "cpu"},
    "objectives": [
        {"name": "validation_error", "direction": "minimize"},
        {"name": "bytes_sent", "direction": "minimize"},
    ],
}
BROKEN = ("--method", "ddp", "--workload", FAILING, "--trials", "6", "--ranks", "2", "--epochs", "2", "--outside")
BENCHMARK = {
    "name": "b",
    "methods": ["ddp", "local_sgd"],
    "workloads": [{"workload": "digits_mlp", "target": 0.5, "epochs": 2}],
    "tuning": {"trials": 3, "sampler": {"name": "propulate"}},
    "confirmation": {"best": 1, "seeds": 2},
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """The store's URL: studies of DASO, of EASGD with two objectives, of trials that fail, and a small benchmark."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "front.yaml").write_text(yaml.safe_dump(FRONT))
    (folder / "b.yaml").write_text(yaml.safe_dump(BENCHMARK))
    atoll("search", *DASO, "--epochs", "3", "--name", "daso", cwd=folder)
    atoll("search", "front.yaml", cwd=folder)
    atoll("search", *BROKEN, "--name", "broken", cwd=folder, env={"FAIL": "raise"})
    atoll("benchmark", "b.yaml", cwd=folder, timeout=240)
    return f"sqlite:///{folder}/atoll.db"
