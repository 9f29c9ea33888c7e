"""Population-based training: members that lag go on from the state of better ones, and schedules train again."""

import os
import signal
from collections import Counter

import pytest
import yaml
from commands import COUNTING, called, journal_lines, meanwhile, start, wait_until
from paused import curves, jobs, search, trials_of

from atoll.communication.threads import run_virtual_ranks
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.trial import Trial
from atoll.storage.store import Store

pytestmark = pytest.mark.slow
TRIALS, EPOCHS, QUARTER = 8, 5, 2
QUICK = {"name": "pbt", "every": "1 epochs", "quantile": 0.4}
MUTABLE = {"learning_rate", "momentum", "weight_decay"}


def write(folder, name, **content):
    study = {
        "name": name,
        "workload": "digits_mlp",
        "method": "ddp",
        "epochs": EPOCHS,
        "trials": TRIALS,
        "sampler": {"name": "pbt", "every": "1 epochs"},
        "space": {"batch_size": 128, "schedule": "constant"},
        "topology": {"threads": 1},
        "checkpoint": {"every": "1 epochs"},
        "check": False,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(study | content))


def trained_again(configuration, folder):
    """The reports of a training from the start, which pauses where hyperparameters change."""
    whole = configuration.model_copy(update={"checkpoint": configuration.checkpoint})

    def attempt(c):
        trial = Trial(whole, c, "cpu", folder=folder)
        reports = [(r.epoch, r.metric, r.train_loss) for r in trial.train()]
        return reports, trial.has_paused

    while True:
        ((reports, has_paused),) = run_virtual_ranks(attempt, (0,))
        if not has_paused:
            return reports


def test_decisions_are_those_of_the_rule_and_schedules_train_again_bit_for_bit(tmp_path):
    """One worker: each decision is made again from the curves, and each result is trained again from the start."""
    write(tmp_path, "p")
    search(tmp_path, "p")
    store, folder = Store(f"sqlite:///{tmp_path}/atoll.db"), tmp_path / "atoll-studies" / "p"
    rows = {(row.number, row.attempt): row for row in trials_of(tmp_path, "p")}
    curve = {key: [(r.epoch, r.metric, r.train_loss) for r in store.progress([row.id])] for key, row in rows.items()}
    epochs, values, newest, num_exploits = {}, {}, {}, 0
    for line in sorted(journal_lines(folder, "trial_started"), key=lambda line: line["time"]):
        number, attempt = key = line["number"], line["attempt"]
        steps = {name: {int(s): v for s, v in of.items()} for name, of in line["configuration"]["schedule"].items()}
        start = epochs.get(number, 0)  # the epoch from which it goes on
        if attempt == 0:
            assert number == len(epochs)  # all members start before one goes on
            assert steps == {name: {0: line["hyperparameters"][name]} for name in MUTABLE}
        else:
            assert (epochs[number], number) == min((e, n) for n, e in epochs.items() if e < EPOCHS)
            ranked = sorted((-value, n) for n, value in values[epochs[number]].items())
            count = len(ranked) // 4
            lags = number in [n for _, n in ranked[len(ranked) - count :]]
            before = rows[newest[number]]
            if (hyperparameters := line["hyperparameters"]) != before.hyperparameters:
                assert lags
                num_exploits += 1
                (donor,) = line["proposal"]["parents"]
                assert donor in [n for _, n in ranked[:count]]
                of_donor, start = rows[newest[donor]], epochs[donor]
                step = 9 * epochs[donor]  # of 128 of 1,078 samples
                assert line["seed"] == of_donor.seed
                assert curve[key][: epochs[donor]] == curve[newest[donor]][: epochs[donor]]
                changed = {n for n, v in hyperparameters.items() if v != of_donor.hyperparameters[n]}
                assert changed
                assert changed <= MUTABLE
                for name in MUTABLE:
                    before_it = {int(s): v for s, v in of_donor.configuration["schedule"][name].items()}
                    now = {step: hyperparameters[name]} if name in changed else {}
                    assert steps[name] == before_it | now
            else:
                donors = [n for _, n in ranked[:count] if n != number and epochs.get(n, EPOCHS) < EPOCHS]
                assert not lags or not donors
        for epoch, metric, _ in curve[key]:
            if start < epoch < EPOCHS:
                values.setdefault(epoch, {})[number] = metric
        epochs[number], newest[number] = curve[key][-1][0], key
    assert num_exploits >= 3
    for (_, attempt), row in rows.items():  # a training that starts anew would come to the same
        assert any(note.startswith("continued from the checkpoint") for note in row.notes) == (attempt > 0)
    results = [row for row in rows.values() if row.state == "complete"]
    assert sorted(row.number for row in results) == list(range(TRIALS))
    for row in results[::3]:
        again = trained_again(Configuration.model_validate(row.configuration), tmp_path / f"again-{row.number}")
        assert again == curve[row.number, row.attempt]
    assert not list(folder.rglob("*.pt"))


def _is_of(line, other):
    return (line["number"], line["attempt"]) == (other["number"], other["attempt"])


def test_a_stopped_search_goes_on_as_it_would_have(tmp_path, monkeypatch):
    (tmp_path / "counts").mkdir()
    monkeypatch.setenv("COUNTING", str(tmp_path / "counts"))
    for name in ("whole", "cut"):
        write(tmp_path, name, workload=COUNTING, trials=6, epochs=4, sampler=QUICK)
    search(tmp_path, "whole")
    folder = tmp_path / "atoll-studies" / "cut"

    def goes_on():
        """Whether a member trains for the second time."""
        return folder.exists() and any(line["attempt"] for line in journal_lines(folder, "trial_started"))

    def slow_down():
        """An epoch takes more than a second: a trial looks for a stop once a second."""
        monkeypatch.setenv("SECONDS_PER_STEP", "0.2")

    def is_within_an_exploit():
        """Of a member that has come further."""
        for line in journal_lines(folder, "trial_started") if folder.exists() else []:
            before = (line["number"], line["attempt"] - 1)
            own = [
                one["epoch"] for one in journal_lines(folder, "progress") if (one["number"], one["attempt"]) == before
            ]
            if line["proposal"]["operator"] == "exploit" and max(own) < line["proposal"]["attributes"]["pbt:reached"]:
                return True
        return False

    with meanwhile(goes_on, slow_down), meanwhile(is_within_an_exploit, (folder / "stop").touch):
        search(tmp_path, "cut", code=75)
    assert [line["state"] for line in journal_lines(folder, "trial_ended")].count("lost") == 1
    monkeypatch.delenv("SECONDS_PER_STEP")
    said = search(tmp_path, "cut", "--resume").stderr
    assert "does not know" not in said
    for line in journal_lines(folder, "trial_ended"):  # none ends where it has repeated what was before
        started = [one for one in journal_lines(folder, "trial_started") if one["number"] == line["number"]]
        reached = {one["attempt"]: one["proposal"]["attributes"].get("pbt:reached", 0) for one in started}
        epochs = [one["epoch"] for one in journal_lines(folder, "progress") if _is_of(one, line)]
        assert line["state"] == "lost" or max(epochs) > reached[line["attempt"]]
    assert curves(tmp_path, "cut") == curves(tmp_path, "whole")
    assert jobs(folder) == jobs(tmp_path / "atoll-studies" / "whole")


def test_several_islands_and_workers_train_each_member_once(tmp_path):
    topology = {"islands": 2, "workers": 2, "ranks": 2, "threads": 1, "ranks_per_node": 1}
    sampler = {"name": "pbt", "every": "1 epochs", "population": 6, "quantile": 0.5}
    space = {"batch_size": 64, "warmup_epochs": 0, "cooldown_epochs": 0, "B": {"low": 1, "high": 8}}
    write(tmp_path, "s", method="daso", trials=9, topology=topology, sampler=sampler, space=space)
    search(tmp_path, "s")
    rows = trials_of(tmp_path, "s")
    assert Counter(row.number for row in rows if row.state == "complete") == dict.fromkeys(range(9), 1)
    assert {row.state for row in rows} == {"complete", "continued"}
    assert any(row.proposal["operator"] == "exploit" for row in rows)
    assert all(row.hyperparameters["S"] <= row.hyperparameters["B"] for row in rows)


def test_what_pbt_needs_is_said_before_anything_starts(tmp_path):
    for content, message in (
        ({"checkpoint": None}, "sampler pbt continues trials from their checkpoints, so it needs `checkpoint`"),
        ({"pruning": {"rule": "asha"}}, "pbt decides by itself who goes on, and starts anew: omit pruning"),
        ({"sampler": {"name": "pbt", "every": "5 minutes"}}, "after the same number of epochs or steps"),
        ({"sampler": [{"name": "pbt"}], "topology": {"islands": 1}}, "pbt has one population on all islands"),
        ({"checkpoint": {"every": "1 epochs", "keep": "best"}}, "checkpoint.keep must be none or last; got best"),
        ({"epochs": 1}, "pbt compares members within trainings, which have 1 epochs; got every 1 epochs"),
        (
            {"epochs": None, "steps": 50, "sampler": {"name": "pbt"}},
            "pbt compares members every 5 steps, when they are evaluated, which is every 1 epochs: set report_every",
        ),
        (
            {"evaluate_every": "2 epochs"},
            "when they are evaluated, which is every 2 epochs: set report_every to",
        ),
        ({"objectives": ["seconds"]}, "pbt compares members by accuracy, so the objective must be it; got seconds"),
        (
            {"space": {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}},
            "none that is searched may change; searched are wire, batch_size, schedule",
        ),
    ):
        write(tmp_path, "p", **content)
        said = called("search", "p.yaml", "--in-process", cwd=tmp_path, code=2).stderr
        assert message in " ".join(said.split())


def test_members_are_added_to_a_study_and_its_space_stays(tmp_path):
    write(tmp_path, "p", trials=3, epochs=2)
    search(tmp_path, "p")
    for option in (("--sampler", "random"), ("--space", "learning_rate.high=0.5")):
        said = called("change", "p", *option, cwd=tmp_path, code=2).stderr
        assert "the members of pbt train on with the space and the settings of their start" in " ".join(said.split())
    called("change", "p", "--trials", "+2", cwd=tmp_path)
    search(tmp_path, "p", "--continue")
    complete = [row.number for row in trials_of(tmp_path, "p") if row.state == "complete"]
    assert sorted(complete) == list(range(5))


@pytest.mark.mpi
@pytest.mark.long
def test_ranks_that_are_killed_leave_no_member_twice_and_the_result_trains_again(tmp_path):
    topology = {"workers": 2, "ranks": 2, "threads": 1, "ranks_per_node": 1}
    space = {"batch_size": 64, "B": {"low": 1, "high": 8}, "warmup_epochs": 0, "cooldown_epochs": 0}
    write(tmp_path, "k", method="daso", epochs=40, trials=6, topology=topology, space=space,
          sampler={"name": "pbt", "every": "4 epochs"})  # fmt: skip
    folder, process = tmp_path / "atoll-studies" / "k", start("search", "k.yaml", cwd=tmp_path)
    wait_until(lambda: len(journal_lines(folder, "trial_started")) >= 14 if folder.exists() else False, 120)
    ranks = sorted(journal_lines(folder, "host"), key=lambda line: line["time"])[-4:]
    os.kill(ranks[1]["process"], signal.SIGKILL)
    assert process.wait(timeout=240) == 0
    rows = trials_of(tmp_path, "k")
    assert Counter(row.number for row in rows if row.state == "complete") == dict.fromkeys(range(6), 1)
    assert {row.state for row in rows} <= {"complete", "continued", "lost"}
    assert any(row.proposal["operator"] == "exploit" for row in rows)
    called("export", "k", "-o", "best.yaml", cwd=tmp_path)
    assert "reproduces the exported objective" in called("train", "best.yaml", cwd=tmp_path).stdout
