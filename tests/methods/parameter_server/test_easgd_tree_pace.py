"""The clock of a tree's nodes."""

import pytest

from atoll.methods.parameter_server.easgd_tree_pace import SHORTEST_STEP, Pace, has_multiple


class Clock:
    def __init__(self):
        self.time = 5.0

    def __call__(self):
        return self.time


def stepped(pace, clock, *seconds):
    """An epoch whose steps take so long each."""
    for number, of_step in enumerate(seconds):
        pace.begin_step()
        clock.time += of_step
        pace.end_step(is_last=number == len(seconds) - 1)


def test_a_waiting_rank_ticks_at_the_pace_of_its_epochs_steps():
    clock = Clock()
    pace = Pace(clock)
    assert not pace.ticks()
    stepped(pace, clock, 1.0, 3.0)
    assert (pace.num_steps, list(pace.ticks())) == (2, [])
    clock.time += 5.0  # 2.5 steps of 2 s
    assert list(pace.ticks()) == [2, 3]
    assert list(pace.ticks()) == []
    clock.time += 1.0
    assert list(pace.ticks()) == [4]


def test_a_rank_at_work_or_done_does_not_tick():
    clock = Clock()
    pace = Pace(clock)
    stepped(pace, clock, 1.0)
    pace.stop()
    clock.time += 10
    assert not pace.ticks()
    pace.begin_step()
    clock.time += 10
    assert not pace.ticks()
    pace.end_step(is_last=True)
    clock.time += 20  # the pace is that of the new epoch: 10 s
    assert list(pace.ticks()) == [2, 3]


def test_steps_without_time_tick_at_the_shortest():
    clock = Clock()
    pace = Pace(clock)
    stepped(pace, clock, 0.0)
    clock.time += 10.5 * SHORTEST_STEP
    assert len(pace.ticks()) == 10


@pytest.mark.parametrize(
    ("numbers", "period", "expected"),
    [
        (range(0), 1, False),
        (range(0, 1), 7, True),
        (range(1, 7), 7, False),
        (range(1, 8), 7, True),
        (range(7, 8), 7, True),
        (range(8, 14), 7, False),
        (range(8, 9), 1, True),
    ],
)
def test_has_multiple(numbers, period, expected):
    assert has_multiple(numbers, period) is expected
