"""Trains each configuration of a grid once, so that samplers can be compared on real tasks without more training.

python benchmarks/grids.py [NAME ...] [--quick] [--json FILE]

Each task is a search with the grid sampler: digits_mlp under one method on workers of 2 ranks, 6 epochs, the validation
loss. A table has the points of each axis and the losses; `null` is a failed trial. It is written to
benchmarks/tables/NAME.json, which benchmarks/search_quality.py reads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comparison import to_json, write

from atoll.platform.search.propagators import grid
from atoll.platform.study.plan import search_space
from atoll.platform.study.study import Study
from atoll.searchspaces.space import Gene
from atoll.storage.store import Store

TABLES = Path(__file__).parent / "tables"
SHARED = {"batch_size": 32, "weight_decay": 1e-4}
TASKS: dict[str, dict[str, Any]] = {
    "ddp": {
        "points": {"learning_rate": 10, "momentum": 5},
        "space": {
            "learning_rate": {"low": 1e-3, "high": 1.0, "log": True},
            "batch_size": {"choices": [8, 32, 128]},
            "weight_decay": 1e-4,
            "wire": "float32",
        },
    },
    "daso": {
        "points": {"B": 6, "S": 3, "learning_rate": 8, "momentum": 4},
        "space": SHARED
        | {
            "learning_rate": {"low": 3e-3, "high": 1.0, "log": True},
            "warmup_epochs": 1,
            "cooldown_epochs": 1,
            "wire": "float32",
            "adaptive": False,
            "schedule": "cosine",
        },
    },
    "easgd": {
        "points": {"tau": 7, "beta": 5, "learning_rate": 7},
        "space": SHARED | {"lr_decay": 1e-4},
    },
    "oialr": {
        "points": {"learning_rate": 8, "delay": 4, "update_period": 4, "beta": 4},
        "space": SHARED
        | {
            "learning_rate": {"low": 1e-4, "high": 5e-2, "log": True},
            "lr_warmup": 0.0,
            "warmup_lr": 1e-5,
            "min_lr": 1e-5,
            "lr_k_decay": 1.0,
            "full_rank_first": False,
            "full_rank_last": True,
        },
    },
}


def study_of(name: str, points: dict[str, int] | None = None) -> Study:
    """The search that tabulates a task."""
    return Study(
        name=name,
        workload="digits_mlp",
        method=name,
        epochs=6,
        objectives=["validation_loss"],
        topology={"workers": 2, "ranks": 2, "ranks_per_node": 1, "threads": 1, "device": "cpu"},
        sampler={"name": "grid", "points": points or TASKS[name]["points"]},
        default_first=False,
        space=TASKS[name]["space"],
    )


def axes_of(study: Study, points: list[dict[str, Gene]]) -> dict[str, list[Gene]]:
    """The sorted genes of each parameter on the grid."""
    return {name: sorted({genes[name] for genes in points}) for name in search_space(study).limits()}


def key_of(values: dict[str, Any], names: Iterable[str]) -> str:
    """A configuration's key in the table: the searched values, in the space's order."""
    return json.dumps([values.get(name) for name in names])


def tabulate(name: str, quick: bool) -> dict[str, Any]:
    """Train the whole grid; returns the table."""
    points = dict.fromkeys(TASKS[name]["points"], 2) if quick else None
    study = study_of(name, points)
    space = search_space(study)
    (settings,) = study.samplers()
    grid_points = grid.points(settings, space)
    with tempfile.TemporaryDirectory() as folder:
        content = study.model_dump(mode="json", exclude_none=True) | {"trials": len(grid_points)}
        (Path(folder) / "study.json").write_text(json.dumps(content))
        command = [sys.executable, "-m", "atoll.platform.cli", "search", "study.json"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        store = Store(f"sqlite:///{folder}/atoll.db", create=False)
        trials = store.trials(store.study(name))
    ended = [trial for trial in trials if trial.state in ("complete", "failed")]
    return {
        "command": f"python benchmarks/grids.py {name}",
        "study": study.model_dump(mode="json", include={"workload", "method", "epochs", "objectives", "space", "seed"}),
        "axes": axes_of(study, grid_points),
        "losses": {key_of(trial.hyperparameters, space.limits()): trial.objective for trial in ended},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(TASKS), help="tasks. Default: all")
    parser.add_argument("--quick", action="store_true", help="two points an axis, and nothing is written to tables/")
    parser.add_argument("--json", metavar="FILE", help="write the tables' sizes and times; - for standard output")
    options = parser.parse_args()
    figures = {}
    for name in options.names:
        started = time.perf_counter()
        table = tabulate(name, options.quick)
        if not options.quick:
            TABLES.mkdir(exist_ok=True)
            (TABLES / f"{name}.json").write_text(to_json(table))
        losses = [loss for loss in table["losses"].values() if loss is not None]
        figures[name] = {
            "configurations": len(table["losses"]),
            "failed": len(table["losses"]) - len(losses),
            "best": min(losses),
            "median": sorted(losses)[len(losses) // 2],
            "seconds": round(time.perf_counter() - started),
        }
        print(name, figures[name], file=sys.stderr, flush=True)
    result = {"cores": len(os.sched_getaffinity(0)), "figures": figures}
    write(options, result)


if __name__ == "__main__":
    main()
