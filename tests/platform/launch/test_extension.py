"""Studies whose length is increased on a resume: finished trials continue."""

import pytest
import yaml
from commands import COUNTING, called, journal_lines, meanwhile

from atoll.storage.store import Store

pytestmark = pytest.mark.slow


def write(folder, name, **content):
    study = {
        "name": name,
        "workload": "digits_mlp",
        "method": "ddp",
        "epochs": 2,
        "trials": 3,
        "sampler": {"name": "random"},
        "space": {"batch_size": 128, "schedule": "constant"},
        "topology": {"threads": 1},
        "checkpoint": {"every": "1 epochs", "keep": "last"},
        "check": False,
    }
    study |= content
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({k: v for k, v in study.items() if v is not None}))


def search(folder, name, *arguments, code=0):
    return called("search", f"{name}.yaml", "--outside", "--in-process", *arguments, cwd=folder, code=code)


def read(folder, name):
    """By number and attempt: state, objective, curve, and notes."""
    store = Store(f"sqlite:///{folder}/atoll.db")
    return {
        (t.number, t.attempt): (
            t.state,
            t.objective,
            [(r.step, r.epoch, r.metric, r.train_loss, r.wire_bytes) for r in store.progress([t.id])],
            t.notes or [],
        )
        for t in store.trials(store.study(name))
    }


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"epochs": 2}, {"epochs": 4}),
        pytest.param(
            {"epochs": None, "steps": 15, "report_every": "5 steps"},
            {"epochs": None, "steps": 32, "report_every": "5 steps"},
            marks=pytest.mark.long,  # of a single training it is tested in test_checkpoints.py of the trial
        ),
    ],
    ids=["epochs", "steps"],
)
def test_finished_trials_continue_the_best_first_as_if_they_had_been_longer_from_the_start(
    tmp_path, caplog, short, long
):
    write(tmp_path, "grown", **short)
    search(tmp_path, "grown")
    before = read(tmp_path, "grown")
    assert "grown is complete" in search(tmp_path, "grown", "--resume", code=1).stderr
    for name in ("grown", "whole"):
        write(tmp_path, name, **long, trials=4)
    search(tmp_path, "whole")
    search(tmp_path, "grown", "--resume")
    unit = "epochs" if long["epochs"] else "steps"
    assert f"3 finished trials continue to {long[unit]} {unit}" in caplog.text
    grown, whole = read(tmp_path, "grown"), read(tmp_path, "whole")
    for number in range(3):
        assert grown[number, 0][:3] == ("continued", *before[number, 0][1:3])
        assert grown[number, 1][:3] == whole[number, 0][:3]
        assert any(note.startswith("made longer, from") for note in grown[number, 1][3])
    assert grown[3, 0][:3] == whole[3, 0][:3]
    folder = tmp_path / "atoll-studies" / "grown"
    started = [line["number"] for line in sorted(journal_lines(folder, "trial_started"), key=lambda line: line["time"])]
    best_first = sorted(range(3), key=lambda number: (-before[number, 0][1], number))
    assert started == [0, 1, 2, *best_first, 3]
    assert "grown is complete" in search(tmp_path, "grown", "--resume", code=1).stderr


def test_an_extension_that_is_stopped_goes_on_and_ends_when_all_are_longer(tmp_path, monkeypatch):
    (tmp_path / "counts").mkdir()
    monkeypatch.setenv("COUNTING", str(tmp_path / "counts"))
    for name, epochs in (("cut", 2), ("whole", 6)):
        write(tmp_path, name, epochs=epochs, workload=COUNTING)
        search(tmp_path, name)
    write(tmp_path, "cut", epochs=6, workload=COUNTING)
    folder = tmp_path / "atoll-studies" / "cut"
    monkeypatch.setenv("SECONDS_PER_STEP", "0.05")  # time for a stop
    with meanwhile(
        lambda: any(line["attempt"] and line["epoch"] > 2 for line in journal_lines(folder, "progress")),
        (folder / "stop").touch,
    ):
        search(tmp_path, "cut", "--resume", code=75)
    monkeypatch.delenv("SECONDS_PER_STEP")
    assert [line["state"] for line in journal_lines(folder, "study_ended")] == ["complete", "stopped"]
    search(tmp_path, "cut", "--resume")
    cut, whole = read(tmp_path, "cut"), read(tmp_path, "whole")
    results = {number: row[:3] for (number, _), row in cut.items() if row[0] == "complete"}
    assert results == {number: row[:3] for (number, _), row in whole.items()}


def test_without_checkpoints_they_stay_and_the_start_tells(tmp_path, caplog):
    write(tmp_path, "s", checkpoint={"every": "1 epochs"})
    search(tmp_path, "s")
    write(tmp_path, "s", checkpoint={"every": "1 epochs"}, epochs=4, trials=4)
    search(tmp_path, "s", "--resume")
    assert "3 finished trials are shorter than 4 epochs and stay as they are" in caplog.text
    assert "these trials have 2 different lengths" in called("leaderboard", "s", cwd=tmp_path).stdout
    assert [(key, row[0], len(row[2])) for key, row in sorted(read(tmp_path, "s").items())] == [
        *(((number, 0), "complete", 2) for number in range(3)),
        ((3, 0), "complete", 4),
    ]


def test_an_increase_to_the_workloads_own_length_continues_them_too(tmp_path):
    write(tmp_path, "s", epochs=1, trials=1)
    search(tmp_path, "s")
    write(tmp_path, "s", epochs=None, trials=1)  # 20
    search(tmp_path, "s", "--resume")
    assert [(key, row[0], len(row[2])) for key, row in sorted(read(tmp_path, "s").items())] == [
        ((0, 0), "continued", 1),
        ((0, 1), "complete", 20),
    ]
