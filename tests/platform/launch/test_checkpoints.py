"""Searches whose trials are interrupted and continue from their checkpoints."""

import contextlib
import os
import random
import signal

import pytest
import yaml
from commands import atoll, called, end, journal_lines, meanwhile, start, wait_until

from atoll.storage.store import Store

EPOCHS = 30


def write(folder, name, **content):
    study = {
        "name": name,
        "workload": "digits_mlp",
        "method": "local_sgd",
        "epochs": EPOCHS,
        "trials": 2,
        "sampler": {"name": "random"},
        "topology": {"ranks": 2, "ranks_per_node": 1},
        "checkpoint": {"every": "1 epochs"},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(study | content))


def results(folder, name):
    """Of each trial that ended: its objective and the steps of its curve."""
    store = Store(f"sqlite:///{folder}/atoll.db")
    study = store.study(name)
    ended = [trial for trial in store.trials(study) if trial.state in ("complete", "pruned")]
    steps = {t.id: [r.step for r in store.progress([t.id])] for t in ended}
    return {t.number: (t.state, t.objective, steps[t.id]) for t in ended}


def reached(folder):
    """The last reported step of each trial."""
    lines = journal_lines(folder, "progress") if folder.exists() else []
    return {number: max((line["step"] for line in lines if line["number"] == number), default=0) for number in (0, 1)}


def continued(folder):
    return [line for line in journal_lines(folder, "trial_ended") if "continued from" in " ".join(line["notes"])]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [{}, pytest.param({"pruning": {"rule": "asha", "grace": 20, "factor": 2}}, marks=pytest.mark.long)],
    ids=["whole", "pruned"],
)
def test_a_stopped_trial_continues_and_its_curve_is_one_line(tmp_path, more):
    for name in ("whole", "cut"):
        write(tmp_path, name, **more)
    called("search", "whole.yaml", "--in-process", cwd=tmp_path)
    folder = tmp_path / "atoll-studies" / "cut"
    stop = folder / "stop"
    for number in (5, EPOCHS + 15):  # in the first trial, and in the second, as repeated reports are lines, too
        resume = ["--resume"] if folder.exists() else []
        with meanwhile(lambda n=number: len(journal_lines(folder, "progress")) >= n, stop.touch):
            called("search", "cut.yaml", "--in-process", *resume, cwd=tmp_path, code=75)
    called("search", "cut.yaml", "--in-process", "--resume", cwd=tmp_path)
    assert results(tmp_path, "cut") == results(tmp_path, "whole")
    assert len(continued(folder)) == 2
    assert not (folder / "trials").exists() or not list((folder / "trials").rglob("*.pt"))


def search_with_kills(tmp_path, num_kills, numbers, num_steps):
    """Search cut.yaml, and kill one of its four ranks each time that all running trials are `num_steps` further."""
    folder, rng = tmp_path / "atoll-studies" / "cut", random.Random(0)
    search = start("search", "cut.yaml", cwd=tmp_path)
    for kill in range(num_kills):
        before = reached(folder)
        wait_until(lambda b=before: all(reached(folder)[n] > b[n] + num_steps for n in numbers), 120)
        assert len(journal_lines(folder, "restarted")) == kill
        with contextlib.suppress(ProcessLookupError):
            placed = sorted(journal_lines(folder, "host"), key=lambda line: line["time"])[-4:]
            os.kill(rng.choice(placed)["process"], signal.SIGKILL)
        wait_until(lambda k=kill: len(journal_lines(folder, "restarted")) == k + 1, 120)
    assert end(search).returncode == 0
    assert results(tmp_path, "cut") == results(tmp_path, "whole")
    assert continued(folder)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("isolate", "num_kills", "epochs"),
    [
        pytest.param("restore", 2, 90, marks=pytest.mark.long),  # from the first checkpoint, and from a continued one
        pytest.param("process", 1, 60, marks=pytest.mark.long),
        pytest.param("restore", 3, 150, marks=pytest.mark.soak),
        pytest.param("process", 3, 150, marks=pytest.mark.soak),
    ],
)
def test_killed_ranks_continue_bit_for_bit(tmp_path, isolate, num_kills, epochs):
    for name in ("whole", "cut"):
        more = {"isolate": isolate} if name == "cut" else {}
        write(tmp_path, name, **more, epochs=epochs, topology={"workers": 2, "ranks": 2, "ranks_per_node": 1})
    called("search", "whole.yaml", "--in-process", cwd=tmp_path)
    search_with_kills(tmp_path, num_kills, numbers=(0, 1), num_steps=100)


@pytest.mark.mpi
@pytest.mark.soak
def test_a_language_model_on_four_ranks_is_killed_three_times(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/text.txt").write_text("".join(map(str, random.Random(0).choices("abcdefgh \n", k=60_000))))
    network = {"num_layers": 1, "num_heads": 2, "hidden_size": 32, "context_length": 32, "dropout": 0.1}
    for name in ("whole", "cut"):
        study = {"workload": "text_gpt", "method": "diloco", "data": "data", "epochs": None, "steps": 250, "trials": 1}
        study |= {"report_every": "25 steps", "checkpoint": {"every": "20 steps"}}
        topology = {"ranks": 4, "threads": 1}
        write(tmp_path, name, **study, topology=topology, space=network | {"batch_size": 8})
    atoll("search", "whole.yaml", cwd=tmp_path)  # threads would share the random states of dropout
    search_with_kills(tmp_path, 3, numbers=(0,), num_steps=40)
    assert [steps for _, _, steps in results(tmp_path, "cut").values()] == [list(range(25, 251, 25))]
