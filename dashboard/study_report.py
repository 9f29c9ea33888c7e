"""The report of one study: its best trials, figures, failures and what it searched and measured, on one page."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import yaml

from atoll.analysis.failures import by_choice, by_kind, first_line
from atoll.analysis.formatting import MISSING_ON_PAGES, counted, duration, size
from atoll.analysis.importance import ImportanceError
from atoll.analysis.provenance_differences import num_measured_with
from atoll.dashboard import drawing, report_parts
from atoll.dashboard.board import Board
from atoll.dashboard.figures import style
from atoll.dashboard.report_parts import Report, Table, hardware, number, versions
from atoll.storage import browse, urls
from atoll.storage.export import as_yaml
from atoll.storage.liveness import true_state_of
from atoll.storage.models import ChangeRow, ProvenanceRow, StudyRow, TrialRow
from atoll.storage.names import subject
from atoll.storage.store import DEFAULT_URL, Store

MAX_BEST = 20  # trials in the table of the best; on a Pareto front more, if it has more
TITLES = {
    "history": ("Best so far", "Every complete trial, and the best objective after each."),
    "curves": ("Curves of the best trials", f"Up to {drawing.MAX_CURVES} of them, with their losses and metrics."),
    "pareto": ("Pareto front", "The first two objectives; the line joins the trials that no other one dominates."),
    "importance": ("Importance", "PED-ANOVA (Watanabe et al., 2023): what tells the best tenth from the rest."),
    "parallel": ("Parallel coordinates", "A line for each trial; drag along an axis to select."),
    "slices": ("Slices", "The objective against each hyperparameter; later trials are darker."),
    "timeline": ("Timeline", "Each worker's time."),
    "populations": ("Islands", "Each island's best individual so far, and the median of its newest."),
    "migrations": ("Migrations", "The number of individuals sent from island to island."),
    "failures": ("Failures", "Trials that failed or were lost, by reason."),
}


def html(store: Store, study: StudyRow) -> str:
    """The page: tables, figures, commands, versions, hardware; it loads nothing from elsewhere."""
    board = Board(store, study).refresh(study)
    front = board.best(None) if study.objectives else []
    best = browse.trials(store, board.best(max(MAX_BEST, len(front))))
    trials = store.trials(study)
    provenances = store.provenances(study)
    aims = ", ".join(f"{objective['direction']} {objective['name']}" for objective in study.all_objectives)
    report = Report(
        title=study.name,
        description=f"{subject(study.method, study.workload)}: {aims}",
        verdict=_verdict(study, board),
        notes=_notes(study, trials, best, provenances),
        tables=[summary(study, board), leaders(study, best, set(front)), failure_kinds(trials)],
        figures=_figures(store, board),
        appendix=[
            failure_shares(trials),
            space(provenances[-1].record if provenances else {}),
            hardware(store, [study]),
            versions([trial.configuration for trial in trials[:1]]),
            changes_of_study(store.changes(study)),
            changes((row.version, row.changes) for row in provenances),
        ],
        listings={
            "Commands": commands(store, study, best),
            **({"The best configuration": as_yaml(study, best[:1], provenances, alone=True)} if best else {}),
            "The study": yaml.safe_dump(study.definition, sort_keys=False, allow_unicode=True),
        },
    )
    return report_parts.html(report)


def _verdict(study: StudyRow, board: Board) -> str:
    """The result in a sentence."""
    ids = board.best(1)
    if not ids:
        return "No trial is complete yet." if true_state_of(study) == "running" else "No trial is complete."
    if study.objectives:
        return f"The Pareto front has {counted(len(board.best(None)), 'trial')}."
    (best,) = board.trials[board.trials["id"] == ids[0]].to_dict("records")
    objective, met = float(best["objective"]), ""
    if board.target is not None:
        is_met = objective >= board.target if study.direction == "maximize" else objective <= board.target
        met = f", which {'meets' if is_met else 'misses'} the target {number(board.target)}"
    return f"Best {study.metric}: {number(objective)} in trial {best['number']}{met}."


def _notes(
    study: StudyRow, trials: Sequence[TrialRow], best: Sequence[TrialRow], provenances: Sequence[ProvenanceRow]
) -> list[str]:
    """What a reader of the numbers must know."""
    notes = [f"The study ended as {study.state}: {study.reason}"] if study.reason else []
    if any(trial.oversubscribed for trial in trials):
        notes.append("Ranks shared cores or a GPU: the times do not compare with those of other studies.")
    records = {version.version: version.record for version in provenances}
    if num_measured_with({trial.provenance for trial in best}, records) > 1:
        notes.append("The best trials were measured with several versions of code, data or libraries.")
    notes.append("Objectives are of validation data that the search has seen; `atoll benchmark` compares on test data.")
    return notes


def summary(study: StudyRow, board: Board) -> Table:
    """State, trials by state, and time."""
    counts, state = board.counts(), true_state_of(study)
    counted = board.trials[board.trials["state"] != "continued"]  # whose time and traffic the later attempt has, too
    finished = study.finished or (time.time() if state == "running" else board.trials["finished"].max())
    rows = [
        ["state", state],
        ["trials", ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items())) or "none"],
        ["budget of trials", MISSING_ON_PAGES if study.num_trials is None else f"{study.num_trials:,}"],
        ["infeasible proposals, not trained", f"{study.num_refused:,}"],
        ["started (UTC)", time.strftime("%Y-%m-%d %H:%M", time.gmtime(study.started))],
        ["time", duration(None if finished is None else finished - study.started, MISSING_ON_PAGES)],
        ["seconds in trials", number(float(counted["seconds"].sum()))],
        ["sent by all trials", size(float(counted["wire_bytes"].sum()), MISSING_ON_PAGES)],
        ["islands, workers", f"{board.trials['island'].nunique()}, {board.trials['worker'].nunique()}"],
    ]
    return Table("Summary", "", ["", "value"], rows)


def leaders(study: StudyRow, best: Sequence[TrialRow], front: set[int]) -> Table:
    """The best trials with their hyperparameters and metrics."""
    names = dict.fromkeys(name for trial in best for name in trial.hyperparameters)
    own = [objective["name"] for objective in study.all_objectives]
    known = dict.fromkeys(name for trial in best for name in trial.metrics or {})
    metrics = [name for name in known if name not in own and not name.startswith("seconds_")]
    rows = [
        [
            f"{place}{' (front)' if trial.id in front else ''}",
            str(trial.number),
            *(number(value) for value in (trial.objectives or [trial.objective])),
            *(_word(trial.hyperparameters.get(name)) for name in names),
            *(number((trial.metrics or {}).get(name)) for name in metrics),
            duration(trial.seconds, MISSING_ON_PAGES),
            size(trial.wire_bytes, MISSING_ON_PAGES),
        ]
        for place, trial in enumerate(best, 1)
    ]
    columns = ["place", "trial", *own, *names, *metrics, "time", "sent"]
    caption = "Objectives first, then hyperparameters, then other metrics. Time is training time, without evaluation."
    return Table("Best trials", caption, columns, rows, frozenset({"trial", *own, *metrics, "time", "sent"}))


def _word(value: Any) -> str:
    """A hyperparameter's value; numbers to four digits."""
    return number(value) if isinstance(value, float) else style.word(value) or MISSING_ON_PAGES


def failure_kinds(trials: Sequence[TrialRow]) -> Table:
    """The kinds of failures."""
    rows = [[str(kind.count), str(kind.trial), first_line(kind.reason), kind.place] for kind in by_kind(trials)]
    columns = ["trials", "first trial", "reason", "in"]
    return Table("Failed trials", "By reason, without what differs by number.", columns, rows, frozenset(columns[:2]))


def failure_shares(trials: Sequence[TrialRow]) -> Table:
    """How often trials failed, by hyperparameter value; empty if none has."""
    choices = by_choice(trials)
    rows = [[c.name, c.value, str(c.num_trials), str(c.num_failed), f"{c.share:.0%}", c.reason] for c in choices]
    columns = ["hyperparameter", "value", "trials", "failed", "share", "most often"]
    shown = rows if any(choice.num_failed for choice in choices) else []
    return Table("Failures by choice", "", columns, shown, frozenset(columns[2:5]))


def space(record: Mapping[str, Any]) -> Table:
    """The search space of the latest version, as the study's provenance records it."""
    content = record.get("space")
    parameters = content.get("parameters", []) if isinstance(content, dict) else []
    columns = ["name", "domain", "default", "source"]
    rows = [[str(one.get(name, "")) for name in columns] for one in parameters if isinstance(one, dict)]
    return Table("Search space", "", ["hyperparameter", "range", "default", "source of the range"], rows)


def changes(versions: Any) -> Table:
    """What changed between the versions of code, data and libraries."""
    rows = [[str(version), str(change)] for version, some in versions for change in some]
    return Table("Changes of code, data and libraries", "", ["version", "change"], rows)


def changes_of_study(rows: Sequence[ChangeRow]) -> Table:
    """What `atoll change` has changed while the study was searched."""
    cells = [
        [str(row.number), str(row.first_trial), "; ".join(one["said"] for one in row.settings), _outside(row)]
        for row in rows
    ]
    return Table("Changes of the study", "", ["change", "from trial", "what", "earlier results outside"], cells)


def _outside(row: ChangeRow) -> str:
    """The earlier results that samplers are not told, with the reasons."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in row.outside.items())
    return f"{sum(row.outside.values())} ({reasons})" if reasons else "0"


def _figures(store: Store, board: Board) -> list[tuple[str, str, go.Figure]]:
    """Those that have something to show."""
    names = dict(TITLES)
    if not board.study.objectives:
        del names["pareto"]
    if board.trials["island"].nunique() < 2:
        del names["populations"], names["migrations"]
    if not board.best(1):
        names = {name: title for name, title in names.items() if name in ("timeline", "failures")}
    if not board.trials["state"].isin(["failed", "lost"]).any():
        del names["failures"]
    drawn = []
    for name, (title, caption) in names.items():
        try:
            drawn.append((title, caption, drawing.FIGURES[name](store, board)))
        except ImportanceError as error:
            drawn.append((title, str(error), style.message(str(error))))
    return drawn


def commands(store: Store, study: StudyRow, best: Sequence[TrialRow]) -> str:
    """The commands that look further, and train the best trial again."""
    name, option = shlex.quote(study.name), urls.option(store.url, urls.parse(DEFAULT_URL))
    lines = [f"atoll table {name} -o trials.csv{option}"]
    if best:
        lines.append(f"atoll trial {name} {best[0].number}{option}")
        lines.append(f"atoll export {name} --best 1 -o best.yaml{option} && atoll train best.yaml")
    return "\n".join(lines)
