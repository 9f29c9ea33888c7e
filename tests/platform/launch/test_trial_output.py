"""Over MPI, what each trial prints is told from what others print, and blame still finds who died."""

import pytest
import ranks
import yaml
from commands import STABLE, atoll, called, called_json
from ranks import SUPPORT

import atoll as public
from atoll.storage.folder import StudyFolder

LINES = sorted(["from python", "from stderr", "from a library", "from a process"])


def write(folder, **content):
    study = {
        "name": "s", "workload": f"{SUPPORT / 'printing.py'}:Printing", "method": "local_sgd", "epochs": 1, "trials": 4,
        "space": STABLE, "topology": {"ranks": 2, "workers": 1, "device": "cpu"}, "check": False,
    }  # fmt: skip
    (folder / "s.yaml").write_text(yaml.safe_dump(study | content))


def printed(folder, number, attempt=0):
    """The lines of each rank."""
    outputs = called_json("logs", "s", str(number), "--attempt", str(attempt), cwd=folder)
    return {output["rank"]: sorted(output["text"].splitlines()) for output in outputs}


@pytest.mark.mpi
@pytest.mark.long
@pytest.mark.parametrize("isolate", ["restore", "process"])
def test_each_trial_has_its_ranks_output(tmp_path, isolate):
    write(tmp_path, isolate=isolate)
    atoll("search", "s.yaml", "--outside", cwd=tmp_path)
    for number in range(4):
        assert printed(tmp_path, number) == {0: LINES, 1: LINES}
    folder = StudyFolder(tmp_path / "atoll-studies" / "s")
    assert "from" not in folder.log.read_text()
    with public.open(tmp_path / "atoll.db") as results:
        assert results.study("s").output(2).count("from python") == 2
    text = called("logs", "s", cwd=tmp_path).stdout
    assert text.count("from python\n") == 8
    assert called("logs", "s", "--follow", cwd=tmp_path).stdout.count("from python\n") == 8


@pytest.mark.mpi
@pytest.mark.long
def test_a_rank_that_dies_leaves_its_last_words_and_is_blamed(tmp_path):
    write(tmp_path, max_restarts=2, topology={"ranks": 1, "workers": 2, "device": "cpu"})
    # The second trial of a process aborts; the ranks are started again, and go on with what was lost.
    atoll("search", "s.yaml", "--outside", cwd=tmp_path, env={"ABORT": "2"})
    trials = called_json("table", "s", cwd=tmp_path)
    lost = [(trial["trial"], trial["attempt"]) for trial in trials if trial["state"] == "lost"]
    assert lost
    assert "last words" in [line for key in lost for lines in printed(tmp_path, *key).values() for line in lines]
    folder = StudyFolder(tmp_path / "atoll-studies" / "s")
    assert "last words" not in folder.log.read_text()
    assert "PID" in folder.log.read_text()  # mpiexec's message, which names the process that died


@pytest.mark.mpi
@pytest.mark.long
def test_inside_someones_own_mpirun_trials_print_into_the_same_logs(tmp_path):
    write(tmp_path, trials=2)
    arguments = ("-m", "atoll.platform.cli", "search", "s.yaml", "--outside")
    done = ranks.mpiexec(2, *arguments, env={"ATOLL_STORE": f"sqlite:///{tmp_path}/atoll.db"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert printed(tmp_path, 0) == {0: LINES, 1: LINES}
    assert "from python" not in done.stdout
