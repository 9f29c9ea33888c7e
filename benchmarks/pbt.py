"""Population-based training beside the default sampler, with as many epochs: is its schedule better?

python benchmarks/pbt.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

Four trainings of a second or two. Each sampler searches with 16 trials of equal length (a population of 16 trains at
most as many epochs; steps differ, as the batch size is searched), on threads of one process. The best trial of each,
a schedule of population-based training or a constant configuration of the default sampler, is then trained again from
the start with five seeds that the search has not seen, as the best of a search is also the luckiest. Both are
measured on the test data, by the workload's metric. Three searches each; `--trials` keeps each as soon as it is
finished.
"""

from __future__ import annotations

import concurrent.futures
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from comparison import Trainings, parse_options, report

from atoll.communication.thread_world import ThreadWorld, run_in_threads
from atoll.platform.study import registry
from atoll.platform.study.checkpoint import Checkpointing
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.interval import Every
from atoll.platform.study.topology import HostFacts, Shape, arrange
from atoll.platform.trial.training import Hooks
from atoll.platform.trial.worker import Worker
from atoll.storage.store import Store

NARROW = f"{Path(__file__).parent}/narrow.py"
TASKS: dict[str, dict[str, Any]] = {
    "digits_cnn, local_sgd": {"workload": "digits_cnn", "method": "local_sgd", "epochs": 10, "ranks": 2},
    "digits_mlp, mac": {
        "workload": "digits_mlp",
        "method": "mac",
        "epochs": 10,
        "ranks": 2,
        "space": {"w_iterations": 1, "w_iterations_last": 1, "z_iterations": 1},
    },
    "text_gpt, ddp": {
        "workload": f"{NARROW}:FewBytes",
        "method": "ddp",
        "steps": 150,
        "report_every": "15 steps",
        "ranks": 1,
        "space": {"num_layers": 1, "hidden_size": 32, "context_length": 32, "optimizer": "adamw"},
    },
    "spoken_digits, daso": {"workload": f"{NARROW}:FewFrames", "method": "daso", "epochs": 10, "ranks": 2},
}
SAMPLERS: dict[str, dict[str, Any]] = {"pbt": {"name": "pbt"}, "default": {"name": "mixed"}}
TRIALS, SEARCHES, SEEDS = 16, 3, 5


def study_of(task: str, sampler: str, seed: int, data: str) -> dict[str, Any]:
    """The study file of a search."""
    content = dict(TASKS[task])
    ranks = content.pop("ranks")
    settings = {"ranks": ranks, "ranks_per_node": 1, "workers": 1, "threads": 1, "device": "cpu"}
    sampled = {"sampler": SAMPLERS[sampler], "checkpoint": {"every": "1000000 epochs"}} if sampler == "pbt" else {}
    common = {"name": "s", "data": data, "trials": TRIALS, "seed": 1000 * seed, "topology": settings, "check": False}
    return content | common | sampled


def best_of(task: str, sampler: str, seed: int, data: str) -> tuple[Configuration, float, int]:
    """The best configuration of a search, its objective there, and the training steps of all trials."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "s.yaml").write_text(yaml.safe_dump(study_of(task, sampler, seed, data)))
        command = [sys.executable, "-m", "atoll.platform.cli", "search", "s.yaml", "--in-process", "--outside"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        store = Store(f"sqlite:///{folder}/atoll.db")
        study = store.study("s")
        rows = [row for row in store.trials(study) if row.objective is not None]
        sign = -1 if study.direction == "maximize" else 1
        best = min(rows, key=lambda row: sign * row.objective)
        lines = [line for row in store.trials(study) for line in store.progress([row.id])[-1:]]
        newest = {line.trial_id: line.step for line in lines}
        steps: dict[int, int] = {}
        for row in store.trials(study):  # an attempt that continues repeats the steps before it
            steps[row.number] = max(steps.get(row.number, 0), newest.get(row.id, 0))
        return Configuration.model_validate(best.configuration), best.objective, sum(steps.values())


def tested(configuration: Configuration, seed: int) -> float:
    """The test metric of a training from the start."""
    at_changes = Checkpointing(every=Every(1e12, "steps"))
    again = configuration.model_copy(update={"seed": seed, "checkpoint": at_changes})
    found: list[float] = []

    with tempfile.TemporaryDirectory() as folder:

        def train(world: ThreadWorld) -> None:
            facts = [HostFacts("host", {0})] * again.ranks
            worker = Worker(world, arrange(Shape((1,), again.ranks), facts, ranks_per_node=1), spin=False)
            if world.rank:
                worker.obey()
                return
            while (outcome := worker.evaluate(again, Hooks(), test=True, folder=Path(folder))).is_paused:
                pass
            worker.dismiss()
            metric = registry.workload(again.workload).metric
            found.append(outcome.metrics[f"test_{metric}"] if outcome.state == "complete" else float("nan"))

        run_in_threads(again.ranks, train)
    return found[0]


def compared(task: str, sampler: str, search: int, data: str, seeds: int) -> dict[str, Any]:
    """One search, and its best configuration with other seeds."""
    configuration, objective, steps = best_of(task, sampler, search, data)
    values = [tested(configuration, 500_000 + seed) for seed in range(seeds)]
    changes = len(configuration.changes())
    return {
        "task": task, "sampler": sampler, "search": search, "objective": objective, "steps": steps,
        "changes": changes, "test": values,
    }  # fmt: skip


def summarize(rows: list[dict[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """A line for each task: the medians of the test metric, and of what the searches themselves had found."""
    lines = [
        "| task | sampler | test, median of all seeds | best of the search | steps | changes |",
        "|" + " --- |" * 6,
    ]
    figures: dict[str, Any] = {}
    for task in TASKS:
        for sampler in SAMPLERS:
            some = [row for row in rows if (row["task"], row["sampler"]) == (task, sampler)]
            if not some:
                continue
            test = statistics.median(value for row in some for value in row["test"])
            own, steps = (statistics.median(row[name] for row in some) for name in ("objective", "steps"))
            changes = "/".join(str(row["changes"]) for row in some)
            lines.append(f"| {task} | {sampler} | {test:.4f} | {own:.4f} | {steps:.0f} | {changes} |")
            figures.setdefault(task, {})[sampler] = {"test": test, "objective": own, "steps": steps}
    return lines, figures


def main() -> None:
    options = parse_options(str(__doc__), "one search, two seeds", "the workloads' data")
    done = Trainings(options.trials)
    known = {(row["task"], row["sampler"], row["search"]) for row in done.rows}
    searches, seeds = (1, 2) if options.quick else (SEARCHES, SEEDS)
    jobs = [
        (task, sampler, search, options.data, seeds)
        for search in range(searches)
        for task in TASKS
        for sampler in SAMPLERS
        if (task, sampler, search) not in known
    ]
    with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for future in concurrent.futures.as_completed([pool.submit(compared, *job) for job in jobs]):
            done.add(future.result())
    lines, figures = summarize(done.rows)
    words = "Larger is better, but for text_gpt's loss. The best of a search is of validation data."
    report(
        options, "Population-based training", words, "\n".join(lines) + "\n", {"figures": figures, "rows": done.rows}
    )


if __name__ == "__main__":
    main()
