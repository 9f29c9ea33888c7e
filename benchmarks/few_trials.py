"""The samplers with 16, 32 and 64 expensive trials: real trainings in continuous spaces, held out from all tuning.

python benchmarks/few_trials.py --data FOLDER [--task NAME] [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

Five tasks, named before any sampler was run on one of them: the optimizer's and the method's hyperparameters of small
networks, each training one to two seconds on one core. Trainings are real, on threads of one process (one or two
ranks); the clock is simulated, with 4 workers of one island, as in search_quality.py. The loss is the validation
loss's logarithm; a training that diverges has failed. Five seeds; 32 trials, on two of the tasks 64. Equal
configurations are trained once. `--trials` keeps each curve as soon as it is finished, so the whole (about three hours
of two cores) may be done in parts; `--task` does one task's.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comparison import Trainings, report
from search_quality import SAMPLERS, interval, simulated

from atoll.communication.thread_world import ThreadWorld, run_in_threads
from atoll.platform.search.scoring import Scoring
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.platform.study.topology import HostFacts, Shape, arrange
from atoll.platform.trial.training import Hooks
from atoll.platform.trial.worker import Worker
from atoll.searchspaces.space import SearchSpace

NARROW = f"{Path(__file__).parent}/narrow.py"
TASKS: dict[str, dict[str, Any]] = {
    "digits_cnn": {"workload": "digits_cnn", "method": "local_sgd", "epochs": 6, "topology": {"ranks": 2}},
    "text_gpt": {
        "workload": f"{NARROW}:FewBytes",
        "method": "ddp",
        "steps": 150,
        "space": {"num_layers": 1, "hidden_size": 32, "context_length": 32, "optimizer": "adamw"},
    },
    "cifar10_cnn": {"workload": f"{NARROW}:FewImages", "method": "daso", "epochs": 6, "topology": {"ranks": 2}},
    "autoformer": {"workload": f"{NARROW}:FewForecasts", "method": "oialr", "steps": 20},
    "speech_mlp": {"workload": f"{NARROW}:FewFrames", "method": "easgd", "epochs": 2, "topology": {"ranks": 2}},
}
LONG = ("digits_cnn", "speech_mlp")  # 64 trials
USED = (
    "mixed", "evolution", "random", "optuna-tpe", "optuna-gp", "optuna-cmaes", "optuna-nsga2", "propulate",
)  # fmt: skip
NUM_WORKERS = 4
AT = (16, 32, 64)


def study_of(task: str, data: str) -> Study:
    """The study of a task, whose sampler is not used."""
    content = TASKS[task]
    topology = {"device": "cpu", "threads": 1, "ranks_per_node": 1} | content.get("topology", {})
    return Study(
        **content | {"name": task, "data": data, "topology": topology, "objectives": ["validation_loss"]},
    )


def trained(plan: Plan, hyperparameters: dict[str, Any]) -> tuple[float, float]:
    """The validation loss, NaN if the training failed, and its CPU seconds."""
    num_ranks, scoring = plan.study.topology.ranks, Scoring(plan.objectives, plan.subject)
    found: list[float] = []

    def train(world: ThreadWorld) -> None:
        places = arrange(Shape((1,), num_ranks), [HostFacts("host", {0})] * num_ranks, ranks_per_node=1)
        worker = Worker(world, places, spin=False)
        configuration = plan.configuration(hyperparameters, 0, threads=1, device="cpu")
        if world.rank:
            worker.obey()
            return
        outcome, values = scoring.judge(worker.evaluate(configuration, Hooks()), scoring.clock())
        worker.dismiss()
        found.append(values[0] if outcome.state == "complete" else math.nan)

    started = time.process_time()
    run_in_threads(num_ranks, train)
    return found[0], time.process_time() - started


def task_of(task: str, data: str) -> tuple[SearchSpace, Callable[[dict[str, Any]], float]]:
    """The space of a task and the logarithm of its loss; equal configurations are trained once."""
    torch.set_num_threads(1)
    plan = Plan.of(study_of(task, data))
    known: dict[str, float] = {}

    def loss(hyperparameters: dict[str, Any]) -> float:
        name = repr(sorted(hyperparameters.items()))
        if name not in known:
            value, _ = trained(plan, hyperparameters)
            known[name] = math.log(value) if value > 0 else math.nan
        return known[name]

    return plan.space, loss


def curve_of(task: str, sampler: str, seed: int, count: int, data: str) -> list[float]:
    """The best loss after each finished trial."""
    space, loss = task_of(task, data)
    return simulated(space, loss, SAMPLERS[sampler], seed, count, NUM_WORKERS)


def summarize(rows: list[dict[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """Medians with intervals by task, and each sampler's rank, by numbers of trials."""
    lines, figures = [], {}
    for at in AT:
        ranks: dict[str, list[int]] = {}
        header = f"| task | {' | '.join(USED)} |"
        table = [f"Logarithm of the best loss after {at} trials, median and its interval (95 %):", "", header]
        table.append(f"| --- |{' --- |' * len(USED)}")
        for task in TASKS:
            ends = {
                sampler: [
                    row["curve"][at - 1]
                    for row in rows
                    if (row["task"], row["sampler"]) == (task, sampler) and len(row["curve"]) >= at
                ]
                for sampler in USED
            }
            if not all(ends.values()):
                continue
            medians = {sampler: statistics.median(values) for sampler, values in ends.items()}
            for sampler in USED:
                ranks.setdefault(sampler, []).append(1 + sum(m < medians[sampler] for m in medians.values()))
            cells = (f"{medians[s]:.3f} ({interval(ends[s])[0]:.3f}, {interval(ends[s])[1]:.3f})" for s in USED)
            table.append(f"| {task} | {' | '.join(cells)} |")
            figures.setdefault(str(at), {})[task] = {s: [medians[s], *interval(ends[s])] for s in USED}
        if ranks:
            shown = ", ".join(f"{sampler} {statistics.median(values):g}" for sampler, values in ranks.items())
            lines += [*table, "", f"Median rank: {shown}", ""]
            figures[str(at)]["ranks"] = ranks
    return lines, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("ATOLL_DATA"), help="folder of the workloads' data")
    parser.add_argument("--task", choices=list(TASKS), help="only this task")
    parser.add_argument("--quick", action="store_true", help="one seed, 16 trials")
    parser.add_argument("--seconds", action="store_true", help="only the CPU seconds of a training with its defaults")
    parser.add_argument("--trials", type=Path, metavar="FILE", help="keep each curve here, and skip those it has")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write table and JSON here")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    tasks = [options.task] if options.task else list(TASKS)
    if options.seconds:
        for task in tasks:
            plan = Plan.of(study_of(task, options.data))
            for _ in range(2):  # the first one imports, and loads the data
                value, seconds = trained(plan, plan.space.default())
            print(f"{task}: loss {value:.4g} after {seconds:.2f} CPU s; {len(plan.space.parameters)} parameters")
        return
    done = Trainings(options.trials)
    known = {(row["task"], row["sampler"], row["seed"]) for row in done.rows}
    seeds = 1 if options.quick else 5
    jobs = [
        (task, sampler, seed, 16 if options.quick else 64 if task in LONG else 32, options.data)
        for seed in range(seeds)
        for task in tasks
        for sampler in USED
        if (task, sampler, seed) not in known
    ]
    with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        futures = {pool.submit(curve_of, *job): job for job in jobs}
        for future in concurrent.futures.as_completed(futures):
            task, sampler, seed, *_ = futures[future]
            curve = future.result()
            done.add({"task": task, "sampler": sampler, "seed": seed, "curve": curve}, (task, sampler, seed, curve[-1]))
    lines, figures = summarize(done.rows)
    report(
        options, "Few trials", "Losses: smaller is better.", "\n".join(lines), {"figures": figures, "rows": done.rows}
    )


if __name__ == "__main__":
    main()
