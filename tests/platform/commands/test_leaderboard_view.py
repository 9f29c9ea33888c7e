"""A leaderboard fits its terminal, says what it has left out, and which trials have no place."""

import re

import pytest

from atoll.platform.commands import leaderboard_view
from atoll.platform.commands.leaderboard_view import Column, fitting, unranked
from atoll.storage.models import StudyRow, TrialRow


def columns(*widths, importance=1):
    first = [Column("place", ("1",), 0), Column("trial", ("7",), 0), Column("accuracy", ("0.95",), 0)]
    return [*first, *(Column(f"x{n}".ljust(width, "x"), ("1",), importance) for n, width in enumerate(widths))]


def test_columns_that_fit_are_shown_in_their_order():
    several = columns(10, 10, 10)
    assert fitting(several, 200) == several
    assert [column.name[:2] for column in fitting(several, 54)] == ["pl", "tr", "ac", "x0", "x1"]
    assert fitting(several, 10) == several[:3]  # the objective, however narrow the terminal is
    late = [*several, Column("time", ("3 s",), 0)]
    assert [column.name[:2] for column in fitting(late, 54)] == ["pl", "tr", "ac", "x0", "ti"]


def test_a_header_wraps_between_words_and_a_cell_does_not():
    assert Column("projected_seconds (predicted: c, 16 nodes)", ("1.5",), 1).width == len("projected_seconds") + 3
    assert Column("time", ("12 min 10 s",), 1).width == len("12 min 10 s") + 3


@pytest.mark.parametrize(
    ("shown", "counts", "line"),
    [
        (3, {"complete": 3}, None),
        (3, {"complete": 3, "continued": 2}, None),
        (2, {"complete": 3}, "2 of 3 complete trials"),
        (1, {"complete": 1, "running": 2}, "1 complete trial; without a place: 2 running"),
        (
            10,
            {"complete": 12, "pruned": 4, "failed": 1, "running": 2},
            "10 of 12 complete trials; without a place: 2 running, 1 failed, 4 pruned",
        ),
        (0, {"failed": 3}, "no complete trial; without a place: 3 failed"),
        (0, {}, None),
    ],
)
def test_trials_without_a_place_are_counted(shown, counts, line):
    assert unranked(shown, counts) == line


@pytest.fixture
def study():
    fields = {"metric": "accuracy", "direction": "maximize", "objectives": None, "definition": {}}
    return StudyRow(name="s", method="daso", workload="digits_mlp", **fields)


def trial(number):
    names = ("learning_rate", "weight_decay", "momentum", "local_skip", "global_skip", "warmup_steps", "batch_size")
    return TrialRow(
        number=number,
        objective=0.95,
        metrics={"validation_loss": 0.125, "train_loss": 0.25},
        hyperparameters=dict.fromkeys(names, 0.000123456),
        seconds=734.0,
        wire_bytes=123_456_789,
        seed=number,
        island=0,
    )


def printed(capsys, study, **options):
    leaderboard_view.show(study, [trial(12), trial(3)], {"complete": 2}, **options)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_rows_fit_the_terminal_and_columns_left_out_are_named(study, monkeypatch, capsys, width):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    monkeypatch.setenv("COLUMNS", str(width))
    *rows, left_out = printed(capsys, study)
    assert max(map(len, rows)) <= width
    row = next(row for row in rows if re.match(r"\W+1\W+12\W", row))
    assert "0.95" in row  # on one line
    assert "left out to fit the terminal" in left_out
    assert "island" in left_out
    assert "`atoll leaderboard s --wide`" in left_out
    assert "`atoll trial s 12`" in left_out
    wide = printed(capsys, study, wide=True)
    assert not any("left out" in line for line in wide)
    assert any("learning_rate" in line and "island" in line for line in wide)


def test_without_a_terminal_nothing_is_left_out(study, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed(capsys, study)
    assert len(lines) == 4
    assert "learning_rate" in lines[1]
    assert "island" in lines[1]
