"""A search's beginning and end: its folder, what may change on resume, what is lost, and its last line."""

import json
import re

import journals
import pytest

from atoll.platform.launch import lifecycle, orphans
from atoll.platform.launch.errors import LaunchError
from atoll.platform.launch.lifecycle import Ending
from atoll.storage import launches
from atoll.storage.journal import JournalWriter
from atoll.storage.store import Store, StoreError


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/atoll.db"


def events(folder, name):
    """The launchers' lines of an event."""
    journals = [file.path for file in launches.files(folder.journals) if file.is_of_launcher]
    lines = [json.loads(line) for path in journals for line in path.read_text().splitlines()]
    return [line for line in lines if line.get("event") == name]


def test_a_folder_is_made_with_what_a_rank_needs(plan_of, url):
    folder = lifecycle.prepare(plan_of(), url, resuming=False, belongs_to={"stage": "tune"}).folder
    row = lifecycle.row(folder)
    assert (row["name"], row["state"], row["metric"], row["direction"]) == ("s", "running", "accuracy", "maximize")
    assert (row["stage"], row["objectives"], row["num_trials"]) == ("tune", None, 3)
    assert "warm_start" not in row
    assert "folder" not in row["definition"]
    assert len(events(folder, "study_started")) == 1


def test_it_is_started_once_and_resumed_only_if_it_is_there(plan_of, url):
    with pytest.raises(LaunchError, match="--resume needs a study in"):
        lifecycle.prepare(plan_of(), url, resuming=True)
    folder = lifecycle.prepare(plan_of(), url, resuming=False).folder
    with pytest.raises(LaunchError, match="already holds a study; continue it with --resume"):
        lifecycle.prepare(plan_of(), url, resuming=False)
    folder.stop_request.touch()
    before = lifecycle.row(folder)
    lifecycle.prepare(plan_of(), url, resuming=True)
    after = lifecycle.row(folder)
    assert (after["uid"], after["started"]) == (before["uid"], before["started"])
    assert not folder.stop_request.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 7}, "seed: 0 before, 7 now"),
        ({"method": "local_sgd"}, "method: 'ddp' before, 'local_sgd' now"),
        ({"topology": {"ranks": 2}}, "topology.ranks: 1 before, 2 now"),
        ({"trials": 2}, "trials: 3 before, 2 now; a budget may only increase"),
        ({"epochs": 1}, "epochs: 20 before, 1 now; a length may only increase"),
        ({"steps": 100}, "its length: 20 epochs before, 100 steps now; the unit must stay"),
        ({"epochs": 21}, None),
        ({"trials": 4}, None),
        ({"topology": {"islands": 2, "workers": 2}}, None),
        ({"heartbeat_timeout": 77.0, "max_restarts": 1, "stop_grace": 1.0}, None),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "refused" if value else "allowed",
)
def test_what_may_change_on_resume(plan_of, url, change, message):
    lifecycle.prepare(plan_of(), url, resuming=False)
    if message is None:
        lifecycle.prepare(plan_of(**change), url, resuming=True)
        return
    with pytest.raises(LaunchError, match=re.escape(message)):
        lifecycle.prepare(plan_of(**change), url, resuming=True)


def test_sections_of_an_earlier_version_lack_what_was_added_since(plan_of, url):
    sections = {"checkpoint": {"every": "1 epochs"}, "pruning": {"grace": 2.0}}
    folder = lifecycle.prepare(plan_of(**sections), url, resuming=False).folder
    content = json.loads(folder.definition.read_text())
    del content["definition"]["pruning"]["promotion"], content["definition"]["checkpoint"]["keep"]
    folder.definition.write_text(json.dumps(content))
    lifecycle.prepare(plan_of(**sections), url, resuming=True)
    folder.definition.write_text(json.dumps(content))
    sections["pruning"]["promotion"] = True
    with pytest.raises(LaunchError, match="the study has changed since it was started"):
        lifecycle.prepare(plan_of(**sections), url, resuming=True)


PROMOTES = {"checkpoint": {"every": "1 epochs"}, "pruning": {"promotion": True, "factor": 3}}


def write_paused(folder, *metrics):
    """Trials that have paused after their first epoch, with checkpoints."""
    lines = JournalWriter(folder.root_journal(0))
    for number, metric in enumerate(metrics):
        journals.start_trial(lines, number)
        journals.report(lines, number, 1, metric=metric)
        journals.end_trial(lines, number, None, state="pruned", curve={"1": metric})
        folder.trial(number).path.mkdir(parents=True)
        folder.trial(number).manifest.touch()
    lines.close()


def test_a_budget_is_not_used_up_while_a_trial_can_be_promoted(plan_of, url):
    plan = plan_of(**PROMOTES)
    folder = lifecycle.prepare(plan, url, resuming=False).folder
    write_paused(folder, 0.1, 0.3, 0.2)
    assert lifecycle.end(folder, plan.study, None) == ("stopped", "stopped after 3 trials of 3 trials")
    assert all(folder.trial(number).manifest.exists() for number in range(3))
    lifecycle.prepare(plan, url, resuming=True)
    lines = JournalWriter(folder.root_journal(0, 3))
    journals.start_trial(lines, 1, 1)
    journals.end_trial(lines, 1, 0.5, 1)
    lines.close()
    assert lifecycle.end(folder, plan.study, None) == ("complete", None)
    assert [folder.trial(number).path.exists() for number in range(3)] == [
        False,
        True,
        False,
    ]  # 1: its root's to remove
    with pytest.raises(LaunchError, match="s is complete"):
        lifecycle.prepare(plan, url, resuming=True)


def test_paused_trials_of_other_code_are_not_promoted(plan_of, url, tmp_path, caplog):
    file = tmp_path / "mine.py"
    file.write_text("from atoll.platform.workloads.digits import DigitsMlp\nclass W(DigitsMlp):\n    pass\n")
    plan = plan_of(workload=f"{file}:W", trials=4, **PROMOTES)
    folder = lifecycle.prepare(plan, url, resuming=False).folder
    write_paused(folder, 0.1, 0.3, 0.2)
    file.write_text(file.read_text() + "# changed\n")
    lifecycle.prepare(plan, url, resuming=True, accept_changes=True)
    assert not any(folder.trial(number).path.exists() for number in range(3))
    assert "discarded the checkpoints of 3 trials" in caplog.text


def write(folder, *states):
    """Trials that ended in these states; None is still running."""
    lines = JournalWriter(folder.root_journal(0))
    for number, state in enumerate(states):
        journals.start_trial(lines, number)
        if state is not None:
            journals.end_trial(lines, number, 0.5 if state == "complete" else None, state=state)
    lines.close()


@pytest.mark.parametrize(
    ("states", "failure", "ending"),
    [
        (["complete", "failed", "complete"], None, ("complete", None)),
        (["complete", None], None, ("stopped", "stopped after 1 trial of 3 trials")),
        (["complete", None], "the MPI job ended", ("failed", "the MPI job ended")),
        (["failed", "failed", "failed"], None, ("failed", "all 3 trials failed")),
        (["failed", "pruned", "failed"], None, ("complete", None)),
    ],
    ids=["complete", "stopped", "failed", "all failed", "one pruned"],
)
def test_the_last_line_says_how_it_ended(plan_of, url, states, failure, ending):
    plan = plan_of()
    folder = lifecycle.prepare(plan, url, resuming=False).folder
    write(folder, *states)
    assert lifecycle.end(folder, plan.study, failure) == ending
    (last,) = events(folder, "study_ended")
    assert (last["state"], last["reason"]) == ending
    assert [line["number"] for line in events(folder, "trial_lost")] == ([1] if None in states else [])


def test_a_method_all_of_whose_trials_fail_is_a_result_of_a_benchmark(plan_of, url):
    plan = plan_of()
    folder = lifecycle.prepare(plan, url, resuming=False, belongs_to={"benchmark": {"name": "b"}}).folder
    write(folder, "failed", "failed", "failed")
    assert lifecycle.end(folder, plan.study, None) == ("complete", None)


@pytest.mark.parametrize("checkpoint", [None, {"weights": "all"}], ids=["no checkpoints", "weights only"])
def test_a_trial_whose_worker_died_on_it_twice_is_failed(plan_of, url, checkpoint):
    folder = lifecycle.prepare(plan_of(checkpoint=checkpoint), url, resuming=False).folder
    for attempt in (0, 1):
        lines = JournalWriter(folder.root_journal(0, attempt + 1))
        journals.start_trial(lines, 0, attempt)
        journals.report(lines, 0, attempt + 1, attempt)
        lines.close()
        with launches.next_launch(folder.journals) as launcher:
            lifecycle.mark_lost(folder, launcher, "killed", lifecycle.suspects({0}))
    assert [line["attempt"] for line in events(folder, "trial_lost")] == [0]
    (failed,) = events(folder, "trial_ended")
    assert (failed["attempt"], failed["state"]) == (1, "failed")
    assert failed["reason"] == "its worker died during this trial twice; the second time: killed"


@pytest.mark.parametrize(("steps", "states"), [((30, 40), ["lost", "lost"]), ((30, 30), ["lost", "failed"])])
def test_who_gets_further_from_a_checkpoint_is_not_failed(plan_of, url, steps, states):
    folder = lifecycle.prepare(plan_of(checkpoint={"every": "10 steps"}), url, resuming=False).folder
    for attempt, step in enumerate(steps):
        lines = JournalWriter(folder.root_journal(0, attempt + 1))
        journals.start_trial(lines, 0, attempt)
        journals.report(lines, 0, step // 10, attempt)
        lines.close()
        with launches.next_launch(folder.journals) as launcher:
            lifecycle.mark_lost(folder, launcher, "killed", lifecycle.suspects({0}))
    assert ["lost"] * len(events(folder, "trial_lost")) + ["failed"] * len(events(folder, "trial_ended")) == states


def test_a_newer_checkpoint_counts_as_further_between_reports(plan_of, url):
    folder = lifecycle.prepare(plan_of(checkpoint={"every": "10 steps"}), url, resuming=False).folder
    trial = folder.trial(0)
    trial.path.mkdir(parents=True)
    for attempt, step in enumerate((25, 35, 35)):  # the last report is of step 20
        lines = JournalWriter(folder.root_journal(0, attempt + 1))
        journals.start_trial(lines, 0, attempt)
        journals.report(lines, 0, 2, attempt)
        lines.close()
        trial.manifest.write_text(json.dumps({"step": step, "training": {}}))
        trial.state(step, 0).touch()
        (trial.path / ".abc.partial").touch()
        with launches.next_launch(folder.journals) as launcher:
            lifecycle.mark_lost(folder, launcher, "killed", lifecycle.suspects({0}))
    assert [line["step"] for line in events(folder, "trial_lost")] == [25, 35]
    assert [line["state"] for line in events(folder, "trial_ended")] == ["failed"]
    assert not trial.path.exists()


@pytest.mark.parametrize("manifest", ['{"step": Infinity, "training": {}}', "[" * 100_000, "[1]"])
def test_a_damaged_checkpoint_keeps_no_study_from_its_resume(plan_of, url, manifest):
    folder = lifecycle.prepare(plan_of(checkpoint={"every": "10 steps"}), url, resuming=False).folder
    write(folder, None)
    folder.trial(0).path.mkdir(parents=True)
    folder.trial(0).manifest.write_text(manifest)
    lifecycle.prepare(plan_of(checkpoint={"every": "10 steps"}), url, resuming=True)
    assert [line["step"] for line in events(folder, "trial_lost")] == [0]


def test_checkpoints_of_other_code_are_discarded(plan_of, url, tmp_path, caplog):
    file = tmp_path / "mine.py"
    file.write_text("from atoll.platform.workloads.digits import DigitsMlp\nclass W(DigitsMlp):\n    pass\n")
    plan = plan_of(workload=f"{file}:W", checkpoint={"every": "1 epochs"})
    folder = lifecycle.prepare(plan, url, resuming=False).folder
    write(folder, "complete", None)
    for number in (0, 1):
        folder.trial(number).path.mkdir(parents=True)
        folder.trial(number).manifest.touch()
        folder.trial(number).state(7, 0).touch()
    lifecycle.prepare(plan, url, resuming=True)
    assert folder.trial(1).manifest.exists()
    file.write_text(file.read_text() + "# changed\n")
    lifecycle.prepare(plan, url, resuming=True, accept_changes=True)
    assert not folder.trial(1).path.exists()
    assert folder.trial(0).state(7, 0).exists()  # it has ended: the study keeps it, or the search removes it
    assert not folder.trial(0).manifest.exists()  # but it will not become longer
    folder.trial(0).remove_checkpoints()
    assert not folder.trial(0).path.exists()
    assert "discarded the checkpoints of 1 trial" in caplog.text


def test_who_went_down_with_another_worker_is_not_suspected(plan_of, url):
    folder = lifecycle.prepare(plan_of(), url, resuming=False).folder
    for attempt in (0, 1, 2):
        lines = JournalWriter(folder.root_journal(0, attempt + 1))
        journals.start_trial(lines, 0, attempt)
        lines.close()
        with launches.next_launch(folder.journals) as launcher:
            lifecycle.mark_lost(folder, launcher, "killed", lifecycle.suspects({5}))
    assert [line["attempt"] for line in events(folder, "trial_lost")] == [0, 1, 2]


def test_what_a_rank_wrote_while_it_was_ended_counts(plan_of, url, monkeypatch):
    folder = lifecycle.prepare(plan_of(), url, resuming=False).folder
    write(folder, None, None)

    def end_rank(folder, _):
        lines = JournalWriter(folder.root_journal(0))
        journals.end_trial(lines, 0, 0.5)
        lines.close()
        return 1

    monkeypatch.setattr(orphans, "end", end_rank)
    lifecycle.prepare(plan_of(), url, resuming=True)
    assert [line["number"] for line in events(folder, "trial_lost")] == [1]


@pytest.mark.parametrize("resuming", [True, False], ids=["resume", "end"])
def test_the_journals_are_read_once(plan_of, url, monkeypatch, resuming):
    plan = plan_of()
    folder = lifecycle.prepare(plan, url, resuming=False).folder
    write(folder, "complete", None)
    replays = []
    replay = launches.replay
    monkeypatch.setattr(launches, "replay", lambda *arguments: replays.append(arguments) or replay(*arguments))
    lifecycle.prepare(plan, url, resuming=True) if resuming else lifecycle.end(folder, plan.study, None)
    assert len(replays) == 1


def test_a_study_that_lacks_only_its_end_may_go_on(plan_of, url):
    plan = plan_of()
    folder = lifecycle.prepare(plan, url, resuming=False).folder
    write(folder, "complete", "complete", "failed")
    assert lifecycle.prepare(plan, url, resuming=True).folder.path == folder.path
    assert lifecycle.end_interrupted(folder) == ("complete", 0)
    assert lifecycle.end_interrupted(folder) is None
    (last,) = events(folder, "study_ended")
    assert last["state"] == "complete"
    with pytest.raises(LaunchError, match="s is complete: it has used its budget of 3 trials"):
        lifecycle.prepare(plan, url, resuming=True)


def test_lines_that_cannot_be_read_are_told_on_resume(plan_of, url, caplog):
    folder = lifecycle.prepare(plan_of(), url, resuming=False).folder
    folder.root_journal(0).write_text('{"event": "trial_ended", "time": 0.0}\n')
    lifecycle.prepare(plan_of(), url, resuming=True)
    assert "ignored 1 invalid line of" in caplog.text
    assert len(launches.replay(folder.journals)) >= 2


@pytest.mark.parametrize(
    ("state", "recorded", "code"),
    [("complete", True, 0), ("complete", False, 1), ("stopped", True, 75), ("stopped", False, 75), ("failed", True, 1)],
)
def test_exit_codes(state, recorded, code):
    assert Ending(state, None, recorded).exit_code == code


def test_a_name_that_the_store_has_is_refused_and_another_one_found(plan_of, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = journals.start_folder(tmp_path / "other", uid="other")
    journals.write_study(other, [0.5])
    lifecycle.record(other, url, follow=False)
    assert [summary.study.name for summary in Store(url).studies()] == ["s"]
    with pytest.raises(StoreError, match="already holds a study named"):
        lifecycle.check_name_is_free(plan_of().study, url)
    assert lifecycle.free_name("s", url) == "s-2"
    assert lifecycle.free_name("t", url) == "t"


def test_a_resume_tells_of_pickles_that_it_ignores(plan_of, url, caplog):
    folder = lifecycle.prepare(plan_of(), url, resuming=False).folder
    lines = JournalWriter(folder.root_journal(0))
    journals.start_trial(lines, 0, proposal={"genes": {}, "attributes": {"cma:optimizer:0": "80"}})
    lines.close()
    lifecycle.prepare(plan_of(), url, resuming=True)
    assert "ignored 1 pickled CMA-ES optimizers, such as version 0.1.0 wrote" in caplog.text


def test_following_into_a_store_with_another_study_of_the_name_is_refused_at_once(plan_of, url, tmp_path):
    other = journals.start_folder(tmp_path / "other", uid="other")
    journals.write_study(other, [0.5])
    lifecycle.record(other, url, follow=False)
    folder = lifecycle.prepare(plan_of(), f"sqlite:///{tmp_path}/mine.db", resuming=False).folder
    with pytest.raises(StoreError, match="already holds a study named 's'"):
        lifecycle.record(folder, url, follow=True)
