"""Trials in TensorBoard, in MLflow and in a command's hands while a search runs: each once, and never at its cost."""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import time

import pytest
import ranks
import yaml
from commands import FAILING, called, wait_until
from journals import end_trial, report, start_folder, start_trial, write_study

from atoll.platform.launch import live
from atoll.platform.launch.errors import LaunchError
from atoll.platform.study.on_trial import Command, located, shown
from atoll.storage.events import TrialLost
from atoll.storage.journal import JournalWriter
from atoll.storage.yamlfile import FileError

TENSORBOARD = pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="install the extra tensorboard")


def started(path, **changes):
    return start_folder(path / "s", curve_metric="accuracy", uid="u1", **changes)


def row(folder):
    return json.loads(folder.definition.read_text())


def send(folder, *targets):
    live.send_all(located(targets, folder.path.parent, inside=False), folder, row(folder))


def scalars(run, tag="accuracy"):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    return [(scalar.step, round(scalar.value, 4)) for scalar in accumulator.Scalars(tag)]


def hparams(run):
    """The hyperparameters, and the status at the end, that the hparams plugin shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    contents = [
        accumulator.SummaryMetadata(tag).plugin_data.content
        for tag in (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)
    ]
    begun = metadata.parse_session_start_info_plugin_data(contents[0])
    return {name: value.number_value for name, value in begun.hparams.items()}, (
        metadata.parse_session_end_info_plugin_data(contents[1]).status
    )


CURVE = [(10, 0.5), (20, 0.75), (30, 0.8333)]


@TENSORBOARD
def test_tensorboard_shows_scalars_by_step_and_hyperparameters(tmp_path):
    folder = started(tmp_path)
    write_study(folder, [0.5, None])
    send(folder, "tensorboard:runs")
    first, second = sorted((tmp_path / "runs" / "s").iterdir())
    assert (first.name, second.name) == ("trial-000000", "trial-000001")
    assert scalars(first) == scalars(second) == CURVE
    assert scalars(first, "train_loss") == [(10, 1.0), (20, 0.5), (30, 0.3333)]
    assert scalars(first, "objective") == [(30, 0.5)]
    assert scalars(first, "final/train_loss") == [(30, 0.1)]
    assert hparams(first) == ({"B": 1.0, "learning_rate": 0.1}, 1)  # STATUS_SUCCESS
    assert hparams(second) == ({"B": 2.0, "learning_rate": 0.05}, 2)  # STATUS_FAILURE


@TENSORBOARD
def test_what_was_sent_after_the_last_position_is_not_there_twice(tmp_path):
    folder = started(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    start_trial(lines, 0)
    report(lines, 0, 1)
    send(folder, "tensorboard:runs")
    shutil.copytree(folder.live, tmp_path / "before")  # a kill before the next position is written
    report(lines, 0, 2)
    send(folder, "tensorboard:runs")
    report(lines, 0, 3)
    end_trial(lines, 0, 0.5)
    shutil.rmtree(folder.live)
    (tmp_path / "before").rename(folder.live)
    send(folder, "tensorboard:runs")
    send(folder, "tensorboard:runs")
    assert scalars(tmp_path / "runs" / "s" / "trial-000000") == CURVE
    assert scalars(tmp_path / "runs" / "s" / "trial-000000", "objective") == [(30, 0.5)]


@TENSORBOARD
def test_a_next_attempt_takes_the_place_of_a_lost_one_in_tensorboard(tmp_path):
    folder = started(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    start_trial(lines, 0)
    report(lines, 0, 1, metric=0.1)
    report(lines, 0, 2, metric=0.2)
    lines.append(TrialLost(number=0, attempt=0, reason="its rank died"))
    send(folder, "tensorboard:runs")
    start_trial(lines, 0, attempt=1)
    for epoch in (1, 2, 3):
        report(lines, 0, epoch, attempt=1)
    end_trial(lines, 0, 0.5, attempt=1)
    send(folder, "tensorboard:runs")
    assert scalars(tmp_path / "runs" / "s" / "trial-000000") == CURVE
    assert hparams(tmp_path / "runs" / "s" / "trial-000000")[1] == 1


@TENSORBOARD
def test_removed_event_files_do_not_stop_it(tmp_path):
    folder = started(tmp_path)
    lines = JournalWriter(folder.root_journal(0))
    start_trial(lines, 0)
    report(lines, 0, 1)
    send(folder, "tensorboard:runs")
    shutil.rmtree(tmp_path / "runs")
    report(lines, 0, 2)
    end_trial(lines, 0, 0.5)
    send(folder, "tensorboard:runs")
    assert scalars(tmp_path / "runs" / "s" / "trial-000000") == CURVE[1:2]


@TENSORBOARD
@pytest.mark.process
def test_tensorboard_is_written_without_torch_and_tensorflow(tmp_path):
    code = "import sys\nfrom atoll.platform.launch import live_tensorboard\n"
    code += "from tensorboard.summary.writer.record_writer import RecordWriter\n"
    code += "from tensorboard.plugins.hparams import metadata, plugin_data_pb2, api_pb2\n"
    code += "print({'torch', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def runs(path):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    experiment = client.get_experiment_by_name("s")
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return client, found


@pytest.mark.long  # importing MLflow takes seconds
def test_mlflow_has_a_run_for_each_trial_and_nested_ones_for_later_attempts(tmp_path):
    pytest.importorskip("mlflow", reason="install the extra mlflow")
    folder, target = started(tmp_path), "mlflow:sqlite:///m.db"
    lines = JournalWriter(folder.root_journal(0))
    start_trial(lines, 0)
    report(lines, 0, 1)
    send(folder, target)
    shutil.copytree(folder.live, tmp_path / "before")
    report(lines, 0, 2)
    end_trial(lines, 0, 0.5)
    start_trial(lines, 1, hyperparameters={"text": "x" * 7000, "odd/na*me": [1, None]})
    lines.append(TrialLost(number=1, attempt=0, reason="its rank died"))
    send(folder, target)
    shutil.rmtree(folder.live)
    (tmp_path / "before").rename(folder.live)  # a kill before the position was written
    start_trial(lines, 1, attempt=1)
    report(lines, 1, 1, attempt=1, **{"metrics": {"a/b*c": 1.5}})
    end_trial(lines, 1, None, attempt=1)
    send(folder, target)
    client, (first, second, again) = runs(tmp_path / "m.db")
    assert [run.info.status for run in (first, second, again)] == ["FINISHED", "FAILED", "FAILED"]
    assert first.data.params == {"B": "1", "learning_rate": "0.1"}
    history = client.get_metric_history(first.info.run_id, "accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.5), (20, 0.75)]
    assert first.data.metrics["objective"] == 0.5
    tags = {"study": "s", "trial": "0", "attempt": "0", "host": "here", "state": "complete"}
    assert {name: first.data.tags[f"atoll.{name}"] for name in tags} == tags
    assert second.data.params == {"text": "x" * 6000, "odd/na_me": "[1, null]"}
    assert again.data.tags["mlflow.parentRunId"] == second.info.run_id
    assert again.data.metrics["a/b_c"] == 1.5
    assert second.data.tags["atoll.reason"] == "Diverged"
    assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ


@pytest.mark.long
def test_an_mlflow_server_that_is_away_is_told_at_once(tmp_path):
    pytest.importorskip("mlflow", reason="install the extra mlflow")
    folder = started(tmp_path)
    write_study(folder, [0.5, 0.6])
    live.check(["mlflow:http://127.0.0.1:9"])  # no reason to refuse the search
    begun = time.monotonic()
    with pytest.raises(LaunchError, match=r"127.0.0.1:9 lacks the ends of 2 trials .*repeat the command"):
        send(folder, "mlflow:http://127.0.0.1:9")
    assert time.monotonic() - begun < 30  # MLflow's own repetitions take minutes


SCRIPT = """#!/bin/sh
cat >> "$OUT.json"; echo >> "$OUT.json"
echo "$ATOLL_STUDY $ATOLL_TRIAL $ATOLL_ATTEMPT $ATOLL_STATE" "$@" >> "$OUT"
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    path = tmp_path / "told.sh"
    path.write_text(SCRIPT)
    path.chmod(0o755)
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    return path


@pytest.mark.process
def test_a_command_runs_once_for_each_ended_trial_in_order(tmp_path, script):
    folder = started(tmp_path)
    write_study(folder, [0.5, None, 0.7])
    lines = JournalWriter(folder.root_journal(1))
    start_trial(lines, 3)
    lines.append(TrialLost(number=3, attempt=0, reason="its rank died"))  # is trained again, and has not ended
    start_trial(lines, 3, attempt=1)
    end_trial(lines, 3, None, attempt=1, state="pruned")
    send(folder, "./told.sh '$HOME' two")
    send(folder, "./told.sh '$HOME' two")
    states = ["s 0 0 complete", "s 1 0 failed", "s 2 0 complete", "s 3 1 pruned"]
    text = (tmp_path / "out").read_text()
    assert text == "".join(f"{state} $HOME two\n" for state in states)  # no shell has seen it
    first = json.loads((tmp_path / "out.json").read_text().splitlines()[0])
    assert (first["study"], first["number"], first["objective"], first["step"]) == ("s", 0, 0.5, 30)
    assert first["hyperparameters"] == {"B": 1, "learning_rate": 0.1}


@pytest.mark.process
def test_a_text_with_shell_meaning_is_run_by_a_shell(tmp_path):
    folder = started(tmp_path)
    write_study(folder, [0.5])
    send(folder, "echo $ATOLL_TRIAL-$ATOLL_STATE | tr a-z A-Z > told")
    assert (tmp_path / "told").read_text() == "0-COMPLETE\n"


@pytest.mark.process
def test_a_command_that_fails_or_takes_too_long_is_counted_and_not_repeated(tmp_path, caplog):
    folder = started(tmp_path)
    write_study(folder, [0.5, 0.6, 0.7])
    slow = Command(command="echo $ATOLL_TRIAL >> n; case $ATOLL_TRIAL in 0) exit 3;; 1) sleep 60;; esac", timeout=0.5)
    begun = time.monotonic()
    send(folder, slow)
    send(folder, slow)
    assert time.monotonic() - begun < 20
    assert (tmp_path / "n").read_text() == "0\n1\n2\n"
    assert "a shell command did not take 2 trials or reports, or failed for them" in caplog.text
    told = folder.on_trial_log.read_text()
    assert "trial 0 complete: a shell command\nended with exit code 3\n" in told
    assert "killed after 0.5 s" in told


@pytest.mark.process
def test_a_kill_repeats_a_command_for_one_trial_at_most(tmp_path):
    folder = started(tmp_path)
    write_study(folder, [0.5, 0.6, 0.7])
    # It ends the process that runs it, after the second trial: the position is not written.
    code = "import json, sys; from pathlib import Path; from atoll.platform.launch import live\n"
    code += "from atoll.platform.study.on_trial import Command; from atoll.storage.folder import StudyFolder\n"
    code += "folder = StudyFolder(sys.argv[1]); row = json.loads(folder.definition.read_text())\n"
    code += "live.send_all([Command(command=sys.argv[2], folder=sys.argv[3])], folder, row)"
    command = "echo $ATOLL_TRIAL >> n; test $ATOLL_TRIAL != 1 || test -e killed || { touch killed; kill -9 $PPID; }"
    arguments = [sys.executable, "-c", code, folder.path, command, tmp_path]
    assert subprocess.run(arguments).returncode == -9
    wait_until((tmp_path / "killed").exists, 10)
    assert subprocess.run(arguments).returncode == 0
    assert (tmp_path / "n").read_text() == "0\n1\n1\n2\n"


@pytest.mark.process
def test_a_slow_command_is_given_up_at_the_end_and_sent_later(tmp_path, caplog):
    folder = started(tmp_path)
    write_study(folder, [0.5, 0.6])
    slow = located([Command(command="test -e go || sleep 60; echo $ATOLL_TRIAL >> n")], tmp_path, inside=False)
    logs = live.LiveLogs(slow, folder, row(folder))
    logs.start()
    time.sleep(0.3)
    begun = time.monotonic()
    logs.finish(timeout=0.5)
    assert time.monotonic() - begun < 5
    assert "a shell command lacks the ends of 2 trials; `atoll record FOLDER --on-trial TARGET`" in caplog.text
    (tmp_path / "go").touch()
    live.send_all(slow, folder, row(folder))
    assert (tmp_path / "n").read_text() == "0\n1\n"


@TENSORBOARD
def test_a_target_that_is_away_is_told_once_and_gets_everything_when_it_is_back(tmp_path, caplog):
    folder = started(tmp_path)
    write_study(folder, [0.5, 0.6])
    (tmp_path / "runs").write_text("")  # a file in place of the folder
    logs = live.LiveLogs([f"tensorboard:{tmp_path}/runs"], folder, row(folder))
    with caplog.at_level(logging.WARNING):
        logs.start()
        time.sleep(2)
        assert caplog.text.count("cannot be sent to") == 1
        (tmp_path / "runs").unlink()
        logs.finish(timeout=20)
    assert caplog.text.count("cannot be sent to") == 1
    assert "has everything after all" in caplog.text
    assert scalars(tmp_path / "runs" / "s" / "trial-000001") == CURVE


@TENSORBOARD
def test_two_processes_do_not_send_to_one_target_at_once(tmp_path):
    folder = started(tmp_path)
    write_study(folder, [0.5])
    (target,) = located(["tensorboard:runs"], tmp_path, inside=False)
    first = live.LiveLog(target, folder, row(folder))
    assert first.catch_up()
    assert not live.LiveLog(target, folder, row(folder)).catch_up()
    with pytest.raises(LaunchError, match="another process sends the trials to tensorboard"):
        send(folder, "tensorboard:runs")
    first.close()
    send(folder, "tensorboard:runs")


def write(folder, **content):
    study = {"name": "s", "workload": FAILING, "method": "ddp", "epochs": 2, "trials": 3} | content
    (folder / "s.yaml").write_text(yaml.safe_dump(study))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("tensorboard:", "tensorboard:DIR needs a folder, such as tensorboard:runs; got 'tensorboard:'"),
        ("mlflow:", "needs a scheme among http, https, sqlite.*; got no scheme: use mlflow:http://HOST:PORT"),
        ("mlflow:ftp://x", "got the scheme 'ftp'"),
        ("mlflow:http:/host", "must name a host after http://"),
        ("mlflow:sqlite://x.db", "a SQLite file's URI is sqlite:///FILE.db"),
        ("wandb:project", "must be tensorboard:DIR, mlflow:URI or a command; got 'wandb:project'"),
        ("./absent.sh", "there is no such program that can be run"),
        ("echo 'open", "a command must have closed quotes"),
        ("/bin/echo x", "a command's program must lie in the study file's folder.*got /.*echo: put a script there"),
        ("echo x | cat", "a command that needs a shell is not confined to the study file's folder"),
        (["tensorboard:a", "tensorboard:./a"], "on_trial must not name a target twice; got tensorboard:.*/a twice"),
        ({"command": ["/bin/echo"], "timeout": 0}, "greater than 0"),
        ({"command": "./x.sh", "folder": "absent"}, "a command's folder must exist; got .*/absent"),
    ],
)
def test_what_cannot_be_a_target_is_refused_with_the_choices(tmp_path, target, said):
    from atoll.platform.study.study import Study
    from atoll.storage import yamlfile

    write(tmp_path, workload="digits_mlp", on_trial=target)
    with pytest.raises(FileError, match=said):
        yamlfile.load(tmp_path / "s.yaml", Study, inside=True)


def test_a_missing_extra_and_a_folder_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    if importlib.util.find_spec("tensorboard"):
        with pytest.raises(LaunchError, match=r"must be a folder that can be written; got .*/file/runs"):
            live.check([f"tensorboard:{tmp_path}/file/runs"])
    for service in ("tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, service, None)
        with pytest.raises(LaunchError, match=rf"on_trial: {service} needs {service}, which is not .*\[{service}\]"):
            live.check([f"{service}:{tmp_path}"])


def test_messages_have_no_password():
    assert (
        shown("mlflow:https://me:se/cr@et@host:5000/x?token=abc&b=1") == "mlflow:https://***@host:5000/x?token=***&b=1"
    )
    assert shown(Command(command="curl -H secret")) == "curl"
    assert "secret" not in shown(Command(command="curl -H secret | cat"))


@TENSORBOARD
@pytest.mark.process
@pytest.mark.slow
def test_a_search_in_one_process_shows_its_trials_and_a_resumed_one_the_rest(tmp_path, monkeypatch, script):
    monkeypatch.setenv("FAIL", "none")
    write(tmp_path, on_trial=["tensorboard:runs", "./told.sh"])
    called("search", "s.yaml", "--outside", "--in-process", cwd=tmp_path)
    write(tmp_path, on_trial=["tensorboard:runs", "./told.sh"], trials=5)
    called("search", "s.yaml", "--outside", "--in-process", "--resume", cwd=tmp_path)
    assert sorted((tmp_path / "out").read_text().split("\n")[:-1]) == [f"s {n} 0 complete" for n in range(5)]
    shown_runs = sorted((tmp_path / "runs" / "s").iterdir())
    assert [run.name for run in shown_runs] == [f"trial-{n:06d}" for n in range(5)]
    assert [len(scalars(run, "train_loss")) for run in shown_runs] == [2] * 5
    # Nothing in the folder says what to run, or has a URL that may have a password.
    assert "told.sh" not in (tmp_path / "atoll-studies" / "s" / "study.json").read_text()
    called("record", "atoll-studies/s", "--store", "other.db", cwd=tmp_path)
    assert len((tmp_path / "out").read_text().splitlines()) == 5
    called("record", "atoll-studies/s", "--on-trial", "./told.sh", cwd=tmp_path)
    assert len((tmp_path / "out").read_text().splitlines()) == 5
    called("record", "atoll-studies/s", "--on-trial", "./told.sh again", cwd=tmp_path)
    assert len((tmp_path / "out").read_text().splitlines()) == 10


@TENSORBOARD
@pytest.mark.long
def test_trials_are_shown_from_inside_someones_own_mpirun(tmp_path, monkeypatch, script):
    monkeypatch.setenv("FAIL", "none")
    write(tmp_path, on_trial=["tensorboard:runs", "./told.sh"], topology={"workers": 2})
    arguments = ("-m", "atoll.platform.cli", "search", "s.yaml", "--outside")
    done = ranks.mpiexec(2, *arguments, env={"ATOLL_STORE": f"sqlite:///{tmp_path}/atoll.db"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted((tmp_path / "out").read_text().split("\n")[:-1]) == [f"s {n} 0 complete" for n in range(3)]
    assert len(list((tmp_path / "runs" / "s").iterdir())) == 3
