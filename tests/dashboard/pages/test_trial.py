"""The page of one trial."""

import boards
import journals
from commands import called, called_json

from atoll.dashboard import tabs
from atoll.dashboard.context import Context
from atoll.dashboard.pages import export, trial
from atoll.storage import browse
from atoll.storage.export import as_yaml


def test_a_trial_says_how_to_train_it_again(tmp_path):
    store = boards.study(tmp_path, [0.5], name=boards.NASTY)
    row = browse.trial(store, store.study().id, 0)
    words = trial.command(Context(store), store.study(), row)
    assert words.startswith("atoll export '<script>")
    assert "/" not in trial.filename(store.study(), row)
    assert as_yaml(store.study(), [row], alone=True).startswith("workload: digits_mlp")


def test_what_is_shown_of_a_trial_beside_others(tmp_path):
    context = Context(boards.study(tmp_path, [0.5, 0.7, 0.6]))
    row = browse.trial(context.store, 1, 2)
    shown = str(trial.hyperparameters(context, context.store.study(), row))
    assert "incumbent (trial 1)" in shown
    assert "'default'" in shown
    assert "interval mutation" in shown


def test_attempts_are_told_apart(tmp_path):
    store, lines, recorder = boards.record(tmp_path)
    journals.start_trial(lines, 3)
    journals.report(lines, 3, 1)
    lines.append(journals.event("trial_lost", {"number": 3, "attempt": 0, "reason": "gone"}))
    journals.start_trial(lines, 3, attempt=1)
    journals.report(lines, 3, 1, attempt=1)
    journals.report(lines, 3, 2, attempt=1)
    journals.end_trial(lines, 3, 0.5, attempt=1)
    recorder.catch_up()
    context = Context(store)
    board = context.boards.of("s")
    assert trial.read(context, board.study, "3", "0").state == "lost"
    assert "--attempt 1" in trial.command(context, board.study, trial.read(context, board.study, "3", None))
    lengths = {attempt: len(tabs.curves(context, board, [[3, attempt]]).data[0].x) for attempt in (0, 1)}
    assert lengths == {0: 1, 1: 2}
    assert export._trial(context, board.study, "3").attempt == 1
    assert export._trial(context, board.study, "3.0").attempt == 0


def test_hosts_are_those_that_the_trial_had(tmp_path):
    store, lines, recorder = boards.record(tmp_path)
    for name, number in (("alpha", 0), ("beta", 2)):
        host = {"world_rank": 0, "island": 0, "worker": 0, "rank": 0, "node": 0, "hostname": name, "process": 1}
        lines.append(journals.event("host", host | {"device": "cpu", "threads": 1}))
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, 0.5)
    recorder.catch_up()
    context = Context(store)
    shown = [str(trial.facts(context, store.study(), browse.trial(store, 1, number))) for number in (0, 2)]
    assert "alpha" in shown[0]
    assert "beta" not in shown[0]
    assert "beta" in shown[1]


def test_a_trials_notes_are_stored_and_shown(tmp_path):
    notes = ["the trial changed the umask from 0022 to 0777; put back", "<b>7</b>"]
    store, lines, recorder = boards.record(tmp_path)
    journals.start_trial(lines, 0)
    journals.end_trial(lines, 0, 0.5, notes=notes)
    journals.start_trial(lines, 1)
    journals.end_trial(lines, 1, 0.5)
    recorder.catch_up()
    study = store.study("s")
    assert [trial.notes for trial in store.trials(study)] == [notes, None]
    noted, plain = (str(trial.facts(Context(store), study, row)) for row in store.trials(study))
    assert "the trial changed the umask from 0022 to 0777; put back\\n<b>7</b>" in noted
    assert "notes of the run" not in plain
    told = called("failures", "s", "--trial", "0", cwd=tmp_path).stdout
    assert f"note: {notes[0]}\nnote: {notes[1]}\n" in told
    assert called_json("failures", "s", "--trial", "0", cwd=tmp_path)["notes"] == notes
