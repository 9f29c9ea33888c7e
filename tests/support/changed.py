"""Functions of studies that change while they are searched."""

from __future__ import annotations

import time

WAIT = 60.0  # seconds


def bowl(trial):
    """The sum of squared distances of all real parameters to 0.3."""
    return sum((value - 0.3) ** 2 for value in trial.values() if isinstance(value, float))


def waits(trial):
    """Trial `at` and those after it end once a change was asked for."""
    deadline = time.monotonic() + WAIT
    changes = trial.folder.parent.parent / "changes"
    step = 0
    while trial.number >= trial["at"] and not list(changes.glob("*.json")):
        trial.report(1.0, step := step + 1)
        time.sleep(0.02)
        assert time.monotonic() < deadline
    time.sleep(0.7 if step else 0.0)  # until the ranks have looked for changes
    return bowl(trial)


def saves(trial):
    """The first attempt at trial 2 writes checkpoints until the ranks make way for a change."""
    deadline = time.monotonic() + WAIT
    step = 0 if (state := trial.last_checkpoint()) is None else state["step"]
    while trial.number == 2 and not trial.attempt:
        trial.report(1.0, step := step + 1)
        trial.checkpoint({"step": step})
        time.sleep(0.02)
        assert time.monotonic() < deadline
    return bowl(trial)


def steady(trial):
    """Takes a third of a second, and no core."""
    time.sleep(0.35)
    return bowl(trial)
