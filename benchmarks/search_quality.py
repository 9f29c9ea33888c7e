"""The samplers' quality at equal numbers of evaluations: the best value by evaluations, on ten tasks.

python benchmarks/search_quality.py [--mpi | --held-out | --evolution] [--quick] [--trials FILE] [--output FOLDER]
    [--json FILE]

Six functions of the Propulate paper's suite, and four real trainings tabulated by benchmarks/grids.py. Eight workers of
one island on a simulated clock, each with its own sampler, which receives all individuals; evaluations take log-normal
times (sigma 0.5). 400 evaluations, 10 seeds (Gaussian process: 200 and 3). The optima of rastrigin, griewank and
bisphere are in the middle of their ranges, where CMA-ES starts, so they are moved at random by up to a quarter of the
range. There is no default configuration. --mpi adds whole searches over MPI on two of the trainings. --held-out
compares candidates for atoll's default sampler on six other functions, by which the default is chosen. --evolution
compares `evolution` with `propulate` on the ten tasks, of which none was used to design it: the functions of --held-out
and own ones were.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import heapq
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from comparison import Trainings, report
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from propulate.utils.benchmark_functions import get_function_search_space
from pydantic import TypeAdapter
from scipy import stats

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search import propagators
from atoll.platform.search.island import Island
from atoll.platform.search.population import Individual, Population
from atoll.platform.search.proposals import Candidate, Proposer
from atoll.platform.study.migration import Migration
from atoll.platform.study.plan import search_space
from atoll.platform.study.related import Related
from atoll.platform.study.samplers import Sampler
from atoll.searchspaces.space import Infeasibility, Parameter, SearchSpace

Loss = Callable[[dict[str, Any]], float]

FUNCTIONS = ("rosenbrock", "step", "rastrigin", "griewank", "schwefel", "bisphere")
HELD_OUT = ("quartic", "birastrigin", "bukin", "eggcrate", "keane", "leon")
CENTRED = ("rastrigin", "griewank", "bisphere", "quartic", "eggcrate")
TABLES = ("ddp", "daso", "easgd", "oialr")
GP, CMAES, NSGA2, TPE, GENETIC, EVOLUTION = (
    {"name": name} for name in ("optuna-gp", "optuna-cmaes", "optuna-nsga2", "optuna-tpe", "propulate", "evolution")
)
SAMPLERS: dict[str, dict[str, Any]] = {
    "evolution": {"name": "evolution"},
    "propulate": {"name": "propulate"},
    "optuna-tpe": {"name": "optuna-tpe"},
    "optuna-cmaes": {"name": "optuna-cmaes"},
    "optuna-nsga2": {"name": "optuna-nsga2"},
    "optuna-nsga3": {"name": "optuna-nsga3"},
    "optuna-gp": {"name": "optuna-gp"},
    "optuna-qmc": {"name": "optuna-qmc"},
    "random": {"name": "random"},
    "grid": {"name": "grid", "points": 20},
    "mixed": {"name": "mixed"},
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "propulate": GENETIC,
    "evolution": EVOLUTION,
    "optuna-nsga2": NSGA2,
    "optuna-tpe": TPE,
    "optuna-cmaes": CMAES,
    "gp+propulate": {"name": "mixed", "samplers": [GP, GENETIC]},
    "gp+evolution": {"name": "mixed", "samplers": [GP, EVOLUTION]},
    "gp+nsga2": {"name": "mixed", "samplers": [GP, NSGA2]},
    "gp+propulate+propulate": {"name": "mixed", "samplers": [GP, GENETIC, GENETIC]},
    "gp+cmaes+propulate": {"name": "mixed", "samplers": [GP, CMAES, GENETIC]},
    "tpe+propulate": {"name": "mixed", "samplers": [TPE, GENETIC]},
    "random": {"name": "random"},
}
NUM_WORKERS = 8
OVER_MPI = ", over MPI"


def function_task(name: str, seed: int) -> tuple[SearchSpace, Loss]:
    """One of Propulate's functions; an optimum in the middle of its range is moved."""
    function, limits = get_function_search_space(name)
    parameters = (
        Parameter(name=n, distribution=FloatDistribution(*ends), default=ends[0]) for n, ends in limits.items()
    )
    rng = random.Random(f"{name}/{seed}")
    moved = {n: rng.uniform(-0.25, 0.25) * (b - a) * (name in CENTRED) for n, (a, b) in limits.items()}
    return SearchSpace(tuple(parameters)), lambda v: float(function({n: v[n] - moved[n] for n in limits}))


@cache
def table_of(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(__file__).parent / "tables" / f"{name}.json").read_text())
    return content


def rounded(values: Iterable[Any]) -> tuple[Any, ...]:
    """A key of a table: decoded numbers have 13 digits, and had all when the tables were made."""
    return tuple(float(f"{value:.9g}") if isinstance(value, float) else value for value in values)


def table_task(name: str) -> tuple[SearchSpace, Loss]:
    """A tabulated training: parameters are positions on the grid's axes; NaN if the training failed."""
    from atoll.platform.study.study import Study

    table = table_of(name)
    losses = {rounded(json.loads(key)): tabulated for key, tabulated in table["losses"].items()}
    study = Study(name=name, **table["study"])
    trained, axes = search_space(study), table["axes"]
    parameters = tuple(
        Parameter(
            name=p.name,
            distribution=CategoricalDistribution(range(len(axes[p.name])))
            if isinstance(p.distribution, CategoricalDistribution)
            else IntDistribution(0, len(axes[p.name]) - 1),
            default=0,
        )
        for p in trained.parameters
    )

    def loss(places: dict[str, Any]) -> float:
        values = trained.decode({n: axes[n][place] for n, place in places.items()})
        tabulated_loss = losses[rounded(values.get(name) for name in trained.limits())]
        return math.nan if tabulated_loss is None else float(tabulated_loss)

    return SearchSpace(parameters), loss


def task_of(name: str, seed: int) -> tuple[SearchSpace, Loss]:
    return table_task(name) if name in TABLES else function_task(name, seed)


def waiting(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.0005)


def simulate(task: str, sampler: str, seed: int, count: int, num_workers: int = NUM_WORKERS) -> list[float]:
    """The best loss of a task after each finished evaluation."""
    space, loss = task_of(task, seed)
    return simulated(space, loss, (SAMPLERS | CANDIDATES)[sampler], seed, count, num_workers)


def workers_of(
    space: SearchSpace,
    sampler: dict[str, Any],
    seed: int,
    num_workers: int,
    *,
    size: int,
    infeasibility: Infeasibility | None = None,
    related: Sequence[Related] = (),
) -> list[tuple[Proposer, Island]]:
    """The workers of one island, each with its own sampler; `size` is that of the breeding population."""
    settings = TypeAdapter(Sampler).validate_python(sampler)
    workers = []
    for mailbox, roots in zip(LocalMailbox.connected(num_workers), LocalMailbox.connected(num_workers), strict=True):
        population = Population(size)
        propagator = propagators.make(settings, space, population, seed=seed, related=related)
        proposer = Proposer(propagator, space, infeasibility or space.violated, seed)
        island = Island(
            population=population,
            proposer=proposer,
            migration=Migration(),
            island_sizes=[num_workers],
            index=0,
            workers=mailbox,
            roots=roots,
            seed=seed,
        )
        workers.append((proposer, island))
    return workers


def simulated(
    space: SearchSpace,
    loss: Loss,
    sampler: dict[str, Any],
    seed: int,
    count: int,
    num_workers: int,
    related: Sequence[Related] = (),
) -> list[float]:
    """The best loss after each finished evaluation; `related` are sources of `learn_from`."""
    np.random.seed(seed)
    workers = workers_of(space, sampler, seed, num_workers, size=32, related=related)
    rng = random.Random(seed)
    best, curve, under_way = math.inf, [], []
    free = [(0.0, worker) for worker in range(num_workers)]
    ahead: dict[int, tuple[int, Candidate]] = {}
    numbers = iter(range(count))

    def propose(worker: int) -> tuple[int, Candidate] | None:
        workers[worker][1].receive()
        number = next(numbers, None)
        return None if number is None else (number, workers[worker][0].take(number, waiting))

    def begin(now: float, worker: int) -> None:
        """As the root does: a slow sampler thinks while the trial before trains, with what it knew when that began."""
        proposer, island = workers[worker]
        proposed = ahead.pop(worker, None) or propose(worker) or (ahead.pop(min(ahead)) if ahead else None)
        if proposed is None:
            return
        number, candidate = proposed
        island.start(number, candidate.proposal.genes, candidate.proposal.attributes)
        heapq.heappush(under_way, (now + rng.lognormvariate(0, 0.5), number, worker, candidate))
        if proposer.is_slow and (following := propose(worker)) is not None:
            ahead[worker] = following

    for now, worker in free:
        begin(now, worker)
    while under_way:
        now, ended, worker, candidate = heapq.heappop(under_way)
        island, value = workers[worker][1], loss(candidate.hyperparameters)
        if math.isnan(value):
            island.drop(ended)
        else:
            genes = tuple(candidate.proposal.genes[name] for name in space.limits())
            attributes = candidate.proposal.attributes
            island.add(Individual(ended, genes, (value,), 0, island.rank, attributes=attributes))
            best = min(best, value)
        curve.append(best)
        begin(now, worker)
    return curve


def jobs(quick: bool, held_out: bool, evolution: bool) -> list[tuple[str, str, int, int]]:
    """Task, sampler, seed and number of evaluations of each simulation."""
    if evolution:
        seeds, count = (2, 100) if quick else (60, 400)
        return [
            (task, name, seed, count)
            for seed in range(seeds)
            for task in (*FUNCTIONS, *TABLES)
            for name in ("evolution", "propulate", "random")
        ]
    if held_out:
        seeds, count = (1, 100) if quick else (3, 400)
        return [(task, name, seed, count) for seed in range(seeds) for task in HELD_OUT for name in CANDIDATES]
    seeds, count, gp_seeds, gp_count = (2, 100, 1, 30) if quick else (10, 400, 3, 200)
    return [
        (task, sampler, seed, gp_count if sampler == "optuna-gp" else count)
        for seed in range(seeds)
        for sampler in SAMPLERS
        for task in (*FUNCTIONS, *TABLES)
        # 20 points an axis are too many in more than 2 dimensions; a table is its own grid.
        if (sampler != "optuna-gp" or seed < gp_seeds) and (sampler != "grid" or task in ("rosenbrock", *TABLES))
    ]


def interval(values: list[float]) -> tuple[float, float]:
    """A 95 % bootstrap interval of the median."""
    if len(set(values)) == 1:
        return values[0], values[0]
    result = stats.bootstrap(
        (values,),
        np.median,
        n_resamples=2000,
        method="percentile",
        random_state=np.random.default_rng(0),
        vectorized=True,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def summarize(rows: list[dict[str, Any]], at: int) -> dict[str, dict[str, dict[str, float]]]:
    """The median best value after `at` evaluations, with its interval, by task and sampler."""
    groups: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if len(row["curve"]) >= at:
            groups.setdefault(row["task"], {}).setdefault(row["sampler"], []).append(row["curve"][at - 1])
    return {
        task: {
            sampler: {"median": statistics.median(v), "low": interval(v)[0], "high": interval(v)[1], "seeds": len(v)}
            for sampler, v in samplers.items()
        }
        for task, samplers in groups.items()
    }


def verdicts(summary: dict[str, dict[str, dict[str, float]]], sampler: str) -> dict[str, bool]:
    """Whether a sampler's median is inside the interval of the task's best sampler, or better."""
    within = {}
    for task, samplers in summary.items():
        best = min(samplers.values(), key=lambda s: s["median"])
        within[task] = samplers[sampler]["median"] <= best["high"]
    return within


def contest(rows: list[dict[str, Any]], checkpoints: list[int]) -> tuple[str, dict[str, Any]]:
    """How `evolution` compares with `propulate` on each task, by the intervals of the medians."""
    lines, figures = [], {}
    for at in checkpoints:
        verdicts: dict[str, str] = {}
        for task, samplers in summarize(rows, at).items():
            ours, theirs = samplers["evolution"], samplers["propulate"]
            if ours["high"] < theirs["low"]:
                verdicts[task] = "better"
            elif theirs["high"] < ours["low"]:
                verdicts[task] = "worse"
            else:
                verdicts[task] = "equal" if ours["median"] == theirs["median"] else "intervals overlap"
        figures[str(at)] = verdicts
        shown = ", ".join(f"{task} {verdict}" for task, verdict in verdicts.items())
        lines.append(f"`evolution` against `propulate` after {at} evaluations: {shown}.\n")
    return "\n".join(lines), figures


def targets_of(rows: list[dict[str, Any]], task: str) -> list[float]:
    """Twenty values on a log scale, from random search's after 20 evaluations to the best of all samplers."""
    curves = [row["curve"] for row in rows if row["task"] == task]
    best = min(curve[-1] for curve in curves)
    start = statistics.median(row["curve"][19] for row in rows if row["task"] == task and row["sampler"] == "random")
    scale = max(start - best, 1e-12)
    return [best + scale * 10 ** (-3 * k / 19) for k in range(20)]


def ecdf(rows: list[dict[str, Any]], sampler: str, length: int) -> list[float]:
    """The share of (task, seed, target) that a sampler has reached, by evaluations."""
    hits, total = np.zeros(length), 0
    for task in dict.fromkeys(row["task"] for row in rows):
        targets = targets_of(rows, task)
        for row in (r for r in rows if r["task"] == task and r["sampler"] == sampler):
            curve = np.array(row["curve"][:length])
            for target in targets:
                reached = np.flatnonzero(curve <= target)
                total += 1
                if len(reached):
                    hits[reached[0] :] += 1
    return [float(share) for share in hits / max(total, 1)]


def complete(rows: list[dict[str, Any]], length: int) -> list[str]:
    """The samplers with at least `length` evaluations of all tasks, whose shares of targets are comparable."""
    tasks = {row["task"] for row in rows}
    by_sampler: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_sampler.setdefault(row["sampler"], []).append(row)
    return [
        sampler
        for sampler, some in by_sampler.items()
        if {row["task"] for row in some} == tasks and all(len(row["curve"]) >= length for row in some)
    ]


def draw(rows: list[dict[str, Any]], length: int) -> Callable[[Path], None]:
    """Best value against evaluations for every task, medians over seeds, and the ECDF over targets of the simulated.

    Searches over MPI, which have continuous spaces and few seeds, are drawn with the medians' intervals.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def save(file: Path) -> None:
        tasks = list(dict.fromkeys(row["task"] for row in rows))
        used = list(dict.fromkeys(row["sampler"] for row in rows))
        num_rows = -(-(len(tasks) + 2) // 4)
        figure, axes = plt.subplots(num_rows, 4, figsize=(16, 3.4 * num_rows), layout="constrained")
        shares, legend, *empty = axes.flat[len(tasks) :]
        for axis, task in zip(axes.flat, tasks, strict=False):
            lowest = min(row["curve"][-1] for row in rows if row["task"] == task)
            for number, sampler in enumerate(used):
                curves = [r["curve"] for r in rows if (r["task"], r["sampler"]) == (task, sampler)]
                if curves:
                    some = np.array([c[: min(map(len, curves))] for c in curves]) - lowest + 1e-6
                    evaluations = np.arange(1, some.shape[1] + 1)
                    axis.plot(evaluations, np.median(some, axis=0), color=f"C{number}", label=sampler)
                    if task.endswith(OVER_MPI):
                        low, high = np.array([interval(list(values)) for values in some.T]).T
                        axis.fill_between(evaluations, low, high, color=f"C{number}", alpha=0.2)
            axis.set(title=task, xlabel="evaluations", yscale="log")
        simulated = [row for row in rows if not row["task"].endswith(OVER_MPI)]
        solved_all = complete(simulated, length)
        for number, sampler in enumerate(used):
            if sampler in solved_all:
                shares.plot(ecdf(simulated, sampler, length), color=f"C{number}")
        for axis in (legend, *empty):
            axis.axis("off")
        shares.set(title="targets reached, all simulated tasks", xlabel="evaluations", ylim=(0, 1))
        axes.flat[0].set_ylabel("above the best known, median")
        drawn = {
            label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        legend.legend(drawn.values(), drawn.keys(), loc="center")
        figure.savefig(file)
        plt.close(figure)

    return save


def tables(rows: list[dict[str, Any]], checkpoints: list[int]) -> tuple[str, dict[str, Any]]:
    lines, figures = [], {}
    for at in checkpoints:
        summary = summarize(rows, at)
        used = [s for s in SAMPLERS | CANDIDATES if any(s in samplers for samplers in summary.values())]
        lines += [f"Best value after {at} evaluations, median and its interval (95 %):", ""]
        lines += [f"| task | {' | '.join(used)} |", f"| --- |{' --- |' * len(used)}"]
        for task, samplers in summary.items():
            cells = [
                f"{samplers[s]['median']:.4g} ({samplers[s]['low']:.3g}, {samplers[s]['high']:.3g})"
                if s in samplers
                else ""
                for s in used
            ]
            lines.append(f"| {task} | {' | '.join(cells)} |")
        counts = {s: sum(verdicts({t: x for t, x in summary.items() if s in x}, s).values()) for s in used}
        lines += [
            "",
            "Within the interval of the best sampler, or better: " + ", ".join(f"{s} {n}" for s, n in counts.items()),
        ]
        lines.append("")
        figures[str(at)] = {"summary": summary, "within": counts}
    return "\n".join(lines), figures


def over_mpi(quick: bool, done: Trainings) -> None:
    """Whole searches of two trainings over MPI: 4 workers of 2 ranks for some samplers, several seeds."""
    from grids import study_of

    from atoll.storage.store import Store

    known = {(row["task"], row["sampler"], row["seed"]) for row in done.rows}
    for seed in range(2 if quick else 5):
        for method in ("ddp", "daso"):
            for sampler in ("mixed", "optuna-tpe", "random"):
                name = method + OVER_MPI
                if (name, sampler, seed) in known:
                    continue
                study = study_of(method).model_dump(mode="json", exclude_none=True)
                study |= {"sampler": SAMPLERS[sampler], "seed": 1000 * seed, "trials": 16 if quick else 64}
                study["topology"] |= {"workers": 4}
                with tempfile.TemporaryDirectory() as folder:
                    (Path(folder) / "s.json").write_text(json.dumps(study))
                    command = [sys.executable, "-m", "atoll.platform.cli", "search", "s.json"]
                    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                    store = Store(f"sqlite:///{folder}/atoll.db", create=False)
                    trials = sorted(store.trials(store.study(method)), key=lambda t: t.finished or math.inf)
                losses = [t.objective if t.state == "complete" else math.inf for t in trials]
                curve = [float(value) for value in np.minimum.accumulate(losses)]
                done.add(
                    {"task": name, "sampler": sampler, "seed": seed, "curve": curve}, (name, sampler, seed, curve[-1])
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 evaluations, 2 seeds")
    parser.add_argument("--mpi", action="store_true", help="add searches over MPI")
    parser.add_argument("--held-out", action="store_true", help="choose a default sampler, on other functions")
    parser.add_argument("--evolution", action="store_true", help="compare evolution with propulate only")
    parser.add_argument(
        "--trials", type=Path, metavar="FILE", help="add each curve to this file, and skip those that it has"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write table, figure and JSON here")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    done = Trainings(options.trials)
    known = {(row["task"], row["sampler"], row["seed"]) for row in done.rows}
    waiting = [job for job in jobs(options.quick, options.held_out, options.evolution) if job[:3] not in known]
    with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        futures = {pool.submit(simulate, *job): job for job in waiting}
        for future in concurrent.futures.as_completed(futures):
            task, sampler, seed, _ = futures[future]
            curve = future.result()
            done.add({"task": task, "sampler": sampler, "seed": seed, "curve": curve}, (task, sampler, seed, curve[-1]))
    if options.mpi:
        over_mpi(options.quick, done)
    simulated = [row for row in done.rows if not row["task"].endswith(OVER_MPI)]
    checkpoints = [30, 100] if options.quick else [100, 200, 400]
    text, figures = tables(simulated, checkpoints)
    if options.evolution:
        more, figures["evolution"] = contest(simulated, checkpoints[-2:])
        text += "\n" + more
    whole = [row for row in done.rows if row["task"].endswith(OVER_MPI)]
    if whole:
        length = min(len(row["curve"]) for row in whole)
        more, figures["mpi"] = tables(whole, [length // 4, length])
        text += "\n" + more
    words = "Losses: smaller is better. Times are simulated, evaluations and samplers are real."
    shares = ", ".join(
        f"{sampler} {ecdf(simulated, sampler, checkpoints[-1])[-1]:.2f}"
        for sampler in complete(simulated, checkpoints[-1])
    )
    text += f"\nShare of the targets reached after {checkpoints[-1]} evaluations: {shares}\n"
    thinned = [
        row | {"curve": [float(f"{value:.6g}") for value in row["curve"][9::10]]} for row in done.rows
    ]  # after 10, 20, ... evaluations
    content = {"figures": figures, "curves": thinned}
    report(
        options,
        "Search quality",
        words,
        text,
        content,
        ("Best value against evaluations", draw(done.rows, checkpoints[-1])),
        name="search_quality_held_out" if options.held_out else "search_evolution" if options.evolution else None,
    )


if __name__ == "__main__":
    main()
