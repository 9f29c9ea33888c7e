"""Predicts step, epoch and time to target of recorded trials on a described cluster.

A trial's own schedule is replayed there (`replay.py`). Weak scaling keeps what a rank computes in a step, and the
epochs to the target, as measured; strong scaling keeps the global batch and the steps. Methods whose ranks hold parts
of one network keep their ranks. Predictions, not measurements: each carries what it assumes.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from atoll.analysis import confirmations
from atoll.analysis.cluster import Cluster
from atoll.analysis.replay import MAX_RANKS, CannotReplay, replay
from atoll.storage.models import BenchmarkRow, ProgressRow, ProjectionRow, StudyRow, TrialRow
from atoll.storage.store import Store, StoreError

Scaling = Literal["weak", "strong"]


@dataclass(frozen=True)
class Measured:
    """What is known of a trial.

    Attributes:
        method, workload: as its study or benchmark calls them.
        schedules: of its ranks.
        steps_per_epoch: global batches of an epoch.
        batch_size: samples per rank and step.
        steps_to_target: None where it missed the target, or there is none.
        shared_cores: whether its ranks had to share cores or a GPU.
    """

    trial_id: int
    method: str
    workload: str
    schedules: Sequence[dict[str, Any]]
    steps_per_epoch: int
    batch_size: int
    steps_to_target: float | None
    shared_cores: bool

    @property
    def num_ranks(self) -> int:
        """Ranks that trained it."""
        return int(self.schedules[0]["num_ranks"])

    @property
    def grows(self) -> bool:
        """Whether its method takes as many ranks as there are."""
        return bool(self.schedules[0]["grows"])


@dataclass(frozen=True)
class Projected:
    """Predictions for the trials, and what could not be predicted and why."""

    trial_ids: list[int]
    rows: list[ProjectionRow]
    left_out: list[str]


@dataclass(frozen=True)
class Prediction:
    """Medians over the trials of a method on a workload, at one scale of a cluster; times are seconds.

    Attributes:
        step, compute, exposed: of a step: all of it, its computing, and its waiting for communication.
        epoch: of training.
        to_target: infinite where half of the trials miss the target, NaN where there is none.
        assumptions: what it takes for granted, in words.
    """

    method: str
    workload: str
    cluster: str
    scaling: str
    num_nodes: int
    num_ranks: int
    step: float
    compute: float
    exposed: float
    epoch: float
    to_target: float
    num_trials: int
    assumptions: list[str]


def project_all(
    store: Store, subject: StudyRow | BenchmarkRow, cluster: Cluster, nodes: Sequence[int], scaling: Scaling
) -> Projected:
    """Of a study the best trial of each method; of a benchmark every confirmation of a configuration that counts."""
    measured, left_out = _read(store, subject)
    rows: list[ProjectionRow] = []
    for one in measured:
        found, reasons = project(one, cluster, nodes, scaling)
        rows += found
        left_out += [f"{one.method} on {one.workload} (trial {one.trial_id}): {reason}" for reason in reasons]
    return Projected([one.trial_id for one in measured], rows, list(dict.fromkeys(left_out)))


def predictions(
    store: Store, subject: StudyRow | BenchmarkRow, made: Sequence[ProjectionRow] | None = None
) -> list[Prediction]:
    """Of the projections that were just made of a study or benchmark, or of all that the store holds."""
    if isinstance(subject, StudyRow):
        label = subject.workload_label or subject.workload
        labels = {t.id: (method, label) for method, t in _best(store, subject).items()}
        return summarise(
            store.projections(labels) if made is None else made,
            labels,
            {label} if subject.target is not None else set(),
        )
    confirmed = [row for row in confirmations.read(store, subject) if row.is_chosen]
    aimed = {str(study.workload_label) for study in store.studies_of(subject) if study.target is not None}
    if made is None:
        made = store.projections(row.trial_id for row in confirmed if row.trial_id is not None)
    return of_confirmations(confirmed, made, aimed)


def of_confirmations(
    rows: Sequence[confirmations.Confirmation], projections: Iterable[ProjectionRow], aimed: Container[str]
) -> list[Prediction]:
    """Medians over confirmations; one that failed never meets the target."""
    labels = {row.trial_id: (row.method, row.workload) for row in rows if row.trial_id is not None}
    failed = Counter((row.method, row.workload) for row in rows if row.state == "failed")
    return summarise(projections, labels, aimed, failed)


def summarise(
    rows: Iterable[ProjectionRow],
    labels: Mapping[int, tuple[str, str]],
    aimed: Container[str],
    failed: Mapping[tuple[str, str], int] = MappingProxyType({}),
) -> list[Prediction]:
    """Medians by method, workload and scale.

    Args:
        rows: of trials.
        labels: method and workload of each trial.
        aimed: the workloads that have a target.
        failed: trials of a method and workload that were not trained to the end, and so never meet it.
    """
    groups: dict[tuple[Any, ...], list[ProjectionRow]] = {}
    for row in rows:
        method, workload = labels[row.trial_id]
        groups.setdefault((workload, row.cluster, row.scaling, method, row.num_nodes), []).append(row)

    def prediction(key: tuple[Any, ...], several: list[ProjectionRow]) -> Prediction:
        workload, cluster, scaling, method, num_nodes = key
        reached = [math.inf if row.seconds_to_target is None else row.seconds_to_target for row in several]
        reached += [math.inf] * failed.get((method, workload), 0)
        return Prediction(
            method=method,
            workload=workload,
            cluster=cluster,
            scaling=scaling,
            num_nodes=num_nodes,
            num_ranks=several[0].num_ranks,
            step=statistics.median(row.step_seconds for row in several),
            compute=statistics.median(row.compute_seconds for row in several),
            exposed=statistics.median(row.exposed_seconds for row in several),
            epoch=statistics.median(row.epoch_seconds for row in several),
            to_target=statistics.median(reached) if workload in aimed else math.nan,
            num_trials=len(several),
            assumptions=list(dict.fromkeys(words for row in several for words in row.assumptions)),
        )

    return [prediction(key, several) for key, several in sorted(groups.items())]


def project(
    measured: Measured, cluster: Cluster, nodes: Sequence[int], scaling: Scaling
) -> tuple[list[ProjectionRow], list[str]]:
    """One trial at several scales; also why some have no prediction."""
    rows, reasons = [], []
    g = cluster.ranks_per_node
    for num_nodes in nodes if measured.grows else [math.ceil(measured.num_ranks / g)]:
        num_ranks = num_nodes * g if measured.grows else measured.num_ranks
        if scaling == "strong" and measured.batch_size * measured.num_ranks < num_ranks:
            reasons.append(
                f"strong scaling leaves ranks without a sample: the global batch is "
                f"{measured.batch_size * measured.num_ranks}, {num_nodes} nodes have {num_ranks} ranks"
            )
            continue
        try:
            rows.append(_project(measured, cluster, num_nodes, num_ranks, scaling))
        except CannotReplay as reason:
            reasons.append(str(reason))
    return rows, list(dict.fromkeys(reasons))


def _project(measured: Measured, cluster: Cluster, num_nodes: int, num_ranks: int, scaling: Scaling) -> ProjectionRow:
    share = measured.num_ranks / num_ranks
    fewer_steps, work = (share, 1.0) if scaling == "weak" else (1.0, share)
    reached = measured.steps_to_target
    found = replay(
        measured.schedules,
        cluster,
        num_nodes,
        until=None if reached is None else math.ceil(reached),
        per_epoch=measured.steps_per_epoch,
        work=work,
    )
    steps = None if reached is None else max(1.0, reached * fewer_steps)
    return ProjectionRow(
        trial_id=measured.trial_id,
        cluster=cluster.name,
        scaling=scaling,
        num_nodes=num_nodes,
        num_ranks=num_ranks,
        grows=measured.grows,
        step_seconds=found.step,
        compute_seconds=found.compute,
        exposed_seconds=found.exposed,
        epoch_seconds=found.step * max(1.0, measured.steps_per_epoch * fewer_steps),
        steps_to_target=steps,
        seconds_to_target=None if steps is None else found.step * steps,
        assumptions=assumptions(measured, cluster, num_ranks, scaling),
        description=cluster.model_dump(),
    )


def assumptions(measured: Measured, cluster: Cluster, num_ranks: int, scaling: Scaling) -> list[str]:
    """What a prediction takes for granted, in words."""
    found = [f"a rank computes {cluster.speed:g} times as fast as the measured one; evaluation is left out"]
    if not measured.grows:
        found.append(f"the method stays on the {measured.num_ranks} ranks that were measured")
    elif scaling == "weak":
        found.append(
            f"samples per rank and epochs to the target are those of {measured.num_ranks} ranks, although the global "
            "batch grows with them"
        )
    else:
        found.append(
            f"steps to the target are those of {measured.num_ranks} ranks; computing shrinks with the samples of a rank"
        )
    found.append(
        f"sums by {cluster.algorithm}, costs by latency and bandwidth; communication "
        f"{'goes on while ranks compute' if cluster.overlaps else 'begins when it is waited for'}"
    )
    if measured.grows and num_ranks > MAX_RANKS and measured.schedules[0].get("service") is None:
        found.append(f"{MAX_RANKS} ranks are followed; the slowest of all may be slower")
    runs = (run for schedule in measured.schedules for _, segment in schedule["segments"] for run in segment)
    if any(place < 0 for place, _ in runs):
        found.append("steps of rare kinds were not recorded")
    events = [e for s in measured.schedules for p in s["patterns"] for e in p["events"] if e[0] == "post"]
    if measured.grows and (parts := sorted({event[3] for event in events if event[2] == "part"})):
        found.append(f"groups of ranks do not grow: they have {' or '.join(map(str, parts))}")
    if measured.grows and any(len(event) > 5 and event[2] != "center" for event in events):
        found.append("messages that no rank waits for take no time")
    if measured.shared_cores:
        found.append("the measured ranks shared cores or a GPU: they computed slower than they need")
    return found


# What the store holds.


def _read(store: Store, subject: StudyRow | BenchmarkRow) -> tuple[list[Measured], list[str]]:
    """The trials to project, and those that cannot be.

    Raises:
        StoreError: nothing in it can be projected.
    """
    found = list(_of_benchmark(store, subject) if isinstance(subject, BenchmarkRow) else _of_study(store, subject))
    measured = [one for one in found if isinstance(one, Measured)]
    left_out = [one for one in found if isinstance(one, str)]
    if not measured:
        raise StoreError(
            f"{subject.name} holds nothing to project: that takes complete trials whose steps were recorded"
            + "".join(f"\n  {reason}" for reason in dict.fromkeys(left_out))
        )
    return measured, left_out


def _best(store: Store, study: StudyRow) -> dict[str, TrialRow]:
    """The best trial of each method."""
    best: dict[str, TrialRow] = {}
    for trial in store.leaderboard(study):
        best.setdefault(trial.configuration["method"], trial)
    return best


def _of_study(store: Store, study: StudyRow) -> Iterable[Measured | str]:
    best = _best(store, study)
    curves = confirmations.curves(store, best.values())
    for method, trial in best.items():
        met = (
            row.step
            for row in curves[trial.id]
            if row.metric is not None
            and study.curve_metric in (None, study.metric)
            and confirmations.meets(study, row.metric)
        )
        yield _measured(store, study, trial, method, curves[trial.id], next(met, None))


def _of_benchmark(store: Store, benchmark: BenchmarkRow) -> Iterable[Measured | str]:
    rows = [row for row in confirmations.read(store, benchmark) if row.is_chosen and row.state == "complete"]
    studies = {study.id: study for study in store.studies_of(benchmark) if study.stage == "confirm"}
    trials = {trial.id: trial for study in studies.values() for trial in store.trials(study)}
    wanted = [trials[row.trial_id] for row in rows if row.trial_id is not None]
    curves = confirmations.curves(store, wanted)
    for row, trial in zip(rows, wanted, strict=True):
        study = studies[trial.study_id]
        yield _measured(store, study, trial, row.method, curves[trial.id], row.steps if row.is_reached else None)


def _measured(
    store: Store, study: StudyRow, trial: TrialRow, method: str, curve: Sequence[ProgressRow], steps: float | None
) -> Measured | str:
    schedules = [row.content for row in store.schedules(trial.id)]
    if not schedules or not curve:
        return (
            f"{method}, trial {trial.number} of {study.name}: its steps were not recorded; nor are those of trials "
            "whose sums go through NCCL, or of older versions of atoll"
        )
    if schedules[0]["grows"] and schedules[0]["num_ranks"] == 1:
        return (
            f"{method}, trial {trial.number} of {study.name}: one rank has nothing to communicate; train on 2 or more"
        )
    return Measured(
        trial_id=trial.id,
        method=method,
        workload=study.workload_label or study.workload,
        schedules=schedules,
        steps_per_epoch=max(1, curve[-1].step // max(1, curve[-1].epoch)),
        batch_size=int(trial.configuration["hyperparameters"].get("batch_size", 1)),
        steps_to_target=steps,
        shared_cores=bool(trial.oversubscribed),
    )
