"""A long trial cut by a time limit and chained with --resume: the training that each cut loses.

python benchmarks/walltime.py [--quick] [--json FILE]

One trial of four to five minutes, with an hour between its checkpoints, runs under `timeout -s TERM 70`, as in a job
whose time is up, and is continued by the same command with --resume until it ends. A cut loses what was trained after
the checkpoint that the stop has written: the root's last report before the end, less the step from which the next
attempt continues, at the trial's own seconds per step; and the whole attempt if there is no checkpoint.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from comparison import say

from atoll.storage import launches
from atoll.storage.events import Event, ProgressReported, TrialEnded
from atoll.storage.folder import StudyFolder

STOPPED = 75
MOST = 50  # commands of a chain


def study(steps: int) -> dict[str, Any]:
    """The study file."""
    return {
        "name": "long",
        "workload": "digits_cnn",
        "method": "local_sgd",
        "trials": 1,
        "steps": steps,
        "report_every": "20 steps",
        "evaluate_every": "500 steps",
        "checkpoint": {"every": "1 hours"},
        "topology": {"ranks": 2, "threads": 1, "device": "cpu"},
    }


def search(folder: Path, limit: float | None, *, resume: bool) -> int:
    """Run the search, at most `limit` seconds; returns its exit code."""
    command = [sys.executable, "-m", "atoll.platform.cli", "search", "long.yaml", *(["--resume"] if resume else [])]
    if limit is not None:
        command = ["timeout", "--preserve-status", "-s", "TERM", str(limit), *command]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, timeout=3600).returncode


def seconds_per_step(folder: Path) -> float:
    """The pace of a short trial of the same study, beyond its first half."""
    (folder / "long.yaml").write_text(yaml.safe_dump(study(400)))
    if search(folder, None, resume=False):
        raise SystemExit("the short trial, which gives the pace, failed")
    reports = [event for event in events(folder) if isinstance(event, ProgressReported)]
    middle, last = reports[len(reports) // 2], reports[-1]
    return (last.seconds - middle.seconds) / (last.step - middle.step)


def events(folder: Path) -> list[Event]:
    """The study's journals."""
    return launches.replay(StudyFolder(folder / "atoll-studies" / "long").journals)


def cuts(of_trial: list[Event]) -> list[dict[str, float]]:
    """For each attempt but the last: the step it reached, the one the next continued from, and the seconds lost."""
    reached: dict[int, ProgressReported] = {}
    continued: dict[int, int] = {}
    for event in of_trial:
        if isinstance(event, ProgressReported):
            reached[event.attempt] = event
        elif isinstance(event, TrialEnded):
            steps = (re.search(r"continued from the checkpoint of step (\d+)", note) for note in event.notes)
            continued[event.attempt] = next((int(match[1]) for match in steps if match), 0)
    return [
        {
            "reached_step": last.step,
            "continued_from_step": continued.get(attempt + 1, 0),
            "seconds_lost": max(0, last.step - continued.get(attempt + 1, 0)) * last.seconds / last.step,
        }
        for attempt, last in sorted(reached.items())[:-1]
    ]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a trial of 24 seconds, cut every 14")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    options = parser.parse_args()
    length, limit = (24.0, 14.0) if options.quick else (300.0, 70.0)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        steps = int(length / seconds_per_step(Path(first)))
        folder = Path(second)
        (folder / "long.yaml").write_text(yaml.safe_dump(study(steps)))
        codes, began = [], time.perf_counter()
        while not codes or (codes[-1] == STOPPED and len(codes) < MOST):
            codes.append(search(folder, limit, resume=bool(codes)))
        seconds = time.perf_counter() - began
        if codes[-1]:
            raise SystemExit(f"the chain did not end well: exit codes {codes}")
        of_trial = [event for event in events(folder) if isinstance(event, TrialEnded) and event.state == "complete"]
        figures = {
            "seconds_of_training": of_trial[-1].seconds,
            "seconds_of_the_chain": seconds,
            "exit_codes": codes,
            "cuts": cuts(events(folder)),
        }
    lines = [
        f"cut {n}: reached step {cut['reached_step']}, continued from {cut['continued_from_step']}, lost "
        f"{cut['seconds_lost']:.2f} s"
        for n, cut in enumerate(figures["cuts"], 1)
    ]
    lines.append(f"{of_trial[-1].seconds:.0f} s of training in {seconds:.0f} s, exit codes {codes}")
    say(options, figures, lines)


if __name__ == "__main__":
    main()
