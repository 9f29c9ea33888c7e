"""What pruning saves: searches with and without ASHA, at equal seeds, samplers and budgets of trials.

python benchmarks/pruning.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

Searches of 40 trials by the default sampler, 2 workers of one rank: ddp on digits_mlp up to 27 epochs, and on
cifar10_subset with an eighth of cifar10_cnn7's channels up to 9; rungs at 1, 3, 9 (and 27) epochs. The steps are those
of all trials, pruned ones included; the best objective is the incumbent's metric at the search's end. Five seeds.
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

TASKS = {
    "digits": {"workload": "digits_mlp", "epochs": 27},
    "cifar10_subset": {"workload": f"{Path(__file__).parent / 'narrow.py'}:NarrowCifar10", "epochs": 9},
}
QUICK = {"digits": {"workload": "digits_mlp", "epochs": 9}}
RULES: dict[str, dict[str, Any] | None] = {"without": None, "asha": {"rule": "asha", "grace": 1, "factor": 3}}


def search(
    task: dict[str, Any], pruning: dict[str, Any] | None, seed: int, num_trials: int, data: str
) -> dict[str, Any]:
    """Run one search; returns its incumbent's metric and its steps."""
    study = {"name": "s", "method": "ddp", "trials": num_trials, "seed": seed, "data": data, "pruning": pruning}
    study |= {"topology": {"workers": 2, "threads": 1, "device": "cpu"}}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "s.json").write_text(json.dumps(study | task))
        command = [sys.executable, "-m", "atoll.platform.cli", "search", "s.json", "--outside"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        store = Store(f"sqlite:///{folder}/atoll.db", create=False)
        trials = store.trials(store.study("s"))
        last = {row.trial_id: row for row in store.progress([trial.id for trial in trials])}
        states = [trial.state for trial in trials]
        return {
            "best": max(trial.objective for trial in trials if trial.state == "complete"),
            "steps": sum(row.step for row in last.values()),
            "epochs": sum(row.epoch for row in last.values()),
            "seconds": sum(row.seconds for row in last.values()),
            "states": {state: states.count(state) for state in sorted(set(states))},
        }


def table(rows: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Medians over seeds, and the ratios of equal seeds."""
    lines = [
        "| task | best without (by seed) | best with ASHA | difference, median | steps with / without, median |",
        "| --- | --- | --- | --- | --- |",
    ]
    figures = {}
    for name in dict.fromkeys(row["task"] for row in rows):
        pairs: dict[int, dict[str, dict[str, Any]]] = {}
        for row in rows:
            if row["task"] == name:
                pairs.setdefault(row["seed"], {})[row["pruning"]] = row
        whole = [pair for pair in pairs.values() if len(pair) == len(RULES)]
        ratios = [pair["asha"]["steps"] / pair["without"]["steps"] for pair in whole]
        differences = [pair["asha"]["best"] - pair["without"]["best"] for pair in whole]
        best = {rule: " ".join(f"{100 * pair[rule]['best']:.1f}" for pair in whole) for rule in RULES}
        figures[name] = {
            "median_steps_ratio": statistics.median(ratios),
            "median_difference": statistics.median(differences),
            "ratios": ratios,
            "differences": differences,
        }
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        difference = f"{100 * statistics.median(differences):+.1f} points"
        lines.append(f"| {name} | {best['without']} | {best['asha']} | {difference} | {spread} |")
    return "\n".join(lines) + "\n", figures


def main() -> None:
    options = parse_options(__doc__ or "", "digits only, 2 seeds, 12 trials of 9 epochs", "cifar10_subset.npz")
    done = Trainings(options.trials)
    num_trials, num_seeds = (12, 2) if options.quick else (40, 5)
    known = {(row["task"], row["pruning"], row["seed"]) for row in done.rows}
    for seed in range(num_seeds):
        for name, task in (QUICK if options.quick else TASKS).items():
            for rule, pruning in RULES.items():
                if (name, rule, seed) not in known:
                    found = search(task, pruning, 1000 * seed, num_trials, options.data)
                    done.add({"task": name, "pruning": rule, "seed": seed} | found)
    tables, figures = table(done.rows)
    words = "Validation accuracy in percent of each search's incumbent, one for each seed; steps of all trials."
    report(options, "Pruning", words, tables, {"figures": figures, "searches": done.rows})


if __name__ == "__main__":
    main()
