"""The command line without MPI: tables, JSON, exit codes, and a laptop without the search extra."""

import io
import json
import re
import subprocess
import sys
import time
from contextlib import closing

import journals
import pytest
import sqlalchemy as sa
import typer.main
import yaml
from commands import called as atoll
from commands import called_json as atoll_json
from ranks import SUPPORT
from rich.console import Console
from typer.testing import CliRunner

from atoll.platform import cli
from atoll.platform.commands import catalogue, live_search, shared
from atoll.platform.study.study import Study
from atoll.storage.events import TrialEnded
from atoll.storage.folder import BenchmarkFolder
from atoll.storage.journal import JournalWriter
from atoll.storage.lock import Lock
from atoll.storage.recorder import Recorder
from atoll.storage.store import Store

COMMANDS = (
    "quickstart", "search", "train", "leaderboard", "studies", "stop", "delete", "export", "dashboard", "record",
    "methods", "workloads", "spaces", "doctor", "study-schema", "failures", "score", "benchmark", "report",
    "project", "check", "table", "trial", "logs", "import optuna",
)  # fmt: skip
SEARCH_ONLY = ("torch", "mpi4py", "propulate", "sklearn", "cmaes", "sortedcontainers")


def fill(path):
    """Put one study and its store into a folder."""
    folder = journals.start_folder(path / "atoll-studies" / "s")
    journals.write_study(folder, [0.9, None, 0.95, 0.85])
    recorder = Recorder(folder, lambda: Store(f"sqlite:///{path}/atoll.db"), journals.study_row(folder.path))
    recorder.catch_up()
    recorder.close()


@pytest.fixture
def laptop(tmp_path):
    """A folder with a store that holds one study."""
    fill(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, tmp_path):
    text = atoll(*command.split(), "--help", cwd=tmp_path).stdout
    assert f"Example: atoll {command}" in text
    assert "--json" in text


def test_help_lists_commands_by_group():
    group = typer.main.get_command(cli.app)
    listed = [name for names in shared.GROUPS.values() for name in names]
    assert sorted(listed) == sorted(name for name, command in group.commands.items() if not command.hidden)
    text = CliRunner().invoke(cli.app, ["--help"]).stdout
    shown = [line for title, names in shared.GROUPS.items() for line in (f"{title}:\n", *(f"  {n} " for n in names))]
    places = [text.index(f"\n{line}") for line in shown]
    assert places == sorted(places)


def test_help_lists_every_command(tmp_path):
    text = atoll("--help", cwd=tmp_path).stdout
    assert all(re.search(rf"^\s*{command.split()[0]} ", text, re.MULTILINE) for command in COMMANDS)


BROWSING = (
    "leaderboard", "leaderboard s --json", "studies", "failures", "export s", "study-schema", "--help",
)  # fmt: skip
# Python that cannot import what only a search needs: how each command ends, and the dashboard.
LAPTOP = f"""
import json, pathlib, sys
sys.modules.update(dict.fromkeys({SEARCH_ONLY!r}))
sys.path.append({str(SUPPORT)!r})
from commands import called
for line in {BROWSING!r}:
    try:
        answer = called(*line.split(), cwd=pathlib.Path()).stdout
    except BaseException as error:
        answer, failure = "", repr(error)
    else:
        failure = None
    print(json.dumps([line, bool(answer), failure]), flush=True)
from atoll.dashboard.app import create_app
from atoll.storage.store import Store
answer = create_app(Store("sqlite:///atoll.db")).server.test_client().get("/")
print(json.dumps(["dashboard", answer.status_code == 200, None]))
"""


@pytest.fixture(scope="module")
def on_a_laptop(tmp_path_factory):
    """Of each command without the extra: whether it answers, and why not; and the errors of the whole program."""
    folder = tmp_path_factory.mktemp("laptop")
    fill(folder)
    done = subprocess.run([sys.executable, "-c", LAPTOP], cwd=folder, capture_output=True, text=True)
    return {line: rest for line, *rest in map(json.loads, done.stdout.splitlines())}, done.stderr


@pytest.mark.process
@pytest.mark.parametrize("command", [*BROWSING, "dashboard"])
def test_browsing_needs_neither_mpi_nor_torch(on_a_laptop, command):
    outcomes, errors = on_a_laptop
    assert outcomes.get(command) == [True, None], errors


@pytest.mark.process
def test_a_search_without_the_extra_says_what_to_install(tmp_path):
    program = (
        "import importlib.util as u, sys; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('torch', 'mpi4py') else found(name, *a)\n"
        "sys.argv = ['atoll', 'quickstart']; from atoll.platform.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "a search needs mpi4py, torch; install with" in done.stderr


def test_a_study_without_failures_says_so(laptop, tmp_path):
    folder = journals.start_folder(tmp_path / "fine")
    journals.write_study(folder, [0.9, 0.8])
    with closing(Store(f"sqlite:///{tmp_path}/fine.db")) as store:
        Recorder(folder, lambda: store, journals.study_row(folder.path)).catch_up()
    said = atoll("failures", "--store", "fine.db", cwd=tmp_path).stdout
    assert said == "s: no trial has failed (2 complete)\n"
    assert "trial 0 of s: complete\nit has not failed" in atoll("failures", "--trial", "0", cwd=laptop).stdout


def test_leaderboard(laptop):
    lines = atoll("leaderboard", "--top", "2", cwd=laptop).stdout.splitlines()
    header, first, second = lines[1:4]
    assert header.split()[:3] == ["place", "trial", "accuracy"]
    assert {"B", "learning_rate", "time", "sent", "seed", "island"} <= set(header.split())
    assert first.split()[:3] == ["1", "2", "0.95"]
    assert second.split()[:3] == ["2", "0", "0.9"]
    assert lines[4:] == ["2 of 3 complete trials; without a place: 1 failed"]


def test_json_gives_all_complete_trials(laptop):
    trials = atoll_json("leaderboard", "s", "--top", "1", cwd=laptop)
    assert [(t["place"], t["number"], t["objective"]) for t in trials] == [(1, 2, 0.95), (2, 0, 0.9), (3, 3, 0.85)]
    assert trials[0]["configuration"]["method"] == "daso"


def test_studies(laptop):
    (study,) = atoll_json("studies", cwd=laptop)
    assert (study["name"], study["state"], study["counts"]) == ("s", "complete", {"complete": 3, "failed": 1})
    assert "4/4" in atoll("studies", cwd=laptop).stdout


def test_export(laptop):
    one = yaml.safe_load(atoll("export", "s", cwd=laptop).stdout)
    assert one["origin"]["objective"] == 0.95
    atoll("export", "s", "--best", "2", "-o", "out/best.json", cwd=laptop)
    several = json.loads((laptop / "out" / "best.json").read_text())["configurations"]
    assert [c["origin"]["trial"] for c in several] == [2, 0]


@pytest.mark.process
def test_delete_asks(laptop):
    refused = subprocess.run(
        [sys.executable, "-m", "atoll.platform.cli", "delete", "s"],
        cwd=laptop,
        input="n\n",
        text=True,
        capture_output=True,
    )
    assert refused.returncode == 1
    assert (laptop / "atoll-studies" / "s").exists()
    atoll("delete", "s", "--yes", cwd=laptop)
    assert not (laptop / "atoll-studies" / "s").exists()
    assert "does not hold a study named 's'" in atoll("leaderboard", "s", cwd=laptop, code=1).stderr


def test_stop_asks_what_is_running_only(laptop):
    assert "s is not running" in atoll("stop", "s", cwd=laptop, code=1).stderr
    assert "it holds s" in atoll("stop", "other", cwd=laptop, code=1).stderr
    lock = Lock(laptop / "atoll-studies" / "s" / "lock")
    lock.acquire()
    atoll("stop", "s", cwd=laptop)
    assert (laptop / "atoll-studies" / "s" / "stop").exists()
    assert "is running as process" in atoll("delete", "s", "--yes", cwd=laptop, code=1).stderr


def test_delete_leaves_what_is_not_the_studys(laptop):
    (laptop / "atoll-studies" / "s" / "notes.txt").write_text("mine")
    atoll("delete", "s", "--yes", cwd=laptop)
    assert [path.name for path in (laptop / "atoll-studies" / "s").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("there", [{"uid": "another"}, {"uid": None, "name": "another"}, [], None])
def test_delete_and_stop_touch_no_files_of_another_study(laptop, there):
    """The store may be older than what lies in the folder now, or a stranger's."""
    folder = laptop / "atoll-studies" / "s"
    moved = folder.rename(laptop / "elsewhere")
    with closing(Store(f"sqlite:///{laptop}/atoll.db")) as store, store.engine.begin() as connection:
        connection.execute(sa.text("update study set folder = :folder"), {"folder": str(moved)})
    if there is None:
        (moved / "study.json").unlink()
    else:
        (moved / "study.json").write_text(json.dumps(there))
        lock = Lock(moved / "lock")
        lock.acquire()  # that study is running, which is no reason to keep the store's
        assert "holds another study than the store's s" in atoll("stop", "s", cwd=laptop, code=1).stderr
    before = set(moved.rglob("*"))
    out = atoll("delete", "s", "--yes", cwd=laptop).stdout
    assert f"deleted s, and no files, as {moved} has none of this study" in out
    assert set(moved.rglob("*")) == before
    assert atoll_json("studies", cwd=laptop) == []


def test_deleting_a_benchmark_leaves_another_ones_studies_in_its_folder(tmp_path):
    folder = BenchmarkFolder(tmp_path / "b")
    own, other = (journals.start_folder(folder.path / name, benchmark={"uid": name}) for name in ("own", "other"))
    folder.definition.write_text(json.dumps({"name": "b", "uid": "own"}))
    assert folder.is_of("b", "own")
    assert not folder.is_of("b", "other")
    folder.remove()
    assert not own.path.exists()
    assert other.exists()
    assert not folder.exists()


def test_record_fills_a_store_from_a_folder(laptop):
    atoll("record", "atoll-studies/s", "--store", "sqlite:///again.db", cwd=laptop)
    assert len(atoll_json("leaderboard", "s", "--store", "sqlite:///again.db", cwd=laptop)) == 3
    assert "must hold a study" in atoll("record", "nowhere", cwd=laptop, code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("search",), 2, "--method is missing"),
        (("search", "--method", "dado", "--workload", "digits_mlp"), 2, "must be one of ab, admm_consensus"),
        (("search", "none.yaml"), 2, "none.yaml: No such file"),
        (("search", "--method", "ddp", "--workload", "digits_mlp", "--ranks", "0"), 2, "topology.ranks"),
        (("search", "--method", "ddp", "--workload", "spoken_digits_mlp"), 1, "ATOLL_DATA is set"),
        (("train", "none.yaml"), 2, "none.yaml"),
        (("leaderboard",), 1, "there is no store at sqlite:///atoll.db"),
        (("leaderboard", "--top", "0"), 2, "--top"),
        (("methods", "dado"), 2, "method must be one of"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_errors_come_before_anything_starts(tmp_path, arguments, code, message):
    done = atoll(*arguments, cwd=tmp_path, code=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "atoll-studies").exists()


@pytest.mark.parametrize("kind", ["methods", "workloads", "spaces"])
def test_catalogues(kind, tmp_path):
    entries = atoll_json(kind, cwd=tmp_path)
    assert all(entries.values())
    lines = atoll(kind, cwd=tmp_path).stdout.splitlines()
    assert len(lines) == len(entries)
    first = next(iter(entries))
    assert atoll_json(kind, first, cwd=tmp_path)
    assert atoll(kind, first, cwd=tmp_path).stdout


def test_a_workload_tells_the_length_that_counts():
    shown = {name: catalogue.workload(name) for name in ("text_gpt", "digits_mlp")}
    assert [(found["epochs"], found["steps"]) for found in shown.values()] == [(None, 800), (20, None)]


def test_the_schema_is_the_study_models(tmp_path):
    assert atoll_json("study-schema", cwd=tmp_path) == Study.model_json_schema()


def test_a_tally_follows_the_direction_and_leaves_failures_out():
    tally = live_search.Tally("minimize")
    ends = ((0.5, "complete"), (0.2, "complete"), (None, "failed"), (0.3, "complete"))
    for number, (objective, state) in enumerate(ends):
        tally.take(TrialEnded(number=number, attempt=0, state=state, objective=objective))
    assert (tally.incumbent, tally.num_ended, tally.count("complete"), tally.count("failed")) == (0.2, 4, 3, 1)


def test_a_tally_counts_a_trial_that_continues_once():
    tally = live_search.Tally("minimize")
    tally.take(TrialEnded(number=0, attempt=0, state="pruned"))
    tally.take(TrialEnded(number=0, attempt=1, state="complete", objective=0.5))
    assert (tally.num_ended, tally.count("pruned"), tally.count("complete")) == (1, 0, 1)


def test_local_times_name_their_zone(laptop, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert "1970-01-01 09:16 JST" in atoll("studies", cwd=laptop).stdout
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_first_failure_of_a_kind_and_what_a_trial_changed_are_told_at_once(tmp_path):
    folder = journals.start_folder(tmp_path / "s")
    out = io.StringIO()
    live = live_search.LiveSearch(Console(file=out, width=200), "s", "accuracy", "maximize", 9)
    lines = JournalWriter(folder.root_journal(0))
    journals.end_trial(lines, 0, None, reason="Old: 1")
    live(folder)  # what happened before a resume
    place = '  File "/home/me/user.py", line 24, in measure\n'
    for number in (1, 2):
        journals.end_trial(lines, number, None, reason=f"ValueError: {number} (rank 0 on h)", traceback=place)
    journals.end_trial(lines, 3, 0.5, notes=["the trial changed the umask from 0022 to 0777; put back", "other"])
    live(folder)
    assert out.getvalue().splitlines()[1:4] == [
        "trial 1 failed: ValueError: 1 (rank 0 on h)",
        "  at /home/me/user.py, line 24, in measure",
        "trial 3: the trial changed the umask from 0022 to 0777; put back",
    ]
    assert "Old" not in out.getvalue()


@pytest.mark.slow
def test_a_search_all_of_whose_trials_fail_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("RAISED", "base")
    study = {"name": "s", "workload": f"{SUPPORT / 'raising.py'}:Raising", "method": "local_sgd", "trials": 2}
    study |= {"space": {"batch_size": 2}, "check": False}
    (tmp_path / "s.json").write_text(json.dumps(study))
    done = atoll("search", "s.json", "--outside", "--in-process", cwd=tmp_path, code=1)
    assert "failed: 2 failed" in done.stdout
    assert "all 2 trials failed\n2 failed trials, by reason:\n" in done.stdout
    shown = atoll("failures", "s", cwd=tmp_path).stdout
    assert "2 trials, first trial 0: OwnBaseError: b (rank 0 on " in shown
    assert f"    at {SUPPORT / 'raising.py'}, line " in shown
    assert "a traceback: atoll failures s --trial 0" in shown
    assert "raise error" in atoll("failures", "s", "--trial", "1", cwd=tmp_path).stdout
    assert atoll_json("failures", "s", cwd=tmp_path)["kinds"][0]["count"] == 2
    assert "has no trial 7" in atoll("failures", "s", "--trial", "7", cwd=tmp_path, code=1).stderr


TIMES = """method,workload,study,trial,evaluation,seconds
x,a,0,0,1,10
x,a,1,0,1,11
y,a,0,0,1,20
y,a,1,0,1,21
y,b,0,0,1,5
y,b,1,0,1,5
x,b,0,0,1,
x,b,1,0,1,inf
"""


CLOSED = """
import os, sys
from atoll.platform import cli

def app():
    file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    print("to standard output", flush=True)
    sys.stderr.flush()
    sys.exit(0 if file > 2 and os.fstat(0) else 1)

cli.app = app
cli.main()
"""


@pytest.mark.process
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_command_that_is_started_without_standard_streams_mixes_them_with_no_file(tmp_path, closed):
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", CLOSED, tmp_path / "file"]
    assert subprocess.run(command).returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_score(tmp_path):
    """x: 10.5 and infinite, y: 20.5 and 5; ratios 1 and inf, 41/21 and 1."""
    (tmp_path / "times.csv").write_text(TIMES)
    found = atoll_json("score", "times.csv", cwd=tmp_path)
    assert found["workloads"] == ["a", "b"]
    assert {row["method"]: (row["rank"], row["score"]) for row in found["methods"]} == {
        "y": (1, pytest.approx((4 - 41 / 21 + 3) / 6)),
        "x": (2, pytest.approx(0.5)),
    }
    assert "y is first: its interval overlaps with no other" in atoll("score", "times.csv", cwd=tmp_path).stdout
    held_out = atoll_json("score", "times.csv", "--variants", "a=b", cwd=tmp_path)
    assert {row["method"]: row["score"] for row in held_out["methods"]} == {"y": 1.0, "x": 0.0}
    done = atoll("score", "times.csv", "--variants", "a=c", cwd=tmp_path, code=2)
    assert "no trial has the workload c; there are a, b" in done.stderr


def test_the_share_of_training_data_to_evaluate_is_checked(tmp_path):
    flags = ("--method", "ddp", "--workload", "digits_mlp", "--trials", "1", "--evaluate-train", "2")
    assert "evaluate_train" in atoll("search", *flags, cwd=tmp_path, code=2).stderr
    (tmp_path / "c.yaml").write_text("workload: digits_mlp\nmethod: ddp\nhyperparameters: {}\n")
    done = atoll("train", "c.yaml", "--evaluate-train", "0", cwd=tmp_path, code=2)
    assert "--evaluate-train must be a share above 0 and at most 1; got 0" in " ".join(done.stderr.split())


def test_an_error_that_only_the_resolved_study_shows_names_its_file(tmp_path):
    (tmp_path / "s.yaml").write_text("name: s\nmethod: ddp\nworkload: digits_mlp\nspace: {learnin_rate: 0.1}\n")
    done = atoll("search", "s.yaml", cwd=tmp_path, code=2)
    assert done.stderr.startswith("error: s.yaml: ddp has no hyperparameter learnin_rate; valid are ")
