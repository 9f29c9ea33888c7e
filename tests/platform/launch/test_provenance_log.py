"""A resumed study goes on with the code, data and libraries that it was started with, or says what has changed."""

import json

import journals
import own_code
import pytest
import yaml
from commands import called, called_json

from atoll.platform.launch import lifecycle, provenance_log
from atoll.platform.launch.errors import LaunchError
from atoll.platform.study import provenance
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage import yamlfile
from atoll.storage.events import ProvenanceRecorded, StudyStarted
from atoll.storage.journal import JournalWriter
from atoll.storage.launches import launchers_events
from atoll.storage.store import Store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    own_code.write(tmp_path, monkeypatch, folder="run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(folder, *, resuming=False, **options):
    plan = Plan.of(yamlfile.load(folder / "s.yaml", Study))
    return lifecycle.prepare(plan, f"sqlite:///{folder}/atoll.db", resuming=resuming, **options).folder


def other_torch(monkeypatch):
    known = provenance._version
    monkeypatch.setattr(provenance, "_version", lambda name: "9.9.9" if name == "torch" else known(name))


def recorded(files):
    return [event for event in launchers_events(files.journals) if isinstance(event, ProvenanceRecorded)]


def started_versions(files):
    return [event.provenance for event in launchers_events(files.journals) if isinstance(event, StudyStarted)]


def test_a_start_records_texts_hashes_and_versions(folder):
    files = prepare(folder)
    content = json.loads(files.provenance_version(1).read_text())
    assert content["changes"] == []
    code = content["record"]["measured"]["code"]
    assert {path.rpartition("/")[2] for path in code} == {"w.py", "helper.py"}
    for path, sha256 in code.items():
        assert files.source(sha256).read_text() == (folder / path).read_text()
    (event,) = recorded(files)
    assert (event.version, event.record, event.sha256) == (1, content["record"], content["sha256"])
    assert started_versions(files) == [1]


def test_a_resume_without_a_change_records_nothing(folder, caplog):
    files = prepare(folder)
    prepare(folder, resuming=True)
    assert len(recorded(files)) == 1
    assert started_versions(files) == [1, 1]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda folder, _: (folder / "helper.py").write_text("SHIFT = 0.2\n"), "helper.py changed (sha256 "),
        (lambda folder, _: (folder / "data/x.txt").write_text("0.65\n"), "data x.txt changed (4 → 5 bytes)"),
        (lambda _, monkeypatch: other_torch(monkeypatch), " → 9.9.9"),
    ],
    ids=["code", "data", "library"],
)
def test_a_change_of_what_is_measured_is_refused_unless_accepted(folder, monkeypatch, caplog, change, phrase):
    files = prepare(folder)
    before = {path: path.read_bytes() for path in files.path.rglob("*") if path.is_file()}
    change(folder, monkeypatch)
    with pytest.raises(LaunchError) as refused:
        prepare(folder, resuming=True)
    assert phrase in str(refused.value)
    assert "--accept-changes" in str(refused.value)
    assert {path: path.read_bytes() for path in files.path.rglob("*") if path.is_file()} == before
    prepare(folder, resuming=True, accept_changes=True)
    assert phrase in caplog.text
    first, second = recorded(files)
    assert (second.version, len(second.changes), phrase in second.changes[0]) == (2, 1, True)
    assert first.sha256 != second.sha256
    assert json.loads(files.provenance_version(2).read_text())["changes"] == second.changes
    prepare(folder, resuming=True)
    assert started_versions(files) == [1, 2, 2]


def test_a_change_that_does_not_measure_is_told_and_recorded(folder, monkeypatch, caplog):
    files = prepare(folder)
    monkeypatch.setattr(provenance.platform, "python_version", lambda: "3.99.0")
    prepare(folder, resuming=True)
    assert "→ 3.99.0" in caplog.text
    assert [event.version for event in recorded(files)] == [1, 2]


def test_a_study_without_a_record_says_so_once_and_is_recorded_from_then_on(folder, caplog):
    files = prepare(folder)
    for path in files.provenance.glob("*.json"):
        path.unlink()
    files.launcher_journal().unlink()
    with caplog.at_level("WARNING"):
        prepare(folder, resuming=True)
    assert caplog.text.count("without a record of its code, data and versions") == 1
    assert [event.version for event in recorded(files)] == [1]
    (folder / "helper.py").write_text("SHIFT = 0.2\n")
    with pytest.raises(LaunchError, match=r"helper\.py changed"):
        prepare(folder, resuming=True)


def test_what_an_interrupted_start_left_out_is_completed(folder):
    files = prepare(folder)
    files.launcher_journal().unlink()  # the launcher died before its first line
    prepare(folder, resuming=True)
    prepare(folder, resuming=True)
    assert [event.version for event in recorded(files)] == [1]


def test_a_study_that_lacks_only_its_end_needs_no_code(folder):
    files = prepare(folder)
    lines = JournalWriter(files.root_journal(0))
    for number in range(2):
        journals.start_trial(lines, number)
        journals.end_trial(lines, number, 0.5)
    lines.close()
    (folder / "helper.py").write_text("SHIFT = 0.2\n")
    prepare(folder, resuming=True)
    assert [event.version for event in recorded(files)] == [1]


def test_a_record_that_cannot_be_read_is_named(folder):
    files = prepare(folder)
    files.provenance_version(1).write_text('{"record": 3}')
    with pytest.raises(LaunchError, match=r"provenance/1\.json must be a record"):
        prepare(folder, resuming=True)


def test_files_that_change_during_a_search_are_told_without_loading_code(folder):
    files = prepare(folder)
    data = str(folder / "data")
    assert provenance_log.changed_files(files, data) == []
    (folder / "helper.py").unlink()
    (folder / "data/x.txt").write_text("0.65\n")
    assert provenance_log.changed_files(files, data) == [
        "helper.py is no longer used",
        "data x.txt changed (4 → 5 bytes)",
    ]


def test_the_folder_is_removed_with_its_record(folder):
    files = prepare(folder)
    files.remove()
    assert not files.path.exists()


@pytest.mark.slow
def test_trials_tell_what_they_were_measured_with(folder):
    search = ("search", "s.yaml", "--in-process")
    called(*search, cwd=folder)
    (folder / "helper.py").write_text("SHIFT = 0.2\n")
    own_code.write_study(folder, folder="run", trials=4)
    refused = called(*search, "--resume", cwd=folder, code=1)
    assert "helper.py changed (sha256 " in refused.stderr
    called(*search, "--resume", "--accept-changes", cwd=folder)
    store = Store(f"sqlite:///{folder}/atoll.db")
    study = store.study("s")
    assert [trial.provenance for trial in store.trials(study)] == [1, 1, 2, 2]
    assert [row.version for row in store.provenances(study)] == [1, 2]

    shown = called("leaderboard", "s", cwd=folder).stdout
    assert "provenance" in shown
    assert "measured with 2 versions of code, data or libraries" in shown
    assert {trial["provenance"] for trial in called_json("leaderboard", "s", cwd=folder)} == {1, 2}
    described = called("studies", "s", cwd=folder).stdout
    for words in ("0.001 to 1, log", "sampler: random", "helper.py (sha256 ", "x.txt (4 B, sha256 ", "torch 2."):
        assert words in described
    assert "provenance 1, since" in described
    assert "2 ended trials\n    helper.py changed (sha256 " in described
    content = called_json("studies", "s", cwd=folder)
    assert [version["num_trials"] for version in content["provenance"]] == [2, 2]
    assert content["counts"] == {"complete": 4}

    for path in (folder / "run/journals").glob("*.jsonl"):  # the journals have all of it
        assert path.exists()
    called("record", "run", "--store", "sqlite:///again.db", cwd=folder)
    again = Store(f"sqlite:///{folder}/again.db")
    rebuilt = again.provenances(again.study("s"))
    assert [(row.version, row.sha256) for row in rebuilt] == [
        (row.version, row.sha256) for row in store.provenances(study)
    ]


def test_accepting_needs_resuming(folder):
    refused = called("search", "s.yaml", "--accept-changes", cwd=folder, code=2)
    assert "--accept-changes needs --resume" in refused.stderr


def test_a_study_older_than_records_is_described(tmp_path):
    files = journals.start_folder(tmp_path / "run")
    journals.write_study(files, [0.5])
    called("record", str(files.path), cwd=tmp_path)
    assert "s has no record of its code, data and versions" in called("studies", "s", cwd=tmp_path).stdout


def test_a_strange_record_in_a_store_does_no_harm(tmp_path):
    files = journals.start_folder(tmp_path / "run")
    journals.write_study(files, [0.5])
    lines = JournalWriter(files.launcher_journal())
    lines.append(ProvenanceRecorded(version=1, sha256="a", record={"measured": 3, "space": []}, changes=["c"]))
    lines.close()
    called("record", str(files.path), cwd=tmp_path)
    assert "cannot be read; --json shows it" in called("studies", "s", cwd=tmp_path).stdout
    assert yaml.safe_load(called("export", "s", cwd=tmp_path).stdout)["workload"] == "digits_mlp"
