"""Shared by the benchmarks: their options, the file of trainings, and the output of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


def parse_options(description: str, quick: str, data: str) -> argparse.Namespace:
    """The options; `data` names the files that the folder of --data must have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", default=os.environ.get("ATOLL_DATA"), help=f"folder of {data}")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--trials", type=Path, metavar="FILE", help="add each training to this file, and skip those that it has"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write table, figure and JSON here")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    if options.data is None:
        parser.error(f"--data or ATOLL_DATA must be the folder of {data}")
    return options


class Trainings:
    """The finished trainings, one dictionary each; kept in a file if one is given."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.rows = [json.loads(line) for line in file.read_text().splitlines()] if file and file.exists() else []

    def add(self, row: dict, shown: object = None) -> None:
        """Keep `row`, and print it, or `shown`, to standard error."""
        self.rows.append(row)
        print(row if shown is None else shown, file=sys.stderr, flush=True)
        if self._file:
            with self._file.open("a") as file:
                file.write(json.dumps(row) + "\n")


def best_rate(rows: Iterable[dict[str, Any]], score: Callable[[dict[str, Any]], float] | None = None) -> float:
    """The rate with the best mean score; of equal ones the smallest.

    Args:
        rows: trainings with `rate`; each rate needs as many.
        score: larger is better. Default: `validation` of the row.

    Raises:
        ValueError: if there is no training.
    """
    scores: dict[float, list[float]] = {}
    for row in rows:
        scores.setdefault(row["rate"], []).append(score(row) if score else row["validation"])
    # Sums of the same scores in another order may differ in the last digit.
    means = {rate: round(statistics.mean(values), 9) for rate, values in scores.items()}
    return min(means, key=lambda rate: (-means[rate], rate))


def mean_and_range(values: Sequence[float]) -> str:
    """The mean, and ± half the range if there are several values; empty if there is none.

    >>> mean_and_range([97.0, 98.0])
    '97.5 ± 0.5'
    """
    if not values:
        return ""
    spread = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def to_json(content: dict) -> str:
    """JSON with a line per item of each value in `content`, so that rows are easy to read and compare."""

    def item(value: object) -> str:
        if isinstance(value, dict) and value:
            return "{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n }"
        if isinstance(value, list) and value:
            return "[\n" + ",\n".join(f"  {json.dumps(v)}" for v in value) + "\n ]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f" {json.dumps(key)}: {item(value)}" for key, value in content.items()) + "\n}\n"


def write(options: argparse.Namespace, content: dict) -> None:
    """Write JSON to the file of --json."""
    if options.json == "-":
        print(to_json(content), end="")
    elif options.json:
        Path(options.json).write_text(to_json(content))


def command(options: argparse.Namespace) -> str:
    """The command, without the options that name files."""
    flags = [f" --{name.replace('_', '-')}" for name, value in vars(options).items() if value is True]
    return f"python benchmarks/{Path(sys.argv[0]).name}{''.join(flags)}"


def say(options: argparse.Namespace, figures: dict, lines: Iterable[str]) -> None:
    """Write the figures with command and machine to the file of --json, and print the lines unless that is stdout."""
    result = {
        "command": command(options),
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "figures": figures,
    }
    write(options, result)
    if options.json != "-":
        print("\n".join(lines))


def report(
    options: argparse.Namespace,
    title: str,
    words: str,
    tables: str,
    content: dict,
    figure: tuple[str, Callable[[Path], None]] | None = None,
    name: str | None = None,
) -> None:
    """Write NAME.md, NAME.json and the figure (its caption, and a function that draws it); print the tables.

    Default of NAME: the script's name.
    """
    name = name or Path(sys.argv[0]).stem
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    content = {"command": command(options), "machine": machine} | content
    if options.output:
        picture = f"\n![{figure[0]}]({name}.svg)\n" if figure else ""
        page = f"# {title}\n\n`{command(options)}` on {machine}. {words}\n\n{tables}{picture}"
        (options.output / f"{name}.md").write_text(page)
        (options.output / f"{name}.json").write_text(to_json(content))
        if figure:
            figure[1](options.output / f"{name}.svg")
    write(options, content)
    if options.json != "-":
        print(tables)
