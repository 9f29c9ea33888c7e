"""Jobs and chains of them in the fake Slurm, with a double in place of the search."""

import json
import os
import signal
import subprocess
import threading
from contextlib import closing

import fake_slurm
import pytest
from batch_files import with_double, write
from commands import called, called_json, wait_until
from journals import event

from atoll.platform.batch import chain, listing
from atoll.platform.batch.records import Meta, Submission, Submitted
from atoll.platform.batch.systems import SYSTEMS, Slurm
from atoll.platform.launch.errors import LaunchError
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter

pytestmark = pytest.mark.process


@pytest.fixture
def here(tmp_path, slurm, monkeypatch):
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def submitted(here, search, *options, **batch):
    """The ids of the jobs, whose searches run these lines; $N is the number of searches so far."""
    write(here, venv=with_double(here, f"N=$(wc -l <{here}/searched)\n{search}"), stop_seconds=5, **batch)
    command = ("submit", "study.yaml", "--cluster", "cluster.yaml", "--time", "60s", *options)
    return called_json(*command, cwd=here)["jobs"]


def searched(here):
    return (here / "searched").read_text().splitlines()


def folder(here):
    return StudyFolder(here / "atoll-studies" / "s")


def states(here):
    return {row["id"]: (row["state"], row["code"]) for row in called_json("jobs", "s", cwd=here)}


def log(here, job):
    return Submission(folder(here).jobs / "1").log(job).read_text()


def test_a_chain_ends_when_the_study_is_done(here, slurm):
    jobs = submitted(here, "[ $N -lt 2 ] && exit 75; exit 0", "--chain", "4")
    slurm.wait(*jobs)
    assert [slurm.jobs()[job]["exit"] for job in jobs] == ["75:0", "0:0", "0:0", "0:0"]
    assert searched(here) == [f"search {here}/study.yaml --continue"] * 2
    first, second, *rest = jobs
    assert states(here) == {first: ("ended", 75), second: ("ended", 0), **dict.fromkeys(rest, ("canceled", None))}
    assert "job 2 of at most 4" in log(here, second)
    printed = called("jobs", "s", cwd=here).stdout
    assert "ended: 75" in printed
    assert f" jobs/1/{second}.log" in printed
    assert f"logs are in {folder(here).path}\n" in printed


def test_slurm_cancels_what_a_job_cannot(here, slurm):
    """Of the jobs that follow one that was canceled, none searches."""
    (here / "bin").mkdir()
    (here / "bin/scancel").write_text("#!/bin/sh\nexit 1\n")
    (here / "bin/scancel").chmod(0o755)
    jobs = submitted(here, "exit 0", "--chain", "3", setup=[f"export PATH={here}/bin:$PATH"])
    slurm.wait(*jobs)
    first, second, third = jobs
    assert states(here) == {first: ("ended", 0), second: ("canceled", None), third: ("ended", 75)}
    assert slurm.jobs()[second]["reason"] == "DependencyNeverSatisfied"
    assert len(searched(here)) == 1


def test_a_chain_ends_when_the_search_has_failed(here, slurm):
    jobs = submitted(here, "exit 1", "--chain", "3")
    slurm.wait(*jobs)
    assert [row[0] for row in states(here).values()] == ["ended", "canceled", "canceled"]
    assert states(here)[jobs[0]] == ("ended", 1)


def test_a_chain_survives_a_job_that_is_killed_and_one_that_is_requeued(here, slurm):
    jobs = submitted(
        here, "echo begun; [ $N = 4 ] && exit 0; trap 'exit 75' USR1; while true; do sleep 0.05; done", "--chain", "4"
    )
    first, second, third, fourth = jobs
    wait_until(lambda: len(searched(here)) == 1 if (here / "searched").exists() else False)
    os.kill(slurm.jobs()[first]["pid"], signal.SIGKILL)
    wait_until(lambda: len(searched(here)) == 2)
    wait_until(lambda: states(here)[second] == ("running", None))
    slurm.call("scontrol", "requeue", second)
    wait_until(lambda: len(searched(here)) == 3)
    wait_until(lambda: states(here)[second] == ("running", None))
    slurm.call("scancel", "--batch", "--signal=USR1", second)
    slurm.wait(*jobs)
    assert states(here) == {
        first: ("killed", None), second: ("ended", 75), third: ("ended", 0), fourth: ("canceled", None)
    }  # fmt: skip
    assert "started for time 2" in log(here, second)
    assert log(here, second).count("begun") == 2  # nothing is overwritten


def test_the_time_limit_is_told_to_the_search_in_time(here, slurm):
    double = "trap 'echo asked; exit 75' USR1; while true; do sleep 0.05; done"
    write(here, venv=with_double(here, double), stop_seconds=4)
    (job,) = called_json("submit", "study.yaml", "--cluster", "cluster.yaml", "--time", "9s", cwd=here)["jobs"]
    slurm.wait(job)
    assert slurm.jobs()[job]["exit"] == "75:0"
    assert "asked" in log(here, job)


def test_jobs_submit_the_next_one_until_the_study_is_done(here, slurm):
    """Progress is made by the third search only after the second, so the fourth would not be the last one."""
    progress = f'mkdir -p {here}/atoll-studies/s/trials/00000$N; echo \'{{"step": 1, "training": {{}}}}\' '
    progress += f">{here}/atoll-studies/s/trials/00000$N/checkpoint.json; [ $N -lt 3 ] && exit 75; exit 0"
    (first,) = submitted(here, progress, "--until-done")
    wait_until(lambda: (here / "searched").exists() and len(searched(here)) == 3)
    slurm.wait()
    assert [row[1] for row in states(here).values()] == [75, 75, 0, None]
    assert [row[0] for row in states(here).values()][-1] == "canceled"
    assert "will go on, unless" in log(here, first)


def test_no_job_follows_one_without_progress(here, slurm):
    (first,) = submitted(here, "exit 75", "--until-done")
    wait_until(lambda: len(states(here)) == 2 and all(state == "ended" for state, _ in states(here).values()))
    slurm.wait()
    (_, second) = states(here)
    assert states(here) == {first: ("ended", 75), second: ("ended", 1)}
    assert f"{first}, made no progress" in log(here, second)
    assert len(searched(here)) == 1


def test_what_counts_as_progress(tmp_path):
    """Results and steps of checkpoints; not trials that a stop has lost, which every job has."""
    here = StudyFolder(tmp_path)
    here.create()
    trial = {"number": 0, "attempt": 0}
    writing = {"trial_ended": trial | {"state": "lost"}, "trial_lost": trial | {"reason": "stopped"}}
    with closing(JournalWriter(here.launcher_journal())) as lines:
        for name, fields in writing.items():
            lines.append(event(name, fields))
        assert chain.progress(here) == (0, 0)
        lines.append(event("trial_ended", trial | {"state": "failed"}))
    here.trial(3).path.mkdir(parents=True)
    here.trial(3).manifest.write_text(json.dumps({"step": 7, "training": {}}))
    assert chain.progress(here) == (1, 7)
    assert chain.progress(StudyFolder(tmp_path / "none")) == (0, 0)


@pytest.mark.parametrize("code", [0, 1, 2, 9, 75, 127, 137])
def test_which_codes_let_a_chain_go_on(code):
    """9 is a killed rank under MPICH's mpiexec, 137 under srun."""
    assert chain.goes_on(code) == (code in (9, 75, 137))


def test_a_study_whose_jobs_wait_is_not_deleted(here, slurm):
    """They would start it anew."""
    submitted(here, "trap 'exit 75' USR1; touch begun; while true; do sleep 0.05; done", "--chain", "2")
    with pytest.raises(LaunchError, match="end them with `atoll stop s` first"):
        listing.check_none_waits(folder(here), "s")
    wait_until((here / "begun").exists)
    called("stop", "s", cwd=here)
    slurm.wait()
    listing.check_none_waits(folder(here), "s")


def test_an_array_is_one_submission_of_several_jobs(here, slurm):
    (array,) = submitted(here, "exit 0", "--array", "3")
    slurm.wait()
    assert states(here) == {f"{array}_{number}": ("ended", 0) for number in (1, 2, 3)}
    assert len(searched(here)) == 3


def test_chains_side_by_side(here, slurm):
    jobs = submitted(here, "[ $N -lt 4 ] && exit 75; exit 0", "--array", "2", "--chain", "3")
    assert len(jobs) == 6
    slurm.wait(*jobs)
    rows = called_json("jobs", "s", cwd=here)
    assert [(row["lane"], row["position"]) for row in rows] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert sorted(str(row["code"]) for row in rows).count("0") == 2
    assert len(searched(here)) >= 4


@pytest.mark.parametrize("chain_option", [("--chain", "3"), ("--until-done",)], ids=["chain", "until-done"])
def test_stop_cancels_what_waits_and_stops_what_runs(here, slurm, chain_option):
    jobs = submitted(here, "trap 'exit 75' USR1; touch begun; while true; do sleep 0.05; done", *chain_option)
    wait_until((here / "begun").exists)
    said = called_json("stop", "s", cwd=here)
    slurm.wait()
    assert said["asked_jobs"] == jobs[:1]
    assert len(said["canceled_jobs"]) == (2 if len(jobs) == 3 else 1)
    assert [row[1] for row in states(here).values()] == [75, *[None] * len(said["canceled_jobs"])]
    assert len(searched(here)) == 1
    assert Submission(folder(here).jobs / "1").stopped.exists()
    assert "not running" in called("stop", "s", cwd=here, code=1).stderr


def test_a_job_that_starts_after_the_stop_does_not_search(here, slurm):
    """As its queue could not be reached, for instance."""
    submission = Submission(folder(here).jobs / "1")
    submission.path.mkdir(parents=True)
    submission.write(Meta("s", str(folder(here).path), "slurm", 3, 1), "#!/bin/bash\n")
    submission.add(Submitted("7"))
    submission.stopped.touch()
    assert chain.start(submission, "7") == 75
    assert submission.runs()["7"][1].code == 75


def test_jobs_of_a_deleted_study_do_not_start_it_anew(here, capsys):
    assert chain.start(Submission(folder(here).jobs / "1"), "7") == 1
    assert "the study was deleted" in capsys.readouterr().err


def test_what_follows_a_canceled_or_failed_job_does_not_search(here, capsys):
    """Where the job before could not cancel it."""
    submission = Submission(folder(here).jobs / "1")
    submission.path.mkdir(parents=True)
    submission.write(Meta("s", str(folder(here).path), "slurm", 4, 1), "#!/bin/bash\n")
    submission.add(Submitted("7"))
    for position, (job, before) in enumerate((("8", "7"), ("9", "8")), start=2):
        submission.add(Submitted(job, position, previous=before))
    assert chain.start(submission, "8") == 75
    assert "was canceled before it started" in capsys.readouterr().err
    submission.start("8", None)
    submission.end("8", 2)
    assert chain.start(submission, "9") == 2
    assert "ended with code 2" in capsys.readouterr().err


def test_where_no_job_can_be_submitted_from_a_job_it_says_so(here, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    submission = Submission(folder(here).jobs / "1")
    submission.path.mkdir(parents=True)
    submission.write(Meta("s", str(folder(here).path), "slurm", None, 1), "#!/bin/bash\n")
    submission.add(Submitted("7"))
    assert chain.start(submission, "7") == 0
    assert "no job follows this one" in (said := capsys.readouterr().err)
    assert "with --chain N" in said


def until_done(here):
    submission = Submission(folder(here).jobs / "1")
    submission.path.mkdir(parents=True)
    submission.write(Meta("s", str(folder(here).path), "slurm", None, 1), "#!/bin/bash\n")
    submission.add(Submitted("7"))
    return submission


def test_a_job_that_starts_again_has_one_successor(here, capsys):
    submission = until_done(here)
    submission.add(Submitted("8", 2, previous="7"))
    assert [chain.start(submission, "7"), chain.start(submission, "7")] == [0, 0]
    assert [job.id for job in submission.submitted()] == ["7", "8"]
    assert capsys.readouterr().err == ""


def test_a_job_that_is_submitted_while_the_chain_is_stopped_is_canceled(here, monkeypatch):
    """`atoll stop` has listed the jobs before this one was recorded."""
    submission, canceled = until_done(here), []

    class StoppedMeanwhile(Slurm):
        def submit(self, script, after):
            submission.stopped.touch()
            return "8"

        def cancel(self, jobs):
            canceled.extend(jobs)

    monkeypatch.setitem(SYSTEMS, "slurm", StoppedMeanwhile())
    assert chain.start(submission, "7") == 0
    assert canceled == ["8"]


def test_a_job_may_start_before_it_is_recorded(here, monkeypatch):
    """Its place in the chain is known once it is; one that somebody submits by hand has none."""
    submission = Submission(folder(here).jobs / "1")
    submission.path.mkdir(parents=True)
    submission.write(Meta("s", str(folder(here).path), "slurm", 3, 2), "#!/bin/bash\n")
    threading.Timer(0.5, submission.add, [Submitted("7", 1, lane=2)]).start()
    submission.add(Submitted("8", 2, lane=2, previous="7"))
    canceled = []
    monkeypatch.setattr(Slurm, "cancel", lambda _self, jobs: canceled.extend(jobs))
    assert chain.start(submission, "7") == 0
    chain.end(submission, "7", 0)
    assert canceled == ["8"]
    monkeypatch.setattr(chain, "RECORDED_WITHIN", 0.1)
    assert chain.start(submission, "99") == 0
    chain.end(submission, "99", 1)
    assert canceled == ["8"]


def test_a_refused_job_leaves_nothing_and_a_later_one_is_told(here, slurm):
    write(here, partition="gpu")
    said = called("submit", "study.yaml", "--cluster", "cluster.yaml", cwd=here, code=2).stderr
    assert "Invalid partition name specified" in said
    assert not list(folder(here).jobs.iterdir())
    with fake_slurm.running(max_jobs=2) as small:
        environment = {name: os.environ[name] for name in small.environment}
        os.environ.update(small.environment)
        try:
            write(here, venv=with_double(here, "sleep 60"))
            command = ("submit", "study.yaml", "--cluster", "cluster.yaml", "--chain", "3")
            said = called(*command, cwd=here, code=2).stderr
            assert "the first 2 jobs were submitted, and can be canceled by `atoll stop s`; the next one failed" in said
            assert "job submit limit" in said
            assert len(called_json("stop", "s", cwd=here)["canceled_jobs"]) >= 1
        finally:
            os.environ.update(environment)


def test_a_job_is_not_told_the_settings_of_the_job_that_submits_it(here, slurm, monkeypatch):
    """Slurm exports the environment of sbatch."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    jobs = submitted(here, f"env | grep ^SLURM >{here}/environment; exit 0")
    slurm.wait(*jobs)
    environment = (here / "environment").read_text()
    assert "SLURM_NTASKS=2\n" in environment
    assert "SLURM_CPUS_PER_TASK" not in environment
    assert "SLURM_RESTART_COUNT" not in environment


def test_jobs_of_a_batch_system_that_is_away(here, slurm, monkeypatch):
    (job,) = submitted(here, "trap 'exit 75' USR1; touch begun; while true; do sleep 0.05; done")
    wait_until((here / "begun").exists)
    with monkeypatch.context() as away:
        away.setenv("PATH", "/usr/bin:/bin")
        assert states(here) == {job: ("unknown", None)}
        assert "squeue is not on the PATH" in called("jobs", "s", cwd=here).stderr
    called("stop", "s", cwd=here)
    slurm.wait(job)


def test_nothing_is_submitted_by_a_dry_run(here):
    write(here)
    printed = called("submit", "study.yaml", "--cluster", "cluster.yaml", "--dry-run", cwd=here).stdout
    assert printed.startswith("#!/bin/bash\n#SBATCH --job-name=s\n")
    assert not folder(here).path.exists()
    checked = subprocess.run(["bash", "-n"], input=printed, text=True, capture_output=True)
    assert checked.stderr == ""


@pytest.mark.parametrize(
    ("options", "study", "said"),
    [
        (("--chain", "0"), {}, "--chain must be between 1 and 1000 jobs; got 0"),
        (("--array", "0"), {}, "--array must be between 1 and 1000 jobs; got 0"),
        (("--chain", "2", "--until-done"), {}, "exclude each other"),
        (("--time", "4:00"), {}, "--time: a time limit must be"),
        (("--time", "1m"), {}, "longer than batch.stop_seconds"),
        (("--nodes", "3"), {}, "--nodes must be between 1 and 2"),
        ((), {"method": "dpp"}, "dpp"),
        ((), {"space": {"learning_rate": {"low": 1.0, "high": 0.1}}}, "space"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(here, slurm, options, study, said):
    write(here, study)
    before = len(slurm.jobs())
    told = called("submit", "study.yaml", "--cluster", "cluster.yaml", *options, cwd=here, code=2).stderr
    assert said in told
    assert len(slurm.jobs()) == before
    assert not folder(here).path.exists()


def test_what_a_jobs_end_may_cost_is_told(here, slurm):
    write(here, {"stop_grace": 200.0}, venv=with_double(here, "exit 0"))
    said = called("submit", "study.yaml", "--cluster", "cluster.yaml", "--chain", "2", cwd=here).stderr
    assert "has no `checkpoint`" in said
    assert "stop_grace of 200 s" in said
    slurm.wait()


def test_a_password_is_in_no_printed_script(here):
    write(here)
    url = "postgresql://me:secret@db/atoll"
    printed = called("submit", "study.yaml", "--cluster", "cluster.yaml", "--store", url, "--dry-run", cwd=here).stdout
    assert "secret" not in printed
    assert "export ATOLL_STORE=" in printed


def test_records_of_a_job_are_read_by_others_while_it_runs(here):
    submission = Submission(here)
    assert submission.start("5[2].server", (1, 2)) == 1
    submission.end("5[2].server", 75)
    assert submission.start("5[2].server", None) == 2
    runs = submission.runs()["5[2].server"]
    assert (runs[1].code, runs[1].progress, runs[2].code) == (75, (1, 2), None)
    with pytest.raises(ValueError, match="letters, digits"):
        submission.end("../x", 0)
    assert json.loads((here / "5[2].server.1.ended.json").read_text())["code"] == 75
