"""The attendant: it acts only while the function is away, and every interruption leaves the rank at home."""

import signal
import sys
import time

import pytest

from atoll.platform.trial.attendant import SIGNAL, Attendant


class Over(Exception):
    """The reason to end a trial."""


@pytest.fixture
def attended(monkeypatch):
    """An attendant whose reason is raised when it is set."""
    monkeypatch.setattr(Attendant, "INTERVAL", 1e-4)
    before, state = signal.getsignal(SIGNAL), {"reason": None, "looks": 0}

    def look():
        state["looks"] += 1
        if state["reason"] is not None:
            raise state["reason"]

    attendant = Attendant(look)
    yield attendant, state
    attendant.end()
    signal.signal(SIGNAL, before)


def test_a_signal_at_any_moment_leaves_the_rank_at_home(attended):
    attendant, state = attended
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        num_interrupted, end = 0, time.monotonic() + 2.0
        for number in range(10**9):
            if time.monotonic() > end:
                break
            state["reason"] = None

            def function(seconds=number % 53 * 1e-5):  # about as long as the attendant takes to look
                state["reason"] = Over()
                end = time.perf_counter() + seconds
                while time.perf_counter() < end:
                    pass

            try:
                attendant.call(function)
            except Over:
                num_interrupted += 1
            looks = state["looks"]
            time.sleep(2e-4 if number % 50 == 0 else 0)
            assert state["looks"] == looks  # nobody acts while the rank is at home
        assert num_interrupted > 10
    finally:
        sys.setswitchinterval(switching)


def test_it_acts_while_the_function_is_away_and_not_in_its_calls(attended):
    attendant, state = attended

    def function():
        with attendant.home(), attendant.home():  # a call within a call
            before = state["looks"]
            time.sleep(0.05)
            assert state["looks"] == before
        time.sleep(0.05)
        assert state["looks"] > before
        return 7

    assert attendant.call(function) == 7


def test_a_reason_that_the_function_swallows_is_raised_in_the_end(attended):
    attendant, state = attended

    def function():
        state["reason"] = Over("now")
        for _ in range(3):
            try:
                time.sleep(0.05)
            except Over:
                continue

    with pytest.raises(Over, match="now"):
        attendant.call(function)
    state["reason"] = None
    assert attendant.call(lambda: 1) == 1
