"""Live progress, leaderboards and other tables of a search; plain lines without a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from atoll.analysis.failures import first_line
from atoll.analysis.formatting import counted, duration, number, size
from atoll.storage import names
from atoll.storage.models import StudyRow, TrialRow
from atoll.storage.store import StudySummary

if TYPE_CHECKING:
    from atoll.analysis.comparison import Comparison
    from atoll.analysis.failures import ChoiceFailures, KindOfFailure
    from atoll.analysis.inference import Estimate
    from atoll.analysis.projection import Prediction
    from atoll.analysis.recommendation import Recommendation
    from atoll.analysis.score import MethodScore
    from atoll.platform.batch.listing import JobRow
    from atoll.platform.study.study import Study


def subject(study: Study | StudyRow) -> str:
    """What a study searches, in words: a method on a workload, or a function."""
    return names.subject(study.method, study.workload)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table for the terminal, with numbers aligned right."""
    result = Table(title=Text(title), title_justify="left")
    rows = list(rows)
    for index, column in enumerate(columns):
        numeric = all(row[index][:1] in "-0123456789" for row in rows if row[index])
        result.add_column(Text(column), justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        result.add_row(*map(Text, row))  # a name in brackets is not markup
    return result


def failures(study: str, kinds: Sequence[KindOfFailure], store: str = "", max_kinds: int = 10) -> list[str]:
    """The reasons of failed trials with their counts, and the commands for more, with the option `store`."""
    if not kinds:
        return []
    lines = [f"{counted(sum(kind.count for kind in kinds), 'failed trial')}, by reason:"]
    for kind in kinds[:max_kinds]:
        which = f"trial {kind.trial}" if kind.count == 1 else f"{kind.count} trials, first trial {kind.trial}"
        lines += [f"  {which}: {first_line(kind.reason)}", *([f"    at {kind.place}"] if kind.place else [])]
    if len(kinds) > max_kinds:
        lines.append(f"  and {counted(len(kinds) - max_kinds, 'further reason')}: atoll failures {study}{store}")
    return [*lines, f"a traceback: atoll failures {study} --trial {kinds[0].trial}{store}"]


def failures_by_choice(study: str, choices: Sequence[ChoiceFailures]) -> Table:
    """How often trials failed, by hyperparameter value."""
    from atoll.searchspaces.bigearthnet_nas import UNSTABLE_IN_THE_SOURCE as UNSTABLE

    columns = ["hyperparameter", "value", "trials", "failed", "share", "most often", "Coquelin 2024, section 6.2"]
    lines = [
        [
            c.name,
            c.value,
            str(c.num_trials),
            str(c.num_failed),
            f"{c.share:.0%}",
            c.reason,
            "often NaN" if c.name == "optimizer" and c.value in UNSTABLE else "",
        ]
        for c in choices
    ]
    return table(f"{study}: failures by choice", columns, lines)


def scores(rows: Sequence[MethodScore], workloads: Sequence[str]) -> Table:
    """Each method's rank and score, their intervals, and its ranks with another method or a workload left out."""
    columns = ["rank", "method", "score", "95 %", "rank's 95 %", "first", "without a method", "without a workload"]
    lines = [
        [
            str(row.rank),
            row.method,
            f"{row.score:.3f}",
            "-" if row.score_interval is None else "{:.3f} to {:.3f}".format(*row.score_interval),
            "-" if row.rank_interval is None else "{:.0f} to {:.0f}".format(*row.rank_interval),
            "-" if row.first is None else f"{row.first:.0%}",
            _extremes(row.rank_without_method.values()),
            _extremes(row.rank_without_workload.values()),
        ]
        for row in rows
    ]
    return table(f"score over {', '.join(workloads)}", columns, lines)


def comparison(compared: Comparison) -> Table:
    """Each method on each workload."""
    columns = ["workload", "method", compared.quality_title, "reached", "seconds to target", "steps to target", "sent"]
    lines = [
        [
            cell.workload,
            cell.method,
            _median(cell.quality),
            f"{cell.num_reached} of {cell.num_trained}",
            _median(cell.seconds),
            _median(cell.steps),
            size(cell.wire_bytes),
        ]
        for cell in compared.cells
        if cell.num_trained
    ]
    return table(f"{compared.name}: medians over confirmations", columns, lines)


def predictions(rows: Sequence[Prediction]) -> Table:
    """The predictions by workload, method and scale."""
    columns = ["workload", "method", "nodes", "ranks", "step", "computing", "exposed", "epoch", "to target", "trials"]
    lines = [
        [
            row.workload,
            row.method,
            str(row.num_nodes),
            str(row.num_ranks),
            *(f"{1000 * seconds:.3g} ms" for seconds in (row.step, row.compute, row.exposed)),
            f"{row.epoch:.3g} s",
            "missed" if math.isinf(row.to_target) else "-" if math.isnan(row.to_target) else f"{row.to_target:.3g} s",
            str(row.num_trials),
        ]
        for row in rows
    ]
    cluster = f"{rows[0].cluster}, {rows[0].scaling} scaling" if rows else "nothing"
    return table(f"predictions for {cluster}: medians over trials", columns, lines)


def prediction_notes(rows: Sequence[Prediction], left_out: Sequence[str]) -> list[str]:
    """The predictions' assumptions, and the reasons for missing predictions."""
    most = max((row.num_nodes for row in rows), default=0)
    assumed = dict.fromkeys(words for row in rows if row.num_nodes == most for words in row.assumptions)
    return [
        f"These are predictions, not measurements. For {counted(most, 'node')} they assume:",
        *(f"  {words}" for words in assumed),
        *(f"not predicted: {reason}" for reason in left_out),
    ]


def contenders(found: Recommendation) -> Table:
    """The methods that may be first, and how fast they are predicted to be."""
    columns = ["method", "first with", "predicted to target", "95 % interval", "ranks", "target met", "tunings"]
    lines = [
        [
            one.method,
            f"{one.probability:.0%}",
            _seconds(one.seconds.value),
            "-" if one.seconds.interval is None else " to ".join(map(_seconds, one.seconds.interval)),
            str(one.num_ranks),
            f"{one.num_reached} of {one.num_trained}",
            str(one.num_tunings),
        ]
        for one in found.contenders
    ]
    where = f"{counted(found.num_nodes, 'node')} of {found.cluster}, {found.scaling} scaling"
    return table(f"{found.workload} on {where}, by {found.benchmark}: predictions", columns, lines)


def recommendation_notes(found: Recommendation) -> list[str]:
    """The answer in words, when it changes, what would make it surer, and what it assumes."""
    changes = []
    for words, first in found.if_changed.items():
        same = "the same" if set(first) == set(found.first) else ", ".join(first) or "cannot tell"
        changes.append(f"  with {words}: {same}")
    return [
        found.verdict,
        *_its_study(found),
        *(["and elsewhere, the methods one of which is first with 95 %:", *changes] if changes else []),
        *(["to be surer:", *(f"  {words}" for words in found.advice)] if found.advice else []),
        *(["These are predictions, not measurements. They assume:", *(f"  {w}" for w in found.assumptions)]),
        *(f"not predicted, or not all of it: {method}: {reason}" for method, reason in found.left_out.items()),
    ]


def _its_study(found: Recommendation) -> list[str]:
    """Where the configuration of the only first method is."""
    if len(found.first) != 1:
        return []
    study = f"{found.benchmark}.{found.workload}.{found.first[0]}.confirm-0"
    return [f"its configuration: `atoll export {study} -o best.yaml`, then `atoll train best.yaml`"]


def _seconds(value: float) -> str:
    return "missed" if math.isinf(value) else f"{value:.3g} s"


def _median(estimate: Estimate | None) -> str:
    return "-" if estimate is None else number(estimate.value)


def _extremes(ranks: Iterable[int]) -> str:
    ordered = sorted(ranks)
    return f"{ordered[0]} to {ordered[-1]}" if ordered else "-"


def searched_names(study: StudyRow, trials: Iterable[TrialRow]) -> list[str]:
    """The study's searched hyperparameters: those that its definition does not fix."""
    space: Mapping[str, Any] = study.definition.get("space", {})
    fixed = {name for name, value in space.items() if not isinstance(value, dict)}
    names = dict.fromkeys(name for trial in trials for name in trial.hyperparameters)
    return [name for name in names if name not in fixed]


def studies(summaries: Iterable[StudySummary]) -> Table:
    """One row per study, with its state and progress."""
    rows = [
        [
            s.study.name,
            s.study.state,
            f"{s.num_ended}/{s.study.num_trials or '-'}",
            str(s.counts.get("failed", 0)),
            f"{s.study.metric} {number(s.best)}",
            s.study.method,
            s.study.workload,
            _clock(s.study.started),
        ]
        for s in summaries
    ]
    columns = ["study", "state", "trials", "failed", "best", "method", "workload", "started"]
    return table("studies", columns, rows)


def ended_because(study: StudyRow, state: str) -> str | None:
    """A line on why a study ended; None if there is nothing to tell, such as of one that has used up its budget.

    Args:
        study: the study.
        state: its true state.
    """
    return None if state == "running" or not study.reason else f"{study.name} is {state}: {first_line(study.reason)}"


def jobs(rows: Iterable[JobRow]) -> Table:
    """One row per job of a batch system, with its state."""
    lines = []
    for row in rows:
        state = f"ended: {row.code}" if row.code is not None else row.state
        chain = f"{row.lane}.{row.position}" if row.lane else str(row.position)
        begin = _clock(row.started) if row.started is not None else ""
        until = row.ended if row.ended is not None else time.time() if row.state == "running" else None
        took = duration(until - row.started) if until is not None and row.started is not None else ""
        reason = row.reason if row.state == "queued" else ""
        log = "/".join(row.log.parts[-3:])  # in the study's folder
        lines.append([row.id, chain, state, reason, begin, took, str(row.starts), row.hostname or "", log])
    columns = ["job", "chain", "state", "waits for", "started", "time", "starts", "host", "log"]
    return table("jobs", columns, lines)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(seconds))
