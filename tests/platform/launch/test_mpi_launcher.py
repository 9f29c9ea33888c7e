"""Which command starts the ranks, and what they get in their environment."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
import ranks

from atoll.communication.mpi_library import short_name
from atoll.platform.launch import mpi_launcher
from atoll.platform.launch.errors import LaunchError
from atoll.platform.launch.job_variables import is_rank_variable, rank_environment, without_rank_variables
from atoll.platform.launch.mpi_launcher import Library, choose
from atoll.platform.study.study import Study
from atoll.storage.yamlfile import validate


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Makes programs in folders of tmp_path; the PATH has `bin` only, and no MPI library can be loaded."""

    def make(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch(0o755)
        return tmp_path

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("ATOLL_MPIEXEC", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(mpi_launcher, "library", lambda: Library(error="none"))
    return make


def loaded(monkeypatch, file, name="Some MPI 1.0"):
    monkeypatch.setattr(mpi_launcher, "library", lambda: Library(name, str(file)))


def test_the_command_of_the_environment_comes_before_that_of_the_study(programs, monkeypatch):
    programs("bin/srun", "bin/mpiexec")
    monkeypatch.setenv("ATOLL_MPIEXEC", "srun --mpi=pmix --cpu-bind='map_cpu:0,1' -x 'A B'")
    found = choose("mpiexec -x C")
    assert found.command == ("srun", "--mpi=pmix", "--cpu-bind=map_cpu:0,1", "-x", "A B")
    assert found.reason == "ATOLL_MPIEXEC says so"
    monkeypatch.delenv("ATOLL_MPIEXEC")
    assert choose("mpiexec -x C").command == ("mpiexec", "-x", "C")
    assert choose("mpiexec -x C").reason == "the study's launcher says so"


def test_a_blank_in_the_path_of_a_file_separates_nothing(programs, monkeypatch):
    path = str(programs("my mpi/mpiexec") / "my mpi" / "mpiexec")
    monkeypatch.setenv("ATOLL_MPIEXEC", path)
    assert choose().command == (path,)
    monkeypatch.setenv("ATOLL_MPIEXEC", shlex.join([path, "-hosts", "a,b"]))
    assert choose().command == (path, "-hosts", "a,b")


@pytest.mark.parametrize(
    "library", ["lib/libmpi.so.40", "lib64/release/libmpi.so.12", "lib/x86_64-linux-gnu/libmpi.so"]
)
def test_the_mpiexec_of_the_library_that_mpi4py_loads_comes_before_that_of_the_path(programs, monkeypatch, library):
    folder = programs("bin/mpiexec", "opt/site/bin/mpiexec", f"opt/site/{library}")
    loaded(monkeypatch, folder / "opt" / "site" / library)
    found = choose()
    assert found.command == (str(folder / "opt/site/bin/mpiexec"),)
    assert found.reason == f"it belongs to Some MPI 1.0 in {folder}/opt/site/{library}, which mpi4py loads"


def test_otherwise_it_is_the_first_one_on_the_path(programs, monkeypatch):
    """As Cray's library, whose launcher is elsewhere."""
    folder = programs("bin/mpiexec", "bin/mpirun", "a/b/c/d/e/f/g/libmpi_gnu.so")
    loaded(monkeypatch, folder / "a/b/c/d/e/f/g/libmpi_gnu.so")
    found = choose()
    assert (found.command, found.reason) == ((str(folder / "bin/mpiexec"),), "it is the first mpiexec on the PATH")
    (folder / "bin/mpiexec").unlink()
    assert choose().command == (str(folder / "bin/mpirun"),)


def test_in_a_job_of_slurm_without_mpiexec_it_is_srun(programs, monkeypatch):
    folder = programs("bin/srun")
    with pytest.raises(LaunchError, match="mpiexec must be in the folder of the MPI library"):
        choose()  # outside of a job srun would ask for one
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert choose().command == (str(folder / "bin/srun"),)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("mpiexec -n 4", "must not give the number of ranks, .* got -n in 'mpiexec -n 4'"),
        ("srun --ntasks=4", "must not give the number of ranks, .* got --ntasks=4"),
        ("mpiexec 'a", r"must be a command as in a shell; got \"mpiexec 'a\": No closing quotation"),
        (" ", "must be a command, such as `srun --mpi=pmix`; got ' '"),
        ("mpirum -x A", "must name a program that can be started; got 'mpirum', which cannot be found"),
    ],
)
def test_what_cannot_be_a_launcher_is_refused(programs, monkeypatch, command, message):
    programs("bin/mpiexec", "bin/srun")
    monkeypatch.setenv("ATOLL_MPIEXEC", command)
    with pytest.raises(LaunchError, match=f"^ATOLL_MPIEXEC {message}"):
        choose()


def study(folder, launcher, **context):
    content = {"name": "s", "method": "ddp", "workload": "digits_mlp", "launcher": launcher}
    return validate(content, Study, source="s.yaml", folder=folder, **context)


def test_a_study_starts_programs_of_its_folder_only_unless_it_is_trusted(programs, monkeypatch):
    folder = programs("bin/mpiexec", "studies/start.sh")
    assert study(folder / "studies", "./start.sh -x A").launcher == f"{folder}/studies/start.sh -x A"
    assert study(folder / "studies", "./start.sh -x A", inside=True).launcher == f"{folder}/studies/start.sh -x A"
    assert study(folder / "studies", "mpiexec -x A").launcher == "mpiexec -x A"
    with pytest.raises(Exception, match="program must lie in the study file's folder, as all its code; got 'mpiexec'"):
        study(folder / "studies", "mpiexec -x A", inside=True)
    with pytest.raises(Exception, match="launcher must not give the number of ranks"):
        study(folder / "studies", "mpiexec -n 4")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MPICH Version:      5.0.2\nMPICH Release date: Fri Sep 25\n", "MPICH 5.0.2"),
        ("Open MPI v5.0.11, package: Open MPI user@localhost Distribution, ident: 5.0.11", "Open MPI 5.0.11"),
        ("Intel(R) MPI Library 2021.11 for Linux* OS\n\0", "Intel(R) MPI Library 2021.11 for Linux* OS"),
        (
            "MPI VERSION    : CRAY MPICH version 8.1.25.17 (ANL base 3.4a2)\nMPI BUILD INFO",
            "CRAY MPICH version 8.1.25.17",
        ),
    ],
)
def test_libraries_have_short_names(text, name):
    assert short_name(text) == name


OF_JOBS = """
PMI_RANK PMI_SIZE PMI_FD HYDI_CONTROL_FD MPI_LOCALRANKID MPI_LOCALNRANKS OMPI_COMM_WORLD_RANK
OMPI_UNIVERSE_SIZE OMPI_APP_CTX_NUM_PROCS OMPI_MCA_ess_base_jobid OMPI_MCA_orte_hnp_uri PMIX_RANK
PMIX_NAMESPACE PMIX_SERVER_URI41 SLURM_PROCID SLURM_STEP_ID SLURM_STEPID SLURM_LOCALID PALS_RANKID
"""
OF_USERS = """
OMPI_MCA_btl OMPI_MCA_orte_base_help_aggregate OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM
PMIX_MCA_gds PRTE_MCA_plm_ssh_agent OPAL_PREFIX HYDRA_HOST_FILE HYDRA_LAUNCHER MPIR_CVAR_NOLOCAL
PMI_MAX_KVS_ENTRIES I_MPI_FABRICS I_MPI_PIN FI_PROVIDER UCX_TLS SLURM_JOB_ID SLURM_NODELIST SLURM_CPU_BIND
SLURM_MPI_TYPE SLURM_PMIX_DIRECT_CONN PALS_PMI
"""


def test_variables_of_a_job_are_told_from_the_users_settings():
    assert [name for name in OF_JOBS.split() if not is_rank_variable(name)] == []
    assert [name for name in OF_USERS.split() if is_rank_variable(name)] == []


def test_defaults_give_way_to_the_users_settings(monkeypatch):
    monkeypatch.setenv("PRTE_MCA_rmaps_default_mapping_policy", "core")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = rank_environment()
    assert (found["PRTE_MCA_rmaps_default_mapping_policy"], found["OMP_NUM_THREADS"]) == ("core", "3")
    assert found["SLURM_KILL_BAD_EXIT"] == "1"


# Rank 0 starts a job of its own with what is left of its environment, as an MPI library of its own would.
NESTED = """
import json, os, subprocess, sys
from mpi4py import MPI
from atoll.platform.launch.job_variables import without_rank_variables
from atoll.platform.launch.mpi_launcher import choose
comm = MPI.COMM_WORLD
if comm.rank == 0:
    program = "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"
    line = [*choose().command, "-n", "3", sys.executable, "-c", program]
    done = subprocess.run(line, capture_output=True, text=True, env=without_rank_variables())
    sizes = "".join(done.stdout.split())
    print(json.dumps([done.returncode, sizes, done.stderr, sorted(without_rank_variables())]), flush=True)
comm.Barrier()
"""


@pytest.mark.mpi
@pytest.mark.parametrize("mpi", ["mpich", pytest.param("openmpi", marks=pytest.mark.long)], indirect=True)
def test_a_process_of_a_rank_starts_a_job_of_its_own_with_the_users_settings(mpi, monkeypatch):
    for name in OF_USERS.split():
        if name.startswith(("OMPI_MCA_orte", "MPIR", "PMI_MAX", "SLURM_CPU")):
            monkeypatch.setenv(name, "0")
    before = set(os.environ)
    done = ranks.mpiexec(2, "-c", NESTED)
    assert done.returncode == 0, done.stderr
    code, sizes, errors, names = json.loads(done.stdout.splitlines()[-1])
    assert (code, sizes) == (0, "333"), errors
    assert before - {"PWD", "OLDPWD", "_", "SHLVL"} <= set(names)


@pytest.mark.mpi
@pytest.mark.parametrize("mpi", ["mpich", pytest.param("openmpi", marks=pytest.mark.long)], indirect=True)
def test_the_library_that_is_loaded_and_its_mpiexec(mpi, monkeypatch):
    given = os.environ.get("ATOLL_MPIEXEC")
    monkeypatch.delenv("ATOLL_MPIEXEC", raising=False)
    found = mpi_launcher.library()
    assert found.name.startswith({"mpich": "MPICH ", "openmpi": "Open MPI "}[mpi])
    assert "libmpi" in Path(found.file).name
    assert choose().command == (given or str(Path(sys.prefix) / "bin" / "mpiexec"),)
    assert "which mpi4py loads" in choose().reason


@pytest.mark.process
def test_a_library_that_cannot_be_loaded_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("MPI4PY_LIBMPI", str(tmp_path / "libmpi.so"))
    found = mpi_launcher.library()
    assert found.name is None
    assert "libmpi.so" in found.error
    assert without_rank_variables()["MPI4PY_LIBMPI"] == str(tmp_path / "libmpi.so")
