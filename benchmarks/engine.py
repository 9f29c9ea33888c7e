"""A search's overhead outside trials: ours against stock Propulate 1.2.2 and Optuna 5, on an empty objective.

python benchmarks/engine.py [--quick] [--json FILE]

cost        milliseconds per evaluation and worker, including the journal: medians of 200 evaluations around the 500th
            and of each worker's last 200, and their ratio; ours as medians of five runs, as the machine's speed
            changes within minutes; ten parameters, a breeding population of 32, the genetic operators with their
            defaults. Optuna has random and TPE samplers, in memory and (random) in SQLite.
throughput  evaluations per second of 8 ranks, over 20,000.
memory      growth of a worker's process per individual, in bytes.
use         share of the workers' time in evaluations of log-normal length (sigma 1), for 8 workers, including the end,
            relative to a perfect list scheduler on the same times; trials sleep, so cores matter little. With the
            genetic operators, with TPE, and with the default (a Gaussian process and the genetic operators in turn):
            the slow samplers work while their worker trains.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import fields, make_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from comparison import say
from optuna.distributions import FloatDistribution

from atoll.methods.data_parallel.ddp import Ddp
from atoll.platform.launch.job_variables import rank_environment
from atoll.platform.launch.mpi_launcher import choose
from atoll.searchspaces.optimizer import SPACE as OPTIMIZER_SPACE
from atoll.searchspaces.space import Parameter, SearchSpace

DIMENSION = 10
POPULATION = 32
NUM_ROUNDS = 5
WINDOW = 200
TITLES = {"ours": "atoll", "stock": "stock Propulate 1.2.2"}


Numbers = make_dataclass("Numbers", [(f"x{i}", float, 0.5) for i in range(DIMENSION)], frozen=True, kw_only=True)


class Anything(Ddp):
    """A method with ten parameters, which is never trained."""

    Hyperparameters = Numbers
    search_space = SearchSpace(
        tuple(
            Parameter(name=field.name, distribution=FloatDistribution(0, 1), default=0.5) for field in fields(Numbers)
        ),
        exclude=tuple(OPTIMIZER_SPACE.names()),
    )


class EmptyObjective:
    """A worker of one rank whose trials do nothing, or sleep for a time that depends on the trial's number."""

    def __init__(self, rank: int, sleep: float) -> None:
        from atoll.platform.study.topology import Place

        fields: dict[str, Any] = {"island": 0, "rank": 0, "node": 0, "hostname": "here", "device": "cpu", "threads": 1}
        self.places = [Place(world_rank=rank, worker=rank, process=os.getpid(), may_spin=False, **fields)]
        self._sleep = sleep
        self.entered: list[float] = []
        self.busy = 0.0
        self.memory = 0

    def evaluate(self, configuration: Any, hooks: Any, **_: Any) -> Any:
        from atoll.platform.trial.outcome import Outcome

        self.entered.append(time.perf_counter())
        if len(self.entered) == WINDOW:
            self.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if self._sleep:
            until = time.perf_counter() + seconds_of(configuration.seed, self._sleep)
            while (left := until - time.perf_counter()) > 0:
                hooks.serve()
                time.sleep(min(left, 0.002))
            self.busy += time.perf_counter() - self.entered[-1]
        values = configuration.hyperparameters
        error = sum((values[f"x{i}"] - 0.3) ** 2 for i in range(DIMENSION))
        return Outcome("complete", error, {}, 0.0, 0.0, [], 0.0)

    def dismiss(self, serve: Any = None) -> None:
        pass


def seconds_of(number: int, mean: float) -> float:
    """The length of an evaluation: log-normal with sigma 1 and this mean."""
    return mean * random.Random(number).lognormvariate(-0.5, 1.0)


def run_ours(folder: Path, count: int, sleep: float, sampler: str = "propulate") -> dict[str, Any]:
    """One rank of our engine."""
    from mpi4py import MPI

    from atoll.communication.mpi_mailbox import MpiMailbox
    from atoll.platform.search.search_loop import SearchLoop
    from atoll.platform.study.plan import Plan
    from atoll.platform.study.study import Study
    from atoll.storage.folder import StudyFolder

    study = Study(
        name="engine",
        workload="digits_mlp",
        method=f"{__file__}:Anything",
        trials=count,
        sampler={"population": POPULATION} if sampler == "propulate" else {"name": sampler},
        topology={"workers": MPI.COMM_WORLD.size},
    )
    study_folder = StudyFolder(folder)
    study_folder.create()
    worker = EmptyObjective(MPI.COMM_WORLD.rank, sleep)
    sizes = (MPI.COMM_WORLD.size,)
    mailboxes = MpiMailbox(MPI.COMM_WORLD.Dup()), MpiMailbox(MPI.COMM_WORLD.Dup())
    root = SearchLoop.assemble(Plan.of(study), study_folder, worker, *mailboxes, sizes, launch=1)
    MPI.COMM_WORLD.Barrier()
    started = time.perf_counter()
    root.run()
    seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - worker.memory) * 1024
    held = count - WINDOW * MPI.COMM_WORLD.size
    lines = map(json.loads, study_folder.root_journal(worker.places[0].world_rank).read_text().splitlines())
    proposals = [line["proposal"] for line in lines if line["event"] == "trial_started"]
    thought = {name: [1000 * proposal[name] for proposal in proposals] for name in ("seconds", "waited")}
    return report(worker.entered) | {
        "seconds": seconds,
        "busy": worker.busy,
        "bytes": grown / max(1, held),
        "thought_ms": median(thought["seconds"]),
        "waited_ms": median(thought["waited"]),
    }


class Unblocked:
    """A communicator whose sends do not block: a single worker of stock Propulate would wait for itself forever."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._requests: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def send(self, message: Any, dest: int, tag: int = 0) -> None:
        self._requests = [request for request in self._requests if not request.Test()]
        self._requests.append(self._comm.isend(message, dest, tag))


def run_stock(folder: Path, count: int, _sleep: float) -> dict[str, Any]:
    """One rank of Propulate's own loop, on one island."""
    from mpi4py import MPI
    from propulate import Propulator
    from propulate.utils import get_default_propagator

    limits = {f"x{i}": (0.0, 1.0) for i in range(DIMENSION)}
    rng = random.Random(MPI.COMM_WORLD.rank)
    entered: list[float] = []

    def error(values: dict[str, float]) -> float:
        entered.append(time.perf_counter())
        return sum((values[f"x{i}"] - 0.3) ** 2 for i in range(DIMENSION))

    propulator = Propulator(
        loss_fn=error,
        propagator=get_default_propagator(POPULATION, limits, rng=rng),
        rng=rng,
        island_comm=Unblocked(MPI.COMM_WORLD),
        generations=count // MPI.COMM_WORLD.size,
        checkpoint_path=folder,
    )
    MPI.COMM_WORLD.Barrier()
    started = time.perf_counter()
    propulator.propulate(debug=0)
    return report(entered) | {"seconds": time.perf_counter() - started, "busy": 0.0, "bytes": 0.0}


def report(entered: list[float]) -> dict[str, Any]:
    """Median milliseconds between evaluations around the 500th and at the end."""
    gaps = [1000 * (after - before) for before, after in itertools.pairwise(entered)]
    return {"early_ms": median(gaps[400:600]), "late_ms": median(gaps[-WINDOW:]), "count": len(entered)}


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def run_optuna(sampler: str, count: int, sqlite: bool) -> dict[str, Any]:
    """Optuna in this process."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen = {"random": optuna.samplers.RandomSampler, "TPE": optuna.samplers.TPESampler}[sampler](seed=1)
    entered: list[float] = []

    def error(trial: optuna.Trial) -> float:
        entered.append(time.perf_counter())
        return sum((trial.suggest_float(f"x{i}", 0, 1) - 0.3) ** 2 for i in range(DIMENSION))

    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(sampler=chosen, storage=f"sqlite:///{folder}/optuna.db" if sqlite else None)
        study.optimize(error, n_trials=count)
    return report(entered)


def run_ranks(kind: str, size: int, count: int, sleep: float = 0.0) -> list[dict[str, Any]]:
    """The reports of all ranks of an MPI job."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *choose().command,
            "-n",
            str(size),
            sys.executable,
            __file__,
            "--rank",
            kind,
            folder,
            str(count),
            str(sleep),
        ]
        done = subprocess.run(
            command, env=rank_environment(), capture_output=True, text=True, timeout=3600, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
        return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank*.json"))]


def rank_main(kind: str, folder: str, count: str, sleep: str) -> None:
    from mpi4py import MPI

    run = run_stock if kind == "stock" else partial(run_ours, sampler="propulate" if kind == "ours" else kind)
    figures = run(Path(folder) / kind, int(count), float(sleep))
    (Path(folder) / f"rank{MPI.COMM_WORLD.rank}.json").write_text(json.dumps(figures))
    MPI.COMM_WORLD.Barrier()


def list_scheduler(count: int, mean: float, size: int) -> float:
    """The share of time that workers are busy when each takes the next evaluation as soon as it is free."""
    free = [0.0] * size
    times = [seconds_of(number, mean) for number in range(count)]
    for seconds in times:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return sum(times) / (size * max(free))


def cost(kind: str, size: int, count: int) -> dict[str, Any]:
    rounds = [run_ranks(kind, size, count * size) for _ in range(NUM_ROUNDS if kind == "ours" else 1)]
    early, late = ([median([rank[name] for rank in ranks]) for ranks in rounds] for name in ("early_ms", "late_ms"))
    ratios = [after / before for before, after in zip(early, late, strict=True)]
    figures = {
        "workers": size,
        "evaluations_per_worker": count,
        "early_ms": median(early),
        "late_ms": median(late),
        "ratio": median(ratios),
        "ratios": ratios,
    }
    if kind == "ours":
        figures["bytes_per_individual"] = round(max(rank["bytes"] for ranks in rounds for rank in ranks))
    return figures


def measure(quick: bool) -> dict[str, Any]:
    ours, stock, crowd = (3000, 1000, 2000) if quick else (50_000, 5000, 20_000)
    figures: dict[str, Any] = {"cost": {}, "throughput": {}, "use": {}}
    for size in (1, 2):
        for kind, count in (("ours", ours), ("stock", stock)):
            figures["cost"][f"{TITLES[kind]}, {size} workers"] = cost(kind, size, count)
    for sampler, sqlite, count in (
        ("random", False, stock),
        ("random", True, 600),
        ("TPE", False, 600 if quick else stock),
    ):
        name = f"Optuna {sampler}, {'SQLite' if sqlite else 'in memory'}"
        figures["cost"][name] = {"workers": 1, "evaluations_per_worker": count} | run_optuna(sampler, count, sqlite)
    for kind in ("ours", "stock"):
        ranks = run_ranks(kind, 8, crowd)
        figures["throughput"][TITLES[kind]] = {
            "evaluations": sum(r["count"] for r in ranks),
            "per_second": sum(r["count"] for r in ranks) / max(r["seconds"] for r in ranks),
        }
    figures["use"] = {
        "propulate": use("ours", 400, 0.05) if quick else use("ours", 3200, 0.15),
        "optuna-tpe": use("optuna-tpe", 80, 0.5) if quick else use("optuna-tpe", 800, 1.0),
        "mixed": use("mixed", 80, 0.5) if quick else use("mixed", 800, 1.0),
    }
    return figures


def use(kind: str, count: int, mean: float) -> dict[str, Any]:
    ranks = run_ranks(kind, 8, count, mean)
    share = sum(r["busy"] for r in ranks) / (8 * max(r["seconds"] for r in ranks))
    ideal = list_scheduler(count, mean, 8)
    thought = {name: median([r[name] for r in ranks if r[name] is not None]) for name in ("thought_ms", "waited_ms")}
    figures = {"evaluations": count, "mean_seconds": mean, "share": share, "list_scheduler": ideal}
    return figures | {"ratio": share / ideal} | thought


def lines(figures: dict[str, Any]) -> list[str]:
    shown = [f"{'':32}{'workers':>8}{'at 500':>10}{'at the end':>12}{'evaluations each':>18}  ratio"]
    for name, f in figures["cost"].items():
        early, late = f["early_ms"], f["late_ms"]
        times = f"{early:>7.2f} ms{late:>9.2f} ms"
        shown.append(
            f"{name:32}{f['workers']:>8}{times}{f['evaluations_per_worker']:>18}  {f.get('ratio', late / early):.2f}"
        )
    ours, stock = (figures["throughput"][title]["per_second"] for title in TITLES.values())
    held = max(f.get("bytes_per_individual", 0) for f in figures["cost"].values())
    evaluations = figures["throughput"][TITLES["ours"]]["evaluations"]
    return [
        *shown,
        f"8 ranks, {evaluations} evaluations: {ours:.0f} per second, stock {stock:.0f}, ratio {ours / stock:.1f}",
        f"memory per individual: {held} bytes",
        *(
            f"use of 8 workers over {u['evaluations']} evaluations of {u['mean_seconds']} s with {sampler}: "
            f"{u['share']:.4f}, list scheduler {u['list_scheduler']:.4f}: {u['ratio']:.4f} of it; a proposal took "
            f"{u['thought_ms']:.1f} ms, its worker waited {u['waited_ms']:.1f} ms"
            for sampler, u in figures["use"].items()
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer evaluations, under a minute")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    parser.add_argument("--rank", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank_main(*options.rank)
        return
    figures = measure(options.quick)
    say(options, figures, lines(figures))


if __name__ == "__main__":
    main()
