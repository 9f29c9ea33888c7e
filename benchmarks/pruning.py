"""The benefit of pruning: the incumbent of a search with ASHA after half the training steps of one without.

python benchmarks/pruning.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

Searches with the default sampler and 2 workers of one rank: ddp on digits_mlp up to 27 epochs, and on cifar10_subset
with an eighth of cifar10_cnn7's channels up to 9; rungs at 1, 2, 4, 8 (and 16) epochs. Without pruning 30 trials are
trained, with it three times as many, of which those that have ended (including pruned ones) by half of the steps count.
The results are the incumbents, and the share of the steps at which ASHA was first as good. Five seeds, factors 3 (the
default) and 2. The information at a rung is measured with 40 random trials of another seed: the rank correlation
(Spearman) of their accuracies there with their final ones.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comparison import Trainings, parse_options, report
from scipy import stats

from atoll.storage.models import ProgressRow, TrialRow
from atoll.storage.store import Store

NARROW = f"{Path(__file__).parent / 'narrow.py'}:NarrowCifar10"
TASKS = {
    "digits": {"workload": "digits_mlp", "epochs": 27},
    "cifar10_subset": {"workload": NARROW, "epochs": 9},
}
QUICK = {"digits": {"workload": "digits_mlp", "epochs": 9}}
RULES: dict[str, dict[str, Any] | None] = {
    "without": None,
    "factor 3": {"rule": "asha", "grace": 1, "factor": 3},
    "factor 2": {"rule": "asha", "grace": 1, "factor": 2},
}
RUNGS = (1, 2, 3, 4, 8)
RANDOM_SEED = 77_000
Ended = list[tuple[int, float | None]]  # steps and objective of each trial, in the order in which they ended


@contextmanager
def searched(study: dict[str, Any]) -> Iterator[tuple[list[TrialRow], list[ProgressRow]]]:
    """The trials of a search with 2 workers, in the order in which they ended, and their reports."""
    study = {"name": "s", "method": "ddp", "topology": {"workers": 2, "threads": 1, "device": "cpu"}} | study
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "s.json").write_text(json.dumps(study))
        command = [sys.executable, "-m", "atoll.platform.cli", "search", "s.json", "--outside"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        store = Store(f"sqlite:///{folder}/atoll.db", create=False)
        trials = sorted(store.trials(store.study("s")), key=lambda trial: trial.finished or 0.0)
        yield trials, store.progress([trial.id for trial in trials])


def search(study: dict[str, Any]) -> Ended:
    """Steps and objective of each trial."""
    with searched(study) as (trials, progress):
        last = {row.trial_id: row.step for row in progress}
        return [(last.get(t.id, 0), t.objective if t.state == "complete" else None) for t in trials]


def curves(study: dict[str, Any]) -> list[list[float]]:
    """The accuracies after each epoch of complete trials."""
    with searched(study) as (trials, progress):
        whole = {trial.id: [] for trial in trials if trial.state == "complete"}
        for row in progress:
            if row.trial_id in whole and row.metric is not None:
                whole[row.trial_id].append(row.metric)
        return list(whole.values())


def correlations(reports: list[list[float]]) -> dict[int, float]:
    """Rank correlation of the accuracies at the rungs with the final ones."""
    last = [curve[-1] for curve in reports]
    epochs = [epoch for epoch in RUNGS if epoch < len(reports[0])]
    return {epoch: float(stats.spearmanr([curve[epoch - 1] for curve in reports], last).statistic) for epoch in epochs}


def incumbents(ended: Ended) -> list[tuple[int, float]]:
    """Steps so far, and the best objective so far, after each trial."""
    steps, best, course = 0, float("-inf"), []
    for more, objective in ended:
        steps += more
        best = best if objective is None else max(best, objective)
        course.append((steps, best))
    return course


def compare(without: Ended, asha: Ended) -> dict[str, float | None]:
    """ASHA's incumbent after half the steps, and the share of the steps after which it was as good."""
    whole = incumbents(without)
    total, goal = whole[-1]
    curve = incumbents(asha)
    within = [best for steps, best in curve if steps <= total / 2]
    reached = [steps / total for steps, best in curve if best >= goal]
    return {
        "without": goal,
        "asha": within[-1],
        "reached": reached[0] if reached else None,
        "used": curve[-1][0] / total,
    }


def table(rows: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """One line per task: the incumbents of all seeds, and medians."""
    lines = [
        "| task | ASHA | without | after half the steps | difference, median | share of the steps until as good |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    figures = {}
    ended = {(row["task"], row["pruning"], row["seed"]): row["ended"] for row in rows if "ended" in row}
    for task, rule in itertools.product(TASKS, list(RULES)[1:]):
        pairs = [
            (without, ended[task, rule, seed])
            for (name, kind, seed), without in sorted(ended.items())
            if (name, kind) == (task, "without") and (task, rule, seed) in ended
        ]
        if not pairs:
            continue
        seeds = [compare(*pair) for pair in pairs]
        difference = statistics.median(seed["asha"] - seed["without"] for seed in seeds)
        shares = [float("inf") if seed["reached"] is None else seed["reached"] for seed in seeds]
        shown = ", ".join("never" if seed["reached"] is None else f"{seed['reached']:.2f}" for seed in seeds)
        best = {key: " ".join(f"{100 * seed[key]:.1f}" for seed in seeds) for key in ("without", "asha")}
        gained = f"{100 * difference:+.1f} points"
        lines.append(f"| {task} | {rule} | {best['without']} | {best['asha']} | {gained} | {shown} |")
        figures[f"{task}, {rule}"] = {
            "median_difference": difference,
            "median_share": statistics.median(shares),
            "seeds": seeds,
        }
    lines += ["", "Rank correlation of the accuracy after some epochs with the last one, random trials:", ""]
    for row in rows:
        if "curves" in row:
            by_epoch = correlations(row["curves"])
            shown = ", ".join(f"{value:.2f} after {epoch}" for epoch, value in by_epoch.items())
            lines.append(f"- {row['task']}, {len(row['curves'])} trials of {len(row['curves'][0])} epochs: {shown}")
            figures[f"{row['task']}, correlations"] = by_epoch
    return "\n".join(lines) + "\n", figures


def main() -> None:
    options = parse_options(__doc__ or "", "digits only, 2 seeds, 10 trials of 9 epochs", "cifar10_subset.npz")
    done = Trainings(options.trials)
    num_trials, num_seeds = (10, 2) if options.quick else (30, 5)
    known = {(row["task"], row["pruning"], row["seed"]) for row in done.rows}
    tasks = QUICK if options.quick else TASKS
    for seed, name, rule in itertools.product(range(num_seeds), tasks, RULES):
        if (name, rule, seed) not in known:
            count = num_trials if RULES[rule] is None else 3 * num_trials
            study = {"trials": count, "seed": 1000 * seed, "data": options.data, "pruning": RULES[rule]}
            ended = search(study | tasks[name])
            row = {"task": name, "pruning": rule, "seed": seed, "ended": ended}
            done.add(row, (name, rule, seed, incumbents(ended)[-1]))
    for name, task in tasks.items():
        if (name, "random", RANDOM_SEED) not in known:
            study = {
                "trials": num_trials + 10,
                "seed": RANDOM_SEED,
                "data": options.data,
                "sampler": {"name": "random"},
            }
            row = {"task": name, "pruning": "random", "seed": RANDOM_SEED, "curves": curves(study | task)}
            done.add(row, (name, correlations(row["curves"])))
    tables, figures = table(done.rows)
    words = "Validation accuracy in percent of the incumbents, one for each seed."
    report(options, "Pruning", words, tables, {"figures": figures, "searches": done.rows})


if __name__ == "__main__":
    main()
