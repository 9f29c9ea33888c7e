"""Projections against published results: DASO's runtimes and AB training's traffic (Coquelin 2024, chapters 3 and 5).

python benchmarks/published.py [--quick] [--output FOLDER] [--json FILE]

Both methods run on 2 nodes of 4 virtual ranks with a substitute network; their recorded traces are replayed with the
bytes of the published networks and the computing times below.

DASO (table 3.1): ratios of the runtime to that of B=1, S=0. ResNet-50's 25.6 million parameters, 90 epochs with 32
samples per GPU (Goyal et al.). Two clusters: the bundled a100_hdr200, with the vendor's numbers for its links, and the
computing time from the published runtime of B=32; and one whose link between nodes and computing time are solved from
the published runtimes of (1, 0) and (32, 0) on 32 GPUs, without overlapped communication. The other ratios are
predictions.

AB (tables 5.1 and 5.2): bytes that cross between nodes, relative to ddp's, by equation 5.9, in which the time of an
epoch cancels if both take equally long, as they did. Steps from tables A.7 and A.8, groups of 4; the singular values
are chosen such that the network shrinks to the published size.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
from pathlib import Path

from comparison import report

NODES, PER_NODE = 2, 4
PARAMETERS = 25.6e6
EPOCHS, SAMPLES, BATCH_SIZE = 90, 1_281_167, 32
# Table 3.1: hours on 32 and 128 GPUs by (B, S).
HOURS = {
    (1, 0): (4.56, 1.21),
    (1, 1): (4.25, 1.16),
    (2, 0): (4.04, 1.08),
    (2, 1): (3.89, 1.04),
    (2, 2): (3.89, 1.05),
    (4, 0): (3.70, 0.98),
    (4, 1): (3.66, 1.01),
    (4, 2): (3.72, 0.98),
    (4, 4): (3.71, 0.98),
    (8, 0): (3.49, 0.91),
    (8, 4): (3.53, 0.92),
    (8, 8): (3.58, 0.93),
    (16, 0): (3.32, 0.86),
    (16, 4): (3.34, 0.86),
    (16, 8): (3.39, 0.87),
    (16, 16): (3.48, 0.89),
    (32, 0): (3.22, 0.82),
    (32, 4): (3.23, 0.82),
    (32, 16): (3.30, 0.84),
    (32, 32): (3.41, 0.87),
}
# Tables A.7 and A.8: number of steps before the first decomposition, in groups, of a rebound, and of an epoch.
STEPS = {
    "ResNet-50": {
        "2k": (24000, 6000, 600, 600),
        "4k": (9300, 3000, 300, 300),
        "8k": (6150, 1500, 150, 150),
        "16k": (3750, 600, 75, 75),
        "32k": (1900, 400, 38, 38),
    },
    "ViT-B/16": {
        "2k": (24000, 4360, 600, 600),
        "4k": (12300, 2180, 300, 300),
        "8k": (6150, 1500, 150, 150),
        "16k": (3750, 750, 75, 75),
        "32k": (1520, 270, 38, 38),
    },
}
AB_EPOCHS = 150
# Tables 5.1 and 5.2: scaled traffic of AB, AB without groups and ddp, and the compression of the first two. Rows by
# nodes have global batches of 4k.
TRAFFIC = [
    ("ViT-B/16, 2k", 2.81, 5.14, 8.87, 2.52, 2.83),
    ("ViT-B/16, 4k", 2.83, 5.72, 8.87, 2.09, 2.22),
    ("ViT-B/16, 8k", 2.65, 5.93, 8.51, 2.02, 1.98),
    ("ViT-B/16, 16k", 2.54, 4.91, 8.25, 1.86, 1.86),
    ("ViT-B/16, 32k", 2.27, 4.63, 7.52, 1.80, 1.84),
    ("ResNet-50, 2k", 1.11, 2.87, 3.83, 1.29, 1.27),
    ("ResNet-50, 4k", 1.04, 2.67, 3.85, 1.39, 1.27),
    ("ResNet-50, 8k", 0.91, 2.71, 3.71, 1.31, 1.16),
    ("ResNet-50, 16k", 0.87, 2.56, 3.63, 1.19, 1.10),
    ("ResNet-50, 32k", 0.78, 2.17, 3.00, 1.20, 1.12),
    ("ViT-B/16, 4 nodes", 2.49, 5.61, 8.93, 2.09, 2.21),
    ("ViT-B/16, 8 nodes", 4.89, 10.31, 13.09, 2.27, 2.19),
    ("ViT-B/16, 16 nodes", 8.17, 17.14, 25.00, 2.54, 2.20),
    ("ViT-B/16, 32 nodes", 9.84, 21.81, 25.00, 2.91, 2.20),
    ("ResNet-50, 4 nodes", 1.07, 2.69, 3.83, 1.38, 1.27),
    ("ResNet-50, 8 nodes", 1.46, 3.98, 4.96, 1.54, 1.27),
    ("ResNet-50, 16 nodes", 1.91, 5.57, 6.09, 1.72, 1.27),
    ("ResNet-50, 32 nodes", 1.84, 5.70, 6.49, 1.91, 1.27),
]
WIDTH, DEPTH, AB_STEPS = 64, 4, 600
GOAL = 0.10  # maximum error of a ratio
EFFECTIVE = "effective link"


# Recording.


def record(name: str, hyperparameters: dict, num_steps: int, model, **context) -> list[dict]:
    """The traces of all virtual ranks."""
    from job import build, make_batch

    from atoll.communication.threads import run_virtual_ranks
    from atoll.communication.trace import Trace

    batch = make_batch((WIDTH,), 4)

    def rank(communicator) -> dict:
        trace = Trace()
        communicator.ledger.trace = trace
        settings = {"learning_rate": 1e-9}
        method = build(
            name, hyperparameters, copy.deepcopy(model), communicator, settings, inputs=batch.inputs, **context
        )
        trace.begin()
        for _ in range(num_steps):
            method.step(batch)
            trace.end_step()
        shared = {"num_ranks": NODES * PER_NODE, "ranks_per_node": PER_NODE, "grows": True}
        return shared | trace.as_dict()

    return run_virtual_ranks(rank, [rank // PER_NODE for rank in range(NODES * PER_NODE)], timeout=600)


def stand_in(rank: int | None = None):
    """A multilayer perceptron whose hidden weights have `rank` singular values of 1; the others are small."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)]
    if rank is not None:
        for layer in layers[1:]:
            left, right = (torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q for _ in range(2))
            values = torch.where(torch.arange(WIDTH) < rank, 1.0, 1e-3)
            layer.weight.data = left @ (values[:, None] * right)
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


# DASO.


def with_sizes(traces: list[dict], scale: float, compute: float) -> list[dict]:
    """The same steps with `scale` times the bytes, and `compute` seconds of computing before the first event."""
    changed = []
    for trace in traces:
        patterns = [
            pattern
            | {
                "events": [[*e[:4], e[4] * scale, *e[5:]] if e[0] == "post" else e for e in pattern["events"]],
                "samples": [[compute, *itertools.repeat(0.0, len(pattern["events"]))]],
                "seconds": compute,
            }
            for pattern in trace["patterns"]
        ]
        changed.append(trace | {"patterns": patterns})
    return changed


def clusters() -> dict[str, tuple]:
    """Each cluster, with the computing time of a step in seconds."""
    from atoll.analysis import clusters
    from atoll.analysis.cluster import Link

    steps = [EPOCHS * SAMPLES / (BATCH_SIZE * gpus) for gpus in (32, 128)]
    vendor = clusters.cluster("a100_hdr200")
    long, short = HOURS[1, 0][0] * 3600 / steps[0], HOURS[32, 0][0] * 3600 / steps[0]
    exchange = (long - short) / (1 - 1 / 32)
    # bfloat16 through a ring of 8, and the broadcast within the node.
    size, inside = 2 * PARAMETERS, 4 * PARAMETERS / vendor.node.bandwidth
    bandwidth = 2 * 7 / 8 * size / (exchange - inside)
    effective = vendor.model_copy(
        update={
            "name": "effective",
            "network": Link(microseconds=vendor.network.microseconds, gigabytes_per_second=bandwidth / 1e9),
            "overlaps": False,
        }
    )
    return {"vendor's numbers": (vendor, short), EFFECTIVE: (effective, long - exchange)}


def daso(settings: list[tuple[int, int]]) -> list[dict]:
    """Predicted and published ratios."""
    from atoll.analysis.replay import replay

    recorded = {}
    for b, s in settings:
        given = {"B": b, "S": s, "warmup_epochs": 0, "cooldown_epochs": 0, "adaptive": False}
        recorded[b, s] = record("daso", given, 2 * b * PER_NODE, stand_in())
    scale = PARAMETERS / sum(p.numel() for p in stand_in().parameters())
    rows = []
    for label, (cluster, compute) in clusters().items():
        for column, num_nodes in enumerate((8, 32)):
            steps = {
                key: replay(with_sizes(traces, scale, compute), cluster, num_nodes).step
                for key, traces in recorded.items()
            }
            for key, step in steps.items():
                ratio, published = step / steps[1, 0], HOURS[key][column] / HOURS[1, 0][column]
                numbers = {"predicted": ratio, "published": published, "error": ratio - published}
                rows.append({"cluster": label, "gpus": 4 * num_nodes, "B": key[0], "S": key[1]} | numbers)
    fitted = [row for row in rows if (row["B"], row["S"], row["gpus"]) == (32, 0, 32) and row["cluster"] == EFFECTIVE]
    return [row for row in rows if (row["B"], row["S"]) != (1, 0) and row not in fitted]


# AB.


def crossing(traces: list[dict]) -> float:
    """Bytes per step that a rank contributes to all-reduces over all ranks."""
    patterns, order = traces[0]["patterns"], [run for _, runs in traces[0]["segments"] for run in runs]
    sizes = [sum(e[4] for e in p["events"] if e[:3] == ["post", "all_reduce", "all"]) for p in patterns]
    return sum(sizes[place] * count for place, count in order) / sum(count for _, count in order)


def shares(label: str) -> dict[str, float]:
    """The settings of a row, as AB's hyperparameters."""
    network, size = label.split(", ")
    warmup, group, rebound, per_epoch = STEPS[network].get(size, STEPS[network]["4k"])
    total = AB_EPOCHS * per_epoch
    return {"warmup": warmup / total, "group_steps": group / total, "rebound": rebound / group}


def ab(rows: list[tuple]) -> list[dict]:
    """Predicted and published traffic relative to ddp's."""
    context = {"num_epochs": 1, "steps_per_epoch": AB_STEPS}
    plain = crossing(record("ddp", {}, 10, stand_in(), **context))
    ratios = []
    for label, groups, alone, ddp, compression, compression_alone in rows:
        for form, merge, traffic, c in (
            ("AB", "with_stale", groups, compression),
            ("no groups", "only_b", alone, compression_alone),
        ):
            given = shares(label) | {"merge": merge, "group_size": PER_NODE}
            recorded = record("ab", given, AB_STEPS, stand_in(max(1, round(WIDTH / (2 * c)))), **context)
            ratio, published = crossing(recorded) / plain, traffic / ddp
            numbers = {"predicted": ratio, "published": published, "error": ratio - published}
            ratios.append({"row": label, "form": form} | numbers)
    return ratios


def within(rows: list[dict]) -> str:
    """The number of errors within the goal, their median, and the largest."""
    errors = [abs(row["error"]) for row in rows]
    good = sum(error <= GOAL for error in errors)
    middle, largest = 100 * statistics.median(errors), 100 * max(errors)
    return f"{good} of {len(errors)} within 10 points, median {middle:.1f}, largest {largest:.1f}"


def table(rows: list[dict], keys: list[str]) -> list[str]:
    """Markdown."""
    lines = [f"| {' | '.join((*keys, 'predicted', 'published', 'error (points)'))} |", "|" + " --- |" * (len(keys) + 3)]
    for row in rows:
        numbers = f"{row['predicted']:.3f}", f"{row['published']:.3f}", f"{100 * row['error']:+.1f}"
        lines.append(f"| {' | '.join((*(str(row[key]) for key in keys), *numbers))} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only four settings of DASO and two rows of AB")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write table and JSON here")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    of_daso = daso([(1, 0), (1, 1), (4, 1), (4, 4)] if options.quick else list(HOURS))
    of_ab = ab(TRAFFIC[:2] if options.quick else TRAFFIC)
    lines = ["## DASO, table 3.1: runtime relative to that of B=1, S=0", ""]
    for label in dict.fromkeys(row["cluster"] for row in of_daso):
        lines.append(f"- {label}: {within([row for row in of_daso if row['cluster'] == label])}")
    lines += ["", *table(of_daso, ["cluster", "gpus", "B", "S"]), ""]
    lines += ["## AB training, tables 5.1 and 5.2: traffic relative to ddp's", ""]
    for form in ("AB", "no groups"):
        lines.append(f"- {form}: {within([row for row in of_ab if row['form'] == form])}")
    lines += ["", *table(of_ab, ["row", "form"])]
    title, words = "Projections against Coquelin 2024", "The assumptions are in the script's docstring."
    report(options, title, words, "\n".join(lines) + "\n", {"daso": of_daso, "ab": of_ab})


if __name__ == "__main__":
    main()
