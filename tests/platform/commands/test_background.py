"""`atoll follow` on a host that does not see the study's files."""

import io

import journals
import pytest
from rich.console import Console

from atoll.platform.commands import background
from atoll.storage.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/atoll.db")
    yield store
    store.close()


@pytest.mark.parametrize(("state", "code"), [("complete", 0), ("stopped", 75), ("failed", 1)])
def test_what_is_recorded_is_shown_until_the_study_has_ended(store, tmp_path, monkeypatch, state, code):
    store.add_study(journals.study_row(tmp_path / "elsewhere"))
    out, looks = io.StringIO(), []

    def sleep(_seconds):
        looks.append(len(out.getvalue().splitlines()))
        if len(looks) == 2:
            store.end(store.study("s"), state, None)

    monkeypatch.setattr(background.time, "sleep", sleep)
    assert background.follow_store(store, "s", Console(file=out, width=200)) == code
    assert out.getvalue().splitlines() == ["0/4 trials, best accuracy -, 0 training", f"s is {state}"]
    assert looks == [1, 1]  # nothing is said twice
