"""What a rank keeps of its steps."""

import json
import time

import pytest

from atoll.communication.trace import (
    FEWEST_SAMPLES,
    MAX_PATTERNS,
    MAX_RUNS,
    MAX_SEGMENTS,
    NUM_SAMPLES,
    PIECE,
    SEGMENT,
    UNKNOWN,
    UNKNOWN_PIECE,
    Trace,
    clock_of,
)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_step_is_its_events_and_the_computing_between():
    clock = Clock()
    trace = Trace(clock)
    trace.post("all_reduce", "all", 2, 8)  # before the first step: kept for no step, but it has a number
    trace.begin()
    clock.now = 1.0
    number = trace.post("all_reduce", "node", 2, 40)
    clock.now = 3.0
    later = trace.post("send", "all", 4, 8, (3, 7))
    clock.now = 3.5
    trace.hold()
    clock.now = 5.0
    trace.arrived(number)
    trace.release()
    clock.now = 5.25
    trace.end_step()
    (pattern,) = trace.as_dict()["patterns"]
    assert pattern["events"] == [
        ["post", "all_reduce", "node", 2, 40],
        ["post", "send", "all", 4, 8, 3, 7],
        ["wait", 2],
    ]
    assert pattern["samples"] == [[1.0, 2.0, 0.5, 0.25]]
    assert pattern["seconds"] == 3.75
    assert later == number + 1


def test_equal_steps_are_one_pattern_and_the_order_is_kept():
    clock = Clock()
    trace = Trace(clock)
    trace.begin()
    for kind in "aabab":
        trace.post(kind, "all", 2, 1)
        trace.end_step()
    trace.pause()
    trace.post("z", "all", 2, 1)
    found = trace.as_dict()
    assert [pattern["events"][0][1] for pattern in found["patterns"]] == ["a", "b"]
    assert found["segments"] == [[0, [[0, 2], [1, 1], [0, 1], [1, 1]]]]
    assert [pattern["count"] for pattern in found["patterns"]] == [3, 2]
    assert found["num_steps"] == 5


def test_what_lies_between_epochs_is_no_computing():
    clock = Clock()
    trace = Trace(clock)
    for _ in range(2):
        trace.begin()
        clock.now += 1.0
        trace.post("a", "all", 2, 1)
        trace.end_step()
        trace.pause()
        clock.now += 100.0
        trace.hold()  # in an evaluation
        trace.arrived(1)
        trace.release()
    (pattern,) = trace.as_dict()["patterns"]
    assert pattern["samples"] == [[1.0, 0.0], [1.0, 0.0]]


def test_a_million_steps_keep_some_samples_of_all_their_length():
    clock = Clock()
    trace = Trace(clock)
    trace.begin()
    for step in range(10_000):
        clock.now += 1.0 + step
        trace.end_step()
    (pattern,) = trace.as_dict()["patterns"]
    kept = sorted(sample[0] for sample in pattern["samples"])
    assert len(kept) == NUM_SAMPLES
    assert kept[0] > 1.0  # the first ones have made way
    assert kept[-1] > 5_000
    assert pattern["count"] == 10_000


def test_patterns_beyond_the_limit_are_left_out_and_that_is_said():
    trace = Trace(Clock())
    trace.begin()
    for number in range(MAX_PATTERNS + 3):
        trace.post("send", "all", 2, 8, (1, number))
        trace.end_step()
    trace.post("send", "all", 2, 9, (1, 7))  # another size only: taken for the pattern like it
    trace.end_step()
    found = trace.as_dict()
    assert len(found["patterns"]) == MAX_PATTERNS
    ((_, runs),) = found["segments"]
    assert runs[-2:] == [[UNKNOWN, 3], [7, 1]]


def test_a_long_training_keeps_the_order_of_some_segments_the_first_included():
    trace = Trace(Clock())
    trace.begin()
    num_steps = 5 * MAX_SEGMENTS * SEGMENT + 10
    for number in range(num_steps):
        if number % 3 == 0:
            trace.post("all_reduce", "all", 2, 8)
        trace.end_step()
    found = trace.as_dict()
    firsts = [first for first, _ in found["segments"]]
    assert MAX_SEGMENTS / 2 < len(firsts) <= MAX_SEGMENTS
    assert firsts[0] == 0
    assert all(first % (4 * SEGMENT) == 0 for first in firsts)  # after some halvings
    for first, runs in found["segments"]:
        places = [place for place, count in runs for _ in range(count)]
        assert len(places) >= min(SEGMENT, num_steps - first)
        assert places == [0 if number % 3 == 0 else 1 for number in range(first, first + len(places))]
    assert found["num_steps"] == num_steps


def test_steps_of_many_events_keep_fewer_samples():
    trace = Trace(Clock())
    trace.begin()
    for _ in range(100):
        for number in range(1000):
            trace.post("send", "all", 2, number, (1, 0))
        trace.end_step()
    (pattern,) = trace.as_dict()["patterns"]
    assert len(pattern["samples"]) == FEWEST_SAMPLES


def test_loops_in_a_step_are_equal_pieces():
    clock = Clock()
    trace = Trace(clock)
    trace.begin()
    num_loops = 10_000
    for _ in range(2):
        for _ in range(num_loops):
            clock.now += 1.0
            number = trace.post("receive", "all", 2, 8, (1, 0))
            trace.hold()
            trace.arrived(number)
            trace.release()
            trace.post("send", "all", 2, 8, (1, 1))
        clock.now += 0.5
        trace.end_step()
    found = trace.as_dict()
    assert [pattern["is_last"] for pattern in found["patterns"]].count(True) == 1
    assert len(json.dumps(found)) < 20_000
    pieces = [found["patterns"][place] for _, runs in found["segments"] for place, count in runs for _ in range(count)]
    events = [event for pattern in pieces for event in pattern["events"]]
    loop = [["post", "receive", "all", 2, 8, 1, 0], ["wait", 1], ["post", "send", "all", 2, 8, 1, 1]]
    assert events == loop * 2 * num_loops
    assert sum(pattern["seconds"] for pattern in pieces) == 2 * num_loops + 2 * 0.5
    assert found["num_steps"] == 2


def test_an_order_too_irregular_to_keep_ends_early():
    trace = Trace(Clock())
    trace.begin()
    for number in range(SEGMENT):
        for kind in range(6):  # pieces of six kinds in turns
            for _ in range(PIECE):
                trace.post("send", "all", 2, kind, (1, 0))
            trace.hold()
            trace.arrived((6 * PIECE + 1) * number + PIECE * (kind + 1))
            trace.release()
        trace.post("send", "all", 2, 9, (1, 0))
        trace.end_step()
    ((first, runs),) = trace.as_dict()["segments"]
    assert (first, len(runs), runs[-1]) == (0, MAX_RUNS + 1, [UNKNOWN_PIECE, 0])


def test_a_step_waits_for_what_a_condition_found_and_not_for_what_services_did():
    clock = Clock()
    trace = Trace(clock)
    trace.begin()
    number = trace.post("receive", "all", 2, 8, (1, 0))
    clock.now = 1.0
    trace.hold()
    clock.now = 3.0
    trace.begin_service()  # while it waits
    assert trace.post("send", "center", 2, 8, (1, 0)) is None
    trace.end_service(1)
    clock.now = 4.0
    trace.arrived(number)
    trace.release()
    clock.now = 5.0
    trace.begin_service()  # while it computes, after a second
    clock.now = 5.5
    trace.end_service(1)
    clock.now = 6.0
    trace.end_step()
    found = trace.as_dict()
    (pattern,) = found["patterns"]
    assert pattern["events"] == [["post", "receive", "all", 2, 8, 1, 0], ["wait", 1]]
    assert pattern["samples"] == [[0.0, 1.0, 1.5]]  # the half second of service is nobody's step
    assert found["service"] == {"seconds": 0.25, "delay": 0.5}  # two requests; one look after a second


def test_a_wait_for_nothing_that_was_posted_is_no_computing():
    clock = Clock()
    trace = Trace(clock)
    trace.begin()
    clock.now = 1.0
    trace.hold()
    clock.now = 10.0
    trace.release()
    clock.now = 12.0
    trace.end_step()
    assert trace.as_dict()["patterns"][0]["samples"] == [[3.0]]


@pytest.mark.parametrize("takes_turns", [False, True])
def test_the_turns_of_others_are_no_computing_on_the_thread_s_own_clock(takes_turns):
    trace = Trace(clock_of(takes_turns))
    trace.begin()
    time.sleep(0.2)  # as while others compute on the rank's core
    trace.end_step()
    found = trace.as_dict()
    ((computed,),) = found["patterns"][0]["samples"]
    assert found["clock"] == ("thread" if takes_turns else "wall")
    assert computed < 0.1 if takes_turns else computed >= 0.2
