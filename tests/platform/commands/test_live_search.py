"""The lines that a job's output gets while a search runs."""

import io

import journals
import pytest
from rich.console import Console

from atoll.platform.commands import live_search
from atoll.platform.search.stop_rules import StopRules
from atoll.storage import launches
from atoll.storage.events import Restarted
from atoll.storage.journal import JournalWriter

HOUR = 3600.0


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """A search's folder, what is shown of it, its journal, and a clock."""
    folder = journals.start_folder(tmp_path / "s")
    clock = [0.0]
    monkeypatch.setattr(live_search.time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    live = live_search.LiveSearch(Console(file=out, width=60), "s", "accuracy", "maximize", 20)
    lines = JournalWriter(folder.root_journal(0))

    def look(seconds):
        clock[0] += seconds
        out.seek(0)
        out.truncate()
        live(folder)
        return out.getvalue().splitlines()

    look(0.0)
    return look, lines, folder


def report(lines, number, epoch, **changes):
    fields = {
        "number": number, "attempt": 0, "step": 10 * epoch, "epoch": epoch, "seconds": HOUR * epoch, "train_loss": 0.5,
        "validation_loss": 0.25, "metric": 0.9, "learning_rate": 0.1, "wire_bytes": 0.0,
    }  # fmt: skip
    lines.append(journals.event("progress", fields | changes))


def test_a_trial_of_hours_is_told_every_minute_while_anything_is_new(shown):
    look, lines, _ = shown
    journals.start_trial(lines, 0, configuration={"epochs": 10})
    assert look(59.0) == []
    told = "0/20 trials, best accuracy -, 0 migrations, 1 training; trial 0 has not reported yet"
    assert look(1.0) == [told]
    assert look(HOUR) == []  # nothing is new
    report(lines, 0, 4)
    (line,) = look(1.0)
    assert line.endswith("1 training; trial 0: epoch 4 of 10, validation loss 0.25, about 6 h 0 min left")
    report(lines, 0, 5, validation_loss=None)
    assert look(59.0) == []
    (line,) = look(1.0)
    assert "trial 0: epoch 5 of 10, training loss 0.5, about 5 h 0 min left" in line


def test_after_a_tenth_of_the_budget_a_line_comes_at_once(shown):
    look, lines, _ = shown
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.9)
    assert look(1.0) == []
    journals.end_trial(lines, 1, 0.8)
    (line,) = look(1.0)
    assert line.startswith("2/20 trials, best accuracy 0.9, 0 migrations")
    journals.end_trial(lines, 2, 0.95)
    (line,) = look(60.0)
    assert line.startswith("3/20 trials, best accuracy 0.95, 0 migrations")
    assert line.endswith(", 0 training")


def test_restarts_are_told(shown):
    look, _, folder = shown
    with launches.next_launch(folder.journals) as lines:
        lines.append(Restarted(reason="the MPI job ended with exit code 9"))
    assert look(0.2) == ["the ranks are started again: the MPI job ended with exit code 9"]


def test_at_the_end_the_last_trials_are_told(tmp_path):
    folder = journals.start_folder(tmp_path / "s")
    out = io.StringIO()
    live = live_search.LiveSearch(Console(file=out, width=200), "s", "accuracy", "maximize", 20)
    lines = JournalWriter(folder.root_journal(0))
    journals.end_trial(lines, 0, 0.5)
    live(folder)
    assert out.getvalue() == ""
    live.finish()
    assert out.getvalue() == "1/20 trials, best accuracy 0.5, 0 migrations\n"


def test_a_line_tells_how_far_the_search_is_from_the_rules_that_end_it(tmp_path):
    folder = journals.start_folder(tmp_path / "s")
    definition = {"stop": {"plateau": {"trials": 3}}}
    row = {"metric": "accuracy", "direction": "maximize", "definition": definition, "length": ["epochs", 2]}
    out, lines = io.StringIO(), JournalWriter(folder.root_journal(0))
    live = live_search.LiveSearch(Console(file=out, width=200), "s", "accuracy", "maximize", 10, StopRules.of_row(row))
    live(folder)
    for number, accuracy in enumerate([0.7, 0.9, 0.8, 0.8, 0.9]):
        journals.start_trial(lines, number, configuration={"epochs": 2})
        journals.end_trial(lines, number, accuracy)
        live(folder)
    said = [line.partition("migrations, ")[2].partition(", about")[0] for line in out.getvalue().splitlines()]
    assert said[:4] == [f"{count} of 3 trials without improvement" for count in (0, 0, 1, 2)]
    assert said[4] == "no improvement in 3 trials (plateau)"  # and no time that is left
    assert "left" not in out.getvalue().splitlines()[4]
