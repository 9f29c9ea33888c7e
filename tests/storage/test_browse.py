"""What readers ask of large studies: the right rows, by an index, on both databases; and what they may write."""

import itertools

import journals
import pytest
import sqlalchemy as sa

from atoll.storage import browse
from atoll.storage.browse import Condition, Selection
from atoll.storage.journal import JournalWriter
from atoll.storage.models import ProgressRow, TrialRow
from atoll.storage.recorder import Recorder
from atoll.storage.store import Store, StoreError

CHOICES = [
    {"x": 1, "wire": "float32", "flag": True, "betas": [0.9, 0.99]},
    {"x": 0.5, "wire": "float16", "flag": False},
    {"x": "auto", "wire": "Größe_%", "flag": True},
    {"x": 10, "flag": None},
    {"x": 1e-9, "wire": 'with "quotes"'},
]


def filled(folder, url):
    """A store with forty trials: complete, failed, pruned, lost and running ones."""
    study = journals.start_folder(folder / "s")
    lines = JournalWriter(study.root_journal(0))
    for number in range(40):
        proposal = {"operator": "crossover", "parents": [number - 1, number // 2] if number > 1 else []}
        journals.start_trial(
            lines, number, hyperparameters=CHOICES[number % 5], proposal=proposal, host=f"node{number % 3}"
        )
        if number % 10 == 9:
            lines.append(journals.event("trial_lost", {"number": number, "attempt": 0, "reason": "its rank died"}))
        elif number < 38:
            state = {3: "failed", 4: "pruned"}.get(number % 10, "complete")
            objective = None if state == "failed" else number / 100
            journals.end_trial(lines, number, objective, state=state, reason="Diverged" if state == "failed" else None)
    Recorder(study, lambda: Store(url), journals.study_row(study.path, uid="u")).catch_up()
    return Store(url)


DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(scope="module", params=DATABASES)
def store(request, tmp_path_factory):
    """Forty trials, for tests that only read."""
    folder = tmp_path_factory.mktemp("read")
    is_file = request.param == "sqlite"
    return filled(folder, f"sqlite:///{folder}/s.db" if is_file else request.getfixturevalue("new_postgresql_url")())


@pytest.fixture(params=DATABASES)
def own_store(request, tmp_path):
    """The same, for a test that writes."""
    is_file = request.param == "sqlite"
    return filled(tmp_path, f"sqlite:///{tmp_path}/s.db" if is_file else request.getfixturevalue("postgresql_url"))


def numbers(store, *conditions, order=()):
    chosen = Selection(tuple(c if isinstance(c, tuple) else (c,) for c in conditions), order)
    return [t.number for t in browse.trials(store, browse.matching(store, store.study().id, chosen))]


def expected(meets):
    return [n for n in range(40) if meets(n, CHOICES[n % 5])]


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.parametrize(
    ("condition", "meets"),
    [
        (Condition("hp.x", "<", 2), lambda n, h: is_number(h["x"]) and h["x"] < 2),
        (Condition("hp.x", ">=", 1), lambda n, h: is_number(h["x"]) and h["x"] >= 1),
        (Condition("hp.x", "=", 0.5), lambda n, h: h["x"] == 0.5),
        (Condition("hp.x", "!=", 1), lambda n, h: h["x"] != 1),
        (Condition("hp.x", "in", ["auto", 10]), lambda n, h: h["x"] in ("auto", 10)),
        (Condition("hp.wire", "contains", "FLOAT"), lambda n, h: "float" in h.get("wire", "")),
        (Condition("hp.wire", "not contains", "float"), lambda n, h: "float" not in h.get("wire", "")),
        (Condition("hp.wire", "contains", "_%"), lambda n, h: "_%" in h.get("wire", "")),
        (Condition("hp.wire", "starts", "Gr"), lambda n, h: h.get("wire", "").startswith("Gr")),
        (Condition("hp.wire", "ends", '"'), lambda n, h: h.get("wire", "").endswith('"')),
        (Condition("hp.wire", "=", 'with "quotes"'), lambda n, h: h.get("wire") == 'with "quotes"'),
        (Condition("hp.wire", "is null", True), lambda n, h: "wire" not in h),
        (Condition("hp.flag", "=", "true"), lambda n, h: h.get("flag") is True),
        (Condition("hp.flag", "in", ["false"]), lambda n, h: h.get("flag") is False),
        (Condition("hp.flag", "is null", False), lambda n, h: h.get("flag") is not None),
        (Condition("hp.betas", "contains", "0.99"), lambda n, h: "betas" in h),
        (Condition("hp.betas", "in", ["[0.9, 0.99]"]), lambda n, h: "betas" in h),
        (Condition("state", "=", "failed"), lambda n, h: n % 10 == 3),
        (Condition("number", ">", 30), lambda n, h: n > 30),
        (Condition("number", "in", [3, 5]), lambda n, h: n in (3, 5)),
        (Condition("objective", "is null", True), lambda n, h: n % 10 in (3, 9) or n >= 38),
        (Condition("reason", "contains", "rank"), lambda n, h: n % 10 == 9),
        (Condition("metric.train_loss", "<", 0.5), lambda n, h: n % 10 != 9 and n < 38),
    ],
)
def test_conditions_choose_what_they_say(store, condition, meets):
    assert numbers(store, condition) == expected(meets)


def test_conditions_are_joined_by_and_and_those_of_a_group_by_or(store):
    group = (Condition("hp.x", "=", 1), Condition("hp.x", "=", 10))
    assert numbers(store, group, Condition("number", "<", 20)) == expected(lambda n, h: h["x"] in (1, 10) and n < 20)


def test_order_puts_numbers_before_words_and_what_is_missing_last(store):
    found = [CHOICES[n % 5].get("x") for n in numbers(store, order=(("hp.x", False),))]
    assert [value for value, _ in itertools.groupby(found)] == [1e-9, 0.5, 1, 10, "auto"]
    down = numbers(store, order=(("objective", True),))
    known = [n for n in down if n % 10 not in (3, 9) and n < 38]
    assert down[: len(known)] == sorted(known, reverse=True)


@pytest.mark.parametrize("column", ["configuration", "hp.", "id; drop table trial", "metrics", ""])
def test_columns_that_there_cannot_be_are_refused(column):
    with pytest.raises(StoreError, match=r"columns are id, number.*hp\.NAME"):
        Condition(column, "=", 1)
    with pytest.raises(StoreError, match="columns are"):
        Selection(order=((column, False),))


def test_operators_that_there_cannot_be_are_refused():
    with pytest.raises(StoreError, match="conditions are <, <="):
        Condition("number", "like", 1)


def test_new_rows_and_their_hyperparameters(store):
    study = store.study()
    rows = browse.scalar_columns(store, study.id)
    assert [row.number for row in rows] == list(range(40))
    assert [row.number for row in browse.scalar_columns(store, study.id, rows[36].id)] == [37, 38, 39]
    assert [row.state for row in browse.scalar_columns_of(store, [rows[38].id])] == ["running"]
    assert browse.hyperparameters(store, [rows[1].id]) == {rows[1].id: CHOICES[1]}
    assert browse.num_migrations(store, study.id) == 0


def test_leaders_are_the_best_that_are_complete(store):
    study = store.study()
    complete = [n for n in range(38) if n % 10 not in (3, 4, 9)]
    assert browse.num_trials(store, study.id) == 40
    for direction, order in (("maximize", complete[::-1]), ("minimize", complete)):
        study.direction = direction
        assert [t.number for t in browse.trials(store, browse.leaders(store, study, 7))] == order[:7]
        assert len(browse.leaders(store, study, 100)) == len(complete)


def test_hyperparameters_of_the_first_and_the_newest(store):
    study = store.study()
    assert browse.sampled_ends(store, study.id, first=2, newest=3) == CHOICES  # of 0, 1 and 37, 38, 39
    assert browse.sampled_ends(store, study.id, first=30, newest=30) == CHOICES * 8  # each once


def test_reasons_and_single_trials(store):
    study = store.study()
    assert browse.reasons(store, study.id) == [("Diverged", 4, 33), ("its rank died", 4, 39)]
    assert browse.trial(store, study.id, 7).number == 7
    for which, words in (((99,), "no trial 99"), ((7, 3), "no attempt 3 of trial 7"), ((10**20,), "numbered up to")):
        with pytest.raises(StoreError, match=words):
            browse.trial(store, study.id, *which)


def test_ancestry_ends_at_the_founders(store):
    study = store.study()

    def ancestors(number):
        own = {number - 1, number // 2} if number > 1 else set()
        return own.union(*map(ancestors, own), {number})

    assert browse.ancestry(store, study.id, 9).keys() == ancestors(9)
    assert len(browse.ancestry(store, study.id, 39, max_trials=7)) == 7
    assert browse.ancestry(store, study.id, 1000) == {}


@pytest.fixture(scope="module", params=DATABASES)
def large(request, tmp_path_factory):
    """With 3,000 trials more, few of which failed, and 9,000 of another study: databases choose by their counts."""
    folder = tmp_path_factory.mktemp("large")
    is_file = request.param == "sqlite"
    store = filled(folder, f"sqlite:///{folder}/s.db" if is_file else request.getfixturevalue("new_postgresql_url")())
    other = store.add_study(journals.study_row(folder / "t", name="t"))
    with store.engine.begin() as connection:
        row = dict(connection.execute(sa.select(TrialRow.__table__).where(TrialRow.number == 0)).mappings().one())
        del row["id"]
        more = [row | {"number": n, "state": "failed" if n % 50 == 0 else "complete"} for n in range(100, 3100)]
        more += [row | {"number": n, "study_id": other} for n in range(9000)]
        connection.execute(sa.insert(TrialRow), more)
        reports = {"epoch": 1, "seconds": 1.0, "learning_rate": 0.1, "wire_bytes": 0.0}
        steps = [reports | {"trial_id": 1 + n % 40, "step": n} for n in range(3000)]
        connection.execute(sa.insert(ProgressRow), steps)
        connection.exec_driver_sql("ANALYZE")
    return store


def plans(store, ask):
    """How the database answers each query of `ask`."""
    asked = []

    def hear(*call):
        asked.append((call[2], call[3]))

    sa.event.listen(store.engine, "before_cursor_execute", hear)
    ask()
    sa.event.remove(store.engine, "before_cursor_execute", hear)
    prefix = "EXPLAIN QUERY PLAN " if store.engine.dialect.name == "sqlite" else "EXPLAIN "
    with store.engine.connect() as connection:
        rows = [connection.exec_driver_sql(prefix + query, values).all() for query, values in asked]
    return ["\n".join(str(tuple(row)) for row in plan) for plan in rows]


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, study: browse.scalar_columns(store, study.id, after=3000),
        lambda store, study: browse.scalar_columns_of(store, [1, 2]),
        lambda store, study: browse.hyperparameters(store, [1, 2]),
        lambda store, study: browse.sampled_ends(store, study.id),
        lambda store, study: browse.trials(store, [1, 2]),
        lambda store, study: browse.leaders(store, study, 100),
        lambda store, study: browse.num_trials(store, study.id),
        lambda store, study: browse.reasons(store, study.id),
        lambda store, study: browse.trial(store, study.id, 3),
        lambda store, study: browse.ancestry(store, study.id, 3),
        lambda store, study: browse.newest_progress(store, [1, 2]),
        lambda store, study: store.progress([1, 2]),
    ],
    ids=[
        "new",
        "again",
        "hyperparameters",
        "ends",
        "page",
        "leaders",
        "count",
        "reasons",
        "trial",
        "ancestry",
        "newest",
        "progress",
    ],
)
def test_what_is_asked_again_and_again_takes_an_index(large, ask):
    study = large.study("s")
    found = plans(large, lambda: ask(large, study))
    assert found
    whole_tables = ("SCAN trial", "SCAN progress", "Seq Scan")
    assert [plan for plan in found if any(words in plan for words in whole_tables)] == []


def test_notes_and_archives(own_store):
    study, trial = own_store.study(), browse.trial(own_store, own_store.study().id, 5)
    own_store.annotate(trial, "look <b>here</b> 🙂")
    assert browse.trial(own_store, study.id, 5).note == "look <b>here</b> 🙂"
    own_store.annotate(trial, "")
    assert browse.trial(own_store, study.id, 5).note is None
    own_store.archive(study, True)
    assert own_store.study().archived
    own_store.archive(study, False)
    assert not own_store.study().archived


@pytest.mark.parametrize("name", ["", " s", "x" * 201])
def test_names_that_there_cannot_be_are_refused(store, name):
    with pytest.raises(StoreError, match="must have 1 to 200 characters"):
        store.rename(store.study(), name)


def test_a_name_that_is_taken_is_refused(own_store, tmp_path):
    own_store.add_study(journals.study_row(tmp_path / "t", name="t"))
    with pytest.raises(StoreError, match="already holds a study named 't'"):
        own_store.rename(own_store.study("s"), "t")


def test_a_study_that_is_renamed_while_it_is_recorded_stays_one(tmp_path):
    folder = journals.start_folder(tmp_path / "s")
    row = journals.study_row(folder.path, uid="u")
    lines = JournalWriter(folder.root_journal(0))
    url = f"sqlite:///{tmp_path}/s.db"
    recorder = Recorder(folder, lambda: Store(url), row)
    journals.start_trial(lines, 0)
    recorder.catch_up()
    store = Store(url)
    store.rename(store.study("s"), 'new "name" <b>')
    recorder.reset()  # as after a failure: it finds its study again
    journals.end_trial(lines, 0, 0.5)
    recorder.catch_up()
    (summary,) = store.studies()
    assert (summary.study.name, summary.counts) == ('new "name" <b>', {"complete": 1})
    assert store.study("s", "u").name == 'new "name" <b>'
    store.check_name("s", "u")
