"""Resuming a long search, and listing its trials: seconds of `atoll search --resume` and `atoll leaderboard --json`.

python benchmarks/resume.py [--quick] [--json FILE]

Each sampler gets a study of 20,000 trials, whose journal is written here: random configurations of ddp on digits_mlp,
with made-up objectives and the genes that they had. `search --resume` with a budget of one more trial per worker is
timed from its start until the first new trial has started: launcher, checks, start of the ranks, reading the journals,
filling population and sampler, and its first proposal, on two workers of one rank. The trials have been recorded
before. Ranks import torch meanwhile, so `python -c "import torch"` is timed as well.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from comparison import say

from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import journals

SAMPLERS = (
    "default", "propulate", "random", "optuna-tpe", "optuna-cmaes", "optuna-gp", "optuna-nsga2", "optuna-nsga3",
    "optuna-qmc",
)  # fmt: skip
NUM_WORKERS = 2
PATIENCE = 600.0


def study_of(sampler: str, num_trials: int) -> dict[str, Any]:
    """The study file."""
    chosen = {} if sampler == "default" else {"sampler": {"name": sampler}}
    topology = {"workers": NUM_WORKERS, "device": "cpu", "threads": 1}
    return {
        "name": sampler,
        "workload": "digits_mlp",
        "method": "ddp",
        "epochs": 1,
        "trials": num_trials,
        "topology": topology,
    } | chosen


def atoll(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "atoll.platform.cli", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)


def make(folder: Path, sampler: str, num_trials: int) -> StudyFolder:
    """A study whose first trials have been trained, and the others made up; recorded."""
    file = folder / f"{sampler}.yaml"
    file.write_text(yaml.safe_dump(study_of(sampler, NUM_WORKERS)))
    atoll(folder, "search", file.name, "--in-process")
    study_folder = StudyFolder(folder / "atoll-studies" / sampler)
    space, rng = Plan.of(Study(**study_of(sampler, num_trials))).space, random.Random(0)
    for worker in range(NUM_WORKERS):
        lines = JournalWriter(study_folder.root_journal(worker))
        for number in range(NUM_WORKERS + worker, num_trials, NUM_WORKERS):
            ends = space.limits().items()
            genes = {n: rng.uniform(*e) if isinstance(e[0], float) else rng.randint(*e) for n, e in ends}
            hyperparameters = space.decode(genes)
            proposal = {"genes": genes, "operator": "random", "parents": [], "sources": {}, "attributes": {}}
            journals.start_trial(
                lines, number, island=0, worker=worker, hyperparameters=hyperparameters, proposal=proposal
            )
            journals.end_trial(lines, number, rng.uniform(0.1, 0.9))
        lines.close()
    # The launch that has ended the first trials closed these journals before: a study whose launcher has died.
    study_folder.launcher_journal(2).unlink()
    atoll(folder, "record", str(study_folder.path))
    return study_folder


def resumed(folder: Path, study_folder: StudyFolder, sampler: str, num_trials: int) -> float:
    """Seconds from `atoll search --resume` to the first new trial."""
    file = folder / f"{sampler}.yaml"
    file.write_text(yaml.safe_dump(study_of(sampler, num_trials + NUM_WORKERS)))
    before = {path.name for path in study_folder.journals.iterdir()}
    started = time.perf_counter()
    command = [sys.executable, "-m", "atoll.platform.cli", "search", file.name, "--resume"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as search:
        while not _has_started(study_folder, before):
            if search.poll() is not None or time.perf_counter() - started > PATIENCE:
                search.kill()
                raise RuntimeError(f"{sampler} was not resumed: {search.stderr.read() if search.stderr else ''}")
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        search.communicate(timeout=PATIENCE)
    return seconds


def _has_started(study_folder: StudyFolder, before: set[str]) -> bool:
    new = (path for path in study_folder.journals.glob("root-*.jsonl") if path.name not in before)
    return any('"event":"trial_started"' in path.read_text() for path in new)


def listed(folder: Path, sampler: str) -> tuple[float, int]:
    """Seconds of `atoll leaderboard --json`, and the number of its trials."""
    started = time.perf_counter()
    output = atoll(folder, "leaderboard", sampler, "--json").stdout
    return time.perf_counter() - started, len(json.loads(output))


def torch_seconds() -> float:
    """Seconds of `python -c "import torch"`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2,000 trials, the default sampler only")
    parser.add_argument("--samplers", nargs="*", default=SAMPLERS, choices=SAMPLERS)
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    num_trials, samplers = (2000, SAMPLERS[:1]) if options.quick else (20_000, options.samplers)
    figures: dict[str, Any] = {
        "trials": num_trials,
        "workers": NUM_WORKERS,
        "import_torch_s": round(torch_seconds(), 2),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sampler in samplers:
            study_folder = make(folder, sampler, num_trials)
            figures[f"resume, {sampler}, s"] = round(resumed(folder, study_folder, sampler, num_trials), 2)
            print(sampler, figures[f"resume, {sampler}, s"], file=sys.stderr, flush=True)
        seconds, figures["listed"] = listed(folder, samplers[0])
        figures["leaderboard --json, s"] = round(seconds, 2)
    say(options, figures, [f"{name}: {value}" for name, value in figures.items()])


if __name__ == "__main__":
    main()
