"""Shows one trial in the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from atoll.analysis.formatting import duration, number, origin, size
from atoll.platform.commands.display import table
from atoll.platform.commands.shared import print_table
from atoll.storage.models import StudyRow

MAX_REPORTS = 12  # lines of a curve
MAX_LINES = 20  # of output
_CURVE = ("epoch", "step", "seconds", "train_loss", "validation_loss", "metric", "learning_rate")


def show(study: StudyRow, trial: Mapping[str, Any]) -> None:
    """Print what `StudyResults.trial` returns."""
    again = f", attempt {trial['attempt']}" if trial["num_attempts"] > 1 else ""
    print(f"trial {trial['number']}{again} of {study.name}: {trial['state']}")
    for label, value in facts(study, trial).items():
        print(f"  {label}: {value}")
    sources = (trial["proposal"] or {}).get("sources", {})
    rows = [[name, _word(value), _source(sources.get(name))] for name, value in trial["hyperparameters"].items()]
    print_table(table("hyperparameters", ["name", "value", "from"], rows))
    if trial["curve"]:
        print_table(_curve(study, trial["curve"]))
    for note in trial["notes"] or ():
        print(f"note: {note}")
    if trial["note"]:
        print(f"a reader's note: {trial['note']}")
    if trial["reason"]:
        print(f"reason: {trial['reason']}")
    if trial["traceback"]:
        print(trial["traceback"].rstrip("\n"))
    print("configuration:")
    print("".join(f"  {line}\n" for line in _configuration(trial)), end="")
    _show_output(study, trial)


def facts(study: StudyRow, trial: Mapping[str, Any]) -> dict[str, str]:
    """What is known of a trial, by label."""
    names = [objective["name"] for objective in study.all_objectives]
    values = trial["objectives"] or [trial["objective"]]
    proposal = trial["proposal"] or {}
    hosts = dict.fromkeys(f"{host['hostname']} ({host['device']})" for host in trial["hosts"])
    found = {
        **({} if trial["place"] is None else {"place": str(trial["place"])}),
        **{name: number(value) for name, value in zip(names, values, strict=False) if value is not None},
        **{name: _measured(name, value) for name, value in (trial["metrics"] or {}).items()},
        "training time": duration(trial["seconds"]),
        "sent by all ranks": size(trial["wire_bytes"]),
        "peak memory": size(trial["peak_memory"]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(trial["started"])),
        "seed": str(trial["seed"]),
        "island, worker": f"{trial['island']}, {trial['worker']}",
        "hosts": ", ".join(hosts) or str(trial["host"] or ""),
        "schedule": _changes(trial["configuration"].get("schedule") or {}),
        "proposed by": origin(proposal),
        "provenance": "" if trial["provenance"] is None else f"version {trial['provenance']}",
        "oversubscribed": "yes: its times do not compare" if trial["oversubscribed"] else "",
    }
    return {label: value for label, value in found.items() if value not in ("", "-")}


def _changes(schedule: Mapping[str, Mapping[str, Any]]) -> str:
    """The values of hyperparameters that have changed in mid-training, with the steps from which they held."""

    def values(by_step: Mapping[str, Any]) -> str:
        (_, first), *later = sorted(by_step.items(), key=lambda item: int(item[0]))
        return " → ".join([_word(first), *(f"{_word(value)} (step {step})" for step, value in later)])

    return "; ".join(f"{name} {values(by_step)}" for name, by_step in schedule.items() if len(by_step) > 1)


def _curve(study: StudyRow, reports: Sequence[Mapping[str, Any]]) -> Any:
    """The reports, or as many as a terminal shows, evenly spaced, with the last."""
    step = -(-len(reports) // MAX_REPORTS)
    shown = [*reversed(reports[::-1][::step])]
    columns = [name for name in _CURVE if any(report[name] is not None for report in reports)]
    metric = study.curve_metric or study.metric
    titles = [metric if name == "metric" else name.replace("_", " ") for name in columns]
    which = "" if step == 1 else f": {len(shown)} of {len(reports)} reports (`atoll table --curves` has all)"
    return table(f"curve{which}", titles, [[number(report[name]) for name in columns] for report in shown])


def _configuration(trial: Mapping[str, Any]) -> list[str]:
    """The configuration as lines of YAML, without what is not set, and what is shown above."""
    content = {
        name: value
        for name, value in trial["configuration"].items()
        if name not in ("hyperparameters", "schedule") and value not in (None, {}, [])
    }
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).splitlines()


def _show_output(study: StudyRow, trial: Mapping[str, Any]) -> None:
    if trial["output"] is None:
        print(f"output: {trial['no_output']}")
        return
    lines = trial["output"].splitlines()
    if not lines:
        print("output: it printed nothing")
        return
    which = f"the last {MAX_LINES} of {len(lines)} lines; " if len(lines) > MAX_LINES else ""
    print(f"output ({which}`atoll logs {study.name} {trial['number']}`):")
    for line in lines[-MAX_LINES:]:
        print(f"  {line}")


def _measured(name: str, value: Any) -> str:
    return f"{number(value)} s" if name.startswith("seconds_") and value is not None else number(value)


def _word(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _source(source: Any) -> str:
    """The source of a gene, in words."""
    return f"trial {source}" if isinstance(source, int) else str(source or "").replace("_", " ")
