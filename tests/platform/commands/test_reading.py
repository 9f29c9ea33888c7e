"""`atoll table`, `trial`, `logs`, `report` of a study, and what `export` writes."""

import csv
import io
import json
import threading

import boards
import journals
import pytest
from commands import called, called_json

from atoll.storage import rank_logs
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter
from atoll.storage.lock import Lock


@pytest.fixture
def folder(tmp_path):
    boards.study(tmp_path, [0.5, None, 0.7, 0.6]).close()
    return tmp_path


def write_log(folder, rank, *parts, mode="ab"):
    with StudyFolder(folder / "study-0").rank_log(rank).open(mode) as file:
        for part in parts:
            file.write(part if isinstance(part, bytes) else rank_logs.heading(part[:2], part[2]))


def test_a_table_on_standard_output_or_in_a_file(folder):
    rows = list(csv.DictReader(io.StringIO(called("table", cwd=folder).stdout)))
    assert [(row["trial"], row["state"]) for row in rows] == [
        ("0", "complete"), ("1", "failed"), ("2", "complete"), ("3", "complete"),
    ]  # fmt: skip
    assert called("table", "s", "-o", "out/t.csv", cwd=folder).stdout == "wrote out/t.csv: 4 rows\n"
    assert list(csv.DictReader((folder / "out" / "t.csv").open())) == rows
    called("table", "s", "--curves", "-o", "c.json", cwd=folder)
    assert len(json.loads((folder / "c.json").read_text())) == 12
    assert called_json("table", "s", "--curves", cwd=folder) == json.loads((folder / "c.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("table", "s", "-o", "t.xlsx"), "must end in .csv, .parquet, .json; got 't.xlsx'"),
        (("export", "s", "-o", "best.txt"), "must end in .yaml, .yml, .json; got 'best.txt'"),
        (("export", "s", "-o", "best"), "must end in .yaml, .yml, .json; got 'best'"),
        (("logs", "s", "--attempt", "1"), "--attempt needs a TRIAL"),
        (("logs", "s", "--follow", "--json"), "--follow prints text as it comes: omit --json"),
    ],
)
def test_what_cannot_be_written_is_refused(folder, arguments, told):
    before = set(folder.rglob("*"))
    assert told in called(*arguments, cwd=folder, code=2).stderr
    assert {path for path in folder.rglob("*") if path.suffix not in (".db-shm", ".db-wal")} <= before


def test_an_export_of_fewer_trials_says_so(folder):
    done = called("export", "s", "--best", "99", "-o", "best.yaml", cwd=folder)
    assert done.stderr == "s has 3 complete trials, fewer than --best 99; the export has all of them\n"
    assert done.stdout == "wrote best.yaml\n"
    assert called("export", "s", "--best", "3", cwd=folder).stderr == ""


def test_one_trial(folder):
    text = called("trial", "s", "1", cwd=folder).stdout
    assert text.startswith("trial 1 of s: failed\n")
    for part in ("learning_rate", "validation loss", "reason: Diverged: <b>", "Traceback: <script>", "method: daso"):
        assert part in text
    assert "output: no log in" in text
    assert "place: 1" in called("trial", "s", "2", cwd=folder).stdout
    found = called_json("trial", "s", "1", cwd=folder)
    assert (found["number"], found["state"], len(found["curve"])) == (1, "failed", 3)
    assert "has no trial 7" in called("trial", "s", "7", cwd=folder, code=1).stderr


def test_a_trial_shows_its_last_output_and_a_part_of_a_long_curve(tmp_path):
    _, lines, recorder = boards.record(tmp_path)
    lines.append(journals.event("host", journals.PLACED))
    journals.start_trial(lines, 0)
    for epoch in range(1, 31):
        journals.report(lines, 0, epoch)
    journals.end_trial(lines, 0, 0.5, notes=["a remark"])
    recorder.catch_up()
    write_log(tmp_path, 0, (0, 0, 1.0), b"".join(b"line %d\n" % number for number in range(50)))
    text = called("trial", "s", "0", cwd=tmp_path).stdout
    assert "curve: 10 of 30 reports" in text
    assert "note: a remark" in text
    assert "output (the last 20 of 51 lines; `atoll logs s 0`):\n  line 30\n" in text
    assert text.endswith("  line 49\n")


def test_logs_tell_who_printed_what(folder):
    assert called("logs", "s", cwd=folder).stdout == "s has printed nothing\n"
    assert "no log in" in called("logs", "s", "0", cwd=folder, code=1).stderr
    StudyFolder(folder / "study-0").log.write_text("from mpiexec\n")
    write_log(folder, 0, (0, 0, 1.0), b"a\nb", b"\n", (2, 0, 3.0), b"c\n")
    write_log(folder, 1, (1, 0, 2.0), (2, 0, 3.0), b"d\n")
    assert [line for line in called("logs", "s", cwd=folder).stdout.splitlines() if line and line[:3] != "==>"] == [
        "from mpiexec", "a", "b", "c", "d",
    ]  # fmt: skip
    assert called("logs", "s", "2", cwd=folder).stdout.split("\n") == [
        "==> trial 2, rank 0, 1970-01-01 00:00:03 UTC <==", "c",
        "", "==> trial 2, rank 1, 1970-01-01 00:00:03 UTC <==", "d", "",
    ]  # fmt: skip
    assert called("logs", "s", "1", cwd=folder).stdout == "trial 1 has printed nothing\n"
    assert "c\n" not in called("logs", "s", "--rank", "1", cwd=folder).stdout
    outputs = called_json("logs", "s", "2", cwd=folder)
    assert outputs[1] == {"rank": 1, "trial": 2, "attempt": 0, "started": 3.0, "text": "d\n"}


def test_files_on_another_host_are_told(folder):
    (folder / "study-0").rename(folder / "elsewhere")
    assert "s has no files in" in called("logs", "s", cwd=folder, code=1).stderr
    assert "output: s has no files in" in called("trial", "s", "0", cwd=folder).stdout


def test_following_ends_with_the_study(tmp_path):
    _, _, recorder = boards.record(tmp_path)
    lock = Lock(tmp_path / "study-0" / "lock")
    lock.acquire()
    write_log(tmp_path, 0, (0, 0, 1.0), b"first\n")
    done = []
    thread = threading.Thread(target=lambda: done.append(called("logs", "s", "--follow", cwd=tmp_path)))
    thread.start()
    try:
        write_log(tmp_path, 0, b"sec")
        write_log(tmp_path, 0, b"ond\n", (1, 0, 2.0), b"third")
        assert not done
    finally:
        launcher = JournalWriter(StudyFolder(tmp_path / "study-0").launcher_journal())
        launcher.append(journals.event("study_ended", {"state": "complete", "reason": None}))
        recorder.catch_up()
        thread.join(30)
        lock.release()
    text = done[0].stdout
    assert [line for line in text.splitlines() if line and line[:3] != "==>"] == ["first", "second", "third"]
    assert text.count("==> trial 0") == 1


def test_following_a_trial_that_has_ended_shows_it_whole(folder):
    write_log(folder, 0, (0, 0, 1.0), b"a\n", (2, 0, 3.0), b"c")
    assert called("logs", "s", "2", "--follow", cwd=folder).stdout.splitlines()[-1] == "c"


def test_the_report_of_a_study(folder):
    called("report", "s", "-o", "s.html", "--csv", "s.csv", cwd=folder)
    assert "Best accuracy: 0.7 in trial 2" in (folder / "s.html").read_text()
    assert (folder / "s.csv").read_text() == called("table", "s", cwd=folder).stdout
    shown = called("report", cwd=folder).stdout  # there is no benchmark
    assert "`atoll report s -o report.html` writes the full report" in shown
    found = called_json("report", "s", cwd=folder)
    assert (found["study"], found["failed"], found["best_trials"][0]["trial"]) == ("s", 1, 2)
    assert set(found["importance"]) == {"B", "learning_rate"}
    assert "does not hold a study named 'b'" in called("report", "b", cwd=folder, code=1).stderr
