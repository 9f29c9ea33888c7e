"""Every bundled benchmark at its scale `small`, from the file to its verdict.

python benchmarks/bundled.py [--only NAME ...] [--json FILE]

Each is run by `atoll benchmark NAME --scale small` (`tiny` has one scale) and compared by `atoll report NAME --json`,
one after another, in a folder of its own. --json keeps each result at once, another call continues there, and the table
is written next to it. The verdicts are about small networks on a few trials each: that a benchmark reaches one is what
this shows. Passes are samples; times are seconds of the whole benchmark, on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comparison import to_json

from atoll.platform.benchmark.bundled import BENCHMARKS

NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.yaml"))


def measured(name: str) -> dict[str, Any]:
    """One benchmark's outcome."""
    with tempfile.TemporaryDirectory() as folder:
        scale = [] if name == "tiny" else ["--scale", "small"]
        started = time.monotonic()
        ran = _atoll(folder, "benchmark", name, *scale, "--json")
        seconds = time.monotonic() - started
        ending = json.loads(ran) if ran else {}
        compared = json.loads(_atoll(folder, "report", name, "--json") or "{}")
    cells = compared.get("cells", [])
    return {
        "state": ending.get("state", "did not end"),
        "failed": ending.get("failed", {}),
        "seconds": round(seconds, 1),
        "methods": len(compared.get("methods", [])),
        "workloads": len(compared.get("workloads", [])),
        "trainings": sum(cell["num_tuned"] + cell["num_trained"] for cell in cells),
        "failed_trainings": sum(cell["num_failed"] + cell["num_tuning_failures"] for cell in cells),
        "verdict": compared.get("verdict", "none"),
        "quality": {f"{cell['method']} on {cell['workload']}": _quality(cell) for cell in cells},
        "notes": compared.get("notes", []),
    }


def _quality(cell: dict[str, Any]) -> dict[str, Any]:
    """A method's median quality, and how many of its trainings met the target."""
    quality = cell["quality"]
    return {
        "median": None if quality is None else quality["value"],
        "reached": f"{cell['num_reached']} of {cell['num_trained']}",
    }


def _atoll(folder: str, *arguments: str) -> str:
    """Standard output of a command; what it says of errors is passed on."""
    command = [sys.executable, "-m", "atoll.platform.cli", *arguments, "--store", "sqlite:///small.db"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout


def _table(rows: dict[str, dict[str, Any]], machine: str) -> str:
    """The results as Markdown."""
    lines = [
        "# Bundled benchmarks at their scale `small`",
        "",
        f"`python benchmarks/bundled.py` on {machine}. Medians over confirmations, on test data, or of the",
        "training loss where a benchmark compares that. None of it reproduces a published number: networks and budgets",
        "are small.",
        "",
        "| benchmark | ended | methods x workloads | trainings (failed) | minutes | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        size, trainings = f"{row['methods']} x {row['workloads']}", f"{row['trainings']} ({row['failed_trainings']})"
        lines.append(
            f"| `{name}` | {row['state']} | {size} | {trainings} | {row['seconds'] / 60:.1f} | {row['verdict']} |"
        )
    for name, row in rows.items():
        lines += ["", f"## {name}", "", "| training | median | target met by |", "| --- | --- | --- |"]
        for label, cell in row["quality"].items():
            value = "none" if cell["median"] is None else f"{cell['median']:.4g}"
            lines.append(f"| {label} | {value} | {cell['reached']} |")
        lines += ["", *(f"- {note}" for note in row["notes"])] if row["notes"] else []
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is asked for and not known yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="Default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep results here, and the table next to it")
    options = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    rows: dict[str, dict[str, Any]] = known.get("benchmarks", {})
    for name in options.only:
        if name not in rows:
            rows[name] = measured(name)
            print(f"{name}: {rows[name]['seconds']:.0f} s, {rows[name]['verdict']}", file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(to_json({"machine": machine, "benchmarks": dict(sorted(rows.items()))}))
            options.json.with_suffix(".md").write_text(_table(dict(sorted(rows.items())), machine))
    if not options.json:
        print(_table(rows, machine))


if __name__ == "__main__":
    main()
