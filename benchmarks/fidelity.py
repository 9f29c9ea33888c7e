"""Samplers under ASHA: the best complete training within the steps of 16 whole ones, real trainings, simulated clock.

python benchmarks/fidelity.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

Two small trainings with ddp on one core, a network on 6,400 frames of speech (81 steps, rungs at 9 and 27) and an
Autoformer on 512 windows (27 steps, rungs at 3 and 9); 4 workers of one island. A trial takes its steps times a
log-normal factor (sigma 0.3). At each rung the best third of those that have come there goes on. Values are those of
validation at the end of complete trainings: error, and squared error. Three seeds. Nothing was tuned on these tasks.
`--trials` keeps each search as soon as it is finished: the whole takes half an hour of two cores.
"""

from __future__ import annotations

import concurrent.futures
import heapq
import math
import os
import random
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from comparison import Trainings, parse_options, report
from search_quality import interval, waiting, workers_of

from atoll.communication.thread_world import ThreadWorld, run_in_threads
from atoll.platform.search.population import Individual
from atoll.platform.search.proposals import Candidate
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.platform.study.topology import HostFacts, Shape, arrange
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.training import Hooks
from atoll.platform.trial.worker import Worker

NARROW = f"{Path(__file__).parent}/narrow.py"
TASKS: dict[str, dict[str, Any]] = {
    "speech": {"workload": f"{NARROW}:FewFrames", "steps": 81, "report_every": "3 steps"},
    "forecasts": {"workload": f"{NARROW}:FewForecasts", "steps": 27, "report_every": "1 steps"},
}
SAMPLERS: dict[str, dict[str, Any]] = {
    "fidelity-gp": {"name": "fidelity-gp"},
    "optuna-gp": {"name": "optuna-gp"},
    "optuna-tpe": {"name": "optuna-tpe"},
    "mixed": {"name": "mixed"},
    "mixed, fidelity-gp": {"name": "mixed", "samplers": [{"name": "fidelity-gp"}, {"name": "evolution"}]},
    "random": {"name": "random"},
}
NUM_WORKERS, FACTOR, WHOLE = 4, 3, 16


class Trainer:
    """Trains configurations to a rung; equal ones once."""

    def __init__(self, task: str, data: str) -> None:
        torch.set_num_threads(1)
        topology = {"device": "cpu", "threads": 1, "ranks_per_node": 1}
        self.plan = Plan.of(Study(name=task, method="ddp", data=data, topology=topology, **TASKS[task]))
        assert self.plan.length is not None
        self.length = int(self.plan.length[1])
        self.rungs = [self.length // FACTOR**n for n in (2, 1, 0)]
        self._sign = -1.0 if self.plan.subject.direction == "maximize" else 1.0
        self._known: dict[tuple[str, int], dict[int, float]] = {}

    def curve(self, hyperparameters: dict[str, Any], rung: int) -> dict[int, float]:
        """The losses up to a rung by step; fewer if the training diverges."""
        key = repr(sorted(hyperparameters.items())), rung
        if key not in self._known:
            self._known[key] = self._train(hyperparameters, rung)
        return self._known[key]

    def _train(self, hyperparameters: dict[str, Any], rung: int) -> dict[int, float]:
        found: dict[int, float] = {}

        def seen(progress: Progress) -> bool:
            if progress.metric is not None:
                found[progress.position] = self._sign * progress.metric + (self._sign < 0)
            return progress.position >= rung

        def train(world: ThreadWorld) -> None:
            places = arrange(Shape((1,), 1), [HostFacts("host", {0})])
            worker = Worker(world, places, spin=False)
            worker.evaluate(self.plan.configuration(hyperparameters, 0, threads=1, device="cpu"), Hooks(prunes=seen))
            worker.dismiss()

        run_in_threads(1, train)
        return {position: value for position, value in found.items() if math.isfinite(value)}


@dataclass
class Asha:
    """Who goes on: the best third of those that have come to a rung (Li et al. 2020, with stopping)."""

    values: dict[int, list[float]] = field(default_factory=dict)

    def goes_on(self, rung: int, value: float) -> bool:
        """Whether a trial at a rung is among the best there, one at least; of equal ones the first."""
        there = self.values.setdefault(rung, [])
        there.append(value)
        return sum(other <= value for other in there) <= max(1, len(there) // FACTOR)


@dataclass(order=True)
class Running:
    """A trial on its way to a rung."""

    time: float
    number: int
    worker: int = field(compare=False)
    rung: int = field(compare=False)
    pace: float = field(compare=False)
    candidate: Candidate = field(compare=False)


class Simulation:
    """A search with ASHA on a simulated clock, within a budget of steps."""

    def __init__(self, task: str, sampler: str, seed: int, data: str) -> None:
        self.trainer = Trainer(task, data)
        plan = self.trainer.plan
        self.workers = workers_of(
            plan.space, SAMPLERS[sampler], seed, NUM_WORKERS, size=8, infeasibility=plan.infeasibility
        )
        self.rng = random.Random(seed)
        self.asha = Asha()
        self.left = WHOLE * self.trainer.length
        self.under_way: list[Running] = []
        self.count = 0
        self.ends: list[tuple[int, float]] = []  # of complete trainings: what was spent until then

    def run(self) -> list[tuple[int, float]]:
        """Steps spent, and the loss, of each complete training."""
        for worker in range(NUM_WORKERS):
            self._begin(0.0, worker)
        while self.under_way:
            running = heapq.heappop(self.under_way)
            if not self._goes_on(running):
                self._begin(running.time, running.worker)
        return self.ends

    def _begin(self, now: float, worker: int) -> None:
        if self.left <= 0:
            return
        proposer, island = self.workers[worker]
        island.receive()
        number, self.count = self.count, self.count + 1
        candidate = proposer.take(number, waiting)
        island.start(number, candidate.proposal.genes, candidate.proposal.attributes)
        self._go(Running(now, number, worker, 0, self.rng.lognormvariate(0, 0.3), candidate))

    def _go(self, running: Running) -> None:
        following = next(rung for rung in self.trainer.rungs if rung > running.rung)
        self.left -= following - running.rung
        running.time += running.pace * (following - running.rung)
        running.rung = following
        heapq.heappush(self.under_way, running)

    def _goes_on(self, running: Running) -> bool:
        """Judge a trial at its rung; its worker is free if it does not go on."""
        _, island = self.workers[running.worker]
        curve = self.trainer.curve(running.candidate.hyperparameters, running.rung)
        if running.rung not in curve:  # diverged
            island.drop(running.number)
            return False
        is_complete = running.rung == self.trainer.length
        if not is_complete and self.left > 0 and self.asha.goes_on(running.rung, curve[running.rung]):
            self._go(running)
            return True
        proposal = running.candidate.proposal
        individual = Individual(
            running.number,
            tuple(proposal.genes[name] for name in self.trainer.plan.space.limits()),
            (curve[running.rung],),
            0,
            island.rank,
            is_complete=is_complete,
            attributes=proposal.attributes,
            curve={} if is_complete else curve,
        )
        island.add(individual)
        if is_complete:
            self.ends.append((WHOLE * self.trainer.length - self.left, *individual.losses))
        return False


def searched(task: str, sampler: str, seed: int, data: str) -> dict[str, Any]:
    """A search's complete trainings, and the number of its trials."""
    simulation = Simulation(task, sampler, seed, data)
    return {"task": task, "sampler": sampler, "seed": seed, "ends": simulation.run(), "trials": simulation.count}


def summarize(rows: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The best complete training by the half and the whole of the budget: medians and intervals."""
    lines, figures = [], {}
    for task in TASKS:
        length = TASKS[task]["steps"]
        lines += [f"| {task} | after half the budget | after the whole | trials | seeds |", "| --- |" + " --- |" * 4]
        for sampler in SAMPLERS:
            own = [row for row in rows if (row["task"], row["sampler"]) == (task, sampler)]
            if not own:
                continue
            cells, told = [], {}
            for share in (0.5, 1.0):
                budget = math.inf if share == 1.0 else share * WHOLE * length
                found = [min((v for at, v in row["ends"] if at <= budget), default=math.inf) for row in own]
                finite = all(map(math.isfinite, found))
                low, high = interval(found) if finite else (min(found), math.inf)
                cells.append(f"{statistics.median(found):.4f} ({low:.4f}, {high:.4f})")
                told[str(share)] = found
            trials = statistics.median(row["trials"] for row in own)
            lines.append(f"| {sampler} | {cells[0]} | {cells[1]} | {trials:g} | {len(own)} |")
            figures[f"{task}, {sampler}"] = told
        lines.append("")
    return "\n".join(lines), figures


def main() -> None:
    options = parse_options(__doc__ or "", "one seed", "spoken_digits.npz and ETTh1.csv")
    done = Trainings(options.trials)
    known = {(row["task"], row["sampler"], row["seed"]) for row in done.rows}
    jobs = [
        (task, sampler, seed, options.data)
        for seed in range(1 if options.quick else 3)
        for task in TASKS
        for sampler in SAMPLERS
        if (task, sampler, seed) not in known
    ]
    with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for future in concurrent.futures.as_completed([pool.submit(searched, *job) for job in jobs]):
            row = future.result()
            best = min((value for _, value in row["ends"]), default=math.inf)
            done.add(row, (row["task"], row["sampler"], row["seed"], row["trials"], best))
    tables, figures = summarize(done.rows)
    words = "Losses of the best complete training: median and its interval (95 %)."
    report(options, "Samplers under ASHA", words, tables, {"figures": figures, "rows": done.rows})


if __name__ == "__main__":
    main()
