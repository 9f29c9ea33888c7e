"""Stores that several tests share: one filled by real searches, and small unusual ones."""

import boards
import pytest
import yaml
from commands import FAILING, atoll
from served import dashboard

from atoll.dashboard.context import Context

DASO = {
    "name": "daso",
    "workload": "digits_mlp",
    "method": "daso",
    "trials": 14,
    "epochs": 3,
    "topology": {"islands": 2, "ranks": 2, "device": "cpu"},
    "migration": {"probability": 1.0},
}
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
    for name, content in (("daso", DASO), ("front", FRONT), ("b", BENCHMARK)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    atoll("search", "daso.yaml", cwd=folder)
    atoll("search", "front.yaml", cwd=folder)
    atoll("search", *BROKEN, "--name", "broken", cwd=folder, env={"FAIL": "raise"})
    atoll("benchmark", "b.yaml", cwd=folder, timeout=240)
    return f"sqlite:///{folder}/atoll.db"


@pytest.fixture(scope="session")
def url(searched):
    """The address of a dashboard over that store."""
    with dashboard(searched) as address:
        yield address


STORES = {
    "no trials": lambda path: boards.record(path)[0],
    "one trial": lambda path: boards.study(path, [0.5]),
    "all failed": lambda path: boards.study(path, [None, None, None]),
    "two alike": lambda path: boards.study(path, [0.5, 0.5]),
    "nasty name": lambda path: boards.study(path, [0.5, 0.7, None], name=boards.NASTY),
}


@pytest.fixture(params=STORES)
def context(request, tmp_path):
    """The context of pages over each of a few unusual stores."""
    return Context(STORES[request.param](tmp_path), allow_edit=True)
