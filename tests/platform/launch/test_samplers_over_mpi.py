"""Every sampler over real MPI: a rank is killed, then the launcher, and the search is resumed.

That a proposal depends on what is known, and not on when, is tested without processes in
tests/platform/search/test_propagators.py; that of population-based training is in test_population_based.py.
"""

import os
import signal
from pathlib import Path

import functions
import pytest
import yaml
from commands import atoll, end, journal_lines, start, wait_until
from functions import bowl_of

from atoll.platform.search import propagators
from atoll.platform.search.candidates import given_first
from atoll.platform.search.population import Population
from atoll.platform.search.restore import earlier
from atoll.platform.study.plan import Plan
from atoll.platform.study.samplers import NAMES
from atoll.platform.study.study import Study
from atoll.storage.folder import StudyFolder
from atoll.storage.store import Store

pytestmark = [pytest.mark.mpi, pytest.mark.long]

FUNCTIONS = Path(functions.__file__)
NUM_TRIALS = 48
SPACE = {"x": {"low": 0.0, "high": 1.0}, "y": {"low": 0.0, "high": 1.0}, "n": {"low": 1, "high": 10, "type": "int"}}
# Small enough that an island's dozen of trials is more than the startup.
FEW = {
    "mixed": {"population": 4, "samplers": [{"name": "optuna-gp", "startup": 3}, {"name": "evolution"}]},
    "evolution": {"population": 4},
    "propulate": {"population": 4},
    "optuna-tpe": {"startup": 3},
    "optuna-cmaes": {"population": 4},
    "optuna-gp": {"startup": 3},
    "fidelity-gp": {"startup": 3},
    "optuna-nsga2": {"population": 4},
    "optuna-nsga3": {"population": 4},
    "grid": {"points": 4},
}
# Each on an island of its own.
GROUPS = (
    ("mixed", "evolution", "propulate", "optuna-tpe"),
    ("optuna-cmaes", "optuna-gp", "fidelity-gp", "random"),
    ("optuna-nsga2", "optuna-nsga3", "optuna-qmc", "grid"),
)
FIXED = ("optuna-qmc", "random", "grid")  # trial n is what it is, whatever is known


def test_all_samplers_are_in_a_group():
    assert sorted(name for group in GROUPS for name in group) == sorted(set(NAMES) - {"pbt"})


@pytest.mark.parametrize("names", GROUPS, ids="+".join)
def test_a_rank_is_killed_then_the_launcher_and_resumed_samplers_know_all_before(tmp_path, names):
    write(tmp_path, "s", sampler=[{"name": name} | FEW.get(name, {}) for name in names])
    resumed, rows = killed_and_resumed(tmp_path)
    islands = {row.number: row.island for row in rows}
    for island, name in enumerate(names):
        # What another island's sampler had prepared before the kills may be trained here.
        differ = [
            proposal["genes"] != of_nothing_known(tmp_path, number, island)
            for number, proposal in resumed.items()
            if islands[number] == island and (name not in FIXED or proposal["operator"] == name)
        ]
        assert differ, name
        # The first generation of the genetic ones is random.
        assert any(differ) == (name not in FIXED), name


def write(folder, name, /, **content):
    study = {"name": name, "objective": f"{FUNCTIONS}:bowl", "space": SPACE, "trials": NUM_TRIALS}
    topology = {"islands": 4, "workers": 1, "ranks": 1}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(study | {"topology": topology} | content))


def killed_and_resumed(folder, *, rank_dies=12, launcher_dies=28):
    """The proposals of the trials that the resumed search has begun, by number, and the rows that count.

    A rank, then the launcher are killed once so many trials have ended.
    """
    search, study = start("search", "s.yaml", "--outside", cwd=folder), folder / "atoll-studies" / "s"
    try:
        wait_until(lambda: study.exists() and num_ended(study) >= rank_dies, 60)
        os.kill(journal_lines(study, "host")[-1]["process"], signal.SIGKILL)
        wait_until(lambda: journal_lines(study, "restarted") and num_ended(study) >= launcher_dies, 60)
    finally:
        search.kill()  # its ranks notice by themselves
        end(search)
    assert num_ended(study) < NUM_TRIALS
    before = max(line["time"] for line in journal_lines(study, "trial_started"))
    atoll("search", "s.yaml", "--outside", "--resume", cwd=folder)
    assert len(journal_lines(study, "restarted")) == 1
    started = journal_lines(study, "trial_started")
    # Ranks may start a trial before they notice that the launcher is gone; its next attempt may be another island's.
    again = {line["number"] for line in started if line["attempt"] > 0}
    resumed = {
        line["number"]: line["proposal"] for line in started if line["time"] > before and line["number"] not in again
    }
    assert len(resumed) >= 4
    return resumed, checked_rows(folder)


def num_ended(study):
    return len(journal_lines(study, "trial_ended"))


def checked_rows(folder):
    """The rows that count: the budget's trials, each once, with the objective of its configuration."""
    store = Store(f"sqlite:///{folder}/atoll.db", create=False)
    study = store.study("s")
    rows = store.trials(study)
    assert study.state == "complete"
    assert {row.state for row in rows} == {"complete", "lost"}
    rows = [row for row in rows if row.state == "complete"]
    assert sorted(row.number for row in rows) == list(range(NUM_TRIALS))
    assert [row.objective for row in rows] == [bowl_of(row.hyperparameters) for row in rows]
    assert {(row.island, row.worker) for row in rows} == {(island, island) for island in range(4)}
    return rows


def of_nothing_known(folder, number, island):
    """The genes that an island's sampler would propose for a trial if it knew of no other one."""
    plan = Plan.of(Study.model_validate(yaml.safe_load((folder / "s.yaml").read_text())))
    known = earlier(StudyFolder(folder / "atoll-studies" / "s"))
    first = [hyperparameters for hyperparameters, _ in given_first(plan, known["warm_start"])]
    sampler, population = plan.study.samplers()[island], Population(plan.study.population(island))
    made = propagators.make(
        sampler, plan.space, population, seed=plan.study.seed, given=first, related=known["related"]
    )
    return made.propose(number).genes


def test_related_sources_suggest_before_and_after_the_kills(tmp_path):
    write(tmp_path, "other", objective=f"{FUNCTIONS}:large_bowl", trials=32, sampler={"name": "random"}, topology={})
    atoll("search", "other.yaml", "--outside", "--in-process", cwd=tmp_path)
    write(tmp_path, "s", sampler={"name": "random"}, learn_from=[{"study": "other"}])
    # Before the study's own results outweigh the source's.
    resumed, _ = killed_and_resumed(tmp_path, rank_dies=4, launcher_dies=10)
    started = journal_lines(tmp_path / "atoll-studies" / "s", "trial_started")
    suggested = {line["number"] for line in started if line["proposal"]["operator"] == "related"}
    assert suggested & resumed.keys()
    assert suggested - resumed.keys()
    assert all("related:weights" in line["proposal"]["attributes"] for line in started if line["number"] in suggested)
