"""The answer at the scale of a laptop: all methods on one workload, and which is first on which cluster.

python benchmarks/answer.py --part digits_cnn [--seed 1] [--data FOLDER] [--store FILE] [--json FILE]

Runs `atoll benchmark all_methods --scale laptop --only PART` (four ranks as two nodes; 35 minutes for digits_cnn on two
cores), or continues it if the store holds some of it; a store that holds all of it is only read. Then it asks, as
`atoll recommend` does, which method is first on networks from 0.1 to 100 Gbit/s and 1 to 8 nodes of four ranks, in
strong scaling, which keeps the trainings as they are: more ranks share the same global batches. --json keeps the
figures, and a table of them next to it. With --against FILE it compares with another run of the same part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from comparison import to_json

from atoll.analysis.benchmark_results import BenchmarkResults
from atoll.analysis.cluster import Cluster, Link
from atoll.analysis.comparison import Comparison, compare
from atoll.analysis.recommendation import Recommendation, recommend
from atoll.storage.export import plain
from atoll.storage.store import Store

PARTS = ("digits_cnn", "speech", "text")
BANDWIDTHS = (0.1, 1.0, 10.0, 100.0)  # Gbit/s
NODES = (1, 2, 4, 8)  # the global batches have at least as many samples as these ranks
RANKS = 4  # of a node


def name_of(part: str, seed: int) -> str:
    """The benchmark's name in the store."""
    return f"all_methods-{part}" + (f"-{seed}" if seed else "")


def run(part: str, seed: int, store: str, data: Path | None) -> None:
    """Run what the store does not hold yet."""
    name = name_of(part, seed)
    command = [sys.executable, "-m", "atoll.platform.cli", "benchmark", "all_methods", "--scale", "laptop"]
    command += ["--only", part, "--seed", str(seed), "--name", name, "--store", store]
    command += [] if data is None else ["--data", str(data)]
    known = [row for row in Store(store).benchmarks() if row.name == name]
    if not known or not BenchmarkResults(Store(store), known[0]).is_complete:
        subprocess.run(command + ["--resume"] * bool(known), stdout=sys.stderr, check=True)


def cluster(gigabits: float) -> Cluster:
    """Nodes of four ranks, with a network of this bandwidth and 10 microseconds of latency."""
    return Cluster(
        name=f"{gigabits:g} Gbit/s",
        ranks_per_node=RANKS,
        node=Link(microseconds=1, gigabytes_per_second=10),
        network=Link(microseconds=10, gigabytes_per_second=gigabits / 8),
    )


def measured(compared: Comparison) -> list[dict[str, Any]]:
    """What was measured of each method, medians over confirmations and their 95 % intervals."""
    return [
        {
            "method": cell.method,
            "quality": None if cell.quality is None else [cell.quality.value, *(cell.quality.interval or ())],
            "reached": [cell.num_reached, cell.num_trained],
            "failed": [cell.num_failed, cell.num_tuning_failures],
            "steps": None if cell.steps is None else [cell.steps.value, *(cell.steps.interval or ())],
            "passes": None if cell.passes is None else [cell.passes.value, *(cell.passes.interval or ())],
            "wire_bytes": cell.wire_bytes,
            "peak_memory": cell.peak_memory,
        }
        for cell in compared.cells
    ]


def answered(found: Recommendation) -> dict[str, Any]:
    """One answer."""
    return {
        "bandwidth": found.cluster,
        "nodes": found.num_nodes,
        "first": found.first,
        "verdict": found.verdict,
        "methods": {
            one.method: {
                "probability": one.probability,
                "seconds": [one.seconds.value, *(one.seconds.interval or ())],
            }
            for one in found.contenders
        },
    }


def contradictions(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """The places of the map where two runs' sets of possibly first methods have none in common."""
    by_place = {(one["bandwidth"], one["nodes"]): one for one in theirs}
    return [
        f"{one['bandwidth']}, {one['nodes']} nodes: {', '.join(one['first'])} against {', '.join(other['first'])}"
        for one in ours
        if (other := by_place.get((one["bandwidth"], one["nodes"]))) and not set(one["first"]) & set(other["first"])
    ]


def tables(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"# All methods on {found['part']}, at the scale of a laptop",
        "",
        f"`{found['command']}` on {found['machine']}. Four ranks as two nodes on two cores, two tunings of eight",
        "trials for each method; each tuning's best configuration is trained with five new seeds, on test data.",
        "",
        f"**By measurement:** {found['verdict']}",
        "",
        *(f"- {note}" for note in found["notes"]),
        "",
        "Medians, and 95 % intervals over tunings and seeds. Passes are samples of the busiest rank until the target.",
        "",
        "| method | metric on test data | target met | steps to target | passes to target | sent | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["measured"]:
        reached = f"{row['reached'][0]} of {row['reached'][1]}"
        sent, memory = f"{row['wire_bytes'] / 1e6:.3g} MB", f"{row['peak_memory'] / 1e6:.0f} MB"
        numbers = (_words(row["quality"], 4), reached, _words(row["steps"], 3), _words(row["passes"], 4), sent, memory)
        lines.append(f"| {row['method']} | {' | '.join(numbers)} |")
    lines += [
        "",
        "## The first method, by network and nodes",
        "",
        "**Predictions**, strong scaling, four ranks per node: the methods one of which is first to the target with",
        "95 %, the most probable one first. A single name is an answer; of several it cannot be told.",
        "",
        "| network | " + " | ".join(f"{n} node{'s' if n > 1 else ''}" for n in NODES) + " |",
        "| --- |" + " --- |" * len(NODES),
    ]
    cells = {(one["bandwidth"], one["nodes"]): one for one in found["map"]}
    for bandwidth in BANDWIDTHS:
        name = cluster(bandwidth).name
        lines.append(f"| {name} | " + " | ".join(_first(cells[name, nodes]) for nodes in NODES) + " |")
    lines += ["", "They assume:", "", *(f"- {words}" for words in found["assumptions"])]
    if found["left_out"]:
        lines += ["", "Not predicted, or not all of it, on some of these clusters:", ""]
        lines += [f"- {method}: {reason}" for method, reason in found["left_out"].items()]
    return "\n".join(lines) + "\n"


def _words(estimate: list[float] | None, digits: int) -> str:
    if estimate is None:
        return "-"
    value, *interval = (f"{number:.{digits}g}" for number in map(_finite, estimate))
    return f"{value} ({' to '.join(interval)})" if interval else value


def _finite(number: float | None) -> float:
    return float("inf") if number is None else number


def _first(one: dict[str, Any]) -> str:
    shown = [f"{name} {one['methods'][name]['probability']:.0%}" for name in one["first"]]
    return (", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")) or "cannot tell"


def main() -> None:
    """Run or read one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the tunings and confirmations. Default: 0")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with the data of speech and text")
    parser.add_argument("--store", default="sqlite:///answer.db", metavar="FILE", help="Default: answer.db")
    parser.add_argument("--against", type=Path, metavar="FILE", help="figures of another run, to compare with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures here, and tables next to it")
    options = parser.parse_args()
    run(options.part, options.seed, options.store, options.data)
    store, name = Store(options.store), name_of(options.part, options.seed)
    compared = compare(store, store.benchmark(name))
    answers = [
        recommend(
            store, options.part, cluster(bandwidth), nodes, "strong", benchmark=name, is_measured=True, changes={}
        )
        for bandwidth in BANDWIDTHS
        for nodes in NODES
    ]
    found: dict[str, Any] = {
        "command": f"python benchmarks/answer.py --part {options.part}"
        + f" --seed {options.seed}" * bool(options.seed),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "part": options.part,
        "seed": options.seed,
        "verdict": compared.verdict,
        "notes": compared.notes,
        "measured": measured(compared),
        "map": [answered(one) for one in answers],
        "assumptions": list(dict.fromkeys(words for one in answers for words in one.assumptions)),
        "left_out": {method: reason for one in answers for method, reason in one.left_out.items()},
    }
    found = dict(plain(found))
    if options.against:
        found["contradictions"] = contradictions(found["map"], json.loads(options.against.read_text())["map"])
        print("\n".join(found["contradictions"]) or "no contradictions")
    if options.json:
        options.json.write_text(to_json(found))
        options.json.with_suffix(".md").write_text(tables(found))
    else:
        print(tables(found))


if __name__ == "__main__":
    main()
