"""Job scripts: their directives, and what bash makes of them."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from batch_files import CLUSTER, with_double
from commands import wait_until

from atoll.analysis.cluster import Cluster
from atoll.platform.batch.job import BatchError, Chain, Job, batch_of, limit, spread
from atoll.platform.batch.script import script
from atoll.platform.study.study import Study

NASTY = "a b'$(touch owned)`touch owned`\"\\;&|*"


def made(folder=Path("/w/s/jobs/1"), ranks=8, nodes=2, chain=None, directory=Path("/w"), study="/w/s.yaml", **batch):
    cluster = Cluster(**CLUSTER, batch={"system": "slurm"} | batch)
    return Job(
        name="s",
        batch=cluster.batch,
        nodes=nodes,
        ranks=ranks,
        ranks_per_node=-(-ranks // nodes),
        seconds=14400,
        chain=chain or Chain(),
        study_file=Path(study),
        directory=directory,
        folder=folder,
        programs=Path(batch.get("venv", "/venv")) / "bin",
    )


def head(job):
    prefix = {"slurm": "#SBATCH ", "lsf": "#BSUB "}.get(job.batch.system, "#PBS ")
    return [line.removeprefix(prefix) for line in script(job).splitlines() if line.startswith(prefix)]


ALL = {"partition": "gpu", "account": "p1", "gpus_per_node": 4, "cores_per_node": 64, "options": ["-x y"]}


def test_the_directives_of_slurm():
    assert head(made(**ALL)) == [
        "--job-name=s", "--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=16", "--gpus-per-node=4",
        "--time=4:00:00", "--signal=B:USR1@120", "--requeue", "--output=/w/s/jobs/1/%j.log", "--open-mode=append",
        "--partition=gpu", "--account=p1", "-x y",
    ]  # fmt: skip
    array = head(made(chain=Chain(1, 3)))
    assert "--array=1-3" in array
    assert "--output=/w/s/jobs/1/%A_%a.log" in array


def test_the_directives_of_pbs():
    assert head(made(system="pbs", **ALL)) == [
        "-S /bin/bash", "-N s", "-l select=2:ncpus=64:mpiprocs=4:ngpus=4", "-l place=scatter", "-l walltime=4:00:00",
        "-r y", "-j oe", "-o /w/s/jobs/1/", "-q gpu", "-A p1", "-x y",
    ]  # fmt: skip
    assert "-J 1-3" in head(made(system="pbs", chain=Chain(1, 3)))


def test_the_directives_of_torque():
    job = made(system="torque", **ALL)
    assert "-l nodes=2:ppn=64:gpus=4" in head(job)
    assert "-t 1-3" in head(made(system="torque", chain=Chain(1, 3)))


def test_the_directives_of_lsf():
    assert head(made(system="lsf", **ALL)) == [
        "-J s", "-n 8", '-R "span[ptile=4] affinity[core(16)]"', "-W 4:00", '-gpu "num=4"', "-r",
        "-o /w/s/jobs/1/%J.log", "-q gpu", "-P p1", "-x y",
    ]  # fmt: skip
    array = head(made(system="lsf", chain=Chain(1, 3)))
    assert array[0] == '-J "s[1-3]"'
    assert "-o /w/s/jobs/1/%J[%I].log" in array


def test_a_rank_has_a_gpu_and_its_share_of_the_cores():
    """Fewer ranks than a node has GPUs take as many GPUs as they are."""
    job = made(ranks=2, nodes=1, **ALL)
    assert {"--gpus-per-node=2", "--cpus-per-task=32", "--ntasks-per-node=2"} <= set(head(job))


def test_chains_are_no_arrays():
    """Each of their jobs waits for one of its own."""
    assert not any("array" in line for line in head(made(chain=Chain(3, 2))))


@pytest.mark.parametrize(
    ("launcher", "command"),
    [
        ({}, "atoll search /w/s.yaml --continue &"),
        (
            {"launcher": "srun", "launcher_options": ["--mpi=pmix", "a b"], "cores_per_node": 64},
            "srun --nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=16 --cpu-bind=cores --kill-on-bad-exit=1 "
            "--mpi=pmix 'a b' atoll search /w/s.yaml --continue &",
        ),
        (
            {"launcher": "mpiexec", "launcher_options": ["--map-by", "ppr:4:node"]},
            "mpiexec -n 8 --map-by ppr:4:node atoll search /w/s.yaml --continue &",
        ),
    ],
)
def test_what_starts_the_ranks(launcher, command):
    assert command in map(str.strip, script(made(**launcher)).splitlines())


def test_options_of_the_mpiexec_that_atoll_starts():
    lines = script(made(launcher_options=["--bind-to", "core"])).splitlines()
    assert "export ATOLL_MPIEXEC='mpiexec --bind-to core'" in lines


@pytest.mark.parametrize("system", ["slurm", "pbs", "torque", "lsf"])
def test_a_path_that_no_directive_can_hold_is_refused(system):
    with pytest.raises(BatchError, match="without quotes, backslashes and dollars"):
        script(made(folder=Path('/w/"x/jobs/1'), system=system))


def test_a_percent_sign_in_slurms_file_name_stays_one():
    assert '--output="/w/100%% sure/jobs/1/%j.log"' in head(made(folder=Path("/w/100% sure/jobs/1")))


def test_nodes_and_ranks():
    study = Study.model_validate(
        {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 4, "topology": {"workers": 3, "ranks": 2}}
    )
    cluster = Cluster(**CLUSTER)
    assert spread(study, cluster, None) == (3, 2)
    assert spread(study, cluster, 4) == (4, 2)
    assert spread(study, cluster, 6) == (6, 1)
    for nodes in (2, 7):
        with pytest.raises(BatchError, match=f"between 3 and 6 for the study's 6 ranks .*; got {nodes}"):
            spread(study, cluster, nodes)
    with pytest.raises(BatchError, match="has no section `batch`"):
        batch_of(cluster)
    for too_few, said in (({"gpus_per_node": 1}, "got 1 GPU for"), ({"cores_per_node": 1}, "got 1 core for")):
        with pytest.raises(BatchError, match=said):
            batch_of(Cluster(**CLUSTER, batch={"system": "slurm"} | too_few))
    with pytest.raises(BatchError, match=r"longer than batch.stop_seconds .*got 60 s and 120 s"):
        limit(made().batch, "60s")
    for chain in ((0, 1), (1, 0), (1001, 1), (100, 100)):
        with pytest.raises(BatchError, match="must be"):
            Chain(*chain)


def submitted_by_hand(job, folder):
    """Makes the submission's folder, and returns the script's file."""
    from atoll.platform.batch.records import Meta, Submission

    job.folder.mkdir(parents=True)
    Submission(job.folder).write(Meta("s", str(folder), job.batch.system, 1, 1), script(job))
    return Submission(job.folder)


@pytest.mark.process
@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_everything_is_quoted(tmp_path, system):
    """bash passes on the study's file, values of variables and folders as they are, and runs nothing that they name."""
    working = tmp_path / NASTY.replace("/", "")
    working.mkdir()
    venv = with_double(tmp_path, f'echo "$2|$X|$PWD" >{tmp_path}/said; echo $ATOLL_WALLTIME >{tmp_path}/left; exit 75')
    folder = tmp_path / "x y" / "jobs" / "1"
    job = made(
        folder=folder, system=system, venv=venv, environment={"X": NASTY}, directory=working, study=f"/w/{NASTY}.yaml"
    )
    submission = submitted_by_hand(job, tmp_path)
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "PBS_JOBID": "7[1].server"}
    done = subprocess.run(["bash", str(submission.script)], cwd=tmp_path, env=os.environ | variables, timeout=60)
    assert done.returncode == 75
    assert (tmp_path / "said").read_text() == f"/w/{NASTY}.yaml|{NASTY}|{working}\n"
    assert not list(tmp_path.rglob("owned"))
    ((name, runs),) = submission.runs().items()
    assert name == {"slurm": "7_1", "pbs": "7[1].server"}[system]
    assert runs[1].code == 75
    assert submission.script.stat().st_mode & 0o777 == 0o700
    left = (tmp_path / "left").read_text().strip()
    assert left == "" if system == "slurm" else 14300 < int(left) <= 14400  # Slurm tells it by itself


@pytest.mark.process
def test_a_signal_reaches_the_search_and_its_code_the_batch_system(tmp_path):
    """Also a second one while the search ends."""
    venv = with_double(
        tmp_path, "trap 'echo >>asked' USR1; touch running; until [ $(wc -l <asked) = 2 ]; do sleep 0.05; done; exit 75"
    )
    (tmp_path / "asked").touch()
    submission = submitted_by_hand(made(folder=tmp_path / "jobs/1", venv=venv, directory=tmp_path), tmp_path)
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    job = subprocess.Popen(["bash", str(submission.script)], env=os.environ | variables)
    wait_until((tmp_path / "running").exists)
    for number, sent in ((1, signal.SIGUSR1), (2, signal.SIGTERM)):
        job.send_signal(sent)
        wait_until(lambda number=number: (tmp_path / "asked").read_text() == "\n" * number)
    assert job.wait(20) == 75
    assert submission.runs()["7_1"][1].code == 75


@pytest.mark.process
def test_a_job_that_is_asked_to_stop_before_its_search_starts_none(tmp_path):
    venv = with_double(tmp_path, "exit 0")
    job = made(folder=tmp_path / "jobs/1", venv=venv, directory=tmp_path)
    submission = submitted_by_hand(job, tmp_path)
    asking = submission.script.read_text().replace("atoll job start", "kill -USR1 $$; atoll job start")
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    assert subprocess.run(["bash", "-c", asking], env=os.environ | variables, timeout=60).returncode == 75
    assert not (tmp_path / "searched").exists()
    assert submission.runs()["7_1"][1].code == 75


@pytest.mark.process
def test_a_signal_while_the_search_is_being_started_reaches_it(tmp_path):
    venv = with_double(tmp_path, "trap 'exit 75' USR1; while true; do sleep 0.05; done")
    job = made(folder=tmp_path / "jobs/1", venv=venv, directory=tmp_path)
    submission = submitted_by_hand(job, tmp_path)
    until_it_runs = "until [ -e searched ]; do sleep 0.05; done; sleep 0.2"
    asking = submission.script.read_text().replace("search=$!", f"{until_it_runs}; kill -USR1 $$; search=$!")
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    assert subprocess.run(["bash", "-c", asking], env=os.environ | variables, timeout=30).returncode == 75


@pytest.mark.process
def test_where_the_system_sends_no_signal_the_script_does(tmp_path):
    """And nothing of it is left when the search ends by itself."""
    venv = with_double(
        tmp_path, "trap 'exit 75' USR1; touch running; [ -e short ] && exit; while true; do sleep 0.05; done"
    )
    job = made(folder=tmp_path / "jobs/1", venv=venv, directory=tmp_path, system="pbs", stop_seconds=14398)
    submission = submitted_by_hand(job, tmp_path)
    assert "sleep 2 &" in submission.script.read_text()
    environment = os.environ | {"PBS_JOBID": "7[1].server"}
    assert subprocess.run(["bash", str(submission.script)], env=environment, timeout=20).returncode == 75
    (tmp_path / "short").touch()
    submission.script.write_text(submission.script.read_text().replace("sleep 2 &", "sleep 2345 &"))
    assert subprocess.run(["bash", str(submission.script)], env=environment, timeout=20).returncode == 0
    time.sleep(0.2)
    assert "sleep\0002345" not in "".join(
        path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()
    )
