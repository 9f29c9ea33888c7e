"""Time to target, performance profiles and the score of methods over workloads, as MLCommons AlgoPerf defines them.

Dahl et al. (2023), "Benchmarking Neural Network Training Algorithms", section 4; profiles: Dolan and Moré (2002).
Arrays of times are (..., methods, workloads), in seconds; a missed target is infinite.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from atoll.analysis.resampling import NUM_RESAMPLES, Array, in_groups, interval, resample

By = Literal["time", "index"]
Integral = Literal["exact", "trapezoid"]
Measure = Literal["seconds", "passes"]

LARGEST_RATIO = 4.0
NUM_POINTS = 100  # as in the official code's trapezoidal rule
COLUMNS = ("method", "workload", "study", "trial", "evaluation")


@dataclass(frozen=True)
class TrialTime:
    """When a trial of a study first met the target, in seconds and as an evaluation's index; infinite if never.

    Where passes are scored, they are in the place of seconds.
    Studies of one group are not independent, for example because they train the result of the same tuning.
    """

    method: str
    workload: str
    study: str
    trial: str
    evaluation: float
    seconds: float
    group: str = ""


@dataclass(frozen=True)
class Times:
    """Each study's time to target, by method and workload.

    Attributes:
        methods, workloads: their names.
        studies: per method and workload an array (groups, studies) with one time per study; no entry without studies.
        variants: held-out variant -> its base workload; only base workloads are scored.
    """

    methods: tuple[str, ...]
    workloads: tuple[str, ...]
    studies: Mapping[tuple[str, str], Array]
    variants: Mapping[str, str]

    @property
    def bases(self) -> tuple[str, ...]:
        """The workloads that are scored."""
        return tuple(workload for workload in self.workloads if workload not in self.variants)

    def without_method(self, method: str) -> Times:
        """These times without one method."""
        return Times(tuple(m for m in self.methods if m != method), self.workloads, self.studies, self.variants)

    def without_workload(self, base: str) -> Times:
        """These times without one base workload and its variants."""
        removed = {base, *(variant for variant, its_base in self.variants.items() if its_base == base)}
        return Times(
            self.methods,
            tuple(w for w in self.workloads if w not in removed),
            self.studies,
            {variant: its_base for variant, its_base in self.variants.items() if its_base != base},
        )


@dataclass(frozen=True)
class MethodScore:
    """The score and rank of one method.

    Attributes:
        score: in [0, 1]; the mean of its performance profile over ratios in [1, 4].
        score_interval, rank_interval: 95 % intervals over resampled studies; None if there is only one study of each.
        first: the share of resamples in which its score is the highest; ties are shared.
        rank_without_method, rank_without_workload: its rank if another method, or a workload, is left out.
    """

    method: str
    score: float
    rank: int
    score_interval: tuple[float, float] | None
    rank_interval: tuple[float, float] | None
    first: float | None
    rank_without_method: Mapping[str, int]
    rank_without_workload: Mapping[str, int]


def read(file: Path, measure: Measure = "seconds") -> list[TrialTime]:
    """The trials of a CSV file with the columns of `COLUMNS` and `measure`; empty or inf: the target was missed.

    Raises:
        ValueError: if a column is missing, a time is not a number, or the table of a benchmark has no seconds, as its
            ranks shared cores.
    """
    needed = (*COLUMNS, measure)
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened)
        missing = [column for column in needed if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{file} lacks the columns {', '.join(missing)}; it needs {', '.join(needed)}")
        lines = [(reader.line_num, row) for row in reader]
    if not lines:
        raise ValueError(f"{file} has no trials; it needs rows of {', '.join(needed)}")
    if (
        measure == "seconds"
        and any(map(_has_met, (row for _, row in lines)))
        and not any(r["seconds"] for _, r in lines)
    ):
        raise ValueError(
            f"{file} has no seconds, although targets were met: its ranks shared cores or a GPU, so that seconds do "
            "not compare; score what ranks passed forward and backward: --measure passes"
        )
    return [_row(file, number, row, measure) for number, row in lines]


def _has_met(row: Mapping[str, str]) -> bool:
    """Whether a benchmark's trial met its target, by its passes."""
    return (row.get("passes") or "inf").strip() not in ("", "inf", "nan")


def _row(file: Path, line: int, row: Mapping[str, str], measure: Measure) -> TrialTime:
    names = {name: row[name] or "" for name in ("method", "workload", "study", "trial")}
    empty = [name for name in ("method", "workload") if not names[name]]
    if empty:
        raise ValueError(f"{file}, line {line}: {', '.join(empty)} must be given")
    numbers = {}
    for name in ("evaluation", measure):
        text = (row[name] or "").strip()
        try:
            number = math.inf if text == "" else float(text)
        except ValueError:
            number = math.nan
        # Ratios need positive times; evaluations may be counted from 0.
        rule, is_right = ("above 0", number > 0) if name == measure else ("of at least 0", number >= 0)
        if not is_right:
            raise ValueError(f"{file}, line {line}: {name} must be a number {rule}, empty or inf; got {text!r}")
        numbers[name] = number
    return TrialTime(
        names["method"],
        names["workload"],
        names["study"],
        names["trial"],
        evaluation=numbers["evaluation"],
        seconds=numbers[measure],
        group=row.get("group") or "",
    )


def pairs(text: str) -> dict[str, str]:
    """Parse "BASE=VARIANT,..." into base workload -> variant.

    Raises:
        ValueError: if the text is anything else.
    """
    variants = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        base, equals, variant = (word.strip() for word in part.partition("="))
        if not (base and equals and variant) or base in variants:
            raise ValueError(f"variants must be BASE=VARIANT,... with each base once; got {text!r}")
        variants[base] = variant
    check_variants(variants)
    return variants


def check_variants(variants: Mapping[str, str]) -> None:
    """Raise ValueError unless each variant has one base and is not a base itself."""
    names = list(variants.values())
    wrong = {name for name in names if names.count(name) > 1} | (set(names) & set(variants))
    if wrong:
        raise ValueError(
            f"a variant must have exactly one base and no variants of its own; got {', '.join(sorted(wrong))}"
        )


def gather(trials: Iterable[TrialTime], variants: Mapping[str, str] | None = None, by: By = "time") -> Times:
    """Each study's time, which is that of its first trial to meet the target.

    Args:
        trials: of all studies.
        variants: base workload -> its held-out variant.
        by: "time" takes a study's smallest time. "index", like the official code, takes the time of the trial that met
            the target at the smallest evaluation index; ties go to the first name.

    Raises:
        ValueError: if no trial has one of the workloads in `variants`.
    """
    check_variants(variants or {})
    grouped: dict[tuple[str, str], dict[tuple[str, str], list[TrialTime]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        grouped[trial.method, trial.workload][trial.group, trial.study].append(trial)
    workloads = tuple(dict.fromkeys(workload for _, workload in grouped))
    if unknown := sorted({name for pair in (variants or {}).items() for name in pair} - set(workloads)):
        raise ValueError(f"no trial has the workload {', '.join(unknown)}; there are {', '.join(workloads)}")
    return Times(
        tuple(dict.fromkeys(method for method, _ in grouped)),
        workloads,
        {pair: _in_groups(studies, by) for pair, studies in grouped.items()},
        {variant: base for base, variant in (variants or {}).items()},
    )


def _in_groups(studies: Mapping[tuple[str, str], Sequence[TrialTime]], by: By) -> Array:
    groups: dict[str, list[float]] = defaultdict(list)
    for (group, _), trials in studies.items():
        groups[group].append(_of_study(trials, by))
    return in_groups(list(groups.values()))


def _of_study(trials: Sequence[TrialTime], by: By) -> float:
    if by == "time":
        return min(trial.seconds for trial in trials)
    reached = [trial for trial in trials if math.isfinite(trial.seconds)]
    return min(reached, key=lambda t: (t.evaluation, t.trial)).seconds if reached else math.inf


def medians(times: Times) -> Array:
    """The methods' times (methods, workloads): medians over studies, infinities included; infinite without studies."""
    return np.array(
        [[np.median(times.studies.get((m, w), np.array([[np.inf]]))) for w in times.workloads] for m in times.methods]
    )


def resampled(times: Times, num_resamples: int, seed: int) -> Array:
    """Medians over resampled studies (resamples, methods, workloads), resampled per method and workload."""
    rng = np.random.default_rng(seed)
    drawn = np.full((num_resamples, len(times.methods), len(times.workloads)), np.inf)
    for i, method in enumerate(times.methods):
        for j, workload in enumerate(times.workloads):
            if (studies := times.studies.get((method, workload))) is not None:
                drawn[:, i, j] = np.median(resample(studies, num_resamples, rng), axis=1)
    return drawn


def base_times(times: Times, table: Array) -> Array:
    """Times (..., methods, base workloads) after AlgoPerf's rules for variants and for times that are too long."""
    table = table.copy()
    place = {workload: index for index, workload in enumerate(times.workloads)}
    both = [(place[base], place[variant]) for variant, base in times.variants.items()]
    for base, variant in both:
        table[..., variant][np.isinf(table[..., base])] = np.inf
    best = table.min(axis=-2, keepdims=True)
    table[table > LARGEST_RATIO * best] = np.inf
    for base, variant in both:
        table[..., base][np.isinf(table[..., variant])] = np.inf
    return table[..., [place[base] for base in times.bases]]


def ratios(table: Array) -> Array:
    """Each method's time over the best one on the workload; infinite for missed targets."""
    best = table.min(axis=-2, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(table), table / best, np.inf)


def profile(ratio: Array, tau: Array) -> Array:
    """The share of workloads on which a method's ratio (..., workloads) is at most each of `tau`: (..., len(tau))."""
    return np.asarray((ratio[..., None, :] <= tau[:, None]).mean(axis=-1))


def score(ratio: Array, integral: Integral = "exact") -> Array:
    """The mean of the profile over ratios in [1, 4], of ratios (..., workloads)."""
    if integral == "exact":
        return np.asarray(np.maximum(0.0, LARGEST_RATIO - ratio).mean(axis=-1) / (LARGEST_RATIO - 1))
    shares = profile(ratio, np.linspace(1.0, LARGEST_RATIO, NUM_POINTS))
    return np.asarray((shares[..., 1:] + shares[..., :-1]).mean(axis=-1) / 2)


def ranks(scores: Array) -> NDArray[np.int64]:
    """One more than the number of methods with a higher score (..., methods)."""
    return np.asarray(1 + (scores[..., None, :] > scores[..., :, None]).sum(axis=-1))


def compare(
    times: Times, integral: Integral = "exact", num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> list[MethodScore]:
    """Every method's score and rank with their intervals, the best first."""

    def scores_of(subset: Times, table: Array) -> Array:
        return score(ratios(base_times(subset, table)), integral)

    def ranks_of(subset: Times) -> dict[str, int]:
        return dict(zip(subset.methods, map(int, ranks(scores_of(subset, medians(subset)))), strict=True))

    scores = scores_of(times, medians(times))
    place = ranks_of(times)
    can_resample = all(studies.size > 1 for studies in times.studies.values())
    drawn = scores_of(times, resampled(times, num_resamples, seed)) if can_resample else None
    firsts = None if drawn is None else _first(drawn)
    without_method = {m: ranks_of(times.without_method(m)) for m in times.methods if len(times.methods) > 1}
    without_workload = {w: ranks_of(times.without_workload(w)) for w in times.bases if len(times.bases) > 1}
    rows = [
        MethodScore(
            method=method,
            score=float(scores[i]),
            rank=place[method],
            score_interval=None if drawn is None else interval(drawn[:, i]),
            rank_interval=None if drawn is None else interval(ranks(drawn)[:, i]),
            first=None if firsts is None else float(firsts[i]),
            rank_without_method={m: r[method] for m, r in without_method.items() if m != method},
            rank_without_workload={w: r[method] for w, r in without_workload.items()},
        )
        for i, method in enumerate(times.methods)
    ]
    return sorted(rows, key=lambda row: (row.rank, row.method))


def verdict(rows: Sequence[MethodScore]) -> str:
    """Which method is first, or why that cannot be told."""
    if (first := leader(rows)) is not None:
        return f"{first} is first: its interval overlaps with no other"
    best, *others = rows
    if not others:
        return f"there is nothing to compare {best.method} with"
    if best.score == 0:
        return "cannot tell: no method keeps a finite time on any workload"
    if best.score_interval is None:
        return "cannot tell how certain this is: it needs at least two studies of every method on every workload"
    return f"cannot separate {best.method} from {', '.join(_rivals(best, others))}: their intervals overlap"


def leader(rows: Sequence[MethodScore]) -> str | None:
    """The method whose interval is above all others', best first in `rows`; None if there is none."""
    best, *others = rows
    known = best.score > 0 and best.score_interval is not None
    return best.method if others and known and not _rivals(best, others) else None


def _rivals(best: MethodScore, others: Sequence[MethodScore]) -> list[str]:
    low = (best.score_interval or (0.0, 0.0))[0]
    return [row.method for row in others if row.score_interval is not None and row.score_interval[1] >= low]


def _first(scores: Array) -> Array:
    """How often each method has the highest score; ties are shared."""
    best = scores == scores.max(axis=-1, keepdims=True)
    return np.asarray((best / best.sum(axis=-1, keepdims=True)).mean(axis=0))
