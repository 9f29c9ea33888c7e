"""Searches that are disturbed on purpose, in a random order that a seed fixes: nothing is lost, nothing hangs.

Two tests have a short form for the long tier, in which everything happens that happens in the whole one, for `-m soak`:
there more often, on more ranks, and against the clock. Searches are disturbed one thing at a time, too:
tests/platform/launch/test_over_mpi.py, tests/platform/ranks/test_search.py.
"""

import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter

import pytest
import yaml
from commands import CHAOS, DYING, atoll, end, journal_lines, start, wait_until

from atoll.communication.thread_world import run_in_threads
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.topology import HostFacts, Shape, arrange
from atoll.platform.trial.training import Hooks
from atoll.platform.trial.worker import Worker
from atoll.storage import launches
from atoll.storage.events import ProgressReported, Restarted, TrialEnded, TrialLost, TrialStarted
from atoll.storage.store import Store

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(900)]

# With a sampler that thinks in a thread, and trials that end early, but none that hangs before it does.
THINKING = {"sampler": {"name": "optuna-tpe", "startup": 5}, "pruning": {"rule": "asha", "grace": 2, "factor": 2}}
SHORT = {
    "trials": 24,
    "shape": (2, 1, 2),
    "heartbeat_timeout": 25.0,  # the ranks start within it on two cores that others use, too
    "raise": 2,
    "nan": 1,
    "hang": 1,
    "kill": 1,
    "stop": 1,
    "outage": 1,
    "seconds": 2,
    "study": THINKING,
}
WHOLE = {
    "trials": 200,
    "shape": (2, 2, 2),
    "heartbeat_timeout": 40.0,
    "raise": 10,
    "nan": 5,
    "hang": 3,
    "kill": 3,
    "stop": 1,
    "outage": 2,
    "seconds": 5,
    "study": THINKING,
}


def short_and_whole(*forms):
    """The parameters of both forms."""
    marks = {"short": [pytest.mark.long], "whole": [pytest.mark.soak, pytest.mark.alone]}
    values = [form if isinstance(form, tuple) else (form,) for form in forms]
    return [pytest.param(*value, id=name, marks=marks[name]) for name, value in zip(marks, values, strict=True)]


def write_study(folder, form, name):
    islands, workers, num_ranks = form["shape"]
    study = {
        "name": name,
        "workload": CHAOS,
        "method": "ddp",
        "trials": form["trials"],
        "epochs": 3,
        "topology": {"islands": islands, "workers": workers, "ranks": num_ranks},
        "trial_timeout": 5.0,
        "check": False,  # the workloads count their processes and what they die of
        "heartbeat_timeout": form["heartbeat_timeout"],
        # None of these diverges by itself, and each takes about as long.
        "space": {"learning_rate": {"low": 0.01, "high": 0.05, "log": True}, "momentum": 0.5, "batch_size": 32},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(study | form.get("study", {})))
    return folder / "atoll-studies" / name


class Disturber:
    """Does one bad thing to a running search."""

    def __init__(self, folder, store, rng, outage_seconds):
        self.folder, self.store, self.rng, self.outage_seconds = folder, store, rng, outage_seconds

    def victim(self, ranks=(0, 1)):
        """The process of a random rank of the newest start, with such a number in its worker."""
        hosts = sorted(journal_lines(self.folder, "host"), key=lambda line: line["time"])
        newest = {line["world_rank"]: line["process"] for line in hosts if line["rank"] in ranks}
        return newest[self.rng.choice(sorted(newest))]

    def kill(self):
        os.kill(self.victim(), signal.SIGKILL)

    def stop(self):
        # A root: that of a worker whose other rank stands still notices first that the trial takes too long.
        os.kill(self.victim(ranks=(0,)), signal.SIGSTOP)

    def outage(self):
        lock = sqlite3.connect(self.store, isolation_level=None, timeout=30)
        lock.execute("BEGIN EXCLUSIVE")
        time.sleep(self.outage_seconds)
        lock.execute("COMMIT")
        lock.close()


def num_ended(folder):
    return len(journal_lines(folder, "trial_ended")) if folder.exists() else 0


def restart_seconds(folder):
    """Seconds in which nothing was trained because ranks were dead, were noticed to be, or were starting."""
    events = launches.replay(folder / "journals")
    total, last_progress, waiting_since = 0.0, None, None
    for event in events:
        if isinstance(event, Restarted):
            waiting_since = last_progress
        elif isinstance(event, ProgressReported | TrialEnded):
            if waiting_since is not None:
                total += event.time - waiting_since
                waiting_since = None
            last_progress = event.time
    return total


def duration(folder):
    times = [line["time"] for event in ("study_started", "study_ended") for line in journal_lines(folder, event)]
    return max(times) - min(times)


def check_nothing_lost(folder, store_file, num_trials):
    """Every attempt that the journal started is in the store exactly once, with the right state."""
    expected = {}
    for event in launches.replay(folder / "journals"):
        if isinstance(event, TrialStarted):
            assert event.key not in expected, f"{event.key} has started twice"
            expected[event.key] = "running"
        elif isinstance(event, TrialEnded | TrialLost):
            expected[event.key] = event.state if isinstance(event, TrialEnded) else "lost"
    assert "running" not in expected.values()  # the trials of ranks that died were lost
    store = Store(store_file if "://" in str(store_file) else f"sqlite:///{store_file}", create=False)
    trials = store.trials(store.study(folder.name))
    keys = Counter((t.island, t.worker, t.generation, t.number, t.attempt) for t in trials)
    assert max(keys.values()) == 1
    assert {(t.number, t.attempt): t.state for t in trials} == expected
    ended = Counter(t.number for t in trials if t.state in ("complete", "failed", "pruned"))
    assert ended == Counter(range(num_trials))
    progress = {(line["number"], line["attempt"], line["step"]) for line in journal_lines(folder, "progress")}
    assert len(store.progress([t.id for t in trials])) == len(progress)
    assert store.study(folder.name).state == "complete"
    return trials


def undisturbed_seconds(folder, share):
    """Seconds that a search without disturbances takes, by one with a share of its trials."""
    first = min(line["time"] for line in journal_lines(folder, "trial_started"))
    trained = max(line["time"] for line in journal_lines(folder, "trial_ended")) - first
    return duration(folder) + trained * (1 / share - 1)


@pytest.mark.parametrize("mpi", ["mpich", "openmpi"], indirect=True)
@pytest.mark.parametrize("form", short_and_whole(SHORT, WHOLE))
def test_chaos(tmp_path, form, mpi):
    rng = random.Random(20070)
    numbers = rng.sample(range(1, form["trials"] - 5), form["raise"] + form["nan"] + form["hang"])
    behaviour = {}
    for kind in ("raise", "nan", "hang"):
        behaviour[kind], numbers = sorted(numbers[: form[kind]]), numbers[form[kind] :]
    folder = write_study(tmp_path, form, "chaos")
    search = start("search", "chaos.yaml", "--outside", cwd=tmp_path, env={"CHAOS": json.dumps(behaviour)})
    disturber = Disturber(folder, tmp_path / "atoll.db", rng, form["seconds"])
    deeds = [kind for kind in ("kill", "stop", "outage") for _ in range(form[kind])]
    rng.shuffle(deeds)
    try:
        for number, deed in enumerate(deeds, 1):
            # spread over the search, and only once the ranks that a former deed ended train again
            threshold = max(form["trials"] * number // (len(deeds) + 2), num_ended(folder) + 1)
            wait_until(lambda t=threshold: num_ended(folder) >= t or search.poll() is not None, timeout=150)
            assert search.poll() is None, f"the search ended before it was disturbed by {deed}"
            getattr(disturber, deed)()
    finally:
        done = end(search, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr

    trials = check_nothing_lost(folder, tmp_path / "atoll.db", form["trials"])
    failed = {t.number: t.reason for t in trials if t.state == "failed"}
    assert {n for n, r in failed.items() if r.startswith("RuntimeError: broken")} == set(behaviour["raise"])
    assert {n for n, r in failed.items() if r.startswith("Diverged")} == set(behaviour["nan"])
    assert {n for n, r in failed.items() if r.startswith("TrialTimeout")} == set(behaviour["hang"])
    assert len(failed) == sum(len(group) for group in behaviour.values()), failed
    assert len(journal_lines(folder, "restarted")) == form["kill"] + form["stop"]
    if form is WHOLE:
        check_seconds(tmp_path, folder)


def check_seconds(tmp_path, folder):
    """It took less than twice as long as without disturbances, and the restarts."""
    calm = write_study(tmp_path, WHOLE | {"trials": WHOLE["trials"] // 4}, "calm")
    atoll("search", "calm.yaml", "--outside", cwd=tmp_path, timeout=400)
    undisturbed, restarts = undisturbed_seconds(calm, 1 / 4), restart_seconds(folder)
    print(f"undisturbed {undisturbed:.1f} s, disturbed {duration(folder):.1f} s, of which restarts {restarts:.1f} s")
    assert duration(folder) < 2 * undisturbed + restarts


@pytest.mark.soak
@pytest.mark.alone
def test_stopped_at_random_moments_and_resumed(tmp_path):
    rng = random.Random(20071)
    folder = write_study(tmp_path, WHOLE | {"trials": 80}, "stops")
    for stop in range(5):
        search = start("search", "stops.yaml", "--outside", *(["--resume"] if stop else []), cwd=tmp_path)
        before = num_ended(folder)
        wait_until(lambda b=before: num_ended(folder) > b)
        time.sleep(rng.uniform(0, 2.0))
        search.send_signal(signal.SIGTERM)
        done = end(search, timeout=60)
        assert done.returncode == 75, done.stdout + done.stderr
    atoll("search", "stops.yaml", "--outside", "--resume", cwd=tmp_path, timeout=400)
    check_nothing_lost(folder, tmp_path / "atoll.db", 80)


PLACES = ("start", "split", "migration", "journal", "finish")


def objectives(trials):
    """The objectives of configurations that are trained again, here, on one rank each."""
    found = []

    def train(world):
        places = arrange(Shape((1,), 1), [HostFacts("host", {0})], ranks_per_node=1)
        worker = Worker(world, places, spin=False)
        found.extend(worker.evaluate(Configuration.model_validate(t.configuration), Hooks()).objective for t in trials)

    run_in_threads(1, train)
    return found


@pytest.mark.parametrize(
    ("num_trials", "places", "num_again"),
    # The places where ranks of each launcher die first; the last rank dies at the end of the search.
    short_and_whole(
        (16, (("start", "migration"), ("split", "journal")), 4),
        (60, ((), *(some for place in PLACES[:-1] for some in ((place,), ())), ()), 20),
    ),
)
def test_launchers_killed_and_ranks_at_every_step(tmp_path, num_trials, places, num_again):
    """Each launcher is killed while its ranks train, or train again after the death of one."""
    rng = random.Random(20072)
    dies = {"workload": DYING, "migration": {"probability": 1.0}}
    form = SHORT | {"trials": num_trials, "shape": (2, 1, 1), "study": dies}
    folder, dying = write_study(tmp_path, form, "launchers"), tmp_path / "dying"
    dying.mkdir()
    environment = {"DIE": str(dying)}
    for launch, some in enumerate(places):
        for place in some:
            (dying / place).touch()
        resume = ["--resume"] if launch else []
        search = start("search", "launchers.yaml", "--outside", *resume, cwd=tmp_path, env=environment)
        before = num_ended(folder)
        wait_until(lambda b=before, s=search: num_ended(folder) > b + 1 or s.poll() is not None, timeout=150)
        wait_until(lambda s=search: not any(dying.iterdir()) or s.poll() is not None, timeout=150)
        time.sleep(rng.uniform(0, 1.0))
        assert search.poll() is None, search.communicate()
        os.kill(search.pid, signal.SIGKILL)
        search.communicate()
    (dying / PLACES[-1]).touch()
    atoll("search", "launchers.yaml", "--outside", "--resume", cwd=tmp_path, timeout=400, env=environment)
    assert list(dying.iterdir()) == []  # each place had its death
    trials = check_nothing_lost(folder, tmp_path / "atoll.db", num_trials)
    complete = [t for t in trials if t.state == "complete"]
    assert len(complete) > 0.9 * num_trials, Counter(t.reason for t in trials)
    sample = rng.sample(complete, num_again)
    assert objectives(sample) == [t.objective for t in sample]


ELASTIC = {
    "trials": 200,
    "shape": (1, 2, 1),
    "heartbeat_timeout": 60.0,
    "study": {"trial_timeout": None, "sampler": {"name": "evolution", "population": 8}},
}


def takes_part(folder, launcher):
    """Whether a launcher's ranks train."""
    joined = {line["process"]: line["launcher"] for line in journal_lines(folder, "joined")}
    launch = joined.get(launcher.pid, 1)
    roots = (folder / "journals").glob("root-?????.jsonl" if launch == 1 else f"root-?????.{launch}.jsonl")
    return any(b'"trial_started"' in root.read_bytes() for root in roots)


@pytest.mark.long
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_three_launchers_of_one_study_each_killed_twice(tmp_path, request, store):
    """All trials are in the store, once, whoever leads, whoever dies."""
    url = request.getfixturevalue("postgresql_url") if store == "postgresql" else f"sqlite:///{tmp_path}/atoll.db"
    folder = write_study(tmp_path, ELASTIC, "elastic")
    arguments = ("search", "elastic.yaml", "--outside", "--continue", "--store", url)
    rng = random.Random(22)
    launchers = [start(*arguments, cwd=tmp_path) for _ in range(3)]
    kills = [number for number in range(3) for _ in range(2)]
    rng.shuffle(kills)
    try:
        for place, number in enumerate(kills, 1):
            threshold, victim = ELASTIC["trials"] * place // (len(kills) + 2), launchers[number]
            wait_until(lambda t=threshold, v=victim: num_ended(folder) >= t and takes_part(folder, v), timeout=150)
            victim.kill()  # its ranks notice by themselves
            end(victim)
            launchers[number] = start(*arguments, cwd=tmp_path)
    finally:
        done = [end(launcher, timeout=200) for launcher in launchers]
    assert [one.returncode for one in done] == [0, 0, 0], "\n".join(one.stdout + one.stderr for one in done)
    assert any("complete: 200 complete" in one.stdout for one in done)
    trials = check_nothing_lost(folder, url, ELASTIC["trials"])
    assert len({trial.worker for trial in trials}) > 2  # of several launchers at once
    found_dead = [line for line in journal_lines(folder, "left") if line["reason"].startswith("found dead")]
    assert len(found_dead) == len(kills)
    assert any(t.state == "lost" and t.reason.startswith("its launcher ") for t in trials)
