"""Stores that several tests share: one filled by real searches, and small unusual ones."""

import contextlib

import boards
import pytest
import yaml
from commands import FAILING, called
from served import dashboard

from atoll.dashboard.context import Context
from atoll.platform.benchmark import benchmark_file, runner
from atoll.platform.launch.in_process import run_in_process

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
    "tuning": {"trials": 3, "sampler": {"name": "evolution"}},
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
    url = f"sqlite:///{folder}/atoll.db"
    called("search", "daso.yaml", "--in-process", cwd=folder)
    called("search", "front.yaml", "--in-process", cwd=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIL", "raise")
        called("search", *BROKEN, "--name", "broken", "--in-process", cwd=folder)
    with contextlib.chdir(folder):
        ended = runner.run(
            benchmark_file.load("b.yaml"),
            url,
            resuming=False,
            say=lambda _line: None,
            follow=lambda _plan: contextlib.nullcontext(lambda _folder: None),
            run_ranks=run_in_process,
        )
    assert ended.state == "complete"
    return url


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
    "imported": lambda path: boards.imported(path, [0.5, 0.7]),
    "nasty name": lambda path: boards.study(path, [0.5, 0.7, None], name=boards.NASTY),
}


@pytest.fixture(params=STORES)
def context(request, tmp_path):
    """The context of pages over each of a few unusual stores."""
    return Context(STORES[request.param](tmp_path), allow_edit=True)
