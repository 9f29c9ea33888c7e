"""The cost of a search's replay: bytes of journal a trial for what each worker heard, and the seconds of a replay.

python benchmarks/replay.py [--quick] [--json FILE]

Searches of a function with `evolution`, 400 trials, on threads of one process: one worker, four on one island, two
islands of two with migration, and four with ASHA and three reports a trial. The bytes are those of the notes, next to
those of all that a root journals of a trial. A replay's seconds are those of the whole command, on the same threads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comparison import say

OBJECTIVE = """
def bowl(trial):
    for step in range(3):
        trial.report((trial["x"] - 0.3) ** 2 + 1 / (1 + step), step)
    return (trial["x"] - 0.3) ** 2 + trial["y"]
"""
SEARCHES: dict[str, dict[str, Any]] = {
    "1 worker": {},
    "4 workers": {"topology": {"workers": 4}},
    "2 islands of 2 workers": {"topology": {"islands": 2, "workers": 2}, "migration": {"probability": 1.0}},
    "4 workers, asha": {
        "topology": {"workers": 4},
        "pruning": {"rule": "asha", "fidelity": "steps", "factor": 2, "grace": 1},
    },
}


def measured(content: dict[str, Any], trials: int) -> dict[str, float]:
    """One search and its replay."""
    study = {"name": "s", "objective": "own.py:bowl", "trials": trials, "sampler": {"name": "evolution"}} | content
    space = {"x": {"low": 0.0, "high": 1.0}, "y": {"low": 0.0, "high": 1.0}, "kind": {"choices": ["a", "b", "c"]}}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "own.py").write_text(OBJECTIVE)
        (Path(folder) / "s.json").write_text(json.dumps(study | {"space": space}))
        atoll = [sys.executable, "-m", "atoll.platform.cli", "search"]
        subprocess.run([*atoll, "s.json", "--in-process"], cwd=folder, check=True, capture_output=True)
        journals = [path.read_text() for path in (Path(folder) / "atoll-studies/s/journals").glob("root-*.jsonl")]
        notes = [json.loads(line).get("heard", "") for text in journals for line in text.splitlines()]
        started = time.monotonic()
        replay = subprocess.run([*atoll, "--replay", "s", "--json"], cwd=folder, check=True, capture_output=True)
        took = time.monotonic() - started
    found = json.loads(replay.stdout)
    assert found["different"] == found["untold"] == 0, found
    return {
        "bytes_of_notes": sum(len(text) + len(',"heard":""') for text in notes if text) / trials,
        "bytes_of_journals": sum(map(len, journals)) / trials,
        "replay_seconds": took,
        "decisions": found["proposals"] + found["prunings"],
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 trials instead of 400")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    figures = {name: measured(content, 60 if options.quick else 400) for name, content in SEARCHES.items()}
    lines = (
        f"{name}: {of['bytes_of_notes']:.0f} of {of['bytes_of_journals']:.0f} bytes a trial; "
        f"{of['decisions']} decisions replayed in {of['replay_seconds']:.1f} s"
        for name, of in figures.items()
    )
    say(options, figures, lines)


if __name__ == "__main__":
    main()
