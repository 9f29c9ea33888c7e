"""How DOWNPOUR, EASGD and EAMSGD bear long communication periods: the central claim of source 003, chapter 4.

python benchmarks/easgd_robustness.py [--quick] [--data FOLDER] [--output FOLDER] [--json FILE]

4 ranks, the asynchronous forms, beta = 0.9, alpha = beta/p, delta = 0.99, constant rates, batch 8 a rank.

- digits_mlp: tau in {1, 4, 16, 64}, table 4.1's three rates of each method times 4 (the source trains for hours, this for
  2,340 steps), seeds 0, 1, 2; for each method and tau the rate with the best mean validation accuracy is reported.
- cifar10_subset (where --data or ATOLL_DATA has it): a narrow version of the 7-layer network (16, 32, 16 channels, 64
  units), tau in {1, 16, 64}, seeds 0, 1, 2, one of the three rates times 4: the largest of DOWNPOUR and EASGD, the smallest
  of EAMSGD, which did not leave chance with the larger ones (a pilot at tau = 1, seed 0, by validation accuracy).

Reported is the test accuracy of the trained center; a trial that diverges counts with chance, 0.1, and is marked. The
validation data choose, the test data report. Writes a table (easgd_robustness.md), a figure and the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

RATES = {"downpour": (0.02, 0.004, 0.002), "easgd": (0.2, 0.04, 0.02), "eamsgd": (0.04, 0.02, 0.004)}
CIFAR_RATES = {"downpour": 0.02, "easgd": 0.2, "eamsgd": 0.004}
MOMENTUM = {"downpour": 0.0, "easgd": 0.0, "eamsgd": 0.99}
NUM_RANKS, BATCH_SIZE, CHANCE = 4, 8, 0.1
NARROW = f"{Path(__file__).resolve()}:NarrowCifar10"


def plan(quick: bool, with_cifar: bool) -> list[dict]:
    """One entry per training."""
    seeds = (0,) if quick else (0, 1, 2)
    digits = [
        {"workload": "digits_mlp", "epochs": 10 if quick else 60, "method": m, "tau": tau, "rate": rate, "seed": seed}
        for m, rates in RATES.items()
        for tau in ((1, 64) if quick else (1, 4, 16, 64))
        for rate in (rates[1:2] if quick else rates)
        for seed in seeds
    ]
    cifar = [
        {"workload": NARROW, "epochs": 1 if quick else 15, "method": m, "tau": tau, "rate": rate, "seed": seed}
        for m, rate in CIFAR_RATES.items()
        for tau in ((1, 64) if quick else (1, 16, 64))
        for seed in seeds
    ]
    return digits + (cifar if with_cifar else [])


def train_all(entries: list[dict], data: str | None) -> list[dict] | None:
    """What one rank does; rank 0 returns the results."""
    import torch
    from mpi4py import MPI

    from atoll.platform.configuration import Configuration
    from atoll.platform.search import arrange_world
    from atoll.platform.study import Study, Topology
    from atoll.platform.worker import Worker

    world = MPI.COMM_WORLD
    topology = Topology(ranks=world.size, threads=1, device="cpu")
    places = arrange_world(Study(name="r", workload="digits_mlp", method="easgd", topology=topology), world)
    torch.set_num_threads(1)
    worker = Worker(world.Dup(), places, spin=False)
    results = None
    if not worker.is_root:
        worker.obey()
    else:
        results = []
        for number, entry in enumerate(entries, 1):
            hyperparameters = {
                "tau": entry["tau"],
                "learning_rate": entry["rate"],
                "momentum": MOMENTUM[entry["method"]],
                "batch_size": BATCH_SIZE,
                "schedule": "constant",
            }
            configuration = Configuration(
                workload=entry["workload"],
                method=entry["method"],
                hyperparameters=hyperparameters,
                epochs=entry["epochs"],
                seed=entry["seed"],
                ranks=world.size,
                threads=1,
                device="cpu",
                data=data,
            )
            outcome = worker.evaluate(configuration, lambda _: None, test=True)
            complete = outcome.state == "complete"
            results.append(
                entry
                | {
                    "validation_accuracy": outcome.objective if complete else CHANCE,
                    "test_accuracy": outcome.metrics["test_accuracy"] if complete else CHANCE,
                    "reason": outcome.reason,
                    "seconds": outcome.seconds,
                }
            )
            print(f"{number}/{len(entries)} {results[-1]}", file=sys.stderr, flush=True)
            if not complete and "Diverged" not in (outcome.reason or ""):
                raise SystemExit(f"a trial failed for another reason: {outcome.reason}\n{outcome.traceback}")
        worker.dismiss()
    worker.close()
    return results


def summarise(results: list[dict]) -> dict[str, dict[str, dict[int, dict]]]:
    """Workload -> method -> tau -> the chosen rate's test accuracies."""
    trials: dict[tuple, list[dict]] = defaultdict(list)
    for r in results:
        trials[r["workload"], r["method"], r["tau"], r["rate"]].append(r)
    chosen: dict = defaultdict(lambda: defaultdict(dict))
    for (workload, method, tau, rate), group in trials.items():
        row = {
            "rate": rate,
            "validation": statistics.mean(r["validation_accuracy"] for r in group),
            "test": statistics.mean(r["test_accuracy"] for r in group),
            "test_all": [r["test_accuracy"] for r in group],
            "diverged": sum(r["reason"] is not None for r in group),
        }
        name = "cifar10_subset, narrow cnn7" if workload == NARROW else workload
        best = chosen[name][method].get(tau)
        if best is None or row["validation"] > best["validation"]:
            chosen[name][method][tau] = row
    return chosen


def table(summary: dict) -> str:
    lines = []
    for workload, methods in summary.items():
        taus = sorted(next(iter(methods.values())))
        lines += [f"### {workload}", "", f"| method | {' | '.join(f'tau = {t}' for t in taus)} | from first to last |"]
        lines.append("| --- " * (len(taus) + 2) + "|")
        for method, rows in methods.items():
            cells = []
            for tau in taus:
                row = rows[tau]
                spread = max(row["test_all"]) - min(row["test_all"])
                word = f", {row['diverged']} diverged" if row["diverged"] else ""
                cells.append(f"{row['test']:.3f} (± {spread / 2:.3f}; rate {row['rate']:g}{word})")
            change = 100 * (rows[taus[-1]]["test"] - rows[taus[0]]["test"])
            lines.append(f"| {method} | {' | '.join(cells)} | {change:+.1f} points |")
        lines.append("")
    return "\n".join(lines)


def draw(summary: dict, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "atoll"  # the same figures make the same file
    from matplotlib import pyplot as plt

    colors = {"downpour": "#d55e00", "easgd": "#0072b2", "eamsgd": "#009e73"}
    made, axes = plt.subplots(1, len(summary), figsize=(5 * len(summary), 3.6), squeeze=False)
    for axis, (workload, methods) in zip(axes[0], summary.items(), strict=True):
        for method, rows in methods.items():
            taus = sorted(rows)
            means = [rows[t]["test"] for t in taus]
            below = [m - min(rows[t]["test_all"]) for t, m in zip(taus, means, strict=True)]
            above = [max(rows[t]["test_all"]) - m for t, m in zip(taus, means, strict=True)]
            labels = [str(t) for t in taus]
            axis.errorbar(labels, means, [below, above], label=method, color=colors[method], marker="o", capsize=3)
        axis.set(title=workload, xlabel="communication period tau, steps", ylabel="test accuracy of the center")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    made.tight_layout()
    made.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one rate, one seed, two periods, short trainings")
    parser.add_argument("--data", default=os.environ.get("ATOLL_DATA"), help="folder of cifar10_subset.npz")
    parser.add_argument("--output", metavar="FOLDER", help="write table, figure and JSON here")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    with_cifar = options.data is not None and (Path(options.data) / "cifar10_subset.npz").is_file()
    entries = plan(options.quick, with_cifar)
    if "ATOLL_ROBUSTNESS_RANK" in os.environ:
        results = train_all(entries, options.data)
        if results is not None:
            print(json.dumps(results), flush=True)
        return
    from atoll.platform import supervise

    environment = supervise.rank_environment() | {"ATOLL_ROBUSTNESS_RANK": "1", "OMP_NUM_THREADS": "1"}
    command = [supervise.mpiexec(), "-n", str(NUM_RANKS), sys.executable, *sys.argv]
    job = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    results = json.loads(job.stdout.splitlines()[-1])
    for r in results:
        r["workload"] = NARROW if r["workload"].endswith(":NarrowCifar10") else r["workload"]
    summary = summarise(results)
    text = table(summary)
    said = f"python benchmarks/easgd_robustness.py{' --quick' if options.quick else ''}"
    content = {
        "command": said,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "ranks": NUM_RANKS,
        "seeds": sorted({r["seed"] for r in results}),
        "summary": summary,
        "trials": [r | {"workload": r["workload"].rpartition("/")[2]} for r in results],
    }
    if options.output:
        folder = Path(options.output)
        head = f"# Test accuracy against the communication period\n\n`{said}`, seeds {content['seeds']}, "
        head += f"{NUM_RANKS} ranks on {content['machine']}. Mean over seeds (± half their range).\n\n"
        picture = "![The same as a figure](easgd_robustness.svg)\n"
        (folder / "easgd_robustness.md").write_text(head + text + "\n" + picture)
        (folder / "easgd_robustness.json").write_text(json.dumps(content, indent=1) + "\n")
        draw(summary, folder / "easgd_robustness.svg")
    if options.json:
        words = json.dumps(content, indent=1)
        print(words) if options.json == "-" else Path(options.json).write_text(words + "\n")
    if options.json != "-":
        print(text)


def __getattr__(name: str):
    """The narrow workload, made when the trial's registry asks for it: the script itself needs no torch."""
    if name != "NarrowCifar10":
        raise AttributeError(name)
    from atoll.platform.workloads.cifar10 import Cifar10Cnn7, cnn7

    class NarrowCifar10(Cifar10Cnn7):
        """The 7-layer network with a quarter of its channels and units."""

        def model(self):
            """Channels 16, 32, 16 and 64 units."""
            return cnn7(16, 32, 16, 64)

    return NarrowCifar10


if __name__ == "__main__":
    main()
