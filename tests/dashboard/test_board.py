"""Boards follow the store and ask it only for changes."""

import math
from concurrent.futures import ThreadPoolExecutor

import boards
import journals
import pytest
import sqlalchemy as sa

import atoll
from atoll.analysis import tables
from atoll.dashboard.board import Board, Boards
from atoll.storage.folder import StudyFolder
from atoll.storage.lock import Lock
from atoll.storage.store import StoreError


@pytest.fixture
def statements():
    """The statements that the database receives."""
    seen = []

    def listen(_connection, _cursor, statement, *_rest):
        seen.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    yield seen
    sa.event.remove(sa.Engine, "before_cursor_execute", listen)


def searched(folder):
    """Somebody searches the study, until the lock that is returned is released."""
    lock = Lock(StudyFolder(folder).lock)
    lock.acquire()
    return lock


def places(board):
    trials = board.trials.dropna(subset=["place"]).sort_values("place")
    return trials["number"].tolist()


def test_the_best_come_first_and_what_is_not_complete_has_no_place(tmp_path):
    board = Boards(boards.study(tmp_path, [0.5, None, 0.9, 0.5])).of("s")
    assert places(board) == [2, 0, 3]
    assert math.isnan(board.trials.set_index("number")["place"][1])
    assert board.counts() == {"complete": 3, "failed": 1}


def test_minimized_objectives(tmp_path):
    store = boards.study(tmp_path, [0.5, 0.9, 0.1], direction="minimize")
    assert places(Boards(store).of("s")) == [2, 0, 1]


def test_several_objectives_are_placed_by_their_fronts(tmp_path):
    objectives = [{"name": "error", "direction": "minimize"}, {"name": "speed", "direction": "maximize"}]
    store, lines, recorder = boards.record(tmp_path, objectives=objectives, metric="error", direction="minimize")
    for number, (error, speed) in enumerate([(3.0, 1.0), (1.0, 1.0), (2.0, 5.0)]):
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, error, objectives=[error, speed])
    recorder.catch_up()
    board = Boards(store).of("s")
    assert places(board)[-1] == 0
    assert board.trials["objectives.speed"].tolist() == [1.0, 1.0, 5.0]


def test_a_trial_that_continues_has_one_place_whenever_the_board_is_read(tmp_path):
    store, lines, recorder = boards.record(tmp_path)
    searched(tmp_path / "study-0")
    board = Boards(store)
    for number, objective in ((0, 0.5), (1, None), (2, 0.6)):
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, objective, state="pruned" if objective is None else "complete")
    recorder.catch_up()
    assert board.of("s").counts() == {"complete": 2, "pruned": 1}
    for number in (0, 1):
        journals.start_trial(lines, number, attempt=1)
    recorder.catch_up()
    assert board.of("s").counts() == {"complete": 1, "continued": 2, "running": 2}
    assert places(board.of("s")) == [2]
    for number, objective in ((0, 0.7), (1, 0.8)):
        journals.end_trial(lines, number, objective, attempt=1)
    recorder.catch_up()
    assert places(board.of("s")) == [1, 0, 2]
    assert board.of("s").counts() == {"complete": 3, "continued": 2}


def test_it_reads_what_is_new_and_what_had_not_ended(tmp_path, statements):
    store, lines, recorder = boards.record(tmp_path)
    searched(tmp_path / "study-0")
    all_boards = Boards(store)
    journals.start_trial(lines, 0)
    recorder.catch_up()
    board = all_boards.of("s")
    before = board.revision
    assert board.trials["state"].tolist() == ["running"]
    journals.report(lines, 0, 1)
    recorder.catch_up()
    assert all_boards.of("s").revision != before  # its curve has grown
    journals.end_trial(lines, 0, 0.5)
    journals.start_trial(lines, 1)
    journals.end_trial(lines, 1, 0.7)
    recorder.catch_up()
    assert places(all_boards.of("s")) == [1, 0]
    unchanged = board.revision
    statements.clear()
    assert all_boards.of("s").revision == unchanged
    asked = [s for s in statements if "FROM trial" in s]
    assert len(asked) == 1
    assert "trial.id > " in asked[0]


def test_a_lost_trial_may_end_after_all_while_the_study_runs(tmp_path, statements):
    store, lines, recorder = boards.record(tmp_path)
    journals.start_trial(lines, 0)
    lines.append(journals.event("trial_lost", {"number": 0, "attempt": 0, "reason": "gone"}))
    recorder.catch_up()
    all_boards = Boards(store)
    assert all_boards.of("s").trials["state"].tolist() == ["lost"]
    journals.end_trial(lines, 0, 0.5)
    recorder.catch_up()
    assert places(all_boards.of("s")) == [0]
    statements.clear()
    all_boards.of("s")
    assert not any("trial.id IN" in s for s in statements)


def test_processes_agree_on_the_revision(tmp_path):
    store = boards.study(tmp_path, [0.5, None])
    one = Boards(store)
    one.of("s")
    assert one.of("s").revision == Boards(store).of("s").revision


def test_a_new_study_shows_nothing_of_a_deleted_one(tmp_path):
    store = boards.study(tmp_path, [0.1, 0.2, 0.3])
    all_boards = Boards(store)
    all_boards.of("s")
    store.delete(store.study("s"))
    boards.study(tmp_path, [0.9], name="t", started=2000.0)
    assert store.study("t").id == 1  # SQLite gives it again
    assert all_boards.of("t").trials["objective"].tolist() == [0.9]


def test_boards_are_read_by_several_threads(tmp_path):
    board = Boards(boards.study(tmp_path, [n / 100 for n in range(200)])).of("s")
    ids = board.trials["id"].tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: len(board.held(ids[n : n + 20])), range(0, 180)))
    assert found == [20] * 180


def test_the_best_and_the_front(tmp_path):
    board = Boards(boards.study(tmp_path, [0.5, 0.9, None, 0.7])).of("s")
    numbers = board.trials.set_index("id")["number"]
    assert numbers[board.best(2)].tolist() == [1, 3]
    assert numbers[board.best(None)].tolist() == [1]


def test_samples_keep_the_best_half(tmp_path):
    board = Boards(boards.study(tmp_path, [n / 100 for n in range(60)])).of("s")
    sample, hyperparameters = board.sample(20)
    assert len(sample) == 20
    assert sample["place"].tolist()[:10] == list(range(1, 11))
    assert sample["place"].max() == 60
    assert hyperparameters["B"].tolist() == [n + 1 for n in sample["number"]]


def test_a_study_that_is_gone_is_told(tmp_path):
    store = boards.study(tmp_path, [0.5])
    all_boards = Boards(store)
    all_boards.of("s")
    store.delete(store.study("s"))
    with pytest.raises(StoreError, match="does not hold a study named 's'"):
        all_boards.of("s")


def test_few_boards_are_kept(tmp_path):
    for number in range(18):
        store, _, _ = boards.record(tmp_path, name=f"s{number}")
    all_boards = Boards(store)
    for number in range(18):
        assert isinstance(all_boards.of(f"s{number}"), Board)
    assert len(all_boards._boards) == 16


def test_no_trial_of_a_search_that_is_over_is_shown_as_running(tmp_path):
    store, lines, recorder = boards.record(tmp_path)
    journals.start_trial(lines, 0)
    recorder.catch_up()
    study, lock = store.study("s"), searched(tmp_path / "study-0")
    board = Board(store, study)
    assert tables.trials(store, study)["state"].tolist() == ["running"]
    assert board.refresh(study).counts() == {"running": 1}
    lock.release()  # its launcher has died, or could not write the end
    assert tables.trials(store, study)["state"].tolist() == ["lost"]
    assert tables.studies(store)[["state", "running", "lost"]].values.tolist() == [["interrupted", 0, 1]]
    assert board.refresh(study).counts() == {"lost": 1}
    with atoll.open(f"{tmp_path}/atoll.db") as results:
        assert results.study("s").trial(0)["state"] == "lost"
    lock.acquire()  # on --resume
    assert board.refresh(study).counts() == {"running": 1}
    lock.release()
