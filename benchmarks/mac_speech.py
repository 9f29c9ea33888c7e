"""MAC against SGD and Adam: training loss by training time, on spoken digits (Martin 2024, figure 4.1a and table 4.4).

python benchmarks/mac_speech.py --data FOLDER [--quick] [--trials FILE] [--output FOLDER] [--json FILE]

Table 4.1's perceptron on every fourth training frame of spoken_digits.npz, global batches of 512: on two ranks SGD and
Adam data-parallel (ddp), MAC one_term and two_term with the groupings (1,5), (3,3) and (5,1), a group on each rank; and
SGD and Adam on one rank, as in Martin 2024, where MAC had two machines and SGD had one. Seeds 0, 1, 2. Each
configuration trains for 30 s, communication and all else counted but the evaluation; the loss is that of the evaluated
network on all training frames after an epoch, measured alike for all. Settings are the best of a pilot with seed 0 of
10 s each, by the same loss: SGD's rate of four, Adam's of three, MAC's passes of a W-step (2 or 8) and the rate of its
Z-steps (of four), its W-steps at 0.003, which was Adam's best.

Also reported: MAC's speedup over SGD on one rank to the higher of both final losses, as measured and as 3.25 and 3.20
predict it from the counted E_SGD/E_MAC; and the share of the W- and Z-steps' time in which ranks were idle.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from comparison import Trainings, parse_options, report
from job import evaluate_all, on_ranks

RANKS, BATCH_SIZE, SEEDS = (2, 1), 512, (0, 1, 2)
SECONDS, PILOT_SECONDS = 30.0, 10.0
WORKLOAD = f"{Path(__file__).resolve().parent / 'narrow.py'}:SpeechMlpByTrainingLoss"
GROUPINGS = {"(1,5)": "1,5", "(3,3)": "3,3", "(5,1)": "5,1"}
SGD = {"optimizer": "sgd", "momentum": 0.0}
ADAM = {"optimizer": "adamw"}
SHARED = {"schedule": "constant", "weight_decay": 0.0}
ALONE = ", one rank"


def candidates(num_ranks: int | None = None) -> dict[str, list[dict]]:
    """Each method's settings that the pilot compares, for the methods on `num_ranks` ranks. Default: all."""
    sgd = [SGD | {"learning_rate": rate} for rate in (0.1, 0.3, 1.0, 3.0)]
    adam = [ADAM | {"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2)]
    alone = {f"SGD{ALONE}": sgd, f"Adam{ALONE}": adam}
    if num_ranks == 1:
        return alone
    by_method = {"SGD": sgd, "Adam": adam} | ({} if num_ranks else alone)
    for variant in ("one_term", "two_term"):
        for name, grouping in GROUPINGS.items():
            by_method[f"MAC {variant} {name}"] = [
                {"variant": variant, "grouping": grouping, "w_lr": 3e-3, "learning_rate": 3e-3, "z_lr": z_lr}
                | {"w_iterations": passes, "w_iterations_last": passes}
                for passes in (2, 8)
                for z_lr in (1e-4, 1e-3, 1e-2, 1e-1)
            ]
    return by_method


def train_all(data: str, quick: bool, trials: Path | None) -> list[dict] | None:
    """One rank's program; rank 0 returns all trainings."""
    from mpi4py import MPI

    num_ranks = MPI.COMM_WORLD.size
    entries = candidates(num_ranks)
    trainings = Trainings(trials)
    curve: list[dict] = []

    def remember(progress) -> None:
        curve.append(
            {"seconds": progress.seconds, "loss": progress.validation_loss, "epoch": progress.epoch}
            | {name: value for name, value in progress.metrics.items() if "speedup" in name or "idle" in name}
        )

    def train(wanted: list[tuple[str, dict, int]], seconds: float) -> None:
        known = [(r["method"], r["settings"], r["seed"], r["limit"]) for r in trainings.rows]
        wanted = [w for w in wanted if (*w, seconds) not in known]
        configurations = (
            {
                "workload": WORKLOAD,
                "method": "mac" if method.startswith("MAC") else "ddp",
                "hyperparameters": SHARED | {"batch_size": BATCH_SIZE // num_ranks} | settings,
                "seed": seed,
                "data": data,
            }
            for method, settings, seed in wanted
        )
        outcomes = evaluate_all(configurations, on_progress=remember, seconds=seconds)
        for _, (method, settings, seed) in zip(outcomes, wanted, strict=False):
            key = {"method": method, "settings": settings, "seed": seed, "limit": seconds}
            trainings.add(key | {"curve": curve[:]}, shown=key | (curve[-1] if curve else {}))
            curve.clear()

    pilot, whole = (1.0, 2.0) if quick else (PILOT_SECONDS, SECONDS)
    train([(method, settings, 0) for method, every in entries.items() for settings in every], pilot)
    chosen = best_settings(entries, [r for r in trainings.rows if r["limit"] == pilot and r["method"] in entries])
    train([(method, settings, seed) for seed in SEEDS[: 1 if quick else None] for method, settings in chosen], whole)
    return [r for r in trainings.rows if r["method"] in entries] if MPI.COMM_WORLD.rank == 0 else None


def loss_at(curve: list[dict], seconds: float) -> float:
    """The lowest loss of those measured up to a time; infinite before the first."""
    return min((point["loss"] for point in curve if point["seconds"] <= seconds), default=math.inf)


def best_settings(entries: dict[str, list[dict]], pilot: list[dict]) -> list[tuple[str, dict]]:
    """For each method the settings with the lowest loss of the pilot."""
    if not pilot:  # a rank that only obeys
        return [(method, every[0]) for method, every in entries.items()]
    best = {}
    for method in entries:
        mine = [r for r in pilot if r["method"] == method]
        best[method] = min(mine, key=lambda r: loss_at(r["curve"], r["limit"]))["settings"]
    return list(best.items())


def summarize(results: list[dict], seconds: float) -> list[dict]:
    """One row for each method: losses at parts of the time, and how MAC's speedup compares with 3.25."""
    whole = [r for r in results if r["limit"] == seconds]
    of = {method: [r["curve"] for r in whole if r["method"] == method] for method in candidates()}
    settings = {r["method"]: r["settings"] for r in whole}
    rows = []
    for method, curves in of.items():
        losses = {share: [loss_at(c, share * seconds) for c in curves] for share in (0.25, 0.5, 1.0)}
        row = {
            "method": method,
            "settings": settings[method],
            **{f"loss_at_{share * seconds:g}s": statistics.median(values) for share, values in losses.items()},
            "all": losses[1.0],
            "seconds_per_epoch": statistics.median(c[-1]["seconds"] / c[-1]["epoch"] for c in curves if c),
        }
        if method.startswith("MAC"):
            row |= _speedups(curves, of[f"SGD{ALONE}"], seconds)
        rows.append(row)
    return rows


def _speedups(curves: list[list[dict]], sgd: list[list[dict]], seconds: float) -> dict:
    """To the higher of both median final losses: E_SGD/E_MAC times what 3.25 and 3.20 say, and the ratio of times."""
    known = [point for c in curves for point in c if "predicted_speedup" in point]
    if not known:
        return {}
    goal = max(statistics.median(loss_at(c, seconds) for c in group) for group in (curves, sgd))
    if not math.isfinite(goal):
        return {}
    first = [[next((p for p in c if p["loss"] <= goal), None) for c in group] for group in (curves, sgd)]
    mac, other = ([point for point in points if point] for points in first)
    epochs, times = (
        statistics.median(p[key] for p in other) / statistics.median(p[key] for p in mac)
        for key in ("epoch", "seconds")
    )
    per_epoch = {name: statistics.median(p[name] for p in known) for name in known[0] if "speedup" in name}
    return {
        "goal": goal,
        "measured_speedup": times,
        "predicted_speedup": epochs * per_epoch["predicted_speedup"],
        "predicted_speedup_unequal": epochs * per_epoch["predicted_speedup_unequal"],
        "per_epoch": per_epoch,
        "idle_share": statistics.mean(p["idle_share"] for p in known),
    }


def table(rows: list[dict], seconds: float) -> str:
    times = [share * seconds for share in (0.25, 0.5, 1.0)]
    head = (
        f"| method | {' | '.join(f'loss at {t:g} s' for t in times)} | seeds | epoch | speedup over SGD{ALONE} | idle |"
    )
    lines = [head, "| --- " * 8 + "|"]
    for r in rows:
        values = " | ".join(f"{r[f'loss_at_{t:g}s']:.4f}" for t in times)
        spread = " ".join(f"{value:.4f}" for value in sorted(r["all"]))
        if "measured_speedup" in r:
            shown = f"{r['measured_speedup']:.2f} (3.25: {r['predicted_speedup']:.2f}, "
            shown += f"3.20: {r['predicted_speedup_unequal']:.2f})"
        else:
            shown = ""
        idle = f"{r['idle_share']:.0%}" if "idle_share" in r else ""
        lines.append(f"| {r['method']} | {values} | {spread} | {r['seconds_per_epoch']:.2f} s | {shown} | {idle} |")
    return "\n".join(lines) + "\n"


def draw(results: list[dict], seconds: float, file: Path) -> None:
    """Training loss against time: all of the seeds, MAC's groupings in panels."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "atoll"
    figure, axes = pyplot.subplots(1, len(GROUPINGS), figsize=(13, 4), sharey=True)
    for axis, grouping in zip(axes, GROUPINGS, strict=True):
        shown = ("SGD", "Adam", f"SGD{ALONE}", f"MAC one_term {grouping}", f"MAC two_term {grouping}")
        for number, method in enumerate(shown):
            curves = [r["curve"] for r in results if (r["method"], r["limit"]) == (method, seconds)]
            for k, curve in enumerate(curves):
                points = [(p["seconds"], p["loss"]) for p in curve if p["seconds"] <= seconds]
                if points:
                    axis.plot(*zip(*points, strict=True), color=f"C{number}", label=method if k == 0 else None)
        axis.set(title=f"grouping {grouping}", xlabel="training time, s", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left")
    axes[0].set_ylabel("training loss")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    quick = "1 s of pilot, 2 s of training, one seed"
    options = parse_options(__doc__.splitlines()[0], quick, "spoken_digits.npz")
    results: list[dict] = []
    for num_ranks in RANKS:
        trained = on_ranks(num_ranks, lambda: train_all(options.data, options.quick, options.trials))
        if trained is None:
            return
        results += trained
    seconds = 2.0 if options.quick else SECONDS
    rows = summarize(results, seconds)
    words = (
        "Medians of seeds 0, 1, 2 of the lowest loss so far; `seeds` are all at the end. Speedups are to the higher of "
    )
    words += "both final losses."
    figure = ("Training loss against time", lambda file: draw(results, seconds, file))
    report(options, "MAC against SGD and Adam", words, table(rows, seconds), {"rows": rows}, figure)


if __name__ == "__main__":
    main()
