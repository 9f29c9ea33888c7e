"""Searches whose trials pause at rungs, and continue when they are promoted."""

import contextlib
import itertools
import os
import signal
from collections import Counter, defaultdict

import pytest
import yaml
from commands import COUNTING, called_json, end, journal_lines, meanwhile, start, wait_until
from paused import STATES, curves, jobs, search, trials_of

from atoll.communication.threads import run_virtual_ranks
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.trial import Trial
from atoll.storage.store import Store
from atoll.testing.ranks import PAIR

pytestmark = pytest.mark.slow
TRIALS, EPOCHS, RUNGS = 9, 8, (2, 6)


def write(folder, name, **content):
    study = {
        "name": name,
        "workload": "digits_mlp",
        "method": "ddp",
        "epochs": EPOCHS,
        "trials": TRIALS,
        "sampler": {"name": "random"},
        "space": {"batch_size": 128},
        "topology": {"threads": 1},
        "checkpoint": {"every": "1 epochs"},
        "pruning": {"promotion": True, "factor": 3, "grace": 2},
        "check": False,
    }
    study |= content
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({k: v for k, v in study.items() if v is not None}))


def by_algorithm_2(values, num_trials, factor=3):
    """The jobs of one worker (Li et al. 2020, algorithm 2), from each trial's values at the rungs, to maximize."""
    rungs, promoted, started = [{} for _ in RUNGS], [set() for _ in RUNGS], 0
    while True:
        for k in reversed(range(len(RUNGS))):
            best = sorted(rungs[k], key=lambda number: (-rungs[k][number], number))[: len(rungs[k]) // factor]
            if promotable := [number for number in best if number not in promoted[k]]:
                number, to = promotable[0], k + 1
                promoted[k].add(number)
                break
        else:
            if started == num_trials:
                return
            number, to, started = started, 0, started + 1
        yield number
        if to < len(RUNGS):
            rungs[to][number] = values[number][to]


def test_a_search_promotes_by_algorithm_2_and_a_promoted_curve_is_that_of_a_whole_training(tmp_path):
    write(tmp_path, "whole", pruning=None, checkpoint=None)
    write(tmp_path, "asha")
    search(tmp_path, "whole")
    search(tmp_path, "asha")
    whole, asha = curves(tmp_path, "whole"), curves(tmp_path, "asha")
    assert set(asha) == set(range(TRIALS))
    for number, (state, curve) in asha.items():
        assert curve == whole[number][1][: len(curve)]
        assert len(curve) == (EPOCHS if state == "complete" else curve[-1][0])
        assert state == "complete" or curve[-1][0] in RUNGS
    values = {number: [curve[rung - 1][1] for rung in RUNGS] for number, (_, curve) in whole.items()}
    folder = tmp_path / "atoll-studies" / "asha"
    assert jobs(folder) == list(by_algorithm_2(values, TRIALS))
    assert Counter(state for state, _ in asha.values()) == {"complete": 1, "pruned": TRIALS - 1}
    assert not (folder / "trials").exists() or not list((folder / "trials").rglob("*.pt"))
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    (summary,) = [summary for summary in store.studies() if summary.study.name == "asha"]
    assert (summary.num_ended, summary.study.state) == (TRIALS, "complete")
    assert summary.counts["continued"] == len(jobs(folder)) - TRIALS
    board = called_json("leaderboard", "asha", cwd=tmp_path)
    assert [row["number"] for row in board] == [n for n, (state, _) in asha.items() if state == "complete"]


@pytest.mark.parametrize("count", [3, pytest.param(9, marks=pytest.mark.long)])
def test_a_search_that_is_stopped_in_the_midst_of_a_promotion_goes_on_as_it_would_have(tmp_path, monkeypatch, count):
    """In the first promoted trial, and in a later one."""
    (tmp_path / "counts").mkdir()
    monkeypatch.setenv("COUNTING", str(tmp_path / "counts"))
    for name in ("whole", "cut"):
        write(tmp_path, name, workload=COUNTING)
    search(tmp_path, "whole")
    monkeypatch.setenv("SECONDS_PER_STEP", "0.05")  # time for a stop
    folder = tmp_path / "atoll-studies" / "cut"

    def is_promoted():
        lines = journal_lines(folder, "progress") if folder.exists() else []
        return sum(line["attempt"] > 0 for line in lines) >= count

    with meanwhile(is_promoted, (folder / "stop").touch):
        search(tmp_path, "cut", code=75)
    monkeypatch.delenv("SECONDS_PER_STEP")
    assert [t["attempt"] for t in journal_lines(folder, "trial_ended") if t["state"] == "lost"] == [1]
    search(tmp_path, "cut", "--resume")
    assert curves(tmp_path, "cut") == curves(tmp_path, "whole")
    assert jobs(folder) == jobs(tmp_path / "atoll-studies" / "whole")


def test_several_islands_and_workers_keep_the_budget_and_promote_each_trial_once(tmp_path):
    topology = {"islands": 2, "workers": 2, "ranks": 1, "threads": 1}
    write(tmp_path, "s", trials=24, epochs=4, topology=topology, sampler={"name": "optuna-tpe", "startup": 4},
          pruning={"promotion": True, "factor": 2})  # fmt: skip
    search(tmp_path, "s")
    trials = trials_of(tmp_path, "s")
    results = [trial for trial in trials if trial.state in STATES]
    assert sorted(trial.number for trial in results) == list(range(24))
    attempts = defaultdict(list)
    for trial in trials:
        attempts[trial.number].append(trial)
    for some in attempts.values():
        assert [trial.attempt for trial in some] == list(range(len(some)))
        assert {trial.state for trial in some[:-1]} <= {"continued"}
        assert len({str(trial.hyperparameters) for trial in some}) == 1
    for rung in (1, 2):  # nobody is left who could be promoted
        reached = [trial for trial in results if trial.state != "failed" and _epoch(tmp_path, trial) >= rung]
        beyond = [trial for trial in reached if _epoch(tmp_path, trial) > rung]
        assert len(beyond) >= len(reached) // 2


def _epoch(folder, trial):
    return max(report.epoch for report in Store(f"sqlite:///{folder}/atoll.db").progress([trial.id]))


@pytest.mark.long
def test_a_larger_budget_promotes_among_all_trials_if_checkpoints_stay(tmp_path):
    for name, trials in (("whole", TRIALS), ("grown", 4)):
        write(tmp_path, name, trials=trials, checkpoint={"every": "1 epochs", "keep": "last"})
        search(tmp_path, name)
    states = [state for state, _ in curves(tmp_path, "grown").values()]
    assert Counter(states) == {"pruned": 4}
    write(tmp_path, "grown", checkpoint={"every": "1 epochs", "keep": "last"})
    search(tmp_path, "grown", "--resume")
    assert jobs(tmp_path / "atoll-studies" / "grown") == jobs(tmp_path / "atoll-studies" / "whole")
    assert curves(tmp_path, "grown") == curves(tmp_path, "whole")


def curve_again(trial, num_reports):
    """The start of a trial's curve, when it is trained again here."""
    configuration = Configuration.model_validate(trial.configuration)

    def train(c):
        reports = itertools.islice(Trial(configuration, c, "cpu").train(), num_reports)
        return [(report.epoch, report.metric, report.train_loss) for report in reports]

    return run_virtual_ranks(train, PAIR)[0]


@pytest.mark.mpi
@pytest.mark.parametrize(
    "num_kills", [pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.soak)]
)
def test_ranks_that_are_killed_in_the_midst_of_a_promotion_leave_nothing_twice(tmp_path, num_kills):
    more = {"topology": {"workers": 2, "ranks": 2, "threads": 1}, "epochs": 90, "trials": 9}
    more |= {"pruning": {"promotion": True, "factor": 3, "grace": 10}, "space": {}}
    write(tmp_path, "cut", **more)
    folder = tmp_path / "atoll-studies" / "cut"
    process = start("search", "cut.yaml", cwd=tmp_path)

    def reached():
        """The last epoch of each promoted trial."""
        epochs = {}
        for line in journal_lines(folder, "progress") if folder.exists() else []:
            if line["attempt"] > 0:
                epochs[line["number"]] = max(line["epoch"], epochs.get(line["number"], 0))
        return epochs

    def further(before):
        """A promoted trial that is several epochs further: one that is killed twice at the same place has failed."""
        return next((number for number, epoch in reached().items() if epoch > before.get(number, 15) + 5), None)

    for kill in range(num_kills):
        before = reached()
        wait_until(lambda b=before: further(b) is not None, 120)
        number = further(before)
        started = sorted(journal_lines(folder, "trial_started"), key=lambda line: line["time"])
        worker = next(line["worker"] for line in reversed(started) if line["number"] == number)
        ranks = sorted(journal_lines(folder, "host"), key=lambda line: line["time"])[-4:]
        with contextlib.suppress(ProcessLookupError):
            os.kill(next(rank["process"] for rank in ranks if rank["worker"] == worker), signal.SIGKILL)
        wait_until(lambda k=kill: len(journal_lines(folder, "restarted")) == k + 1, 120)
    assert end(process).returncode == 0
    cut = curves(tmp_path, "cut")
    assert set(cut) == set(range(9))
    for trial in trials_of(tmp_path, "cut"):
        if trial.state in STATES:
            _, curve = cut[trial.number]
            assert curve == curve_again(trial, len(curve))
    assert sum(state == "complete" for state, _ in cut.values()) >= 1
    assert journal_lines(folder, "trial_lost")
