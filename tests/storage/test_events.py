"""Every event is read as it was written; what a line needs, and what it may lack."""

import json

import journals
import pytest

from atoll.platform.search import resume
from atoll.storage import events
from atoll.storage.events import EVENTS, MalformedLine, as_line, parse
from atoll.storage.journal import JournalWriter
from atoll.storage.launches import replay
from atoll.storage.recorder import Recorder
from atoll.storage.store import Store

ENTRY = {"operation": "sum", "scope": "node", "payload_bytes": 1, "overlapped": False, "count": 1, "wire_bytes": 1.5}
ENTRY |= {"seconds_waited": 0}
EXAMPLES = [
    events.JournalOpened(time=1.0, version=2),
    events.StudyStarted(time=1.0, definition={"name": "s"}, num_trials=3, provenance=1),
    events.StudyEnded(time=1.0, state="stopped", reason="r"),
    events.Restarted(time=1.0, reason="r"),
    events.RankPlaced(
        time=1.0, world_rank=3, island=1, worker=1, rank=1, node=0, hostname="h", device="cpu", threads=2, process=7,
        processor="p", cores=4, oversubscribed=True, started_as=3,
    ),
    events.WorkerFinished(time=1.0),
    events.TrialStarted(
        time=1.0, number=1, attempt=2, island=3, worker=4, generation=5, seed=6, host="h", oversubscribed=False,
        hyperparameters={"a": 1}, configuration={"b": 2}, proposal={"operator": "o"},
        provenance=2, home=1, change=2,
    ),
    events.ProgressReported(
        time=1.0, number=1, attempt=2, step=3, epoch=4, seconds=5.0, train_loss=None, validation_loss=0.6, metric=0.7,
        learning_rate=0.8, wire_bytes=9.0, metrics={"m": 1.0},
    ),
    events.TrialEnded(
        time=1.0, number=1, attempt=2, state="pruned", objective=0.5, objectives=[0.5, None], metrics={"m": 1.0},
        seconds=2.0, wire_bytes=3.0, ledger=[ENTRY], peak_memory=4.0, reason="r",
        traceback="t", notes=["n"], curve={1: 0.5, 2: None}, traces=[{"rank": 0}], worker_seconds=5.0,
    ),
    events.TrialLost(time=1.0, number=1, attempt=2, reason="r", suspected=True),
    events.Proposed(time=1.0, number=1, hyperparameters={"a": 1}, proposal={"genes": {}}, change=1),
    events.ProposalRefused(time=1.0, number=1, hyperparameters={"a": 1}, reason="r", genes={"a": 0.5}, attributes={}),
    events.Migrated(time=1.0, number=1, from_island=2, to_island=3),
    events.ProvenanceRecorded(time=1.0, version=2, sha256="a", record={"measured": {}}, changes=["w.py changed"]),
    events.LauncherJoined(time=1.0, launcher=2, hostname="h", process=7, num_ranks=4, num_workers=2),
    events.LauncherLeft(time=1.0, launcher=2, reason="r"),
    events.RegretBounded(time=1.0, bound=0.1, incumbent=2.0, num_trials=20, length=["epochs", 5], seconds=0.5),
    events.StopRuleMet(
        time=1.0, rule="plateau", settings={"plateau": {"trials": 3}}, length=["steps", 9], reason="r", trial=4,
        num_trials=5,
    ),
    events.StudyChanged(
        time=1.0, number=1, requested=0.5, settings=[{"setting": "trials", "before": 3, "after": 4, "said": "3 → 4"}],
        first_trial=2, definition={"name": "s"}, num_trials=4, outside={"x outside 0 to 1": 2}, provenance=1,
    ),
]  # fmt: skip

# What a line is called on disk, whatever classes and attributes are called.
FIELDS = {
    "journal": "version launch ends",
    "study_started": "definition num_trials provenance",
    "provenance": "version sha256 record changes",
    "study_ended": "state reason",
    "study_changed": "number requested settings first_trial definition num_trials outside provenance",
    "restarted": "reason",
    "joined": "launcher hostname process num_ranks num_workers",
    "left": "launcher reason",
    "host": "world_rank island worker rank node hostname device threads process processor cores oversubscribed "
    "started_as",
    "worker_finished": "",
    "trial_started": "number attempt island worker generation seed host oversubscribed hyperparameters configuration "
    "proposal provenance home change",
    "progress": "number attempt step epoch seconds train_loss validation_loss metric learning_rate wire_bytes metrics",
    "trial_ended": "number attempt state objective metrics seconds wire_bytes ledger peak_memory reason traceback "
    "notes curve schedules busy_seconds objectives",
    "trial_lost": "number attempt reason blamed step",
    "proposed": "number hyperparameters proposal change",
    "refused": "number hyperparameters reason genes attributes",
    "migrated": "number from_island to_island steps",
    "regret_bounded": "bound incumbent num_trials length seconds",
    "stop_rule_met": "rule settings length reason trial num_trials",
}
NOT_NEEDED = {
    "migrated": "steps",
    "journal": "launch ends",
    "study_started": "definition num_trials provenance",
    "provenance": "changes",
    "study_ended": "reason",
    "study_changed": "num_trials outside provenance",
    "host": "processor cores oversubscribed started_as",
    "trial_started": "generation host oversubscribed proposal provenance home change",
    "proposed": "change",
    "progress": "metrics",
    "trial_ended": "objective metrics seconds wire_bytes ledger peak_memory reason traceback notes curve schedules "
    "busy_seconds objectives",
    "trial_lost": "blamed step",
    "refused": "hyperparameters reason",
    "regret_bounded": "length seconds",
    "stop_rule_met": "settings length trial num_trials",
}


def name(event):
    return event.name


def test_there_is_an_example_of_every_event():
    assert {type(example) for example in EXAMPLES} == set(EVENTS.values())


@pytest.mark.parametrize("event", EXAMPLES, ids=name)
def test_an_event_is_read_as_it_was_written(event):
    assert parse(json.loads(json.dumps(as_line(event)))) == event


@pytest.mark.parametrize("event", EXAMPLES, ids=name)
def test_the_names_on_disk_stay(event):
    assert list(event.to_line()) == FIELDS[event.name].split()


@pytest.mark.parametrize("event", EXAMPLES, ids=name)
def test_what_a_line_needs(event):
    line, spare = as_line(event), NOT_NEEDED.get(event.name, "").split()
    for field in event.to_line():
        lacking = {key: value for key, value in line.items() if key != field}
        if field in spare:
            assert parse(lacking) is not None
        else:
            with pytest.raises(MalformedLine, match=f"a line of {event.name} needs the field '{field}'; it has event,"):
                parse(lacking)


@pytest.mark.parametrize("event", EXAMPLES, ids=name)
def test_every_field_has_a_type(event):
    line = as_line(event)
    for field in ("time", *event.to_line()):
        with pytest.raises(MalformedLine, match=f"a line of {event.name} cannot be read: {field}"):
            parse(line | {field: [["of no field's type"]]})


def test_values_of_other_types_are_told():
    line = as_line(EXAMPLES[6])
    with pytest.raises(MalformedLine, match="number: Input should be a valid integer; got 'one'"):
        parse(line | {"number": "one"})
    with pytest.raises(MalformedLine, match="hyperparameters: Input should be a valid dictionary; got 3"):
        parse(line | {"hyperparameters": 3})


@pytest.mark.parametrize(
    "entry", [{"ledger": [{"operation": "sum"}]}, {"schedules": [{"num_ranks": 1}]}, {"time": None}]
)
def test_parts_that_the_store_needs_are_needed(entry):
    (ended,) = [example for example in EXAMPLES if example.name == "trial_ended"]
    with pytest.raises(MalformedLine, match="a line of trial_ended"):
        parse(as_line(ended) | entry)


def test_an_unknown_event_is_none():
    assert parse({"event": "made_up", "time": 1.0}) is None


def test_hosts_of_version_1_call_it_crowded():
    line = as_line(EXAMPLES[4])
    del line["oversubscribed"]
    assert parse(line | {"is_crowded": True}).oversubscribed is True


# What a foreign program, an older version or a flipped bit may leave in a field.
WRONG = (None, True, 2**63, 1e999, "x" * 300, "\udce9\0", [None], {"a": {}}, [{"rank": 1}, {"rank": 1}])


def mutated():
    """Every example with every field of every wrong type and size, as lines of a journal."""
    for event in EXAMPLES[1:]:
        line = as_line(event)
        for field in line:
            for value in WRONG:
                yield line | {field: value}
    for entry in events.LEDGER_FIELDS:
        for value in WRONG:
            yield as_line(EXAMPLES[7]) | {"ledger": [dict.fromkeys(events.LEDGER_FIELDS, 1) | {entry: value}]}


def test_no_field_of_a_wrong_type_stops_recording_or_resuming(tmp_path):
    folder = journals.start_folder(tmp_path / "s")
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 1, attempt=2)
    with folder.root_journal(0).open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in mutated())
    journals.start_trial(lines, 7)
    journals.end_trial(lines, 7, 0.5)
    url = f"sqlite:///{tmp_path}/store.db"
    Recorder(folder, lambda: Store(url), journals.study_row(folder.path)).catch_up()
    store = Store(url, create=False)
    assert {trial.number: trial.objective for trial in store.trials(store.study())}[7] == 0.5
    past = resume.read(replay(folder.journals))
    assert past.trials[7, 0].objective == 0.5
    assert past.num_budgeted() <= len(past.trials)
    next(past.tickets(10, []))
    past.visited(2), past.individuals(0, 2, False), past.used_up(5, 5.0, 5.0)
