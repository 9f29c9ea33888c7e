"""What pruning saves: the incumbent of a search with ASHA after half the training steps of one without.

python benchmarks/pruning.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

Searches by the default sampler, 2 workers of one rank: ddp on digits_mlp up to 27 epochs, and on cifar10_subset with an
eighth of cifar10_cnn7's channels up to 9; rungs at 1, 2, 4, 8 (and 16) epochs. Without pruning 30 trials are trained,
with it three times as many, of which those count that have ended, pruned ones included, when half of the steps are used
up. The incumbents are compared, and the share of the steps at which ASHA was first as good. Five seeds. The factor of 2
was chosen on the curves of a random search with another seed, whose accuracies on cifar10_subset after one of 9 epochs
have a rank correlation of 0.43 with the last ones (0.78 after two): a factor of 3 ends too many there.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from comparison import Trainings, parse_options, report

from atoll.storage.store import Store

NARROW = f"{Path(__file__).parent / 'narrow.py'}:NarrowCifar10"
TASKS = {
    "digits": {"workload": "digits_mlp", "epochs": 27},
    "cifar10_subset": {"workload": NARROW, "epochs": 9},
}
QUICK = {"digits": {"workload": "digits_mlp", "epochs": 9}}
ASHA = {"rule": "asha", "grace": 1, "factor": 2}
Ended = list[tuple[int, float | None]]  # steps and objective of each trial, in the order in which they ended


def search(task: dict[str, Any], pruning: dict[str, Any] | None, seed: int, num_trials: int, data: str) -> Ended:
    """Run one search."""
    study = {"name": "s", "method": "ddp", "trials": num_trials, "seed": seed, "data": data, "pruning": pruning}
    study |= {"topology": {"workers": 2, "threads": 1, "device": "cpu"}}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "s.json").write_text(json.dumps(study | task))
        command = [sys.executable, "-m", "atoll.platform.cli", "search", "s.json", "--outside"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        store = Store(f"sqlite:///{folder}/atoll.db", create=False)
        trials = sorted(store.trials(store.study("s")), key=lambda trial: trial.finished or 0.0)
        last = {row.trial_id: row.step for row in store.progress([trial.id for trial in trials])}
        return [(last.get(t.id, 0), t.objective if t.state == "complete" else None) for t in trials]


def incumbents(ended: Ended) -> list[tuple[int, float]]:
    """Steps so far, and the best objective so far, after each trial."""
    steps, best, found = 0, float("-inf"), []
    for more, objective in ended:
        steps += more
        best = best if objective is None else max(best, objective)
        found.append((steps, best))
    return found


def compare(without: Ended, asha: Ended) -> dict[str, float | None]:
    """What ASHA has after half the steps, and after which share of them it was as good."""
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
    """One line a task: the incumbents of all seeds, and medians."""
    lines = [
        "| task | without | ASHA after half the steps | difference, median | share of the steps until as good |",
        "| --- | --- | --- | --- | --- |",
    ]
    figures = {}
    for name in dict.fromkeys(row["task"] for row in rows):
        pairs: dict[int, dict[str, Ended]] = {}
        for row in rows:
            if row["task"] == name:
                pairs.setdefault(row["seed"], {})[row["pruning"]] = row["ended"]
        seeds = [compare(pair["without"], pair["asha"]) for pair in pairs.values() if len(pair) == 2]
        difference = statistics.median(seed["asha"] - seed["without"] for seed in seeds)
        shares = [float("inf") if seed["reached"] is None else seed["reached"] for seed in seeds]
        shown = ", ".join("never" if seed["reached"] is None else f"{seed['reached']:.2f}" for seed in seeds)
        best = {key: " ".join(f"{100 * seed[key]:.1f}" for seed in seeds) for key in ("without", "asha")}
        lines.append(f"| {name} | {best['without']} | {best['asha']} | {100 * difference:+.1f} points | {shown} |")
        figures[name] = {"median_difference": difference, "median_share": statistics.median(shares), "seeds": seeds}
    return "\n".join(lines) + "\n", figures


def main() -> None:
    options = parse_options(__doc__ or "", "digits only, 2 seeds, 10 trials of 9 epochs", "cifar10_subset.npz")
    done = Trainings(options.trials)
    num_trials, num_seeds = (10, 2) if options.quick else (30, 5)
    known = {(row["task"], row["pruning"], row["seed"]) for row in done.rows}
    for seed in range(num_seeds):
        for name, task in (QUICK if options.quick else TASKS).items():
            for rule, pruning, count in (("without", None, num_trials), ("asha", ASHA, 3 * num_trials)):
                if (name, rule, seed) not in known:
                    ended = search(task, pruning, 1000 * seed, count, options.data)
                    row = {"task": name, "pruning": rule, "seed": seed, "ended": ended}
                    done.add(row, (name, rule, seed, incumbents(ended)[-1]))
    tables, figures = table(done.rows)
    words = "Validation accuracy in percent of the incumbents, one for each seed."
    report(options, "Pruning", words, tables, {"figures": figures, "searches": done.rows})


if __name__ == "__main__":
    main()
